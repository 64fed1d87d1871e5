//! The scripted server itself, asked by a plain client over TLS: what the real one refuses is
//! refused here too, and what is to go wrong does. Tests of the daemon's writing rest on this.

use std::collections::BTreeMap;

use edgelb::source::kubernetes::kind::Watched;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use crate::authority::Secure;
use crate::script::Script;
use crate::user::load_balancer;

pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
pub const MAPS: &str = "/api/v1/namespaces/kube-system/configmaps";
pub const STATUS: &str = "/api/v1/namespaces/shop/services/web/status";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

/// A request; status and body, or `None` where the connection ended instead.
pub async fn ask(
    client: &Client,
    method: Method,
    path: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let content_type = if method == Method::PATCH {
        "application/strategic-merge-patch+json"
    } else {
        "application/json"
    };
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Body::from(bytes))
        .expect("a request");
    let answer = client.send(request).await.ok()?;
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect_bytes().await.ok()?;
    Some((code, serde_json::from_slice(&bytes).expect("JSON")))
}

/// The same, where an answer must come.
pub async fn told(client: &Client, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let answer = ask(client, method, path, body).await;
    answer.expect("an answer")
}

pub fn object(name: &str, field: &str, content: &Value) -> Value {
    json!({"metadata": {"name": name}, field: content})
}

pub fn ingress(address: &str) -> Value {
    json!({"status": {"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}}})
}

pub async fn world() -> (Secure, Client) {
    let secure = Secure::start(Script::recorded()).await;
    let client = secure.client("first").await;
    (secure, client)
}

#[tokio::test]
async fn a_lease_is_replaced_by_whoever_saw_the_last_version() {
    let (_secure, client) = world().await;
    let path = format!("{LEASES}/edgelb");
    let (code, refusal) = told(&client, Method::GET, &path, &Value::Null).await;
    assert_eq!((code, &refusal["reason"]), (404, &json!("NotFound")));
    let spec = json!({"holderIdentity": "edge-a", "leaseDurationSeconds": 10, "renewTime": "2026-11-22T20:00:00.000001Z"});
    let lease = object("edgelb", "spec", &spec);
    let (code, created) = told(&client, Method::POST, LEASES, &lease).await;
    assert_eq!(code, 201);
    let (code, refusal) = told(&client, Method::POST, LEASES, &lease).await;
    assert_eq!((code, &refusal["reason"]), (409, &json!("AlreadyExists")));
    assert_eq!(
        refusal["message"],
        "leases.coordination.k8s.io \"edgelb\" already exists"
    );

    let (code, refusal) = told(&client, Method::PUT, &path, &lease).await;
    assert_eq!((code, &refusal["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        refusal["message"],
        "Lease.coordination.k8s.io \"edgelb\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update"
    );
    let mut renewed = created.clone();
    renewed["spec"]["renewTime"] = json!("2026-11-22T20:00:02.000001Z");
    let (code, second) = told(&client, Method::PUT, &path, &renewed).await;
    assert_eq!(code, 200);
    let version = |lease: &Value| -> u64 {
        let version = lease["metadata"]["resourceVersion"].as_str();
        version.expect("a version").parse().expect("a number")
    };
    assert!(version(&second) > version(&created));
    let (code, refusal) = told(&client, Method::PUT, &path, &renewed).await;
    assert_eq!((code, &refusal["reason"]), (409, &json!("Conflict")));
    let (_, read) = told(&client, Method::GET, &path, &Value::Null).await;
    assert_eq!(read, second);

    let mut wrong = second.clone();
    wrong["spec"]["renewTime"] = json!("2026-11-22T20:00:02Z");
    let (code, _) = told(&client, Method::PUT, &path, &wrong).await;
    assert_eq!(code, 400, "times have six digits");
    let mut wrong = second.clone();
    wrong["spec"]["leaseDurationSeconds"] = json!(0);
    let (code, _) = told(&client, Method::PUT, &path, &wrong).await;
    assert_eq!(code, 422);
    let elsewhere = LEASES.replace("kube-system", "nowhere");
    let (code, _) = told(&client, Method::POST, &elsewhere, &lease).await;
    assert_eq!(code, 404, "there is no such namespace");
}

#[tokio::test]
async fn a_config_map_is_replaced_without_a_version_too() {
    let (secure, client) = world().await;
    let name = "edgelb-addresses-a";
    let path = format!("{MAPS}/{name}");
    let map = object(name, "data", &json!({"192.0.2.10": "[]"}));
    let (code, _) = told(&client, Method::PUT, &path, &map).await;
    assert_eq!(code, 404);
    let (code, created) = told(&client, Method::POST, MAPS, &map).await;
    assert_eq!(code, 201);
    let claim = json!([{"service": "shop/web", "counter": 12, "position": 0, "node": "edge-a"}]);
    let mut next = map.clone();
    next["data"]["192.0.2.10"] = json!(claim.to_string());
    next["data"]["2001-db8--1a"] = json!("[]");
    let (code, _) = told(&client, Method::PUT, &path, &next).await;
    assert_eq!(code, 200, "unconditional");
    let (code, _) = told(&client, Method::PUT, &path, &created).await;
    assert_eq!(code, 409);
    let mut recreated = map.clone();
    recreated["metadata"]["uid"] = json!("another");
    let (code, _) = told(&client, Method::PUT, &path, &recreated).await;
    assert_eq!(code, 409);
    for data in [
        json!({"2001:db8::1": "[]"}),
        json!({"a": "x".repeat(1 << 20) + "x"}),
    ] {
        let wrong = object(name, "data", &data);
        let (code, _) = told(&client, Method::PUT, &path, &wrong).await;
        assert_eq!(code, 422);
    }
    let wrong = object(name, "data", &json!({"a": 1}));
    let (code, _) = told(&client, Method::PUT, &path, &wrong).await;
    assert_eq!(code, 400);
    secure.server.with(|script| {
        let claims = script.claims("kube-system", "edgelb");
        assert_eq!(claims.len(), 2);
        let holders = &claims[&"192.0.2.10".parse().expect("an address")];
        assert_eq!(holders[0].service, "shop/web");
        assert!(
            script
                .store
                .delete("configmaps", &format!("kube-system/{name}"))
                .is_some()
        );
        assert_eq!(script.config_maps("kube-system"), BTreeMap::new());
    });
}

#[tokio::test]
async fn a_status_is_merged_and_nothing_else_is() {
    let (secure, client) = world().await;
    let uid = (secure.server).with(|script| script.create_service(load_balancer("shop", "web")));
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Because", "message": "", "lastTransitionTime": "2026-11-22T20:00:00Z"});
    let mut body = ingress("192.0.2.10");
    body["metadata"] = json!({"uid": uid, "labels": {"new": "label"}});
    body["spec"] = json!({"type": "ClusterIP"});
    body["status"]["conditions"] = json!([condition("example.com/A"), condition("example.com/B")]);
    let (code, service) = told(&client, Method::PATCH, STATUS, &body).await;
    assert_eq!(code, 200);
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert!(service["metadata"]["labels"].is_null());
    let collection = secure.server.with(|script| {
        let services = script.collection(Watched::Services);
        services.log.last().expect("an event").1.clone()
    });
    let event: Value = serde_json::from_str(&collection).expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("MODIFIED"), &service)
    );

    // The same again changes nothing, and is no event.
    let (_, again) = told(&client, Method::PATCH, STATUS, &body).await;
    assert_eq!(again, service);

    let mut clear =
        json!({"metadata": {"resourceVersion": service["metadata"]["resourceVersion"]}});
    clear["status"] = json!({
        "loadBalancer": {"ingress": null},
        "conditions": [{"$patch": "delete", "type": "example.com/A"}, {"type": "example.com/B", "status": "False"}],
    });
    let (code, cleared) = told(&client, Method::PATCH, STATUS, &clear).await;
    assert_eq!(code, 200);
    assert_eq!(cleared["status"]["loadBalancer"], json!({}));
    let mut left = condition("example.com/B");
    left["status"] = json!("False");
    assert_eq!(cleared["status"]["conditions"], json!([left]));
    let (code, refusal) = told(&client, Method::PATCH, STATUS, &clear).await;
    assert_eq!((code, &refusal["reason"]), (409, &json!("Conflict")));
}

#[tokio::test]
async fn a_status_that_is_wrong_is_refused() {
    let (secure, client) = world().await;
    let refused = async |path: &str, body: Value| {
        let (code, refusal) = told(&client, Method::PATCH, path, &body).await;
        assert_eq!(refusal["code"], code);
        (
            code,
            refusal["message"].as_str().expect("a message").to_owned(),
        )
    };
    let missing = refused(STATUS, ingress("192.0.2.10")).await;
    assert_eq!(missing, (404, "services \"web\" not found".to_owned()));
    secure.server.with(|script| {
        script.create_service(load_balancer("shop", "web"));
    });
    let other_uid = json!({"metadata": {"uid": "another"}, "status": {}});
    assert_eq!(refused(STATUS, other_uid).await.0, 409);
    let (code, message) = refused(STATUS, ingress("192.0.2.300")).await;
    assert_eq!(code, 422);
    assert!(message.contains("status.loadBalancer.ingress[0].ip: Invalid value: \"192.0.2.300\""));
    let mode =
        json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Vip"}]}}});
    assert_eq!(refused(STATUS, mode).await.0, 422);
    let no_time = json!({"status": {"conditions": [{"type": "a", "status": "True", "reason": "", "message": ""}]}});
    assert_eq!(refused(STATUS, no_time).await.0, 400);

    let change = json!({"spec": {"type": "ClusterIP"}});
    let (code, _) = told(&client, Method::PATCH, STATUS, &ingress("192.0.2.10")).await;
    assert_eq!(code, 200);
    secure.server.with(|script| {
        assert_eq!(
            script.addresses("shop/web"),
            ["192.0.2.10".parse::<std::net::IpAddr>().expect("one")]
        );
        script.update_service("shop/web", &change);
        assert!(
            script.addresses("shop/web").is_empty(),
            "the server clears them"
        );
    });
    let (code, message) = refused(STATUS, ingress("192.0.2.10")).await;
    assert_eq!(code, 422);
    assert!(
        message.contains("may only be used when `spec.type` is \"LoadBalancer\""),
        "{message}"
    );
}

#[tokio::test]
async fn an_event_is_validated_and_kept() {
    let (secure, client) = world().await;
    secure
        .server
        .with(|script| script.create_service(load_balancer("shop", "web")));
    let event = json!({
        "metadata": {"name": "web.1"}, "eventTime": "2026-11-22T20:00:00.000000Z", "type": "Normal",
        "reportingController": "edgelb.io/edgelb", "reportingInstance": "edge-a",
        "action": "Allocate", "reason": "IPAllocated", "note": "it has 192.0.2.10",
        "regarding": {"kind": "Service", "namespace": "shop", "name": "web"},
    });
    for (field, value, code) in [
        ("eventTime", Value::Null, 422),
        ("eventTime", json!("2026-11-22T20:00:00Z"), 400),
        ("type", json!("Error"), 422),
        ("reason", json!(""), 422),
        ("action", json!("x".repeat(129)), 422),
        ("note", json!("x".repeat(1025)), 422),
        ("reportingInstance", Value::Null, 422),
        (
            "regarding",
            json!({"kind": "Service", "namespace": "infra", "name": "web"}),
            422,
        ),
    ] {
        let mut wrong = event.clone();
        wrong[field] = value;
        let (told, refusal) = told(&client, Method::POST, EVENTS, &wrong).await;
        assert_eq!(told, code, "{field}: {refusal}");
    }
    assert_eq!(told(&client, Method::POST, EVENTS, &event).await.0, 201);
    assert_eq!(told(&client, Method::POST, EVENTS, &event).await.0, 409);
    let kept = secure.server.with(|script| script.events());
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0]["reason"], "IPAllocated");
}
