//! What is read of a Service's status and identity.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use serde_json::{Value, json};

use super::tests::{fields, service_with};
use crate::model::service::IpMode;

#[test]
fn status_addresses_keep_their_mode() {
    let status = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
        {"ip": "192.0.2.3", "ipMode": "Other"},
        {"ip": "nonsense"},
        {"ip": "192.0.2.1"},
    ]}});
    let metadata = json!({"name": "web", "namespace": "shop"});
    let converted = service_with(&metadata, &json!({"type": "LoadBalancer"}), &status);
    assert_eq!(
        fields(&converted.notes),
        [
            "status.loadBalancer.ingress[3].ipMode",
            "status.loadBalancer.ingress[4].ip"
        ]
    );
    let ingress: Vec<_> = converted
        .object
        .unwrap()
        .ingress
        .iter()
        .map(|entry| (entry.address.to_string(), entry.mode))
        .collect();
    assert_eq!(
        ingress,
        [
            ("192.0.2.1".to_owned(), IpMode::Vip),
            ("192.0.2.2".to_owned(), IpMode::Proxy)
        ]
    );
}

#[test]
fn what_the_model_does_not_carry_of_a_service_is_told() {
    let metadata = json!({"name": "web", "namespace": "shop"});
    for (entry, other) in [
        (json!({"ip": "192.0.2.1"}), false),
        (
            json!({"ip": "::ffff:192.0.2.1", "ipMode": "Proxy", "hostname": "lb.example.com"}),
            false,
        ),
        (json!({"hostname": "lb.example.com"}), true),
        (json!({"ip": "", "hostname": "lb.example.com"}), true),
        (json!({"ip": "192.0.2.1", "ipMode": "Other"}), true),
        (json!({"ip": "127.0.0.1"}), true),
    ] {
        let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, entry]}});
        let service = service_with(&metadata, &json!({"type": "LoadBalancer"}), &status);
        let service = service.object.unwrap();
        assert_eq!(
            (service.other_ingress, service.deleting),
            (other, false),
            "{status}"
        );
    }
    let going =
        json!({"name": "web", "namespace": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"});
    let service = service_with(&going, &Value::Null, &Value::Null)
        .object
        .unwrap();
    assert!(service.deleting && !service.other_ingress);
}

#[test]
fn our_own_condition_and_the_identity_are_kept() {
    let status = json!({"conditions": [
        {"type": "other.example/Ready", "status": "True", "reason": "Other", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        {"type": "edgelb.io/AddressAllocated", "status": "False", "reason": "PoolExhausted", "message": "no free address", "lastTransitionTime": "2026-01-01T00:00:00Z"},
    ]});
    let metadata =
        json!({"name": "web", "namespace": "shop", "uid": "0000-1", "resourceVersion": "17"});
    let spec = json!({"type": "LoadBalancer"});
    let service = service_with(&metadata, &spec, &status).object.unwrap();
    let condition = service.condition.clone().unwrap();
    assert!(!condition.allocated);
    assert_eq!(
        (condition.reason.as_str(), condition.message.as_str()),
        ("PoolExhausted", "no free address")
    );
    let object = service.object.clone().unwrap();
    assert_eq!(
        (object.uid.as_str(), object.version.as_str()),
        ("0000-1", "17")
    );
    // Another controller's mistake.
    let mut spoiled = status.clone();
    spoiled["conditions"][0]["lastTransitionTime"] = Value::Null;
    let same = service_with(&metadata, &spec, &spoiled).object.unwrap();
    assert_eq!(same.condition.as_deref(), service.condition.as_deref());
    // A manifest has neither.
    let metadata = json!({"name": "web", "namespace": "shop"});
    let service = service_with(&metadata, &spec, &Value::Null).object.unwrap();
    assert_eq!((service.object, service.condition), (None, None));
}
