//! Whether a rule holds for a packet: yes, no, or perhaps where something is not known. Pure.

use std::cmp::Ordering;

use super::packet::{Octets, Packet};
use super::rule::{Match, Rule, Step, Translation, Verdict};
use super::sets::Sets;

/// Expressions that ask how much came.
const LIMITS: [&str; 3] = ["limit", "connlimit", "quota"];

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
    Perhaps,
}

impl Holds {
    fn of(value: bool) -> Self {
        if value { Self::Yes } else { Self::No }
    }

    fn inverted(self, inverted: bool) -> Self {
        match (self, inverted) {
            (Self::Yes, true) => Self::No,
            (Self::No, true) => Self::Yes,
            (same, _) => same,
        }
    }
}

/// What comes of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) holds: Holds,
    /// It asks for the destination, and not in vain.
    pub(super) named: bool,
    /// Each with whether it is sure, of a rule that holds; more than one of a map whose key is not known.
    pub(super) verdicts: Vec<(Verdict, Holds)>,
    pub(super) untracks: bool,
    pub(super) translates: Option<Translation>,
    /// It holds for what comes faster than a rate, and all else of it is sure.
    pub(super) limits: bool,
}

/// Sixteen words of four octets.
struct Registers(Octets);

impl Registers {
    fn put(&mut self, at: usize, octets: &Octets) {
        for (slot, octet) in self.0.iter_mut().skip(at).zip(octets) {
            *slot = *octet;
        }
        // A value ends at a whole word, padded with zeros.
        let padding = octets.len().next_multiple_of(4) - octets.len();
        let end = at + octets.len();
        for slot in self.0.iter_mut().skip(end).take(padding) {
            *slot = (Some(0), false);
        }
    }

    fn get(&self, at: usize, length: usize) -> &[(Option<u8>, bool)] {
        self.0.get(at..at + length).unwrap_or_default()
    }
}

/// How known octets compare with a value, from the first on; none where an unknown one decides.
fn compare(octets: &[(Option<u8>, bool)], value: &[u8]) -> Option<Ordering> {
    for ((octet, _), value) in octets.iter().zip(value) {
        match (*octet)?.cmp(value) {
            Ordering::Equal => {}
            other => return Some(other),
        }
    }
    Some(Ordering::Equal)
}

pub(super) fn equal(octets: &[(Option<u8>, bool)], value: &[u8]) -> Holds {
    if octets.len() < value.len() {
        return Holds::Perhaps;
    }
    let mut pairs = octets.iter().zip(value);
    if pairs
        .clone()
        .any(|((octet, _), value)| octet.is_some_and(|it| it != *value))
    {
        Holds::No
    } else {
        Holds::of(pairs.all(|((octet, _), _)| octet.is_some())).or_perhaps()
    }
}

impl Holds {
    /// What is not sure is perhaps so.
    fn or_perhaps(self) -> Self {
        if self == Self::No {
            Self::Perhaps
        } else {
            self
        }
    }
}

pub(super) fn between(octets: &[(Option<u8>, bool)], first: &[u8], last: &[u8]) -> Holds {
    match (compare(octets, first), compare(octets, last)) {
        (Some(Ordering::Less), _) | (_, Some(Ordering::Greater)) => Holds::No,
        (Some(_), Some(_)) => Holds::Yes,
        _ => Holds::Perhaps,
    }
}

/// Asks a rule of a chain in this table.
pub(super) fn evaluate(rule: &Rule, packet: &Packet, sets: &Sets<'_>) -> Outcome {
    let mut registers = Registers(vec![(None, false); 64]);
    let mut outcome = Outcome {
        holds: Holds::Yes,
        named: false,
        verdicts: Vec::new(),
        untracks: false,
        translates: None,
        limits: false,
    };
    let mut unsure = 0_usize;
    for step in &rule.steps {
        let (holds, of_destination) = match step {
            Step::Load(at, load) => {
                registers.put(*at, &packet.load(*load));
                continue;
            }
            Step::Forget => {
                registers = Registers(vec![(None, false); 64]);
                continue;
            }
            Step::Mask(from, to, mask, other) => {
                let masked: Octets = (registers.get(*from, mask.len()).iter())
                    .zip(mask.iter().zip(other))
                    .map(|((octet, named), (mask, other))| {
                        let masked = octet.map(|octet| octet & mask ^ other);
                        // Nothing is left of what is masked away.
                        (masked.or((*mask == 0).then_some(*other)), *named)
                    })
                    .collect();
                registers.put(*to, &masked);
                continue;
            }
            Step::Compare(at, operator, value) => {
                let octets = registers.get(*at, value.len());
                let ordering = compare(octets, value);
                let holds = match operator {
                    0 => equal(octets, value),
                    1 => equal(octets, value).inverted(true),
                    _ => ordering.map_or(Holds::Perhaps, |it| {
                        Holds::of(match operator {
                            2 => it.is_lt(),
                            3 => it.is_le(),
                            4 => it.is_gt(),
                            _ => it.is_ge(),
                        })
                    }),
                };
                (holds, is_named(octets))
            }
            Step::Range(at, outside, first, last) => {
                let octets = registers.get(*at, first.len());
                (
                    between(octets, first, last).inverted(*outside),
                    is_named(octets),
                )
            }
            Step::In(at, set, inverted) => {
                let octets = registers.get(*at, sets.key_length(set));
                (
                    sets.holds(set, octets).inverted(*inverted),
                    is_named(octets),
                )
            }
            Step::VerdictMap(at, map) => {
                let octets = registers.get(*at, sets.key_length(map));
                let found = sets.verdicts(map, octets);
                let named = is_named(octets);
                if found.is_empty() {
                    (Holds::No, named)
                } else {
                    outcome.verdicts.extend(found);
                    (Holds::Yes, named)
                }
            }
            Step::Match(asked) => iptables(asked, packet),
            Step::Perhaps(_) => (Holds::Perhaps, false),
            Step::Verdict(verdict) => {
                outcome.verdicts.push((verdict.clone(), Holds::Yes));
                continue;
            }
            Step::Untrack => {
                outcome.untracks = true;
                continue;
            }
            Step::Translate(translation) => {
                outcome.translates = Some(*translation);
                continue;
            }
        };
        match holds {
            Holds::No => {
                outcome.holds = Holds::No;
                return outcome;
            }
            Holds::Perhaps => {
                outcome.holds = Holds::Perhaps;
                unsure += 1;
                outcome.limits |=
                    matches!(step, Step::Perhaps(name) if LIMITS.contains(&name.as_str()));
            }
            Holds::Yes => {}
        }
        outcome.named |= of_destination;
    }
    outcome.limits &= unsure == 1;
    outcome
}

/// Whether it is about the destination, and that is known.
fn is_named(octets: &[(Option<u8>, bool)]) -> bool {
    octets
        .iter()
        .any(|(octet, named)| *named && octet.is_some())
}

/// Whether a match of iptables holds, and whether it asks for the destination.
fn iptables(asked: &Match, packet: &Packet) -> (Holds, bool) {
    let inside = |port: Option<u16>, (first, last): (u16, u16)| match port {
        _ if (first, last) == (0, u16::MAX) => Holds::Yes,
        None => Holds::Perhaps,
        Some(port) => Holds::of((first..=last).contains(&port)),
    };
    match asked {
        Match::Comment => (Holds::Yes, false),
        Match::Ports {
            protocol,
            source,
            destination,
            flags: (mask, wanted),
            inverted,
        } => {
            if packet.protocol != *protocol {
                return (Holds::No, false);
            }
            let sent = if packet.answer { 0x12 } else { 0x02 };
            let flags = Holds::of(sent & mask == *wanted);
            let all = [
                inside(packet.source_port, *source).inverted(inverted.0),
                inside(packet.destination_port, *destination).inverted(inverted.1),
                flags.inverted(inverted.2),
            ];
            let named = *destination != (0, u16::MAX) && packet.destination_port.is_some();
            (every(&all), named)
        }
        Match::Multiport {
            source,
            destination,
            ranges,
            inverted,
        } => {
            let sides = [
                (source, packet.source_port),
                (destination, packet.destination_port),
            ];
            let asked = sides.iter().filter(|(side, _)| **side);
            let all: Vec<Holds> = asked
                .flat_map(|(_, port)| ranges.iter().map(|range| inside(*port, *range)))
                .collect();
            let named = *destination && packet.destination_port.is_some();
            (any(&all).inverted(*inverted), named)
        }
        Match::Conntrack(information) => (conntrack(information, packet), false),
        Match::Local(inverted) => (Holds::of(packet.local).inverted(*inverted), false),
        // What is in a set of ipset is not read here.
        Match::Set(destination) => (Holds::Perhaps, *destination),
        Match::Unknown(_) => (Holds::Perhaps, false),
    }
}

fn every(all: &[Holds]) -> Holds {
    if all.contains(&Holds::No) {
        Holds::No
    } else {
        Holds::of(!all.contains(&Holds::Perhaps)).or_perhaps()
    }
}

fn any(all: &[Holds]) -> Holds {
    if all.contains(&Holds::Yes) {
        Holds::Yes
    } else if all.contains(&Holds::Perhaps) {
        Holds::Perhaps
    } else {
        Holds::No
    }
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`): addresses with masks at 0, 32…, ports
/// from 138 on, flags at 146, their inversion at 148, states at 150, statuses at 152.
fn conntrack(information: &[u8], packet: &Packet) -> Holds {
    if !packet.tracked {
        return Holds::Perhaps;
    }
    let word = |at: usize| {
        let bytes = information.get(at..at + 2);
        bytes.and_then(|it| Some(u16::from_ne_bytes(it.try_into().ok()?)))
    };
    let (Some(flags), Some(inverted), Some(states)) = (word(146), word(148), word(150)) else {
        return Holds::Perhaps;
    };
    let mut all = Vec::new();
    for bit in (0..16)
        .map(|bit| 1_u16 << bit)
        .filter(|bit| flags & bit != 0)
    {
        let holds = match bit {
            // XT_CONNTRACK_STATE: NEW is 8, ESTABLISHED 2; DNAT is the eighth bit.
            0x1 => {
                let translated = if packet.translated { 1 << 7 } else { 0 };
                let state = u16::try_from(packet.state()).unwrap_or(0) | translated;
                Holds::of(states & state != 0)
            }
            0x2 => Holds::of(word(136) == Some(u16::from(packet.protocol))),
            // XT_CONNTRACK_ORIGDST
            0x8 => original(information, packet),
            // XT_CONNTRACK_ORIGDST_PORT, to the port at 156.
            0x200 => match (packet.original.1, word(140), word(156)) {
                (Some(port), Some(first), Some(last)) => {
                    Holds::of((first..=last.max(first)).contains(&port))
                }
                _ => Holds::Perhaps,
            },
            // XT_CONNTRACK_DIRECTION
            0x1000 => Holds::of(!packet.answer),
            _ => Holds::Perhaps,
        };
        all.push(holds.inverted(inverted & bit != 0));
    }
    every(&all)
}

fn original(information: &[u8], packet: &Packet) -> Holds {
    let bytes = match packet.original.0 {
        None => return Holds::Perhaps,
        Some(std::net::IpAddr::V4(address)) => address.octets().to_vec(),
        Some(std::net::IpAddr::V6(address)) => address.octets().to_vec(),
    };
    let (address, mask) = (information.get(32..48), information.get(48..64));
    match (address, mask) {
        (Some(address), Some(mask)) => Holds::of(
            (bytes.iter().zip(address.iter().zip(mask)))
                .all(|(byte, (wanted, mask))| byte & mask == wanted & mask),
        ),
        _ => Holds::Perhaps,
    }
}
