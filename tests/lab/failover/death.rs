//! A daemon, a node or a cable dies, or a daemon stands still; another node takes over.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use edgelb::lab::tool;

use super::field::{Field, Setup, VIP, bound, longest_blackout, service};

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

/// Somebody loads sets of 100,000 elements into `nf_tables` of the owner, over and over, while VIPs come
/// and go: whatever the owner wants of the same tables waits for so long, and nobody takes it for dead.
#[test]
fn large_transactions_of_somebody_else() {
    let field = Field::new();
    let owner = field.owner();
    let file = field.lab.directory().join("large.nft");
    std::fs::write(&file, large_ruleset()).unwrap();
    let (namespace, file) = (field.node(owner), file.to_str().unwrap());
    let workloads = field.workloads();
    let load = field.load();
    let longest = std::thread::scope(|scope| {
        let loading = scope.spawn(|| {
            let durations = (0..4).map(|_| {
                let start = Instant::now();
                tool(namespace, "nft", &["-f", file]).unwrap();
                start.elapsed()
            });
            durations.max().unwrap()
        });
        let mut number = 0;
        while !loading.is_finished() {
            number = number % 20 + 1;
            field.serve(&service(&format!("web-{number}"), number), &workloads);
            std::thread::sleep(Duration::from_millis(50));
        }
        loading.join().unwrap()
    });
    eprintln!("the longest took {longest:?}");
    load.end().assert_blackout_below(longest_blackout());
    for daemon in field.daemons.iter().flatten() {
        let log = daemon.log().unwrap();
        assert!(!log.contains("a node is silent"), "{log}");
    }
    field.keeps_owner(owner, bound(500));
}

/// One transaction: five times 100,000 elements.
fn large_ruleset() -> String {
    let mut text = String::from("table inet large\ndelete table inet large\ntable inet large\n");
    for set in 0..5_u32 {
        let _ = writeln!(text, "add set inet large s{set} {{ type ipv4_addr ; }}");
        let _ = write!(text, "add element inet large s{set} {{ ");
        for number in 0..100_000 {
            let _ = write!(text, "{}, ", Ipv4Addr::from_bits(0x0a00_0000 + number * 3));
        }
        text.push_str("}\n");
    }
    text
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
