//! This host's own facts: its interfaces and their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The kernel's index.
    pub index: u32,
    /// The name.
    pub name: String,
    /// The hardware address; absent on interfaces without Ethernet addresses.
    pub mac: Option<[u8; 6]>,
    /// Administratively up, with carrier.
    pub running: bool,
    /// `lo`.
    pub loopback: bool,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
}

/// What this host looks like now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Host {
    /// Interfaces by index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Addresses that routes name as gateways and `/etc/resolv.conf` names as resolvers: never a
    /// Service's.
    pub infrastructure: Vec<IpAddr>,
}

impl Host {
    /// Every address of every interface, loopback included.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.interfaces
            .values()
            .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
    }
}
