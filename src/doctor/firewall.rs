//! Firewalls in the way: chains and rules of others that take away what has to come through. No rule of ours
//! can overrule them, so the rule that lets edgelb's traffic through has to stand in theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};

use super::passing::{Needs, Path, Place, Purpose};
use super::{Finding, Level, Section};
use crate::apply::nftables::others::{By, ChainName, Hook, How, LEGACY, Others, Passage, Taken};
use crate::model::family::Family;

/// The chain in which Docker gives published ports to containers, on every address of the node: VIPs too.
const DOCKER: &str = "DOCKER";
/// Rules that are told one by one.
const MOST_NAMED: usize = 3;

/// The findings of this section.
pub(super) fn examine(needs: &Needs, paths: &[Path], others: Option<&Others>) -> Vec<Finding> {
    let Some(others) = others else {
        let message = "cannot read the chains of other firewalls in nf_tables".to_owned();
        let remedy = "run doctor as root on a kernel with nf_tables".to_owned();
        return vec![finding(Level::Warning, message, Some(remedy))];
    };
    let mut harms: BTreeMap<Culprit, Harm> = BTreeMap::new();
    for path in paths {
        let passage = Passage {
            hook: path.hook,
            above: path.above,
            below: path.below,
            packet: &path.packet,
        };
        for taken in others.taken(&passage) {
            note(&mut harms, path, &taken);
        }
    }
    let mut rules = Vec::new();
    let mut findings = Vec::new();
    for (culprit, harm) in &harms {
        match &culprit.by {
            By::Rule(chain, handle) => {
                let text = others.text(chain, *handle);
                rules.push(rule(culprit, (chain, *handle), harm, text));
            }
            By::Policy | By::Rest if culprit.how == How::Untracked => {
                rules.push(untracking(culprit, harm));
            }
            By::Policy | By::Rest => findings.push(judge(culprit, harm, needs)),
        }
    }
    rules.sort_by_key(|rule| std::cmp::Reverse(rule.level));
    rules.truncate(MOST_NAMED);
    findings.extend(rules);
    let unread = |family| unread(family, others);
    findings.extend(Family::BOTH.into_iter().filter_map(unread));
    if findings.is_empty() {
        let message = "no chain of another firewall drops what goes to Services";
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::Firewall, level, message)
    }
}

/// Who takes packets away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Culprit {
    base: ChainName,
    hook: Hook,
    priority: i32,
    by: By,
    how: How,
}

/// What of.
#[derive(Debug, Default)]
struct Harm {
    /// By purpose, whether it is sure.
    purposes: BTreeMap<Purpose, bool>,
    /// What is named first: what surely does not come through.
    label: Option<(bool, String)>,
}

fn note(harms: &mut BTreeMap<Culprit, Harm>, path: &Path, taken: &Taken) {
    let counts = match taken.how {
        // Only what is to be translated has to be tracked.
        How::Untracked => matches!(path.purpose, Purpose::Arriving | Purpose::Translated),
        // That kube-proxy does it is told among the conflicts.
        How::Redirected => path.purpose == Purpose::Arriving && !is_of_kube_proxy(taken),
        How::Masqueraded => path.purpose == Purpose::Sender,
        How::Dropped => path.purpose != Purpose::Sender,
    };
    if !counts {
        return;
    }
    let culprit = Culprit {
        base: taken.base.clone(),
        hook: path.hook,
        priority: taken.priority,
        by: taken.by.clone(),
        how: taken.how,
    };
    let harm = harms.entry(culprit).or_default();
    *harm.purposes.entry(path.purpose).or_default() |= taken.sure;
    let better = match &harm.label {
        None => true,
        Some((sure, _)) => taken.sure && !sure,
    };
    if better {
        harm.label = Some((taken.sure, path.label.clone()));
    }
}

fn is_of_kube_proxy(taken: &Taken) -> bool {
    let by_chain = match &taken.by {
        By::Rule(chain, _) => chain.chain.starts_with("KUBE-"),
        By::Policy | By::Rest => false,
    };
    by_chain || taken.base.table == "kube-proxy"
}

/// How bad it is that this does not come through.
fn level(purpose: Purpose) -> Level {
    match purpose {
        // Such endpoints can come any day; who asks for health is not known.
        Purpose::Health | Purpose::OwnEndpoint(false) => Level::Info,
        Purpose::Sender => Level::Warning,
        _ => Level::Problem,
    }
}

impl Harm {
    fn level(&self) -> Level {
        let levels = self.purposes.iter().map(|(purpose, sure)| {
            let worst = if *sure {
                Level::Problem
            } else {
                Level::Warning
            };
            level(*purpose).min(worst)
        });
        levels.max().unwrap_or(Level::Info)
    }

    fn is_sure(&self) -> bool {
        self.purposes.values().any(|sure| *sure)
    }

    fn label(&self) -> &str {
        self.label.as_ref().map_or("", |(_, label)| label)
    }
}

fn place(name: &ChainName) -> String {
    format!("{} {} {}", name.family, name.table, name.chain)
}

/// A rule that asks for what has to come through.
fn rule(
    culprit: &Culprit,
    (chain, handle): (&ChainName, u64),
    harm: &Harm,
    text: Option<String>,
) -> Finding {
    let name = place(chain);
    let says =
        |sure: &'static str, unsure: &'static str| if harm.is_sure() { sure } else { unsure };
    let label = harm.label();
    let message = match culprit.how {
        How::Untracked => format!(
            "a rule in chain {name} {} packets from connection tracking (NOTRACK), so they are not \
             translated: {label}",
            says("keeps", "may keep")
        ),
        How::Redirected => format!(
            "a rule in chain {name} {} somebody else what goes to {label}",
            says("gives", "may give")
        ),
        How::Masqueraded => format!(
            "a rule in chain {name} {}: {label} sees this node as the client, in spite of \
             externalTrafficPolicy Local",
            says("masquerades", "may masquerade")
        ),
        How::Dropped => format!(
            "a rule in chain {name} {} what goes to {label}",
            says("drops", "may drop")
        ),
    };
    let mut seen = text.unwrap_or_default();
    if culprit.base != *chain {
        seen = format!("{seen}, reached from {}", place(&culprit.base));
    }
    let family = if chain.family == "ip6" {
        Family::V6
    } else {
        Family::V4
    };
    let program = legacy_program(family);
    let legacy = format!(
        "{program} -D {0} {handle} ({program} -L {0} -n --line-numbers shows it), and the same in what makes it",
        chain.chain
    );
    let remedy = format!(
        "nft delete rule {name} handle {handle} (nft -a list chain {name} shows it), and the same in the file \
         that makes it"
    );
    let remedy = if chain.table == LEGACY {
        legacy
    } else {
        remedy
    };
    let remedy = if culprit.how == How::Redirected && chain.chain == DOCKER {
        format!(
            "publish the container's port on one address of the node (docker run -p ADDRESS:PORT:PORT) or on \
             another port; until then {remedy}"
        )
    } else {
        remedy
    };
    finding(harm.level(), message, Some(remedy))
        .seen(format!("hook {}: {seen}", culprit.hook.as_str()))
}

/// A rule that keeps everything from connection tracking.
fn untracking(culprit: &Culprit, harm: &Harm) -> Finding {
    let name = place(&culprit.base);
    let message = format!(
        "a rule in chain {name} keeps packets from connection tracking (NOTRACK): they are not translated"
    );
    let remedy = format!(
        "nft -a list chain {name}; nft delete rule {name} handle N (iptables -t raw -S shows it too), and \
         the same in the file that makes it"
    );
    finding(harm.level(), message, Some(remedy)).seen(harm.label())
}

/// What a chain means that takes away what none of its rules lets through.
fn judge(culprit: &Culprit, harm: &Harm, needs: &Needs) -> Finding {
    let name = place(&culprit.base);
    let how = if culprit.by == By::Policy {
        "by its policy"
    } else {
        "by a rule that asks for no destination"
    };
    let unless = if harm.is_sure() {
        ""
    } else {
        ", unless a rule of it accepts it"
    };
    let worst = harm.level();
    let told = |purpose: &&Purpose| level(**purpose) == Level::Problem || worst <= Level::Info;
    let mut what: Vec<String> = Vec::new();
    for purpose in harm.purposes.keys().filter(told) {
        let words = self::words(*purpose, culprit, needs);
        if !what.contains(&words) {
            what.push(words);
        }
    }
    let message = format!(
        "chain {name} (hook {}, priority {}) drops {} {how}{unless}; no accept in another chain overrules \
         that",
        culprit.hook.as_str(),
        culprit.priority,
        what.join(" and "),
    );
    let place = Place {
        name: culprit.base.clone(),
        hook: culprit.hook,
    };
    let commands: BTreeSet<Purpose> = harm.purposes.keys().copied().collect();
    let by_command = matches!(culprit.hook, Hook::Input | Hook::Forward | Hook::Output)
        && !commands.contains(&Purpose::Arp);
    let commands = if by_command {
        needs.commands(&place)
    } else {
        Vec::new()
    };
    let remedy = if commands.is_empty() {
        format!(
            "nft list chain {name}, and let Service traffic, ARP and UDP to membership.listen through in \
             the file that makes it"
        )
    } else {
        format!(
            "{}, and the same in the file that makes the chain",
            commands.join(" && ")
        )
    };
    finding(worst, message, Some(remedy))
}

fn words(purpose: Purpose, culprit: &Culprit, needs: &Needs) -> String {
    match purpose {
        Purpose::Arriving => "what goes to VIPs and node ports".to_owned(),
        Purpose::Translated | Purpose::Sender => "what goes to endpoints".to_owned(),
        Purpose::Answer => "what endpoints answer".to_owned(),
        Purpose::OwnEndpoint(_) => "what goes to endpoints on this node's own addresses".to_owned(),
        Purpose::HealthCheck | Purpose::Health => {
            let place = Place {
                name: culprit.base.clone(),
                hook: culprit.hook,
            };
            let ports: Vec<String> = (needs.own_ports(&place).iter())
                .map(ToString::to_string)
                .collect();
            format!("what asks this node for its health on {}", ports.join(", "))
        }
        Purpose::Membership => "what nodes tell one another (membership)".to_owned(),
        Purpose::Arp => {
            "ARP, so neighbours are not found and this node is not found by them".to_owned()
        }
    }
}

/// The commands of the old `ip_tables`.
fn legacy_program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-legacy",
        Family::V6 => "ip6tables-legacy",
    }
}

/// Whether there is a filter of the old `ip_tables`, which netlink does not show; asking for one where
/// there is none would make one.
fn has_legacy(family: Family) -> bool {
    let file = match family {
        Family::V4 => "ip_tables_names",
        Family::V6 => "ip6_tables_names",
    };
    let tables = fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
    tables.lines().any(|table| table == "filter")
}

/// Adds its rules, where its own program can print them.
pub(super) fn add_legacy(others: &mut Others) {
    for family in Family::BOTH
        .into_iter()
        .filter(|family| has_legacy(*family))
    {
        let program = format!("{}-save", legacy_program(family));
        let output = Command::new(program)
            .args(["-t", "filter"])
            .stdin(Stdio::null())
            .output();
        if let Some(output) = output.ok().filter(|it| it.status.success()) {
            others.add_legacy(family, &String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// A filter of the old `ip_tables` that could not be read.
fn unread(family: Family, others: &Others) -> Option<Finding> {
    if others.has_legacy(family) || !has_legacy(family) {
        return None;
    }
    let program = legacy_program(family);
    let message =
        format!("there are {family} rules of the old ip_tables, which cannot be read here");
    let remedy = format!(
        "see {program} -S; where FORWARD drops: {program} -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"
    );
    Some(finding(Level::Info, message, Some(remedy)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::port_range::PortRange;

    fn culprit(hook: Hook) -> Culprit {
        Culprit {
            base: ChainName {
                family: "inet",
                table: "filter".to_owned(),
                chain: "theirs".to_owned(),
            },
            hook,
            priority: 0,
            by: By::Policy,
            how: How::Dropped,
        }
    }

    fn harm(purposes: &[(Purpose, bool)]) -> Harm {
        Harm {
            purposes: purposes.iter().copied().collect(),
            label: None,
        }
    }

    #[test]
    fn a_chain_is_judged_by_what_does_not_come_through() {
        use Purpose::{Answer, Arriving, Health, HealthCheck, Membership, OwnEndpoint, Translated};
        for (purposes, level) in [
            (&[(Translated, true)][..], Level::Problem),
            (&[(Translated, false)], Level::Warning),
            (&[(Answer, true), (Translated, false)], Level::Problem),
            (&[(Arriving, false), (Health, true)], Level::Warning),
            (&[(Health, true), (OwnEndpoint(false), true)], Level::Info),
            (&[(OwnEndpoint(true), true)], Level::Problem),
            (&[(HealthCheck, true)], Level::Problem),
            (&[(Membership, true)], Level::Problem),
        ] {
            assert_eq!(harm(purposes).level(), level, "{purposes:?}");
        }
    }

    #[test]
    fn the_remedy_lets_through_what_is_lacking() {
        let needs = Needs {
            ipvs: false,
            held: vec!["192.0.2.200-192.0.2.219".parse().unwrap()],
            node_ports: PortRange::NODE_PORTS,
            health_checks: vec![31_500],
            health: Some(9756),
            membership: Some(9751),
        };
        let purposes = [(Purpose::HealthCheck, true), (Purpose::Membership, true)];
        let found = judge(&culprit(Hook::Input), &harm(&purposes), &needs);
        assert_eq!(
            found.message,
            "chain inet filter theirs (hook input, priority 0) drops what asks this node for its health on \
             9756, 31500 and what nodes tell one another (membership) by its policy; no accept in another \
             chain overrules that"
        );
        let remedy = found.remedy.unwrap();
        assert!(
            remedy.contains("tcp dport { 9756, 31500 } accept"),
            "{remedy}"
        );
        assert!(remedy.contains("udp dport 9751 accept"), "{remedy}");
    }
}
