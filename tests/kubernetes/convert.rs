//! Objects that a real API server (Kubernetes 1.36) served, converted to the model: all of them,
//! without a note, and field by field where a decision depends on it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use edgelb::model::cluster::{ClusterChange, ClusterState};
use edgelb::model::endpoint::{Conditions, SliceKey};
use edgelb::model::family::{Family, Protocol};
use edgelb::model::service::{ServiceKey, ServiceType, TrafficPolicy};
use edgelb::source::kubernetes::convert::{Converted, Ignored, Note};
use edgelb::source::kubernetes::decode::{Kind, Object, decode};
use edgelb::source::manifest::read_directory;
use serde_json::Value;

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kubernetes-1.36")
}

fn list(file: &str, kind: Kind) -> Vec<(String, Object, Vec<Note>)> {
    let text = std::fs::read_to_string(fixtures().join(file)).expect(file);
    let list: Value = serde_json::from_str(&text).expect(file);
    let items = list["items"].as_array().expect("items");
    assert!(!items.is_empty(), "{file} has objects");
    items
        .iter()
        .map(|item| {
            let name = item["metadata"]["name"].as_str().expect("name").to_owned();
            let (object, unknown) = decode(kind, item).expect(&name);
            (name, object, unknown)
        })
        .collect()
}

fn services() -> BTreeMap<String, Converted<edgelb::model::service::Service>> {
    list("services.list.json", Kind::Service)
        .into_iter()
        .map(|(name, object, unknown)| {
            assert_eq!(unknown, [], "{name}: every field is known");
            let Object::Service(converted) = object else {
                panic!("{name} is a Service");
            };
            assert_eq!(converted.notes, [], "{name}: nothing is left out");
            (name, *converted)
        })
        .collect()
}

#[test]
fn every_service_converts() {
    let services = services();
    assert_eq!(services.len(), 21);
    let ignored: Vec<(&str, &Ignored)> = services
        .iter()
        .filter_map(|(name, converted)| Some((name.as_str(), converted.object.as_ref().err()?)))
        .collect();
    assert_eq!(
        ignored,
        [
            ("external-name", &Ignored::ExternalName),
            ("foreign-proxy", &Ignored::ForeignProxy),
            ("headless", &Ignored::Headless),
        ]
    );
}

#[test]
fn a_local_load_balancer_keeps_ports_policies_and_health_check() {
    let services = services();
    let service = services["lb-local"].object.as_ref().expect("is converted");
    assert_eq!(service.key, ServiceKey::new("shop", "lb-local"));
    assert_eq!(service.kind, ServiceType::LoadBalancer);
    assert_eq!(
        service.cluster_ips,
        ["10.97.111.246".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(service.families, [Family::V4]);
    assert_eq!(service.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.internal_traffic_policy, TrafficPolicy::Local);
    assert_eq!(service.health_check_node_port, Some(31220));
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", Protocol::Tcp, 80, Some(32050)),
            ("https", Protocol::Tcp, 443, Some(30918)),
        ]
    );
}

#[test]
fn the_fields_that_few_services_have_arrive() {
    let services = services();
    let get = |name: &str| services[name].object.as_ref().expect("is converted");
    assert_eq!(
        get("sticky").session_affinity,
        Some(Duration::from_secs(3600))
    );
    assert_eq!(get("lb").session_affinity, None);
    assert_eq!(
        get("lb-requested").load_balancer_ip.as_deref(),
        Some("203.0.113.20")
    );
    assert_eq!(
        get("lb-other-class").load_balancer_class.as_deref(),
        Some("example.com/other")
    );
    let texts =
        |ranges: &[ipnet::IpNet]| ranges.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        texts(&get("lb-ranges").source_ranges),
        ["10.0.0.0/8", "172.16.0.0/12"]
    );
    let external: Vec<String> = get("external-ips")
        .external_ips
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(external, ["192.168.1.100", "192.168.1.101"]);
    assert_eq!(get("lb-no-nodeports").ports[0].node_port, None);
    let dns: Vec<_> = get("dns-lb")
        .ports
        .iter()
        .map(|port| (port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(
        dns,
        [
            (Protocol::Tcp, 53, Some(31595)),
            (Protocol::Udp, 53, Some(31595))
        ],
        "TCP and UDP may share a node port (NP-12)"
    );
}

#[test]
fn every_slice_converts() {
    let mut ignored = Vec::new();
    let mut slices = BTreeMap::new();
    for (name, object, unknown) in list("endpointslices.list.json", Kind::EndpointSlice) {
        assert_eq!(unknown, [], "{name}: every field is known");
        let Object::EndpointSlice(converted) = object else {
            panic!("{name} is a slice");
        };
        assert_eq!(converted.notes, [], "{name}: nothing is left out");
        match converted.object {
            Ok(slice) => {
                slices.insert(name, slice);
            }
            Err(reason) => ignored.push((name, reason)),
        }
    }
    assert_eq!(
        ignored,
        [("headless-ttdbv".to_owned(), Ignored::HeadlessSlice)]
    );

    let close = &slices["close-pz8z5"];
    assert_eq!(close.service, ServiceKey::new("shop", "close"));
    assert_eq!(close.family, Family::V4);
    assert_eq!(
        (close.ports[0].name.as_str(), close.ports[0].port),
        ("http", 8080)
    );
    let endpoints: Vec<_> = close
        .endpoints
        .iter()
        .map(|endpoint| {
            (
                endpoint.address.to_string(),
                endpoint.node.as_deref(),
                endpoint.conditions.ready,
                endpoint.zone_hints.names().join(","),
            )
        })
        .collect();
    let expected = [
        ("10.244.1.11", "edge-a", true, "zone-1"),
        ("10.244.1.12", "edge-a", true, "zone-1"),
        ("10.244.2.11", "edge-b", true, "zone-1"),
        ("10.244.3.11", "edge-c", false, ""),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(address, node, ready, hints)| {
            (
                (*address).to_owned(),
                Some(*node),
                *ready,
                (*hints).to_owned(),
            )
        })
        .collect();
    assert_eq!(endpoints, expected);
    assert_eq!(
        slices["manual-rhwdk"].endpoints[0].conditions,
        Conditions {
            ready: true,
            serving: true,
            terminating: false
        },
        "what a mirrored slice does not say is filled in (EP-8)"
    );
    assert_eq!(
        slices["publish-not-ready-sl4v6"].endpoints[3].conditions,
        Conditions {
            ready: true,
            serving: false,
            terminating: false
        },
    );
    assert!(slices["no-endpoints-7rkfk"].endpoints.is_empty());
    assert!(slices["no-endpoints-7rkfk"].ports.is_empty());
}

#[test]
fn every_node_converts() {
    let nodes: Vec<_> = list("nodes.list.json", Kind::Node)
        .into_iter()
        .map(|(name, object, unknown)| {
            assert_eq!(unknown, [], "{name}: every field is known");
            let Object::Node(converted) = object else {
                panic!("{name} is a Node");
            };
            assert_eq!(converted.notes, [], "{name}: nothing is left out");
            converted.object.expect("no Node is ignored")
        })
        .collect();
    let seen: Vec<_> = nodes
        .iter()
        .map(|node| {
            (
                node.name.as_str(),
                node.addresses[0].to_string(),
                node.labels["topology.kubernetes.io/zone"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("edge-a", "198.51.100.11".to_owned(), "zone-1"),
            ("edge-b", "198.51.100.12".to_owned(), "zone-1"),
            ("edge-c", "198.51.100.13".to_owned(), "zone-2"),
        ]
    );
    assert!(
        nodes[2]
            .labels
            .contains_key("node.kubernetes.io/exclude-from-external-load-balancers")
    );
}

#[test]
fn the_same_lists_are_manifests_too() {
    let (changes, problems) = read_directory(&fixtures());
    assert_eq!(problems, []);
    let mut cluster = ClusterState::default();
    for change in changes {
        assert!(!matches!(
            change,
            ClusterChange::ServiceGone(_)
                | ClusterChange::SliceGone(_)
                | ClusterChange::NodeGone(_)
                | ClusterChange::NamespaceGone(_)
        ));
        cluster.apply(change);
    }
    assert_eq!(
        cluster.services.len(),
        18,
        "21 but for three that nobody forwards"
    );
    assert_eq!(cluster.nodes.len(), 3);
    let slice = SliceKey::new("shop", "close-pz8z5");
    assert_eq!(cluster.slices[&slice].endpoints.len(), 4);
}
