//! `EndpointSlice`, `Endpoints` and Node with bad values.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};

use super::convert::{Converted, Ignored};
use super::decode::{Kind, Object, decode};
use super::tests::{fields, texts};

fn slice(document: &Value) -> Converted<crate::model::endpoint::EndpointSlice> {
    match decode(Kind::EndpointSlice, document).expect("is a slice") {
        (Object::EndpointSlice(converted), _) => converted,
        _ => panic!("is a slice"),
    }
}

#[test]
fn bad_endpoints_and_ports_of_a_slice_are_left_out() {
    let converted = slice(&json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 8080}, {"name": "all"}, {"name": "bad", "port": 0}, {"name": "icmp", "port": 1, "protocol": "ICMP"}],
        "endpoints": [
            {"addresses": ["10.244.1.2", "10.244.1.99"], "conditions": {"ready": false}},
            {"addresses": []},
            {"addresses": ["fd00::1"]},
            {"addresses": ["127.0.0.1"]},
            {"addresses": ["10.244.1.2"], "conditions": {"terminating": true}},
        ],
    }));
    assert_eq!(
        fields(&converted.notes),
        [
            "ports[1].port",
            "ports[2].port",
            "ports[3].protocol",
            "endpoints[1].addresses",
            "endpoints[2].addresses[0]",
            "endpoints[3].addresses[0]",
        ]
    );
    let slice = converted.object.unwrap();
    assert_eq!((slice.ports.len(), slice.ports[0].name.as_str()), (1, ""));
    let seen: Vec<_> = slice
        .endpoints
        .iter()
        .map(|endpoint| {
            let conditions = endpoint.conditions;
            (
                endpoint.address.to_string(),
                conditions.ready,
                conditions.serving,
                conditions.terminating,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("10.244.1.2".to_owned(), false, true, false),
            ("10.244.1.2".to_owned(), true, true, true),
        ],
        "EP-7, EP-8; the planner chooses among duplicates (EP-13)"
    );
}

#[test]
fn slices_of_no_service_or_family_have_a_reason() {
    let of = |labels: Value, kind: &str| {
        slice(&json!({"metadata": {"name": "a", "labels": labels}, "addressType": kind})).object
    };
    let label = || json!({"kubernetes.io/service-name": "web"});
    assert_eq!(of(json!({}), "IPv4"), Err(Ignored::NoService));
    assert_eq!(
        of(json!({"kubernetes.io/service-name": ""}), "IPv4"),
        Err(Ignored::NoService)
    );
    assert_eq!(
        of(label(), "FQDN"),
        Err(Ignored::AddressType("FQDN".to_owned()))
    );
    let headless =
        json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
    assert_eq!(of(headless, "IPv4"), Err(Ignored::HeadlessSlice));
}

#[test]
fn endpoints_become_a_slice_for_each_subset_and_family() {
    let document = json!({"metadata": {"name": "web", "namespace": "shop"}, "subsets": [
        {
            "addresses": [{"ip": "192.0.2.1", "nodeName": "edge-a"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}, {"ip": "nonsense"}],
            "ports": [{"port": 80}, {"port": 0, "name": "bad"}],
        },
        {"addresses": [{"ip": "192.0.2.3"}], "ports": [{"port": 81, "protocol": "UDP"}]},
        {"ports": [{"port": 82}]},
    ]});
    let (Object::Endpoints(converted), _) = decode(Kind::Endpoints, &document).unwrap() else {
        panic!("is Endpoints");
    };
    assert_eq!(
        fields(&converted.notes),
        [
            "subsets[0].ports[1].port",
            "subsets[0].notReadyAddresses[1].ip"
        ]
    );
    let slices = converted.object.unwrap();
    let seen: Vec<_> = slices
        .iter()
        .map(|slice| {
            (
                slice.key.to_string(),
                slice.endpoints.len(),
                slice.ports[0].port,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("shop/web-endpoints-0-IPv4".to_owned(), 2, 80),
            ("shop/web-endpoints-0-IPv6".to_owned(), 1, 80),
            ("shop/web-endpoints-1-IPv4".to_owned(), 1, 81),
        ]
    );
    let second = &slices[0].endpoints[1].conditions;
    assert!(!second.ready && !second.serving && !second.terminating);
}

#[test]
fn a_node_has_internal_addresses_first() {
    let document = json!({
        "metadata": {"name": "edge-a", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDR": "10.244.1.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {"addresses": [
            {"type": "ExternalIP", "address": "203.0.113.1"},
            {"type": "Hostname", "address": "edge-a"},
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "InternalIP", "address": "nonsense"},
        ]},
    });
    let (Object::Node(converted), unknown) = decode(Kind::Node, &document).unwrap() else {
        panic!("is a Node");
    };
    assert_eq!(unknown, []);
    assert_eq!(fields(&converted.notes), ["status.addresses[3].address"]);
    let node = converted.object.unwrap();
    assert_eq!(texts(&node.addresses), ["192.0.2.1", "203.0.113.1"]);
    assert_eq!(texts(&node.pod_cidrs), ["10.244.1.0/24"]);
    assert_eq!((node.deleting, node.taints), (true, vec!["a".to_owned()]));
}
