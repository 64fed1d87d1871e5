//! Cases 56 to 59: who may open connections to a VIP.

use edgelb::lab::Namespace;
use edgelb::lab::client::{Answer, RequestError, RequestOptions, request_with};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::bench::{Bench, CLUSTER_IP, EXTERNAL, NODE_PORT, VIP};
use super::objects::load_balancer;
use super::observe::{PROTOCOLS, TCP, UDP, answered, refused, silent};
use crate::rig::socket;

/// C is inside, B, the pods and the nodes are outside.
const RANGES: [&str; 3] = ["192.0.2.48/28", " 192.0.3.0/24", " fd00:2::40/122 "];

fn restricted(ranges: &[&str]) -> Value {
    let mut service = load_balancer();
    service["spec"]["loadBalancerSourceRanges"] = json!(ranges);
    service
}

fn request_as(from: &Namespace, source: IpAddr, to: SocketAddr) -> Result<Answer, RequestError> {
    let options = RequestOptions {
        timeout: Duration::from_secs(2),
        source_address: Some(source),
        ..RequestOptions::default()
    };
    request_with(from, to, TCP, &options)
}

/// What a process of the node can bind to: an IPv6 address must be a link's, which a VIP never is.
fn sources(own: IpAddr, vip: IpAddr) -> Vec<IpAddr> {
    if vip.is_ipv6() {
        vec![own]
    } else {
        vec![own, vip]
    }
}

/// Also SR-1: of all frontends the VIP alone is closed; NP-10.
#[test]
fn case_56_source_ranges_close_the_vip() {
    let bench = Bench::configured("[proxy]\ncluster_ip_from_outside = true");
    bench.serve(&restricted(&RANGES), &[bench.endpoint(bench.a())]);
    for (index, vip) in VIP.both().into_iter().enumerate() {
        answered(bench.c(), socket(vip, 80), TCP);
        answered(bench.c(), socket(vip, 80), UDP);
        silent(bench.b(), socket(vip, 80), TCP);
        for protocol in PROTOCOLS {
            for to in [
                socket(bench.node().address.both()[index], NODE_PORT),
                socket(CLUSTER_IP.both()[index], 80),
                socket(EXTERNAL.both()[index], 80),
            ] {
                answered(bench.b(), to, protocol);
            }
        }
    }
}

/// SR-3 for UDP.
#[test]
fn case_105_source_ranges_hold_for_udp() {
    let bench = Bench::new();
    bench.serve(&restricted(&RANGES), &[bench.endpoint(bench.a())]);
    for vip in VIP.both() {
        answered(bench.c(), socket(vip, 80), UDP);
        silent(bench.b(), socket(vip, 80), UDP);
    }
}

#[test]
fn case_57_pods_and_the_node_are_sources_too() {
    let bench = Bench::new();
    let endpoints = [bench.endpoint(bench.a())];
    bench.serve(&restricted(&RANGES), &endpoints);
    let p = &bench.p().namespace;
    for vip in VIP.both() {
        silent(p, socket(vip, 80), TCP);
        silent(bench.n1(), socket(vip, 80), TCP);
    }
    // With the node's own address, the VIP as a source is allowed too (SR-4).
    let more = [&RANGES[..], &["192.0.2.11/32", "fd00:2::11/128"]].concat();
    bench.serve(&restricted(&more), &endpoints);
    for (vip, own) in VIP.both().into_iter().zip(bench.node().address.both()) {
        let to = socket(vip, 80);
        answered(bench.n1(), to, TCP);
        for source in sources(own, vip) {
            let answer = request_as(bench.n1(), source, to);
            assert!(answer.is_ok(), "{source} to {to}: {answer:?}");
        }
        silent(p, to, TCP);
    }
}

/// The node's address is in no range: neither another address nor the VIP gets a process through.
#[test]
fn case_57b_no_source_of_the_node_slips_through() {
    let bench = Bench::new();
    bench.serve(&restricted(&RANGES), &[bench.endpoint(bench.a())]);
    for (vip, own) in VIP.both().into_iter().zip(bench.node().address.both()) {
        for source in sources(own, vip) {
            let result = request_as(bench.n1(), source, socket(vip, 80));
            assert!(
                matches!(result, Err(RequestError::TimedOut)),
                "{source} to {vip}: {result:?}"
            );
        }
    }
}

/// SR-2: ranges of one family leave the other one open, and that is said.
#[test]
fn case_59_a_family_without_ranges_is_open() {
    let bench = Bench::new();
    bench.serve(&restricted(&RANGES[..2]), &[bench.endpoint(bench.a())]);
    answered(bench.b(), socket(VIP.ipv6, 80), TCP);
    silent(bench.b(), socket(VIP.ipv4, 80), TCP);
    let said = bench.ask("services").to_string();
    assert!(said.contains("source_ranges_open"), "{said}");
}

/// SR-2: a range of length zero, and two halves, allow everybody; SR-8: ranges may overlap.
#[test]
fn case_106_ranges_that_are_everything() {
    let bench = Bench::new();
    for ranges in [
        &["192.0.2.50/32", "0.0.0.0/0", "::/0"][..],
        &["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"],
        &[
            "192.0.2.0/24",
            "192.0.2.64/26",
            "192.0.2.99",
            "fd00:2::/64",
            "fd00:2::/32",
        ],
    ] {
        // "192.0.2.99" is no CIDR: it is left out, the rest counts.
        bench.serve(&restricted(ranges), &[bench.endpoint(bench.a())]);
        for vip in VIP.both() {
            for protocol in PROTOCOLS {
                answered(bench.b(), socket(vip, 80), protocol);
            }
        }
    }
}

/// SR-7 [N]: also without an endpoint those outside get no answer, and those inside a refusal.
#[test]
fn case_107_ranges_hold_without_endpoints() {
    let bench = Bench::new();
    bench.serve(&restricted(&RANGES), &[]);
    for vip in VIP.both() {
        refused(bench.c(), socket(vip, 80), TCP);
        silent(bench.b(), socket(vip, 80), TCP);
    }
}

/// SR-3: only new connections are filtered; an established one outlives a narrower range.
#[test]
fn case_108_narrower_ranges_cut_nothing() {
    let bench = Bench::new();
    let endpoints = [bench.endpoint(bench.a())];
    bench.serve(&load_balancer(), &endpoints);
    let mut streams = VIP
        .both()
        .map(|vip| edgelb::lab::client::open_stream(bench.b(), socket(vip, 80)).unwrap());
    for stream in &mut streams {
        stream.send("open").unwrap();
    }
    bench.serve(&restricted(&RANGES), &endpoints);
    silent(bench.b(), socket(VIP.ipv4, 80), TCP);
    for stream in &mut streams {
        assert_eq!(stream.send("still").unwrap().text, "still");
    }
}
