//! The TOML file: parsed exactly, validated as a whole, then a [`Config`] that is valid by construction.
//!
//! `document` knows TOML and positions, `file` the keys, `validate` the rules. Nothing here touches
//! the kernel: what a rule needs to know of the machine comes in as an [`Environment`].

mod defaults;
pub mod document;
pub mod duration;
mod environment;
pub mod file;
pub mod findings;
pub mod lines;
mod load;
pub mod problem;
mod validate;

pub use environment::Environment;
pub use load::{Loaded, load, parse};
pub use problem::{Invalid, Level, Problem};

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::interface_pattern::InterfacePattern;
use crate::model::pool::Pool;
use crate::model::port_range::PortRange;
use crate::model::scheduler::Scheduler;
use crate::model::selector::LabelSelector;

/// Everything an operator can set; every value is valid, every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub node: Node,
    pub source: Source,
    pub load_balancer: LoadBalancer,
    /// In file order; names unique, ranges disjoint.
    pub pools: Vec<Pool>,
    pub announce: Announce,
    pub membership: Membership,
    pub proxy: Proxy,
    pub observability: Observability,
}

impl Config {
    /// Whether some pool asks for the labels of Namespaces: nobody else needs to read them.
    pub fn selects_namespaces(&self) -> bool {
        let mut pools = self.pools.iter();
        pools.any(|pool| !pool.namespace_selector.is_empty())
    }

    /// Whether the ranges of `ClusterIPs` are to be found from the cluster.
    pub fn finds_service_cidrs(&self) -> bool {
        self.proxy.scope == ProxyScope::All && self.proxy.service_cidrs.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Equals the Kubernetes node name; a DNS subdomain.
    pub name: String,
    /// Absolute.
    pub state_dir: PathBuf,
    /// Absolute, short enough for the path of a socket in it.
    pub runtime_dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub kind: SourceKind,
    pub kubernetes: KubernetesSource,
    pub manifests: ManifestSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Kubernetes,
    Manifests,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KubernetesSource {
    /// `None`: [`DEFAULT_KUBECONFIG`] where it exists, else the credentials of the pod.
    pub kubeconfig: Option<PathBuf>,
    pub lease: LeaseName,
}

/// Read when `source.kubernetes.kubeconfig` is not set and the file exists.
pub const DEFAULT_KUBECONFIG: &str = "/etc/edgelb/kubeconfig";

/// The leader's Lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ManifestSource {
    /// Absolute.
    pub dir: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// The loadBalancerClass answered to.
    pub class: String,
    /// Whether Services without a class are taken as well.
    pub default: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announce {
    /// Offsets from a take-over, ascending.
    pub gratuitous_burst: Vec<Duration>,
    /// `None`: off.
    pub refresh: Option<Duration>,
    pub exclude_interfaces: Vec<InterfacePattern>,
    /// Nodes that may own VIPs: any of these; empty: every node.
    pub node_selector: Vec<LabelSelector>,
    pub ping: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    pub listen: ListenAddress,
    pub peers: Vec<PeerAddress>,
    /// None, one or two; the first one sends. At least one as soon as there is a peer.
    pub key_files: Vec<PathBuf>,
    pub probe_interval: Duration,
    /// Zero: peers do not wait.
    pub restart_grace: Duration,
    pub preempt: bool,
}

impl Membership {
    /// How long this node may announce without renewing its permission: until another one may have taken
    /// over, at the earliest. Others declare it dead three probe intervals after its last sign of life,
    /// or a quarter of one earlier when they agree, and its signs are half of one apart.
    pub fn lease(&self) -> Duration {
        lease(self.probe_interval)
    }
}

/// What a lease lasts is a multiple of this: whole ticks of every kernel (100, 250, 300 or 1000 Hz), so
/// that a kernel says what it was told.
const LEASE_STEP: Duration = Duration::from_millis(20);

/// The same for any probe interval.
pub fn lease(probe_interval: Duration) -> Duration {
    let most = probe_interval * 9 / 4;
    let steps = most.as_millis() / LEASE_STEP.as_millis();
    LEASE_STEP * u32::try_from(steps).unwrap_or(u32::MAX)
}

/// `:9751` or `192.0.2.1:9751`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenAddress {
    /// `None`: the node's own addresses.
    pub address: Option<IpAddr>,
    pub port: NonZeroU16,
}

/// `edge-2.example.net:9751`; resolved when it is used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerAddress {
    /// A DNS name or an address, without brackets.
    pub host: String,
    pub port: NonZeroU16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proxy {
    pub datapath: Datapath,
    pub scope: ProxyScope,
    pub scheduler: Scheduler,
    pub strict_arp: bool,
    pub node_port_range: PortRange,
    /// Empty: all addresses of this node's interfaces but loopback and VIPs.
    pub node_port_addresses: Vec<IpNet>,
    pub cluster_cidrs: Vec<IpNet>,
    pub cluster_interfaces: Vec<InterfacePattern>,
    pub service_cidrs: Vec<IpNet>,
    pub external_ip_ranges: Vec<IpNet>,
    pub cluster_ip_from_outside: bool,
    pub masquerade_all: bool,
    /// The packet-mark bits that edgelb may use; contiguous.
    pub mark_mask: NonZeroU32,
    pub min_sync_interval: Duration,
    pub resync_interval: Duration,
    /// Zero: connections to a removed endpoint are cut at once.
    pub drain_deadline: Duration,
    /// Whole seconds, as IPVS and conntrack count them; so the next two.
    pub tcp_timeout: Duration,
    pub tcp_fin_timeout: Duration,
    pub udp_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datapath {
    /// IPVS where the kernel has it, else nftables.
    Auto,
    Ipvs,
    Nftables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyScope {
    All,
    /// `ClusterIPs` are left to kube-proxy.
    External,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observability {
    pub listen: SocketAddr,
    pub health_listen: SocketAddr,
    pub log_format: LogFormat,
    pub log_level: LogLevel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
