//! Real packets through real daemons, the same on both datapaths. Cases by their number in the
//! specification of the service proxy.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::client::{Protocol, RequestError, RequestOptions, open_stream, request_with};
use edgelb::lab::manifests::{ServiceManifest, ServicePort};
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::{DualStack, Namespace};

use super::rig::{Rig, cluster_ips, request, socket, soon, spread, web};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;
const BOTH: [Protocol; 2] = [TCP, UDP];

/// Port 80 by TCP and UDP, and port 81 by TCP to another port of the workloads.
fn many_ports(name: &str, number: u8) -> ServiceManifest {
    let port = |name: &str, protocol, port, target_port, node_port| ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        target_port,
        node_port,
    };
    let node_port = 30_000 + u16::from(number);
    ServiceManifest::load_balancer(
        name,
        cluster_ips(number),
        vec![
            port("http", TCP, 80, 8080, Some(node_port)),
            port("dns", UDP, 80, 8080, Some(node_port)),
            port("other", TCP, 81, 9090, None),
        ],
    )
}

fn is_of_node(address: IpAddr, index: usize) -> bool {
    let index = u8::try_from(index).unwrap();
    let octet = index + 1;
    address == IpAddr::from([192, 0, 2, 11 + index]) || address == IpAddr::from([10, 244, octet, 1])
}

/// Cases 1-4, 8, 39, 51: every frontend, every source, every endpoint, by TCP and UDP.
#[test]
fn every_frontend_reaches_every_endpoint() {
    let rig = Rig::new(3, 3);
    let service = many_ports("web", 10);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let cluster_ip = cluster_ips(10).ipv4;
    let pod = &rig.workload("web-1").namespace;
    let pod_address: IpAddr = rig.workload("web-1").address.ipv4.into();
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let node_address = |index: usize| rig.lab.node(index).unwrap().address.ipv4;
    for protocol in BOTH {
        // (from, to, what every workload sees)
        type Sees<'a> = Box<dyn Fn(IpAddr) -> bool + 'a>;
        let mut cases: Vec<(&Namespace, _, Sees)> = vec![
            (
                rig.client(),
                socket(vip, 80),
                Box::new(|seen| is_of_node(seen, owner)),
            ),
            (pod, socket(vip, 80), Box::new(|seen| is_of_node(seen, 0))),
            (
                rig.node(2),
                socket(vip, 80),
                Box::new(|seen| is_of_node(seen, 2)),
            ),
            (
                rig.node(1),
                socket(cluster_ip, 80),
                Box::new(|seen| is_of_node(seen, 1)),
            ),
        ];
        for index in 0..3 {
            let to = socket(node_address(index), 30_010);
            cases.push((
                rig.client(),
                to,
                Box::new(move |seen| is_of_node(seen, index)),
            ));
        }
        // A pod keeps its own address, but not towards itself.
        cases.push((
            pod,
            socket(cluster_ip, 80),
            Box::new(|seen| seen == pod_address || is_of_node(seen, 0)),
        ));
        for (from, to, sees) in cases {
            let (by_workload, seen) = spread(from, to, protocol, 45);
            assert_eq!(
                by_workload.len(),
                3,
                "{} to {protocol} {to}: {by_workload:?}",
                from.name()
            );
            assert!(
                seen.iter().all(|seen| sees(*seen)),
                "{} to {protocol} {to} seen as {seen:?}",
                from.name()
            );
        }
    }
    // Another port of the same Service goes where that port goes.
    for (from, to) in [
        (rig.client(), socket(vip, 81)),
        (pod, socket(cluster_ip, 81)),
    ] {
        assert_eq!(spread(from, to, TCP, 45).0.len(), 3);
    }
    // Case 8: this node's own packets to a node port of its own.
    let (by_workload, _) = spread(rig.node(0), socket(node_address(0), 30_010), TCP, 45);
    assert_eq!(by_workload.len(), 3);
}

/// Cases 44 and 45: the client's own address arrives, only endpoints of the node that it asked are
/// used, and where there is none the packet is dropped in silence.
#[test]
fn local_policy_keeps_the_client_and_the_node() {
    let rig = Rig::new(3, 4);
    let mut service = many_ports("local", 11);
    service.external_traffic_policy = "Local";
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("local");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let on = |index: usize| -> Vec<String> {
        rig.lab
            .workloads()
            .iter()
            .filter(|workload| workload.node == index)
            .map(|workload| workload.name.clone())
            .collect()
    };
    for protocol in BOTH {
        let (by_workload, seen) = spread(rig.client(), socket(vip, 80), protocol, 20);
        assert_eq!(
            by_workload.into_keys().collect::<Vec<_>>(),
            on(owner),
            "{protocol}"
        );
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [rig.client_address()],
            "{protocol}"
        );
        for index in 0..3 {
            let to = socket(rig.lab.node(index).unwrap().address.ipv4, 30_011);
            let (by_workload, seen) = spread(rig.client(), to, protocol, 20);
            assert_eq!(
                by_workload.into_keys().collect::<Vec<_>>(),
                on(index),
                "{protocol} {to}"
            );
            assert_eq!(
                seen.into_iter().collect::<Vec<_>>(),
                [rig.client_address()],
                "{protocol} {to}"
            );
        }
    }
    // Only node 0 keeps endpoints: it takes the VIP over, and the others drop what still comes.
    let first: Vec<_> = rig
        .lab
        .workloads()
        .iter()
        .filter(|workload| workload.node == 0)
        .collect();
    rig.endpoints(&service, &first);
    let elsewhere = socket(rig.lab.node(1).unwrap().address.ipv4, 30_011);
    super::rig::eventually(super::rig::PATIENCE, || {
        matches!(
            request(rig.client(), elsewhere, TCP),
            Err(RequestError::TimedOut)
        )
        .then_some(())
    });
    super::rig::eventually(super::rig::PATIENCE, || {
        (rig.vip("local") == (vip, 0)).then_some(())
    });
    let (by_workload, seen) = spread(rig.client(), socket(vip, 80), TCP, 10);
    assert_eq!(by_workload.into_keys().collect::<Vec<_>>(), on(0));
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [rig.client_address()]);
    // Pods and nodes reach every endpoint all the same (POL-6), also from where there is none.
    let pod = &rig.workload("web-2").namespace;
    assert_eq!(
        spread(pod, socket(vip, 80), TCP, 10)
            .0
            .into_keys()
            .collect::<Vec<_>>(),
        on(0)
    );
    assert_eq!(
        spread(rig.node(1), socket(vip, 80), TCP, 10)
            .0
            .into_keys()
            .collect::<Vec<_>>(),
        on(0)
    );
}

/// Case 7: the only endpoint is its own client, through every frontend.
#[test]
fn an_endpoint_reaches_itself() {
    let rig = Rig::new(2, 2);
    let service = many_ports("self", 12);
    rig.serve(&service, &[rig.workload("web-1")]);
    let (vip, _) = rig.vip("self");
    let pod = &rig.workload("web-1").namespace;
    let own: IpAddr = rig.workload("web-1").address.ipv4.into();
    let node = rig.lab.node(0).unwrap().address.ipv4;
    rig.wait_served(pod, socket(vip, 80), TCP);
    for protocol in BOTH {
        for to in [
            socket(cluster_ips(12).ipv4, 80),
            socket(vip, 80),
            socket(node, 30_012),
        ] {
            let (by_workload, seen) = spread(pod, to, protocol, 3);
            assert_eq!(
                by_workload.into_keys().collect::<Vec<_>>(),
                ["web-1"],
                "{protocol} {to}"
            );
            assert!(!seen.contains(&own), "{protocol} {to} seen as {seen:?}");
        }
    }
}

/// Case 55 and #72236: undeclared ports of a VIP and of a `ClusterIP` are refused and never reach a
/// socket of the node; node ports are not open on VIPs and `ClusterIP`s.
#[test]
fn undeclared_ports_are_refused_before_any_socket() {
    let rig = Rig::new(2, 2);
    let service = many_ports("web", 13);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let listeners: Vec<Server> = (0..2)
        .map(|index| {
            let listen = [Listen::tcp(22), Listen::udp(22), Listen::tcp(30_013)];
            Server::start(rig.node(index), "node-socket", &listen).unwrap()
        })
        .collect();
    // The listeners do listen, on the node's own address.
    let own = socket(rig.lab.node(owner).unwrap().address.ipv4, 22);
    assert_eq!(
        request(rig.client(), own, TCP).unwrap().workload,
        "node-socket"
    );
    let served: u64 = listeners.iter().map(Server::served).sum();
    let pod = &rig.workload("web-1").namespace;
    for from in [rig.client(), pod, rig.node(owner), rig.node(1 - owner)] {
        for address in [vip, cluster_ips(13).ipv4] {
            if address != vip && from.name() == rig.client().name() {
                continue; // The client has no route to a ClusterIP.
            }
            for (port, protocol) in [
                (22, TCP),
                (22, UDP),
                (30_013, TCP),
                (30_013, UDP),
                (9090, TCP),
            ] {
                // ICMP errors have a rate limit per receiver: a UDP refusal may need another try.
                let start = Instant::now();
                let result = (0..4)
                    .map(|_| request(from, socket(address, port), protocol))
                    .find(|result| {
                        protocol == TCP || !matches!(result, Err(RequestError::TimedOut))
                    })
                    .unwrap();
                assert!(
                    matches!(result, Err(RequestError::Refused)),
                    "{} to {protocol} {address}:{port}: {result:?}",
                    from.name()
                );
                assert!(protocol == UDP || start.elapsed() < Duration::from_secs(1));
            }
        }
    }
    assert_eq!(listeners.iter().map(Server::served).sum::<u64>(), served);
    // The VIP answers ping where it is owned.
    assert!(
        edgelb::lab::tool(
            rig.client(),
            "ping",
            &["-c", "1", "-W", "2", &vip.to_string()]
        )
        .is_ok()
    );
}

/// Case 12: no endpoints: everybody is refused at once, everywhere; case 15: and served again.
#[test]
fn no_endpoints_is_refused_at_once() {
    let rig = Rig::new(2, 2);
    let service = many_ports("empty", 14);
    rig.serve(&service, &[]);
    let (vip, _) = rig.vip("empty");
    let pod = &rig.workload("web-1").namespace;
    let node = rig.lab.node(0).unwrap().address.ipv4;
    let targets: Vec<(&Namespace, Ipv4Addr, u16)> = vec![
        (rig.client(), vip, 80),
        (rig.client(), node, 30_014),
        (pod, vip, 80),
        (pod, cluster_ips(14).ipv4, 80),
        (pod, node, 30_014),
        (rig.node(0), vip, 80),
        (rig.node(0), cluster_ips(14).ipv4, 80),
        (rig.node(1), node, 30_014),
    ];
    let all_refused = || {
        for (from, address, port) in &targets {
            for protocol in BOTH {
                // More often than the kernel's rate limit for ICMP errors would let through.
                for _ in 0..if protocol == TCP { 12 } else { 1 } {
                    let start = Instant::now();
                    let result = request(from, socket(*address, *port), protocol);
                    assert!(
                        matches!(result, Err(RequestError::Refused)),
                        "{} to {protocol} {address}:{port}: {result:?}",
                        from.name()
                    );
                    assert!(start.elapsed() < Duration::from_secs(1));
                }
            }
        }
    };
    rig.wait_refused(rig.client(), socket(vip, 80), TCP);
    all_refused();
    // A connection of the node's own may begin at a port that is a closed node port.
    let listen = [Listen::tcp(8080), Listen::udp(8080)];
    let _server = Server::start(rig.client(), "elsewhere", &listen).unwrap();
    let options = RequestOptions {
        source_address: Some(node.into()),
        source_port: 30_014,
        ..RequestOptions::default()
    };
    for protocol in BOTH {
        let to = SocketAddr::new(rig.client_address(), 8080);
        request_with(rig.node(0), to, protocol, &options).unwrap();
    }
    rig.endpoints(&service, &rig.workloads());
    for (from, address, port) in &targets {
        for protocol in BOTH {
            rig.wait_served(from, socket(*address, *port), protocol);
        }
    }
    rig.endpoints(&service, &[]);
    rig.wait_refused(rig.client(), socket(vip, 80), TCP);
    // UDP flows of the requests before have ended; new ones are refused.
    all_refused();
}

/// Cases 15 and 73: new connections follow the endpoints at once, established ones stay where they
/// are until they close, also when their endpoint leaves.
#[test]
fn endpoints_come_and_go() {
    let rig = Rig::new(2, 4);
    let service = many_ports("web", 15);
    let (first, second) = (rig.workload("web-1"), rig.workload("web-2"));
    rig.serve(&service, &[first]);
    let (vip, _) = rig.vip("web");
    let to = socket(vip, 80);
    rig.wait_served(rig.client(), to, TCP);
    let mut stream = open_stream(rig.client(), to).unwrap();
    assert_eq!(stream.send("before").unwrap().workload, "web-1");

    let start = Instant::now();
    rig.endpoints(&service, &[second]);
    let moved = loop {
        if request(rig.client(), to, TCP).is_ok_and(|answer| answer.workload == "web-2") {
            break start.elapsed();
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "new connections still go to the old endpoint"
        );
    };
    assert!(moved < soon(), "new connections followed after {moved:?}");
    // UDP from a new port follows too.
    assert_eq!(
        spread(rig.client(), to, UDP, 10)
            .0
            .into_keys()
            .collect::<Vec<_>>(),
        ["web-2"]
    );
    for number in 0..20 {
        assert_eq!(request(rig.client(), to, TCP).unwrap().workload, "web-2");
        assert_eq!(
            stream.send(&format!("after {number}")).unwrap().workload,
            "web-1"
        );
    }
    // It comes back and goes again: the old connection never notices.
    rig.endpoints(&service, &[first, second]);
    rig.wait_served(rig.client(), to, TCP);
    super::rig::eventually(super::rig::PATIENCE, || {
        request(rig.client(), to, TCP)
            .is_ok_and(|answer| answer.workload == "web-1")
            .then_some(())
    });
    assert_eq!(stream.send("back").unwrap().workload, "web-1");
    rig.endpoints(&service, &[]);
    rig.wait_refused(rig.client(), to, TCP);
    assert_eq!(stream.send("alone").unwrap().workload, "web-1");
    rig.endpoints(&service, &[second]);
    rig.wait_served(rig.client(), to, TCP);
    assert_eq!(stream.send("still").unwrap().workload, "web-1");
    drop(stream);
    if super::rig::ipvs() {
        // Once its last connection is forgotten the drained real server goes.
        let listed = || edgelb::lab::tool(rig.node(0), "ipvsadm", &["-Sn"]).unwrap();
        let (first, _) = (first.address.ipv4, second);
        super::rig::eventually(Duration::from_secs(180), || {
            (!listed().contains(&format!("-r {first}:8080"))).then_some(())
        });
    }
}

/// #127410, XIP-4: an address of a node (or of nobody's ranges) among externalIPs is refused, and
/// the node stays reachable; one inside the allowed ranges is served.
#[test]
fn external_addresses_never_take_a_node() {
    let mut configuration = toml::Table::new();
    configuration.insert(
        "proxy".to_owned(),
        toml::toml! { external_ip_ranges = ["192.0.2.0/24"] }.into(),
    );
    let rig = Rig::with_router(2, 2, configuration);
    let peer = rig.lab.node(1).unwrap().address.ipv4;
    let mut service = web("web", 16);
    // A node's, the other's, the gateway's, a good one, and one of nobody's ranges.
    let addresses = format!("{peer}, 192.0.2.11, 192.0.2.1, 192.0.2.150, 203.0.113.9");
    service.more = format!("  externalIPs: [{addresses}]\n");
    rig.serve(&service, &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    // The allowed one is served by whichever node gets the packet.
    rig.client()
        .add_route(&edgelb::lab::Route {
            destination: "192.0.2.150/32".parse().unwrap(),
            gateway: Some(rig.lab.node(0).unwrap().address.ipv4.into()),
            link: "eth0",
        })
        .unwrap();
    assert_eq!(
        spread(
            rig.client(),
            socket(Ipv4Addr::new(192, 0, 2, 150), 80),
            TCP,
            20
        )
        .0
        .len(),
        2
    );
    for index in 0..2 {
        let own = rig.lab.node(index).unwrap().address.ipv4;
        let _listener = Server::start(rig.node(index), "node-itself", &[Listen::tcp(80)]).unwrap();
        for from in [rig.client(), rig.node(1 - index)] {
            assert_eq!(
                request(from, socket(own, 80), TCP).unwrap().workload,
                "node-itself"
            );
        }
    }
    // The node still reaches the world through its gateway.
    let gateway = &rig.lab.router().unwrap().namespace;
    let _listener = Server::start(gateway, "gateway", &[Listen::tcp(80)]).unwrap();
    let answer = request(rig.node(0), socket(Ipv4Addr::new(192, 0, 2, 1), 80), TCP);
    assert_eq!(answer.unwrap().workload, "gateway");
    let held = edgelb::lab::tool(
        rig.node(0),
        "ip",
        &["route", "show", "table", "local", "proto", "225"],
    )
    .unwrap();
    assert!(
        held.contains("192.0.2.150")
            && !held.contains("192.0.2.1 ")
            && !held.contains("192.0.2.12"),
        "{held}"
    );
    let reasons = rig.ask(0, "services").to_string();
    assert!(reasons.contains("address_of_infrastructure"), "{reasons}");
    assert!(reasons.contains("external_not_allowed"), "{reasons}");
}

/// Case 54's neighbour: two Services with one node port, and a Service that goes.
#[test]
fn a_service_that_goes_leaves_nothing() {
    let rig = Rig::new(1, 1);
    let service = web("gone", 17);
    rig.serve(&service, &rig.workloads());
    let (vip, _) = rig.vip("gone");
    let node = rig.lab.node(0).unwrap().address.ipv4;
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    rig.wait_served(rig.client(), socket(node, 30_017), TCP);
    rig.manifests.remove("service-gone.yaml").unwrap();
    // The route goes first and the virtual servers after it: a connection between the two still
    // meets a server. So wait until the kernel holds nothing, as other programs see it.
    super::rig::eventually(super::rig::PATIENCE, || {
        let node = rig.node(0);
        let routes = edgelb::lab::tool(
            node,
            "ip",
            &["route", "show", "table", "local", "proto", "225"],
        )
        .unwrap();
        let ruleset = edgelb::lab::tool(node, "nft", &["list", "table", "inet", "edgelb"]).unwrap();
        let servers = if super::rig::ipvs() {
            edgelb::lab::tool(node, "ipvsadm", &["-Sn"]).unwrap()
        } else {
            String::new()
        };
        let held = [&routes, &ruleset]
            .iter()
            .any(|text| text.contains(&vip.to_string()) || text.contains("30017"));
        (!held && servers.is_empty()).then_some(())
    });
    let result = request(rig.client(), socket(node, 30_017), TCP);
    assert!(matches!(result, Err(RequestError::Refused)), "{result:?}");
    let _: DualStack = cluster_ips(17);
}
