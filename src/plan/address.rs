//! Addresses that no Service may take: a node's own, a gateway's, a resolver's, and those that are
//! no host's at all. Taking one would cut the node off, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::reason::{Infrastructure, Reason};
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::foreign::ForeignHosts;
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
    /// Of other hosts on the LAN, as far as this node has heard.
    foreign: ForeignHosts,
    /// Whether those are given to nobody.
    foreign_refused: bool,
    /// Whose claims cannot be read.
    reserved: BTreeSet<IpAddr>,
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
            foreign: ForeignHosts::default(),
            foreign_refused: false,
            reserved: BTreeSet::new(),
        }
    }

    /// These are given to nobody: somebody claimed them, and it cannot be read who.
    #[must_use]
    pub fn reserving(mut self, reserved: &BTreeSet<IpAddr>) -> Self {
        self.reserved.clone_from(reserved);
        self
    }

    /// What other hosts on the LAN use is given to nobody (for the one who decides for all), and
    /// whoever holds it already is told.
    #[must_use]
    pub fn refusing(mut self, foreign: &ForeignHosts) -> Self {
        self.foreign = foreign.clone();
        self.foreign_refused = true;
        self
    }

    /// Whoever holds what another host on the LAN uses is told, and nothing more: where every node
    /// decides for itself and all must agree, what one of them hears alone must not decide.
    #[must_use]
    pub fn telling(mut self, foreign: &ForeignHosts) -> Self {
        self.foreign = foreign.clone();
        self.foreign_refused = false;
        self
    }

    /// The addresses of a range that some host has, and the network and broadcast addresses in it:
    /// those that are refused.
    pub fn within(&self, range: &AddressRange) -> BTreeSet<IpAddr> {
        let nodes = self.nodes.range(range.first()..=range.last());
        let others = [
            &self.own,
            &self.gateways_and_resolvers,
            &self.broadcasts,
            &self.reserved,
        ];
        let others = others
            .into_iter()
            .flat_map(|set| set.range(range.first()..=range.last()));
        let foreign = (self.foreign_refused)
            .then(|| self.foreign.within(range.first(), range.last()))
            .into_iter()
            .flatten();
        nodes
            .map(|(address, _)| address)
            .chain(others)
            .copied()
            .chain(foreign)
            .collect()
    }

    /// Why `address` must not become a Service's, if it must not.
    pub fn refusal(&self, address: IpAddr) -> Option<Reason> {
        self.refusal_of_known(address).or_else(|| {
            let refused = self.foreign_refused;
            refused.then(|| self.conflict(address)).flatten()
        })
    }

    /// Why an address that a Service holds is in conflict: another host on the LAN uses it. It stays
    /// held, because giving way to every such host would let any of them take a VIP away.
    pub fn conflict(&self, address: IpAddr) -> Option<Reason> {
        let mac = self.foreign.get(address)?;
        let what = Infrastructure::ForeignHost { mac };
        Some(Reason::AddressOfInfrastructure { address, what })
    }

    /// Why `address` must not become a Service's, whatever was heard on the LAN.
    pub fn refusal_of_known(&self, address: IpAddr) -> Option<Reason> {
        if self.reserved.contains(&address) {
            return Some(Reason::ClaimUnreadable { address });
        }
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
