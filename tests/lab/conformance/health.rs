//! Cases 65 to 68: what health checkers are told.

use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgelb::lab::tool;
use serde_json::{Value, json};

use super::bench::{Bench, bar};
use super::objects::{HEALTH_CHECK_PORT, cluster_ip, local_load_balancer, node};
use super::observe::{Http, TCP, answered, http};
use crate::rig::{eventually, socket};

/// N1's health-check node port.
fn port(bench: &Bench, v6: bool) -> SocketAddr {
    let address = bench.node().address.both()[usize::from(v6)];
    socket(address, HEALTH_CHECK_PORT)
}

/// The answer for so many endpoints (HC-4 to HC-7), within the bar.
#[track_caller]
fn tells(bench: &Bench, v6: bool, request: &str, endpoints: usize) {
    let weight = format!("x-load-balancing-endpoint-weight: {endpoints}\r\n");
    let start = Instant::now();
    let answer = loop {
        let last = match http(bench.c(), port(bench, v6), request) {
            Ok(answer) if format!("{}\r\n", answer.head).contains(&weight) => break answer,
            Ok(answer) => format!("{} {}", answer.status, answer.body),
            Err(error) => error.to_string(),
        };
        assert!(
            start.elapsed() < bar(),
            "{request} at {}: {last}, not {endpoints} endpoints",
            port(bench, v6)
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(answer.status, if endpoints == 0 { 503 } else { 200 });
    for line in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        &weight,
    ] {
        let head = format!("{}\r\n", answer.head);
        assert!(head.contains(line), "no {line} in {head}");
    }
    let expected = json!({
        "service": {"namespace": "default", "name": "web"},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    assert_eq!(answer.json(), expected);
}

#[test]
fn case_65_the_health_check_node_port_counts_local_endpoints() {
    let bench = Bench::new();
    bench.serve(
        &local_load_balancer(),
        &[bench.endpoint(bench.a()), bench.endpoint(bench.r())],
    );
    for v6 in [false, true] {
        for request in [
            "GET /",
            "GET /healthz",
            "GET /any/path?of=any",
            "POST /healthz",
            "DELETE /",
        ] {
            tells(&bench, v6, request, 1);
        }
    }
    bench.endpoints(
        &local_load_balancer(),
        &[bench.a(), bench.a2(), bench.r()].map(|it| bench.endpoint(it)),
    );
    tells(&bench, false, "GET /", 2);
}

#[test]
fn case_66_the_health_check_node_port_goes_with_its_reason() {
    let bench = Bench::new();
    let mut service = local_load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    tells(&bench, false, "GET /", 1);
    let terminating = bench.endpoint(bench.a()).terminating();
    bench.endpoints(&service, &[terminating, bench.endpoint(bench.r())]);
    tells(&bench, false, "GET /", 0);
    bench.endpoints(&service, &[bench.endpoint(bench.a())]);
    tells(&bench, false, "GET /", 1);
    bench.endpoints(&service, &[]);
    tells(&bench, false, "GET /", 0);
    service["spec"]["externalTrafficPolicy"] = json!("Cluster");
    bench.put(&service);
    bench.settle();
    for v6 in [false, true] {
        eventually(bar(), || {
            let error = http(bench.c(), port(&bench, v6), "GET /").err()?;
            (error.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
        });
    }
}

/// HC-1: each family has its own listener, which counts its own endpoints; a Service of one family
/// has one.
#[test]
fn case_115_each_family_counts_its_own_endpoints() {
    let bench = Bench::new();
    let mut service = local_load_balancer();
    let [ipv4, mut ipv6] = super::objects::slices(&service, &[bench.endpoint(bench.a())]);
    ipv6["endpoints"] = json!([]);
    bench.put_all(&[ipv4, ipv6]);
    bench.put(&service);
    bench.settle();
    tells(&bench, false, "GET /", 1);
    tells(&bench, true, "GET /", 0);
    service["spec"]["ipFamilies"] = json!(["IPv4"]);
    service["spec"]["ipFamilyPolicy"] = json!("SingleStack");
    service["spec"]["clusterIPs"] = json!([service["spec"]["clusterIP"]]);
    service["metadata"]["annotations"]["edgelb.io/ips"] = json!(super::bench::VIP.ipv4);
    bench.put(&service);
    bench.settle();
    tells(&bench, false, "GET /", 1);
    eventually(bar(), || {
        http(bench.c(), port(&bench, true), "GET /").err().map(drop)
    });
}

/// The proxy's own health, from outside.
fn health(bench: &Bench, path: &str) -> Http {
    let to = socket(bench.node().address.ipv4, 9756);
    http(bench.c(), to, &format!("GET {path}")).unwrap()
}

#[test]
fn case_67_a_node_that_goes_is_not_eligible() {
    let bench = Bench::new();
    let good = node(bench.node());
    let tainted = |key: &str| {
        let mut node = good.clone();
        node["spec"]["taints"] = json!([{"key": key, "effect": "NoSchedule", "value": "1"}]);
        node
    };
    let mut deleted = good.clone();
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-23T01:00:00Z");
    let is = |expected: u16| {
        eventually(bar(), || {
            let answer = health(&bench, "/healthz");
            assert_eq!(answer.json()["healthy"], true);
            assert_eq!(answer.json()["nodeEligible"], answer.status == 200);
            (answer.status == expected).then_some(())
        });
        assert_eq!(health(&bench, "/livez").status, 200);
    };
    is(200);
    for (node, expected) in [
        (tainted("ToBeDeletedByClusterAutoscaler"), 503),
        (tainted("node.kubernetes.io/unschedulable"), 200),
        (deleted, 503),
        (good.clone(), 200),
    ] {
        bench.put(&node);
        bench.settle();
        is(expected);
    }
}

/// What cannot be written for longer than twice the resync interval, which counts as 30 s at least,
/// makes the node unhealthy. Somebody else owns a table of our name meanwhile.
#[test]
fn case_68_writes_that_fail_for_long_are_told() {
    let bench = Bench::configured("[proxy]\nresync_interval = \"10s\"");
    let service = cluster_ip();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    assert_eq!(health(&bench, "/livez").status, 200);
    let mut command = Command::new("nft");
    command
        .arg("-i")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut owner = bench.n1().spawn(&mut command).unwrap();
    let mut input = owner.stdin.take().unwrap();
    writeln!(
        input,
        "delete table inet edgelb; add table inet edgelb {{ flags owner; }}"
    )
    .unwrap();
    input.flush().unwrap();
    eventually(Duration::from_secs(10), || {
        let tables = tool(bench.n1(), "nft", &["list", "tables"]).unwrap();
        let text = tool(bench.n1(), "nft", &["list", "table", "inet", "edgelb"]).ok()?;
        (tables.contains("inet edgelb") && text.contains("owner")).then_some(())
    });
    // A change that cannot be applied.
    bench.put_all(&super::objects::slices(
        &service,
        &[bench.endpoint(bench.a2())],
    ));
    let sick = |path: &str| {
        let answer = eventually(Duration::from_secs(120), || {
            let answer = health(&bench, path);
            (answer.status == 503).then_some(answer)
        });
        let body: Value = answer.json();
        assert_eq!(body["healthy"], false, "{body}");
        assert_eq!(body["status"]["IPv4"]["healthy"], false, "{body}");
        assert_eq!(answer.status, 503);
    };
    sick("/healthz");
    sick("/livez");
    drop(input);
    owner.kill().unwrap();
    owner.wait().unwrap();
    let well = Duration::from_secs(30);
    for path in ["/healthz", "/livez"] {
        eventually(well, || (health(&bench, path).status == 200).then_some(()));
    }
    let to = socket(super::bench::CLUSTER_IP.ipv4, 80);
    let answer = answered(&bench.p().namespace, to, TCP);
    assert_eq!(answer.workload, bench.a2().name);
}
