//! What has to come through the chains of others, and the commands that let it: of nft, or of
//! iptables where that made the chain. Pure.
//!
//! iptables refuses a table in which it finds a rule that it could not have written itself, so that
//! one of nft there takes every other program its way to it.

use std::net::IpAddr;

use ipnet::{IpNet, IpSubnets};

use super::running::Running;
use crate::apply::nftables::others::{ChainName, Hook, LEGACY, Packet};
use crate::config::{Config, Datapath};
use crate::model::address_range::AddressRange;
use crate::model::family::Family;
use crate::model::port_range::PortRange;

/// The most ports that one rule of iptables can name (`XT_MULTI_PORTS`).
const MOST_PORTS: usize = 15;

/// A chain of somebody else on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: ChainName,
    pub(super) hook: Hook,
}

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// To a VIP or a node port.
    Arriving,
    /// To an endpoint, translated.
    Translated,
    /// To an endpoint that has to see who sent it.
    Sender,
    /// What endpoints answer.
    Answer,
    /// To an endpoint with an address of this node; that none is known is possible.
    OwnEndpoint(bool),
    /// Health checks of Services.
    HealthCheck,
    /// `observability.health_listen`
    Health,
    Membership,
    Arp,
}

/// A packet on a hook, between two priorities.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) hook: Hook,
    pub(super) above: i32,
    pub(super) below: i32,
    pub(super) packet: Packet,
    pub(super) purpose: Purpose,
    /// What is harmed: `192.0.2.200 tcp port 80, a VIP of default/web`.
    pub(super) label: String,
}

/// What has to come through.
#[derive(Debug, Clone)]
pub(super) struct Needs {
    pub(super) ipvs: bool,
    /// Addresses that virtual servers have; sorted, none touches another.
    pub(super) held: Vec<AddressRange>,
    pub(super) node_ports: PortRange,
    /// Ports on which this node answers health checks of Services, sorted.
    pub(super) health_checks: Vec<u16>,
    /// The port of `observability.health_listen`, where others can ask it.
    pub(super) health: Option<u16>,
    /// The UDP port of membership, where nodes talk with one another.
    pub(super) membership: Option<u16>,
}

impl Needs {
    pub(super) fn of(config: &Config, running: Option<&Running>) -> Self {
        let ipvs = match (running, config.proxy.datapath) {
            (Some(running), _) => running.status.datapath == "ipvs",
            (None, Datapath::Ipvs) => true,
            (None, Datapath::Nftables) => false,
            (None, Datapath::Auto) => super::has_ipvs(),
        };
        let pools = config.pools.iter().flat_map(|pool| &pool.ranges).copied();
        let (service_ranges, held) = match running.map(|it| &it.status.passing) {
            // It knows ranges that the cluster has and nobody configured, and addresses of externalIPs
            // and of others' statuses.
            Some(passing) => (&passing.service_ranges, passing.held.as_slice()),
            None => (&config.proxy.service_cidrs, [].as_slice()),
        };
        let networks = (service_ranges.iter())
            .chain(&config.proxy.external_ip_ranges)
            .chain(held)
            .copied();
        let services = running.into_iter().flat_map(|it| &it.services.services);
        let mut health_checks: Vec<u16> = services
            .filter_map(|service| service.health_check_node_port)
            .collect();
        health_checks.sort_unstable();
        health_checks.dedup();
        Self {
            ipvs,
            held: merged(pools.chain(networks.map(AddressRange::from)).collect()),
            node_ports: config.proxy.node_port_range,
            health_checks,
            health: Some(config.observability.health_listen)
                .filter(|listen| !listen.ip().is_loopback())
                .map(|listen| listen.port()),
            membership: (!config.membership.key_files.is_empty())
                .then(|| config.membership.listen.port.get()),
        }
    }

    /// The commands that let it through such a chain.
    pub(super) fn commands(&self, chain: &Place) -> Vec<String> {
        match made_by_iptables(chain) {
            Some(family) => self.iptables(family, chain),
            None => self.nft(chain),
        }
    }

    /// Whether translated connections go through such a chain: through input those to endpoints with
    /// an address of this node.
    fn translates(&self, chain: &Place) -> bool {
        match chain.hook {
            Hook::Forward => true,
            Hook::Input => !self.ipvs,
            _ => false,
        }
    }

    /// The ports of this node itself behind such a chain.
    pub(super) fn own_ports(&self, chain: &Place) -> Vec<u16> {
        match chain.hook {
            Hook::Input => self
                .health
                .iter()
                .chain(&self.health_checks)
                .copied()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The port of membership that such a chain has to let through.
    fn membership(&self, chain: &Place) -> Option<u16> {
        let passes = matches!(chain.hook, Hook::Input | Hook::Output);
        self.membership.filter(|_| passes)
    }

    fn held(&self, family: Family) -> impl Iterator<Item = &AddressRange> {
        (self.held.iter()).filter(move |range| range.family() == family)
    }

    fn nft(&self, chain: &Place) -> Vec<String> {
        let mut rules = Vec::new();
        if self.ipvs {
            // By the connection's first destination: the packet to the virtual server on its way in,
            // and the answer of a real server on its way through.
            for (family, word) in Family::BOTH.into_iter().zip(["ip", "ip6"]) {
                let held: Vec<String> = self.held(family).map(ToString::to_string).collect();
                if !held.is_empty() && ["inet", word].contains(&chain.name.family) {
                    let held = held.join(", ");
                    rules.push(format!("ct original {word} daddr {{ {held} }} accept"));
                }
            }
            rules.push(format!(
                "meta l4proto {{ tcp, udp, sctp }} ct original proto-dst {} accept",
                self.node_ports
            ));
        }
        if self.translates(chain) {
            rules.push("ct status dnat accept".to_owned());
        }
        let ports: Vec<String> = (self.own_ports(chain).iter()).map(u16::to_string).collect();
        if !ports.is_empty() {
            rules.push(format!("tcp dport {{ {} }} accept", ports.join(", ")));
        }
        rules.extend(
            self.membership(chain)
                .map(|port| format!("udp dport {port} accept")),
        );
        let name = &chain.name;
        let place = format!("{} {} {}", name.family, name.table, name.chain);
        (rules.iter())
            .map(|rule| format!("nft 'insert rule {place} {rule}'"))
            .collect()
    }

    fn iptables(&self, family: Family, chain: &Place) -> Vec<String> {
        let mut matches = Vec::new();
        if self.ipvs {
            let networks = self.held(family).flat_map(networks);
            matches.extend(networks.map(|it| format!("-m conntrack --ctorigdst {it}")));
            let (first, last) = (self.node_ports.first(), self.node_ports.last());
            matches.push(format!("-m conntrack --ctorigdstport {first}:{last}"));
        }
        if self.translates(chain) {
            matches.push("-m conntrack --ctstate DNAT".to_owned());
        }
        for ports in self.own_ports(chain).chunks(MOST_PORTS) {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            matches.push(format!("-p tcp -m multiport --dports {}", ports.join(",")));
        }
        matches.extend(
            self.membership(chain)
                .map(|port| format!("-p udp --dport {port}")),
        );
        let legacy = if chain.name.table == LEGACY {
            "-legacy"
        } else {
            ""
        };
        let program = format!("{}{legacy}", program(family));
        let chain = &chain.name.chain;
        (matches.iter())
            .map(|it| format!("{program} -I {chain} {it} -j ACCEPT"))
            .collect()
    }
}

/// The name of iptables for a family.
fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// The family of a chain that is one of iptables by its name.
fn made_by_iptables(chain: &Place) -> Option<Family> {
    let name = &chain.name;
    let family = match name.family {
        "ip" => Family::V4,
        "ip6" => Family::V6,
        _ => return None,
    };
    let theirs = ["filter", LEGACY].contains(&name.table.as_str())
        && ["INPUT", "FORWARD", "OUTPUT"].contains(&name.chain.as_str());
    theirs.then_some(family)
}

/// The same addresses in as few ranges: neither nft nor anybody who reads it wants one twice.
fn merged(mut ranges: Vec<AddressRange>) -> Vec<AddressRange> {
    ranges.sort_unstable();
    let mut merged: Vec<AddressRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.overlaps(&range) => {
                let end = last.last().max(range.last());
                *last = AddressRange::new(last.first(), end).unwrap_or(*last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// A range as networks, the only thing that iptables can ask a connection for.
fn networks(range: &AddressRange) -> Vec<IpNet> {
    let subnets = match (range.first(), range.last()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            IpSubnets::from(ipnet::Ipv4Subnets::new(first, last, 0))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            IpSubnets::from(ipnet::Ipv6Subnets::new(first, last, 0))
        }
        _ => return Vec::new(),
    };
    subnets.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn chain(family: &'static str, table: &str, chain: &str, hook: Hook) -> Place {
        Place {
            name: ChainName {
                family,
                table: table.to_owned(),
                chain: chain.to_owned(),
            },
            hook,
        }
    }

    fn needs(ipvs: bool) -> Needs {
        let held = ["192.0.2.200-192.0.2.211", "2001:db8::/112"];
        Needs {
            ipvs,
            held: held.map(|range| range.parse().unwrap()).to_vec(),
            node_ports: PortRange::NODE_PORTS,
            health_checks: vec![31_500, 31_501],
            health: Some(9756),
            membership: None,
        }
    }

    #[test]
    fn a_chain_of_iptables_gets_commands_of_iptables_alone() {
        let input = chain("ip", "filter", "INPUT", Hook::Input);
        let forward = chain("ip6", "filter", "FORWARD", Hook::Forward);
        assert_eq!(
            needs(false).commands(&input),
            [
                "iptables -I INPUT -m conntrack --ctstate DNAT -j ACCEPT",
                "iptables -I INPUT -p tcp -m multiport --dports 9756,31500,31501 -j ACCEPT",
            ]
        );
        assert_eq!(
            needs(false).commands(&forward),
            ["ip6tables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"]
        );
        assert_eq!(
            needs(true).commands(&input),
            [
                "iptables -I INPUT -m conntrack --ctorigdst 192.0.2.200/29 -j ACCEPT",
                "iptables -I INPUT -m conntrack --ctorigdst 192.0.2.208/30 -j ACCEPT",
                "iptables -I INPUT -m conntrack --ctorigdstport 30000:32767 -j ACCEPT",
                "iptables -I INPUT -p tcp -m multiport --dports 9756,31500,31501 -j ACCEPT",
            ]
        );
        assert_eq!(
            needs(true).commands(&forward),
            [
                "ip6tables -I FORWARD -m conntrack --ctorigdst 2001:db8::/112 -j ACCEPT",
                "ip6tables -I FORWARD -m conntrack --ctorigdstport 30000:32767 -j ACCEPT",
                "ip6tables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT",
            ]
        );
    }

    #[test]
    fn ports_beyond_what_a_rule_of_iptables_holds_get_another_one() {
        let mut needs = needs(false);
        needs.health_checks = (31_000..31_016).collect();
        let commands = needs.commands(&chain("ip", "filter", "INPUT", Hook::Input));
        assert_eq!(commands.len(), 3);
        assert!(commands.iter().all(|it| it.matches(',').count() < 15));
    }

    #[test]
    fn other_chains_get_rules_of_nft() {
        let forward = chain("inet", "filter", "forward", Hook::Forward);
        assert_eq!(
            needs(true).commands(&forward),
            [
                "nft 'insert rule inet filter forward ct original ip daddr { \
                 192.0.2.200-192.0.2.211 } accept'",
                "nft 'insert rule inet filter forward ct original ip6 daddr { 2001:db8::/112 } \
                 accept'",
                "nft 'insert rule inet filter forward meta l4proto { tcp, udp, sctp } ct original \
                 proto-dst 30000-32767 accept'",
                "nft 'insert rule inet filter forward ct status dnat accept'",
            ]
        );
        let input = chain("ip", "firewall", "INPUT", Hook::Input);
        let commands = needs(false).commands(&input);
        let wanted = "nft 'insert rule ip firewall INPUT tcp dport { 9756, 31500, 31501 } accept'";
        assert!(commands.contains(&wanted.to_owned()), "{commands:?}");
    }

    #[test]
    fn membership_comes_in_and_goes_out() {
        let needs = Needs {
            membership: Some(9751),
            ..needs(false)
        };
        for hook in [Hook::Input, Hook::Output, Hook::Forward] {
            let commands = needs.commands(&chain("inet", "filter", "theirs", hook));
            let lets = commands
                .iter()
                .any(|it| it.contains("udp dport 9751 accept"));
            assert_eq!(lets, hook != Hook::Forward, "{commands:?}");
        }
        let commands = needs.commands(&chain("ip", "filter", "INPUT", Hook::Input));
        let last = commands.last().unwrap();
        assert_eq!(last, "iptables -I INPUT -p udp --dport 9751 -j ACCEPT");
    }

    #[test]
    fn no_address_is_named_twice() {
        let ranges = [
            "192.0.2.0/24",
            "192.0.2.8/29",
            "2001:db8::/64",
            "10.0.0.0/8",
        ];
        let merged = merged(ranges.map(|range| range.parse().unwrap()).to_vec());
        let text: Vec<String> = merged.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/64"]);
    }
}
