//! Each way in which an API server fails, one by one: forwarding goes on with what is known, and
//! the source comes back by itself.

use std::time::{Duration, Instant, SystemTime};

use edgelb::model::cluster::ClusterState;
use edgelb::source::kubernetes::kind::Watched;
use edgelb::source::kubernetes::timing::Timing;
use serde_json::json;

use crate::rig::{Rig, recorded_cluster, timing};
use crate::script::{Fault, Script, Streaming};
use crate::server::{Server, service};

const KIND: Watched = Watched::Services;

/// A server with the final lists and its whole history still to come.
async fn world() -> (Server, Rig) {
    world_with(timing()).await
}

async fn world_with(timing: Timing) -> (Server, Rig) {
    let mut script = Script::recorded();
    for kind in Watched::ALWAYS {
        script.collection(kind).play(usize::MAX);
    }
    let server = Server::start(script).await;
    let mut rig = Rig::start_with(&server, timing, None);
    rig.until_complete().await;
    rig.until_status(|status| status.connected).await;
    (server, rig)
}

fn add(server: &Server, name: &str) {
    server.with(|script| {
        script
            .collection(KIND)
            .change("ADDED", service(name, "10.96.7.7"));
    });
}

/// Ends the watch of the Services, lets these faults meet the next attempts, and sees that a Service
/// that was added meanwhile arrives; nothing is taken away.
async fn survives(faults: &[Fault]) {
    let (server, mut rig) = world().await;
    server.with(|script| {
        for fault in faults {
            script.fault(KIND, fault.clone());
        }
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    add(&server, "added-meanwhile");
    server.with(|script| script.down = false);
    rig.until_service("added-meanwhile").await;
    rig.until_status(|status| status.connected && status.problems.is_empty())
        .await;
    assert_eq!(rig.taken_away(), 0);
    server.with(|script| {
        assert!(
            script
                .faults
                .values()
                .all(std::collections::VecDeque::is_empty)
        );
    });
}

#[tokio::test]
async fn a_lost_connection() {
    survives(&[Fault::Closed, Fault::Closed, Fault::Closed]).await;
}

#[tokio::test]
async fn a_server_error() {
    survives(&[
        Fault::Status(500, None),
        Fault::Error(500),
        Fault::Status(503, None),
    ])
    .await;
}

#[tokio::test]
async fn half_a_line_and_lines_that_are_none() {
    survives(&[
        Fault::Broken {
            lines: 0,
            half: true,
        },
        Fault::Garbage,
        Fault::Broken {
            lines: 0,
            half: false,
        },
    ])
    .await;
}

#[tokio::test]
async fn a_resource_version_that_is_too_old() {
    survives(&[Fault::Error(410), Fault::Closed]).await;
    survives(&[Fault::Status(410, None), Fault::Error(410)]).await;
}

#[tokio::test]
async fn a_watch_that_ends_in_order() {
    survives(&[Fault::Ended, Fault::Ended]).await;
}

#[tokio::test]
async fn a_refusal_is_told_and_ends() {
    let (server, mut rig) = world().await;
    let begun = SystemTime::now();
    server.with(|script| {
        for _ in 0..3 {
            script.fault(KIND, Fault::Status(403, None));
        }
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    server.with(|script| script.down = false);
    let status = rig
        .until_status(|status| (status.problems.iter()).any(|it| it.message.contains("403")))
        .await;
    let problem = (status.problems.iter())
        .find(|problem| problem.message.contains("403"))
        .expect("is told");
    assert_eq!(problem.file, "services");
    assert!(
        problem.message.contains("cannot list resource"),
        "in the server's words: {}",
        problem.message
    );
    assert!(problem.keeps_last_good);
    assert!(status.blind_since.expect("is blind") >= begun);
    rig.until_status(|status| status.connected && status.blind_since.is_none())
        .await;
    assert_eq!(rig.taken_away(), 0);
}

#[tokio::test]
async fn a_server_that_asks_for_patience_gets_it() {
    let (server, mut rig) = world().await;
    server.with(|script| {
        script.fault(KIND, Fault::Status(429, Some(1)));
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    server.with(|script| script.down = false);
    rig.until_status(|status| (status.problems.iter()).any(|it| it.message.contains("429")))
        .await;
    let asked = Instant::now();
    add(&server, "added-meanwhile");
    rig.until_service("added-meanwhile").await;
    assert!(asked.elapsed() > Duration::from_millis(900));
}

#[tokio::test]
async fn a_silent_watch_is_dead() {
    let (server, mut rig) = world_with(Timing {
        silence: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        ..timing()
    })
    .await;
    server.with(|script| {
        script.fault(KIND, Fault::Silent);
        script.fault(KIND, Fault::Unanswered);
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    server.with(|script| script.down = false);
    add(&server, "added-meanwhile");
    rig.until_service("added-meanwhile").await;
    rig.until_status(|status| status.connected).await;
    assert_eq!(rig.taken_away(), 0);
    server.with(|script| {
        let last = script.asked(KIND).last().expect("was asked");
        assert!(last.get("sendInitialEvents").is_empty(), "it went on");
    });
}

#[tokio::test]
async fn bookmarks_carry_over_a_history_that_is_forgotten() {
    let (server, mut rig) = world().await;
    let version = server.with(|script| {
        // Other objects of the cluster move on.
        let collection = script.collection(KIND);
        collection.version += 1000;
        collection.version
    });
    let heard = SystemTime::now();
    rig.until_status(|status| status.last_event > Some(heard))
        .await;
    // Twice, as the first one may have been on its way with the old version.
    let heard = SystemTime::now() + Duration::from_millis(120);
    rig.until_status(|status| status.last_event > Some(heard))
        .await;
    server.with(|script| {
        script.collection(KIND).oldest = version;
        script.down = true;
        script.requests.clear();
    });
    rig.until_status(|status| !status.connected).await;
    server.with(|script| script.down = false);
    rig.until_status(|status| status.connected).await;
    server.with(|script| {
        let last = script.asked(KIND).last().expect("was asked");
        assert_eq!(last.get("resourceVersion"), version.to_string());
    });
}

#[tokio::test]
async fn what_vanished_while_nobody_looked_is_gone_after_the_new_list_alone() {
    let (server, mut rig) = world().await;
    let known = rig.cluster.services.len();
    server.with(|script| {
        let collection = script.collection(KIND);
        collection.objects.remove("shop/sticky").expect("was there");
        collection.forget();
        script.fault(
            KIND,
            Fault::Broken {
                lines: 5,
                half: true,
            },
        );
        script.fault(KIND, Fault::Status(410, None));
    });
    rig.until(|cluster| cluster.services.len() < known).await;
    assert_eq!(rig.taken_away(), 1, "that one only");
    assert!(rig.cluster.services.keys().all(|key| key.name != "sticky"));
    assert_eq!(rig.cluster.services.len(), known - 1);
}

#[tokio::test]
async fn a_continue_token_that_expires_begins_the_list_again() {
    let mut script = Script::recorded();
    script.streaming = Streaming::Refused;
    for kind in Watched::ALWAYS {
        script.collection(kind).play(usize::MAX);
    }
    // The streaming list, the first page; then the second page meets it.
    script.fault(KIND, Fault::Status(422, None));
    script.fault(KIND, Fault::Status(410, None));
    let server = Server::start(script).await;
    let rig = Rig::start(&server).await;
    assert_eq!(rig.cluster, recorded_cluster("final"));
    server.with(|script| {
        let limits: Vec<&str> = (script.asked(KIND))
            .filter(|request| !request.is_watch())
            .map(|request| request.get("limit"))
            .collect();
        assert_eq!(limits, ["3", "0"], "the second time all at once");
    });
}

#[tokio::test]
async fn an_object_that_cannot_be_read_stops_nothing() {
    let (server, mut rig) = world().await;
    let known: ClusterState = rig.cluster.clone();
    server.with(|script| {
        let collection = script.collection(KIND);
        let mut broken = service("sticky", "10.96.7.8");
        broken["spec"]["ports"] = json!("eighty");
        collection.change("MODIFIED", broken);
        let mut odd = service("odd", "10.96.7.9");
        odd["spec"]["ports"] = json!([{"port": 80, "protocol": "QUIC"}, {"port": 81}]);
        odd["spec"]["externalTrafficPolicy"] = json!("Nearest");
        odd["spec"]["externalIPs"] = json!(["192.0.2.010", "nonsense"]);
        collection.change("ADDED", odd);
        collection.log.push((
            collection.version + 1,
            "{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"Service\"}}".to_owned(),
        ));
        collection.log.push((
            collection.version + 1,
            "{\"type\":\"FROM_THE_FUTURE\",\"object\":{}}".to_owned(),
        ));
        collection.version += 2;
    });
    add(&server, "good");
    rig.until_service("good").await;
    for (key, service) in &known.services {
        assert_eq!(rig.cluster.services.get(key), Some(service), "{key} stays");
    }
    let status = rig.until_status(|status| status.problems.len() >= 5).await;
    let told: Vec<(&str, Option<&str>, bool)> = (status.problems.iter())
        .map(|it| (it.file.as_str(), it.field.as_deref(), it.keeps_last_good))
        .collect();
    assert_eq!(
        told,
        [
            ("Service shop/odd", Some("spec.externalIPs[1]"), false),
            (
                "Service shop/odd",
                Some("spec.externalTrafficPolicy"),
                false
            ),
            ("Service shop/odd", Some("spec.ports[0].protocol"), false),
            ("Service shop/sticky", None, true),
            ("services", None, true),
        ]
    );
    server.with(|script| {
        let collection = script.collection(KIND);
        collection.change("MODIFIED", service("odd", "10.96.7.9"));
        collection.change("DELETED", service("sticky", "10.96.7.8"));
    });
    let status = rig.until_status(|status| status.problems.len() == 1).await;
    assert_eq!(status.problems[0].file, "services");
}
