//! Addresses given out in a cluster: who gets which, that nobody ever shares one by accident whatever
//! dies when, and that what others wrote stays. All over TLS, with the roles of
//! config/kubernetes/rbac.yaml enforced.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use edgelb::allocator::Role;
use edgelb::model::service::ADDRESS_CONDITION;
use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};

use crate::authority::Secure;
use crate::instance::{Instance, LEASE, NAMESPACE, config, lease};
use crate::rig::LIMIT;
use crate::script::Script;
use crate::user::load_balancer;
use crate::write_faults::{Moment, WriteFault};

pub const POOL: &str = "192.0.2.200-192.0.2.219 2001:db8::/120";

/// A server with the recorded first lists and three nodes' users; `reader` may only read.
pub async fn world() -> Secure {
    let secure = free_world().await;
    secure.server.with(Script::enforce_roles);
    secure
}

/// The same without roles.
pub async fn free_world() -> Secure {
    let mut script = Script::recorded();
    for token in ["edge-a", "edge-b", "edge-c"] {
        script.let_in(
            token,
            &format!("system:node:{token}"),
            &["edgelb:readers", "edgelb:allocators"],
        );
    }
    script.let_in("reader", "reader", &["edgelb:readers"]);
    Secure::start(script).await
}

fn is_ours(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer"
}

/// What must hold at any time, also in the middle of everything: no address in two statuses, and
/// every one of them claimed.
fn check(script: &mut Script) {
    script.check_addresses(NAMESPACE, LEASE, is_ours, |_, _| false);
}

/// Whether every claim is that of a Service whose status names the address, and the reverse.
pub fn settled(script: &mut Script) -> bool {
    check(script);
    let claims = script.claims(NAMESPACE, LEASE);
    let services = script.services();
    let mut named: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
    for (key, service) in services {
        let mut addresses = service["status"]["loadBalancer"]["ingress"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter();
        for entry in &mut addresses {
            let address = entry["ip"].as_str().unwrap().parse().unwrap();
            named.entry(address).or_default().push(key.clone());
        }
    }
    let claimed: BTreeMap<IpAddr, Vec<String>> = (claims.into_iter())
        .map(|(address, holders)| {
            let holders = holders.into_iter().map(|holder| holder.service);
            (address, holders.collect())
        })
        .collect();
    script.pending().is_empty() && claimed == named
}

/// Waits until it holds; checks what must hold at any time meanwhile.
pub async fn until(secure: &Secure, what: &str, mut holds: impl FnMut(&mut Script) -> bool) {
    wait(secure, what, |script| {
        check(script);
        holds(script)
    })
    .await;
}

/// The same without the check: an address that moves is claimed for the next Service before it
/// leaves the status of the one before.
pub async fn wait(secure: &Secure, what: &str, mut holds: impl FnMut(&mut Script) -> bool) {
    let start = Instant::now();
    loop {
        let held = {
            let script = secure.server.script();
            let mut script = script.lock().unwrap();
            holds(&mut script)
        };
        if held {
            return;
        }
        assert!(start.elapsed() < LIMIT, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn create(secure: &Secure, name: &str, spec: &Value) -> String {
    let mut service = load_balancer("shop", name);
    for (field, value) in spec.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    secure.server.with(|script| script.create_service(service));
    format!("shop/{name}")
}

pub fn addresses(secure: &Secure, key: &str) -> Vec<String> {
    let addresses = secure.server.with(|script| script.addresses(key));
    addresses.iter().map(IpAddr::to_string).collect()
}

pub fn denied(secure: &Secure) -> usize {
    secure.server.with(|script| script.forbidden.len())
}

#[tokio::test]
async fn a_service_gets_its_address_and_a_condition() {
    let secure = world().await;
    let instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let web = create(&secure, "web", &json!({}));
    let both = create(
        &secure,
        "both",
        &json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack"}),
    );
    until(&secure, "all have addresses", settled).await;
    assert_eq!(addresses(&secure, &web), ["192.0.2.200"]);
    assert_eq!(addresses(&secure, &both), ["2001:db8::", "192.0.2.201"]);
    let service = secure.server.with(|script| script.service(&web));
    assert_eq!(
        service["status"]["loadBalancer"]["ingress"],
        json!([{"ip": "192.0.2.200", "ipMode": "VIP"}])
    );
    let condition = secure
        .server
        .with(|script| script.condition(&web, ADDRESS_CONDITION));
    let condition = condition.expect("our condition");
    assert_eq!(condition["status"], "True");
    assert_eq!(condition["reason"], "IPAllocated");
    assert_eq!(condition["message"], "192.0.2.200 is from the pool lan");
    until(&secure, "both are told", |script| {
        let told = |event: &Value| {
            event["reason"] == "IPAllocated" && event["regarding"]["kind"] == "Service"
        };
        script.events().iter().filter(|event| told(event)).count() == 2
    })
    .await;
    assert_eq!(denied(&secure), 0);
    instance.stop().await;
    let holder = secure.server.with(|script| {
        let lease = script.lease("kube-system/edgelb").cloned();
        lease.expect("a Lease")["spec"]["holderIdentity"].clone()
    });
    assert!(holder == "" || holder.is_null(), "given back: {holder}");
}

/// Cases 2, 3 and 28: what becomes free goes to the oldest that waits, within a second, and never
/// stands in two statuses.
#[tokio::test]
async fn a_free_address_goes_to_the_oldest_that_waits() {
    let secure = world().await;
    let mut instance = Instance::start(&secure, "edge-a", config(&[("lan", "192.0.2.200/32")]));
    let first = create(&secure, "first", &json!({}));
    until(&secure, "the first has it", settled).await;
    // The younger one sorts first by name.
    let second = create(&secure, "second", &json!({}));
    let third = create(&secure, "again", &json!({}));
    until(&secure, "the others know why not", |script| {
        [&second, &third].iter().all(|key| {
            let condition = script.condition(key, ADDRESS_CONDITION);
            condition.is_some_and(|it| it["status"] == "False" && it["reason"] == "PoolExhausted")
        })
    })
    .await;
    instance.until(|status| status.waiting == 0).await;
    let start = Instant::now();
    secure.server.with(|script| {
        script.update_service(&first, &json!({"spec": {"type": "ClusterIP"}}));
    });
    until(&secure, "the second has it", |script| {
        !script.addresses(&second).is_empty()
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(addresses(&secure, &first), [""; 0], "case 2");
    until(&secure, "its condition goes", |script| {
        script.condition(&first, ADDRESS_CONDITION).is_none()
    })
    .await;
    let start = Instant::now();
    secure.server.with(|script| script.delete_service(&second));
    until(&secure, "the third has it", |script| {
        !script.addresses(&third).is_empty()
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    until(&secure, "the failure was told", |script| {
        let failed = |event: &Value| event["reason"] == "AllocationFailed";
        script.events().iter().filter(|event| failed(event)).count() >= 2
    })
    .await;
    assert_eq!(denied(&secure), 0);
}

/// An address that moves leaves the first status before the second one names it; checked at every
/// version that the server ever had.
#[tokio::test]
async fn an_address_that_moves_never_stands_twice() {
    let secure = world().await;
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let one = create(&secure, "one", &json!({}));
    until(&secure, "one has it", settled).await;
    let two = {
        let mut service = load_balancer("shop", "two");
        service["metadata"]["annotations"] = json!({"edgelb.io/ips": "192.0.2.200"});
        secure.server.with(|script| script.create_service(service));
        "shop/two".to_owned()
    };
    until(&secure, "two waits", |script| {
        script
            .condition(&two, ADDRESS_CONDITION)
            .is_some_and(|it| it["reason"] == "RequestTaken")
    })
    .await;
    // The status of the first one cannot be written at once.
    secure.server.with(|script| {
        for _ in 0..3 {
            let busy = WriteFault::Status(503, None);
            script.write_faults.add("patch", "services/status", busy);
        }
        let elsewhere = json!({"metadata": {"annotations": {"edgelb.io/ips": "192.0.2.205"}}});
        script.update_service(&one, &elsewhere);
    });
    wait(&secure, "both have theirs", |script| {
        [(&one, "192.0.2.205"), (&two, "192.0.2.200")]
            .iter()
            .all(|(key, wanted)| script.addresses(key) == [wanted.parse::<IpAddr>().unwrap()])
    })
    .await;
    until(&secure, "nothing is left over", settled).await;
    assert_eq!(addresses(&secure, &one), ["192.0.2.205"]);
    assert_eq!(addresses(&secure, &two), ["192.0.2.200"]);
    let script = secure.server.script();
    let mut script = script.lock().unwrap();
    let mut standing: BTreeMap<String, Value> = BTreeMap::new();
    for (_, line) in script.collection(Watched::Services).log.clone() {
        let event: Value = serde_json::from_str(&line).unwrap();
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        standing.insert(
            name,
            object["status"]["loadBalancer"]["ingress"][0]["ip"].clone(),
        );
        let named: Vec<&Value> = standing.values().filter(|ip| !ip.is_null()).collect();
        let distinct: std::collections::BTreeSet<String> =
            named.iter().map(ToString::to_string).collect();
        assert_eq!(named.len(), distinct.len(), "{standing:?}");
    }
}

/// What another implementation gave is kept where it is valid, and what is another's is left alone.
#[tokio::test]
async fn a_new_leader_keeps_what_was_given() {
    let secure = world().await;
    let status =
        |address: &str| json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}});
    for (name, address) in [("kept", "192.0.2.210"), ("foreign", "203.0.113.9")] {
        let key = create(&secure, name, &json!({}));
        secure
            .server
            .with(|script| script.set_status(&key, status(address)));
    }
    let _instance = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
    let new = create(&secure, "new", &json!({}));
    let start = Instant::now();
    loop {
        let done = secure.server.with(|script| {
            let kept = script.condition("shop/kept", ADDRESS_CONDITION).is_some();
            kept && !script.addresses(&new).is_empty()
        });
        if done {
            break;
        }
        assert!(start.elapsed() < LIMIT);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(addresses(&secure, "shop/kept"), ["192.0.2.210"]);
    assert_eq!(addresses(&secure, "shop/foreign"), ["203.0.113.9"]);
    let foreign = secure
        .server
        .with(|script| script.condition("shop/foreign", ADDRESS_CONDITION));
    assert_eq!(foreign, None, "nothing was written there");
    assert_eq!(addresses(&secure, &new), ["192.0.2.200"]);
}

/// Cases 10 and 11: a pool that goes takes no address away, and says so.
#[tokio::test]
async fn a_pool_that_goes_takes_no_address_away() {
    let secure = world().await;
    let instance = Instance::start(
        &secure,
        "edge-a",
        config(&[
            ("lan", "192.0.2.200-192.0.2.209"),
            ("other", "198.51.100.0/28"),
        ]),
    );
    let web = create(&secure, "web", &json!({}));
    until(&secure, "it has one", settled).await;
    instance.configure(config(&[("other", "198.51.100.0/28")]));
    until(&secure, "its condition says so", |script| {
        script
            .condition(&web, ADDRESS_CONDITION)
            .is_some_and(|it| it["reason"] == "PoolGone")
    })
    .await;
    assert_eq!(addresses(&secure, &web), ["192.0.2.200"]);
    until(&secure, "an event warns", |script| {
        let warned = |event: &Value| event["reason"] == "PoolRemoved" && event["type"] == "Warning";
        script.events().iter().any(warned)
    })
    .await;
    instance.stop().await;
    // The next leader keeps it as well.
    let _next = Instance::start(&secure, "edge-b", config(&[("other", "198.51.100.0/28")]));
    let more = create(&secure, "more", &json!({}));
    until(&secure, "another has one", |script| {
        !script.addresses(&more).is_empty()
    })
    .await;
    assert_eq!(addresses(&secure, &web), ["192.0.2.200"]);
    // Told to move.
    secure.server.with(|script| {
        let pool = json!({"metadata": {"annotations": {"edgelb.io/pool": "other"}}});
        script.update_service(&web, &pool);
    });
    until(&secure, "it moves", |script| {
        let addresses = script.addresses(&web);
        addresses
            .first()
            .is_some_and(|address| address.to_string().starts_with("198."))
    })
    .await;
}

/// Who may only read stands by, says what it lacks and asks for nothing else.
#[tokio::test]
async fn a_reader_allocates_nothing() {
    let secure = world().await;
    let web = create(&secure, "web", &json!({}));
    let mut reader = Instance::start(&secure, "reader", config(&[("lan", POOL)]));
    reader.until(|status| status.role == Role::Reader).await;
    let problem = reader.status.borrow().problem.clone();
    let problem = problem.expect("why");
    assert!(problem.contains("leases"), "{problem}");
    assert_eq!(addresses(&secure, &web), [""; 0]);
    assert_eq!(denied(&secure), 1, "asked once");
}

/// Three instances, of which the leader dies with each of its writes in turn, before and after the
/// server took it: every Service gets exactly its addresses, and nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_may_die_at_any_step() {
    for moment in [Moment::BeforeItIsApplied, Moment::AfterItWasApplied] {
        let mut step = 1;
        loop {
            let secure = world().await;
            let resources = ["configmaps", "services/status"];
            secure
                .server
                .with(|script| script.cuts.cut_at("edge-a", &resources, step, moment));
            let first = create(&secure, "first", &json!({}));
            let second = create(
                &secure,
                "second",
                &json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}),
            );
            let mut leader = Instance::start(&secure, "edge-a", config(&[("lan", POOL)]));
            leader.until(|status| status.role == Role::Leader).await;
            let others = ["edge-b", "edge-c"]
                .map(|token| Instance::start(&secure, token, config(&[("lan", POOL)])));
            until(&secure, &format!("step {step}, {moment:?}"), settled).await;
            assert_eq!(addresses(&secure, &first).len(), 1);
            assert_eq!(addresses(&secure, &second).len(), 2);
            let died = secure
                .server
                .with(|script| script.cuts.is_cut_off("edge-a"));
            for instance in others {
                instance.kill().await;
            }
            leader.kill().await;
            if !died {
                break;
            }
            step += 1;
        }
        assert!(step > 3, "it died at {} steps", step - 1);
    }
}

/// Two that both believe they lead, by Leases of their own, on one set of claims.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leaders_never_give_one_address_twice() {
    let secure = free_world().await;
    let pools = config(&[("lan", "198.51.100.0/24")]);
    let mut instances = ["edge-a", "edge-b"]
        .map(|token| Instance::start_with(&secure, token, pools.clone(), lease(token, token)));
    for instance in &mut instances {
        instance.until(|status| status.role == Role::Leader).await;
    }
    for number in 0..200 {
        create(&secure, &format!("web-{number}"), &json!({}));
    }
    until(&secure, "all have one", settled).await;
}

/// Two thousand at once: each gets exactly one address, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_two_thousand() {
    let secure = world().await;
    let mut instance = Instance::start(&secure, "edge-a", config(&[("wide", "10.200.0.0/16")]));
    instance.until(|status| status.role == Role::Leader).await;
    let start = Instant::now();
    for number in 0..2000 {
        create(&secure, &format!("web-{number}"), &json!({}));
    }
    let script = secure.server.script();
    loop {
        let pending = script.lock().unwrap().pending().len();
        if pending == 0 {
            break;
        }
        assert!(start.elapsed() < LIMIT, "{pending} still wait");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let elapsed = start.elapsed();
    let mut script = script.lock().unwrap();
    assert!(settled(&mut script));
    assert!(elapsed < LIMIT, "{elapsed:?}");
}
