//! What this node announces on which interface. Plain data: who decides it (plan) and who puts it on
//! the wire (apply) meet here only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::OrdSet;
use serde::{Deserialize, Serialize};

use super::foreign::MacAddress;

/// Everything that this node has to announce now, on all its interfaces.
///
/// What is not in the newest set must not be answered any more, from the moment it is published.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AnnouncedSet {
    /// Counts the published sets, so that a publisher can wait until this one is in force. A later
    /// set has a higher number.
    pub generation: u64,
    /// The announcing interfaces by the kernel's index. One without VIPs is kept ready, so that its
    /// first VIP is announced at once.
    pub interfaces: BTreeMap<u32, AnnouncedInterface>,
    /// Hardware addresses of the other nodes. One of them that claims a VIP of this node is a rival,
    /// about whom membership decides; anybody else is a foreign host, whom the owner defends it against.
    #[serde(default)]
    pub peers: OrdSet<MacAddress>,
}

/// One announcing interface and the VIPs that it answers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedInterface {
    /// The interface's name; by it the interface is found again when it was recreated.
    pub name: String,
    /// The hardware address that neighbours are told.
    pub mac: [u8; 6],
    /// The VIPs, of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// All VIPs that some node announces on this LAN, those above among them. Who asks for one that is
    /// not above is remembered and not answered: when it moves here, those neighbours are told first.
    #[serde(default)]
    pub watched: OrdSet<IpAddr>,
}

impl AnnouncedSet {
    /// Whether the address is announced on the interface with this index.
    pub fn contains(&self, index: u32, address: IpAddr) -> bool {
        self.interfaces
            .get(&index)
            .is_some_and(|interface| interface.addresses.contains(&address))
    }

    /// The IPv4 VIPs of one interface, ascending; none for an interface that is not in the set.
    pub fn ipv4_addresses(&self, index: u32) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.interfaces
            .get(&index)
            .into_iter()
            .flat_map(|interface| &interface.addresses)
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
    }

    /// The IPv6 VIPs of one interface, ascending; none for an interface that is not in the set.
    pub fn ipv6_addresses(&self, index: u32) -> impl Iterator<Item = Ipv6Addr> + '_ {
        self.interfaces
            .get(&index)
            .into_iter()
            .flat_map(|interface| &interface.addresses)
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            })
    }
}
