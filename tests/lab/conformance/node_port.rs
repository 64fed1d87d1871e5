//! Cases 39 to 43: node ports.

use std::net::{IpAddr, SocketAddr};

use edgelb::lab::Route;
use edgelb::lab::server::{Listen, Server};
use serde_json::json;

use super::bench::{Bench, NODE_PORT, bar};
use super::objects::{node_port, port, single};
use super::observe::{PROTOCOLS, TCP, UDP, answered, reaches, refused};
use crate::rig::{eventually, request, socket};

/// N1's addresses on its second network, where C is too.
const SECOND: [&str; 2] = ["198.18.2.11/24", "fd00:18::11/64"];
const SECOND_OF_CLIENT: [&str; 2] = ["198.18.2.50/24", "fd00:18::50/64"];

/// Connects N1 to C by another cable; the addresses of N1 there.
fn second_network(bench: &Bench) -> [IpAddr; 2] {
    bench.n1().create_veth("eth1", bench.c(), "eth1").unwrap();
    for (namespace, addresses) in [(bench.n1(), SECOND), (bench.c(), SECOND_OF_CLIENT)] {
        for address in addresses {
            let address = address.parse().unwrap();
            namespace.add_address("eth1", address).unwrap();
        }
        namespace.set_up("eth1").unwrap();
    }
    SECOND.map(|address| address.parse::<ipnet::IpNet>().unwrap().addr())
}

#[test]
fn case_39_node_ports_reach_every_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    bench.serve(&node_port(), &workloads.map(|it| bench.endpoint(it)));
    for address in bench.node().address.both() {
        for protocol in PROTOCOLS {
            let seen = reaches(bench.c(), socket(address, NODE_PORT), protocol, &workloads);
            assert!(seen.iter().all(|it| bench.is_n1(*it)), "{seen:?}");
        }
    }
}

#[test]
fn case_40_every_address_has_node_ports() {
    let bench = Bench::new();
    let addresses = second_network(&bench);
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    for address in addresses {
        for protocol in PROTOCOLS {
            reaches(
                bench.c(),
                socket(address, NODE_PORT),
                protocol,
                &[bench.a()],
            );
        }
    }
}

#[test]
fn case_40b_or_only_those_of_the_configuration() {
    let bench =
        Bench::configured("[proxy]\nnode_port_addresses = [\"192.0.2.0/24\", \"fd00:2::/64\"]");
    let addresses = second_network(&bench);
    let listen = [Listen::tcp(NODE_PORT), Listen::udp(NODE_PORT)];
    let _host = Server::start(bench.n1(), "n1-itself", &listen).unwrap();
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    for protocol in PROTOCOLS {
        for address in bench.node().address.both() {
            reaches(
                bench.c(),
                socket(address, NODE_PORT),
                protocol,
                &[bench.a()],
            );
        }
        for address in addresses {
            let answer = answered(bench.c(), socket(address, NODE_PORT), protocol);
            assert_eq!(answer.workload, "n1-itself", "{protocol} {address}");
        }
    }
}

#[test]
fn case_41_loopback_has_no_node_ports() {
    let bench = Bench::new();
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    let loopback: [SocketAddr; 2] = [
        SocketAddr::from(([127, 0, 0, 1], NODE_PORT)),
        SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], NODE_PORT)),
    ];
    answered(
        bench.n1(),
        socket(bench.node().address.ipv4, NODE_PORT),
        TCP,
    );
    for to in loopback {
        refused(bench.n1(), to, TCP);
    }
    let _host = Server::start(bench.n1(), "n1-itself", &[Listen::tcp(NODE_PORT)]).unwrap();
    for to in loopback {
        assert_eq!(answered(bench.n1(), to, TCP).workload, "n1-itself");
    }
}

/// Also NP-12.
#[test]
fn case_42_a_number_is_one_of_tcp_and_one_of_udp() {
    let bench = Bench::new();
    let of = |name: &str, protocol: &str, address: [u8; 4]| {
        let mut service = single(name, address.into());
        service["spec"]["type"] = json!("NodePort");
        let mut port = port("dns", protocol, 53, 8080);
        port["nodePort"] = json!(30_053);
        service["spec"]["ports"] = json!([port]);
        service
    };
    let services = [
        of("by-tcp", "TCP", [10, 96, 0, 21]),
        of("by-udp", "UDP", [10, 96, 0, 22]),
    ];
    bench.serve(&services[0], &[bench.endpoint(bench.a())]);
    bench.serve(&services[1], &[bench.endpoint(bench.r())]);
    let to = socket(bench.node().address.ipv4, 30_053);
    reaches(bench.c(), to, TCP, &[bench.a()]);
    reaches(bench.c(), to, UDP, &[bench.r()]);
    bench.delete(&services[0]);
    bench.settle();
    refused(bench.c(), to, TCP);
    reaches(bench.c(), to, UDP, &[bench.r()]);
}

#[test]
fn case_43_a_new_address_gets_node_ports() {
    let bench = Bench::new();
    bench.serve(&node_port(), &[bench.endpoint(bench.a())]);
    let own = bench.node().address.both();
    let new = ["203.0.113.77", "fd00:77::77"].map(|text| text.parse::<IpAddr>().unwrap());
    for (new, own) in new.into_iter().zip(own) {
        let route = Route {
            destination: new.into(),
            gateway: Some(own),
            link: "eth0",
        };
        bench.c().add_route(&route).unwrap();
        bench.n1().add_address("eth0", new.into()).unwrap();
        let to = socket(new, NODE_PORT);
        eventually(bar(), || request(bench.c(), to, TCP).ok());
        answered(bench.c(), to, UDP);
        // And is forgotten when it goes.
        bench.n1().remove_address("eth0", new.into()).unwrap();
        eventually(bar(), || request(bench.c(), to, TCP).is_err().then_some(()));
    }
}
