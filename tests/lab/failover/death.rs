//! A daemon, a node or a cable dies, or a daemon stands still; another node takes over.

use std::collections::BTreeSet;
use std::time::Duration;

use super::field::{Field, Setup, VIP, bound, longest_blackout};

/// Bars of every unplanned failover: what clients saw, on the LAN and behind the router, what a
/// client saw that asked who has the VIP, and that no two nodes said so for long.
#[track_caller]
fn fails_over(field: &mut Field, fault: impl FnOnce(&mut Field, usize)) -> (usize, usize) {
    let owner = field.owner();
    let load = field.load_from(&[field.client(), field.remote()]);
    fault(field, owner);
    let other = field.other_owner(owner);
    load.wait_steady();
    let (blackout, seen) = (load.end(), field.eye.sightings());
    let silence = field.longest_silence(&seen);
    eprintln!("blackout {:?}, unresolved {silence:?}", blackout.blackout());
    blackout.assert_blackout_below(longest_blackout());
    assert!(
        silence < longest_blackout(),
        "nobody answered for {silence:?}"
    );
    field.assert_one_owner(&seen);
    (owner, other)
}

#[test]
fn a_killed_daemon() {
    let mut field = Field::new();
    let (owner, other) = fails_over(&mut field, |field, owner| {
        field.daemon(owner).kill().unwrap();
    });
    // What it announced is over, although its kernel still holds all of it.
    field.keeps_owner(other, bound(500));
    // It comes back, and a healthy owner keeps what it has.
    let load = field.load();
    field.start(owner);
    field.wait_ready(owner);
    field.wait_candidates(field.size());
    field.keeps_owner(other, bound(1000));
    load.end().assert_nothing_lost();
}

#[test]
fn a_node_without_power() {
    let mut field = Field::new();
    let mut failure = None;
    let (owner, other) = fails_over(&mut field, |field, owner| {
        let daemon = field.daemons[owner].as_mut();
        failure = Some(field.lab.power_off(owner, daemon).unwrap());
    });
    // A node that returns takes nothing from a healthy owner.
    let load = field.load();
    failure.unwrap().restore().unwrap();
    field.start(owner);
    field.wait_ready(owner);
    field.wait_candidates(field.size());
    field.keeps_owner(other, bound(1000));
    load.end().assert_nothing_lost();
}

#[test]
fn a_pulled_cable_while_the_nodes_still_hear_each_other() {
    let mut field = Field::with(&Setup {
        management: true,
        ..Setup::default()
    });
    let (owner, other) = fails_over(&mut field, |field, owner| {
        field.lab.unplug(field.name(owner)).unwrap();
    });
    let load = field.load();
    field.lab.plug(field.name(owner)).unwrap();
    field.wait_candidates(field.size());
    field.keeps_owner(other, bound(1000));
    load.end().assert_nothing_lost();
}

#[test]
fn a_pulled_cable_that_was_the_only_one() {
    let mut field = Field::new();
    let (owner, other) = fails_over(&mut field, |field, owner| {
        field.lab.unplug(field.name(owner)).unwrap();
    });
    // It comes back believing that it owns the VIP, and hears within a second that it does not.
    field.eye.reset();
    field.lab.plug(field.name(owner)).unwrap();
    field.heals(other);
}

/// It must not answer for what it lost while it stood still, not even once.
#[test]
fn a_frozen_daemon_that_goes_on() {
    let mut field = Field::new();
    let (owner, other) = fails_over(&mut field, |field, owner| {
        field.daemon(owner).freeze().unwrap();
    });
    let load = field.load();
    field.daemon(owner).thaw().unwrap();
    field.keeps_owner(other, bound(2000));
    load.end().assert_nothing_lost();
    field.wait_candidates(field.size());
    // And it is whole again: it takes over when it must.
    for node in 0..field.size() {
        if node != owner {
            field.daemon(node).kill().unwrap();
        }
    }
    assert_eq!(field.other_owner(other), owner);
}

/// For less time than its leave to speak lasts: nothing happens at all.
#[test]
fn a_daemon_that_stumbles() {
    let mut field = Field::new();
    let owner = field.owner();
    let load = field.load();
    for _ in 0..5 {
        field.daemon(owner).freeze().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        field.daemon(owner).thaw().unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    load.end().assert_nothing_lost();
    field.keeps_owner(owner, bound(500));
}

/// Case 49: the owner dies again and again.
#[test]
fn one_owner_after_another() {
    let mut field = Field::new();
    for round in 0..5 {
        let (owner, _) = fails_over(&mut field, |field, owner| {
            field.daemon(owner).kill().unwrap();
        });
        eprintln!("round {round}: {owner} died");
        field.start(owner);
        field.wait_ready(owner);
        field.wait_candidates(field.size());
    }
}

#[test]
fn all_but_one_at_once() {
    let mut field = Field::new();
    let owner = field.owner();
    let load = field.load();
    let last = (owner + 1) % field.size();
    for node in (0..field.size()).filter(|node| *node != last) {
        field.daemon(node).kill().unwrap();
    }
    assert_eq!(field.other_owner(owner), last);
    load.wait_steady();
    load.end().assert_blackout_below(longest_blackout() * 2);
    let seen = field.eye.sightings();
    field.assert_one_owner(&seen);
    let stations = field.stations();
    let voices: BTreeSet<_> = VIP
        .both()
        .into_iter()
        .flat_map(|address| seen.answering(address, None))
        .collect();
    assert!(voices.is_subset(&BTreeSet::from([stations[owner], stations[last]])));
}
