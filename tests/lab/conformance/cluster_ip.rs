//! Cases 1 to 14: `ClusterIP`s, from pods, the node and the LAN.

use std::collections::BTreeMap;

use edgelb::lab::Namespace;
use edgelb::lab::server::Listen;
use serde_json::json;

use super::bench::{Bench, CLUSTER_IP, Setup};
use super::objects::{cluster_ip, load_balancer, port};
use super::observe::{FAMILIES, PROTOCOLS, TCP, UDP, answered, reaches, refused, silent};
use crate::rig::{request, socket};

#[test]
fn case_1_a_pod_keeps_its_address() {
    let bench = Bench::new();
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.a())]);
    let p = bench.p();
    for (address, own) in CLUSTER_IP.both().into_iter().zip(p.address.both()) {
        for protocol in PROTOCOLS {
            let answer = answered(&p.namespace, socket(address, 80), protocol);
            assert_eq!(answer.workload, bench.a().name);
            assert_eq!(answer.seen.ip(), own);
        }
    }
}

#[test]
fn case_2_every_endpoint_gets_its_share() {
    let bench = Bench::new();
    let endpoints = [bench.a(), bench.a2(), bench.r()].map(|it| bench.endpoint(it));
    bench.serve(&cluster_ip(), &endpoints);
    for (address, protocol) in CLUSTER_IP.both().into_iter().zip(PROTOCOLS) {
        let mut shares: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..200 {
            let answer = answered(&bench.p().namespace, socket(address, 80), protocol);
            *shares.entry(answer.workload).or_default() += 1;
        }
        assert_eq!(shares.len(), 3, "{protocol} {address}: {shares:?}");
        assert!(shares.values().all(|share| *share >= 20), "{shares:?}");
    }
}

#[test]
fn case_3_the_slice_says_which_port() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] = json!([port("https", "TCP", 443, 9090)]);
    bench.a().server.close(Listen::tcp(8080)).unwrap();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for address in CLUSTER_IP.both() {
        let answer = answered(&bench.p().namespace, socket(address, 443), TCP);
        assert_eq!(answer.workload, bench.a().name);
    }
}

/// SCTP needs a kernel that has it, see the tests of the machine with IPVS.
#[test]
fn case_4_each_protocol_has_its_own_target() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] =
        json!([port("dns-tcp", "TCP", 53, 5353), port("dns", "UDP", 53, 53),]);
    bench.a().server.open(Listen::tcp(5353)).unwrap();
    bench.a().server.open(Listen::udp(53)).unwrap();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for address in CLUSTER_IP.both() {
        for protocol in PROTOCOLS {
            answered(&bench.p().namespace, socket(address, 53), protocol);
        }
    }
    // The one without its server is refused by the pod: nothing went to the other's port.
    bench.a().server.close(Listen::udp(53)).unwrap();
    refused(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 53), UDP);
    answered(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 53), TCP);
}

#[test]
fn case_5_undeclared_ports_are_refused() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] = json!([port("http", "TCP", 80, 8080)]);
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for address in CLUSTER_IP.both() {
        for from in [&bench.p().namespace, bench.n1()] {
            answered(from, socket(address, 80), TCP);
            refused(from, socket(address, 80), UDP);
            refused(from, socket(address, 81), TCP);
        }
    }
}

#[test]
fn case_6_an_unused_cluster_ip_is_silent() {
    let bench = Bench::new();
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.a())]);
    let unused = ["10.96.200.200", "fd00:96::c8c8"];
    for (address, used) in unused.into_iter().zip(CLUSTER_IP.both()) {
        answered(&bench.p().namespace, socket(used, 80), TCP);
        let to = socket(address.parse::<std::net::IpAddr>().unwrap(), 80);
        silent(&bench.p().namespace, to, TCP);
    }
}

#[test]
fn case_7_an_endpoint_reaches_itself() {
    let bench = Bench::new();
    bench.serve(&load_balancer(), &[bench.endpoint(bench.a())]);
    let a = bench.a();
    for v6 in FAMILIES {
        for to in bench.frontends(v6, 80) {
            // The node port is TCP's and UDP's.
            for protocol in PROTOCOLS {
                let answer = answered(&a.namespace, to, protocol);
                assert_eq!(answer.workload, a.name);
                assert!(
                    !a.address.both().contains(&answer.seen.ip()),
                    "{protocol} {to}: seen as itself"
                );
            }
        }
    }
}

#[test]
fn case_8_the_node_itself_reaches_every_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    bench.serve(&cluster_ip(), &workloads.map(|it| bench.endpoint(it)));
    for address in CLUSTER_IP.both() {
        for protocol in PROTOCOLS {
            let seen = reaches(bench.n1(), socket(address, 80), protocol, &workloads);
            assert!(seen.iter().all(|it| bench.is_n1(*it)), "{seen:?}");
        }
    }
}

#[test]
fn case_9_outsiders_are_masqueraded() {
    let bench = Bench::configured("[proxy]\ncluster_ip_from_outside = true");
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.r())]);
    let own = bench.node().address.both();
    for (address, own) in CLUSTER_IP.both().into_iter().zip(own) {
        for protocol in PROTOCOLS {
            let answer = answered(bench.c(), socket(address, 80), protocol);
            assert_eq!(answer.workload, bench.r().name);
            assert_eq!(answer.seen.ip(), own, "{protocol}");
        }
    }
}

#[test]
fn case_10_where_pods_are_unknown_outsiders_keep_their_address() {
    let bench = Bench::with(&Setup {
        configuration: "[proxy]\ncluster_ip_from_outside = true",
        pods_unknown: true,
        ..Setup::default()
    });
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.a())]);
    let own = bench.client().both();
    for (address, own) in CLUSTER_IP.both().into_iter().zip(own) {
        for protocol in PROTOCOLS {
            let answer = answered(bench.c(), socket(address, 80), protocol);
            assert_eq!(answer.workload, bench.a().name);
            assert_eq!(answer.seen.ip(), own, "{protocol}");
        }
    }
}

#[test]
fn case_11_masquerade_all_hides_pods() {
    let bench = Bench::configured("[proxy]\nmasquerade_all = true");
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.a2())]);
    for address in CLUSTER_IP.both() {
        for protocol in PROTOCOLS {
            let answer = answered(&bench.p().namespace, socket(address, 80), protocol);
            assert_eq!(answer.workload, bench.a2().name);
            assert!(bench.is_n1(answer.seen.ip()), "{answer:?}");
        }
    }
}

#[test]
fn case_12_without_endpoints_everybody_is_refused() {
    let bench = Bench::configured("[proxy]\ncluster_ip_from_outside = true");
    let service = load_balancer();
    // Frontends that work, before they refuse.
    bench.serve(&service, &[bench.endpoint(bench.r())]);
    let sources: [&Namespace; 3] = [&bench.p().namespace, bench.n1(), bench.c()];
    for v6 in FAMILIES {
        for from in sources {
            for to in bench.frontends(v6, 80) {
                answered(from, to, TCP);
            }
        }
    }
    bench.endpoints(&service, &[]);
    for v6 in FAMILIES {
        for from in sources {
            for to in bench.frontends(v6, 80) {
                refused(from, to, TCP);
            }
        }
    }
}

#[test]
fn case_14_no_default_route_is_needed() {
    let bench = Bench::new();
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.r())]);
    for (family, address) in ["-4", "-6"].into_iter().zip(CLUSTER_IP.both()) {
        let routes = [family, "route", "show", "default"];
        let routes = edgelb::lab::tool(bench.n1(), "ip", &routes).unwrap();
        assert_eq!(routes, "");
        for protocol in PROTOCOLS {
            let answer = request(bench.n1(), socket(address, 80), protocol).unwrap();
            assert_eq!(answer.workload, bench.r().name);
        }
    }
}
