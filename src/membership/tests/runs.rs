//! Restarts: who is waited for, what of an earlier run has any effect, and a node that was held up.

use std::time::Duration;

use super::{all_alive, ms, presence, ready, together};
use crate::membership::Told;
use crate::membership::core::{Accepted, Refusal};
use crate::membership::datagram::Body;
use crate::membership::simulation::{Delivered, EPOCH, Network, name};
use crate::model::peer::{Presence, Publication};

fn announce_restart(network: &mut Network, node: usize) {
    let mut publication = network.published(node).clone();
    publication.state.restarting = true;
    network.publish(node, publication);
    network.run_for(ms(2));
    network.crash(node);
}

#[test]
fn who_said_that_it_restarts_is_waited_for() {
    let mut network = together(3, 1);
    announce_restart(&mut network, 0);
    assert_eq!(presence(&network, 0, 1), Some(Presence::Restarting));
    network.run_for(ms(2900));
    assert_eq!(presence(&network, 0, 1), Some(Presence::Restarting));
    network.run_for(ms(200));
    assert_eq!(
        presence(&network, 0, 1),
        Some(Presence::Down),
        "its time is over"
    );

    let mut network = together(3, 2);
    announce_restart(&mut network, 0);
    network.run_for(ms(1000));
    network.start(0, Publication::default());
    network.run_for(ms(500));
    assert_eq!(
        presence(&network, 0, 1),
        Some(Presence::Restarting),
        "it is not ready yet"
    );
    network.publish(0, ready());
    network.run_for(ms(5));
    assert_eq!(presence(&network, 0, 1), Some(Presence::Alive));

    let mut network = together(3, 3);
    announce_restart(&mut network, 0);
    network.run_for(ms(1000));
    network.start(0, Publication::default());
    network.run_for(ms(2100));
    assert_eq!(
        presence(&network, 0, 1),
        Some(Presence::Alive),
        "there, but not ready"
    );

    let mut network = Network::new(2, 4);
    network.restart_grace = Duration::ZERO;
    super::start_all(&mut network);
    announce_restart(&mut network, 0);
    network.run_for(ms(400));
    assert_eq!(
        presence(&network, 0, 1),
        Some(Presence::Down),
        "nobody waits"
    );
}

/// Who lost all others may have been followed: nobody heard that it restarts.
#[test]
fn a_restart_is_told_only_to_who_is_there() {
    let mut network = together(3, 5);
    assert_eq!(network.announce_restart(0), Some(Told::Others));
    network.run_for(ms(2));
    assert_eq!(presence(&network, 0, 1), Some(Presence::Restarting));

    let mut network = together(3, 6);
    network.cut(0, 1);
    network.run_for(ms(1000));
    assert_eq!(network.announce_restart(0), Some(Told::Others));
    network.partition(&[0]);
    network.run_for(ms(1000));
    assert_eq!(presence(&network, 2, 0), Some(Presence::Down));
    assert_eq!(network.announce_restart(0), None);

    let mut network = Network::new(2, 8);
    network.start(0, ready());
    network.run_for(ms(3000));
    assert_eq!(network.announce_restart(0), Some(Told::Nobody));
}

#[test]
fn a_restart_without_a_word_is_seen_by_its_epoch() {
    let mut network = together(3, 1);
    let epoch = |network: &Network| network.nodes[1].peers.members[&name(0)].epoch;
    let before = epoch(&network);
    network.crash(0);
    network.run_for(ms(50));
    let mut publication = ready();
    publication.claims.insert("192.0.2.1".parse().unwrap(), 5);
    network.start(0, publication.clone());
    network.run_for(ms(150));
    assert!(epoch(&network) > before);
    assert_eq!(
        network.nodes[1].peers.members[&name(0)].claims,
        publication.claims
    );
    assert_eq!(presence(&network, 0, 1), Some(Presence::Alive));
}

#[test]
fn a_clock_that_went_back_does_not_keep_a_node_out() {
    let mut network = together(3, 1);
    network.crash(0);
    network.run_for(ms(500));
    let mut publication = ready();
    publication.state.draining = true;
    network.start_at(0, publication, 12_345);
    network.run_for(ms(500));
    let peer = &network.nodes[1].peers.members[&name(0)];
    assert_eq!(peer.presence, Presence::Alive);
    assert!(peer.state.draining, "what it says now counts");
    assert!(peer.epoch > EPOCH, "it chose a greater epoch");
}

/// What node 0 got from node 1 in half a second.
fn captured(network: &mut Network) -> Vec<Delivered> {
    network.captured = Some(Vec::new());
    network.run_for(ms(500));
    let all = network.captured.take().unwrap();
    all.into_iter()
        .filter(|one| one.to == 0 && one.datagram.sender == name(1))
        .collect()
}

#[test]
fn a_replayed_datagram_does_nothing() {
    let mut network = together(2, 1);
    let captured = captured(&mut network);
    assert!(
        captured
            .iter()
            .any(|one| matches!(one.datagram.body, Body::Swim(_)))
    );
    for node in [0, 1] {
        // After the end of its sender, and while it runs.
        if node == 0 {
            network.crash(1);
            network.run_for(ms(500));
        } else {
            network.start(1, ready());
            network.run_for(ms(500));
        }
        let before = network.nodes[0].peers.clone();
        network.captured = Some(Vec::new());
        for one in &captured {
            network.deliver(0, one.from, one.datagram.clone());
        }
        let results = network.captured.take().unwrap();
        assert!(results.iter().all(|one| {
            matches!(
                one.result,
                Err(Refusal::Replayed | Refusal::OtherRun) | Ok(Accepted::Handshake)
            )
        }));
        assert_eq!(network.nodes[0].peers, before);
        network.run_for(ms(300));
        assert_eq!(network.nodes[0].peers, before);
    }
}

#[test]
fn nothing_of_before_a_restart_of_the_receiver_counts() {
    let mut network = together(2, 1);
    // From the very first datagram on: the handshakes are among them.
    network.captured = Some(Vec::new());
    network.crash(0);
    network.start(0, ready());
    network.run_for(ms(700));
    let all = network.captured.take().unwrap();
    let captured: Vec<Delivered> = all.into_iter().filter(|one| one.to == 0).collect();
    assert!(
        captured
            .iter()
            .any(|one| matches!(one.datagram.body, Body::Hello { answer: 1.., .. }))
    );
    network.crash(0);
    network.crash(1);
    network.start(0, ready());
    for round in 0..3 {
        for one in &captured {
            network.deliver(0, one.from, one.datagram.clone());
            network.run_for(ms(3));
        }
        assert!(network.nodes[0].peers.members.is_empty(), "round {round}");
    }
}

#[test]
fn a_node_that_was_held_up_declares_nobody_down_and_asks_first() {
    let mut network = together(4, 6);
    network.freeze(0);
    network.run_for(ms(2000));
    assert_eq!(presence(&network, 0, 1), Some(Presence::Down));
    // Meanwhile another one owns what it owned.
    let mut publication = ready();
    publication.claims.insert("192.0.2.1".parse().unwrap(), 9);
    network.publish(1, publication.clone());
    network.run_for(ms(100));
    network.thaw(0);
    assert!(
        !network.nodes[0].peers.settled,
        "it does not know what happened"
    );
    let limit = network.now + ms(1000);
    let thawed = network.now;
    let mut settled = None;
    while network.step(limit).is_some() {
        let peers = &network.nodes[0].peers;
        assert!(
            peers
                .members
                .values()
                .all(|peer| peer.presence == Presence::Alive)
        );
        if peers.settled && settled.is_none() {
            settled = Some(network.now - thawed);
            assert_eq!(peers.members[&name(1)].claims, publication.claims);
        }
    }
    println!("settled {settled:?} after it went on");
    assert!(settled.unwrap() < ms(200));
    assert!(all_alive(&network));
}

#[test]
fn a_short_delay_of_the_machine_is_no_silence_of_others() {
    let mut network = together(3, 8);
    network.freeze(0);
    network.run_for(ms(200));
    network.thaw(0);
    let limit = network.now + ms(1000);
    while network.step(limit).is_some() {
        assert!(all_alive(&network));
    }
}

#[test]
fn two_nodes_of_one_name_are_told_apart_from_an_echo() {
    let mut network = together(2, 1);
    let captured = captured(&mut network);
    let mut echo = captured[0].datagram.clone();
    echo.sender = name(0).into();
    network.captured = Some(Vec::new());
    network.deliver(0, captured[0].from, echo);
    let results = network.captured.take().unwrap();
    assert_eq!(results[0].result, Err(Refusal::OwnName));
}
