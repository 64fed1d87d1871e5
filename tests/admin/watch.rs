//! `--watch`: what happens is pushed as events, views as they change; the end of the daemon is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command as Process, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use edgelb::admin::client::{AskError, ask, watch};
use edgelb::admin::events::{Event, EventKind};
use edgelb::admin::protocol::{Arguments, Command, VIEW};
use edgelb::admin::snapshot::{Failure, Snapshot};
use edgelb::admin::socket::{MOST_CLIENTS, MOST_WATCHERS};
use edgelb::admin::view::Status;
use edgelb::model::foreign::{ForeignHosts, MacAddress};
use edgelb::model::peer::{Heard, MemberState, Peer, Presence};
use serde_json::Value;

use crate::schema_validator::problems;
use crate::socket::Served;
use crate::world;

/// How long an event may take, also on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

fn vip() -> IpAddr {
    "192.0.2.200".parse().unwrap()
}

/// The world without its troubles.
fn well() -> Snapshot {
    let mut snapshot = world::snapshot();
    snapshot.config_problem = None;
    snapshot.pass.failures.clear();
    snapshot.source.connected = true;
    snapshot
}

fn owned_by(mut snapshot: Snapshot, owner: Option<&str>) -> Snapshot {
    let mut plan = (*snapshot.plan).clone();
    plan.ownership[&vip()].owner = owner.map(str::to_owned);
    snapshot.plan = Arc::new(plan);
    snapshot
}

fn with_inputs(mut snapshot: Snapshot, edit: impl FnOnce(&mut edgelb::plan::Inputs)) -> Snapshot {
    let mut inputs = (*snapshot.inputs).clone();
    edit(&mut inputs);
    snapshot.inputs = Arc::new(inputs);
    snapshot
}

fn with_peer(snapshot: Snapshot, presence: Presence) -> Snapshot {
    with_inputs(snapshot, |inputs| {
        let mut peers = (*inputs.peers).clone();
        peers.members.insert(
            "edge-b".to_owned(),
            Arc::new(Peer {
                presence,
                epoch: 1,
                state: MemberState::default(),
                claims: edgelb::model::peer::Claims::default(),
                heard: Heard::default(),
            }),
        );
        inputs.peers = Arc::new(peers);
    })
}

/// Every line as the schema says.
fn checked(line: &Value) -> Event {
    let schema = serde_json::from_str(include_str!("../schemas/events.json")).unwrap();
    assert_eq!(problems(&schema, line), [""; 0], "{line}");
    serde_json::from_value(line.clone()).unwrap()
}

struct Watching<'s> {
    served: &'s Served,
    lines: mpsc::Receiver<Value>,
}

impl<'s> Watching<'s> {
    fn new(served: &'s Served) -> Self {
        let stream = watch::<Value>(&served.path(), &Arguments::new()).unwrap();
        let (sender, lines) = mpsc::channel();
        // Ends with the daemon, or when nobody wants the next line.
        thread::spawn(move || {
            for line in stream {
                if sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { served, lines }
    }

    fn next(&mut self) -> Event {
        checked(&self.lines.recv_timeout(PATIENCE).expect("an event"))
    }

    /// Publishes a snapshot; what is told of it.
    fn after(&mut self, snapshot: Snapshot, events: usize) -> Vec<EventKind> {
        self.served.snapshots.send_replace(Arc::new(snapshot));
        (0..events)
            .map(|_| {
                let event = self.next();
                assert!(!event.snapshot, "{event:?}");
                event.kind
            })
            .collect()
    }
}

#[test]
fn watching_begins_with_what_is_so() {
    let served = Served::new();
    let mut watching = Watching::new(&served);
    let mut kinds = Vec::new();
    // The world is edge-a's, which announces a VIP, with a file that is refused and a pass that failed.
    for _ in 0..4 {
        let event = watching.next();
        assert!(event.snapshot, "{event:?}");
        assert!(event.time > 1.0e9);
        kinds.push(event.kind);
    }
    assert!(
        matches!(&kinds[0], EventKind::Watching { node, .. } if node == world::NODE),
        "{kinds:?}"
    );
    assert_eq!(
        kinds[1],
        EventKind::VipTaken {
            vip: vip(),
            services: vec!["default/web".to_owned()],
            reason: "start".to_owned()
        }
    );
    let has = |wanted: fn(&EventKind) -> bool| assert!(kinds.iter().any(wanted), "{kinds:?}");
    has(|kind| matches!(kind, EventKind::ConfigRefused { .. }));
    has(|kind| matches!(kind, EventKind::PassFailed { .. }));
}

#[test]
fn each_thing_that_happens_is_told_once() {
    let served = Served::new();
    served.snapshots.send_replace(Arc::new(well()));
    let mut watching = Watching::new(&served);
    while !matches!(watching.next().kind, EventKind::VipTaken { .. }) {}

    let mac = MacAddress([2, 0, 0, 0, 0, 9]);
    let foreign: ForeignHosts = [(vip(), mac)].into_iter().collect();
    let failure = Failure::told("route", "local 192.0.2.200".to_owned(), "no permission");
    let mut failed = well();
    failed.pass.failures.push(failure);
    let mut failed_again = failed.clone();
    failed_again.pass.number += 1;
    let mut lost = well();
    lost.source.connected = false;
    let mut refused = well();
    refused.config_problem = Some("edgelb.toml:3".to_owned());
    let drained = |owner| {
        let snapshot = owned_by(well(), owner);
        with_inputs(snapshot, |inputs| inputs.draining = true)
    };

    let one = |kinds: Vec<EventKind>| {
        assert_eq!(kinds.len(), 1);
        kinds.into_iter().next().unwrap()
    };
    let told = one(watching.after(owned_by(well(), Some("edge-b")), 1));
    assert!(
        matches!(&told, EventKind::VipLost { owner: Some(owner), .. } if owner == "edge-b"),
        "{told:?}"
    );
    let told = one(watching.after(well(), 1));
    assert!(matches!(&told, EventKind::VipTaken { vip: taken, .. } if *taken == vip()));
    let conflict = with_inputs(well(), |inputs| inputs.foreign = foreign);
    assert_eq!(
        one(watching.after(conflict, 1)),
        EventKind::Conflict { vip: vip(), mac }
    );
    assert_eq!(
        one(watching.after(well(), 1)),
        EventKind::ConflictOver { vip: vip() }
    );
    let told = one(watching.after(failed, 1));
    assert!(
        matches!(&told, EventKind::PassFailed { failures, .. } if failures.len() == 1),
        "{told:?}"
    );
    // The same failure of the next pass is nothing new.
    watching.after(failed_again, 0);
    let told = one(watching.after(well(), 1));
    assert!(matches!(told, EventKind::PassRecovered { .. }), "{told:?}");
    assert_eq!(one(watching.after(lost, 1)), EventKind::SourceLost);
    assert_eq!(one(watching.after(well(), 1)), EventKind::SourceBack);
    assert_eq!(
        one(watching.after(refused, 1)),
        EventKind::ConfigRefused {
            problem: "edgelb.toml:3".to_owned()
        }
    );
    assert_eq!(one(watching.after(well(), 1)), EventKind::ConfigAccepted);
    let peer = || "edge-b".to_owned();
    assert_eq!(
        one(watching.after(with_peer(well(), Presence::Alive), 1)),
        EventKind::PeerUp { peer: peer() }
    );
    assert_eq!(
        one(watching.after(with_peer(well(), Presence::Down), 1)),
        EventKind::PeerDown { peer: peer() }
    );
    assert_eq!(
        one(watching.after(drained(Some(world::NODE)), 1)),
        EventKind::Draining
    );
    let told = watching.after(drained(Some("edge-b")), 2);
    assert!(matches!(told[0], EventKind::VipLost { .. }), "{told:?}");
    assert_eq!(told[1], EventKind::Drained);
    let told = watching.after(owned_by(well(), Some("edge-b")), 1);
    assert_eq!(told, [EventKind::Undrained]);
}

#[test]
fn watchers_leave_room_for_questions_and_go_without_a_trace() {
    let served = Served::new();
    let path = served.path();
    for _ in 0..2 {
        let watching: Vec<_> = (0..MOST_WATCHERS)
            .map(|_| watch::<Value>(&path, &Arguments::new()).unwrap())
            .collect();
        let refused = watch::<Value>(&path, &Arguments::new());
        assert!(
            matches!(refused, Err(AskError::Refused { ref message, .. }) if message.contains("watch already")),
        );
        for _ in 0..MOST_CLIENTS {
            let _: Status = ask(&path, Command::Status).unwrap();
        }
        drop(watching);
        // The daemon sees that they went, and has their places again.
        let begin = Instant::now();
        while watch::<Value>(&path, &Arguments::new()).is_err() {
            assert!(begin.elapsed() < PATIENCE);
        }
    }
    let arguments = Arguments::from([(VIEW.to_owned(), "nothing".to_owned())]);
    let refused = watch::<Value>(&path, &arguments);
    assert!(
        matches!(refused, Err(AskError::Refused { ref message, .. }) if message.contains("knows the views")),
    );
}

/// It reads nothing while more happens than its queue and the socket's buffers hold.
#[test]
fn a_slow_watcher_is_told_how_much_it_missed() {
    let served = Served::new();
    let mut stream = UnixStream::connect(served.path()).unwrap();
    stream.write_all(b"{\"command\":\"watch\"}\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "{\"ok\":true}\n");
    // Each is an event of 8 KB.
    let failed = |number: usize| {
        let mut snapshot = well();
        let message = format!("{number} {}", "x".repeat(8_000));
        let failure = Failure::told("route", "local".to_owned(), &message);
        snapshot.pass.failures.push(failure);
        snapshot
    };
    let snapshots: Vec<Arc<Snapshot>> = (0..1500).map(|number| Arc::new(failed(number))).collect();
    for snapshot in snapshots {
        served.snapshots.send_replace(snapshot);
        // Each is seen for itself.
        thread::sleep(Duration::from_millis(2));
    }
    let mut missed = 0;
    let mut told = 0;
    while missed == 0 {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let event: Event = serde_json::from_str(&line).unwrap();
        match event.kind {
            EventKind::Missed { count } => missed = count,
            _ => told += 1,
        }
    }
    assert!(told >= 1000, "{told} told, {missed} missed");
}

fn edgelb(arguments: &[&str], served: &Served) -> (Child, BufReader<ChildStdout>) {
    let mut child = Process::new(env!("CARGO_BIN_EXE_edgelb"))
        .args(arguments)
        .arg("--socket")
        .arg(served.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

fn line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line
}

#[test]
fn events_are_lines_and_end_with_the_daemon() {
    let mut served = Served::new();
    let (mut child, mut stdout) = edgelb(&["status", "--watch", "-o", "json"], &served);
    let first: Value = serde_json::from_str(&line(&mut stdout)).unwrap();
    assert_eq!(first["event"], "watching");
    served
        .snapshots
        .send_replace(Arc::new(owned_by(world::snapshot(), Some("edge-b"))));
    let lost = loop {
        let event: Value = serde_json::from_str(&line(&mut stdout)).unwrap();
        checked(&event);
        if event["event"] == "vip_lost" {
            break event;
        }
    };
    assert_eq!(lost["vip"], "192.0.2.200");
    assert!(lost.get("snapshot").is_none(), "{lost}");
    served.stop();
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(error.contains("ended: watch again"), "{error}");
}

#[test]
fn a_table_is_drawn_again_when_it_is_another_one_and_clears_nothing_in_a_pipe() {
    let served = Served::new();
    let (mut child, mut stdout) = edgelb(&["vips", "--watch"], &served);
    let head = line(&mut stdout);
    assert!(head.starts_with("VIP "), "{head:?}");
    // Nothing of it changes in this view: the next table is of what comes then.
    let mut other = world::snapshot();
    other.pass.number += 1;
    served.snapshots.send_replace(Arc::new(other));
    thread::sleep(Duration::from_millis(600));
    served
        .snapshots
        .send_replace(Arc::new(owned_by(world::snapshot(), Some("edge-b"))));
    let mut rest = vec![head];
    while !rest.last().unwrap().contains("edge-b") {
        rest.push(line(&mut stdout));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let text = rest.concat();
    assert_eq!(text.matches("VIP ").count(), 2, "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_watching() {
    let served = Served::new();
    let (mut child, stdout) = edgelb(&["pools", "--watch", "-o", "json"], &served);
    drop(stdout);
    served.snapshots.send_replace(Arc::new(world::empty()));
    let begin = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(ended.code(), Some(0));
}
