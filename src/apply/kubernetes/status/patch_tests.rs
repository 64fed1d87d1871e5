//! What the patches say, and when a decision is still good.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use super::*;

fn object(spec: &Value, status: &Value) -> ServiceObject {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "8"},
        "spec": spec,
        "status": status,
    }))
    .unwrap()
}

fn seen(allocated: Option<bool>) -> Seen {
    Seen {
        object: ObjectIdentity {
            uid: "u-1".to_owned(),
            version: "7".to_owned(),
        },
        allocated,
    }
}

fn allocated() -> AddressCondition {
    AddressCondition {
        allocated: true,
        reason: "Allocated".to_owned(),
        message: "from pool web".to_owned(),
    }
}

fn refused() -> AddressCondition {
    AddressCondition {
        allocated: false,
        ..allocated()
    }
}

fn set() -> StatusChange {
    StatusChange::Set {
        addresses: ["2001:db8::10", "192.0.2.10"]
            .map(|it| it.parse().unwrap())
            .to_vec(),
        condition: allocated(),
    }
}

fn patched(change: &StatusChange, before: Option<bool>) -> Value {
    let now: Timestamp = "2026-07-01T08:00:00.987654321Z".parse().unwrap();
    let mut patch = change.patch(&seen(before), now);
    assert_eq!(
        patch["metadata"],
        json!({"uid": "u-1", "resourceVersion": "7"})
    );
    patch["status"].take()
}

#[test]
fn patches_say_our_part_and_nothing_else() {
    let ours = |status: &str, transition: bool| {
        let mut condition = json!({
            "type": "edgelb.io/AddressAllocated", "status": status,
            "reason": "Allocated", "message": "from pool web",
        });
        if transition {
            condition["lastTransitionTime"] = "2026-07-01T08:00:00Z".into();
        }
        condition
    };
    let ingress = json!({"ingress": [
        {"ip": "2001:db8::10", "ipMode": "VIP"}, {"ip": "192.0.2.10", "ipMode": "VIP"},
    ]});
    let gone = json!({"$patch": "delete", "type": "edgelb.io/AddressAllocated"});
    let condition = StatusChange::Condition(refused());
    for (change, before, expected) in [
        (
            set(),
            None,
            json!({"loadBalancer": ingress, "conditions": [ours("True", true)]}),
        ),
        (
            set(),
            Some(false),
            json!({"loadBalancer": ingress, "conditions": [ours("True", true)]}),
        ),
        (
            set(),
            Some(true),
            json!({"loadBalancer": ingress, "conditions": [ours("True", false)]}),
        ),
        (
            condition.clone(),
            None,
            json!({"conditions": [ours("False", true)]}),
        ),
        (
            condition.clone(),
            Some(true),
            json!({"conditions": [ours("False", true)]}),
        ),
        (
            condition,
            Some(false),
            json!({"conditions": [ours("False", false)]}),
        ),
        (
            StatusChange::Clear,
            Some(true),
            json!({"loadBalancer": {"ingress": null}, "conditions": [gone]}),
        ),
        (
            StatusChange::Clear,
            None,
            json!({"loadBalancer": {"ingress": null}}),
        ),
        (
            StatusChange::ClearCondition,
            Some(false),
            json!({"conditions": [gone]}),
        ),
        (StatusChange::ClearCondition, None, json!({})),
    ] {
        assert_eq!(patched(&change, before), expected, "{change:?} {before:?}");
    }
}

#[test]
fn what_is_written_already_is_recognized() {
    let spec = json!({"type": "LoadBalancer"});
    let ours = json!([{
        "type": "edgelb.io/AddressAllocated", "status": "True", "reason": "Allocated",
        "message": "from pool web", "lastTransitionTime": "2026-07-01T08:00:00Z",
    }]);
    let both = json!([{"ip": "2001:db8::10", "ipMode": "VIP"}, {"ip": "192.0.2.10"}]);
    let full = object(
        &spec,
        &json!({"loadBalancer": {"ingress": both}, "conditions": ours}),
    );
    let bare = object(&spec, &json!({"loadBalancer": {"ingress": both}}));
    let empty = object(&spec, &json!({"loadBalancer": {}}));
    let condition = StatusChange::Condition(allocated());
    for (change, expected) in [
        (set(), [true, false, false]),
        (condition, [true, false, false]),
        (StatusChange::Condition(refused()), [false, false, false]),
        (StatusChange::Clear, [false, false, true]),
        (StatusChange::ClearCondition, [false, true, true]),
    ] {
        let found = [&full, &bare, &empty].map(|fresh| change.is_in(fresh));
        assert_eq!(found, expected, "{change:?}");
    }
}

#[test]
fn only_a_service_of_an_api_server_can_be_written() {
    use crate::model::service::{ServiceKey, ServiceType};
    let mut service = Service::new(ServiceKey::new("shop", "web"), ServiceType::LoadBalancer);
    assert_eq!(Seen::of(&service), None);
    service.object = Some(Box::new(seen(None).object));
    service.condition = Some(Box::new(refused()));
    service.load_balancer_class = Some("edgelb.io/edgelb".to_owned());
    assert_eq!(Seen::of(&service), Some(seen(Some(false))));
}
