//! Addresses that move, and Services in each other's way: nothing stands twice, nobody waits for ever,
//! and one Service's trouble is nobody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgelb::allocator::Role;
use edgelb::model::service::ADDRESS_CONDITION;
use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};

use crate::allocation::{POOL, addresses, create, denied, free_world, settled, until, wait, world};
use crate::authority::Secure;
use crate::instance::{Instance, config};
use crate::user::load_balancer;
use crate::write_faults::WriteFault;

/// At no version that the server ever had did two statuses name one address.
fn never_twice(secure: &Secure) {
    let script = secure.server.script();
    let mut script = script.lock().unwrap();
    let mut standing: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (version, line) in script.collection(Watched::Services).log.clone() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let object = &event["object"];
        let name = crate::script::key(object);
        let ingress = object["status"]["loadBalancer"]["ingress"].as_array();
        let named = ingress.into_iter().flatten().map(|it| it["ip"].to_string());
        standing.insert(name.clone(), named.collect());
        if event["type"] == "DELETED" {
            standing.remove(&name);
        }
        let all: Vec<&String> = standing.values().flatten().collect();
        let distinct: BTreeSet<&String> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len(), "at {version}: {standing:?}");
    }
}

fn asking(address: &str) -> Value {
    json!({"metadata": {"annotations": {"edgelb.io/ips": address}}})
}

fn holds(script: &mut crate::script::Script, key: &str, address: &str) -> bool {
    script.addresses(key) == [address.parse::<IpAddr>().unwrap()]
}

/// Two Services swap their addresses in one edit.
#[tokio::test]
async fn two_services_swap_their_addresses() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let one = create(&secure, "one", &json!({}));
    until(&secure, "one has it", settled).await;
    let two = create(&secure, "two", &json!({}));
    until(&secure, "two has it", settled).await;
    secure.server.with(|script| {
        script.update_service(&one, &asking("192.0.2.201"));
        script.update_service(&two, &asking("192.0.2.200"));
    });
    wait(&secure, "they have swapped", |script| {
        holds(script, &one, "192.0.2.201") && holds(script, &two, "192.0.2.200")
    })
    .await;
    until(&secure, "nothing is left over", settled).await;
    never_twice(&secure);
}

/// What was decided is written for what was seen, and for nothing else: an edit while the write is
/// under way makes it void.
#[tokio::test]
async fn an_edit_during_a_write_makes_it_void() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let slow = WriteFault::Delayed(Duration::from_millis(300));
    secure
        .server
        .with(|script| script.write_faults.add("patch", "services/status", slow));
    let one = create(&secure, "one", &json!({}));
    wait(&secure, "its address is claimed", |script| {
        !script.claims("kube-system", "edgelb").is_empty()
    })
    .await;
    let two = {
        let mut service = load_balancer("shop", "two");
        service["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.200"});
        secure.server.with(|script| {
            script.update_service(&one, &asking("192.0.2.205"));
            script.create_service(service)
        });
        "shop/two".to_owned()
    };
    wait(&secure, "both have theirs", |script| {
        holds(script, &one, "192.0.2.205") && holds(script, &two, "192.0.2.200")
    })
    .await;
    until(&secure, "nothing is left over", settled).await;
    never_twice(&secure);
}

/// An address of a pool in another implementation's status is given to nobody.
#[tokio::test]
async fn what_stands_in_a_foreign_status_is_not_free() {
    let secure = world().await;
    let other = create(
        &secure,
        "other",
        &json!({"loadBalancerClass": "example.com/other"}),
    );
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.200", "ipMode": "VIP"}]}});
    secure
        .server
        .with(|script| script.set_status(&other, ingress));
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let web = create(&secure, "web", &json!({}));
    let mut service = load_balancer("shop", "asks");
    service["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.200"});
    secure.server.with(|script| script.create_service(service));
    wait(&secure, "it is told who has it", |script| {
        let condition = script.condition("shop/asks", ADDRESS_CONDITION);
        condition.is_some_and(|it| {
            it["reason"] == "RequestTaken" && it["message"].as_str().unwrap().contains(&other)
        })
    })
    .await;
    wait(&secure, "the other one has the next", |script| {
        holds(script, &web, "192.0.2.201")
    })
    .await;
    secure.server.with(|script| script.delete_service(&other));
    wait(&secure, "it comes free", |script| {
        holds(script, "shop/asks", "192.0.2.200")
    })
    .await;
}

/// The status of one Service cannot be written, whatever is done: the others do not notice.
#[tokio::test]
async fn one_service_in_trouble_holds_up_no_other() {
    let secure = world().await;
    for fault in [
        WriteFault::Status(403, None),
        WriteFault::Status(422, None),
        WriteFault::Status(500, None),
        WriteFault::Status(409, None),
    ] {
        let name = format!(
            "bad-{}",
            serde_json::to_string(&format!("{fault:?}").len()).unwrap()
        );
        let bad = format!("shop/{name}");
        secure
            .server
            .with(|script| script.write_faults.always(&bad, Some(fault)));
        let mut instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
        create(&secure, &name, &json!({}));
        instance
            .until(|status| status.role == Role::Leader && status.waiting > 0)
            .await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let start = Instant::now();
        let good = create(&secure, &format!("good-{name}"), &json!({}));
        wait(&secure, "the good one has its address", |script| {
            !script.addresses(&good).is_empty()
        })
        .await;
        let took = start.elapsed();
        assert!(took < Duration::from_millis(500), "{fault:?}: {took:?}");
        assert_eq!(addresses(&secure, &bad), [""; 0]);
        // Once it can be written it is.
        secure
            .server
            .with(|script| script.write_faults.always(&bad, None));
        wait(&secure, "so does the bad one", |script| {
            !script.addresses(&bad).is_empty()
        })
        .await;
        instance.kill().await;
        secure.server.with(|script| {
            script.delete_service(&bad);
            script.delete_service(&good);
        });
    }
    assert_eq!(denied(&secure), 0);
}

/// A node that leads and may not do the rest leaves the Lease to one that can.
#[tokio::test]
async fn a_leader_without_the_other_rights_leaves_it_to_others() {
    let secure = free_world().await;
    secure.server.with(|script| {
        script.enforce_roles();
        let roles = script.roles.as_mut().expect("roles");
        roles.revoke("get", "configmaps");
    });
    let mut unfit = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    unfit.until(|status| status.role == Role::Reader).await;
    let problem = unfit.status.borrow().problem.clone().expect("why");
    assert!(
        problem.contains("get") && problem.contains("configmaps"),
        "{problem}"
    );
    secure.server.with(|script| {
        script.enforce_roles();
        script.forbidden.clear();
    });
    let _fit = Instance::start(&secure, "edge-b", config(&[("lan", POOL)]));
    create(&secure, "web", &json!({}));
    until(&secure, "the other one leads", settled).await;
}

/// Somebody else puts the same status back again and again: it is written a few times, and then now
/// and then.
#[tokio::test]
async fn a_fight_over_a_status_is_slow() {
    let secure = world().await;
    let mut instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let web = create(&secure, "web", &json!({}));
    until(&secure, "it has one", settled).await;
    let right = secure.server.with(|script| script.service(&web))["status"].clone();
    let start = Instant::now();
    while instance.status.borrow().problem.is_none() {
        assert!(start.elapsed() < crate::rig::LIMIT, "it goes on for ever");
        secure.server.with(|script| {
            if !script.addresses(&web).is_empty() {
                let mut status = right.clone();
                status["loadBalancer"] = json!({});
                script.set_status(&web, status);
            }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let problem = instance.status.borrow().problem.clone().expect("why");
    assert!(problem.contains(&web), "{problem}");
    let written = instance.status.borrow().written;
    assert!(written <= 8, "written {written} times");
    instance.until(|status| status.waiting > 0).await;
    // The others go on.
    let other = create(&secure, "other", &json!({}));
    wait(&secure, "the other has one", |script| {
        !script.addresses(&other).is_empty()
    })
    .await;
}
