//! Cases 32 and 34: endpoints by the hints of zones and nodes.

use serde_json::json;

use super::bench::{Bench, CLUSTER_IP};
use super::objects::{cluster_ip, node, slices};
use super::observe::{TCP, UDP, reaches};
use crate::rig::socket;

#[test]
fn case_32_hints_of_zones() {
    let bench = Bench::new();
    let endpoints = [
        bench.endpoint(bench.a()).zone("a"),
        bench.endpoint(bench.r()).zone("b"),
    ];
    bench.serve(&cluster_ip(), &endpoints);
    let from = [&bench.p().namespace, bench.n1()];
    for address in CLUSTER_IP.both() {
        for from in from {
            reaches(from, socket(address, 80), TCP, &[bench.a()]);
            reaches(from, socket(address, 80), UDP, &[bench.a()]);
        }
    }
    // Nobody knows any more where this node is; the slices stay as they are.
    let mut nowhere = node(bench.node());
    nowhere["metadata"]["labels"] = json!({});
    bench.put(&nowhere);
    bench.settle();
    for from in from {
        let to = socket(CLUSTER_IP.ipv4, 80);
        reaches(from, to, TCP, &[bench.a(), bench.r()]);
    }
}

#[test]
fn case_34_hints_of_nodes() {
    let bench = Bench::new();
    let service = cluster_ip();
    let [n1, n2] = [0, 1].map(|index| bench.lab.nodes()[index].name.clone());
    let a = bench.endpoint(bench.a()).zone("a").hinted_to_node(&n1);
    let r = bench.endpoint(bench.r()).zone("a").hinted_to_node(&n2);
    bench.serve(&service, &[a.clone(), r.clone()]);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    reaches(p, to, TCP, &[bench.a()]);
    // No ready endpoint is for this node: its zone counts.
    let unready = a.conditions(&json!({"ready": false, "serving": false, "terminating": false}));
    bench.put_all(&slices(&service, &[unready, r]));
    bench.settle();
    reaches(p, to, TCP, &[bench.r()]);
}
