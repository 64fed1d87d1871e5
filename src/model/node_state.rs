//! All that this node must hold in its kernel and say on the LAN. The plan produces it; what is
//! applied is the difference between two of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;

use super::announcement::AnnouncedInterface;
use super::family::Family;
use super::frontend::{Frontend, FrontendPort};
use super::interface_pattern::InterfacePattern;
use super::service::ServiceKey;
use super::sysctl::Sysctl;

/// Why an address is held as a local route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldFor {
    /// A `ClusterIP`.
    ClusterIp,
    /// A VIP from a pool.
    Vip,
    /// One of `externalIPs`, or a status address that somebody else assigned.
    External,
}

/// What a health-check node port tells: how many endpoints the Service has here (HC-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`
    pub port: u16,
    /// Distinct addresses of ready endpoints on this node, for each family of the Service (HC-1).
    pub local_endpoints: BTreeMap<Family, usize>,
}

/// The state of one node. Maps share structure between passes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeState {
    /// What is forwarded where.
    pub frontends: OrdMap<FrontendPort, Arc<Frontend>>,
    /// Addresses that this node takes packets for, whoever announces them.
    pub held: OrdMap<IpAddr, HeldFor>,
    /// Whole Service ranges that are local; a held address inside one needs no route of its own.
    pub service_ranges: OrdSet<IpNet>,
    /// Endpoints on this node, which may be their own client (hairpin, MASQ-8).
    pub hairpin: OrdSet<IpAddr>,
    /// The addresses on which node ports are open.
    pub node_addresses: OrdSet<IpAddr>,
    /// The ranges whose addresses are pods.
    pub pod_ranges: OrdSet<IpNet>,
    /// Whatever comes in by an interface of such a name is from a pod too.
    pub pod_interfaces: OrdSet<InterfacePattern>,
    /// Endpoints on nodes that are gone or silent: their connections are not waited for.
    pub dead: OrdSet<IpAddr>,
    /// What health checkers are told, by Service.
    pub health_checks: OrdMap<ServiceKey, HealthCheck>,
    /// VIPs that answer ICMP echo: those that this node owns, where that is wanted.
    pub answering: OrdSet<IpAddr>,
    /// The source that this node's own packets to held addresses carry, per family.
    pub preferred_source: BTreeMap<Family, IpAddr>,
    /// What is announced where, by interface index.
    pub announced: BTreeMap<u32, AnnouncedInterface>,
    /// What sysctls must be, by path below `/proc/sys`.
    pub sysctls: BTreeMap<String, Sysctl>,
}
