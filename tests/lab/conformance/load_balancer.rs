//! Cases 51 to 61: VIPs and external addresses.

use edgelb::lab::server::{Listen, Server};
use edgelb::lab::{DualStack, Route, tool};
use serde_json::{Value, json};

use super::bench::{Bench, EXTERNAL, VIP};
use super::objects::{cluster_ip, load_balancer, port};
use super::observe::{Arrivals, FAMILIES, PROTOCOLS, TCP, UDP, answered, reaches, refused};
use crate::rig::socket;

#[test]
fn case_51_vips_reach_every_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    bench.serve(&load_balancer(), &workloads.map(|it| bench.endpoint(it)));
    for address in VIP.both() {
        for protocol in PROTOCOLS {
            let seen = reaches(bench.c(), socket(address, 80), protocol, &workloads);
            assert!(seen.iter().all(|it| bench.is_n1(*it)), "{seen:?}");
        }
    }
}

/// The status of another implementation's Service: with ipMode Proxy the packet goes out to what
/// holds the address, which is C here; with ipMode VIP, or none, it stays (LB-2).
fn with_mode(bench: &Bench, mode: Option<&str>) -> Value {
    let mut service = load_balancer();
    service["metadata"]["annotations"] = json!({});
    service["spec"]["externalIPs"] = json!([]);
    let entries = EXTERNAL
        .both()
        .map(|address| json!({"ip": address, "ipMode": mode}));
    service["status"] = json!({"loadBalancer": {"ingress": entries}});
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    service
}

fn ip_mode(bench: &Bench) {
    for (address, own) in EXTERNAL.both().into_iter().zip(bench.client().both()) {
        bench.c().add_address("lo", address.into()).unwrap();
        let route = |destination: std::net::IpAddr, gateway| Route {
            destination: destination.into(),
            gateway: Some(gateway),
            link: "eth0",
        };
        bench.n1().add_route(&route(address, own)).unwrap();
    }
    // C knows P for this case, so that its answer finds the way, and comes from where it was asked.
    let ways = bench
        .p()
        .address
        .both()
        .into_iter()
        .zip(bench.node().address.both());
    for ((pod, node), address) in ways.zip(EXTERNAL.both()) {
        let words = format!("route add {pod} via {node} dev eth0 src {address}");
        tool(bench.c(), "ip", &words.split(' ').collect::<Vec<_>>()).unwrap();
    }
    let _proxy = Server::start(bench.c(), "proxy", &[Listen::tcp(80), Listen::udp(80)]).unwrap();
    for mode in [Some("Proxy"), None, Some("VIP"), Some("Proxy")] {
        with_mode(bench, mode);
        for (address, own) in EXTERNAL.both().into_iter().zip(bench.p().address.both()) {
            for protocol in PROTOCOLS {
                let answer = answered(&bench.p().namespace, socket(address, 80), protocol);
                let to = format!("{mode:?} {protocol} {address}");
                if mode == Some("Proxy") {
                    assert_eq!(answer.workload, "proxy", "{to}");
                    assert_eq!(answer.seen.ip(), own, "{to}");
                } else {
                    assert_eq!(answer.workload, bench.a().name, "{to}");
                }
            }
        }
    }
}

#[test]
fn case_52_ip_mode_proxy_is_left_alone() {
    ip_mode(&Bench::new());
}

/// The same of an API server.
#[test]
fn case_52b_ip_mode_proxy_of_the_api_server() {
    ip_mode(&Bench::with(&super::bench::Setup {
        api_server: true,
        ..Default::default()
    }));
}

#[test]
fn case_54_two_services_share_a_vip() {
    let bench = Bench::new();
    let of = |name: &str, number: u16, last: u8| {
        let mut service = load_balancer();
        service["metadata"]["name"] = json!(name);
        service["metadata"]["uid"] = json!(name);
        service["metadata"]["annotations"]["edgelb.io/sharing-key"] = json!("together");
        let spec = &mut service["spec"];
        let addresses = DualStack {
            ipv4: [10, 96, 0, last].into(),
            ipv6: [0xfd00, 0x96, 0, 0, 0, 0, 0, last.into()].into(),
        };
        spec["clusterIP"] = json!(addresses.ipv4);
        spec["clusterIPs"] = json!(addresses.both());
        spec["externalIPs"] = json!([]);
        spec["ports"] = json!([
            port("http", "TCP", number, 8080),
            port("dns", "UDP", number, 8080)
        ]);
        service
    };
    bench.serve(&of("one", 80, 31), &[bench.endpoint(bench.a())]);
    bench.serve(&of("two", 81, 32), &[bench.endpoint(bench.r())]);
    for address in VIP.both() {
        for protocol in PROTOCOLS {
            reaches(bench.c(), socket(address, 80), protocol, &[bench.a()]);
            reaches(bench.c(), socket(address, 81), protocol, &[bench.r()]);
        }
    }
    bench.delete(&of("one", 80, 31));
    bench.settle();
    reaches(bench.c(), socket(VIP.ipv4, 81), TCP, &[bench.r()]);
    refused(bench.c(), socket(VIP.ipv4, 80), TCP);
}

#[test]
fn case_55_undeclared_ports_of_vips_are_refused() {
    let bench = Bench::new();
    bench.serve(&load_balancer(), &[bench.endpoint(bench.a())]);
    let listen = [Listen::tcp(81), Listen::udp(81)];
    let host = Server::start(bench.n1(), "n1-itself", &listen).unwrap();
    for addresses in [VIP, EXTERNAL] {
        for address in addresses.both() {
            for from in [bench.c(), &bench.p().namespace] {
                answered(from, socket(address, 80), TCP);
                refused(from, socket(address, 81), TCP);
                refused(from, socket(address, 81), UDP);
            }
            refused(bench.n1(), socket(address, 81), TCP);
        }
    }
    assert_eq!(host.served(), 0);
}

#[test]
fn case_61_external_addresses_are_served() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    bench.serve(&load_balancer(), &workloads.map(|it| bench.endpoint(it)));
    for address in EXTERNAL.both() {
        for from in [&bench.p().namespace, bench.c()] {
            for protocol in PROTOCOLS {
                let seen = reaches(from, socket(address, 80), protocol, &workloads);
                assert!(seen.iter().all(|it| bench.is_n1(*it)), "{seen:?}");
            }
        }
    }
}

/// SEL-8, XIP-1: external addresses and node ports count whatever the type.
#[test]
fn case_103_external_addresses_of_any_type() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    for kind in ["ClusterIP", "NodePort"] {
        let mut service = super::objects::service(kind);
        service["spec"]["externalIPs"] = json!(EXTERNAL.both());
        bench.serve(&service, &workloads.map(|it| bench.endpoint(it)));
        for address in EXTERNAL.both() {
            for protocol in PROTOCOLS {
                reaches(bench.c(), socket(address, 80), protocol, &workloads);
            }
        }
    }
    // SP-7: a policy Local counts for a ClusterIP Service that has an external address.
    let mut service = cluster_ip();
    service["spec"]["externalIPs"] = json!(EXTERNAL.both());
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    bench.serve(&service, &workloads.map(|it| bench.endpoint(it)));
    for (address, own) in EXTERNAL.both().into_iter().zip(bench.client().both()) {
        let seen = reaches(bench.c(), socket(address, 80), TCP, &[bench.a()]);
        assert_eq!(Vec::from_iter(seen), [own]);
    }
}

/// LB-5: an address that leaves the Service is not served any more, by nobody's help.
#[test]
fn case_104_a_withdrawn_address_is_left_alone() {
    let bench = Bench::new();
    let mut service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.r())]);
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            answered(bench.c(), to, TCP);
        }
    }
    service["spec"]["externalIPs"] = json!([]);
    bench.put(&service);
    bench.settle();
    let arrivals = Arrivals::at(&bench.r().namespace, "8080");
    for address in EXTERNAL.both() {
        let result = crate::rig::request(bench.c(), socket(address, 80), TCP);
        assert!(result.is_err(), "{result:?}");
    }
    arrivals.assert_none();
    answered(bench.c(), socket(VIP.ipv4, 80), TCP);
}
