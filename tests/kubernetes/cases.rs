//! Cases of address management of which the specification wants more than an address: the Event that
//! tells of it, on the Service (cases 5, 19 and 29). Where each case is tested stands in
//! `src/plan/tests/cases.rs`.

use edgelb::model::service::ADDRESS_CONDITION;
use serde_json::{Value, json};

use crate::allocation::{addresses, create, denied, settled, until, wait, world};
use crate::authority::Secure;
use crate::instance::{Instance, config};
use crate::script::Script;
use crate::user::load_balancer;

/// Whether such an Event on this Service is there, with these words in it.
fn told(script: &Script, key: &str, reason: &str, words: &str) -> bool {
    let regards = |event: &Value| {
        let object = &event["regarding"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text(&object["namespace"]), text(&object["name"])) == key
    };
    let says = |event: &Value| {
        event["note"]
            .as_str()
            .is_some_and(|note| note.contains(words))
    };
    let events = script.events();
    let mut found = events.iter();
    found.any(|event| event["reason"] == reason && regards(event) && says(event))
}

fn condition(script: &mut Script, key: &str) -> (String, String) {
    let condition = script.condition(key, ADDRESS_CONDITION).unwrap_or_default();
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn create_sharing(secure: &Secure, name: &str, port: u16) -> String {
    let mut service = load_balancer("shop", name);
    service["metadata"]["annotations"] = json!({"edgelb.io/sharing-key": "k"});
    service["spec"]["ports"][0]["port"] = json!(port);
    service["spec"]["selector"] = json!({"app": name});
    secure.server.with(|script| script.create_service(service));
    format!("shop/{name}")
}

/// Case 5: the one that turns Local loses the shared address. It gets another where there is one, and
/// waits where there is none; an Event says why.
#[tokio::test]
async fn who_may_share_no_more_is_told_and_gets_another_or_waits() {
    for (pool, given) in [
        ("192.0.2.200/31", &["192.0.2.201"][..]),
        ("192.0.2.200/32", &[]),
    ] {
        let secure = world().await;
        let instance = Instance::start(&secure, "edge-a", config(&[("lan", pool)]));
        let first = create_sharing(&secure, "first", 80);
        until(&secure, "the first has it", settled).await;
        let second = create_sharing(&secure, "second", 443);
        wait(&secure, "both have it", |script| {
            script.pending().is_empty()
        })
        .await;
        assert_eq!(addresses(&secure, &second), ["192.0.2.200"]);
        secure.server.with(|script| {
            let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
            script.update_service(&second, &local);
        });
        wait(&secure, "an event says why", |script| {
            let why = "it may not share 192.0.2.200 with shop/first";
            told(script, &second, "IPConflict", why)
        })
        .await;
        wait(&secure, "its status says what it holds", |script| {
            let held = script.addresses(&second);
            held.len() == given.len() && !held.contains(&"192.0.2.200".parse().unwrap())
        })
        .await;
        assert_eq!(addresses(&secure, &second), given, "{pool}");
        assert_eq!(addresses(&secure, &first), ["192.0.2.200"], "{pool}");
        if given.is_empty() {
            wait(&secure, "its condition says why", |script| {
                condition(script, &second) == ("False".into(), "PoolExhausted".into())
            })
            .await;
        }
        assert_eq!(denied(&secure), 0);
        instance.stop().await;
    }
}

/// Cases 14 and 29: a pool for another namespace, asked for by its name, is refused with a reason of
/// its own, in the condition and in an Event; an address of it likewise.
#[tokio::test]
async fn a_closed_pool_that_is_asked_for_is_refused_with_a_reason() {
    let secure = world().await;
    let mut pools = config(&[("closed", "192.0.2.200/30"), ("open", "198.51.100.0/30")]);
    pools.pools[0].namespaces = vec!["infra".to_owned()];
    let _instance = Instance::start(&secure, "edge-a", pools);
    for (name, annotation, value) in [
        ("by-name", "edgelb.io/pool", "closed"),
        ("by-address", "edgelb.io/ips", "192.0.2.201"),
    ] {
        let mut service = load_balancer("shop", name);
        service["metadata"]["annotations"] = json!({annotation: value});
        secure.server.with(|script| script.create_service(service));
    }
    for (key, reason, words) in [
        ("shop/by-name", "PoolNotAllowed", "it names the pool closed"),
        (
            "shop/by-address",
            "RequestOutsidePools",
            "it asks for 192.0.2.201",
        ),
    ] {
        wait(&secure, key, |script| {
            told(script, key, "RequestRefused", words)
                && condition(script, key) == ("False".into(), reason.into())
        })
        .await;
        assert_eq!(addresses(&secure, key), [""; 0]);
    }
    let allowed = create(&secure, "other", &json!({}));
    until(&secure, "who asks for nothing gets one", |script| {
        !script.addresses(&allowed).is_empty()
    })
    .await;
    assert_eq!(addresses(&secure, &allowed), ["198.51.100.0"]);
}

/// Case 19: `spec.loadBalancerIP` and our annotation disagree: the annotation counts, an Event says so.
#[tokio::test]
async fn of_two_requests_the_annotation_counts_and_an_event_says_so() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", "192.0.2.200/29")]));
    let mut service = load_balancer("shop", "web");
    service["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.203"});
    service["spec"]["loadBalancerIP"] = json!("192.0.2.204");
    secure.server.with(|script| script.create_service(service));
    wait(&secure, "it has what the annotation says", |script| {
        let words = "spec.loadBalancerIP disagrees with edgelb.io/ips";
        told(script, "shop/web", "RequestsDisagree", words) && script.pending().is_empty()
    })
    .await;
    assert_eq!(addresses(&secure, "shop/web"), ["192.0.2.203"]);
}
