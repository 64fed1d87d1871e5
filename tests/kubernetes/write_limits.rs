//! The scripted server itself: who may write, and what goes wrong with writes when it is told to.

use std::net::IpAddr;
use std::time::Duration;

use edgelb::model::service::ServiceKey;
use edgelb::source::kubernetes::kind::Watched;
use http::Method;
use serde_json::{Value, json};

use crate::authority::Secure;
use crate::kubeconfig::write_kubeconfig;
use crate::rig::{Rig, timing};
use crate::roles::{User, forbidden};
use crate::script::{Script, recorded, recorded_list};
use crate::target::Target;
use crate::user::load_balancer;
use crate::write_faults::{Moment, WriteFault};
use crate::writes::{LEASES, MAPS, STATUS, ask, ingress, object, told, world};

#[tokio::test]
async fn what_no_role_allows_is_refused_and_kept() {
    let mut script = Script::recorded();
    script.let_in("reader", "edgelb:edge-a", &["edgelb:readers"]);
    script.let_in("allocator", "edgelb:edge-b", &["edgelb:allocators"]);
    script.let_in(
        "account",
        "system:serviceaccount:kube-system:edgelb-allocator",
        &[],
    );
    script.create_service(load_balancer("shop", "web"));
    script.enforce_roles();
    let secure = Secure::start(script).await;
    let reader = secure.client("reader").await;
    let path = format!("{LEASES}/edgelb");
    let (code, refusal) = told(&reader, Method::GET, &path, &Value::Null).await;
    assert_eq!((code, &refusal["reason"]), (403, &json!("Forbidden")));
    assert_eq!(
        refusal["message"],
        "leases.coordination.k8s.io \"edgelb\" is forbidden: User \"edgelb:edge-a\" cannot get resource \"leases\" in API group \"coordination.k8s.io\" in the namespace \"kube-system\""
    );
    assert_eq!(
        told(&reader, Method::GET, "/api/v1/nodes", &Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(
        told(&reader, Method::PATCH, STATUS, &ingress("192.0.2.1"))
            .await
            .0,
        403
    );
    assert_eq!(
        secure
            .server
            .with(|script| std::mem::take(&mut script.forbidden).len()),
        2
    );

    for token in ["allocator", "account"] {
        let client = secure.client(token).await;
        assert_eq!(
            told(&client, Method::PATCH, STATUS, &ingress("192.0.2.1"))
                .await
                .0,
            200
        );
        assert_eq!(told(&client, Method::GET, &path, &Value::Null).await.0, 404);
        let other = format!("{LEASES}/another");
        assert_eq!(
            told(&client, Method::GET, &other, &Value::Null).await.0,
            403
        );
        let other = path.replace("kube-system", "shop");
        assert_eq!(
            told(&client, Method::GET, &other, &Value::Null).await.0,
            403
        );
        let service = STATUS.trim_end_matches("/status");
        assert_eq!(
            told(&client, Method::PATCH, service, &json!({})).await.0,
            403
        );
        let review = |verb: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "group": "", "resource": "services", "subresource": "status"}}});
        let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        for (verb, allowed) in [("patch", true), ("update", false)] {
            let (code, answer) = told(&client, Method::POST, reviews, &review(verb)).await;
            assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(allowed)));
        }
    }
    let stranger = secure.client("unknown").await;
    assert_eq!(
        told(&stranger, Method::GET, "/version", &Value::Null)
            .await
            .0,
        401
    );
}

#[test]
fn a_refusal_is_the_recorded_one() {
    let user = User {
        name: "edge-lb".to_owned(),
        groups: Vec::new(),
    };
    let target = Target {
        verb: "list".to_owned(),
        group: String::new(),
        namespace: String::new(),
        resource: "services".to_owned(),
        subresource: String::new(),
        name: String::new(),
    };
    let answer: Value = serde_json::from_str(&forbidden(&user, &target).body).expect("JSON");
    let wanted: Value = serde_json::from_str(&recorded("forbidden.json")).expect("JSON");
    assert_eq!(answer, wanted);
}

#[test]
fn a_service_of_a_person_is_filled_in_as_the_recorded_ones() {
    let (services, _) = recorded_list(Watched::Services, "final");
    let mut script = Script::recorded();
    for name in ["dns-lb", "lb", "lb-no-nodeports", "lb-other-class"] {
        let recorded = services
            .iter()
            .find(|(key, _)| key.ends_with(&format!("/{name}")));
        let recorded: Value = serde_json::from_str(recorded.expect("is there").1).expect("JSON");
        let mut written = load_balancer("shop", name);
        for field in [
            "allocateLoadBalancerNodePorts",
            "externalTrafficPolicy",
            "loadBalancerClass",
        ] {
            if !recorded["spec"][field].is_null() {
                written["spec"][field] = recorded["spec"][field].clone();
            }
        }
        let uid = script.create_service(written);
        let made = script.service(&format!("shop/{name}"));
        let fields = |value: &Value| -> Vec<String> {
            value
                .as_object()
                .expect("an object")
                .keys()
                .cloned()
                .collect()
        };
        assert_eq!(fields(&made["spec"]), fields(&recorded["spec"]));
        assert_eq!(
            fields(&made["spec"]["ports"][0]),
            fields(&recorded["spec"]["ports"][0])
        );
        assert_eq!(made["status"], recorded["status"]);
        assert_eq!(made["metadata"]["uid"], uid);
    }
}

#[tokio::test]
async fn writes_go_wrong_as_they_are_told_to() {
    let (secure, client) = world().await;
    secure.server.with(|script| {
        script.create_service(load_balancer("shop", "web"));
        for fault in [
            WriteFault::Status(429, Some(3)),
            WriteFault::ClosedBefore,
            WriteFault::Unanswered { applied: false },
            WriteFault::ClosedAfter,
            WriteFault::Unanswered { applied: true },
            WriteFault::Delayed(Duration::from_millis(50)),
        ] {
            script.write_faults.add("patch", "services/status", fault);
        }
    });
    let patch = async |last: u8| {
        let body = ingress(&format!("192.0.2.{last}"));
        let asked = ask(&client, Method::PATCH, STATUS, &body);
        let answer = tokio::time::timeout(Duration::from_millis(500), asked).await;
        let addresses = secure.server.with(|script| script.addresses("shop/web"));
        let applied = addresses
            .first()
            .is_some_and(|it| it.to_string() == format!("192.0.2.{last}"));
        // Not answered in time, closed, or the status.
        (
            answer.map(|answer| answer.map(|(code, _)| code)).ok(),
            applied,
        )
    };
    assert_eq!(patch(1).await, (Some(Some(429)), false));
    assert_eq!(patch(2).await, (Some(None), false));
    assert_eq!(patch(3).await, (None, false));
    assert_eq!(patch(4).await, (Some(None), true));
    assert_eq!(patch(5).await, (None, true));
    assert_eq!(patch(6).await, (Some(Some(200)), true));
    assert_eq!(patch(7).await, (Some(Some(200)), true));
    assert!(secure.server.with(|script| script.write_faults.are_over()));
}

#[tokio::test]
async fn a_client_is_cut_off_with_a_chosen_write() {
    for (moment, applied) in [
        (Moment::BeforeItIsApplied, 1),
        (Moment::AfterItWasApplied, 2),
    ] {
        let mut script = Script::recorded();
        script.let_in("leader", "a", &[]);
        script.let_in("other", "b", &[]);
        let secure = Secure::start(script).await;
        let (leader, other) = (secure.client("leader").await, secure.client("other").await);
        secure
            .server
            .with(|script| script.cuts.cut_at("leader", &["configmaps"], 2, moment));
        let map = |name: &str| object(name, "data", &json!({}));
        // Leases do not count here.
        let lease = object("edgelb", "spec", &json!({}));
        assert!(ask(&leader, Method::POST, LEASES, &lease).await.is_some());
        assert!(
            ask(&leader, Method::POST, MAPS, &map("one"))
                .await
                .is_some()
        );
        assert!(
            !secure
                .server
                .with(|script| script.cuts.is_cut_off("leader"))
        );
        assert_eq!(ask(&leader, Method::POST, MAPS, &map("two")).await, None);
        assert!(
            secure
                .server
                .with(|script| script.cuts.is_cut_off("leader"))
        );
        assert_eq!(
            ask(&leader, Method::GET, "/version", &Value::Null).await,
            None
        );
        let maps = secure
            .server
            .with(|script| script.config_maps("kube-system").len());
        assert_eq!(maps, applied);
        assert!(
            ask(&other, Method::POST, MAPS, &map("three"))
                .await
                .is_some()
        );
        secure.server.with(|script| script.cuts.revive("leader"));
        assert!(
            ask(&leader, Method::POST, MAPS, &map("four"))
                .await
                .is_some()
        );
    }
}

#[tokio::test]
async fn two_thousand_writes_need_no_two_thousand_handshakes() {
    let (secure, client) = world().await;
    secure.server.with(|script| {
        script.write_latency = Duration::from_micros(100);
        script.create_service(load_balancer("shop", "web"))
    });
    for round in 0..2000 {
        let address = format!("192.0.2.{}", round % 200 + 1);
        assert_eq!(
            told(&client, Method::PATCH, STATUS, &ingress(&address))
                .await
                .0,
            200
        );
    }
    assert_eq!(secure.server.connections(), 1);
}

#[tokio::test]
async fn the_check_finds_what_is_given_twice_and_what_is_not_claimed() {
    let mut script = Script::recorded();
    for name in ["one", "two"] {
        let mut service = load_balancer("shop", name);
        service["status"] = ingress("192.0.2.10")["status"].clone();
        script.create_service(service);
    }
    let secure = Secure::start(script).await;
    let client = secure.client("first").await;
    let claim =
        |service: &str| json!({"service": service, "counter": 1, "position": 0, "node": "edge-a"});
    let holders = json!([claim("shop/one"), claim("shop/two")]).to_string();
    let fails = |may_share: bool| {
        let check = std::panic::AssertUnwindSafe(|| {
            let script = secure.server.script();
            let mut script = script
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let ours = |service: &Value| {
                service["metadata"]["uid"]
                    .as_str()
                    .is_some_and(|uid| uid.starts_with("00000000"))
            };
            script.check_addresses("kube-system", "edgelb", ours, |_, _| may_share);
        });
        let failed = std::panic::catch_unwind(check).is_err();
        secure.server.script().clear_poison();
        failed
    };
    assert!(fails(true), "nothing is claimed");
    let map = object(
        "edgelb-addresses-a",
        "data",
        &json!({"192.0.2.10": holders}),
    );
    assert_eq!(told(&client, Method::POST, MAPS, &map).await.0, 201);
    assert!(!fails(true));
    assert!(fails(false), "it is given twice");
}

#[tokio::test]
async fn what_is_written_comes_back_by_the_watch() {
    let (secure, client) = world().await;
    let Secure { server, home } = secure;
    server.with(|script| {
        script.let_in("node", "edgelb:edge-a", &["edgelb:readers"]);
        script.let_in("first", "edgelb:edge-b", &["edgelb:allocators"]);
        script.enforce_roles();
        script.create_service(load_balancer("shop", "web"));
        script.create_service(load_balancer("shop", "other"));
    });
    let url = format!("https://{}", server.address);
    write_kubeconfig(
        &home.path().join("kubeconfig"),
        &url,
        "token: node, client-certificate: client.crt, client-key: client.key",
        ", certificate-authority: ca.crt",
    );
    let mut rig = Rig::start_in(home, timing(), None);
    rig.until_complete().await;
    let service = STATUS.trim_end_matches("/status");
    let (_, read) = told(&client, Method::GET, service, &Value::Null).await;
    assert_eq!(read, server.with(|script| script.service("shop/web")));
    assert_eq!(server.with(Script::pending), ["shop/other", "shop/web"]);

    let address: IpAddr = "192.0.2.10".parse().expect("an address");
    let (code, _) = told(&client, Method::PATCH, STATUS, &ingress("192.0.2.10")).await;
    assert_eq!(code, 200);
    let key = ServiceKey::new("shop", "web");
    rig.until(|cluster| {
        let service = cluster.services.get(&key);
        service.is_some_and(|it| format!("{it:?}").contains("192.0.2.10"))
    })
    .await;
    server.with(|script| {
        assert_eq!(script.addresses("shop/web"), [address]);
        assert_eq!(script.condition("shop/web", "example.com/A"), None);
        script.set_status("shop/other", ingress("192.0.2.11")["status"].clone());
    });
    let other = ServiceKey::new("shop", "other");
    rig.until(|cluster| {
        let service = cluster.services.get(&other);
        service.is_some_and(|it| format!("{it:?}").contains("192.0.2.11"))
    })
    .await;
    server.with(|script| {
        assert_eq!(script.lease("kube-system/edgelb"), None);
        script.delete_service("shop/web");
    });
    rig.until(|cluster| !cluster.services.contains_key(&key))
        .await;

    // The source has the reader's role, and asked for nothing else.
    server.with(|script| assert_eq!(script.forbidden, []));

    // A client that dies sees nothing any more.
    rig.until_status(|status| status.connected).await;
    server.with(|script| script.cuts.cut_off("node"));
    rig.until_status(|status| !status.connected).await;
}
