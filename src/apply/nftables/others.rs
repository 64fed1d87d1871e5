//! What others hung on the hooks of this network namespace: base chains that drop what they do not
//! know. Reads; changes nothing, and judges only what it can read.
//!
//! An accept in one base chain ends that chain alone: a later one of the same hook is asked all the
//! same, and a drop is final (nft(8), "Verdicts"). So no rule of ours can let through what a chain of
//! somebody else drops.

use std::collections::{BTreeMap, BTreeSet};

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::encode::{Request, message};
use super::observe::Attributes;
use super::restriction::{Reader, Restriction};
use super::{Error, TABLE};
use crate::apply::netlink::{self, NetlinkSocket};

/// `NFPROTO_UNSPEC`: tables of every family.
const ANY: u8 = 0;
/// `IPS_DST_NAT`
const TRANSLATED: u32 = 1 << 5;
/// `NFT_CT_STATUS`
const CT_STATUS: u32 = 2;

/// The hooks on which a filter can stand in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Packets for this node itself, virtual servers of IPVS among them.
    Input,
    /// Packets that go through, translated ones among them.
    Forward,
}

impl Hook {
    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Forward => "forward",
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Input),
            2 => Some(Self::Forward),
            _ => None,
        }
    }
}

/// A chain by its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// `ip`, `ip6`, `inet`, `arp` or `netdev`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
}

impl ChainName {
    fn is_ours(&self) -> bool {
        self.table == TABLE
    }

    /// Whether packets that are routed go through it.
    pub fn is_routed(&self) -> bool {
        matches!(self.family, "inet" | "ip" | "ip6")
    }
}

/// A base chain that drops what none of its rules lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropping {
    pub name: ChainName,
    pub hook: Hook,
    pub priority: i32,
    /// Whether that is its policy, and not its last rule.
    pub by_policy: bool,
    /// A rule that lets every translated connection through (`ct status dnat accept`).
    pub lets_translated: bool,
    /// Whether it has other rules that accept, or jump to where that may be.
    pub lets_some: bool,
}

/// A rule of somebody else, in whatever chain, that takes packets away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taking {
    pub name: ChainName,
    /// Which.
    pub what: Restriction,
}

/// What others have in `nf_tables`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// Chains in the way.
    pub dropping: Vec<Dropping>,
    /// Chains on other hooks (prerouting, output, those of ARP and of single interfaces) that drop what
    /// none of their rules lets through.
    pub dropping_elsewhere: BTreeSet<ChainName>,
    /// Every chain of every other table that has routed packets.
    pub chains: BTreeSet<ChainName>,
    /// Rules that drop some ports or some destinations.
    pub refusing: Vec<Taking>,
    /// Rules that keep packets from connection tracking.
    pub untracking: Vec<Taking>,
    /// Whether our own table is there.
    pub has_ours: bool,
}

/// The most rules of a kind that are kept: enough to tell that there are such.
const MOST_RULES: usize = 256;

/// Reads the tables of all others.
pub fn others() -> Result<Others, Error> {
    let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(Error::NotAvailable)?;
    let mut found = Others::default();
    let mut bases = BTreeMap::new();
    for payload in dump(&mut socket, message::GET_CHAIN)? {
        let Some((name, attributes)) = chain(&payload, 3)? else {
            continue;
        };
        if name.is_ours() {
            found.has_ours |= name.family == "inet";
            continue;
        }
        if let Some(mut base) = base(&attributes) {
            // The hooks of ARP and of interfaces have other numbers.
            base.hook = base.hook.filter(|_| name.is_routed());
            bases.insert(name.clone(), base);
        }
        if name.is_routed() {
            found.chains.insert(name);
        }
    }
    let request = Request::of_family(message::GET_RULE, 0, ANY);
    // Taken apart as it comes: others may have very many rules.
    let begin = || {
        Ok(Read {
            bases: bases.clone(),
            ..Read::default()
        })
    };
    let read = socket.dump_into(request.as_ref(), begin, |read, reply| {
        if let Ok(known) = read
            && let Err(error) = take_rule(known, &reply.payload)
        {
            *read = Err(error);
        }
    });
    let read = read.map_err(Error::Observe)??;
    for (name, base) in read.bases {
        let by_policy = base.policy_drops;
        if !by_policy && !base.rules.end_with_drop {
            continue;
        }
        match base.hook {
            Some(hook) => found.dropping.push(Dropping {
                name,
                hook,
                priority: base.priority,
                by_policy,
                lets_translated: base.rules.let_translated,
                lets_some: base.rules.let_some,
            }),
            None => {
                found.dropping_elsewhere.insert(name);
            }
        }
    }
    found.refusing = read.refusing;
    found.untracking = read.untracking;
    Ok(found)
}

/// What was read of the rules so far.
#[derive(Debug, Default)]
struct Read {
    bases: BTreeMap<ChainName, Base>,
    refusing: Vec<Taking>,
    untracking: Vec<Taking>,
}

#[derive(Debug, Clone, Copy)]
struct Base {
    /// None on another hook than those.
    hook: Option<Hook>,
    priority: i32,
    policy_drops: bool,
    rules: Rules,
}

/// What the rules of a chain come to.
#[derive(Debug, Clone, Copy, Default)]
struct Rules {
    end_with_drop: bool,
    let_translated: bool,
    let_some: bool,
}

fn dump(socket: &mut NetlinkSocket, kind: u16) -> Result<Vec<Vec<u8>>, Error> {
    let request = Request::of_family(kind, 0, ANY);
    let replies = socket.dump(request.as_ref()).map_err(|error| match error {
        netlink::Error::Refused(_) => Error::NotAvailable(error),
        error => Error::Observe(error),
    })?;
    Ok(replies.into_iter().map(|reply| reply.payload).collect())
}

/// The chain that a message is about, by the attribute with its name, and its attributes; none where
/// it is of a family that nothing here goes through.
fn chain(payload: &[u8], name: u16) -> Result<Option<(ChainName, Attributes<'_>)>, Error> {
    let family = match payload.first() {
        Some(1) => "inet",
        Some(2) => "ip",
        Some(10) => "ip6",
        Some(3) => "arp",
        Some(5) => "netdev",
        _ => return Ok(None),
    };
    let attributes = Attributes::of(payload)?;
    let (Some(table), Some(chain)) = (attributes.string(1)?, attributes.string(name)?) else {
        return Err(Error::Malformed("a chain without a name"));
    };
    let name = ChainName {
        family,
        table: table.to_owned(),
        chain: chain.to_owned(),
    };
    Ok(Some((name, attributes)))
}

/// `NFTA_CHAIN_HOOK` 4, `NFTA_CHAIN_POLICY` 5, `NFTA_CHAIN_TYPE` 7
fn base(chain: &Attributes<'_>) -> Option<Base> {
    let hook = chain.nested(4)?;
    let routed = Hook::from_number(hook.number(1)?);
    Some(Base {
        hook: routed,
        priority: hook.number(2)?.cast_signed(),
        policy_drops: chain.number(5) == Some(0),
        rules: Rules::default(),
    })
    .filter(|_| matches!(chain.string(7), Ok(Some("filter"))))
}

/// `NFTA_RULE_CHAIN` 2, `NFTA_RULE_EXPRESSIONS` 4. Rules come in their order.
fn take_rule(read: &mut Read, payload: &[u8]) -> Result<(), Error> {
    let Some((name, attributes)) = chain(payload, 2)? else {
        return Ok(());
    };
    if name.is_ours() {
        return Ok(());
    }
    let rule = Rule::of(&attributes)?;
    let what = &rule.what;
    let taking = || Taking {
        name: name.clone(),
        what: what.clone(),
    };
    if rule.untracks && read.untracking.len() < MOST_RULES {
        read.untracking.push(taking());
    }
    let named = what.ports.is_some() || what.destination.is_some();
    if rule.verdict == Some(Verdict::Drop) && named && read.refusing.len() < MOST_RULES {
        read.refusing.push(taking());
    }
    let Some(base) = read.bases.get_mut(&name) else {
        return Ok(());
    };
    let rules = &mut base.rules;
    rules.end_with_drop = rule.verdict == Some(Verdict::Drop) && rule.unconditional;
    if rule.verdict == Some(Verdict::Let) {
        rules.let_translated |= rule.all_translated;
        rules.let_some |= !rule.all_translated;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Drop,
    /// Accepts, or goes on where that may be done.
    Let,
}

#[derive(Debug, Default)]
struct Rule {
    verdict: Option<Verdict>,
    /// It asks nothing.
    unconditional: bool,
    /// It asks whether the connection is translated, and nothing else.
    all_translated: bool,
    /// It keeps packets from connection tracking.
    untracks: bool,
    /// What it asks.
    what: Restriction,
}

impl Rule {
    fn of(attributes: &Attributes<'_>) -> Result<Self, Error> {
        let mut verdict = None;
        let mut questions = Vec::new();
        let mut untracks = false;
        let mut reader = Reader::new();
        for (_, expression) in attributes.nested(4).iter().flat_map(Attributes::iter) {
            let expression = Attributes::nest(expression);
            let name = expression.string(1)?.unwrap_or_default();
            let data = expression.nested(2);
            match name {
                // They ask nothing.
                "counter" | "log" | "last" | "quota" => {}
                "notrack" => untracks = true,
                "immediate" => {
                    let code = data.and_then(|it| it.nested(2)?.nested(2)?.number(1));
                    verdict = code.map(|code| match code.cast_signed() {
                        0 => Verdict::Drop,
                        _ => Verdict::Let,
                    });
                }
                "reject" => verdict = Some(Verdict::Drop),
                "target" => {
                    // Of iptables; LOG and its like end nothing.
                    let target = data
                        .as_ref()
                        .and_then(|it| it.string(1).ok().flatten().map(str::to_owned));
                    match target.as_deref() {
                        Some("REJECT") => verdict = Some(Verdict::Drop),
                        Some("NOTRACK") => untracks = true,
                        // XT_CT_NOTRACK is the first bit of `struct xt_ct_target_info`.
                        Some("CT") => {
                            let flags = data.as_ref().and_then(|it| it.get(3)?.first().copied());
                            untracks |= flags.is_some_and(|flags| flags & 1 != 0);
                        }
                        _ => {}
                    }
                }
                _ => {
                    reader.take(name, data.as_ref())?;
                    questions.push(question(name, data.as_ref()));
                }
            }
        }
        Ok(Self {
            verdict,
            untracks,
            what: reader.found(),
            unconditional: questions.is_empty(),
            all_translated: matches!(
                questions.as_slice(),
                [
                    Question::Status,
                    Question::OnlyTranslated,
                    Question::IsNotZero
                ] | [Question::TranslatedState]
            ),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Loads the status of the connection.
    Status,
    /// Keeps the bit of a translated destination.
    OnlyTranslated,
    IsNotZero,
    /// All of it in one, as iptables asks.
    TranslatedState,
    Another,
}

fn question(name: &str, data: Option<&Attributes<'_>>) -> Question {
    let Some(data) = data else {
        return Question::Another;
    };
    let value = |kind| data.nested(kind).and_then(|value| value.get(1));
    match name {
        "ct" if data.number(2) == Some(CT_STATUS) => Question::Status,
        "bitwise" if value(4) == Some(&TRANSLATED.to_ne_bytes()) => Question::OnlyTranslated,
        // NFT_CMP_NEQ
        "cmp" if data.number(2) == Some(1) && value(3) == Some(&[0; 4]) => Question::IsNotZero,
        "match" if is_translated_state(data) => Question::TranslatedState,
        _ => Question::Another,
    }
}

/// `-m conntrack --ctstate DNAT`: `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`) with
/// `XT_CONNTRACK_STATE` alone and `XT_CONNTRACK_STATE_DNAT`.
fn is_translated_state(data: &Attributes<'_>) -> bool {
    const FLAGS: usize = 146;
    let word = |information: &[u8], at: usize| {
        let bytes = information.get(at..at + 2)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    let named = matches!(data.string(1), Ok(Some("conntrack")));
    data.get(3).filter(|_| named).is_some_and(|information| {
        word(information, FLAGS) == Some(1)
            && word(information, FLAGS + 2) == Some(0)
            && word(information, FLAGS + 4).is_some_and(|states| states & (1 << 7) != 0)
    })
}
