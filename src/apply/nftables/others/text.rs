//! A rule of somebody else in words, close to how nft writes it: enough to find it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::rule::{Load, Match, Rule, Step, Translation, Verdict};

/// Longer texts are cut.
const LONGEST: usize = 160;

/// The rule.
pub(super) fn of(rule: &Rule) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut loaded: Option<Load> = None;
    let mut masked: Option<&[u8]> = None;
    for step in &rule.steps {
        match step {
            Step::Load(_, load) => {
                loaded = Some(*load);
                masked = None;
            }
            Step::Forget => loaded = None,
            Step::Mask(_, _, mask, _) => masked = Some(mask),
            Step::Compare(_, operator, bytes) => {
                let sign = match operator {
                    1 => "!= ",
                    2 => "< ",
                    3 => "<= ",
                    4 => "> ",
                    5 => ">= ",
                    _ => "",
                };
                // Which family it is, its addresses say.
                if !matches!(loaded, Some(Load::Meta(1 | 15))) {
                    words.push(format!(
                        "{} {sign}{}",
                        name(loaded),
                        value(loaded, bytes, masked)
                    ));
                }
            }
            Step::Range(_, outside, first, last) => {
                let sign = if *outside { "!= " } else { "" };
                let (first, last) = (value(loaded, first, None), value(loaded, last, None));
                words.push(format!("{} {sign}{first}-{last}", name(loaded)));
            }
            Step::In(_, set, inverted) => {
                let sign = if *inverted { "!= " } else { "" };
                words.push(format!("{} {sign}{}", name(loaded), set_name(set)));
            }
            Step::VerdictMap(_, map) => {
                words.push(format!("{} vmap {}", name(loaded), set_name(map)));
            }
            Step::Match(asked) => words.extend(iptables(asked)),
            Step::Perhaps(name) => words.push(name.clone()),
            Step::Untrack => words.push("notrack".to_owned()),
            Step::Translate(Translation::Destination) => words.push("dnat".to_owned()),
            Step::Translate(Translation::Source) => words.push("snat".to_owned()),
            Step::Verdict(verdict) => words.push(match verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Drop => "drop".to_owned(),
                Verdict::Return => "return".to_owned(),
                Verdict::Jump(chain) => format!("jump {chain}"),
                Verdict::Goto(chain) => format!("goto {chain}"),
            }),
        }
    }
    let mut text = words.join(" ");
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain(['…']).collect();
    }
    text
}

/// Anonymous sets have names that nobody gave them.
fn set_name(set: &str) -> String {
    if set.starts_with("__") {
        "{ … }".to_owned()
    } else {
        format!("@{set}")
    }
}

fn name(load: Option<Load>) -> &'static str {
    match load {
        Some(Load::Payload(2, 0, 2)) => "th sport",
        Some(Load::Payload(2, 2, 2)) => "th dport",
        Some(Load::Payload(2, 13, 1)) => "tcp flags",
        Some(Load::Payload(1, 12, 1..=4)) => "ip saddr",
        Some(Load::Payload(1, 16, 1..=4)) => "ip daddr",
        Some(Load::Payload(1, 8, 1..=16)) => "ip6 saddr",
        Some(Load::Payload(1, 24, 1..=16)) => "ip6 daddr",
        Some(Load::Payload(..)) => "payload",
        Some(Load::Meta(3)) => "meta mark",
        Some(Load::Meta(4)) => "iif",
        Some(Load::Meta(5)) => "oif",
        Some(Load::Meta(6)) => "iifname",
        Some(Load::Meta(7)) => "oifname",
        Some(Load::Meta(16)) => "meta l4proto",
        Some(Load::Meta(_)) => "meta",
        Some(Load::Conntrack(0, _)) => "ct state",
        Some(Load::Conntrack(2, _)) => "ct status",
        Some(Load::Conntrack(..)) => "ct",
        Some(Load::Route(..)) => "fib",
        None => "?",
    }
}

fn value(load: Option<Load>, bytes: &[u8], mask: Option<&[u8]>) -> String {
    let hexadecimal = || {
        let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.concat()
    };
    match load {
        Some(Load::Payload(2, 0 | 2, 2)) => match bytes {
            [a, b] => u16::from_be_bytes([*a, *b]).to_string(),
            _ => hexadecimal(),
        },
        Some(Load::Payload(1, 12 | 16, 1..=4)) => network::<4>(bytes, mask),
        Some(Load::Payload(1, 8 | 24, 1..=16)) => network::<16>(bytes, mask),
        Some(Load::Meta(6 | 7)) => {
            let whole = bytes.contains(&0);
            let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name);
            if whole {
                format!("\"{name}\"")
            } else {
                format!("\"{name}*\"")
            }
        }
        Some(Load::Meta(16)) => match bytes.first() {
            Some(1) => "icmp".to_owned(),
            Some(6) => "tcp".to_owned(),
            Some(17) => "udp".to_owned(),
            Some(58) => "icmpv6".to_owned(),
            Some(132) => "sctp".to_owned(),
            _ => hexadecimal(),
        },
        _ => format!("0x{}", hexadecimal()),
    }
}

/// The whole octets of an address, or the bits that a mask leaves.
fn network<const LENGTH: usize>(bytes: &[u8], mask: Option<&[u8]>) -> String {
    let mut octets = [0; LENGTH];
    for (slot, byte) in octets.iter_mut().zip(bytes) {
        *slot = *byte;
    }
    let address: IpAddr = if let Ok(octets) = <[u8; 4]>::try_from(octets.as_slice()) {
        Ipv4Addr::from(octets).into()
    } else if let Ok(octets) = <[u8; 16]>::try_from(octets.as_slice()) {
        Ipv6Addr::from(octets).into()
    } else {
        return String::new();
    };
    let bits: u32 = match mask {
        Some(mask) => mask.iter().map(|byte| byte.count_ones()).sum(),
        None => u32::try_from(bytes.len() * 8).unwrap_or(0),
    };
    if usize::try_from(bits) == Ok(LENGTH * 8) {
        address.to_string()
    } else {
        format!("{address}/{bits}")
    }
}

fn iptables(asked: &Match) -> Option<String> {
    let range = |(first, last): (u16, u16)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}:{last}")
        }
    };
    let sign = |inverted: bool| if inverted { "! " } else { "" };
    let all = (0, u16::MAX);
    Some(match asked {
        Match::Comment => return None,
        Match::Ports {
            source,
            destination,
            flags,
            inverted,
            ..
        } => {
            let mut words = Vec::new();
            if *source != all {
                words.push(format!("{}--sport {}", sign(inverted.0), range(*source)));
            }
            if *destination != all {
                words.push(format!(
                    "{}--dport {}",
                    sign(inverted.1),
                    range(*destination)
                ));
            }
            if flags.0 != 0 {
                words.push(format!(
                    "{}--tcp-flags {:#04x} {:#04x}",
                    sign(inverted.2),
                    flags.0,
                    flags.1
                ));
            }
            words.join(" ")
        }
        Match::Multiport {
            source,
            destination,
            ranges,
            inverted,
        } => {
            let side = match (source, destination) {
                (true, true) => "--ports",
                (true, false) => "--sports",
                _ => "--dports",
            };
            let ranges: Vec<String> = ranges.iter().map(|it| range(*it)).collect();
            format!("{}{side} {}", sign(*inverted), ranges.join(","))
        }
        Match::Conntrack(_) => "-m conntrack".to_owned(),
        Match::Local(inverted) => format!("{}--dst-type LOCAL", sign(*inverted)),
        Match::Set(_) => "-m set".to_owned(),
        Match::Unknown(name) => format!("-m {name}"),
    })
}
