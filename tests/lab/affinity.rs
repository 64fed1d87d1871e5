//! Clients that stay with their endpoint, and schedulers that hash, the same on both datapaths.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::client::{Protocol, RequestOptions, request_with};
use edgelb::lab::manifests::{ServiceManifest, ServicePort};
use edgelb::lab::{Namespace, tool};

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, ipvs, request, socket, spread, web};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

/// Port 80 by TCP and UDP, each with a node port, whose clients stay for so many seconds.
fn sticky(name: &str, number: u8, seconds: u32) -> ServiceManifest {
    let mut service = web(name, number);
    service.ports.push(ServicePort {
        name: "dns".to_owned(),
        protocol: UDP,
        ..service.ports[0].clone()
    });
    service.more = format!(
        "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {seconds}\n"
    );
    service
}

/// The one workload that answers all of these requests.
#[track_caller]
fn one(from: &Namespace, to: SocketAddr, protocol: Protocol) -> String {
    let (by_workload, _) = spread(from, to, protocol, 8);
    assert_eq!(
        by_workload.len(),
        1,
        "{} to {protocol} {to}: {by_workload:?}",
        from.name()
    );
    by_workload.into_keys().next().unwrap()
}

fn from_address(from: &Namespace, source: Ipv4Addr, to: SocketAddr) -> String {
    let options = RequestOptions {
        source_address: Some(source.into()),
        ..RequestOptions::default()
    };
    let answer = request_with(from, to, TCP, &options);
    answer
        .unwrap_or_else(|error| panic!("{source} to {to}: {error}"))
        .workload
}

/// More addresses of the client.
fn sources(rig: &Rig, number: u8) -> Vec<Ipv4Addr> {
    (0..number)
        .map(|index| {
            let address = Ipv4Addr::new(192, 0, 2, 100 + index);
            let in_lan = format!("{address}/24").parse().unwrap();
            rig.client().add_address("eth0", in_lan).unwrap();
            address
        })
        .collect()
}

/// AFF-1, AFF-2, case 62: one endpoint through every frontend of a port, whoever asks.
#[test]
fn a_client_stays_with_its_endpoint() {
    let rig = Rig::new(2, 4);
    let service = sticky("web", 40, 600);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let node = rig.lab.node(owner).unwrap().address;
    let other = rig.lab.node(1 - owner).unwrap().address;
    for protocol in [TCP, UDP] {
        // The node that owns the VIP chooses once for both.
        let chosen = one(rig.client(), socket(vip, 80), protocol);
        assert_eq!(
            one(rig.client(), socket(node.ipv4, 30_040), protocol),
            chosen
        );
        one(rig.client(), socket(node.ipv6, 30_040), protocol);
        one(rig.client(), socket(other.ipv4, 30_040), protocol);
        for from in [&rig.workload("web-1").namespace, rig.node(0)] {
            let chosen = one(from, socket(cluster_ips(40).ipv4, 80), protocol);
            assert_eq!(one(from, socket(vip, 80), protocol), chosen);
            one(from, socket(cluster_ips(40).ipv6, 80), protocol);
        }
    }
    // Another eye sees who is remembered.
    let listed = |set: &str| {
        tool(
            rig.node(owner),
            "nft",
            &["list", "map", "inet", "edgelb", set],
        )
    };
    let remembered = listed("affinity4").unwrap();
    assert!(
        remembered.contains(&rig.client_address().to_string()),
        "{remembered}"
    );
    tool(rig.node(owner), "nft", &["list", "ruleset"]).unwrap();
    if ipvs() {
        let servers = tool(rig.node(owner), "ipvsadm", &["-Sn"]).unwrap();
        assert_eq!(servers, "", "nftables forwards for every class");
    }
    // Many clients use all endpoints, and each stays.
    let to = socket(vip, 80);
    let clients = sources(&rig, 24);
    let chosen: BTreeMap<Ipv4Addr, String> = clients
        .iter()
        .map(|source| (*source, from_address(rig.client(), *source, to)))
        .collect();
    assert_eq!(
        chosen.values().collect::<BTreeSet<_>>().len(),
        4,
        "{chosen:?}"
    );
    for (source, workload) in &chosen {
        assert_eq!(from_address(rig.client(), *source, to), *workload);
    }
    // AFF-7, AFF-8: who had the endpoint that goes moves at once and stays with another; nobody else
    // moves.
    let gone = &rig.workloads()[0].name;
    let rest: Vec<_> = rig.workloads().into_iter().skip(1).collect();
    rig.endpoints(&service, &rest);
    let stayed = |name: &String| name != gone;
    let moved: Vec<Ipv4Addr> = clients
        .iter()
        .copied()
        .filter(|source| !stayed(&chosen[source]))
        .collect();
    let settled: BTreeMap<Ipv4Addr, String> = moved
        .iter()
        .map(|source| {
            let found = eventually(PATIENCE, || {
                Some(from_address(rig.client(), *source, to)).filter(stayed)
            });
            (*source, found)
        })
        .collect();
    for source in &clients {
        let expected = settled.get(source).unwrap_or(&chosen[source]);
        for _ in 0..3 {
            assert_eq!(from_address(rig.client(), *source, to), *expected);
        }
    }
    // AFF-11: without affinity the next connections spread.
    let mut free = service.clone();
    free.more = String::new();
    rig.manifests.write_service(&free).unwrap();
    eventually(PATIENCE, || {
        (spread(rig.client(), to, TCP, 12).0.len() == 3).then_some(())
    });
    rig.manifests.write_service(&service).unwrap();
    eventually(PATIENCE, || {
        (spread(rig.client(), to, TCP, 12).0.len() == 1).then_some(())
    });
}

/// AFF-4, case 63: a client is forgotten a while after its last new connection, and not before.
#[test]
fn a_client_is_forgotten_after_a_while() {
    let rig = Rig::new(1, 3);
    rig.serve(&sticky("web", 41, 2), &rig.workloads());
    let (vip, _) = rig.vip("web");
    let to = socket(vip, 80);
    let mut chosen = rig.wait_served(rig.client(), to, TCP).workload;
    let start = Instant::now();
    let mut last = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(200));
        let before = last;
        last = Instant::now();
        let workload = request(rig.client(), to, TCP).unwrap().workload;
        // A machine that stood still for long says nothing.
        if before.elapsed() < Duration::from_millis(1_900) {
            assert_eq!(workload, chosen, "after {:?}", start.elapsed());
        }
        chosen = workload;
    }
    let mut seen = BTreeSet::from([chosen]);
    for _ in 0..12 {
        std::thread::sleep(Duration::from_millis(2_100));
        seen.insert(request(rig.client(), to, TCP).unwrap().workload);
        if seen.len() > 1 {
            return;
        }
    }
    panic!("always {seen:?}");
}

/// Where no more clients can be remembered, further ones are served all the same.
#[test]
fn a_full_memory_refuses_nobody() {
    let rig = Rig::new(1, 2);
    rig.serve(&sticky("web", 42, 600), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let elements: Vec<String> = (0..1_u32 << 17)
        .map(|index| {
            let client = Ipv4Addr::from_bits(0x0a80_0000 + index);
            format!("{client} . 0x1 . 0x1 timeout 1h : 80 . 0x1")
        })
        .collect();
    let file = rig.lab.directory().join("full.nft");
    // The client's own element is there: the last one finds no room.
    for (part, expected) in [
        (&elements[..elements.len() - 8], true),
        (&elements[elements.len() - 8..], false),
    ] {
        let text = format!(
            "add element inet edgelb affinity4 {{ {} }}\n",
            part.join(", ")
        );
        std::fs::write(&file, text).unwrap();
        let added = tool(rig.node(0), "nft", &["-f", file.to_str().unwrap()]);
        assert_eq!(
            added.is_ok(),
            expected,
            "{:?}",
            added.err().map(|error| error.to_string())
        );
    }
    for source in sources(&rig, 20) {
        from_address(rig.client(), source, socket(vip, 80));
    }
}

/// The schedulers that hash: a client, or a flow, gets the same endpoint without being remembered.
#[test]
fn hashing_schedulers_depend_on_the_client_alone() {
    let rig = Rig::new(1, 3);
    let clients = sources(&rig, 16);
    for (number, scheduler) in [(43, "sh"), (44, "mh")] {
        let name = format!("web-{scheduler}");
        let mut service = web(&name, number);
        let annotation = ("edgelb.io/scheduler".to_owned(), scheduler.to_owned());
        service.annotations.extend([annotation]);
        rig.serve(&service, &rig.workloads());
        let (vip, _) = rig.vip(&name);
        let to = socket(vip, 80);
        rig.wait_served(rig.client(), to, TCP);
        let from = |source: Ipv4Addr, source_port| {
            let options = RequestOptions {
                source_address: Some(IpAddr::from(source)),
                source_port,
                ..RequestOptions::default()
            };
            request_with(rig.client(), to, TCP, &options)
                .unwrap()
                .workload
        };
        let of_clients: BTreeSet<String> = clients.iter().map(|source| from(*source, 0)).collect();
        assert!(of_clients.len() > 1, "{scheduler}: {of_clients:?}");
        let of_one: BTreeSet<String> = (0..16)
            .map(|port| from(clients[0], 20_000 + port))
            .collect();
        assert_eq!(
            of_one.len() > 1,
            scheduler == "mh",
            "{scheduler}: {of_one:?}"
        );
    }
}
