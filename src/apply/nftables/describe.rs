//! The table in the words of the nft program, for people and for golden files. Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::TABLE;
use super::element::{self, Bytes, ElementKey, Elements, Value};
use super::expression::{Choice, Load, Step, Stickiness, Verdict};
use super::layout::Layout;
use super::rules::{Chain, Hook, Rule, chains};
use super::sets::{ENDPOINT, Keys, MOST_CLIENTS, Maps, NUMBER, Part, SCOPE, Table};
use crate::model::address_range::AddressRange;
use crate::model::family::{Family, Protocol};
use crate::model::node_state::NodeState;

/// Every element that a state needs, one command of nft a line, sorted within each set.
pub fn describe(state: &NodeState, layout: Layout) -> String {
    let elements: Elements = element::of_state(state, layout);
    let mut text = String::new();
    for table in Table::ALL {
        for family in Family::BOTH {
            let lines = if table.interval() {
                range_words(&elements, table, family)
            } else {
                singles(&elements, table, family)
            };
            for line in lines {
                let name = table.name(family);
                // Writing to a String cannot fail.
                let _ = writeln!(text, "add element inet {TABLE} {name} {{ {line} }}");
            }
        }
    }
    text
}

/// The chains and rules, which are the same whatever the state is, and their order.
pub fn describe_chains(layout: Layout) -> String {
    chains(layout).iter().map(chain).collect()
}

/// One element as nft names it: the set, then what is in it.
pub(super) fn element_words(key: &ElementKey, value: &Value) -> String {
    let words = content_words(key, value);
    let set = key.table.name(key.family);
    format!("element inet {TABLE} {set} {{ {words} }}")
}

fn of(
    elements: &Elements,
    table: Table,
    family: Family,
) -> impl Iterator<Item = (&ElementKey, &Value)> {
    elements
        .iter()
        .filter(move |(key, _)| key.table == table && key.family == family)
}

fn singles(elements: &Elements, table: Table, family: Family) -> Vec<String> {
    of(elements, table, family)
        .map(|(key, value)| content_words(key, value))
        .collect()
}

/// What is in a set whose keys stand for themselves, without the set.
pub(super) fn content_words(key: &ElementKey, value: &Value) -> String {
    let (shape, family) = (key.table.shape(), key.family);
    let key = parts(&key.key, shape.key, family);
    match value {
        Value::Nothing => key,
        Value::Verdict(verdict) => format!("{key} : {}", self::verdict(verdict)),
        Value::Endpoint(data) => format!("{key} : {}", parts(data, &ENDPOINT, family)),
        Value::Number(data) => {
            let words: &[Part] = match shape.maps {
                Maps::Scope => &SCOPE,
                _ => &NUMBER,
            };
            format!("{key} : {}", parts(data, words, family))
        }
        Value::Last(data) => {
            let last = parts(data, &[Part::Address], family);
            format!("{key}-{last}")
        }
    }
}

/// The command that makes a set.
pub(super) fn set_words(table: Table, family: Family) -> String {
    let shape = table.shape();
    let types = |parts: &[Part]| {
        let words: Vec<&str> = parts.iter().map(|part| part.word(family)).collect();
        words.join(" . ")
    };
    let (kind, data) = match shape.maps {
        Maps::Nothing => ("set", String::new()),
        Maps::Verdict => ("map", " : verdict".to_owned()),
        Maps::Endpoint => ("map", format!(" : {}", types(&ENDPOINT))),
        Maps::Scope => ("map", format!(" : {}", types(&SCOPE))),
        Maps::Number => ("map", format!(" : {}", types(&NUMBER))),
    };
    let flags = match shape.keys {
        Keys::Single => String::new(),
        Keys::Ranges | Keys::LastPartRanges => " flags interval;".to_owned(),
        Keys::Dynamic => format!(" size {MOST_CLIENTS}; flags dynamic,timeout;"),
    };
    let name = table.name(family);
    let keys = types(shape.key);
    format!("nft add {kind} inet {TABLE} {name} '{{ type {keys}{data};{flags} }}'")
}

/// A range begins with its first key and ends where the next element begins.
pub(super) fn range_words(elements: &Elements, table: Table, family: Family) -> Vec<String> {
    let marks: Vec<(&[u8], bool)> = of(elements, table, family)
        .map(|(key, _)| (key.key.as_slice(), !key.end))
        .collect();
    let mut lines = Vec::new();
    for (index, (first, begins)) in marks.iter().enumerate() {
        let end = marks.get(index + 1).map(|(end, _)| *end);
        if *begins {
            lines.extend(match table.shape().key {
                [Part::Interface] => interfaces(first, end),
                _ => addresses(address(first), end.and_then(address), family),
            });
        }
    }
    lines
}

fn addresses(first: Option<IpAddr>, end: Option<IpAddr>, family: Family) -> Option<String> {
    let last = end.and_then(before).unwrap_or(match family {
        Family::V4 => Ipv4Addr::BROADCAST.into(),
        Family::V6 => Ipv6Addr::from_bits(u128::MAX).into(),
    });
    let range = AddressRange::new(first?, last).ok()?;
    Some(range.to_string())
}

/// A name, or what names begin with and a star; several prefixes in a row are one range.
fn interfaces(first: &[u8], end: Option<&[u8]>) -> Option<String> {
    let name = |bytes: &[u8]| -> Option<String> {
        let name: Vec<u8> = bytes
            .iter()
            .copied()
            .take_while(|byte| *byte != 0)
            .collect();
        String::from_utf8(name).ok()
    };
    let start = name(first)?;
    let single = end.is_some_and(|end| end.last() == Some(&1));
    Some(match end {
        _ if single => format!("\"{start}\""),
        _ if start.is_empty() => "\"*\"".to_owned(),
        Some(end) if end.iter().rposition(|byte| *byte != 0) != start.len().checked_sub(1) => {
            format!("\"{start}\"-\"{}\"", name(end)?)
        }
        _ => format!("\"{start}*\""),
    })
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?).into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?).into()),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The parts of a key or of data, each of whole words.
fn parts<const LONGEST: usize>(bytes: &Bytes<LONGEST>, parts: &[Part], family: Family) -> String {
    let mut rest = bytes.as_slice();
    let mut words = Vec::new();
    for part in parts {
        let length = match (part, family) {
            (Part::Address, Family::V6) => 16,
            _ => 4,
        };
        let (part_bytes, others) = rest.split_at(length.min(rest.len()));
        rest = others;
        let word = match (part, part_bytes) {
            (Part::Address, bytes) => address(bytes).map(|address| address.to_string()),
            (Part::Protocol, [number, ..]) => {
                Protocol::from_number(*number).map(|protocol| protocol.lowercase().to_owned())
            }
            (Part::Port, [high, low, ..]) => Some(u16::from_be_bytes([*high, *low]).to_string()),
            (Part::Index, bytes) => <[u8; 4]>::try_from(bytes)
                .ok()
                .map(|bytes| format!("0x{:08x}", u32::from_ne_bytes(bytes))),
            _ => None,
        };
        words.push(word.unwrap_or_else(|| "?".to_owned()));
    }
    words.join(" . ")
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Goto(chain) => format!("goto {chain}"),
    }
}

fn chain(chain: &Chain) -> String {
    let mut text = format!("chain {} {{\n", chain.name);
    if let Some(hook) = chain.hook {
        let _ = writeln!(text, "\t{}", hook_words(hook));
    }
    for rule in &chain.rules {
        let _ = writeln!(text, "\t{}", rule_words(rule, rule.comment));
    }
    text.push_str("}\n");
    text
}

/// Where a chain hangs.
pub(super) fn hook_words(hook: Hook) -> String {
    let name = match hook.number {
        0 => "prerouting",
        1 => "input",
        2 => "forward",
        3 => "output",
        _ => "postrouting",
    };
    let Hook { kind, priority, .. } = hook;
    format!("type {kind} hook {name} priority {priority}; policy accept;")
}

/// What a rule does, with this comment.
pub(super) fn rule_words(rule: &Rule, comment: &str) -> String {
    let family = rule.steps.iter().find_map(|step| match step {
        Step::Family(family) => Some(*family),
        _ => None,
    });
    let steps: Vec<String> = rule.steps.iter().map(|step| words(step, family)).collect();
    format!("{} comment \"{comment}\"", steps.join(" "))
}

fn words(step: &Step, family: Option<Family>) -> String {
    let key = |loads: &[Load]| {
        let loads: Vec<String> = loads.iter().map(|load| load_words(*load, family)).collect();
        loads.join(" . ")
    };
    match step {
        Step::Family(Family::V4) => "meta nfproto ipv4".to_owned(),
        Step::Family(Family::V6) => "meta nfproto ipv6".to_owned(),
        Step::Protocol(6) => "meta l4proto tcp".to_owned(),
        Step::Protocol(1) => "meta l4proto icmp".to_owned(),
        Step::Protocol(58) => "meta l4proto ipv6-icmp".to_owned(),
        Step::Protocol(number) => format!("meta l4proto {number}"),
        Step::NewConnection(true) => "ct state new".to_owned(),
        Step::NewConnection(false) => "ct state != new".to_owned(),
        Step::Related => "ct state related".to_owned(),
        Step::Invalid => "ct state invalid".to_owned(),
        Step::Established => "ct state established,related".to_owned(),
        Step::Reply => "ct direction reply".to_owned(),
        Step::BetweenBridges => "meta iifkind \"bridge\" meta oifkind \"bridge\"".to_owned(),
        Step::NoInputInterface => "meta iif 0".to_owned(),
        Step::IcmpType(kind) => format!("@th,0,8 {kind}"),
        Step::LocalSource => "fib saddr type local".to_owned(),
        Step::In {
            key: loads,
            set,
            inverted,
        } => format!(
            "{} {}@{set}",
            key(loads),
            if *inverted { "!= " } else { "" }
        ),
        Step::VerdictMap { key: loads, map } => format!("{} vmap @{map}", key(loads)),
        Step::DestinationNat { key: loads, map } => format!("dnat to {} map @{map}", key(loads)),
        Step::Stay(stickiness) | Step::Settle(stickiness) | Step::Pass(stickiness) => {
            sticky_words(step, stickiness, family)
        }
        Step::Masquerade => "masquerade".to_owned(),
        Step::Verdict(verdict) => self::verdict(verdict),
        Step::RejectWithReset => "reject with tcp reset".to_owned(),
        Step::RejectUnreachable => "reject with icmpx port-unreachable".to_owned(),
    }
}

fn sticky_words(step: &Step, stickiness: &Stickiness, family: Option<Family>) -> String {
    let word = |load: &Load| load_words(*load, family);
    let frontend: Vec<String> = stickiness.frontend.iter().map(word).collect();
    let frontend = frontend.join(" . ");
    let Stickiness {
        scopes,
        choices,
        members,
        affinity,
        timeout,
        ..
    } = stickiness;
    let client = format!("{} . {frontend} map @{scopes}", word(&Load::SourceAddress));
    let number = match step {
        Step::Stay(_) => format!("{client} map @{affinity}"),
        _ => format!("{frontend} . {} map @{choices}", word(&stickiness.choice)),
    };
    let update = format!("update @{affinity} {{ {client} timeout {timeout}s : {number} }} ");
    let remember = match step {
        Step::Pass(_) => String::new(),
        Step::Settle(_) => format!("delete @{affinity} {{ {client} }} {update}"),
        _ => update,
    };
    format!("{remember}dnat to {frontend} . {number} map @{members}")
}

fn load_words(load: Load, family: Option<Family>) -> String {
    let ip = match family {
        Some(Family::V6) => "ip6",
        Some(Family::V4) | None => "ip",
    };
    match load {
        Load::SourceAddress => format!("{ip} saddr"),
        Load::DestinationAddress => format!("{ip} daddr"),
        Load::Protocol => "meta l4proto".to_owned(),
        Load::DestinationPort => "th dport".to_owned(),
        Load::OriginalDestination => format!("ct original {ip} daddr"),
        Load::OriginalPort => "ct original proto-dst".to_owned(),
        Load::InputInterface => "meta iifname".to_owned(),
        Load::OutputInterface => "meta oifname".to_owned(),
        Load::Choice {
            by,
            modulus,
            offset,
        } => {
            let number = match by {
                Choice::Random => "numgen random".to_owned(),
                Choice::Source => format!("jhash {ip} saddr"),
                Choice::Flow => format!("jhash {ip} saddr . th sport"),
            };
            format!("{number} mod {modulus} offset {offset}")
        }
    }
}
