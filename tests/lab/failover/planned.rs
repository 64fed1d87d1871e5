//! What somebody does on purpose: no new connection and no request is lost by it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgelb::lab::client::open_stream;

use super::field::{EXCLUDED, Field, VIP, bound};
use crate::rig::{START, ipvs};

/// For how long new clients may ask in vain. Not measured on an emulated machine: a node that is not run
/// for longer than its lease, which happens there, is rightly silent until it has heard the others. That
/// nothing is lost counts there too.
#[track_caller]
fn assert_silence(silence: Duration, bar: Duration) {
    assert!(ipvs() || silence < bar, "nobody answered for {silence:?}");
}

#[test]
fn drain_and_undrain_under_load() {
    let mut field = Field::new();
    let owner = field.owner();
    let load = field.load_from(&[field.client(), field.remote()]);
    field.command(owner, "drain");
    let other = field.other_owner(owner);
    load.wait_steady();
    // It can be ended now, and nobody notices.
    field.daemon(owner).terminate(START).unwrap();
    load.wait_steady();
    field.start(owner);
    field.wait_ready(owner);
    field.command(owner, "undrain");
    field.wait_candidates(field.size());
    let seen = field.eye.sightings();
    let silence = field.longest_silence(&seen);
    load.end().assert_nothing_lost();
    field.assert_one_owner(&seen);
    assert_silence(silence, bound(200));
    // Taking part again is no reason to take a VIP back.
    field.keeps_owner(other, bound(500));
}

#[test]
fn one_drain_after_another_until_one_node_is_left() {
    let field = Field::new();
    let load = field.load();
    let mut owner = field.owner();
    for _ in 1..field.size() {
        field.command(owner, "drain");
        owner = field.other_owner(owner);
        load.wait_steady();
    }
    for node in (0..field.size()).filter(|node| *node != owner) {
        field.command(node, "undrain");
    }
    field.wait_candidates(field.size());
    load.end().assert_nothing_lost();
    field.assert_one_owner(&field.eye.sightings());
}

/// Established connections included.
#[test]
fn a_restart_under_load() {
    let mut field = Field::new();
    let owner = field.owner();
    let mut streams: Vec<_> = VIP
        .both()
        .into_iter()
        .flat_map(|address| [(field.client(), address), (field.remote(), address)])
        .map(|(client, address)| open_stream(client, SocketAddr::new(address, 80)).unwrap())
        .collect();
    for stream in &mut streams {
        stream.send("before").unwrap();
    }
    let load = field.load_from(&[field.client(), field.remote()]);
    let start = Instant::now();
    field.daemon(owner).terminate(START).unwrap();
    let ended = start.elapsed();
    field.start(owner);
    field.wait_ready(owner);
    let ready = start.elapsed();
    field.wait_candidates(field.size());
    std::thread::sleep(Duration::from_millis(500));
    load.end().assert_nothing_lost();
    let seen = field.eye.sightings();
    field.assert_one_owner(&seen);
    let silence = field.longest_silence(&seen);
    eprintln!("ended after {ended:?}, ready after {ready:?}, nobody answered for {silence:?}");
    // What it owned it announces without waiting for the others, who wait for it, and before its first
    // pass; a busy machine takes its time for both, and its last answer may be a while before the end.
    assert_silence(silence, bound(250).max(ready + bound(100)));
    assert_eq!(field.owner(), owner);
    for stream in &mut streams {
        assert_eq!(stream.send("after").unwrap().text, "after");
    }
}

/// The machine goes down: its VIPs move before the daemon ends, and nobody waits for it.
#[test]
fn a_node_that_is_switched_off() {
    let mut field = Field::new();
    let owner = field.owner();
    let load = field.load_from(&[field.client(), field.remote()]);
    let socket = field.daemon(owner).admin_socket();
    std::fs::write(socket.with_file_name("leaving"), "").unwrap();
    let start = Instant::now();
    field.daemon(owner).terminate(START).unwrap();
    let ended = start.elapsed();
    let other = field.other_owner(owner);
    load.wait_steady();
    let seen = field.eye.sightings();
    let silence = field.longest_silence(&seen);
    eprintln!("ended after {ended:?}, nobody answered for {silence:?}");
    load.end().assert_nothing_lost();
    field.assert_one_owner(&seen);
    assert!(ended < bound(2000), "{ended:?}");
    assert!(silence < bound(200), "nobody answered for {silence:?}");
    // It is no drain: after the next start it takes part as before.
    field.start(owner);
    field.wait_ready(owner);
    field.wait_candidates(field.size());
    field.keeps_owner(other, bound(500));
    // Where nobody could follow, nobody is waited for.
    for node in (0..field.size()).filter(|node| *node != owner) {
        field.daemon(node).kill().unwrap();
    }
    assert_eq!(field.other_owner(other), owner);
    std::fs::write(socket.with_file_name("leaving"), "").unwrap();
    let start = Instant::now();
    field.daemon(owner).terminate(START).unwrap();
    assert!(start.elapsed() < bound(1000), "{:?}", start.elapsed());
}

/// A node that said it restarts and does not come back loses its VIPs when its time is over.
#[test]
fn a_restart_that_never_ends() {
    let mut field = Field::new();
    let owner = field.owner();
    let load = field.load();
    field.daemon(owner).terminate(START).unwrap();
    let start = Instant::now();
    field.other_owner(owner);
    // The grace is 3 s by default.
    let after = start.elapsed();
    assert!(
        after > Duration::from_millis(2500) && after < Duration::from_millis(4500),
        "{after:?}"
    );
    load.wait_steady();
    field.assert_one_owner(&field.eye.sightings());
}

#[test]
fn the_label_that_excludes_a_node() {
    let field = Field::new();
    let owner = field.owner();
    let load = field.load();
    let node = &field.lab.nodes()[owner];
    field
        .manifests
        .write_labelled_node(node, &[EXCLUDED])
        .unwrap();
    let other = field.other_owner(owner);
    load.wait_steady();
    field.manifests.write_node(node).unwrap();
    field.wait_candidates(field.size());
    load.end().assert_nothing_lost();
    field.keeps_owner(other, bound(500));
}

#[test]
fn the_label_that_drains_a_node() {
    let field = Field::new();
    let owner = field.owner();
    let load = field.load();
    let node = &field.lab.nodes()[owner];
    field
        .manifests
        .write_labelled_node(node, &[("edgelb.io/drain", "true")])
        .unwrap();
    let other = field.other_owner(owner);
    load.wait_steady();
    field.manifests.write_node(node).unwrap();
    field.wait_candidates(field.size());
    load.end().assert_nothing_lost();
    field.keeps_owner(other, bound(500));
}
