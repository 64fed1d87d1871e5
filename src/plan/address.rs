//! Addresses that no Service may take: a node's own, a gateway's, a resolver's, and those that are
//! no host's at all. Taking one would cut the node off, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Inputs;
use super::reason::{Infrastructure, Reason};
use crate::config::Config;
use crate::model::pool::AddressRange;

/// Who has which address, as far as this node can know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AddressBook {
    taken: BTreeMap<IpAddr, Infrastructure>,
    broadcasts: Vec<IpAddr>,
}

impl AddressBook {
    /// Reads the interfaces, gateways and resolvers of this host and the Nodes of the cluster.
    pub fn new(inputs: &Inputs) -> Self {
        let mut taken = BTreeMap::new();
        for address in &inputs.host.infrastructure {
            taken.insert(*address, Infrastructure::GatewayOrResolver);
        }
        for node in inputs.cluster.nodes.values() {
            for address in &node.addresses {
                taken.insert(*address, Infrastructure::Node(node.name.clone()));
            }
        }
        for address in inputs.host.addresses() {
            taken.insert(address, Infrastructure::ThisNode);
        }
        let broadcasts = inputs
            .host
            .interfaces
            .values()
            .flat_map(|interface| &interface.addresses)
            .filter_map(|net| match net {
                IpNet::V4(net) if net.prefix_len() < 31 => {
                    Some([net.network().into(), net.broadcast().into()])
                }
                _ => None,
            })
            .flatten()
            .collect();
        Self { taken, broadcasts }
    }

    /// The addresses of a range that some host has, and the network and broadcast addresses in it.
    pub fn within(&self, range: &AddressRange) -> BTreeSet<IpAddr> {
        let taken = self.taken.range(range.first()..=range.last());
        let broadcasts = self.broadcasts.iter();
        taken
            .map(|(address, _)| *address)
            .chain(
                broadcasts
                    .copied()
                    .filter(|address| range.contains(*address)),
            )
            .collect()
    }

    /// Why `address` must not be a Service's, if it must not.
    pub fn refusal(&self, address: IpAddr) -> Option<Reason> {
        let what = if is_special(address) || self.broadcasts.contains(&address) {
            Infrastructure::Special
        } else {
            self.taken.get(&address)?.clone()
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
