//! Firewalls in the way: base chains of others that drop what they do not know. No rule of ours can
//! overrule them, so the rule that lets edgelb's traffic through has to stand in theirs.

use std::fs;

use super::passing::Needs;
use super::running::Running;
use super::{Finding, Level, Section};
use crate::apply::nftables::others::{Dropping, Hook, Others};
use crate::config::Config;
use crate::model::family::Family;

/// The findings of this section.
pub(super) fn examine(
    config: &Config,
    running: Option<&Running>,
    others: Option<&Others>,
) -> Vec<Finding> {
    let Some(others) = others else {
        let message = "cannot read the chains of other firewalls in nf_tables".to_owned();
        let remedy = "run doctor as root on a kernel with nf_tables".to_owned();
        return vec![finding(Level::Warning, message, Some(remedy))];
    };
    let needs = Needs::of(config, running);
    let mut findings: Vec<Finding> = (others.dropping.iter())
        .filter_map(|chain| judge(chain, &needs))
        .collect();
    findings.extend(Family::BOTH.into_iter().filter_map(legacy));
    if findings.is_empty() {
        let message = "no chain of another firewall drops what goes to Services";
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        section: Section::Firewall,
        level,
        message,
        remedy,
    }
}

/// What a chain that drops means; none where nothing of ours goes that way.
fn judge(chain: &Dropping, needs: &Needs) -> Option<Finding> {
    let name = format!(
        "{} {} {}",
        chain.name.family, chain.name.table, chain.name.chain
    );
    let concerned = match chain.hook {
        Hook::Forward => true,
        Hook::Input => needs.ipvs || !needs.health_checks.is_empty(),
    };
    if !concerned {
        return None;
    }
    if chain.hook == Hook::Forward && !needs.ipvs && chain.lets_translated {
        let message = format!("chain {name} drops, but for translated connections");
        return Some(finding(Level::Fine, message, None));
    }
    let how = if chain.by_policy {
        "by its policy"
    } else {
        "by its last rule"
    };
    let what = match (chain.hook, needs.ipvs) {
        (Hook::Forward, false) => "what goes to endpoints",
        (Hook::Forward, true) => "what endpoints answer",
        (Hook::Input, true) => "what goes to VIPs, node ports and health-check ports",
        (Hook::Input, false) => "what asks health-check ports",
    };
    let (level, unless) = if chain.lets_some || chain.lets_translated {
        (Level::Warning, ", unless a rule of it accepts it")
    } else {
        (Level::Problem, "")
    };
    let message = format!(
        "chain {name} (hook {}, priority {}) drops {what} {how}{unless}; no accept in another chain \
         overrules that",
        chain.hook.as_str(),
        chain.priority,
    );
    let remedy = format!(
        "{}, and the same in the file that makes the chain",
        needs.commands(chain).join(" && ")
    );
    Some(finding(level, message, Some(remedy)))
}

/// Rules of the old `ip_tables`, which netlink does not show.
fn legacy(family: Family) -> Option<Finding> {
    let (file, program) = match family {
        Family::V4 => ("ip_tables_names", "iptables-legacy"),
        Family::V6 => ("ip6_tables_names", "ip6tables-legacy"),
    };
    let tables = fs::read_to_string(format!("/proc/self/net/{file}")).ok()?;
    if !tables.lines().any(|table| table == "filter") {
        return None;
    }
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
    use crate::apply::nftables::others::ChainName;
    use crate::model::port_range::PortRange;

    fn chain(hook: Hook, lets_translated: bool, lets_some: bool) -> Dropping {
        Dropping {
            name: ChainName {
                family: "inet",
                table: "filter".to_owned(),
                chain: "theirs".to_owned(),
            },
            hook,
            priority: 0,
            by_policy: true,
            lets_translated,
            lets_some,
        }
    }

    #[test]
    fn a_chain_is_judged_by_what_goes_through_it() {
        let mut needs = Needs {
            ipvs: false,
            held: vec!["192.0.2.200-192.0.2.219".parse().unwrap()],
            node_ports: PortRange::NODE_PORTS,
            health_checks: Vec::new(),
        };
        let level = |chain: Dropping, needs: &Needs| judge(&chain, needs).map(|it| it.level);
        let forward = |translated, some| chain(Hook::Forward, translated, some);
        assert_eq!(level(forward(false, false), &needs), Some(Level::Problem));
        assert_eq!(level(forward(false, true), &needs), Some(Level::Warning));
        assert_eq!(level(forward(true, true), &needs), Some(Level::Fine));
        assert_eq!(level(chain(Hook::Input, false, false), &needs), None);
        needs.health_checks = vec![31_500];
        let found = judge(&chain(Hook::Input, false, true), &needs);
        let remedy = found.and_then(|found| found.remedy).unwrap_or_default();
        assert!(remedy.contains("'insert rule inet filter theirs tcp dport { 31500 } accept'"));
        needs.ipvs = true;
        assert_eq!(level(forward(true, true), &needs), Some(Level::Warning));
    }
}
