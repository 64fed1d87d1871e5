//! How fast and how surely a silent node is found.

use std::time::Duration;

use crate::membership::simulation::{Network, name};
use crate::model::peer::{MemberState, Presence, Publication};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn ready() -> Publication {
    Publication {
        state: MemberState {
            ready: true,
            ..MemberState::default()
        },
        ..Publication::default()
    }
}

pub fn presence(network: &Network, of: usize, at: usize) -> Option<Presence> {
    network.nodes[at]
        .peers
        .members
        .get(&name(of))
        .map(|peer| peer.presence)
}

/// A network in which all see each other.
pub fn together(nodes: usize, seed: u64) -> Network {
    let mut network = Network::new(nodes, seed);
    for node in 0..nodes {
        network.start(node, ready());
    }
    network.run_for(ms(600));
    for node in 0..nodes {
        assert!(network.nodes[node].peers.settled);
        for other in (0..nodes).filter(|other| *other != node) {
            assert_eq!(
                presence(&network, other, node),
                Some(Presence::Alive),
                "{other} at {node}"
            );
        }
    }
    network
}

/// When each of the others sees the node down, in the order of nodes.
fn times_until_down(network: &mut Network, node: usize) -> Vec<Duration> {
    let last = network.now;
    let others: Vec<usize> = (0..network.nodes.len())
        .filter(|other| *other != node)
        .collect();
    let mut found: Vec<Option<Duration>> = vec![None; others.len()];
    while found.iter().any(Option::is_none) {
        assert!(
            network.step(last + ms(2000)).is_some(),
            "{node} is never found: {found:?}"
        );
        for (slot, other) in found.iter_mut().zip(&others) {
            if slot.is_none() && presence(network, node, *other) == Some(Presence::Down) {
                *slot = Some(network.now - last);
            }
        }
    }
    found.into_iter().flatten().collect()
}

#[test]
fn a_silent_node_is_found_in_time_and_never_early() {
    let mut all = Vec::new();
    for nodes in 2..=8 {
        let mut times = Vec::new();
        for seed in 0..40 {
            let mut network = together(nodes, seed);
            network.run_for(Duration::from_micros(seed * 1713));
            network.captured = Some(Vec::new());
            network.run_for(ms(100));
            let victim = usize::try_from(seed).unwrap() % nodes;
            let sent = |network: &Network| {
                let captured = network.captured.as_ref().unwrap().iter();
                let last = captured.filter(|delivered| delivered.datagram.sender == name(victim));
                last.map(|delivered| delivered.at).max().unwrap()
            };
            network.crash(victim);
            let crashed = network.now;
            let found = times_until_down(&mut network, victim);
            let last_sign = sent(&network);
            for time in found {
                times.push(time);
                assert!(
                    crashed + time - last_sign >= ms(250),
                    "{time:?} with {nodes} nodes is too early"
                );
            }
        }
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        println!(
            "{nodes} nodes: p1 {:?} median {:?} p99 {:?} max {:?}",
            at(1),
            at(50),
            at(99),
            at(100)
        );
        assert!(at(50) < ms(320) && at(99) < ms(400));
        all.extend(times);
    }
}

#[test]
fn five_nodes_for_four_seconds_cost_little() {
    let mut network = together(5, 1);
    let start = std::time::Instant::now();
    let sent = network.sent.0;
    network.run_for(ms(4000));
    println!(
        "{:?} for {} datagrams",
        start.elapsed(),
        network.sent.0 - sent
    );
}
