//! Firewalls in the way: base chains of others that drop what they do not know. No rule of ours can
//! overrule them, so the rule that lets edgelb's traffic through has to stand in theirs.

use std::fs;

use super::running::Running;
use super::{Finding, Level, Section};
use crate::apply::nftables::others::{Dropping, Hook, Others};
use crate::config::{Config, Datapath};
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

/// What has to come through.
struct Needs {
    ipvs: bool,
    /// Addresses that virtual servers have, as nft writes a set.
    held: [String; 2],
    node_ports: String,
    /// Ports on which this node answers health checks of Services, sorted.
    health_checks: Vec<u16>,
}

impl Needs {
    fn of(config: &Config, running: Option<&Running>) -> Self {
        let ipvs = match (running, config.proxy.datapath) {
            (Some(running), _) => running.status.datapath == "ipvs",
            (None, Datapath::Ipvs) => true,
            (None, Datapath::Nftables) => false,
            (None, Datapath::Auto) => super::has_ipvs(),
        };
        let held = Family::BOTH.map(|family| {
            let pools = config.pools.iter().flat_map(|pool| &pool.ranges);
            let pools = pools.filter(|range| range.family() == family);
            let networks = [
                &config.proxy.service_cidrs,
                &config.proxy.external_ip_ranges,
            ];
            let networks = networks.into_iter().flatten();
            let networks = networks.filter(|range| Family::of(range.addr()) == family);
            let mut ranges: Vec<String> = pools.map(ToString::to_string).collect();
            ranges.extend(networks.map(ToString::to_string));
            ranges.join(", ")
        });
        let services = running.into_iter().flat_map(|it| &it.services.services);
        let mut health_checks: Vec<u16> = services
            .filter_map(|service| service.health_check_node_port)
            .collect();
        health_checks.sort_unstable();
        health_checks.dedup();
        Self {
            ipvs,
            held,
            node_ports: config.proxy.node_port_range.to_string(),
            health_checks,
        }
    }

    /// The rules that let it through such a chain, without `nft insert rule` and the place.
    fn rules(&self, chain: &Dropping) -> Vec<String> {
        let mut rules = Vec::new();
        if self.ipvs {
            // By the connection's first destination: the packet to the virtual server on its way in,
            // and the answer of a real server on its way through.
            for (family, held) in Family::BOTH.into_iter().zip(&self.held) {
                let word = match family {
                    Family::V4 => "ip",
                    Family::V6 => "ip6",
                };
                if !held.is_empty() && ["inet", word].contains(&chain.name.family) {
                    rules.push(format!("ct original {word} daddr {{ {held} }} accept"));
                }
            }
            rules.push(format!(
                "meta l4proto {{ tcp, udp, sctp }} ct original proto-dst {} accept",
                self.node_ports
            ));
        }
        if !self.ipvs || chain.hook == Hook::Forward {
            rules.push("ct status dnat accept".to_owned());
        }
        if chain.hook == Hook::Input && !self.health_checks.is_empty() {
            let ports: Vec<String> = self.health_checks.iter().map(u16::to_string).collect();
            rules.push(format!("tcp dport {{ {} }} accept", ports.join(", ")));
        }
        rules
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
    let rules: Vec<String> = match iptables(chain).filter(|_| !needs.ipvs) {
        Some(rule) => vec![rule],
        None => (needs.rules(chain).iter())
            .map(|rule| format!("nft 'insert rule {name} {rule}'"))
            .collect(),
    };
    let remedy = format!(
        "{}, and the same in the file that makes the chain",
        rules.join(" && ")
    );
    Some(finding(level, message, Some(remedy)))
}

/// The rule for translated connections in a chain that iptables made, which does not understand those
/// of nft.
fn iptables(chain: &Dropping) -> Option<String> {
    let program = match chain.name.family {
        "ip" => "iptables",
        "ip6" => "ip6tables",
        _ => return None,
    };
    let made_by_it =
        (chain.name.table.as_str(), chain.name.chain.as_str()) == ("filter", "FORWARD");
    made_by_it.then(|| format!("{program} -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"))
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
    use super::*;
    use crate::apply::nftables::others::ChainName;

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
            held: ["192.0.2.200-192.0.2.219".to_owned(), String::new()],
            node_ports: "30000-32767".to_owned(),
            health_checks: Vec::new(),
        };
        let level = |chain: Dropping, needs: &Needs| judge(&chain, needs).map(|it| it.level);
        let forward = |translated, some| chain(Hook::Forward, translated, some);
        assert_eq!(level(forward(false, false), &needs), Some(Level::Problem));
        assert_eq!(level(forward(false, true), &needs), Some(Level::Warning));
        assert_eq!(level(forward(true, true), &needs), Some(Level::Fine));
        assert_eq!(level(chain(Hook::Input, false, false), &needs), None);
        let mut made_by_iptables = forward(false, false);
        made_by_iptables.name = ChainName {
            family: "ip6",
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
        };
        let remedy = judge(&made_by_iptables, &needs).and_then(|found| found.remedy);
        let wanted = "ip6tables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT, and";
        assert!(remedy.is_some_and(|remedy| remedy.starts_with(wanted)));
        needs.health_checks = vec![31_500];
        let found = judge(&chain(Hook::Input, false, true), &needs);
        let remedy = found.and_then(|found| found.remedy).unwrap_or_default();
        assert!(remedy.contains("'insert rule inet filter theirs tcp dport { 31500 } accept'"));
        needs.ipvs = true;
        assert_eq!(level(forward(true, true), &needs), Some(Level::Warning));
        let rules = needs.rules(&forward(false, false));
        assert_eq!(
            rules,
            [
                "ct original ip daddr { 192.0.2.200-192.0.2.219 } accept",
                "meta l4proto { tcp, udp, sctp } ct original proto-dst 30000-32767 accept",
                "ct status dnat accept",
            ]
        );
    }
}
