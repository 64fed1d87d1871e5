//! The Services of the demo, and what the client can see of them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{bail, ensure};

use crate::lab::arp_probe::arp_probe;
use crate::lab::client::Protocol;
use crate::lab::daemon::Daemon;
use crate::lab::manifests::{self, ManifestDirectory, ServiceManifest, ServicePort};
use crate::lab::{DualStack, Host, Lab, MacAddress, Node, Workload};

use super::report::Requests;
use super::view;

/// How long stations have to answer an ARP request. On this LAN they need less than a millisecond.
const ARP_WINDOW: Duration = Duration::from_millis(100);
/// The port of VIPs and `ClusterIPs`.
pub(super) const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

/// One Service for each traffic policy; the first one is shown from all sides.
pub(super) fn services() -> [ServiceManifest; 2] {
    let service = |name: &str, number: u16, node_port| {
        let octet = u8::try_from(number).unwrap_or(u8::MAX);
        let cluster_ips = DualStack {
            ipv4: Ipv4Addr::new(10, 96, 0, octet),
            ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number),
        };
        let port = ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: PORT,
            target_port: TARGET_PORT,
            node_port,
        };
        ServiceManifest::load_balancer(name, cluster_ips, vec![port])
    };
    let mut local = service("web-local", 11, Some(30_081));
    local.external_traffic_policy = "Local";
    [service("web", 10, Some(30_080)), local]
}

/// All Nodes, and each Service with all workloads behind it.
pub(super) fn write_manifests(
    lab: &Lab,
    manifests: &ManifestDirectory,
    services: &[ServiceManifest],
) -> anyhow::Result<()> {
    let workloads: Vec<&Workload> = lab.workloads().iter().collect();
    for node in lab.nodes() {
        manifests.write_node(node)?;
    }
    for service in services {
        manifests.write_endpoints(service, &workloads, lab.nodes())?;
        manifests.write_service(service)?;
    }
    Ok(())
}

/// The VIP of the Service once every daemon shows the same one.
pub(super) fn agreed_vip(daemons: &[Daemon], service: &str) -> anyhow::Result<Option<Ipv4Addr>> {
    let mut agreed = None;
    for daemon in daemons {
        match (view::vip(daemon, manifests::NAMESPACE, service)?, agreed) {
            (None, _) => return Ok(None),
            (Some(vip), None) => agreed = Some(vip),
            (Some(vip), Some(other)) if vip != other => return Ok(None),
            _ => {}
        }
    }
    Ok(agreed)
}

/// The node that answers ARP for the VIP, if exactly one station does.
pub(super) fn only_owner<'n>(
    nodes: &'n [Node],
    client: &Host,
    vip: Ipv4Addr,
) -> anyhow::Result<Option<(&'n Node, MacAddress)>> {
    let answers = arp_probe(
        &client.namespace,
        "eth0",
        client.address.ipv4,
        vip,
        ARP_WINDOW,
    )?;
    let [mac] = answers.as_slice() else {
        return Ok(None);
    };
    for node in nodes {
        if node.namespace.mac_address("eth0")? == *mac {
            return Ok(Some((node, *mac)));
        }
    }
    bail!("{mac}, which is no node's Ethernet address, answers ARP for {vip}")
}

/// An error unless there were requests and all were answered.
pub(super) fn must_all_succeed(what: &str, requests: &Requests) -> anyhow::Result<()> {
    ensure!(
        requests.sent > 0 && requests.succeeded == requests.sent,
        "{what}: {}",
        requests.summary()
    );
    Ok(())
}

/// For people and reports.
pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
