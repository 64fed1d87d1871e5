//! Tests of the machine on a virtual network, and of what it says on the wire.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unchecked_time_subtraction,
    clippy::similar_names
)]

mod detection;
mod exchange;
mod last_way;
mod opening;
mod runs;
mod trouble;
mod wire;

use std::time::Duration;

use super::simulation::{Network, name};
use crate::model::peer::{MemberState, Presence, Publication};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What a node that is ready publishes.
fn ready() -> Publication {
    Publication {
        state: MemberState {
            ready: true,
            ..MemberState::default()
        },
        ..Publication::default()
    }
}

fn presence(network: &Network, of: usize, at: usize) -> Option<Presence> {
    let peer = network.nodes[at].peers.members.get(&name(of));
    peer.map(|peer| peer.presence)
}

/// Who looks at whom.
fn others(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |at| {
        (0..nodes)
            .filter(move |of| *of != at)
            .map(move |of| (at, of))
    })
}

/// Whether all of them are alive to one another.
fn all_alive(network: &Network) -> bool {
    others(network.nodes.len()).all(|(at, of)| presence(network, of, at) == Some(Presence::Alive))
}

/// A network in which all see each other.
fn together(nodes: usize, seed: u64) -> Network {
    let mut network = Network::new(nodes, seed);
    start_all(&mut network);
    network
}

/// Starts all nodes and waits until they have settled.
fn start_all(network: &mut Network) {
    for node in 0..network.nodes.len() {
        network.start(node, ready());
    }
    network.run_for(ms(600));
    // Who misses a datagram of the join waits for the others for two seconds at most.
    if !network.nodes.iter().all(|node| node.peers.settled) {
        network.run_for(ms(1500));
    }
    assert!(network.nodes.iter().all(|node| node.peers.settled));
    assert!(all_alive(network));
}
