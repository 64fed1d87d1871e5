//! Many joins and leaves, and starts of all sorts: who is waited for at the start.

use std::time::Duration;

use super::{all_alive, ms, others, presence, ready, together};
use crate::membership::core::Target;
use crate::membership::simulation::Network;
use crate::model::peer::Presence;

#[test]
fn whoever_finds_nobody_settles_after_a_second() {
    let mut network = Network::new(3, 1);
    network.start(0, ready());
    network.run_for(ms(990));
    assert!(!network.nodes[0].peers.settled);
    network.run_for(ms(60));
    assert!(network.nodes[0].peers.settled);
    assert!(network.nodes[0].peers.members.is_empty());
}

#[test]
fn whoever_found_all_settles_at_once() {
    let mut network = Network::new(3, 1);
    let start = network.now;
    for node in 0..3 {
        network.start(node, ready());
    }
    assert!(network.run_while(ms(500), |network| {
        network.nodes.iter().any(|node| !node.peers.settled)
    }));
    println!("settled after {:?}", network.now - start);
    assert!(
        all_alive(&network),
        "settled means that whoever is there is seen"
    );
}

#[test]
fn ten_joins_and_leaves_in_a_second_end_well() {
    for seed in 0..5 {
        let mut network = together(5, seed);
        for round in 0..10 {
            let node = (round % 2) + 3;
            if network.nodes[node].core.is_some() {
                network.crash(node);
            } else {
                network.start(node, ready());
            }
            network.run_for(ms(100));
            for (at, of) in others(3) {
                assert_eq!(presence(&network, of, at), Some(Presence::Alive));
            }
        }
        for node in [3, 4] {
            if network.nodes[node].core.is_none() {
                network.start(node, ready());
            }
        }
        network.run_for(ms(1000));
        assert!(all_alive(&network));
    }
}

/// Everybody knows node 0 only: the others are found through it.
#[test]
fn one_known_address_is_enough() {
    let mut network = Network::new(5, 1);
    for node in 0..5 {
        network.start(node, ready());
        let core = network.nodes[node].core.as_mut().unwrap();
        let seed = Target {
            addresses: vec!["198.51.100.1:9751".parse().unwrap()],
        };
        core.seek(network.now, if node == 0 { Vec::new() } else { vec![seed] });
        core.take_outgoing();
    }
    assert!(network.run_while(Duration::from_secs(3), |network| {
        others(5).any(|(at, of)| {
            network.nodes[at]
                .peers
                .members
                .get(&super::name(of))
                .is_none_or(|peer| !peer.heard.udp)
        })
    }));
}

/// Five quiet nodes: what an idle second costs.
#[test]
fn an_idle_network_says_little() {
    let mut network = together(5, 1);
    network.encodes = true;
    network.run_for(ms(2000));
    let before = network.sent;
    network.run_for(Duration::from_secs(10));
    let datagrams = (network.sent.0 - before.0) / 50;
    let octets = (network.sent.1 - before.1) / 50;
    println!("{datagrams} datagrams/s and {octets} octets/s by each of five nodes, unsealed");
    assert!(datagrams < 200 && octets < 40_000);
}
