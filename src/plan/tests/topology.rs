//! Hints (TOPO-1 to TOPO-9), nodes that are gone (D-5), and what health checkers are told (HC-1, HC-5).

use std::sync::Arc;

use super::forwarding::{everywhere_as, lan};
use super::{HERE, endpoint, inputs, ip, key, node, node_port, port, slice, tcp, treatment};
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{RealServer, SourceClass};
use crate::model::node_state::HealthCheck;
use crate::model::service::{ServiceType, TrafficPolicy};
use crate::plan::Inputs;
use crate::plan::addresses::AddressSource;
use crate::plan::endpoints::{Topology, select};

/// `ENDPOINT[/zone,…][//node,…]`, the endpoint with its marks as in [`endpoint`].
fn hinted(text: &str) -> Endpoint {
    let (rest, nodes) = text.split_once("//").unwrap_or((text, ""));
    let (rest, zones) = rest.split_once('/').unwrap_or((rest, ""));
    let names = |names: &str| {
        let names = names.split(',').filter(|name| !name.is_empty());
        names.map(str::to_owned).collect()
    };
    Endpoint {
        zone_hints: names(zones),
        node_hints: names(nodes),
        ..endpoint(rest)
    }
}

fn hinted_slice(endpoints: &str) -> EndpointSlice {
    EndpointSlice {
        endpoints: endpoints.split_whitespace().map(hinted).collect(),
        ..slice("web", "web-1", "")
    }
}

/// A cluster whose node here is in this zone.
fn in_zone(zone: Option<&str>) -> Inputs {
    let mut inputs = inputs();
    let mut here = node(HERE, "192.0.2.11");
    let label = zone.map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone.to_owned()));
    here.labels.extend(label);
    inputs.put(here);
    inputs
}

fn short(list: &[RealServer]) -> String {
    let text = |real_server: &RealServer| real_server.address.to_string().replace("10.244.0.", "");
    list.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// The cluster list of a port whose endpoints are these, and the local one.
fn lists(inputs: &mut Inputs, endpoints: &str) -> (String, String) {
    inputs.put(hinted_slice(endpoints));
    let (port, topology) = (port("", Protocol::Tcp, 80), Topology::new(inputs));
    let found = select(&inputs.cluster, &key("web"), &port, Family::V4, &topology);
    (short(&found.cluster), short(&found.local))
}

#[test]
fn hints_narrow_the_cluster_list() {
    for (statement, zone, endpoints, expected) in [
        ("case 32", Some("a"), "10.244.0.1/a 10.244.0.2/b", "1"),
        ("TOPO-7: no zone", None, "10.244.0.1/a 10.244.0.2/b", "1 2"),
        (
            "TOPO-7: an empty zone",
            Some(""),
            "10.244.0.1/a 10.244.0.2/b",
            "1 2",
        ),
        (
            "TOPO-3: nothing for this zone",
            Some("c"),
            "10.244.0.1/a 10.244.0.2/b",
            "1 2",
        ),
        (
            "TOPO-4: one without a hint",
            Some("a"),
            "10.244.0.1/a 10.244.0.2",
            "1 2",
        ),
        (
            "TOPO-5: several zones",
            Some("a"),
            "10.244.0.1/b,a 10.244.0.2/b 10.244.0.3/a",
            "1 3",
        ),
        (
            "TOPO-6: unready ones do not count",
            Some("a"),
            "10.244.0.1/a 10.244.0.2#s",
            "1",
        ),
        (
            "TOPO-6: the only one of the zone is unready",
            Some("a"),
            "10.244.0.1#s/a 10.244.0.2/b",
            "2",
        ),
        (
            "TOPO-8: fallback to all that terminate",
            Some("a"),
            "10.244.0.1#st/a 10.244.0.2#st/b",
            "1 2",
        ),
        (
            "case 34",
            Some("a"),
            "10.244.0.1/a//edge-a 10.244.0.2/a//edge-b",
            "1",
        ),
        (
            "case 34, then unready",
            Some("a"),
            "10.244.0.1#s/a//edge-a 10.244.0.2/a//edge-b",
            "2",
        ),
        (
            "TOPO-3: nodes before zones",
            Some("a"),
            "10.244.0.1/b//edge-a 10.244.0.2/a//edge-b",
            "1",
        ),
        (
            "TOPO-4: to the next mode",
            Some("a"),
            "10.244.0.1/b//edge-a 10.244.0.2/a",
            "2",
        ),
        (
            "TOPO-3: no hint at all",
            Some("a"),
            "10.244.0.1 10.244.0.2",
            "1 2",
        ),
    ] {
        let (cluster, _) = lists(&mut in_zone(zone), endpoints);
        assert_eq!(cluster, expected, "{statement}: {endpoints}");
    }
}

#[test]
fn local_lists_disregard_hints() {
    // TOPO-2
    let (cluster, local) = lists(
        &mut in_zone(Some("a")),
        "10.244.0.1@edge-b/a 10.244.0.2@edge-a/b",
    );
    assert_eq!((cluster.as_str(), local.as_str()), ("1", "2"));
}

#[test]
fn a_zone_that_changes_plans_everything() {
    // TOPO-9
    let mut inputs = in_zone(Some("a"));
    inputs.put(everywhere_as(ServiceType::NodePort));
    inputs.put(hinted_slice("10.244.0.1/a 10.244.0.2/b"));
    let at = |inputs: &mut Inputs| {
        let plan = inputs.planned(&lan());
        treatment(&plan, &node_port(Family::V4, 30080), SourceClass::Node)
    };
    assert_eq!(at(&mut inputs), "10.244.0.1:8080+");
    let mut moved = node(HERE, "192.0.2.11");
    moved
        .labels
        .insert("topology.kubernetes.io/zone".to_owned(), "b".to_owned());
    inputs.put(moved);
    assert_eq!(at(&mut inputs), "10.244.0.2:8080+");
}

#[test]
fn endpoints_of_nodes_that_are_gone_are_dead() {
    for (statement, source, silent, expected) in [
        ("all nodes are there", AddressSource::Status, false, "3"),
        ("a silent one", AddressSource::Status, true, "2 3"),
        (
            "manifests need not name all nodes",
            AddressSource::Here,
            false,
            "",
        ),
        ("manifests: a silent one", AddressSource::Here, true, "2"),
    ] {
        let mut inputs = in_zone(None);
        inputs.nodes_known = true;
        inputs.address_source = source;
        let mut other = node("edge-b", "192.0.2.12");
        other.silent = silent;
        inputs.put(other);
        inputs.put(everywhere_as(ServiceType::NodePort));
        inputs.put(hinted_slice(
            "10.244.0.1@edge-a 10.244.0.2@edge-b 10.244.0.3@edge-c 10.244.0.4",
        ));
        let dead = |inputs: &mut Inputs| -> String {
            let dead = inputs.planned(&lan()).state.dead;
            let last = dead
                .iter()
                .map(|address| address.to_string().replace("10.244.0.", ""));
            last.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(dead(&mut inputs), expected, "{statement}");
        inputs.put(hinted_slice("10.244.0.1@edge-a"));
        assert_eq!(
            dead(&mut inputs),
            "",
            "{statement}: gone with its endpoints"
        );
    }
}

#[test]
fn where_most_nodes_are_silent_it_is_the_api_server_that_is_not_reached() {
    for (silent, expected) in [(1, 1), (2, 2), (3, 0), (4, 0)] {
        let mut inputs = in_zone(None);
        for index in 0..3 {
            let mut other = node(&format!("edge-{index}"), &format!("192.0.2.{}", 20 + index));
            other.silent = index < silent;
            inputs.put(other);
        }
        if silent == 4 {
            let mut here = node(HERE, "192.0.2.11");
            here.silent = true;
            inputs.put(here);
        }
        inputs.put(everywhere_as(ServiceType::NodePort));
        inputs.put(hinted_slice(
            "10.244.0.1@edge-0 10.244.0.2@edge-1 10.244.0.3@edge-2 10.244.0.4@edge-a",
        ));
        let dead = inputs.planned(&lan()).state.dead;
        assert_eq!(dead.len(), expected, "{silent} of 4 are silent");
    }
}

#[test]
fn what_is_connected_goes_on_to_all_that_serve() {
    // CT-3, POL-13: policies and readiness do not matter.
    let mut inputs = in_zone(None);
    let mut service = everywhere_as(ServiceType::LoadBalancer);
    service.external_traffic_policy = TrafficPolicy::Local;
    service.ports = vec![
        port("dns", Protocol::Tcp, 53),
        port("dns-udp", Protocol::Udp, 53),
    ];
    inputs.put(service);
    let mut slice = hinted_slice("10.244.0.1@edge-a 10.244.0.2@edge-b#s 10.244.0.3#st 10.244.0.4#");
    slice.ports = [("dns", Protocol::Tcp), ("dns-udp", Protocol::Udp)]
        .map(|(name, protocol)| crate::model::endpoint::SlicePort {
            name: name.to_owned(),
            protocol,
            port: 5353,
        })
        .to_vec();
    inputs.put(slice);
    let plan = inputs.planned(&lan());
    assert_eq!(plan.state.frontends.len(), 6);
    for (port, frontend) in &plan.state.frontends {
        assert_eq!(short(&frontend.keeps), "1 2 3", "{port}");
    }
}

#[test]
fn health_checkers_are_told_the_ready_addresses_here() {
    let two_ports = |endpoints: &str| {
        let mut slice = hinted_slice(endpoints);
        let mut another = slice.ports[0].clone();
        another.name = "metrics".to_owned();
        slice.ports.push(another);
        slice
    };
    let mut service = everywhere_as(ServiceType::LoadBalancer);
    service.external_traffic_policy = TrafficPolicy::Local;
    service.health_check_node_port = Some(32_000);
    service.families = vec![Family::V4, Family::V6];
    let told = |service: &crate::model::service::Service, endpoints: &str| {
        let mut inputs = in_zone(None);
        inputs.put(service.clone()).put(two_ports(endpoints));
        inputs.put(slice("web", "web-6", "fd00::1@edge-a fd00::2@edge-a"));
        let plan = inputs.planned(&lan());
        plan.state.health_checks.get(&key("web")).cloned()
    };
    for (statement, endpoints, count) in [
        ("HC-5: one address on two ports", "10.244.0.1@edge-a", 1),
        ("HC-5: elsewhere", "10.244.0.1@edge-b", 0),
        (
            "HC-5: terminating ones do not count",
            "10.244.0.1@edge-a#st",
            0,
        ),
        (
            "HC-5: two",
            "10.244.0.1@edge-a 10.244.0.2@edge-a 10.244.0.3@edge-b",
            2,
        ),
    ] {
        let expected = HealthCheck {
            port: 32_000,
            local_endpoints: [(Family::V4, count), (Family::V6, 2)].into(),
        };
        assert_eq!(told(&service, endpoints), Some(expected), "{statement}");
    }
    // SP-9
    let mut cluster = service.clone();
    cluster.external_traffic_policy = TrafficPolicy::Cluster;
    let mut node_port = service.clone();
    node_port.kind = ServiceType::NodePort;
    let mut none = service.clone();
    none.health_check_node_port = None;
    let mut zero = service.clone();
    zero.health_check_node_port = Some(0);
    for service in [cluster, node_port, none, zero] {
        assert_eq!(told(&service, "10.244.0.1@edge-a"), None);
    }
    // HC-1: an IPv4 Service has no IPv6 listener.
    let mut ipv4 = service;
    ipv4.families = vec![Family::V4];
    let families = told(&ipv4, "10.244.0.1@edge-a").unwrap().local_endpoints;
    assert_eq!(families.into_keys().collect::<Vec<_>>(), [Family::V4]);
}

#[test]
fn the_scope_of_affinity_is_the_service_port() {
    // AFF-2: the same for all frontends of a port, another one for every other port and Service.
    let mut inputs = in_zone(None);
    let mut service = everywhere_as(ServiceType::LoadBalancer);
    service.session_affinity = Some(std::time::Duration::from_secs(10));
    service.ports.push(port("udp", Protocol::Udp, 80));
    let mut other = service.clone();
    other.key = key("other");
    other.cluster_ips = vec![ip("10.96.0.11")];
    other.external_ips.clear();
    other.ports[0].node_port = None;
    inputs.put(service).put(other);
    let plan = inputs.planned(&lan());
    let scope = |port| plan.state.frontends[&port].session_affinity.unwrap().scope;
    let first = scope(tcp("10.96.0.10", 80));
    for port in [tcp("203.0.113.5", 80), node_port(Family::V4, 30080)] {
        assert_eq!(scope(port), first);
    }
    let mut udp = tcp("10.96.0.10", 80);
    udp.protocol = Protocol::Udp;
    assert_ne!(scope(udp), first);
    assert_ne!(scope(tcp("10.96.0.11", 80)), first);
    let all: Vec<Arc<_>> = plan.state.frontends.values().cloned().collect();
    let distinct: std::collections::BTreeSet<u64> = all
        .iter()
        .filter_map(|frontend| Some(frontend.session_affinity?.scope))
        .collect();
    assert_eq!(distinct.len(), 4);
}
