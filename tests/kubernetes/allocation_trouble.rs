//! Allocation where something is in the way: a server that refuses, hangs or hides what it did, other
//! writers of the same objects, Services that turn into something else. Nothing is lost, and what is
//! another's stays.

use std::time::Duration;

use edgelb::model::service::ADDRESS_CONDITION;
use serde_json::{Value, json};

use crate::allocation::{POOL, addresses, create, denied, settled, until, wait, world};
use crate::instance::{Instance, NAMESPACE, config};
use crate::user::load_balancer;
use crate::write_faults::WriteFault;

/// Every fault on every kind of write delays, and loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_delay_and_lose_nothing() {
    let faults = [
        WriteFault::Status(500, None),
        WriteFault::Status(429, Some(1)),
        WriteFault::Status(409, None),
        WriteFault::ClosedBefore,
        WriteFault::ClosedAfter,
        WriteFault::Delayed(Duration::from_millis(200)),
    ];
    let places = [
        ("create", "leases"),
        ("update", "leases"),
        ("get", "configmaps"),
        ("create", "configmaps"),
        ("update", "configmaps"),
        ("patch", "services/status"),
        ("create", "events"),
    ];
    for fault in faults {
        let secure = world().await;
        secure.server.with(|script| {
            for (verb, resource) in places {
                script.write_faults.add(verb, resource, fault);
            }
        });
        let instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
        for name in ["one", "two", "three"] {
            create(&secure, name, &json!({}));
        }
        until(&secure, &format!("{fault:?}"), settled).await;
        // A second round updates what the first one created.
        for name in ["four", "five", "six"] {
            create(&secure, name, &json!({}));
        }
        until(&secure, &format!("{fault:?}, again"), settled).await;
        instance.kill().await;
    }
}

/// Other managers' fields stay, and one that writes at the same moment only makes it ask again.
#[tokio::test]
async fn what_others_write_stays() {
    let secure = world().await;
    let foreign = json!({
        "type": "example.com/Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-11-22T16:00:00Z",
    });
    let web = create(&secure, "web", &json!({}));
    secure.server.with(|script| {
        script.set_status(&web, json!({"loadBalancer": {}, "conditions": [foreign]}));
        // While the patch is under way, somebody annotates the Service: the patch is outdated.
        let slow = WriteFault::Delayed(Duration::from_millis(300));
        script.write_faults.add("patch", "services/status", slow);
    });
    let mut instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    instance.until(|status| status.waiting > 0).await;
    secure.server.with(|script| {
        script.update_service(
            &web,
            &json!({"metadata": {"annotations": {"team": "shop"}}}),
        );
    });
    until(&secure, "it has one", settled).await;
    let service = secure.server.with(|script| script.service(&web));
    assert_eq!(service["metadata"]["annotations"]["team"], "shop");
    let theirs = secure
        .server
        .with(|script| script.condition(&web, "example.com/Ready"));
    assert_eq!(theirs, Some(foreign.clone()));
    // Cleared: ours goes, theirs stays.
    secure.server.with(|script| {
        script.update_service(&web, &json!({"spec": {"type": "ClusterIP"}}));
    });
    until(&secure, "ours goes", |script| {
        script.condition(&web, ADDRESS_CONDITION).is_none()
    })
    .await;
    let theirs = secure
        .server
        .with(|script| script.condition(&web, "example.com/Ready"));
    assert_eq!(theirs, Some(foreign));
    assert_eq!(denied(&secure), 0);
}

/// Case 25: a status that somebody edits by hand is put right; an address that is not in it is not
/// free because of that.
#[tokio::test]
async fn a_manual_edit_is_reverted() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let web = create(&secure, "web", &json!({}));
    until(&secure, "it has one", settled).await;
    let right = secure.server.with(|script| script.service(&web))["status"].clone();
    for edit in [
        json!({"ingress": []}),
        json!({"ingress": [{"ip": "192.0.2.219", "ipMode": "VIP"}]}),
        json!({"ingress": [{"ip": "203.0.113.1", "ipMode": "VIP"}]}),
        json!({"ingress": [{"ip": "192.0.2.200", "ipMode": "Proxy"}]}),
    ] {
        secure.server.with(|script| {
            let mut status = right.clone();
            status["loadBalancer"] = edit.clone();
            script.set_status(&web, status);
        });
        wait(&secure, &edit.to_string(), |script| {
            script.service(&web)["status"]["loadBalancer"] == right["loadBalancer"]
        })
        .await;
    }
    until(&secure, "nothing is left over", settled).await;
}

/// Case 27, and what becomes of a Service that is no load balancer any more in every way.
#[tokio::test]
async fn what_is_not_ours_is_left_and_what_was_is_cleared() {
    let secure = world().await;
    let mut pools = config(&[("lan", POOL)]);
    let instance = Instance::start(&secure, "edge-a", pools.clone());
    let other = create(
        &secure,
        "other",
        &json!({"loadBalancerClass": "example.com/other"}),
    );
    let ours = create(
        &secure,
        "ours",
        &json!({"loadBalancerClass": "edgelb.io/edgelb"}),
    );
    let plain = create(&secure, "plain", &json!({}));
    let port = create(&secure, "port", &json!({"type": "NodePort"}));
    let name = create(&secure, "name", &json!({}));
    wait(&secure, "ours have", |script| {
        [&ours, &plain, &name]
            .iter()
            .all(|key| !script.addresses(key).is_empty())
    })
    .await;
    for key in [&other, &port] {
        let status = secure.server.with(|script| script.service(key))["status"].clone();
        assert_eq!(status, json!({"loadBalancer": {}}), "{key}");
    }
    let free = |script: &mut crate::script::Script, key: &str| {
        let claims = script.claims(NAMESPACE, "edgelb");
        !claims.values().flatten().any(|claim| claim.service == key)
    };
    // An object that edgelb does not read any more keeps nothing of ours.
    secure.server.with(|script| {
        let away = json!({"spec": {"type": "ExternalName", "externalName": "example.com"}});
        script.update_service(&name, &away);
    });
    wait(&secure, "the name is cleared", |script| {
        script.condition(&name, ADDRESS_CONDITION).is_none() && free(script, &name)
    })
    .await;
    // A reload by which those without a class are another's.
    pools.load_balancer.default = false;
    instance.configure(pools);
    wait(&secure, "the plain one is cleared", |script| {
        script.addresses(&plain).is_empty()
            && script.condition(&plain, ADDRESS_CONDITION).is_none()
            && free(script, &plain)
    })
    .await;
    assert_eq!(addresses(&secure, &ours), ["192.0.2.200"]);
}

/// Services of one sharing key share an address, and claim it both.
#[tokio::test]
async fn sharing_is_claimed_by_all() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", "192.0.2.200/32")]));
    for (name, port) in [("web", 80), ("mail", 25)] {
        let mut service = load_balancer("shop", name);
        service["metadata"]["annotations"] = json!({"metallb.io/allow-shared-ip": "one"});
        service["spec"]["ports"][0]["port"] = json!(port);
        secure.server.with(|script| script.create_service(service));
    }
    wait(&secure, "both have it", |script| {
        script.pending().is_empty()
    })
    .await;
    for key in ["shop/web", "shop/mail"] {
        assert_eq!(addresses(&secure, key), ["192.0.2.200"]);
    }
    let claims = secure
        .server
        .with(|script| script.claims(NAMESPACE, "edgelb"));
    let holders: Vec<&str> = claims
        .values()
        .flatten()
        .map(|it| it.service.as_str())
        .collect();
    assert_eq!(holders, ["shop/web", "shop/mail"], "the earliest first");
}

/// A claim that cannot be read keeps its address from everybody, and stops nothing else.
#[tokio::test]
async fn an_unreadable_claim_stops_nothing_else() {
    let secure = world().await;
    secure.server.with(|script| {
        let map = json!({
            "metadata": {"namespace": NAMESPACE, "name": "edgelb-addresses-8"},
            "data": {"192.0.2.200": "nonsense", "stray": "kept"},
        });
        script.create_object("configmaps", map);
    });
    let _instance = Instance::start(
        &secure,
        "edge-a",
        config(&[("lan", "192.0.2.200-192.0.2.216")]),
    );
    for name in ["one", "two"] {
        create(&secure, name, &json!({}));
    }
    wait(&secure, "both have one", |script| {
        script.pending().is_empty()
    })
    .await;
    assert_eq!(addresses(&secure, "shop/one"), ["192.0.2.201"]);
    let mut asking = load_balancer("shop", "asking");
    asking["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.200"});
    secure.server.with(|script| script.create_service(asking));
    wait(&secure, "it is told why", |script| {
        let condition = script.condition("shop/asking", ADDRESS_CONDITION);
        condition.is_some_and(|it| it["reason"] == "ClaimUnreadable")
    })
    .await;
    // The same ConfigMap holds the next address of its kind, and what was there stays.
    let mut more = load_balancer("shop", "more");
    more["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.216"});
    secure.server.with(|script| script.create_service(more));
    wait(&secure, "the neighbour is given", |script| {
        !script.addresses("shop/more").is_empty()
    })
    .await;
    let maps = secure.server.with(|script| script.config_maps(NAMESPACE));
    let map = &maps["edgelb-addresses-8"];
    assert_eq!(
        (map["192.0.2.200"].as_str(), map["stray"].as_str()),
        ("nonsense", "kept")
    );
    assert!(map.contains_key("192.0.2.216"));
}

/// "Until it is recreated": the successor of the same name gets nothing from a pool that is gone.
#[tokio::test]
async fn a_recreated_service_starts_anew() {
    let secure = world().await;
    let both = config(&[("gone", "198.51.100.0/28"), ("lan", POOL)]);
    let instance = Instance::start(&secure, "edge-a", both);
    let web = create(&secure, "web", &json!({}));
    until(&secure, "it has one", settled).await;
    assert_eq!(addresses(&secure, &web), ["198.51.100.0"]);
    instance.configure(config(&[("lan", POOL)]));
    until(&secure, "it is kept", |script| {
        let condition = script.condition(&web, ADDRESS_CONDITION);
        condition.is_some_and(|it| it["reason"] == "PoolGone")
    })
    .await;
    secure.server.with(|script| {
        script.delete_service(&web);
        script.create_service(load_balancer("shop", "web"));
    });
    until(&secure, "the new one has its own", |script| {
        let addresses = script.addresses(&web);
        addresses
            .first()
            .is_some_and(|address| address.to_string() == "192.0.2.200")
    })
    .await;
    until(&secure, "nothing is left over", settled).await;
}

/// What is told of an address that cannot be had names the reason, once.
#[tokio::test]
async fn a_refusal_is_told_once() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let mut service = load_balancer("shop", "web");
    service["metadata"]["annotations"] =
        json!({"edgelb.io/ips": "192.0.2.1", "metallb.io/loadBalancerIPs": "192.0.2.2"});
    secure.server.with(|script| script.create_service(service));
    let reasons = |script: &mut crate::script::Script| {
        let mut reasons: Vec<String> = (script.events().iter())
            .map(|event| event["reason"].as_str().unwrap().to_owned())
            .collect();
        reasons.sort();
        reasons
    };
    until(&secure, "both are told", |script| {
        reasons(script) == ["RequestRefused", "RequestsDisagree"]
    })
    .await;
    // A change that changes nothing about it tells nothing.
    secure.server.with(|script| {
        script.update_service("shop/web", &json!({"metadata": {"labels": {"a": "b"}}}));
    });
    create(&secure, "after", &json!({}));
    wait(&secure, "the next one is told", |script| {
        reasons(script).contains(&"IPAllocated".to_owned())
    })
    .await;
    let told = secure.server.with(reasons);
    assert_eq!(told, ["IPAllocated", "RequestRefused", "RequestsDisagree"]);
    let events: Vec<Value> = secure.server.with(|script| script.events());
    let refused = events
        .iter()
        .find(|event| event["reason"] == "RequestRefused");
    assert!(
        refused.unwrap()["note"]
            .as_str()
            .unwrap()
            .contains("192.0.2.1")
    );
}

/// A leader whose source lags behind the claims takes nothing from a Service that it does not know
/// yet; one that is gone loses its claim.
#[tokio::test]
async fn a_claim_of_an_unknown_service_is_not_free() {
    let secure = world().await;
    let known = create(&secure, "known", &json!({}));
    let gone = create(&secure, "gone", &json!({}));
    let first = Instance::start(&secure, "edge-a", config(&[("lan", "192.0.2.200/31")]));
    until(&secure, "both have one", settled).await;
    first.kill().await;
    // The next leader's watch of Services shows neither of them, whatever it asks.
    let hidden = secure.server.with(|script| {
        script.delete_service(&gone);
        let services = script.collection(edgelb::source::kubernetes::kind::Watched::Services);
        services.hidden.insert(known.clone());
        known.clone()
    });
    let mut next = Instance::start(&secure, "edge-b", config(&[("lan", "192.0.2.200/31")]));
    next.until(|status| status.role == edgelb::allocator::Role::Leader)
        .await;
    let new = create(&secure, "new", &json!({}));
    wait(
        &secure,
        "the address of the one that is gone is given",
        |script| !script.addresses(&new).is_empty(),
    )
    .await;
    let last = create(&secure, "last", &json!({}));
    wait(&secure, "there is none left", |script| {
        let condition = script.condition(&last, ADDRESS_CONDITION);
        condition.is_some_and(|it| it["reason"] == "PoolExhausted")
    })
    .await;
    let claims = secure
        .server
        .with(|script| script.claims(NAMESPACE, "edgelb"));
    let holders: Vec<&str> = claims
        .values()
        .flatten()
        .map(|it| it.service.as_str())
        .collect();
    assert!(holders.contains(&hidden.as_str()), "{holders:?}");
}
