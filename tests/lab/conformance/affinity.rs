//! Cases 62 and 63, and what the statements on session affinity say beside.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgelb::lab::client::{Protocol, open_stream};
use edgelb::lab::{Namespace, Workload};
use serde_json::{Value, json};

use super::bench::{Bench, CLUSTER_IP, VIP};
use super::objects::{load_balancer, local_load_balancer, port};
use super::observe::{FAMILIES, TCP, UDP, answered, reaches, refused};
use crate::rig::{eventually, ipvs, socket};

fn sticky(mut service: Value, seconds: u32) -> Value {
    service["spec"]["sessionAffinity"] = json!("ClientIP");
    service["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
    service
}

fn serve(bench: &Bench, service: &Value, workloads: &[&Workload]) {
    let endpoints: Vec<_> = workloads.iter().map(|it| bench.endpoint(it)).collect();
    bench.serve(service, &endpoints);
}

/// Who answers so many requests.
fn answering(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    requests: usize,
) -> BTreeSet<String> {
    (0..requests)
        .map(|_| answered(from, to, protocol).workload)
        .collect()
}

/// AFF-2: one endpoint through every frontend. By chance that would be so once in 3^29 runs.
#[test]
fn case_62_one_endpoint_through_every_frontend() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    serve(&bench, &sticky(load_balancer(), 600), &workloads);
    let p = &bench.p().namespace;
    for v6 in FAMILIES {
        for protocol in [TCP, UDP] {
            let [cluster_ip, vip, external, node_port] = bench.frontends(v6, 80);
            let mut names = answering(p, cluster_ip, protocol, 15);
            for to in [node_port, vip, external] {
                names.extend(answering(p, to, protocol, 5));
            }
            assert_eq!(names.len(), 1, "{protocol} v6 {v6}: {names:?}");
        }
    }
}

/// The same for the node itself, and for who comes from outside, where there is no `ClusterIP`.
#[test]
fn case_62b_also_for_the_node_and_from_outside() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    serve(&bench, &sticky(load_balancer(), 600), &workloads);
    for (from, first) in [(bench.n1(), 0), (bench.c(), 1)] {
        for v6 in FAMILIES {
            for protocol in [TCP, UDP] {
                let names: BTreeSet<String> = (bench.frontends(v6, 80)[first..].iter())
                    .flat_map(|to| answering(from, *to, protocol, 10))
                    .collect();
                assert_eq!(
                    names.len(),
                    1,
                    "{} {protocol} v6 {v6}: {names:?}",
                    from.name()
                );
            }
        }
    }
}

/// It is each client's own: of many, not all go to one endpoint.
#[test]
fn case_109_each_client_has_its_own_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    serve(&bench, &sticky(load_balancer(), 600), &workloads);
    let to = socket(VIP.ipv4, 80);
    let mut chosen = BTreeSet::new();
    for last in 100..130_u8 {
        let source: std::net::IpAddr = [192, 0, 2, last].into();
        bench.c().add_address("eth0", source.into()).unwrap();
        let options = edgelb::lab::client::RequestOptions {
            source_address: Some(source),
            ..Default::default()
        };
        let ask = || {
            let answer = edgelb::lab::client::request_with(bench.c(), to, TCP, &options);
            answer.unwrap().workload
        };
        let first = ask();
        assert_eq!(ask(), first, "{source}");
        chosen.insert(first);
    }
    assert_eq!(chosen.len(), 3, "{chosen:?}");
}

#[test]
fn case_63_affinity_ends_after_its_timeout() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    serve(&bench, &sticky(load_balancer(), 1), &workloads);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    let mut names = BTreeSet::new();
    // By chance the same each time: once in 3^9 runs.
    for _ in 0..10 {
        names.insert(answered(p, to, TCP).workload);
        if names.len() > 1 {
            return;
        }
        // Nothing tells of the end of a timeout; only the time itself does.
        let pause = Instant::now() + Duration::from_millis(1_500);
        while let Some(left) = pause.checked_duration_since(Instant::now()) {
            std::thread::sleep(left);
        }
    }
    panic!("always {names:?}");
}

/// AFF-4: every new connection begins the time anew.
#[test]
fn case_110_each_connection_renews_the_affinity() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    let timeout = if ipvs() { 10 } else { 2 };
    serve(&bench, &sticky(load_balancer(), timeout), &workloads);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    let mut names = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(timeout.into()) * 2;
    while Instant::now() < end {
        names.insert(answered(p, to, TCP).workload);
    }
    assert_eq!(names.len(), 1, "{names:?}");
}

/// AFF-7: a client whose endpoint left goes to another one at once, and sticks to that.
#[test]
fn case_111_clients_of_a_lost_endpoint_move_at_once() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    let service = sticky(load_balancer(), 600);
    serve(&bench, &service, &workloads);
    let p = &bench.p().namespace;
    for protocol in [TCP, UDP] {
        serve(&bench, &service, &workloads);
        let to = socket(CLUSTER_IP.ipv4, 80);
        let first = answered(p, to, protocol).workload;
        let rest: Vec<&Workload> = (workloads.into_iter())
            .filter(|it| it.name != first)
            .collect();
        serve(&bench, &service, &rest);
        let names = answering(p, to, protocol, 10);
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(!names.contains(&first));
    }
}

/// AFF-7: an affinity to an endpoint elsewhere does not count where the policy is Local.
#[test]
fn case_112_affinity_never_overrides_the_policy() {
    let bench = Bench::new();
    let mut service = sticky(local_load_balancer(), 600);
    service["spec"]["externalTrafficPolicy"] = json!("Cluster");
    serve(&bench, &service, &[bench.r()]);
    let to = socket(VIP.ipv4, 80);
    assert_eq!(answered(bench.c(), to, TCP).workload, bench.r().name);
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    serve(&bench, &service, &[bench.a(), bench.r()]);
    reaches(bench.c(), to, TCP, &[bench.a()]);
    serve(&bench, &service, &[]);
    refused(bench.c(), to, TCP);
}

/// AFF-2: another port of the Service is another matter. By chance the same for all of thirty
/// clients: once in 3^30 runs.
#[test]
fn case_113_ports_are_independent() {
    let bench = Bench::new();
    let mut service = sticky(load_balancer(), 600);
    let ports = [port("one", "TCP", 80, 8080), port("two", "TCP", 81, 8080)];
    service["spec"]["ports"] = json!(ports);
    serve(&bench, &service, &[bench.a(), bench.a2(), bench.r()]);
    let mut differs = false;
    for last in 100..130_u8 {
        let source: std::net::IpAddr = [192, 0, 2, last].into();
        bench.c().add_address("eth0", source.into()).unwrap();
        let options = edgelb::lab::client::RequestOptions {
            source_address: Some(source),
            ..Default::default()
        };
        let [one, two] = [80, 81].map(|number| {
            let to = socket(VIP.ipv4, number);
            let answer = edgelb::lab::client::request_with(bench.c(), to, TCP, &options);
            answer.unwrap().workload
        });
        differs |= one != two;
    }
    assert!(differs);
}

/// AFF-11: switching it on and off counts for new connections, and cuts none.
#[test]
fn case_114_affinity_is_switched_without_harm() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.a2(), bench.r()];
    let (plain, service) = (load_balancer(), sticky(load_balancer(), 600));
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    serve(&bench, &plain, &workloads);
    let mut streams = [p, bench.n1()].map(|from| open_stream(from, to).unwrap());
    let names = streams
        .each_mut()
        .map(|it| it.send("open").unwrap().workload);
    reaches(p, to, TCP, &workloads);
    serve(&bench, &service, &workloads);
    assert_eq!(answering(p, to, TCP, 10).len(), 1);
    for (stream, name) in streams.iter_mut().zip(&names) {
        assert_eq!(stream.send("sticky").unwrap().workload, *name);
    }
    serve(&bench, &plain, &workloads);
    reaches(p, to, TCP, &workloads);
    for (stream, name) in streams.iter_mut().zip(&names) {
        assert_eq!(stream.send("plain").unwrap().workload, *name);
    }
    // Nothing is left of it that would bind anybody.
    eventually(Duration::from_secs(10), || {
        (answering(p, to, TCP, 20).len() == 3).then_some(())
    });
}
