//! The daemon's own writers against the scripted server, with the roles of the file: what they ask
//! for is allowed, and what they write is what the checks of these tests read.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use edgelb::api_server::client::Credentials;
use edgelb::api_server::rights;
use edgelb::api_server::server::Server as ApiServer;
use edgelb::apply::kubernetes::claims::{Claims, Place};
use edgelb::apply::kubernetes::events::{self, EventReason, Recorder};
use edgelb::apply::kubernetes::lease::{self, Leadership, LeaseSettings};
use edgelb::apply::kubernetes::status::{self, Seen, StatusChange, StatusError, StatusWrite};
use edgelb::config::LeaseName;
use edgelb::model::allocation::Allocations;
use edgelb::model::service::{ADDRESS_CONDITION, AddressCondition, ServiceKey};
use edgelb::source::kubernetes::convert;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::authority::Secure;
use crate::rig::LIMIT;
use crate::script::Script;
use crate::user::{Claim, load_balancer};
use crate::write_faults::{Moment, WriteFault};

fn place() -> Place {
    Place {
        namespace: "kube-system".to_owned(),
        lease: "edgelb".to_owned(),
    }
}

async fn world() -> Secure {
    let mut script = Script::recorded();
    for token in ["a", "b"] {
        script.let_in(
            token,
            &format!("edgelb:edge-{token}"),
            &["edgelb:allocators"],
        );
    }
    script.let_in("reader", "edgelb:edge-c", &["edgelb:readers"]);
    script.enforce_roles();
    Secure::start(script).await
}

fn api_server(secure: &Secure, token: &str) -> Arc<ApiServer> {
    let credentials = Credentials::new(Some(secure.kubeconfig(token)));
    Arc::new(ApiServer::new(credentials))
}

fn give(allocations: &mut Allocations, name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|it| it.parse().expect("an address"));
    allocations.set(
        &ServiceKey::new("shop", name),
        addresses.collect(),
        "edge-a",
    );
}

#[tokio::test]
async fn claims_are_written_where_the_role_allows_it() {
    let names: Vec<String> = (0..16).map(|index| place().config_map(index)).collect();
    let lease = LeaseName {
        namespace: "kube-system".to_owned(),
        name: "edgelb".to_owned(),
    };
    assert_eq!(rights::claims(&lease).collect::<Vec<_>>(), names);

    let secure = world().await;
    let server = api_server(&secure, "a");
    let mut claims = Claims::load(place(), &server).await.expect("reads");
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &["192.0.2.10", "2001:db8::10"]);
    give(&mut wanted, "mail", &["192.0.2.26"]);
    claims.commit(&server, &wanted).await.expect("creates");
    give(&mut wanted, "dns", &["192.0.2.42"]);
    claims.commit(&server, &wanted).await.expect("replaces");

    let known = secure.server.with(|script| {
        assert_eq!(script.forbidden, []);
        script.claims("kube-system", "edgelb")
    });
    assert_eq!(known.len(), 4);
    let second = &known[&"2001:db8::10".parse().expect("an address")];
    let wanted = Claim {
        service: "shop/web".to_owned(),
        counter: second[0].counter,
        position: 1,
        node: "edge-a".to_owned(),
    };
    assert_eq!(second, &[wanted]);
}

#[tokio::test]
async fn one_of_two_claims_is_refused_by_the_server() {
    let secure = world().await;
    let (first, second) = (api_server(&secure, "a"), api_server(&secure, "b"));
    let mut early = Claims::load(place(), &first).await.expect("reads");
    let mut late = Claims::load(place(), &second).await.expect("reads");
    let mut wanted = early.allocations().clone();
    give(&mut wanted, "web", &["192.0.2.10"]);
    early.commit(&first, &wanted).await.expect("is first");
    let mut other = late.allocations().clone();
    give(&mut other, "mail", &["192.0.2.10"]);
    assert!(late.commit(&second, &other).await.is_err());

    // One that dies after its write was applied leaves a whole claim behind.
    secure.server.with(|script| {
        script
            .cuts
            .cut_at("a", &["configmaps"], 1, Moment::AfterItWasApplied);
    });
    give(&mut wanted, "dns", &["192.0.2.26"]);
    assert!(early.commit(&first, &wanted).await.is_err());
    let late = Claims::load(place(), &second).await.expect("reads again");
    let address = "192.0.2.26".parse().expect("an address");
    assert_eq!(
        late.allocations().holders_of(address),
        [ServiceKey::new("shop", "dns")]
    );
    secure
        .server
        .with(|script| assert_eq!(script.forbidden, []));
}

#[tokio::test]
async fn a_lease_goes_over_when_its_holder_dies() {
    let secure = world().await;
    let mut tasks = JoinSet::new();
    let (_stop, stopped) = watch::channel(false);
    let mut start = |token: &str| {
        let (sender, leadership) = watch::channel(Leadership::default());
        let settings = LeaseSettings {
            duration: Duration::from_secs(1),
            renew_deadline: Duration::from_millis(700),
            retry: Duration::from_millis(50),
            ..LeaseSettings::new("kube-system", "edgelb", token)
        };
        let server = api_server(&secure, token);
        tasks.spawn(lease::run(settings, server, sender, stopped.clone()));
        leadership
    };
    let leads = |it: &Leadership| matches!(it, Leadership::Leading { .. });
    let until = async |leadership: &mut watch::Receiver<Leadership>,
                       holds: &dyn Fn(&Leadership) -> bool| {
        let held = tokio::time::timeout(LIMIT, leadership.wait_for(|it| holds(it))).await;
        drop(held.expect("in time").expect("runs"));
    };
    let mut first = start("a");
    until(&mut first, &leads).await;
    let mut second = start("b");
    let mut reader = start("reader");
    until(&mut second, &|it| {
        matches!(it, Leadership::Following { .. })
    })
    .await;
    until(&mut reader, &|it| matches!(it, Leadership::Refused { .. })).await;
    let forbidden = secure
        .server
        .with(|script| std::mem::take(&mut script.forbidden));
    assert!(!forbidden.is_empty());
    assert!(
        forbidden
            .iter()
            .all(|(user, _)| user.name == "edgelb:edge-c")
    );

    secure.server.with(|script| {
        script
            .write_faults
            .add("update", "leases", WriteFault::Status(500, None));
        script.cuts.cut_off("a");
    });
    until(&mut second, &leads).await;
    until(&mut first, &|it| !leads(it)).await;
    secure.server.with(|script| {
        let lease = script.lease("kube-system/edgelb").expect("is there");
        assert_eq!(lease["spec"]["leaseTransitions"], 1);
        assert!(script.write_faults.are_over());
    });
}

/// A Service as the source would deliver it now.
fn seen(secure: &Secure, key: &str) -> Seen {
    let object = secure.server.with(|script| script.service(key));
    let object = serde_json::from_value(object).expect("a Service");
    let service = convert::service(&object).object.expect("converts");
    Seen::of(&service).expect("is from an API server")
}

#[tokio::test]
async fn a_status_is_written_for_what_was_seen_and_taken_back() {
    let secure = world().await;
    let server = api_server(&secure, "a");
    secure
        .server
        .with(|script| script.create_service(load_balancer("shop", "web")));
    let address: IpAddr = "192.0.2.10".parse().expect("an address");
    let condition = AddressCondition {
        allocated: true,
        reason: "Allocated".to_owned(),
        message: "from the pool lan".to_owned(),
    };
    let mut set = StatusWrite {
        service: ServiceKey::new("shop", "web"),
        seen: seen(&secure, "shop/web"),
        change: StatusChange::Set {
            addresses: vec![address],
            condition,
        },
    };
    // Somebody changed it meanwhile: what was decided may be wrong by now.
    secure.server.with(|script| {
        script.update_service("shop/web", &json!({"metadata": {"labels": {"a": "b"}}}));
    });
    let outdated = status::write(&server, &set).await;
    assert!(
        matches!(outdated, Err(StatusError::Outdated)),
        "{outdated:?}"
    );
    set.seen = seen(&secure, "shop/web");
    status::write(&server, &set).await.expect("is written");
    let kept = secure.server.with(|script| {
        assert_eq!(script.addresses("shop/web"), [address]);
        script
            .condition("shop/web", ADDRESS_CONDITION)
            .expect("is there")
    });
    assert_eq!(
        (&kept["status"], &kept["reason"]),
        (&json!("True"), &json!("Allocated"))
    );

    let clear = StatusWrite {
        seen: seen(&secure, "shop/web"),
        change: StatusChange::Clear,
        ..set.clone()
    };
    status::write(&server, &clear).await.expect("is written");
    secure.server.with(|script| {
        assert!(script.addresses("shop/web").is_empty());
        assert_eq!(script.condition("shop/web", ADDRESS_CONDITION), None);
        script.delete_service("shop/web");
        script.create_service(load_balancer("shop", "web"));
    });
    let gone = status::write(&server, &clear).await;
    assert!(matches!(gone, Err(StatusError::Gone)), "{gone:?}");
    secure.server.with(|script| {
        assert_eq!(script.pending(), ["shop/web"]);
        assert_eq!(script.forbidden, []);
    });
}

#[tokio::test]
async fn an_event_is_what_the_server_takes() {
    let secure = world().await;
    let server = api_server(&secure, "a");
    (secure.server).with(|script| script.create_service(load_balancer("shop", "web")));
    let object = seen(&secure, "shop/web").object;
    let (recorder, queue) = Recorder::with_queue();
    let service = ServiceKey::new("shop", "web");
    let long = "a long note ".repeat(200);
    recorder.record(&service, &object, EventReason::IPAllocated, "192.0.2.10");
    recorder.record(&service, &object, EventReason::AllocationFailed, long);
    let counts = recorder.clone();
    let (_stop, stopped) = watch::channel(false);
    let task = tokio::spawn(events::run("edge-a".to_owned(), server, queue, stopped));
    let told = async {
        while secure.server.with(|script| script.events().len()) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = tokio::time::timeout(LIMIT, told).await;
    told.unwrap_or_else(|_| panic!("{:?}", counts.counts()));
    task.abort();
    secure.server.with(|script| {
        let mut reasons: Vec<String> = (script.events().iter())
            .map(|event| event["reason"].as_str().expect("a reason").to_owned())
            .collect();
        reasons.sort();
        assert_eq!(reasons, ["AllocationFailed", "IPAllocated"]);
        assert_eq!(script.forbidden, []);
    });
}
