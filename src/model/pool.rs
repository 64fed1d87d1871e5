//! A pool: the addresses that `LoadBalancer` Services may get, and for whom.
//!
//! Holds what the operator wrote; which address a Service gets is decided in plan.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use super::address_range::{AddressRange, AddressRangeError};
use super::frontend::ForwardingMethod;
use super::interface_pattern::InterfacePattern;
use super::selector::LabelSelector;

/// The priority of a pool that names none; lower is tried first.
pub const DEFAULT_PRIORITY: u32 = 100;

/// One `[[pool]]`. Ranges of all pools are disjoint when they come from a valid configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    pub name: String,
    /// Both families, in the order written; never empty.
    pub ranges: Vec<AddressRange>,
    /// Whether Services that name no pool may get an address from it.
    pub auto_assign: bool,
    /// Lower is tried first; of equals those that are for some Services only, then by name.
    pub priority: u32,
    /// Never gives out IPv4 addresses that end in .0 or .255.
    pub avoid_buggy_ips: bool,
    /// Namespaces served, by name.
    pub namespaces: Vec<String>,
    /// Namespaces served, by their labels: any of these. With `namespaces` either one does; both
    /// empty: any namespace.
    pub namespace_selector: Vec<LabelSelector>,
    /// Services served, by their labels: any of these; empty: any Service.
    pub service_selector: Vec<LabelSelector>,
    /// Whether a sharing key holds across namespaces too.
    pub share_across_namespaces: bool,
    /// How Services may ask for their packets to be forwarded, besides masquerading (contract:
    /// `edgelb.io/forwarding-method`).
    #[serde(default)]
    pub forwarding_methods: Vec<ForwardingMethod>,
    /// Where to announce; empty: every interface whose subnet holds the VIP.
    pub interfaces: Vec<InterfacePattern>,
    /// Node labels, best first; empty: no node is better than another.
    pub prefer: Vec<LabelSelector>,
}

impl Pool {
    /// A pool with the defaults of every key that has one.
    pub fn new(name: impl Into<String>, ranges: Vec<AddressRange>) -> Self {
        Self {
            name: name.into(),
            ranges,
            auto_assign: true,
            priority: DEFAULT_PRIORITY,
            avoid_buggy_ips: false,
            namespaces: Vec::new(),
            namespace_selector: Vec::new(),
            service_selector: Vec::new(),
            share_across_namespaces: false,
            forwarding_methods: vec![ForwardingMethod::Masquerade],
            interfaces: Vec::new(),
            prefer: Vec::new(),
        }
    }

    /// Where it stands in the order in which pools are tried: by priority; of equals those that are for
    /// some Services only come first (case 12 of the announcing specification); then by name.
    pub fn rank(&self) -> (u32, bool, &str) {
        let any_namespace = self.namespaces.is_empty() && self.namespace_selector.is_empty();
        let for_all = any_namespace && self.service_selector.is_empty();
        (self.priority, for_all, &self.name)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether [`Pool::avoid_buggy_ips`] keeps this address from being given out.
    ///
    /// Some old clients and routers take any IPv4 address ending in .0 or .255 for a network or
    /// broadcast address, whatever the prefix length.
    pub fn skips(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let [.., last] = address.octets();
                self.avoid_buggy_ips && (last == 0 || last == 255)
            }
            IpAddr::V6(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn contains_and_skips() {
        let mut pool = Pool::new(
            "a",
            vec![
                "192.0.2.0/24".parse().unwrap(),
                "2001:db8::/64".parse().unwrap(),
            ],
        );
        assert!(pool.contains("192.0.2.255".parse().unwrap()));
        assert!(pool.contains("2001:db8::5".parse().unwrap()));
        assert!(!pool.contains("192.0.3.0".parse().unwrap()));
        assert!(!pool.skips("192.0.2.0".parse().unwrap()));
        pool.avoid_buggy_ips = true;
        assert!(pool.skips("192.0.2.0".parse().unwrap()));
        assert!(pool.skips("192.0.2.255".parse().unwrap()));
        assert!(!pool.skips("192.0.2.1".parse().unwrap()));
        assert!(!pool.skips("2001:db8::".parse().unwrap()));
    }
}
