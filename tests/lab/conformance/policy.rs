//! Cases 35 to 50: traffic policies, by who is asking.

use edgelb::lab::{Namespace, Workload};
use serde_json::{Value, json};

use super::bench::{Bench, CLUSTER_IP, NODE_PORT, bar};
use super::objects::{
    HEALTH_CHECK_PORT, cluster_ip, load_balancer, local_load_balancer, node_port,
};
use super::observe::{
    Arrivals, FAMILIES, PROTOCOLS, TCP, UDP, answered, http, reaches, refused, silent,
};
use crate::rig::{eventually, socket};

fn internal_local(mut service: Value) -> Value {
    service["spec"]["internalTrafficPolicy"] = json!("Local");
    service
}

fn serve(bench: &Bench, service: &Value, workloads: &[&Workload]) {
    let endpoints: Vec<_> = workloads.iter().map(|it| bench.endpoint(it)).collect();
    bench.serve(service, &endpoints);
}

#[test]
fn case_35_itp_local_uses_local_endpoints() {
    let bench = Bench::new();
    serve(
        &bench,
        &internal_local(cluster_ip()),
        &[bench.a(), bench.r()],
    );
    for address in CLUSTER_IP.both() {
        for from in [&bench.p().namespace, bench.n1()] {
            for protocol in PROTOCOLS {
                reaches(from, socket(address, 80), protocol, &[bench.a()]);
            }
        }
    }
}

#[test]
fn case_36_itp_local_without_a_local_endpoint_is_silent() {
    let bench = Bench::new();
    serve(&bench, &internal_local(cluster_ip()), &[bench.r()]);
    let arrivals = Arrivals::at(&bench.r().namespace, "8080, 9090, 80");
    for address in CLUSTER_IP.both() {
        silent(&bench.p().namespace, socket(address, 80), TCP);
    }
    silent(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80), UDP);
    silent(bench.n1(), socket(CLUSTER_IP.ipv4, 80), TCP);
    arrivals.assert_none();
}

#[test]
fn case_37_itp_local_does_not_leak_through_external_use() {
    let bench = Bench::new();
    serve(&bench, &internal_local(node_port()), &[bench.r()]);
    let arrivals = Arrivals::at(&bench.r().namespace, "8080, 9090, 80");
    for address in CLUSTER_IP.both() {
        silent(&bench.p().namespace, socket(address, 80), TCP);
    }
    arrivals.assert_none();
    for address in bench.node().address.both() {
        for protocol in PROTOCOLS {
            let to = socket(address, NODE_PORT);
            reaches(bench.c(), to, protocol, &[bench.r()]);
        }
    }
}

#[test]
fn case_44_etp_local_keeps_the_client() {
    let bench = Bench::new();
    serve(&bench, &local_load_balancer(), &[bench.a(), bench.r()]);
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

#[test]
fn case_45_etp_local_without_a_local_endpoint_is_silent() {
    let bench = Bench::new();
    serve(&bench, &local_load_balancer(), &[bench.r()]);
    let arrivals = Arrivals::at(&bench.r().namespace, "8080, 9090, 80");
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            silent(bench.c(), to, TCP);
        }
    }
    for to in bench.external_frontends(false, 80) {
        silent(bench.c(), to, UDP);
    }
    arrivals.assert_none();
}

#[test]
fn case_46_etp_local_gives_pods_every_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    serve(&bench, &local_load_balancer(), &workloads);
    let p = bench.p();
    for v6 in FAMILIES {
        let own = p.address.both()[usize::from(v6)];
        for to in bench.external_frontends(v6, 80) {
            for protocol in PROTOCOLS {
                let seen = reaches(&p.namespace, to, protocol, &workloads);
                assert_eq!(Vec::from_iter(seen), [own], "{protocol} {to}");
            }
        }
    }
}

/// POL-6: the node itself as well, under its own address.
#[test]
fn case_46b_etp_local_gives_the_node_every_endpoint() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    serve(&bench, &local_load_balancer(), &workloads);
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            for protocol in PROTOCOLS {
                let seen = reaches(bench.n1(), to, protocol, &workloads);
                assert!(seen.iter().all(|it| bench.is_n1(*it)), "{to}: {seen:?}");
            }
        }
    }
}

#[test]
fn case_48_etp_local_lets_pods_go_elsewhere() {
    let bench = Bench::new();
    serve(&bench, &local_load_balancer(), &[bench.r()]);
    let p = bench.p();
    for v6 in FAMILIES {
        let own = p.address.both()[usize::from(v6)];
        for to in bench.external_frontends(v6, 80) {
            for protocol in PROTOCOLS {
                let seen = reaches(&p.namespace, to, protocol, &[bench.r()]);
                assert_eq!(Vec::from_iter(seen), [own], "{protocol} {to}");
            }
        }
    }
}

#[test]
fn case_49_a_terminating_endpoint_serves_but_is_not_advertised() {
    let bench = Bench::new();
    let endpoints = [
        bench.endpoint(bench.a()).terminating(),
        bench.endpoint(bench.r()),
    ];
    bench.serve(&local_load_balancer(), &endpoints);
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            let seen = reaches(bench.c(), to, TCP, &[bench.a()]);
            let own = bench.client().both()[usize::from(v6)];
            assert_eq!(Vec::from_iter(seen), [own], "{to}");
        }
    }
    let to = socket(bench.node().address.ipv4, HEALTH_CHECK_PORT);
    eventually(bar(), || {
        let answer = http(bench.c(), to, "GET /healthz").ok()?;
        (answer.status == 503).then_some(())
    });
}

#[test]
fn case_50_etp_local_refuses_or_drops() {
    let bench = Bench::new();
    let service = local_load_balancer();
    let unready = json!({"ready": false, "serving": false, "terminating": false});
    let endpoints = [bench.a(), bench.r()].map(|it| bench.endpoint(it).conditions(&unready));
    bench.serve(&service, &endpoints);
    let sources: [&Namespace; 2] = [bench.c(), &bench.p().namespace];
    for from in sources {
        for to in bench.external_frontends(false, 80) {
            refused(from, to, TCP);
        }
    }
    refused(bench.c(), bench.external_frontends(true, 80)[0], TCP);
    // NOEP-3: an endpoint that still serves elsewhere is one.
    bench.endpoints(&service, &[bench.endpoint(bench.r()).terminating()]);
    let arrivals = Arrivals::at(&bench.r().namespace, "8080, 9090, 80");
    for to in bench.external_frontends(false, 80) {
        silent(bench.c(), to, TCP);
    }
    silent(bench.c(), bench.external_frontends(true, 80)[0], TCP);
    arrivals.assert_none();
    answered(
        &bench.p().namespace,
        bench.external_frontends(false, 80)[0],
        TCP,
    );
}

/// POL-9: the external policy says nothing of the `ClusterIP`, the internal one nothing of the rest.
#[test]
fn case_101_each_policy_has_its_own_frontends() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    serve(&bench, &local_load_balancer(), &workloads);
    for address in CLUSTER_IP.both() {
        reaches(&bench.p().namespace, socket(address, 80), TCP, &workloads);
    }
    serve(&bench, &internal_local(load_balancer()), &workloads);
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            let seen = reaches(bench.c(), to, TCP, &workloads);
            assert!(seen.iter().all(|it| bench.is_n1(*it)), "{to}: {seen:?}");
        }
    }
}

/// MASQ-6: with the policy Cluster pods too come under the node's address.
#[test]
fn case_102_external_frontends_masquerade_pods() {
    let bench = Bench::new();
    let workloads = [bench.a(), bench.r()];
    serve(&bench, &load_balancer(), &workloads);
    for v6 in FAMILIES {
        for to in bench.external_frontends(v6, 80) {
            for protocol in PROTOCOLS {
                let seen = reaches(&bench.p().namespace, to, protocol, &workloads);
                assert!(seen.iter().all(|it| bench.is_n1(*it)), "{to}: {seen:?}");
            }
        }
    }
}
