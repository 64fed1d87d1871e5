//! `drain` and `undrain`: the orders on the socket, who may give them, and the commands that wait.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command as Process, Output};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use edgelb::admin::client::{AskError, order};
use edgelb::admin::protocol::Order;
use edgelb::admin::snapshot::Snapshot;
use edgelb::admin::view::Drained;
use edgelb::model::cluster::Node;
use edgelb::model::peer::Peers;
use edgelb::plan::ownership::{DRAIN_LABEL, drained_by_label};
use serde_json::{Value, json};

use crate::schema_validator::problems;
use crate::socket::Served;
use crate::world;

fn edgelb(served: &Served, arguments: &[&str]) -> Process {
    let mut process = Process::new(env!("CARGO_BIN_EXE_edgelb"));
    let socket = served.path();
    process
        .args(arguments)
        .args(["--socket", socket.to_str().unwrap()]);
    process
}

/// What was printed and how it ended; nothing may stand on stderr.
fn ended(output: &Output) -> (Option<i32>, &str) {
    assert!(output.stderr.is_empty(), "{output:?}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    (output.status.code(), text)
}

fn json(output: &Output) -> (Option<i32>, Value) {
    let (code, text) = ended(output);
    let value: Value = serde_json::from_str(text).unwrap();
    let schema = serde_json::from_str(include_str!("../schemas/drain.json")).unwrap();
    assert_eq!(problems(&schema, &value), [""; 0], "{value}");
    (code, value)
}

/// The world whose nodes talk with one another.
fn talking() -> Snapshot {
    let mut snapshot = world::snapshot();
    let mut inputs = (*snapshot.inputs).clone();
    inputs.peers = Arc::new(Peers {
        enabled: true,
        settled: true,
        ..Peers::default()
    });
    snapshot.inputs = Arc::new(inputs);
    snapshot
}

/// The daemon of that world.
fn served() -> Served {
    let served = Served::new();
    served.snapshots.send_replace(Arc::new(talking()));
    served
}

/// That world with this owner of the VIP that edge-a had.
fn owned_by(owner: Option<&str>) -> Snapshot {
    let mut snapshot = talking();
    let mut plan = (*snapshot.plan).clone();
    let vip: std::net::IpAddr = "192.0.2.200".parse().unwrap();
    plan.ownership[&vip].owner = owner.map(str::to_owned);
    snapshot.plan = Arc::new(plan);
    snapshot
}

/// Gives the VIP to another as soon as this node drains.
fn gives_up(served: &Served, to: Option<&'static str>) -> thread::JoinHandle<()> {
    let (snapshots, mut drain) = (served.snapshots.clone(), served.drain.clone());
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(async { drain.wait_for(|drain| *drain).await.map(|_| ()) })
            .unwrap();
        thread::sleep(Duration::from_millis(200));
        snapshots.send_replace(Arc::new(owned_by(to)));
    })
}

#[test]
fn orders_set_the_flag_and_say_whether_it_was_different() {
    let served = Served::new();
    let give = |what| order::<Drained>(&served.path(), what).unwrap();
    for (what, draining, changed) in [
        (Order::Undrain, false, false),
        (Order::Drain, true, true),
        (Order::Drain, true, false),
        (Order::Undrain, false, true),
    ] {
        let expected = Drained {
            node: world::NODE.to_owned(),
            draining,
            changed,
        };
        assert_eq!(give(what), expected);
        assert_eq!(*served.drain.borrow(), draining);
    }
    give(Order::Drain);
    let file = served.directory.path().join("state/drain.json");
    let kept: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(kept, json!({"version": 1, "content": true}));
}

#[test]
fn an_order_that_cannot_be_kept_is_refused() {
    let served = Served::new();
    fs::remove_dir_all(served.directory.path().join("state")).unwrap();
    let error = order::<Drained>(&served.path(), Order::Drain).unwrap_err();
    assert!(matches!(error, AskError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("drain.json"), "{error}");
    assert!(!*served.drain.borrow());
    let output = edgelb(&served, &["drain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn whoever_may_only_look_may_not_order() {
    let served = Served::new();
    let path = served.path();
    // Somebody opened the socket for all: that lets them read, and no more.
    let mut place = path.as_path();
    while place != std::env::temp_dir() {
        fs::set_permissions(place, Permissions::from_mode(0o777)).unwrap();
        place = place.parent().unwrap();
    }
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can be had here; the daemon's own user may.
        order::<Drained>(&path, Order::Drain).unwrap();
        return;
    }
    let program = crate::program_for_all(served.directory.path());
    let as_nobody = |command: &str| {
        Process::new(&program)
            .args([command, "--socket", path.to_str().unwrap()])
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap()
    };
    assert_eq!(as_nobody("vips").status.code(), Some(0));
    for command in ["drain", "undrain"] {
        let output = as_nobody(command);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(4), "{error}");
        assert!(error.contains("root and the group edgelb"), "{error}");
        assert!(output.stdout.is_empty());
    }
    assert!(!*served.drain.borrow());
}

#[test]
fn drain_waits_until_others_announce_the_vips() {
    let served = served();
    let other = gives_up(&served, Some("edge-d"));
    let begin = Instant::now();
    let output = edgelb(&served, &["drain", "-o", "json"]).output().unwrap();
    let (code, report) = json(&output);
    assert_eq!(code, Some(0), "{report}");
    assert!(begin.elapsed() < Duration::from_secs(8), "not to the end");
    let moved = json!([{"vip": "192.0.2.200", "service": "default/web", "owner": "edge-d"}]);
    assert_eq!((&report["moved"], &report["stayed"]), (&moved, &json!([])));
    assert_eq!(
        (&report["draining"], &report["changed"]),
        (&json!(true), &json!(true))
    );
    assert!(report["seconds"].as_f64().unwrap() >= 0.1, "{report}");
    other.join().unwrap();

    // Once more: nothing is left to move.
    let output = edgelb(&served, &["drain"]).output().unwrap();
    assert_eq!(
        ended(&output),
        (
            Some(0),
            "edge-a is drained and takes no VIP until edgelb undrain\n"
        )
    );
    let output = edgelb(&served, &["undrain"]).output().unwrap();
    assert_eq!(
        ended(&output),
        (
            Some(0),
            "edge-a takes VIPs again, but none from a node that serves it\n"
        )
    );
    assert!(!*served.drain.borrow());
    let output = edgelb(&served, &["undrain", "-o", "json"])
        .output()
        .unwrap();
    let (code, report) = json(&output);
    assert_eq!((code, &report["changed"]), (Some(0), &json!(false)));
}

#[test]
fn a_vip_that_no_other_node_may_take_stays_and_is_named() {
    let served = served();
    let begin = Instant::now();
    let output = edgelb(&served, &["drain", "--timeout", "300ms"])
        .output()
        .unwrap();
    let (code, text) = ended(&output);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        "edge-a is drained and takes no VIP until edgelb undrain\n\
         VIP          SERVICE      NOW-ON\n\
         192.0.2.200  default/web  edge-a\n\
         \n\
         192.0.2.200: stays here: no other node may take it (edge-b: the node is labelled \
         node.kubernetes.io/exclude-from-external-load-balancers; edge-c: the Node is being deleted)\n"
    );
    // It stays drained: the next node to come takes it.
    assert!(*served.drain.borrow());
}

/// Nobody tells the others: nothing moves, nothing is waited for, and that is said.
#[test]
fn without_membership_nobody_follows() {
    let served = Served::new();
    let begin = Instant::now();
    let output = edgelb(&served, &["drain"]).output().unwrap();
    let (code, text) = ended(&output);
    assert!(begin.elapsed() < Duration::from_secs(8), "not to the end");
    assert_eq!(code, Some(1));
    assert_eq!(
        text,
        "edge-a is to be drained, and no other node hears of it: nodes do not talk with one another \
         (membership.key_files is empty), so it goes on owning what the Nodes give it. Label its Node \
         instead (edgelb.io/drain=true), or configure [membership]\n\
         VIP          SERVICE      NOW-ON\n\
         192.0.2.200  default/web  edge-a\n\
         \n\
         192.0.2.200: stays here: the Nodes alone decide who owns it\n"
    );
    let output = edgelb(&served, &["drain", "-o", "json"]).output().unwrap();
    let (code, report) = json(&output);
    assert_eq!((code, &report["membership"]), (Some(1), &json!(false)));
    assert_eq!(report["stayed"].as_array().unwrap().len(), 1, "{report}");
    // Whoever takes it back has nothing to be warned of.
    let output = edgelb(&served, &["undrain"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_vip_that_nobody_announces_any_more_is_a_problem() {
    let served = served();
    let other = gives_up(&served, None);
    let output = edgelb(&served, &["drain", "-o", "json"]).output().unwrap();
    let (code, report) = json(&output);
    assert_eq!(code, Some(1));
    assert_eq!(report["moved"][0]["owner"], Value::Null, "{report}");
    other.join().unwrap();
}

#[test]
fn without_a_daemon_or_with_a_wrong_time_it_says_so() {
    let mut served = served();
    let output = edgelb(&served, &["drain", "--timeout", "soon"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!*served.drain.borrow());
    served.stop();
    for command in ["drain", "undrain"] {
        let output = edgelb(&served, &[command]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_label_of_a_node_drains_it_too() {
    let mut node = Node::default();
    assert!(!drained_by_label(&node));
    for (value, drained) in [
        ("", true),
        ("true", true),
        ("maintenance", true),
        ("false", false),
    ] {
        node.labels.insert(DRAIN_LABEL.to_owned(), value.to_owned());
        assert_eq!(drained_by_label(&node), drained, "{value}");
    }
}
