//! The built-in defaults, the values that `config/edgelb.toml` shows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    Announce, Config, Datapath, KubernetesSource, LeaseName, ListenAddress, LoadBalancer,
    LogFormat, LogLevel, ManifestSource, Membership, Node, Observability, Proxy, ProxyScope,
    Source, SourceKind,
};
use crate::model::interface_pattern::InterfacePattern;
use crate::model::port_range::PortRange;
use crate::model::scheduler::Scheduler;

/// Interfaces that lead to no LAN: loopback, containers, pods, and kube-proxy's dummy.
pub const EXCLUDED_INTERFACES: [&str; 7] = [
    "lo",
    "docker*",
    "cni*",
    "veth*",
    "cali*",
    "flannel*",
    "kube-ipvs0",
];

/// Offsets in milliseconds of the gratuitous announcements after a take-over.
const GRATUITOUS_BURST: [u64; 8] = [0, 50, 150, 400, 1_000, 2_200, 5_000, 10_000];

/// UDP, between peers.
pub const MEMBERSHIP_PORT: NonZeroU16 = NonZeroU16::new(9751).unwrap();
const MARK_MASK: NonZeroU32 = NonZeroU32::new(0x00f0_0000).unwrap();
/// The status page and metrics.
pub const STATUS_PORT: NonZeroU16 = NonZeroU16::new(9750).unwrap();
/// Health alone.
pub const HEALTH_PORT: NonZeroU16 = NonZeroU16::new(9756).unwrap();

impl Config {
    /// What an empty file means on the node of this name; it has no pool.
    pub fn defaults(node_name: &str) -> Self {
        Self {
            node: Node {
                name: node_name.to_owned(),
                state_dir: PathBuf::from("/var/lib/edgelb"),
                runtime_dir: PathBuf::from("/run/edgelb"),
            },
            source: Source {
                kind: SourceKind::Kubernetes,
                kubernetes: KubernetesSource {
                    kubeconfig: None,
                    lease: LeaseName {
                        namespace: "kube-system".to_owned(),
                        name: "edgelb".to_owned(),
                    },
                },
                manifests: ManifestSource {
                    dir: PathBuf::from("/etc/edgelb/manifests"),
                },
            },
            load_balancer: LoadBalancer {
                class: "edgelb.io/edgelb".to_owned(),
                default: true,
            },
            pools: Vec::new(),
            announce: Announce {
                gratuitous_burst: GRATUITOUS_BURST.map(Duration::from_millis).to_vec(),
                refresh: Some(Duration::from_secs(60)),
                exclude_interfaces: excluded_interfaces(),
                node_selector: Vec::new(),
                ping: true,
            },
            membership: Membership {
                listen: ListenAddress {
                    address: None,
                    port: MEMBERSHIP_PORT,
                },
                peers: Vec::new(),
                key_files: Vec::new(),
                probe_interval: Duration::from_millis(100),
                restart_grace: Duration::from_secs(3),
                preempt: false,
            },
            proxy: Proxy {
                datapath: Datapath::Auto,
                scope: ProxyScope::All,
                scheduler: Scheduler::Rr,
                strict_arp: true,
                node_port_range: PortRange::NODE_PORTS,
                node_port_addresses: Vec::new(),
                cluster_cidrs: Vec::new(),
                cluster_interfaces: Vec::new(),
                service_cidrs: Vec::new(),
                external_ip_ranges: Vec::new(),
                cluster_ip_from_outside: false,
                masquerade_all: false,
                mark_mask: MARK_MASK,
                min_sync_interval: Duration::from_millis(10),
                resync_interval: Duration::from_secs(30),
                drain_deadline: Duration::from_secs(15 * 60),
                tcp_timeout: Duration::from_secs(15 * 60),
                tcp_fin_timeout: Duration::from_secs(2 * 60),
                udp_timeout: Duration::from_secs(5 * 60),
            },
            observability: Observability {
                listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), STATUS_PORT.get()),
                health_listen: SocketAddr::new(
                    IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                    HEALTH_PORT.get(),
                ),
                log_format: LogFormat::Text,
                log_level: LogLevel::Info,
            },
        }
    }
}

/// The built-in patterns; a test asserts that none of them is dropped here.
fn excluded_interfaces() -> Vec<InterfacePattern> {
    EXCLUDED_INTERFACES
        .iter()
        .filter_map(|pattern| pattern.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_pattern_is_valid() {
        assert_eq!(excluded_interfaces().len(), EXCLUDED_INTERFACES.len());
    }
}
