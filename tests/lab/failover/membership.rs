//! Nodes that do not hear each other, or not well, or not all of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use edgelb::lab::fault::Traffic;
use edgelb::lab::wire::Eye;

use super::field::{Field, LONGEST_CONTENTION, Setup, VIP, bound};
use crate::rig::{PATIENCE, eventually};

/// A firewall that drops their datagrams: they hear each other on the LAN, and nothing moves.
#[test]
fn datagrams_are_dropped_and_the_lan_is_whole() {
    let field = Field::new();
    let owner = field.owner();
    let load = field.load();
    let cut = field
        .lab
        .cut(&[0, 1, 2, 3, 4], Traffic::MembershipDatagrams)
        .unwrap();
    field.keeps_owner(owner, bound(3000));
    cut.mend().unwrap();
    field.keeps_owner(owner, bound(1000));
    load.end().assert_nothing_lost();
}

/// All that they tell one another is dropped, and clients reach each of them: the split brain of
/// every other system. One node alone answers again within a second.
#[test]
fn all_membership_is_dropped_and_the_lan_is_whole() {
    let field = Field::new();
    let load = field.load();
    field.owner();
    let cut = field
        .lab
        .cut(&[0, 1, 2, 3, 4], Traffic::Membership)
        .unwrap();
    let start = Instant::now();
    std::thread::sleep(bound(3000));
    let seen = field.eye.sightings();
    field.assert_one_owner(&seen);
    // From one second after the cut there was one voice.
    let settled = start + LONGEST_CONTENTION;
    let stations: BTreeSet<_> = field.stations().into_iter().collect();
    for address in VIP.both() {
        let late: BTreeSet<_> = seen
            .all()
            .iter()
            .filter(|sighting| sighting.at >= settled && sighting.address == address)
            .map(|sighting| sighting.mac)
            .filter(|mac| stations.contains(mac))
            .collect();
        assert_eq!(late.len(), 1, "{address}: {late:?}");
    }
    let owner = field.owner();
    field.eye.reset();
    cut.mend().unwrap();
    field.heals(owner);
    load.end().assert_blackout_below(bound(500));
}

/// Case 54: nothing passes between two halves; each has at most one owner, and after the healing
/// there is one within a second, without flapping.
#[test]
fn a_lan_in_two_halves() {
    let field = Field::new();
    let owner = field.owner();
    let names: Vec<_> = (0..5).map(|node| field.name(node)).collect();
    // The owner and one more node with the eye; the others with the client and all else.
    let one = [names[owner], names[(owner + 1) % 5], "client-2"];
    let mut other: Vec<_> = (2..5).map(|step| names[(owner + step) % 5]).collect();
    other.extend(["client-1", "client-3", "router", "edge-f"]);
    let other_eye = Eye::open(&field.lab.clients()[2], &VIP.both()).unwrap();
    let load = field.load();
    let cut = field.lab.partition(&one, &other).unwrap();
    let there = eventually(PATIENCE, || {
        field
            .owner_seen_by(&other_eye)
            .filter(|node| *node != owner)
    });
    assert!(other.contains(&names[there]));
    load.wait_steady();
    load.end().assert_blackout_below(bound(500));
    field.keeps_owner(owner, bound(1000));
    for eye in [&field.eye, &other_eye] {
        field.assert_one_owner(&eye.sightings());
        eye.reset();
    }

    let healed = Instant::now();
    cut.mend().unwrap();
    field.wait_candidates(5);
    std::thread::sleep(bound(1500).saturating_sub(healed.elapsed()));
    let seen = field.eye.sightings();
    field.assert_one_owner(&seen);
    field.assert_one_owner(&other_eye.sightings());
    let last = field.owner();
    assert_eq!(field.owner_seen_by(&other_eye), Some(last));
    // Whoever it is was one of the two, and nobody else ever spoke.
    assert!(last == owner || last == there);
    let stations = field.stations();
    for address in VIP.both() {
        let loser = stations[if last == owner { there } else { owner }];
        let late = seen.all().iter().any(|sighting| {
            sighting.address == address
                && sighting.mac == loser
                && sighting.at > healed + LONGEST_CONTENTION
        });
        assert!(!late, "{address}: the loser goes on answering");
    }
    field.keeps_owner(last, bound(1000));
}

/// One node hears nobody; all others hear one another.
#[test]
fn one_node_is_alone() {
    let field = Field::new();
    let owner = field.owner();
    let name = field.name(owner).to_owned();
    let others: Vec<_> = (0..5)
        .filter(|node| *node != owner)
        .map(|node| field.name(node))
        .chain(["client-1", "client-2", "client-3", "router", "edge-f"])
        .collect();
    let load = field.load();
    let cut = field.lab.partition(&[&name], &others).unwrap();
    let other = field.other_owner(owner);
    load.wait_steady();
    load.end().assert_blackout_below(bound(500));
    field.eye.reset();
    cut.mend().unwrap();
    field.heals(other);
}

#[test]
fn a_fifth_of_the_membership_is_lost() {
    let field = Field::new();
    let owner = field.owner();
    let load = field.load();
    let loss = field.lab.lose(20, Traffic::Membership).unwrap();
    field.keeps_owner(owner, bound(10_000));
    loss.mend().unwrap();
    load.end().assert_nothing_lost();
}

/// It is found out all the same.
#[test]
fn the_owner_dies_while_a_fifth_is_lost() {
    let mut field = Field::new();
    let owner = field.owner();
    let loss = field.lab.lose(20, Traffic::Membership).unwrap();
    let load = field.load();
    field.daemon(owner).kill().unwrap();
    field.other_owner(owner);
    load.wait_steady();
    let seen = field.eye.sightings();
    let silence = field.longest_silence(&seen);
    field.assert_one_owner(&seen);
    assert!(silence < bound(800), "nobody answered for {silence:?}");
    loss.mend().unwrap();
    drop(load);
}

#[test]
fn ten_joins_and_leaves_in_a_second() {
    let mut field = Field::with(&Setup {
        nodes: 11,
        daemons: 6,
        ..Setup::default()
    });
    let owner = field.owner();
    let load = field.load();
    let leaving: Vec<_> = (0..6).filter(|node| *node != owner).collect();
    let joining: Vec<_> = (6..11).collect();
    for (leaves, joins) in [(&leaving, &joining), (&joining, &leaving)] {
        let start = Instant::now();
        for (leave, join) in leaves.iter().zip(joins.iter()) {
            field.daemon(*leave).kill().unwrap();
            field.daemons[*leave] = None;
            field.start(*join);
        }
        let took = start.elapsed();
        assert!(took < bound(1000), "{took:?}");
        for join in joins {
            field.wait_ready(*join);
        }
        field.wait_candidates(6);
    }
    // Eleven programs that start at once take the processors from the clients too; nothing moved.
    load.end().assert_blackout_below(bound(500));
    let seen = field.eye.sightings();
    let station = BTreeSet::from([field.stations()[owner]]);
    for address in VIP.both() {
        assert_eq!(seen.answering(address, None), station, "{address}");
    }
}

/// Who owns what is decided among the nodes: nothing moves and nothing is withdrawn, and a node that
/// dies meanwhile is replaced (case 53).
#[test]
fn the_api_server_is_away() {
    let mut field = Field::with(&Setup {
        api_server: true,
        ..Setup::default()
    });
    let owner = field.owner();
    let load = field.load();
    field.lab.unplug("api").unwrap();
    field.keeps_owner(owner, Duration::from_secs(5));
    field.daemon(owner).kill().unwrap();
    let other = field.other_owner(owner);
    load.wait_steady();
    field.lab.plug("api").unwrap();
    field.keeps_owner(other, bound(1000));
    load.end().assert_blackout_below(bound(500));
}
