//! `explain` over the admin socket's view: each answer is as its schema says, and the command ends as
//! the contract says. The kernel is one that holds what is planned.

use std::process::Command as Process;

use edgelb::admin::view::explain::from_snapshot;
use edgelb::explain::question::Question;
use edgelb::model::observation::{Observation, ObservedFrontend};
use serde_json::Value;

use crate::schema_validator::problems;
use crate::socket::Served;
use crate::world;

fn schema() -> Value {
    serde_json::from_str(include_str!("../schemas/explain.json")).unwrap()
}

fn explain(target: &str, from: Option<&str>) -> Value {
    let question = Question::parse(target, from).unwrap();
    let snapshot = world::snapshot();
    let now = world::started() + std::time::Duration::from_secs(90);
    let explanation = from_snapshot(&question, &snapshot, now, |_, _, wanted| Observation {
        frontends: (wanted.frontends.iter())
            .map(|(port, _)| (*port, ObservedFrontend::default()))
            .collect(),
        ..Observation::default()
    });
    serde_json::to_value(explanation).unwrap()
}

#[test]
fn every_answer_is_as_the_schema_says() {
    for (target, from, found, beginning) in [
        (
            "192.0.2.200:80",
            Some("203.0.113.9"),
            true,
            "A client at 203.0.113.9 that connects to 192.0.2.200:80/tcp is served by 10.244.0.2:8080 or 10.244.0.3:8080.",
        ),
        (
            "192.0.2.11:30080",
            None,
            true,
            "A client outside the cluster that connects to 192.0.2.11:30080/tcp is served",
        ),
        (
            "10.96.0.10:443",
            Some("192.0.2.11"),
            true,
            "Node edge-a (192.0.2.11) that connects to 10.96.0.10:443/tcp is served",
        ),
        (
            "default/web",
            None,
            true,
            "default/web is served at 192.0.2.200 port 80/tcp and 443/tcp",
        ),
        (
            "default/zgreedy",
            None,
            true,
            "default/zgreedy is not served",
        ),
        ("other/far", None, true, "other/far is not served"),
        (
            "other/lost",
            None,
            true,
            "other/lost is not served: it has no VIP, because it names the pool no\u{1b}[2Jwhere",
        ),
        ("other/theirs", None, true, "other/theirs is not served"),
        (
            "192.0.2.200:81",
            None,
            false,
            "A client that connects to 192.0.2.200:81/tcp is refused",
        ),
        (
            "198.51.100.7:80",
            None,
            false,
            "198.51.100.7:80/tcp is not served",
        ),
        (
            "default/nobody",
            None,
            false,
            "There is no Service default/nobody",
        ),
    ] {
        let told = explain(target, from);
        assert_eq!(problems(&schema(), &told), [""; 0], "{target}");
        assert_eq!(told["found"], found, "{target}");
        let first = told["answer"][0].as_str().unwrap();
        assert!(first.starts_with(beginning), "{target}: {first}");
    }
}

#[test]
fn a_schema_refuses_a_missing_and_an_unknown_field() {
    let mut told = explain("192.0.2.200:80", None);
    let removed = told["frontends"][0].as_object_mut().unwrap().remove("fate");
    told["frontends"][0]["stray"] = removed.unwrap();
    assert_eq!(problems(&schema(), &told).len(), 2, "{told}");
}

#[test]
fn the_command_asks_the_daemon_and_escapes_what_others_wrote() {
    let served = Served::new();
    let path = served.path();
    let socket = path.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let mut all = vec!["explain", "--socket", socket];
        all.extend(arguments);
        Process::new(env!("CARGO_BIN_EXE_edgelb"))
            .args(all)
            .output()
            .unwrap()
    };
    let output = run(&["other/lost"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(
            "other/lost is not served: it has no VIP, because it names the pool no\\u{1b}[2Jwhere"
        ),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let output = run(&["default/nobody", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(problems(&schema(), &told), [""; 0]);
    // What is no question does not reach the daemon.
    let output = run(&["192.0.2.200"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write 192.0.2.200:80"));
}
