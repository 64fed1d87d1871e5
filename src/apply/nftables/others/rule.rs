//! What a rule of somebody else does, step by step, as far as it can be read. Decides nothing; what is not
//! understood is a step of its own, which may hold or not.

use super::super::Error;
use super::super::observe::Attributes;

/// A register file is 64 octets: `NFT_REG_1` to `NFT_REG_4` of 16 each, or `NFT_REG32_00` to `_15` of four.
const OLD_REGISTERS: std::ops::RangeInclusive<u32> = 1..=4;
const REGISTERS: std::ops::RangeInclusive<u32> = 8..=23;

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// By which `nft delete rule` knows it.
    pub handle: u64,
    pub(super) steps: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Puts something at this octet of the registers.
    Load(usize, Load),
    /// Puts something there that cannot be read; all registers are unknown from then on.
    Forget,
    /// From, to, mask, exclusive or.
    Mask(usize, usize, Vec<u8>, Vec<u8>),
    /// `enum nft_cmp_ops`
    Compare(usize, u32, Vec<u8>),
    /// Whether it is outside, first, last.
    Range(usize, bool, Vec<u8>, Vec<u8>),
    /// Set, whether it holds where the key is not in it.
    In(usize, String, bool),
    /// Map of verdicts.
    VerdictMap(usize, String),
    /// A match of iptables.
    Match(Match),
    /// It may hold or not; the name of the expression.
    Perhaps(String),
    Verdict(Verdict),
    /// Keeps packets from connection tracking.
    Untrack,
    /// Translates the first packet of a connection, and ends the chain.
    Translate(Translation),
}

/// What a connection gets another one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Translation {
    Destination,
    Source,
}

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Base (`enum nft_payload_bases`), offset, length.
    Payload(u32, usize, usize),
    /// `enum nft_meta_keys`
    Meta(u32),
    /// `enum nft_ct_keys`, direction.
    Conntrack(u32, Option<u8>),
    /// Result and flags.
    Route(u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Jump(String),
    Goto(String),
    Return,
}

/// A match of iptables (`linux/netfilter/xt_*.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Match {
    /// Protocol, ranges of source and destination ports, TCP flags looked at and wanted, inversions of
    /// source, destination and flags.
    Ports {
        protocol: u8,
        source: (u16, u16),
        destination: (u16, u16),
        flags: (u8, u8),
        inverted: (bool, bool, bool),
    },
    /// Destination or either side; ranges.
    Multiport {
        source: bool,
        destination: bool,
        ranges: Vec<(u16, u16)>,
        inverted: bool,
    },
    /// `struct xt_conntrack_mtinfo3`
    Conntrack(Vec<u8>),
    /// Whether the destination is an address of this node; inverted.
    Local(bool),
    /// A set of ipset; whether it asks for the destination.
    Set(bool),
    /// It asks nothing.
    Comment,
    Unknown(String),
}

impl Rule {
    /// `NFTA_RULE_HANDLE` 3, `NFTA_RULE_EXPRESSIONS` 4
    pub(super) fn of(attributes: &Attributes<'_>) -> Result<Self, Error> {
        let handle = (attributes.get(3))
            .and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)))
            .unwrap_or_default();
        let mut steps = Vec::new();
        for (_, expression) in attributes.nested(4).iter().flat_map(Attributes::iter) {
            let expression = Attributes::nest(expression);
            let name = expression.string(1)?.unwrap_or_default();
            let data = expression.nested(2);
            match &data {
                Some(data) => steps.extend(step(name, data)?),
                None => steps.extend(without_data(name)),
            }
        }
        Ok(Self { handle, steps })
    }
}

fn without_data(name: &str) -> Option<Step> {
    match name {
        "notrack" => Some(Step::Untrack),
        "counter" | "log" | "last" => None,
        "reject" => Some(Step::Verdict(Verdict::Drop)),
        "masq" => Some(Step::Translate(Translation::Source)),
        "redir" | "tproxy" => Some(Step::Translate(Translation::Destination)),
        _ => Some(Step::Perhaps(name.to_owned())),
    }
}

fn register(number: Option<u32>) -> Option<usize> {
    let number = number?;
    let at = if OLD_REGISTERS.contains(&number) {
        (number - 1) * 16
    } else if REGISTERS.contains(&number) {
        (number - 8) * 4
    } else {
        return None;
    };
    usize::try_from(at).ok()
}

fn value(data: &Attributes<'_>, kind: u16) -> Option<Vec<u8>> {
    Some(data.nested(kind)?.get(1)?.to_vec())
}

/// The step of an expression; none where it asks nothing.
fn step(name: &str, data: &Attributes<'_>) -> Result<Option<Step>, Error> {
    let at = |kind| register(data.number(kind));
    let size = |kind| usize::try_from(data.number(kind).unwrap_or(u32::MAX)).unwrap_or(usize::MAX);
    let unknown = || Some(Step::Perhaps(name.to_owned()));
    Ok(match name {
        // They ask nothing, or change what nothing here looks at.
        "counter" | "log" | "last" | "objref" | "dup" => None,
        "masq" => Some(Step::Translate(Translation::Source)),
        "redir" | "tproxy" => Some(Step::Translate(Translation::Destination)),
        // NFTA_NAT_TYPE 1: NFT_NAT_SNAT is 0.
        "nat" => Some(Step::Translate(match data.number(1) {
            Some(0) => Translation::Source,
            _ => Translation::Destination,
        })),
        "notrack" => Some(Step::Untrack),
        "reject" => Some(Step::Verdict(Verdict::Drop)),
        "immediate" if data.number(1) == Some(0) => {
            let verdict = data.nested(2).and_then(|it| it.nested(2));
            verdict
                .map_or_else(|| Ok(None), |it| self::verdict(&it))?
                .map(Step::Verdict)
        }
        // It sets something.
        "meta" | "ct" | "payload" if data.get(1).is_none() => None,
        "meta" => at(1)
            .zip(data.number(2))
            .map(|(at, key)| Step::Load(at, Load::Meta(key))),
        "ct" => {
            let direction = data.get(3).and_then(|it| it.first().copied());
            at(1)
                .zip(data.number(2))
                .map(|(at, key)| Step::Load(at, Load::Conntrack(key, direction)))
        }
        "payload" => at(1).map(|at| {
            let base = data.number(2).unwrap_or(u32::MAX);
            Step::Load(at, Load::Payload(base, size(3), size(4)))
        }),
        "fib" => at(1)
            .zip(data.number(2))
            .map(|(at, result)| Step::Load(at, Load::Route(result, data.number(3).unwrap_or(0)))),
        "bitwise" if data.number(6).unwrap_or(0) == 0 => {
            match (at(1), at(2), value(data, 4), value(data, 5)) {
                (Some(from), Some(to), Some(mask), Some(other)) => {
                    Some(Step::Mask(from, to, mask, other))
                }
                _ => Some(Step::Forget),
            }
        }
        "cmp" => match (at(1), data.number(2), value(data, 3)) {
            (Some(at), Some(operator), Some(value)) => Some(Step::Compare(at, operator, value)),
            _ => unknown(),
        },
        "range" => match (at(1), value(data, 3), value(data, 4)) {
            (Some(at), Some(first), Some(last)) => {
                Some(Step::Range(at, data.number(2) == Some(1), first, last))
            }
            _ => unknown(),
        },
        "lookup" => match (data.string(1)?, at(2)) {
            (Some(set), Some(from)) if data.get(3).is_none() => {
                let inverted = data.number(5).unwrap_or(0) & 1 != 0;
                Some(Step::In(from, set.to_owned(), inverted))
            }
            // NFT_REG_VERDICT is the destination of a map of verdicts.
            (Some(map), Some(from)) if data.number(3) == Some(0) => {
                Some(Step::VerdictMap(from, map.to_owned()))
            }
            _ => Some(Step::Forget),
        },
        "match" => Some(Step::Match(self::iptables(data)?)),
        "target" => target(data)?,
        "immediate" | "bitwise" | "byteorder" | "numgen" | "hash" | "rt" | "exthdr" | "socket"
        | "osf" | "tunnel" | "xfrm" | "symhash" => Some(Step::Forget),
        _ => unknown(),
    })
}

/// `NFTA_VERDICT_CODE` 1, `NFTA_VERDICT_CHAIN` 2
pub(super) fn verdict(data: &Attributes<'_>) -> Result<Option<Verdict>, Error> {
    let chain = || -> Result<String, Error> { Ok(data.string(2)?.unwrap_or_default().to_owned()) };
    Ok(match data.number(1).map(u32::cast_signed) {
        Some(0) => Some(Verdict::Drop),
        // What a program of the queue does nobody knows; it lets through as a rule.
        Some(1 | 3) => Some(Verdict::Accept),
        Some(-3) => Some(Verdict::Jump(chain()?)),
        Some(-4) => Some(Verdict::Goto(chain()?)),
        Some(-5) => Some(Verdict::Return),
        _ => None,
    })
}

/// `NFTA_TARGET_NAME` 1, `NFTA_TARGET_INFO` 3; LOG, MARK and their like end nothing.
fn target(data: &Attributes<'_>) -> Result<Option<Step>, Error> {
    Ok(match data.string(1)? {
        Some("REJECT" | "DROP" | "TARPIT" | "STEAL") => Some(Step::Verdict(Verdict::Drop)),
        Some("ACCEPT") => Some(Step::Verdict(Verdict::Accept)),
        Some("DNAT" | "REDIRECT" | "TPROXY") => Some(Step::Translate(Translation::Destination)),
        Some("SNAT" | "MASQUERADE") => Some(Step::Translate(Translation::Source)),
        Some("NOTRACK") => Some(Step::Untrack),
        // XT_CT_NOTRACK is the first bit of `struct xt_ct_target_info`.
        Some("CT") => {
            let flags = data.get(3).and_then(|it| it.first().copied());
            flags
                .is_some_and(|flags| flags & 1 != 0)
                .then_some(Step::Untrack)
        }
        _ => None,
    })
}

/// `NFTA_MATCH_NAME` 1, `NFTA_MATCH_INFO` 3
fn iptables(data: &Attributes<'_>) -> Result<Match, Error> {
    let name = data.string(1)?.unwrap_or_default();
    let information = data.get(3).unwrap_or_default();
    let read = match name {
        "comment" => Some(Match::Comment),
        "tcp" => ports(information, 6),
        "udp" => ports(information, 17),
        "multiport" => multiport(information),
        "addrtype" => local(information),
        "conntrack" if information.len() >= 150 => Some(Match::Conntrack(information.to_vec())),
        // `struct xt_set_info`: index, dim, flags; IPSET_DIM_ONE_SRC is the second bit.
        "set" => information.get(3).map(|flags| Match::Set(flags & 2 == 0)),
        _ => None,
    };
    Ok(read.unwrap_or_else(|| Match::Unknown(name.to_owned())))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// `struct xt_tcp` and `struct xt_udp`: ports, then of TCP an option, the flags looked at and wanted; at
/// last what is inverted.
fn ports(bytes: &[u8], protocol: u8) -> Option<Match> {
    let (flags, inverted, option) = if protocol == 6 {
        let (option, mask, wanted) = (*bytes.get(8)?, *bytes.get(9)?, *bytes.get(10)?);
        ((mask, wanted), *bytes.get(11)?, option)
    } else {
        ((0, 0), *bytes.get(8)?, 0)
    };
    (option == 0).then_some(Match::Ports {
        protocol,
        source: (word(bytes, 0)?, word(bytes, 2)?),
        destination: (word(bytes, 4)?, word(bytes, 6)?),
        flags,
        inverted: (inverted & 1 != 0, inverted & 2 != 0, inverted & 4 != 0),
    })
}

/// `struct xt_addrtype_info_v1`: kinds of the source and of the destination, a bit for each, and flags, of
/// which the second inverts the latter. Only whether the destination is local is read.
fn local(bytes: &[u8]) -> Option<Match> {
    const LOCAL: u16 = 1 << 2;
    let flags = *bytes.get(4)?;
    (word(bytes, 0)? == 0 && word(bytes, 2)? == LOCAL && flags & !2 == 0)
        .then_some(Match::Local(flags & 2 != 0))
}

/// `struct xt_multiport_v1`: which side, count, 15 ports, which of them begin a range, inversion.
fn multiport(bytes: &[u8]) -> Option<Match> {
    let (side, count) = (*bytes.first()?, usize::from(*bytes.get(1)?));
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < count.min(15) {
        let first = word(bytes, 2 + at * 2)?;
        if *bytes.get(32 + at)? == 0 {
            ranges.push((first, first));
        } else {
            at += 1;
            ranges.push((first, word(bytes, 2 + at * 2)?));
        }
        at += 1;
    }
    Some(Match::Multiport {
        source: side != 1,
        destination: side != 0,
        ranges,
        inverted: *bytes.get(47)? != 0,
    })
}
