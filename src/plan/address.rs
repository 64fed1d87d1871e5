//! Addresses that no Service may take: a node's own, a gateway's, a resolver's, and those that are
//! no host's at all. Taking one would cut the node off, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::reason::{Infrastructure, Reason};
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::host::Host;
use crate::model::pool::AddressRange;

/// Who has which address, as far as this node can know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressBook {
    /// Of the cluster's Nodes: every node knows the same.
    nodes: BTreeMap<IpAddr, String>,
    /// Of this host's interfaces.
    own: BTreeSet<IpAddr>,
    gateways_and_resolvers: BTreeSet<IpAddr>,
    broadcasts: BTreeSet<IpAddr>,
}

/// Where kube-proxy in IPVS mode keeps all Service addresses: they are no host's.
pub(super) const KUBE_PROXY_INTERFACE: &str = "kube-ipvs0";

impl AddressBook {
    /// Reads the interfaces, gateways and resolvers of a host and the Nodes of the cluster.
    pub fn new(cluster: &ClusterState, host: &Host) -> Self {
        let nodes = cluster.nodes.values();
        let interfaces = || {
            host.interfaces
                .values()
                .filter(|interface| interface.name != KUBE_PROXY_INTERFACE)
                .flat_map(|interface| &interface.addresses)
        };
        let broadcasts = interfaces().filter_map(|net| match net {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                Some([net.network().into(), net.broadcast().into()])
            }
            _ => None,
        });
        Self {
            nodes: nodes
                .flat_map(|node| {
                    node.addresses
                        .iter()
                        .map(|address| (*address, node.name.clone()))
                })
                .collect(),
            own: interfaces().map(IpNet::addr).collect(),
            gateways_and_resolvers: host.infrastructure.iter().copied().collect(),
            broadcasts: broadcasts.flatten().collect(),
        }
    }

    /// The addresses of a range that some host has, and the network and broadcast addresses in it.
    pub fn within(&self, range: &AddressRange) -> BTreeSet<IpAddr> {
        let nodes = self.nodes.range(range.first()..=range.last());
        let others = [&self.own, &self.gateways_and_resolvers, &self.broadcasts];
        let others = others
            .into_iter()
            .flat_map(|set| set.range(range.first()..=range.last()));
        nodes
            .map(|(address, _)| address)
            .chain(others)
            .copied()
            .collect()
    }

    /// Why `address` must not become a Service's, if it must not.
    pub fn refusal(&self, address: IpAddr) -> Option<Reason> {
        self.refusal_here(address).or_else(|| {
            let what = if self.broadcasts.contains(&address) {
                Infrastructure::Special
            } else if self.gateways_and_resolvers.contains(&address) {
                Infrastructure::GatewayOrResolver
            } else {
                return None;
            };
            Some(Reason::AddressOfInfrastructure { address, what })
        })
    }

    /// Why this node cannot serve an address that is a Service's already. A resolver may well be
    /// one: the `ClusterIP` of the cluster's own DNS.
    pub fn refusal_here(&self, address: IpAddr) -> Option<Reason> {
        if self.own.contains(&address) && !is_special(address) {
            let what = Infrastructure::ThisNode;
            return Some(Reason::AddressOfInfrastructure { address, what });
        }
        self.refusal_everywhere(address)
    }

    /// Why no Service may keep `address`: only by what every node of the cluster knows, so that all
    /// of them give the same answer.
    pub fn refusal_everywhere(&self, address: IpAddr) -> Option<Reason> {
        let what = if is_special(address) {
            Infrastructure::Special
        } else {
            Infrastructure::Node(self.nodes.get(&address)?.clone())
        };
        Some(Reason::AddressOfInfrastructure { address, what })
    }
}

/// No unicast address that a Service could have.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_multicast()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || address.is_unspecified()
        }
    }
}

/// Whether an address that a Service brings itself (`externalIPs`, a foreign status) may be served.
pub fn external_allowed(config: &Config, address: IpAddr) -> bool {
    config
        .proxy
        .external_ip_ranges
        .iter()
        .any(|range| range.contains(&address))
        || config.pools.iter().any(|pool| pool.contains(address))
}
