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
        .map(|chain| judge(chain, &needs))
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
        remedy,
        ..Finding::new(Section::Firewall, level, message)
    }
}

/// What a chain that drops means.
fn judge(chain: &Dropping, needs: &Needs) -> Finding {
    let name = format!(
        "{} {} {}",
        chain.name.family, chain.name.table, chain.name.chain
    );
    if chain.hook == Hook::Forward && !needs.ipvs && chain.lets_translated {
        let message = format!("chain {name} drops, but for translated connections");
        return finding(Level::Fine, message, None);
    }
    let how = if chain.by_policy {
        "by its policy"
    } else {
        "by its last rule"
    };
    let unless = if chain.lets_some || chain.lets_translated {
        ", unless a rule of it accepts it"
    } else {
        ""
    };
    let (worst, what) = stopped(chain, needs);
    let level = match worst {
        Level::Problem if !unless.is_empty() => Level::Warning,
        worst => worst,
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
    finding(level, message, Some(remedy))
}

/// What a chain stops that lets nothing through, and how bad that is.
fn stopped(chain: &Dropping, needs: &Needs) -> (Level, String) {
    let ports: Vec<String> = (needs.own_ports(chain).iter())
        .map(ToString::to_string)
        .collect();
    let ports = (!ports.is_empty())
        .then(|| format!("what asks this node for its health on {}", ports.join(", ")));
    let (level, translated) = match (chain.hook, needs.ipvs) {
        (Hook::Forward, false) => (Level::Problem, "what goes to endpoints".to_owned()),
        (Hook::Forward, true) => (Level::Problem, "what endpoints answer".to_owned()),
        (Hook::Input, true) => (
            Level::Problem,
            "what goes to VIPs and node ports".to_owned(),
        ),
        (Hook::Input, false) => {
            let endpoints: Vec<String> = (needs.own_endpoints(chain))
                .map(ToString::to_string)
                .collect();
            // Such endpoints can come any day, and without health checks nothing else is missing.
            let level = match (chain.lets_translated, endpoints.is_empty()) {
                _ if !needs.health_checks.is_empty() => Level::Problem,
                (true, _) => Level::Info,
                (false, true) => Level::Warning,
                (false, false) => Level::Problem,
            };
            let mut what = "what goes to endpoints on this node's own addresses".to_owned();
            if !endpoints.is_empty() {
                what = format!("{what} ({})", endpoints.join(", "));
            }
            if chain.lets_translated {
                return (level, ports.unwrap_or(what));
            }
            (level, what)
        }
    };
    let what: Vec<String> = std::iter::once(translated).chain(ports).collect();
    (level, what.join(" and "))
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
            health: Some(9756),
            own_endpoints: Vec::new(),
        };
        let level = |chain: Dropping, needs: &Needs| judge(&chain, needs).level;
        let forward = |translated, some| chain(Hook::Forward, translated, some);
        let input = |translated, some| chain(Hook::Input, translated, some);
        assert_eq!(level(forward(false, false), &needs), Level::Problem);
        assert_eq!(level(forward(false, true), &needs), Level::Warning);
        assert_eq!(level(forward(true, true), &needs), Level::Fine);
        assert_eq!(level(input(false, false), &needs), Level::Warning);
        assert_eq!(level(input(true, false), &needs), Level::Info);
        let found = judge(&input(true, false), &needs).message;
        assert!(found.contains("drops what asks this node for its health on 9756 by"));

        needs.own_endpoints = vec!["192.0.2.11".parse().unwrap()];
        assert_eq!(level(input(false, true), &needs), Level::Warning);
        assert_eq!(level(input(false, false), &needs), Level::Problem);
        assert_eq!(level(input(true, false), &needs), Level::Info);
        let found = judge(&input(false, false), &needs);
        assert!(found.message.contains(
            "drops what goes to endpoints on this node's own addresses (192.0.2.11) and what asks \
             this node for its health on 9756 by its policy"
        ));
        let remedy = found.remedy.unwrap_or_default();
        assert!(remedy.contains("'insert rule inet filter theirs ct status dnat accept'"));
        let mut of_ipv6 = input(false, false);
        of_ipv6.name.family = "ip6";
        assert_eq!(level(of_ipv6, &needs), Level::Warning);

        needs.own_endpoints.clear();
        needs.health_checks = vec![31_500];
        let found = judge(&input(false, true), &needs);
        assert_eq!(found.level, Level::Warning);
        let remedy = found.remedy.unwrap_or_default();
        assert!(
            remedy.contains("'insert rule inet filter theirs tcp dport { 9756, 31500 } accept'")
        );
        needs.ipvs = true;
        assert_eq!(level(forward(true, true), &needs), Level::Warning);
        assert_eq!(level(input(false, false), &needs), Level::Problem);
    }
}
