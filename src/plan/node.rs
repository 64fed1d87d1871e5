//! What depends on the configuration, the host and the Nodes alone: no Service is asked here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdSet;
use ipnet::IpNet;

use super::Inputs;
use super::address::KUBE_PROXY_INTERFACE;
use crate::config::Config;
use crate::model::family::Family;
use crate::model::host::Interface;
use crate::model::node_state::NodeState;
use crate::model::sysctl::{Rule, Sysctl};

const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// What depends on the configuration, the host and the Nodes alone.
pub(super) fn state(config: &Config, inputs: &Inputs) -> NodeState {
    let mut state = NodeState {
        service_ranges: service_ranges(config, inputs),
        pod_interfaces: config.proxy.cluster_interfaces.iter().cloned().collect(),
        ..Default::default()
    };
    state.pod_ranges = config
        .proxy
        .cluster_cidrs
        .iter()
        .copied()
        .chain(
            inputs
                .cluster
                .nodes
                .values()
                .flat_map(|node| node.pod_cidrs.iter().copied()),
        )
        .collect();
    let wanted = |address: IpAddr| {
        let ranges = &config.proxy.node_port_addresses;
        ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))
    };
    for interface in inputs
        .host
        .interfaces
        .values()
        .filter(|interface| !interface.loopback && interface.name != KUBE_PROXY_INTERFACE)
    {
        for address in interface.addresses.iter().map(IpNet::addr) {
            // NP-7: link-local IPv6 addresses open nothing.
            let link_local =
                matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            if !link_local && wanted(address) {
                state.node_addresses.insert(address);
            }
        }
    }
    for family in Family::BOTH {
        if let Some(address) = preferred_source(inputs, family) {
            state.preferred_source.insert(family, address);
        }
    }
    state.sysctls = sysctls(config, inputs, &state);
    state
}

/// The ranges of `ClusterIPs`: as configured, or else as the cluster has them. A found range that
/// holds an address of a host would cut this node off from it and is left out.
fn service_ranges(config: &Config, inputs: &Inputs) -> OrdSet<IpNet> {
    if !config.finds_service_cidrs() {
        return config.proxy.service_cidrs.iter().copied().collect();
    }
    let hosts: Vec<IpAddr> = inputs
        .host
        .addresses()
        .chain(inputs.host.infrastructure.iter().copied())
        .chain(
            inputs
                .cluster
                .nodes
                .values()
                .flat_map(|node| node.addresses.clone()),
        )
        .collect();
    let found = inputs.cluster.service_cidrs.values();
    found
        .flat_map(|ranges| ranges.iter())
        .filter(|range| !hosts.iter().any(|host| range.contains(host)))
        .map(IpNet::trunc)
        .collect()
}

/// The address that this node's own packets to a held address carry: the Node object's where an
/// interface has it, else the first global one. Never the held address itself (SYS-8).
fn preferred_source(inputs: &Inputs, family: Family) -> Option<IpAddr> {
    let own: Vec<IpAddr> = inputs
        .host
        .interfaces
        .values()
        .filter(|interface| !interface.loopback && interface.running)
        .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
        .filter(|address| Family::of(*address) == family)
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    let node = inputs.cluster.nodes.get(&inputs.node);
    node.into_iter()
        .flat_map(|node| node.addresses.iter().copied())
        .find(|address| own.contains(address))
        .or_else(|| own.first().copied())
}

/// The sysctls that both datapaths need. The IPVS ones are the IPVS datapath's own business.
fn sysctls(config: &Config, inputs: &Inputs, state: &NodeState) -> BTreeMap<String, Sysctl> {
    let exactly = |path: &str, value: &str| (path.to_owned(), Sysctl::exactly(value));
    let mut sysctls = BTreeMap::from([
        exactly("net/ipv4/ip_forward", "1"),
        // Also where the fence stands for strict ARP: a question in a VIP's name would be held back, and
        // the node could not reach the client that it answers.
        exactly("net/ipv4/conf/all/arp_announce", "2"),
    ]);
    if config.proxy.strict_arp {
        // SYS-5: otherwise every node answers for every held address.
        sysctls.extend([exactly("net/ipv4/conf/all/arp_ignore", "1")]);
    }
    if forwards_ipv6(config, inputs, state) {
        sysctls.extend([exactly(IPV6_FORWARDING, "1")]);
        sysctls.extend(uplinks(config, inputs, state).map(|name| {
            (
                format!("net/ipv6/conf/{name}/accept_ra"),
                router_advertisements(),
            )
        }));
    }
    sysctls
}

/// D-11: whether IPv6 is used here at all, and this node could forward it.
fn forwards_ipv6(config: &Config, inputs: &Inputs, state: &NodeState) -> bool {
    let is_ipv6 = |address: IpAddr| Family::of(address) == Family::V6;
    let mut ranges = state
        .pod_ranges
        .iter()
        .chain(&state.service_ranges)
        .chain(&config.proxy.node_port_addresses);
    let mut pools = config.pools.iter().flat_map(|pool| &pool.ranges);
    (ranges.any(|range| is_ipv6(range.addr())) || pools.any(|range| range.family() == Family::V6))
        && preferred_source(inputs, Family::V6).is_some()
}

/// A router ignores router advertisements, and with the default route that it learned from them a
/// node would lose its way out: 2 says to take them all the same (Documentation/networking/ip-sysctl).
/// Only where it is us who make it a router.
fn router_advertisements() -> Sysctl {
    Sysctl::optionally(Rule::Instead {
        found: "1".to_owned(),
        value: "2".to_owned(),
        because: IPV6_FORWARDING.to_owned(),
    })
}

/// Interfaces that may lead to a router. Not those to pods: what a pod advertises is not believed.
fn uplinks<'a>(
    config: &'a Config,
    inputs: &'a Inputs,
    state: &'a NodeState,
) -> impl Iterator<Item = &'a str> {
    let is_of_pods = |interface: &Interface| {
        let mut patterns = config.proxy.cluster_interfaces.iter();
        let is_pod = |address: &IpNet| {
            let mut ranges = state.pod_ranges.iter();
            ranges.any(|range| range.contains(&address.addr()))
        };
        patterns.any(|pattern| pattern.matches(&interface.name))
            || (!interface.addresses.is_empty() && interface.addresses.iter().all(is_pod))
    };
    inputs
        .host
        .interfaces
        .values()
        .filter(move |interface| {
            !interface.loopback && interface.name != KUBE_PROXY_INTERFACE && !is_of_pods(interface)
        })
        .map(|interface| interface.name.as_str())
}
