//! What readings come to: over counters that begin again, over Services that come and go.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::totals::{Last, Total, Totals};
use super::*;
use crate::admin::applied::Applied;
use crate::admin::snapshot::PassSummary;
use crate::apply::traffic::{Bytes, CountedBy, Counts, Silent};
use crate::config::Config;
use crate::model::cluster::ClusterChange;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendAddress, FrontendPort};
use crate::model::service::{Service, ServiceKey, ServicePort, ServiceType};
use crate::plan::{Inputs, plan};
use crate::source::SourceStatus;

fn port(protocol: Protocol, port: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        name: format!("{protocol}-{port}"),
        protocol,
        port,
        node_port,
    }
}

/// `default/dns` at 10.96.0.10 with port 53 of both protocols, node port 30053; and further Services at
/// .11 and so on with TCP port 80.
fn snapshot(others: &[&str]) -> Snapshot {
    let config = Config::defaults("edge-a");
    let mut inputs = Inputs {
        node: "edge-a".to_owned(),
        ..Inputs::default()
    };
    let interface = crate::model::host::Interface {
        index: 2,
        name: "eth0".to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        running: true,
        loopback: false,
        addresses: vec!["192.0.2.11/24".parse().unwrap()],
    };
    inputs.host.interfaces.insert(2, interface);
    let mut dns = Service::new(ServiceKey::new("default", "dns"), ServiceType::NodePort);
    dns.cluster_ips = vec!["10.96.0.10".parse().unwrap()];
    dns.families = vec![Family::V4];
    dns.ports = vec![
        port(Protocol::Udp, 53, Some(30053)),
        port(Protocol::Tcp, 53, None),
    ];
    inputs.cluster.apply(ClusterChange::Service(Arc::new(dns)));
    for (number, name) in (11_u8..).zip(others) {
        let mut other = Service::new(ServiceKey::new("default", *name), ServiceType::ClusterIP);
        other.cluster_ips = vec![IpAddr::from([10, 96, 0, number])];
        other.families = vec![Family::V4];
        other.ports = vec![port(Protocol::Tcp, 80, None)];
        let change = ClusterChange::Service(Arc::new(other));
        inputs.cluster.apply(change);
    }
    Snapshot {
        plan: Arc::new(plan(&config, &inputs)),
        config: Arc::new(config),
        config_problem: None,
        datapath: "ipvs",
        started: std::time::UNIX_EPOCH,
        inputs: Arc::new(inputs),
        source: SourceStatus::default(),
        allocator: None,
        pass: PassSummary::default(),
        applied: Applied::default(),
        ready: true,
        membership: crate::membership::counters::MembershipCounters::default(),
    }
}

fn at(address: &str, protocol: Protocol, port: u16) -> FrontendPort {
    FrontendPort {
        address: FrontendAddress::Address(address.parse().unwrap()),
        protocol,
        port,
    }
}

fn ipvs(
    at: FrontendPort,
    connections: u64,
    bytes: (u64, u64),
) -> (FrontendPort, CountedBy, Counts) {
    let bytes = Some(Bytes {
        from_clients: bytes.0,
        to_clients: bytes.1,
    });
    let counts = Counts { connections, bytes };
    (at, CountedBy::VirtualServer, counts)
}

fn nftables(at: FrontendPort, connections: u64) -> (FrontendPort, CountedBy, Counts) {
    let counts = Counts {
        connections,
        bytes: None,
    };
    (at, CountedBy::Nftables, counts)
}

fn reading(frontends: &[(FrontendPort, CountedBy, Counts)]) -> Reading {
    Reading {
        frontends: frontends.to_vec(),
        packets: Vec::new(),
    }
}

/// What several readings come to, of one world.
struct Ledger {
    totals: Totals,
    last: Last,
    snapshot: Snapshot,
}

impl Ledger {
    fn new(others: &[&str]) -> Self {
        Self {
            totals: Totals::default(),
            last: Last::default(),
            snapshot: snapshot(others),
        }
    }

    fn take(&mut self, frontends: &[(FrontendPort, CountedBy, Counts)]) {
        (self.totals).take(&reading(frontends), &mut self.last, &self.snapshot);
    }

    /// Connections and bytes of `default/NAME:PORT`.
    fn of(&self, name: &str, port: u16) -> Option<(u64, Option<(u64, u64)>)> {
        let ports = self
            .totals
            .services
            .get(&ServiceKey::new("default", name))?;
        let Total { connections, bytes } = *ports.get(&port)?;
        let bytes = bytes.map(|bytes| (bytes.from_clients, bytes.to_clients));
        Some((connections, bytes))
    }
}

#[test]
fn all_frontends_of_a_port_and_both_protocols_are_one() {
    let mut ledger = Ledger::new(&["web"]);
    ledger.take(&[
        ipvs(at("10.96.0.10", Protocol::Udp, 53), 5, (50, 500)),
        ipvs(at("10.96.0.10", Protocol::Tcp, 53), 1, (10, 100)),
        // A node port, on an address of the node.
        ipvs(at("192.0.2.11", Protocol::Udp, 30053), 2, (1, 2)),
        // Others' virtual servers.
        ipvs(at("192.0.2.11", Protocol::Tcp, 30053), 99, (99, 99)),
        ipvs(at("203.0.113.1", Protocol::Tcp, 53), 99, (99, 99)),
    ]);
    assert_eq!(ledger.of("dns", 53), Some((8, Some((61, 602)))));
    assert_eq!(ledger.of("dns", 30053), None);
    // Nothing counted there yet, and nobody counts bytes.
    assert_eq!(ledger.of("web", 80), Some((0, None)));
}

#[test]
fn a_total_never_goes_back() {
    let tcp = at("10.96.0.10", Protocol::Tcp, 53);
    let mut ledger = Ledger::new(&[]);
    let mut before = (0, (0, 0));
    // Made anew at the third; not in the dump at the fifth; at the last made anew with more connections
    // and fewer bytes than before.
    let steps: [Option<(u64, (u64, u64))>; 7] = [
        Some((10, (100, 1000))),
        Some((12, (120, 1200))),
        Some((1, (5, 6))),
        Some((4, (8, 9))),
        None,
        Some((5, (8, 9))),
        Some((6, (1, 9))),
    ];
    let wanted = [
        (10, (100, 1000)),
        (12, (120, 1200)),
        (13, (125, 1206)),
        (16, (128, 1209)),
        (16, (128, 1209)),
        (17, (128, 1209)),
        (23, (129, 1218)),
    ];
    for (step, wanted) in steps.into_iter().zip(wanted) {
        let readings = step.map(|(connections, bytes)| ipvs(tcp, connections, bytes));
        ledger.take(&readings.into_iter().collect::<Vec<_>>());
        let (connections, bytes) = ledger.of("dns", 53).unwrap();
        let now = (connections, bytes.unwrap());
        assert_eq!(now, wanted);
        assert!(now.0 >= before.0 && now.1.0 >= before.1.0 && now.1.1 >= before.1.1);
        before = now;
    }
    // One dump that tells a server twice.
    ledger.take(&[ipvs(tcp, 7, (2, 9)), ipvs(tcp, 7, (2, 9))]);
    assert_eq!(ledger.of("dns", 53), Some((24, Some((130, 1218)))));
}

#[test]
fn what_the_table_counts_whole_is_not_counted_again_by_ipvs() {
    let mut ledger = Ledger::new(&["web"]);
    let web = at("10.96.0.11", Protocol::Tcp, 80);
    let dns = at("10.96.0.10", Protocol::Udp, 53);
    let node_port = FrontendPort {
        address: FrontendAddress::NodePort(Family::V4),
        protocol: Protocol::Udp,
        port: 30053,
    };
    ledger.take(&[
        ipvs(web, 3, (30, 300)),
        nftables(web, 7),
        ipvs(dns, 1, (1, 1)),
        nftables(node_port, 2),
        ipvs(at("192.0.2.11", Protocol::Udp, 30053), 2, (1, 1)),
    ]);
    assert_eq!(ledger.of("web", 80), Some((7, Some((30, 300)))));
    assert_eq!(ledger.of("dns", 53), Some((3, Some((2, 2)))));
    // All of it goes over to IPVS: only what is new counts.
    ledger.take(&[ipvs(web, 4, (40, 400))]);
    assert_eq!(ledger.of("web", 80), Some((8, Some((40, 400)))));
}

#[test]
fn a_service_that_is_gone_has_no_total_and_an_heir_none_of_its() {
    let web = at("10.96.0.11", Protocol::Tcp, 80);
    let mut ledger = Ledger::new(&["web"]);
    ledger.take(&[ipvs(web, 10, (1, 1))]);
    ledger.snapshot = snapshot(&[]);
    ledger.take(&[ipvs(web, 10, (1, 1))]);
    assert_eq!(ledger.of("web", 80), None);
    assert_eq!(ledger.totals.services.len(), 1, "dns alone");
    // Another one at its address, whose virtual server is a new one.
    ledger.snapshot = snapshot(&["heir"]);
    ledger.take(&[ipvs(web, 2, (1, 1))]);
    assert_eq!(ledger.of("heir", 80), Some((2, Some((1, 1)))));
}

#[test]
fn packets_of_rules_go_on_when_their_table_comes_back() {
    let mut ledger = Ledger::new(&[]);
    let mut take = |chains: &[(&str, u64)]| {
        let packets = chains.iter().map(|(chain, packets)| {
            let what = Silent::HandedOver(Family::V4);
            (what, (*chain).to_owned(), *packets)
        });
        let reading = Reading {
            frontends: Vec::new(),
            packets: packets.collect(),
        };
        (ledger.totals).take(&reading, &mut ledger.last, &ledger.snapshot);
        ledger.totals.packets.clone()
    };
    let counted = |packets| BTreeMap::from([(Silent::HandedOver(Family::V4), packets)]);
    assert_eq!(take(&[("a", 3), ("b", 1)]), counted(4));
    assert_eq!(take(&[("a", 5), ("b", 1)]), counted(6));
    assert_eq!(take(&[]), counted(6));
    // Begun again, and beyond what it was.
    assert_eq!(take(&[("a", 7)]), counted(13));
    assert_eq!(take(&[("a", 2)]), counted(15));
}

#[test]
fn the_kernel_is_read_at_most_once_a_second_and_a_failure_shows() {
    let reads = Arc::new(AtomicUsize::new(0));
    let answer: Arc<Mutex<Option<u64>>> = Arc::default();
    let (count, answers) = (Arc::clone(&reads), Arc::clone(&answer));
    let traffic = Traffic::new(Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let connections = answers.lock().unwrap().ok_or("no kernel")?;
        let tcp = at("10.96.0.10", Protocol::Tcp, 53);
        Ok(reading(&[ipvs(tcp, connections, (0, 0))]))
    }));
    let snapshot = snapshot(&[]);
    let connections = |totals: &Totals| {
        let ports = totals.services.get(&ServiceKey::new("default", "dns"));
        ports.map(|ports| ports[&53].connections)
    };
    let again = || {
        let mut state = traffic.0.lock().unwrap();
        state.read_at = state.read_at.map(|at| at.checked_sub(FRESH).unwrap());
    };
    let totals = traffic.totals(&snapshot);
    assert_eq!((totals.failures, connections(&totals)), (1, None));
    *answer.lock().unwrap() = Some(3);
    assert_eq!(traffic.totals(&snapshot), totals);
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    again();
    let totals = traffic.totals(&snapshot);
    assert_eq!((totals.failures, connections(&totals)), (1, Some(3)));
    again();
    *answer.lock().unwrap() = None;
    let totals = traffic.totals(&snapshot);
    assert_eq!((totals.failures, connections(&totals)), (2, Some(3)));
    assert_eq!(reads.load(Ordering::SeqCst), 3);
}
