//! Sources that may not open connections, the same on both datapaths. Cases by their number in the
//! specification of the service proxy.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::nftables::{Layout, Nftables};
use edgelb::lab::client::{
    Answer, Protocol, RequestError, RequestOptions, open_stream, request_with,
};
use edgelb::lab::manifests::ServiceManifest;
use edgelb::lab::{Namespace, tool};
use edgelb::model::family::Protocol as Transport;
use edgelb::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, Treatment, Verdict,
};
use edgelb::model::node_state::NodeState;
use edgelb::model::scheduler::Scheduler;
use edgelb::model::service::ServiceKey;
use ipnet::IpNet;

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, request, socket, web};

const TCP: Protocol = Protocol::Tcp;
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 199);

fn restrict(service: &mut ServiceManifest, ranges: &[&str]) {
    let ranges: Vec<String> = ranges.iter().map(|range| format!("\"{range}\"")).collect();
    service.more = format!("  loadBalancerSourceRanges: [{}]\n", ranges.join(", "));
}

fn as_stranger(from: &Namespace, to: SocketAddr) -> Result<Answer, RequestError> {
    let options = RequestOptions {
        source_address: Some(STRANGER.into()),
        timeout: std::time::Duration::from_secs(2),
        ..RequestOptions::default()
    };
    request_with(from, to, TCP, &options)
}

#[track_caller]
fn silence(result: &Result<Answer, RequestError>) {
    assert!(matches!(result, Err(RequestError::TimedOut)), "{result:?}");
}

/// Cases 56 and 57.
#[test]
fn only_allowed_sources_open_connections() {
    let rig = Rig::new(2, 2);
    rig.client()
        .add_address("eth0", format!("{STRANGER}/24").parse().unwrap())
        .unwrap();
    let client = rig.client_address();
    let mine = format!("{client}/32");
    let mut service = web("web", 60);
    restrict(&mut service, &[&mine, " 198.51.100.0/24"]);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    rig.wait_served(rig.client(), to, TCP);
    silence(&as_stranger(rig.client(), to));
    // Node ports and ClusterIPs are open.
    let node = rig.lab.node(owner).unwrap().address;
    as_stranger(rig.client(), socket(node.ipv4, 30_060)).unwrap();
    let pod = &rig.workload("web-1").namespace;
    request(pod, socket(cluster_ips(60).ipv4, 80), TCP).unwrap();
    // Pods and nodes are sources like any other.
    silence(&request(pod, to, TCP));
    for index in 0..2 {
        silence(&request(rig.node(index), to, TCP));
    }
    // IPv6 has no ranges, and is open.
    request(rig.client(), socket(node.ipv6, 30_060), TCP).unwrap();

    // What is established goes on when the ranges change; the other Service keeps its own.
    let mut other = web("other", 61);
    restrict(&mut other, &[&mine]);
    rig.serve(&other, &rig.workloads());
    let (other_vip, _) = rig.vip("other");
    rig.wait_served(rig.client(), socket(other_vip, 80), TCP);
    let mut stream = open_stream(rig.client(), to).unwrap();
    stream.send("before").unwrap();
    let nodes = rig.lab.nodes().iter();
    let nodes: Vec<String> = nodes
        .map(|node| format!("{}/32", node.address.ipv4))
        .collect();
    let stranger = format!("{STRANGER}/32");
    let mut ranges: Vec<&str> = nodes.iter().map(String::as_str).collect();
    ranges.push(&stranger);
    restrict(&mut service, &ranges);
    rig.manifests.write_service(&service).unwrap();
    eventually(PATIENCE, || as_stranger(rig.client(), to).ok());
    silence(&request(rig.client(), to, TCP));
    stream.send("after").unwrap();
    request(rig.client(), socket(other_vip, 80), TCP).unwrap();
    silence(&as_stranger(rig.client(), socket(other_vip, 80)));
    for index in 0..2 {
        eventually(PATIENCE, || request(rig.node(index), to, TCP).ok());
    }
    silence(&request(pod, to, TCP));
    tool(rig.node(0), "nft", &["list", "ruleset"]).unwrap();

    // SR-7: without endpoints the allowed are refused, the others hear nothing.
    rig.endpoints(&service, &[]);
    eventually(PATIENCE, || {
        matches!(as_stranger(rig.client(), to), Err(RequestError::Refused)).then_some(())
    });
    silence(&request(rig.client(), to, TCP));

    // No ranges at all: everybody.
    rig.endpoints(&service, &rig.workloads());
    service.more = String::new();
    rig.manifests.write_service(&service).unwrap();
    for from in [rig.client(), pod, rig.node(0)] {
        rig.wait_served(from, to, TCP);
    }
}

const RANGES: [&str; 7] = [
    "10.0.0.0/9",
    "10.128.0.0/9",
    "10.0.0.0/8",
    "192.0.2.7/32",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "fd00::/64",
];

/// Two frontends that allow the ranges of one mask each; none at all where it is 0.
fn state(masks: [usize; 2]) -> NodeState {
    let mut state = NodeState::default();
    for (last, mask) in (1..).zip(masks) {
        let six = mask & 64 != 0;
        let address: IpAddr = if six {
            IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last])
        } else {
            IpAddr::from([192, 0, 2, u8::try_from(last).unwrap()])
        };
        let mut ranges: Vec<IpNet> = RANGES
            .iter()
            .enumerate()
            .filter(|(index, _)| mask & (1 << index) != 0)
            .map(|(_, range)| range.parse().unwrap())
            .collect();
        ranges.retain(|range: &IpNet| range.addr().is_ipv6() == six);
        let ranges: Vec<IpNet> = IpNet::aggregate(&ranges);
        let port = FrontendPort {
            address: FrontendAddress::Address(address),
            protocol: Transport::Tcp,
            port: 80,
        };
        let treatment = Treatment {
            verdict: Verdict::Refuse,
            masquerade: false,
        };
        let frontend = Frontend {
            service: ServiceKey::new("default", "web"),
            treatments: std::array::from_fn(|_| treatment.clone()),
            session_affinity: None,
            allowed_sources: (!ranges.is_empty()).then(|| ranges.into()),
            keeps: Arc::default(),
            forwarding_method: ForwardingMethod::Masquerade,
            scheduler: Scheduler::Rr,
        };
        state.frontends.insert(port, Arc::new(frontend));
    }
    state
}

/// Every change of some ranges beside others is taken in one transaction, and the kernel says the
/// same as it was told.
#[test]
fn allowed_ranges_change_into_any_others() {
    let namespace = Namespace::create("node").unwrap();
    let node = namespace.clone();
    namespace
        .run(move || {
            let mut nftables = Nftables::open(Layout::new(Forwarder::Nftables)).unwrap();
            let mut current = state([0, 0]);
            nftables.repair(&current).unwrap();
            let mut number: usize = 1;
            let mut seen = BTreeSet::new();
            for _ in 0..150 {
                number = (number * 1_103_515_245 + 12_345) % (1 << 31);
                let masks = [(number >> 8) % 128, (number >> 16) % 128];
                let next = state(masks);
                nftables.apply(&current, &next).unwrap();
                let found = nftables.repair(&next).unwrap();
                assert!(
                    found.added == 0 && found.removed == 0 && !found.rebuilt,
                    "{masks:?}: {found:?}"
                );
                seen.insert(masks);
                current = next;
            }
            assert!(seen.len() > 100);
            // What somebody else lets in goes again, and nothing else does.
            let next = state([0b1001, 0b10]);
            nftables.apply(&current, &next).unwrap();
            let foreign = "{ 192.0.2.1 . tcp . 80 . 198.51.100.0-198.51.100.9 }";
            let arguments = ["add", "element", "inet", "edgelb", "allowed4", foreign];
            tool(&node, "nft", &arguments).unwrap();
            let found = nftables.repair(&next).unwrap();
            assert!(
                found.removed == 1 && found.added == 0 && !found.rebuilt,
                "{found:?}"
            );
            let listed = ["list", "set", "inet", "edgelb", "allowed4"];
            let listed = tool(&node, "nft", &listed).unwrap();
            assert!(
                listed.contains("192.0.2.1 . tcp . 80 . 10.0.0.0/9")
                    && listed.contains("192.0.2.1 . tcp . 80 . 192.0.2.7")
                    && !listed.contains("198.51.100"),
                "{listed}"
            );
        })
        .unwrap();
}
