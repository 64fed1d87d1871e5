//! What others hung on the hooks of this network namespace, and whether it takes packets away. Reads;
//! changes nothing, and judges only what it can read.
//!
//! An accept in one base chain ends that chain alone: a later one of the same hook is asked all the
//! same, and a drop is final (nft(8), "Verdicts"). So no rule of ours can let through what a chain of
//! somebody else drops.

mod evaluate;
mod legacy;
mod packet;
mod rule;
mod sets;
#[cfg(test)]
mod tests;
mod text;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use netlink_sys::protocols::NETLINK_NETFILTER;

pub use self::legacy::LEGACY;
pub use self::packet::Packet;
pub use self::rule::Rule;
use self::rule::Step;
use self::sets::AllSets;
pub use self::walk::{By, How, Passage, Taken};
use super::encode::{Request, message};
use super::observe::Attributes;
use super::{Error, TABLE};
use crate::apply::netlink::{self, NetlinkSocket};
use crate::model::family::Family;

/// `NFPROTO_UNSPEC`: tables of every family.
const ANY: u8 = 0;
/// `NFPROTO_…`
const FAMILIES: [(u8, &str); 6] = [
    (7, "bridge"),
    (1, "inet"),
    (2, "ip"),
    (10, "ip6"),
    (3, "arp"),
    (5, "netdev"),
];

/// Where a chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As it comes from an interface.
    Ingress,
    /// Before it is routed.
    Prerouting,
    /// Packets for this node itself, virtual servers of IPVS among them.
    Input,
    /// Packets that go through, translated ones among them.
    Forward,
    /// Packets of this node itself, those that IPVS sends on among them.
    Output,
    Postrouting,
    /// As it goes out by an interface.
    Egress,
}

impl Hook {
    /// As nft writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Egress => "egress",
        }
    }

    /// The numbers of ARP and of single interfaces are others than those of IP.
    fn of(family: &str, number: u32) -> Option<Self> {
        let all = match family {
            "netdev" => [(0, Self::Ingress), (1, Self::Egress)].as_slice(),
            "arp" => &[(0, Self::Input), (1, Self::Output)],
            // As it comes, for the host itself, and as it goes.
            "bridge" => &[(0, Self::Ingress), (1, Self::Ingress), (3, Self::Egress)],
            _ => &[
                (0, Self::Prerouting),
                (1, Self::Input),
                (2, Self::Forward),
                (3, Self::Output),
                (4, Self::Postrouting),
                (5, Self::Ingress),
            ],
        };
        let mut all = all.iter();
        all.find(|(known, _)| *known == number)
            .map(|(_, hook)| *hook)
    }
}

/// A chain by its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// `ip`, `ip6`, `inet`, `arp`, `bridge` or `netdev`.
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

    /// Whether it is asked for such packets.
    fn sees(&self, family: Family, arp: bool) -> bool {
        match self.family {
            "netdev" | "bridge" => true,
            "arp" => arp,
            _ if arp => false,
            "ip" => family == Family::V4,
            "ip6" => family == Family::V6,
            _ => true,
        }
    }

    /// `NFPROTO_…`
    fn number(&self) -> u8 {
        let number = FAMILIES.iter().find(|(_, name)| *name == self.family);
        number.map_or(ANY, |(number, _)| *number)
    }
}

/// A chain on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    name: ChainName,
    hook: Hook,
    priority: i32,
    /// Its policy.
    drops: bool,
    /// Of a chain of single interfaces.
    interfaces: Vec<String>,
}

impl Base {
    fn is_on(&self, packet: &Packet) -> bool {
        let link = match self.hook {
            Hook::Egress => &packet.leaves_by,
            _ => &packet.comes_by,
        };
        if self.name.family == "bridge" {
            return packet.bridged;
        }
        let here = |(_, name): &(u32, String)| self.interfaces.contains(name);
        self.interfaces.is_empty() || link.as_ref().is_some_and(here)
    }
}

/// What others have in `nf_tables`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Others {
    /// By priority, of each hook.
    bases: Vec<Base>,
    rules: BTreeMap<ChainName, Vec<Rule>>,
    sets: AllSets,
    /// Every chain of every other table that has routed packets.
    pub chains: BTreeSet<ChainName>,
    /// Whether our own table is there.
    pub has_ours: bool,
}

/// Reads the tables of all others.
pub fn others() -> Result<Others, Error> {
    let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(Error::NotAvailable)?;
    let mut found = Others::default();
    for payload in dump(&mut socket, message::GET_CHAIN)? {
        let Some((name, attributes)) = chain(&payload, 3)? else {
            continue;
        };
        if name.is_ours() {
            found.has_ours |= name.family == "inet";
            continue;
        }
        found.bases.extend(base(&name, &attributes)?);
        if name.is_routed() {
            found.chains.insert(name);
        }
    }
    found.bases.sort_by_key(|base| (base.hook, base.priority));
    let request = Request::of_family(message::GET_RULE, 0, ANY);
    // Taken apart as it comes: others may have very many rules.
    let begin = || Ok(BTreeMap::<ChainName, Vec<Rule>>::new());
    let read = socket.dump_into(request.as_ref(), begin, |read, reply| {
        if let Ok(known) = read
            && let Err(error) = take_rule(known, &reply.payload)
        {
            *read = Err(error);
        }
    });
    found.rules = read.map_err(Error::Observe)??;
    let mut asked = BTreeSet::new();
    for (name, rules) in &found.rules {
        for step in rules.iter().flat_map(|rule| &rule.steps) {
            if let Step::In(_, set, _) | Step::VerdictMap(_, set) = step {
                asked.insert((name.number(), name.table.clone(), set.clone()));
            }
        }
    }
    for key in asked {
        // One that went meanwhile, or cannot be read, may hold anything.
        if let Ok(set) = sets::read(&mut socket, key.0, &key.1, &key.2) {
            found.sets.insert(key, set);
        }
    }
    Ok(found)
}

impl Others {
    /// A rule as nft would write it, as far as it is understood.
    pub fn text(&self, chain: &ChainName, handle: u64) -> Option<String> {
        let rules = self.rules.get(chain)?;
        let rule = rules.iter().find(|rule| rule.handle == handle)?;
        Some(text::of(rule))
    }
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
    let number = payload.first();
    let Some((_, family)) = FAMILIES.iter().find(|(it, _)| Some(it) == number) else {
        return Ok(None);
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

/// `NFTA_CHAIN_HOOK` 4 with `NFTA_HOOK_HOOKNUM` 1, `NFTA_HOOK_PRIORITY` 2, `NFTA_HOOK_DEV` 3,
/// `NFTA_HOOK_DEVS` 4; `NFTA_CHAIN_POLICY` 5
fn base(name: &ChainName, chain: &Attributes<'_>) -> Result<Option<Base>, Error> {
    let Some(hook) = chain.nested(4) else {
        return Ok(None);
    };
    let place = hook.number(1).and_then(|it| Hook::of(name.family, it));
    let (Some(place), Some(priority)) = (place, hook.number(2)) else {
        return Ok(None);
    };
    let mut interfaces: Vec<String> = hook.string(3)?.map(str::to_owned).into_iter().collect();
    for (_, interface) in hook.nested(4).iter().flat_map(Attributes::iter) {
        let end = interface
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        interfaces.push(String::from_utf8_lossy(end).into_owned());
    }
    Ok(Some(Base {
        name: name.clone(),
        hook: place,
        priority: priority.cast_signed(),
        drops: chain.number(5) == Some(0),
        interfaces,
    }))
}

/// `NFTA_RULE_CHAIN` 2. Rules come in their order.
fn take_rule(read: &mut BTreeMap<ChainName, Vec<Rule>>, payload: &[u8]) -> Result<(), Error> {
    let Some((name, attributes)) = chain(payload, 2)? else {
        return Ok(());
    };
    if !name.is_ours() {
        let rule = Rule::of(&attributes)?;
        read.entry(name).or_default().push(rule);
    }
    Ok(())
}
