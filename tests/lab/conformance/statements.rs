//! Cases that numbered statements imply and that stand in no table.

use std::time::Duration;

use edgelb::lab::client::{RequestError, RequestOptions, open_stream, request_with};
use edgelb::lab::{Namespace, tool};
use serde_json::json;

use super::bench::{Bench, CLUSTER_IP, Setup, VIP};
use super::objects::{
    cluster_ip, load_balancer, local_load_balancer, port, slice, slice_ports, slices,
};
use super::observe::{FAMILIES, PROTOCOLS, TCP, UDP, reaches, refused};
use crate::rig::{ipvs, socket};

/// EP-13: an endpoint that is there twice; the entry that terminates never hides the other one.
#[test]
fn case_123_a_duplicate_never_hides_an_endpoint() {
    let bench = Bench::new();
    let service = cluster_ip();
    let ports = slice_ports(&service);
    let ready = [bench.endpoint(bench.a())];
    let terminating = [bench.endpoint(bench.a()).terminating()];
    let to = socket(CLUSTER_IP.ipv4, 80);
    bench.put(&service);
    for (first, second) in [(&ready, &terminating), (&terminating, &ready)] {
        bench.put(&slice("web-1", &service, "IPv4", first, &ports));
        bench.put(&slice("web-2", &service, "IPv4", second, &ports));
        let other = [bench.endpoint(bench.r()).terminating()];
        bench.put(&slice("web-3", &service, "IPv4", &other, &ports));
        bench.settle();
        reaches(&bench.p().namespace, to, TCP, &[bench.a()]);
    }
}

/// EP-4, EP-5: a port without a number is no port; an unnamed one has the empty name.
#[test]
fn case_124_slice_ports_without_number_or_name() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] = json!([port("", "TCP", 80, 8080)]);
    let endpoints = [bench.endpoint(bench.a())];
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    bench.put(&service);
    for (ports, good) in [
        (json!([{"name": "", "protocol": "TCP"}]), false),
        (
            json!([{"name": "", "protocol": "TCP", "port": null}]),
            false,
        ),
        (
            json!([{"name": "", "protocol": "TCP"}, {"name": "", "protocol": "TCP", "port": 8080}]),
            true,
        ),
        (json!([{"name": "", "protocol": "TCP", "port": 8080}]), true),
        (
            json!([{"name": "http", "protocol": "TCP", "port": 8080}]),
            false,
        ),
    ] {
        bench.put(&slice("web-1", &service, "IPv4", &endpoints, &ports));
        bench.settle();
        if good {
            reaches(p, to, TCP, &[bench.a()]);
        } else {
            refused(p, to, TCP);
        }
    }
}

/// EP-3: a slice that goes takes along only what no other slice has. EP-7: of several addresses the
/// first one counts.
#[test]
fn case_125_a_slice_that_goes_takes_its_own() {
    let bench = Bench::with(&Setup {
        api_server: true,
        ..Setup::default()
    });
    let service = cluster_ip();
    let ports = slice_ports(&service);
    let [a, r] = [bench.a(), bench.r()].map(|it| bench.endpoint(it));
    let one = slice("web-1", &service, "IPv4", &[a.clone(), r], &ports);
    let mut two = slice("web-2", &service, "IPv4", &[a], &ports);
    let further = json!(bench.a2().address.ipv4);
    two["endpoints"][0]["addresses"]
        .as_array_mut()
        .unwrap()
        .push(further);
    for object in [&one, &two, &service] {
        bench.put(object);
    }
    bench.settle();
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    reaches(p, to, TCP, &[bench.a(), bench.r()]);
    bench.delete(&one);
    bench.settle();
    reaches(p, to, TCP, &[bench.a()]);
}

/// EP-12: an endpoint that names no node is on none.
#[test]
fn case_126_an_endpoint_without_a_node_is_not_local() {
    let bench = Bench::new();
    let service = local_load_balancer();
    let mut both = slices(
        &service,
        &[bench.endpoint(bench.a()), bench.endpoint(bench.a2())],
    );
    for slice in &mut both {
        slice["endpoints"][0]
            .as_object_mut()
            .unwrap()
            .remove("nodeName");
    }
    bench.put_all(&both);
    bench.put(&service);
    bench.settle();
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            reaches(bench.c(), to, TCP, &[bench.a2()]);
        }
    }
}

/// TOPO-4: one ready endpoint without the hint, and hints do not count; TOPO-6: one that is not
/// ready does not count either way; TOPO-8: nor do hints where none is ready.
#[test]
fn case_127_hints_are_all_or_nothing() {
    let bench = Bench::new();
    let service = cluster_ip();
    let a = bench.endpoint(bench.a()).zone("a");
    let r = bench.endpoint(bench.r()).zone("b");
    let plain = bench.endpoint(bench.a2());
    let unready = json!({"ready": false, "serving": true, "terminating": false});
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    bench.serve(&service, &[a.clone(), r.clone(), plain.clone()]);
    reaches(p, to, TCP, &[bench.a(), bench.r(), bench.a2()]);
    bench.serve(
        &service,
        &[a.clone(), r.clone(), plain.conditions(&unready)],
    );
    reaches(p, to, TCP, &[bench.a()]);
    bench.serve(&service, &[a.terminating(), r.terminating()]);
    reaches(p, to, TCP, &[bench.a(), bench.r()]);
}

/// TOPO-2: hints never narrow the list of a Local policy.
#[test]
fn case_128_hints_do_not_count_under_local() {
    let bench = Bench::new();
    let mut service = local_load_balancer();
    service["spec"]["internalTrafficPolicy"] = json!("Local");
    let endpoints = [
        bench.endpoint(bench.a()).zone("b"),
        bench.endpoint(bench.r()).zone("a"),
    ];
    bench.serve(&service, &endpoints);
    reaches(
        &bench.p().namespace,
        socket(CLUSTER_IP.ipv4, 80),
        TCP,
        &[bench.a()],
    );
    for to in bench.external_frontends(false, 80) {
        reaches(bench.c(), to, TCP, &[bench.a()]);
    }
}

/// MASQ-2: it is about `ClusterIP`s; who comes from outside under Local keeps its address.
#[test]
fn case_129_masquerade_all_leaves_local_clients_alone() {
    let bench = Bench::configured("[proxy]\nmasquerade_all = true");
    bench.serve(&local_load_balancer(), &[bench.endpoint(bench.a())]);
    for v6 in FAMILIES {
        let own = bench.client().both()[usize::from(v6)];
        for to in bench.external_frontends(v6, 80) {
            for protocol in PROTOCOLS {
                let seen = reaches(bench.c(), to, protocol, &[bench.a()]);
                assert_eq!(Vec::from_iter(seen), [own], "{protocol} {to}");
            }
        }
    }
}

/// The way from N1 to R takes no packet above this.
const NARROW: &str = "600";

/// "Fragmentation needed" comes back from N1 under the address that the client knows, and the
/// client sends smaller packets. A line is one segment, twice as long as the way is wide.
fn narrow_way(bench: &Bench, from: &Namespace, to: std::net::Ipv4Addr) {
    let via = bench.lab.nodes()[1].address.ipv4.to_string();
    let route = [
        "route",
        "replace",
        "10.244.2.0/24",
        "via",
        &via,
        "dev",
        "eth0",
        "mtu",
        NARROW,
    ];
    tool(bench.n1(), "ip", &route).unwrap();
    let mut stream = open_stream(from, socket(to, 80)).unwrap();
    let text = "x".repeat(1_000);
    let answer = stream.send(&text).unwrap();
    assert_eq!(answer.text, text);
    assert_eq!(answer.workload, bench.r().name);
    let learnt = tool(from, "ip", &["route", "get", &to.to_string()]).unwrap();
    assert!(learnt.contains(&format!("mtu {NARROW}")), "{learnt}");
}

/// Errors on the way of a pod's connection to a VIP under the policy Local, which keeps its address.
#[test]
fn case_130_path_mtu_of_a_pod_under_local() {
    let bench = Bench::new();
    bench.serve(&local_load_balancer(), &[bench.endpoint(bench.r())]);
    narrow_way(&bench, &bench.p().namespace, VIP.ipv4);
}

/// The same where the connection is masqueraded.
#[test]
fn case_130b_path_mtu_under_cluster() {
    let bench = Bench::new();
    bench.serve(&load_balancer(), &[bench.endpoint(bench.r())]);
    narrow_way(&bench, &bench.p().namespace, VIP.ipv4);
    narrow_way(&bench, bench.c(), VIP.ipv4);
    narrow_way(&bench, &bench.p().namespace, CLUSTER_IP.ipv4);
}

/// `errno` of a datagram that must not be sent in fragments.
const EMSGSIZE: i32 = 90;

/// Datagrams longer than a packet, in fragments both ways, from these.
fn long_datagrams(bench: &Bench, sources: &[&Namespace]) {
    let mut service = load_balancer();
    let options = RequestOptions {
        text: "x".repeat(1_900),
        timeout: Duration::from_secs(if ipvs() { 3 } else { 1 }),
        ..RequestOptions::default()
    };
    for policy in ["Cluster", "Local"] {
        service["spec"]["externalTrafficPolicy"] = json!(policy);
        bench.serve(&service, &[bench.endpoint(bench.a())]);
        for v6 in FAMILIES {
            for from in sources {
                for to in bench.frontends(v6, 80) {
                    // Outsiders have the external frontends alone.
                    if from.name() == bench.c().name() && CLUSTER_IP.both().contains(&to.ip()) {
                        continue;
                    }
                    let answer = request_with(from, to, UDP, &options);
                    let text = answer.map(|answer| answer.text);
                    let too_long = matches!(
                        &text,
                        Err(RequestError::Other(error)) if error.raw_os_error() == Some(EMSGSIZE)
                    );
                    assert!(
                        text.as_ref().is_ok_and(|text| *text == options.text)
                            || (too_long && ipvs() && from.name() == bench.n1().name()),
                        "{policy} {} to {to}: {text:?}",
                        from.name()
                    );
                }
            }
        }
    }
}

#[test]
fn case_131_long_datagrams() {
    let bench = Bench::new();
    long_datagrams(&bench, &[&bench.p().namespace, bench.c()]);
}

/// IPVS takes the node's own packets before they are cut into fragments, and tells the process that
/// they are too long (Linux 6.12; with a virtual server of ipvsadm alone, too): it is told at once,
/// and nothing is lost in silence.
#[test]
fn case_131b_long_datagrams_of_the_node_itself() {
    let bench = Bench::new();
    long_datagrams(&bench, &[bench.n1()]);
}
