//! Which endpoints a port may use: EP-5, EP-6, EP-8, EP-9, EP-12, EP-13, POL-1, POL-2.

use super::{endpoint, inputs, key, port, slice};
use crate::model::endpoint::{Conditions, EndpointSlice, SlicePort};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::RealServer;
use crate::model::service::ServicePort;
use crate::plan::endpoints::{Endpoints, Topology, ready_on, select};

fn selected(port: &ServicePort, slices: Vec<EndpointSlice>) -> Endpoints {
    let mut inputs = inputs();
    for slice in slices {
        inputs.put(slice);
    }
    let topology = Topology::new(&inputs);
    select(&inputs.cluster, &key("web"), port, Family::V4, &topology)
}

fn text(real_servers: &[RealServer]) -> String {
    let texts: Vec<String> = real_servers.iter().map(ToString::to_string).collect();
    texts.join(" ")
}

/// One slice on port 8080 with these endpoints; what the cluster and the local list hold.
fn lists(endpoints: &str) -> (String, String) {
    let slice = slice("web", "web-1", endpoints);
    let selected = selected(&port("", Protocol::Tcp, 80), vec![slice]);
    let short = |list: &[RealServer]| text(list).replace("10.244.", "").replace(":8080", "");
    (short(&selected.cluster), short(&selected.local))
}

#[test]
fn conditions_decide_who_is_used() {
    for (statement, endpoints, cluster, local) in [
        ("EP-9: ready ones", "10.244.0.1#rs 10.244.0.2#s", "0.1", ""),
        ("EP-9: serving alone is never used", "10.244.0.1#s", "", ""),
        (
            "EP-9: terminating and serving is the fallback",
            "10.244.0.1#st",
            "0.1",
            "",
        ),
        (
            "EP-9: terminating and not serving is not",
            "10.244.0.1#t",
            "",
            "",
        ),
        ("case 27", "10.244.0.1#st 10.244.0.2#t", "0.1", ""),
        (
            "EP-9: no fallback beside a ready one",
            "10.244.0.1#st 10.244.0.2#r",
            "0.2",
            "",
        ),
        (
            "EP-12: on this node",
            "10.244.0.1@edge-a 10.244.0.2@edge-b",
            "0.1 0.2",
            "0.1",
        ),
        (
            "EP-12: a node that nobody names is no node",
            "10.244.0.1",
            "0.1",
            "",
        ),
        (
            "POL-2: local falls back alone",
            "10.244.0.1@edge-a#st 10.244.0.2@edge-b#rs",
            "0.2",
            "0.1",
        ),
        (
            "POL-1: the cluster falls back where nothing is ready",
            "10.244.0.1@edge-b#st 10.244.0.2@edge-a#s",
            "0.1",
            "",
        ),
    ] {
        let expected = (cluster.to_owned(), local.to_owned());
        assert_eq!(lists(endpoints), expected, "{statement}");
    }
}

#[test]
fn conditions_that_nobody_set_are_ready_and_serving() {
    // EP-8
    let conditions = Conditions::default();
    assert!(conditions.ready && conditions.serving && !conditions.terminating);
}

#[test]
fn a_slice_port_feeds_the_port_of_its_name_and_protocol() {
    let slice_of = |name: &str, protocol: Protocol, number: u16, endpoints: &str| EndpointSlice {
        ports: vec![SlicePort {
            name: name.to_owned(),
            protocol,
            port: number,
        }],
        ..slice("web", &format!("web-{number}"), endpoints)
    };
    for (statement, name, protocol, expected) in [
        ("EP-5: same name", "p1", Protocol::Tcp, "10.244.0.1:3000"),
        (
            "EP-5, case 22: the other port",
            "p2",
            Protocol::Tcp,
            "10.244.0.2:3001",
        ),
        ("EP-5, case 19: no such name", "p3", Protocol::Tcp, ""),
        ("EP-5, case 20: other protocol", "p1", Protocol::Udp, ""),
        (
            "EP-5: an unnamed port needs an unnamed one",
            "",
            Protocol::Tcp,
            "",
        ),
    ] {
        let slices = vec![
            slice_of("p1", Protocol::Tcp, 3000, "10.244.0.1"),
            slice_of("p2", Protocol::Tcp, 3001, "10.244.0.2"),
        ];
        let endpoints = selected(&port(name, protocol, 80), slices);
        assert_eq!(text(&endpoints.cluster), expected, "{statement}");
    }
    // EP-6, case 23: each slice brings its own number.
    let slices = vec![
        slice_of("", Protocol::Tcp, 8080, "10.244.0.1"),
        slice_of("", Protocol::Tcp, 9090, "10.244.0.2"),
    ];
    let endpoints = selected(&port("", Protocol::Tcp, 80), slices);
    assert_eq!(text(&endpoints.cluster), "10.244.0.1:8080 10.244.0.2:9090");
}

#[test]
fn a_terminating_duplicate_never_replaces() {
    // EP-13, in both orders of the slices.
    for (statement, first, second, expected) in [
        (
            "ready, then terminating",
            "10.244.0.1#rs",
            "10.244.0.1#st",
            "10.244.0.1:8080",
        ),
        (
            "terminating, then ready",
            "10.244.0.1#st",
            "10.244.0.1#rs",
            "10.244.0.1:8080",
        ),
        ("dead, then terminating", "10.244.0.1#", "10.244.0.1#st", ""),
    ] {
        let slices = vec![slice("web", "a", first), slice("web", "b", second)];
        let endpoints = selected(&port("", Protocol::Tcp, 80), slices);
        assert_eq!(text(&endpoints.cluster), expected, "EP-13: {statement}");
        assert!(endpoints.cluster.len() <= 1, "no endpoint comes twice");
    }
}

#[test]
fn only_slices_of_the_service_and_the_family_count() {
    let slices = vec![
        slice("web", "web-1", "10.244.0.1"),
        slice("web", "web-2", "fd00::1"),
        slice("other", "other-1", "10.244.0.9"),
        slice("elsewhere/web", "web-1", "10.244.0.8"),
    ];
    let endpoints = selected(&port("", Protocol::Tcp, 80), slices);
    assert_eq!(text(&endpoints.cluster), "10.244.0.1:8080", "EP-1, EP-2");
}

#[test]
fn endpoints_here_may_be_their_own_clients_whatever_their_list() {
    let here = "10.244.0.1@edge-a#rs 10.244.0.2@edge-a#s 10.244.0.3@edge-b 10.244.0.4@edge-a#";
    let endpoints = selected(
        &port("", Protocol::Tcp, 80),
        vec![slice("web", "web-1", here)],
    );
    assert_eq!(
        text(&endpoints.on_this_node),
        "10.244.0.1:8080 10.244.0.2:8080",
        "MASQ-8"
    );
}

#[test]
fn a_node_is_ready_by_any_port_and_family() {
    let mut inputs = inputs();
    inputs.put(slice(
        "web",
        "web-1",
        "10.244.0.1@edge-a#st 10.244.0.2@edge-b",
    ));
    inputs.put(slice("web", "web-2", "fd00::1@edge-c"));
    let ready = |node: &str| ready_on(&inputs.cluster, &key("web"), node);
    assert!(!ready("edge-a"), "LBC-6: terminating ones attract nothing");
    assert!(ready("edge-b") && ready("edge-c") && !ready("edge-d"));
    assert_eq!(endpoint("10.244.0.1").node, None);
}
