//! Writes against one Service that somebody else writes too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use serde_json::{Value, json};

use super::*;
use crate::api_server::scripted::{Reply, Scripted};
use crate::model::service::{AddressCondition, ObjectIdentity};

const PATH: &str = "/api/v1/namespaces/shop/services/web";

fn service(version: &str, status: &Value) -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": version},
        "spec": {"type": "LoadBalancer"},
        "status": status,
    })
}

fn change() -> StatusWrite {
    StatusWrite {
        service: ServiceKey::new("shop", "web"),
        seen: Seen {
            object: ObjectIdentity {
                uid: "u-1".to_owned(),
                version: "1".to_owned(),
            },
            allocated: None,
        },
        change: StatusChange::Set {
            addresses: vec!["192.0.2.10".parse().unwrap()],
            condition: AddressCondition {
                allocated: true,
                reason: "Allocated".to_owned(),
                message: String::new(),
            },
        },
    }
}

/// A server whose Service is in these versions, one after each read, and takes a patch of the last
/// one only.
async fn server(versions: Vec<Value>) -> Scripted {
    let last = versions.last().cloned();
    let mut reads = versions.into_iter();
    Scripted::start(move |asked| match asked.method.as_str() {
        "GET" => {
            assert_eq!(asked.target, PATH);
            reads
                .next()
                .map_or_else(|| Reply::refusal(404, "gone"), |it| Reply::object(&it))
        }
        "PATCH" => {
            assert_eq!(asked.target, format!("{PATH}/status?fieldManager=edgelb"));
            let wanted = last.as_ref().map(|it| &it["metadata"]["resourceVersion"]);
            if wanted == Some(&asked.body["metadata"]["resourceVersion"]) {
                Reply::object(&service("100", &json!({})))
            } else {
                Reply::refusal(409, "the object has been modified")
            }
        }
        other => panic!("{other}"),
    })
    .await
}

fn methods(scripted: &Scripted) -> Vec<String> {
    let asked = scripted.asked().into_iter();
    asked.map(|asked| asked.method).collect()
}

#[tokio::test]
async fn what_was_decided_about_something_else_is_not_written() {
    let foreign = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    let mut other = service("2", &json!({}));
    other["metadata"]["uid"] = "u-2".into();
    let ours = json!({
        "loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]},
        "conditions": [{
            "type": "edgelb.io/AddressAllocated", "status": "True", "reason": "Allocated",
            "message": "", "lastTransitionTime": "2026-07-01T08:00:00Z",
        }],
    });
    for (fresh, expected) in [
        (Some(service("2", &foreign)), "Err(Outdated)"),
        // Whatever it was: an annotation may have asked for another address.
        (Some(service("2", &json!({}))), "Err(Outdated)"),
        (Some(other), "Err(Gone)"),
        (None, "Err(Gone)"),
        (Some(service("9", &ours)), "Ok(Written { version: \"9\" })"),
    ] {
        // The second one is never read.
        let scripted = server(fresh.into_iter().collect()).await;
        let mut first = change();
        first.seen.object.version = "0".to_owned();
        let written = write(&scripted.server(), &first).await;
        assert_eq!(format!("{written:?}"), expected);
        assert_eq!(methods(&scripted), ["PATCH", "GET"]);
    }
}

#[tokio::test]
async fn a_refusal_without_another_writer_is_for_later() {
    let scripted = Scripted::start(|asked| match asked.method.as_str() {
        "GET" => Reply::object(&service("1", &json!({}))),
        _ => Reply::refusal(409, "some plugin was in conflict"),
    })
    .await;
    let written = write(&scripted.server(), &change()).await;
    assert!(
        matches!(written, Err(StatusError::Contended)),
        "{written:?}"
    );
}

#[tokio::test]
async fn only_what_our_condition_stands_for_is_cleared() {
    let with = |status: &str| {
        let ours = json!({
            "type": "edgelb.io/AddressAllocated", "status": status, "reason": "R", "message": "",
            "lastTransitionTime": "2026-07-01T08:00:00Z",
        });
        let ingress = json!({"ingress": [{"ip": "192.0.2.10"}]});
        json!({"loadBalancer": ingress, "conditions": [ours]})
    };
    let gone = json!([{"$patch": "delete", "type": "edgelb.io/AddressAllocated"}]);
    let key = ServiceKey::new("shop", "web");
    for (status, expected) in [
        (
            with("True"),
            Some(json!({"loadBalancer": {"ingress": null}, "conditions": gone})),
        ),
        (with("False"), Some(json!({"conditions": gone}))),
        (
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}]}}),
            None,
        ),
    ] {
        let versions = ["5", "6"].map(|version| {
            let mut turned = service(version, &status);
            turned["spec"]["type"] = json!("ExternalName");
            turned
        });
        let scripted = server(versions.into()).await;
        let existence = examine(&scripted.server(), &key).await.unwrap();
        assert_eq!(existence, Existence::Gone);
        let last = scripted.asked().pop().unwrap();
        match expected {
            Some(expected) => {
                assert_eq!(last.body["status"], expected);
                assert_eq!(last.body["metadata"]["resourceVersion"], "6");
            }
            None => assert_eq!(methods(&scripted), ["GET"]),
        }
    }
    let scripted = server(Vec::new()).await;
    let existence = examine(&scripted.server(), &key).await.unwrap();
    assert_eq!(existence, Existence::Gone, "not there at all");
}

#[tokio::test]
async fn a_load_balancer_that_is_not_shown_is_expected_and_left_alone() {
    let key = ServiceKey::new("shop", "web");
    let ours = service("5", &json!({}));
    let mut proxied = ours.clone();
    proxied["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
    for (object, wanted) in [(ours, Existence::Expected), (proxied, Existence::Gone)] {
        let scripted = server(vec![object]).await;
        let existence = examine(&scripted.server(), &key).await.unwrap();
        assert_eq!(existence, wanted);
        assert_eq!(methods(&scripted), ["GET"], "nothing is written");
    }
}

#[tokio::test]
async fn a_missing_verb_is_named() {
    let scripted = Scripted::start(|_| Reply::refusal(403, "forbidden")).await;
    let written = write(&scripted.server(), &change()).await.unwrap_err();
    assert_eq!(
        written.to_string(),
        "the role lacks the verb patch on services/status: forbidden"
    );
}
