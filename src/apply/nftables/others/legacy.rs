//! The rules of the old `ip_tables`, which netlink does not show, as `iptables-legacy-save -t filter` prints
//! them: they stand beside the chains of `nf_tables`, on the same hooks. Pure; what is not understood is a
//! question whose answer is not known.

use std::net::IpAddr;

use ipnet::IpNet;

use super::rule::{Load, Match, Rule, Step, Verdict};
use super::{Base, ChainName, Hook, Others};
use crate::model::family::Family;

/// The table under which they are told.
pub const LEGACY: &str = "filter(legacy)";

impl Others {
    /// Whether something was added for a family.
    pub fn has_legacy(&self, family: Family) -> bool {
        let mut bases = self.bases.iter().filter(|it| it.name.table == LEGACY);
        bases.any(|base| base.name.sees(family, false))
    }

    /// Adds what was printed; a rule is known by its number in its chain.
    pub fn add_legacy(&mut self, family: Family, saved: &str) {
        let name = |chain: &str| ChainName {
            family: match family {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            },
            table: LEGACY.to_owned(),
            chain: chain.to_owned(),
        };
        for line in saved.lines() {
            if let Some(chain) = line.strip_prefix(':') {
                let mut words = chain.split_whitespace();
                let (chain, policy) = (words.next(), words.next());
                let hook = match chain {
                    Some("INPUT") => Hook::Input,
                    Some("FORWARD") => Hook::Forward,
                    Some("OUTPUT") => Hook::Output,
                    _ => continue,
                };
                self.bases.push(Base {
                    name: name(chain.unwrap_or_default()),
                    hook,
                    priority: 0,
                    drops: policy == Some("DROP"),
                    interfaces: Vec::new(),
                });
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let words = words(rule);
                let Some((chain, words)) = words.split_first() else {
                    continue;
                };
                let rules = self.rules.entry(name(chain)).or_default();
                let handle = u64::try_from(rules.len()).unwrap_or(u64::MAX) + 1;
                let steps = steps(family, words);
                rules.push(Rule { handle, steps });
            }
        }
        self.bases.sort_by_key(|base| (base.hook, base.priority));
    }
}

/// Words of a line, of which some stand between quotation marks.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for character in line.chars() {
        match character {
            _ if escaped => {
                word.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|it| !it.is_empty()));
            }
            _ => word.push(character),
        }
    }
    words.extend(Some(word).filter(|it| !it.is_empty()));
    words
}

fn steps(family: Family, words: &[String]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut inverted = false;
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let mut value = || words.next().map_or("", String::as_str);
        let operator = u32::from(inverted);
        let mut understood = true;
        match word.as_str() {
            "!" => {
                inverted = true;
                continue;
            }
            "-p" => {
                let protocol = number(value());
                steps.push(Step::Load(0, Load::Meta(16)));
                steps.push(Step::Compare(0, operator, vec![protocol]));
            }
            "-s" => understood = network(&mut steps, family, value(), false, operator),
            "-d" => understood = network(&mut steps, family, value(), true, operator),
            "-i" => interface(&mut steps, value(), 6, operator),
            "-o" => interface(&mut steps, value(), 7, operator),
            "--dport" | "--dports" => steps.push(ports(value(), true, inverted)),
            "--sport" | "--sports" => steps.push(ports(value(), false, inverted)),
            "--ctstate" | "--state" => steps.push(states(value(), inverted)),
            "--comment" => {
                value();
            }
            "-m" => {
                let name = value();
                understood = matches!(
                    name,
                    "tcp" | "udp" | "sctp" | "comment" | "conntrack" | "state" | "multiport"
                );
            }
            "-j" | "-g" => {
                let to = value().to_owned();
                steps.extend(target(&to, word == "-g"));
                // What follows is for the target.
                break;
            }
            _ => {
                understood = false;
                while words
                    .next_if(|it| !it.starts_with('-') && *it != "!")
                    .is_some()
                {}
            }
        }
        if !understood {
            steps.push(Step::Perhaps(word.clone()));
        }
        inverted = false;
    }
    steps
}

fn number(protocol: &str) -> u8 {
    match protocol {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "ipv6-icmp" | "icmpv6" => 58,
        "sctp" => 132,
        other => other.parse().unwrap_or(u8::MAX),
    }
}

fn network(steps: &mut Vec<Step>, family: Family, text: &str, to: bool, operator: u32) -> bool {
    let parsed = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = parsed else { return false };
    let (offset, length) = match (family, to) {
        (Family::V4, false) => (12, 4),
        (Family::V4, true) => (16, 4),
        (Family::V6, false) => (8, 16),
        (Family::V6, true) => (24, 16),
    };
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (mask, value) = (bytes(network.netmask()), bytes(network.network()));
    if value.len() != length {
        return false;
    }
    steps.push(Step::Load(0, Load::Payload(1, offset, length)));
    steps.push(Step::Mask(0, 0, mask, vec![0; length]));
    steps.push(Step::Compare(0, operator, value));
    true
}

fn interface(steps: &mut Vec<Step>, name: &str, key: u32, operator: u32) {
    let mut bytes = name.as_bytes().to_vec();
    if bytes.last() == Some(&b'+') {
        bytes.pop();
    } else {
        bytes.resize(16, 0);
    }
    steps.push(Step::Load(0, Load::Meta(key)));
    steps.push(Step::Compare(0, operator, bytes));
}

fn ports(text: &str, destination: bool, inverted: bool) -> Step {
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let ranges: Option<Vec<(u16, u16)>> = text.split(',').map(range).collect();
    match ranges {
        Some(ranges) => Step::Match(Match::Multiport {
            source: !destination,
            destination,
            ranges,
            inverted,
        }),
        None => Step::Perhaps("port".to_owned()),
    }
}

/// As `struct xt_conntrack_mtinfo3` has it, with the states alone.
fn states(text: &str, inverted: bool) -> Step {
    let mask = text.split(',').fold(0_u16, |mask, state| {
        mask | match state {
            "INVALID" => 1,
            "ESTABLISHED" => 2,
            "RELATED" => 4,
            "NEW" => 8,
            "SNAT" => 1 << 6,
            "DNAT" => 1 << 7,
            "UNTRACKED" => 1 << 8,
            _ => 0,
        }
    });
    let mut information = vec![0; 146];
    for word in [1, u16::from(inverted), mask] {
        information.extend(word.to_ne_bytes());
    }
    Step::Match(Match::Conntrack(information))
}

fn target(name: &str, goes: bool) -> Option<Step> {
    Some(Step::Verdict(match name {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" | "TARPIT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        // They end nothing.
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TCPMSS" | "SET" | "CT" | "AUDIT" => return None,
        chain if goes => Verdict::Goto(chain.to_owned()),
        chain => Verdict::Jump(chain.to_owned()),
    }))
}
