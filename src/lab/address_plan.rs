//! Which address each part of the lab has. Pure arithmetic; both families everywhere.
//!
//! | what | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | LAN | `192.0.2.0/24` | `fd00:2::/64` |
//! | router, if there is one | `192.0.2.1` | `fd00:2::1` |
//! | edge nodes | `192.0.2.11` and up | `fd00:2::11` and up |
//! | clients | `192.0.2.50` and up | `fd00:2::50` and up |
//! | VIP pool | `192.0.2.200-192.0.2.219` | `fd00:2::200-fd00:2::219` |
//! | pods of node N | `10.244.N.0/24` | `fd00:244:N::/64` |
//! | `ClusterIPs` | `10.96.0.0/16` | `fd00:96::/112` |
//! | management, if there is one | `198.18.0.0/24` | `fd00:18::/64` |
//! | behind the router | `198.51.100.0/24` | `fd00:51::/64` |
//!
//! IPv6 host parts are written with the decimal digits of their IPv4 twin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// One address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DualStack {
    /// The IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The IPv6 address.
    pub ipv6: Ipv6Addr,
}

impl DualStack {
    /// Both addresses, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.ipv4), IpAddr::V6(self.ipv6)]
    }

    /// Both addresses as hosts: /32 and /128.
    pub fn hosts(self) -> [IpNet; 2] {
        self.both().map(IpNet::from)
    }

    /// Both addresses with the prefix length of the LAN: /24 and /64.
    pub fn in_lan(self) -> [IpNet; 2] {
        self.with_prefixes(24, 64)
    }

    fn with_prefixes(self, ipv4: u8, ipv6: u8) -> [IpNet; 2] {
        // The lengths are this file's constants; a host prefix stands in for an impossible one.
        let ipv4 = Ipv4Net::new(self.ipv4, ipv4).unwrap_or_else(|_| Ipv4Net::from(self.ipv4));
        let ipv6 = Ipv6Net::new(self.ipv6, ipv6).unwrap_or_else(|_| Ipv6Net::from(self.ipv6));
        [IpNet::V4(ipv4), IpNet::V6(ipv6)]
    }
}

/// The most nodes that a lab can have: one for each letter of `edge-a` to `edge-z`.
pub const MAXIMUM_NODES: usize = 26;
/// The most clients: 192.0.2.50 to 192.0.2.99.
pub const MAXIMUM_CLIENTS: usize = 50;
/// The most workloads on one node.
pub const MAXIMUM_WORKLOADS_OF_NODE: usize = 250;

/// The VIP pool's ranges as the `addresses` of a `[[pool]]` take them.
pub const VIP_POOL: [&str; 2] = ["192.0.2.200-192.0.2.219", "fd00:2::200-fd00:2::219"];

/// The router's address on the LAN.
pub const ROUTER: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 1),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1),
};
/// The router's address on the far side.
pub const ROUTER_FAR: DualStack = DualStack {
    ipv4: Ipv4Addr::new(198, 51, 100, 1),
    ipv6: Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 1),
};
/// The client behind the router.
pub const REMOTE_CLIENT: DualStack = DualStack {
    ipv4: Ipv4Addr::new(198, 51, 100, 50),
    ipv6: Ipv6Addr::new(0xfd00, 0x51, 0, 0, 0, 0, 0, 0x50),
};

/// Everything: `0.0.0.0/0` and `::/0`.
pub fn default_routes() -> [IpNet; 2] {
    DualStack {
        ipv4: Ipv4Addr::UNSPECIFIED,
        ipv6: Ipv6Addr::UNSPECIFIED,
    }
    .with_prefixes(0, 0)
}

/// The ranges from which the lab's Services take `ClusterIPs`.
pub fn cluster_ip_ranges() -> [IpNet; 2] {
    DualStack {
        ipv4: Ipv4Addr::new(10, 96, 0, 0),
        ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0),
    }
    .with_prefixes(16, 112)
}

/// A node's address on the LAN; `index` counts from 0.
pub fn node_address(index: usize) -> DualStack {
    lan_address(11_u8.saturating_add(octet(index)))
}

/// A node's address on the management network; `index` counts from 0.
pub fn management_address(index: usize) -> DualStack {
    let host = 11_u8.saturating_add(octet(index));
    DualStack {
        ipv4: Ipv4Addr::new(198, 18, 0, host),
        ipv6: Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, decimal_as_hexadecimal(host)),
    }
}

/// A client's address on the LAN; `index` counts from 0.
pub fn client_address(index: usize) -> DualStack {
    lan_address(50_u8.saturating_add(octet(index)))
}

/// The pod ranges of a node; `node` counts from 0, the ranges from 1.
pub fn pod_ranges(node: usize) -> [IpNet; 2] {
    pod_network_address(node, 0).with_prefixes(24, 64)
}

/// The node's own address towards its pods.
pub fn pod_gateway(node: usize) -> DualStack {
    pod_network_address(node, 1)
}

/// The address of a node's pod number `slot`, which counts from 0.
pub fn pod_address(node: usize, slot: usize) -> DualStack {
    pod_network_address(node, 2_u8.saturating_add(octet(slot)))
}

/// `edge-a`, `edge-b` and so on.
pub fn node_name(index: usize) -> String {
    format!("edge-{}", char::from(b'a'.saturating_add(octet(index))))
}

fn lan_address(host: u8) -> DualStack {
    DualStack {
        ipv4: Ipv4Addr::new(192, 0, 2, host),
        ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, decimal_as_hexadecimal(host)),
    }
}

fn pod_network_address(node: usize, host: u8) -> DualStack {
    let number = octet(node).saturating_add(1);
    DualStack {
        ipv4: Ipv4Addr::new(10, 244, number, host),
        ipv6: Ipv6Addr::new(
            0xfd00,
            0x244,
            decimal_as_hexadecimal(number),
            0,
            0,
            0,
            0,
            decimal_as_hexadecimal(host),
        ),
    }
}

/// 11 gives 0x11.
fn decimal_as_hexadecimal(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

/// The lab's sizes are checked before anything is built, so nothing is cut off here.
fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_read_alike() {
        assert_eq!(node_address(0).ipv4.to_string(), "192.0.2.11");
        assert_eq!(node_address(2).ipv6.to_string(), "fd00:2::13");
        assert_eq!(client_address(0).ipv6.to_string(), "fd00:2::50");
        assert_eq!(pod_address(0, 0).ipv4.to_string(), "10.244.1.2");
        assert_eq!(pod_address(11, 249).ipv6.to_string(), "fd00:244:12::251");
        assert_eq!(
            pod_ranges(1).map(|range| range.to_string()),
            ["10.244.2.0/24", "fd00:244:2::/64"]
        );
        assert_eq!(
            cluster_ip_ranges().map(|range| range.to_string()),
            ["10.96.0.0/16", "fd00:96::/112"]
        );
        assert_eq!(node_name(25), "edge-z");
    }

    #[test]
    fn the_largest_lab_has_no_address_twice() {
        let mut seen = std::collections::BTreeSet::new();
        let nodes = (0..MAXIMUM_NODES).map(node_address);
        let clients = (0..MAXIMUM_CLIENTS).map(client_address);
        let pods = (0..MAXIMUM_WORKLOADS_OF_NODE).map(|slot| pod_address(MAXIMUM_NODES - 1, slot));
        for address in nodes
            .chain(clients)
            .chain(pods)
            .chain([ROUTER, pod_gateway(MAXIMUM_NODES - 1)])
        {
            assert!(
                address
                    .both()
                    .into_iter()
                    .all(|address| seen.insert(address)),
                "{address:?} is used twice"
            );
        }
    }
}
