//! Cases 15 to 30: which Services and which endpoints count.

use serde_json::json;

use super::bench::{Bench, CLUSTER_IP};
use super::objects::{Endpoint, cluster_ip, port, slice, slice_ports};
use super::observe::{TCP, UDP, answered, datapath_text, is_refusal, reaches, refused, silent};
use crate::rig::{eventually, ipvs, request, socket};
use std::time::Duration;

#[test]
fn case_15_endpoints_come_and_go() {
    let bench = Bench::new();
    let service = cluster_ip();
    bench.serve(&service, &[]);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    // The least pause between passes is 10 ms.
    let bound = Duration::from_millis(if ipvs() { 10_010 } else { 1_010 });
    refused(p, to, TCP);
    refused(p, to, UDP);
    let slices = super::objects::slices;
    bench.put_all(&slices(&service, &[bench.endpoint(bench.a())]));
    eventually(bound, || request(p, to, TCP).ok());
    answered(p, to, UDP);
    bench.put_all(&slices(&service, &[]));
    eventually(bound, || is_refusal(&request(p, to, TCP)).then_some(()));
    refused(p, to, UDP);
}

#[test]
fn case_16_headless_and_external_name_are_not_served() {
    let bench = Bench::new();
    let mut headless = cluster_ip();
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["clusterIPs"] = json!(["None"]);
    bench.serve(&headless, &[bench.endpoint(bench.a())]);
    let before = datapath_text(bench.n1());
    assert!(!before.contains(&bench.a().address.ipv4.to_string()));
    let mut name = cluster_ip();
    name["spec"]["type"] = json!("ExternalName");
    name["spec"]["externalName"] = json!("example.org");
    bench.serve(&name, &[bench.endpoint(bench.a())]);
    let text = datapath_text(bench.n1());
    for absent in [CLUSTER_IP.both(), bench.a().address.both()].concat() {
        assert!(!text.contains(&absent.to_string()), "{absent}: {text}");
    }
    silent(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80), TCP);
    // SEL-4: and back again.
    bench.serve(&cluster_ip(), &[bench.endpoint(bench.a())]);
    answered(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80), TCP);
}

#[test]
fn case_19_ports_match_by_name() {
    let bench = Bench::new();
    let service = cluster_ip();
    let endpoints = [bench.endpoint(bench.a())];
    let wrong = json!([{"name": "https", "protocol": "TCP", "port": 8080}]);
    bench.put(&slice("web-ipv4", &service, "IPv4", &endpoints, &wrong));
    bench.put(&service);
    bench.settle();
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    refused(p, to, TCP);
    let right = slice_ports(&service);
    bench.put(&slice("web-ipv4", &service, "IPv4", &endpoints, &right));
    bench.settle();
    answered(p, to, TCP);
}

#[test]
fn case_20_ports_match_by_protocol() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] = json!([port("http", "TCP", 80, 8080)]);
    let endpoints = [bench.endpoint(bench.a())];
    let udp = json!([{"name": "http", "protocol": "UDP", "port": 8080}]);
    bench.put(&slice("web-ipv4", &service, "IPv4", &endpoints, &udp));
    bench.put(&service);
    bench.settle();
    refused(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80), TCP);
}

#[test]
fn case_22_each_port_has_its_own_slice() {
    let bench = Bench::new();
    let mut service = cluster_ip();
    service["spec"]["ports"] = json!([port("p1", "TCP", 81, 8080), port("p2", "TCP", 82, 9090)]);
    let of = |workload, name: &str, number: u16| {
        let ports = json!([{"name": name, "protocol": "TCP", "port": number}]);
        let endpoints = [bench.endpoint(workload)];
        slice(&format!("web-{name}"), &service, "IPv4", &endpoints, &ports)
    };
    bench.put(&of(bench.a(), "p1", 8080));
    bench.put(&of(bench.r(), "p2", 9090));
    bench.put(&service);
    bench.settle();
    let p = &bench.p().namespace;
    for (number, workload) in [(81, bench.a()), (82, bench.r())] {
        reaches(p, socket(CLUSTER_IP.ipv4, number), TCP, &[workload]);
    }
}

#[test]
fn case_23_each_slice_has_its_own_number() {
    let bench = Bench::new();
    let service = cluster_ip();
    bench.a().server.close(tcp(9090)).unwrap();
    bench.r().server.close(tcp(8080)).unwrap();
    for (name, workload, number) in [("one", bench.a(), 8080), ("two", bench.r(), 9090)] {
        let ports = json!([{"name": "http", "protocol": "TCP", "port": number}]);
        let endpoints = [bench.endpoint(workload)];
        bench.put(&slice(name, &service, "IPv4", &endpoints, &ports));
    }
    bench.put(&service);
    bench.settle();
    let to = socket(CLUSTER_IP.ipv4, 80);
    reaches(&bench.p().namespace, to, TCP, &[bench.a(), bench.r()]);
}

fn tcp(port: u16) -> edgelb::lab::server::Listen {
    edgelb::lab::server::Listen::tcp(port)
}

/// What P gets from a Service with these endpoints.
fn only(bench: &Bench, endpoints: &[Endpoint], workload: &edgelb::lab::Workload) {
    bench.serve(&cluster_ip(), endpoints);
    for address in CLUSTER_IP.both() {
        let to = socket(address, 80);
        reaches(&bench.p().namespace, to, TCP, &[workload]);
        reaches(&bench.p().namespace, to, UDP, &[workload]);
    }
}

#[test]
fn case_25_without_conditions_an_endpoint_is_ready() {
    let bench = Bench::new();
    for conditions in [json!({}), json!(null)] {
        let endpoint = bench.endpoint(bench.a()).conditions(&conditions);
        only(&bench, &[endpoint], bench.a());
    }
}

#[test]
fn case_26_only_ready_endpoints_are_used() {
    let bench = Bench::new();
    let conditions =
        |serving: bool| json!({"ready": false, "serving": serving, "terminating": false});
    let endpoints = [
        bench.endpoint(bench.a()),
        bench.endpoint(bench.a2()).conditions(&conditions(true)),
        bench.endpoint(bench.r()).conditions(&conditions(false)),
    ];
    only(&bench, &endpoints, bench.a());
}

#[test]
fn case_27_serving_while_terminating_is_the_last_resort() {
    let bench = Bench::new();
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    let endpoints = [
        bench.endpoint(bench.a2()).terminating(),
        bench.endpoint(bench.r()).conditions(&gone),
    ];
    only(&bench, &endpoints, bench.a2());
}

#[test]
fn case_28_serving_is_true_where_nobody_says() {
    let bench = Bench::new();
    let conditions = json!({"ready": false, "terminating": true});
    let endpoint = bench.endpoint(bench.a()).conditions(&conditions);
    only(&bench, &[endpoint], bench.a());
}

#[test]
fn case_30_strange_slices_are_ignored() {
    let bench = Bench::new();
    let service = cluster_ip();
    let endpoints = [bench.endpoint(bench.r())];
    let ports = slice_ports(&service);
    let mut names = slice("names", &service, "FQDN", &[], &ports);
    names["endpoints"] = json!([{"addresses": ["example.org"], "conditions": {"ready": true}}]);
    bench.put(&names);
    for (name, labels) in [
        ("nobodys", json!({})),
        ("empty", json!({"kubernetes.io/service-name": ""})),
        ("no-labels", json!(null)),
    ] {
        let mut slice = slice(name, &service, "IPv4", &endpoints, &ports);
        slice["metadata"]["labels"] = labels;
        bench.put(&slice);
    }
    only(&bench, &[bench.endpoint(bench.a())], bench.a());
}
