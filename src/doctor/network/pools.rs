//! Whether each pool can be announced on this node, and holds no address of a host: by the subnets of the
//! interfaces, the Nodes of the cluster, and who answered on the LAN. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Facts, MOST_NAMED, finding, ipv6_is_off};
use crate::config::ProxyScope;
use crate::doctor::finding::{Finding, Level};
use crate::model::address_range::AddressRange;
use crate::model::family::Family;
use crate::model::host::Interface;
use crate::model::interface_pattern::InterfacePattern;
use crate::model::pool::Pool;

/// Addresses of pools that an interface of this node has.
pub(super) fn own_addresses(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Those that another tool put on the loopback answer as well.
    let interfaces = facts.host.interfaces.values();
    for interface in interfaces.filter(|it| it.name != "kube-ipvs0") {
        for address in &interface.addresses {
            let mut pools = facts.config.pools.iter();
            let Some(pool) = pools.find(|pool| pool.contains(address.addr())) else {
                continue;
            };
            let (name, ip) = (&interface.name, address.addr());
            findings.push(
                finding(
                    Level::Problem,
                    format!(
                        "interface {name} of this node has {ip}, which is in pool {}: it answers for it \
                         whoever owns the VIP",
                        pool.name
                    ),
                )
                .mend(format!(
                    "ip address del {address} dev {name} if it is a leftover (of keepalived, kube-vip, \
                     MetalLB), or take it out of the pool"
                )),
            );
        }
    }
    findings.truncate(MOST_NAMED);
    findings
}

/// Whether each family of a pool can be announced somewhere here.
pub(super) fn subnets(facts: &Facts, pool: &Pool) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Nodes of several kinds have one of the names each.
    let has = |name: &InterfacePattern| facts.interfaces().any(|it| name.matches(&it.name));
    if !pool.interfaces.is_empty() && !pool.interfaces.iter().any(has) {
        let there: Vec<&str> = facts.interfaces().map(|it| it.name.as_str()).collect();
        let named: Vec<&str> = (pool.interfaces.iter())
            .map(InterfacePattern::as_str)
            .collect();
        let message = format!(
            "pool {} is announced on interface {} only, which this node does not have",
            pool.name,
            named.join(" or ")
        );
        // Where another node announces them, this one need not.
        let level = if facts.unowned.iter().any(|vip| pool.contains(*vip)) {
            Level::Problem
        } else {
            Level::Warning
        };
        let told = finding(level, message).seen(format!("it has {}", there.join(", ")));
        return vec![told.mend(format!(
            "name one of these in `interfaces` of pool {} (edgelb.toml), then systemctl reload edgelb; or ip \
             link set … name …",
            pool.name
        ))];
    }
    for family in Family::BOTH {
        let ranges: Vec<&AddressRange> = pool
            .ranges
            .iter()
            .filter(|it| it.family() == family)
            .collect();
        let Some(range) = ranges.first() else {
            continue;
        };
        let inside = |it: &&Interface| {
            let mut subnets = it.addresses.iter();
            let bound = pool.interfaces.iter().any(|name| name.matches(&it.name));
            bound || subnets.any(|subnet| ranges.iter().any(|range| touches(subnet, range)))
        };
        let holding: Vec<&Interface> = facts.interfaces().filter(inside).collect();
        let name = &pool.name;
        let told = if holding.is_empty() {
            let subnets: Vec<String> = facts
                .interfaces()
                .flat_map(|it| &it.addresses)
                .filter(|subnet| {
                    Family::of(subnet.addr()) == family && !is_link_local(subnet.addr())
                })
                .map(|subnet| subnet.trunc().to_string())
                .collect();
            // IPv6 that is switched off is told by itself.
            if family == Family::V6 && ipv6_is_off(facts) {
                continue;
            }
            let seen = if subnets.is_empty() {
                format!("it has no {family} subnet")
            } else {
                format!("it has {}", subnets.join(", "))
            };
            finding(
                Level::Warning,
                format!("no interface of this node has a subnet that holds {range} of pool {name}: it cannot announce them"),
            )
            .seen(seen)
            .mend(format!(
                "ip address add ADDRESS/LENGTH dev INTERFACE from that subnet, or name the interface in \
                 `interfaces` of pool {name}"
            ))
        } else if let Some(excluded) = (holding.iter().all(|it| facts.excluded(&it.name)))
            .then(|| holding.first())
            .flatten()
        {
            finding(
                Level::Problem,
                format!(
                    "announce.exclude_interfaces leaves out {}, the only interface with the subnet of pool {name}",
                    excluded.name
                ),
            )
            .mend(format!("take the pattern that matches {} out of announce.exclude_interfaces", excluded.name))
        } else if let Some(down) = (holding.iter().all(|it| !it.running))
            .then(|| holding.first())
            .flatten()
        {
            finding(
                Level::Problem,
                format!(
                    "interface {} is down or has no carrier: pool {name} cannot be announced",
                    down.name
                ),
            )
            .mend(format!(
                "ip link set {} up; look at its cable and switch port",
                down.name
            ))
        } else {
            continue;
        };
        // Both families of an interface fail alike.
        if !findings.contains(&told) {
            findings.push(told);
        }
    }
    findings
}

fn touches(subnet: &IpNet, range: &AddressRange) -> bool {
    // A host's own address as a subnet of one is none to announce in.
    subnet.prefix_len() < subnet.max_prefix_len()
        && range.overlaps(&AddressRange::from(subnet.trunc()))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Pools that hold addresses of Nodes, pods, `ClusterIPs`, gateways.
pub(super) fn overlaps(facts: &Facts) -> Vec<Finding> {
    let Some(cluster) = facts.cluster else {
        return Vec::new();
    };
    let mut taken: Vec<(String, AddressRange)> = Vec::new();
    for node in cluster.nodes.values() {
        let name = &node.name;
        let addresses = node.addresses.iter().copied().map(IpNet::from);
        taken.extend(addresses.map(|it| (format!("the address of node {name}"), it.into())));
        let pods = node.pod_cidrs.iter().copied();
        taken.extend(pods.map(|it| (format!("the pod range of node {name}"), it.into())));
    }
    let gateways = facts.host.infrastructure.iter().copied().map(IpNet::from);
    taken.extend(gateways.map(|it| ("a gateway or resolver".to_owned(), it.into())));
    if facts.config.proxy.scope == ProxyScope::All {
        let ranges = cluster
            .service_cidrs
            .values()
            .flat_map(|it| it.iter().copied());
        taken.extend(ranges.map(|it| ("a range of ClusterIPs".to_owned(), it.into())));
    }
    let mut findings = Vec::new();
    for pool in &facts.config.pools {
        let mut clashes = taken
            .iter()
            .flat_map(|(what, theirs)| pool.ranges.iter().map(move |ours| (what, theirs, ours)))
            .filter(|(_, theirs, ours)| ours.overlaps(theirs));
        if let Some((what, theirs, ours)) = clashes.next() {
            let message = format!("{ours} of pool {} overlaps {theirs}, {what}", pool.name);
            let more = clashes.count();
            let told = finding(Level::Problem, message).mend(format!(
                "take {theirs} out of pool {}: edgelb check, then reload",
                pool.name
            ));
            findings.push(if more == 0 {
                told
            } else {
                told.seen(format!("and {more} more such overlaps"))
            });
        }
    }
    findings
}

/// Hosts that answered for an address of a pool that no Service holds.
pub(super) fn foreign_hosts(facts: &Facts) -> Vec<Finding> {
    // Whether it is a VIP, only a daemon knows.
    if !facts.has_daemon {
        return Vec::new();
    }
    let own: Vec<[u8; 6]> = facts.interfaces().filter_map(|it| it.mac).collect();
    let known = |address: IpAddr| facts.vips.iter().any(|(vip, ..)| *vip == address);
    let mut findings = Vec::new();
    for neighbour in facts.neighbours {
        let (address, mac) = (neighbour.address, neighbour.mac);
        let pool = facts
            .config
            .pools
            .iter()
            .find(|pool| pool.contains(address));
        let Some(pool) = pool.filter(|_| !known(address) && !own.contains(&mac.0)) else {
            continue;
        };
        let link = facts
            .links
            .get(&neighbour.link)
            .map_or("?", |link| link.name.as_str());
        findings.push(
            finding(
                Level::Warning,
                format!("a host on the LAN uses {address}, which is in pool {}", pool.name),
            )
            .seen(format!("{mac} answers on {link}; a DHCP server may lend from the pool"))
            .mend(format!(
                "take {address} from that host, and the pool out of the DHCP server's range; or leave it \
                 out of the pool"
            )),
        );
    }
    findings.truncate(MOST_NAMED);
    findings
}
