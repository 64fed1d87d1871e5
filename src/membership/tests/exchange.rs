//! Tables and records reach everybody, whatever is lost on the way.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use imbl::OrdMap;
use proptest::prelude::*;

use super::{all_alive, ms, others, presence, ready, start_all, together};
use crate::membership::simulation::{Network, name};
use crate::model::allocation::Allocations;
use crate::model::foreign::MacAddress;
use crate::model::peer::{Claims, Presence, Publication, PublishedInterface};
use crate::model::service::ServiceKey;

fn vip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number))
}

fn claims(numbers: impl Iterator<Item = u32>, claim: u64) -> Claims {
    numbers.map(|number| (vip(number), claim)).collect()
}

/// Whether everybody who is there has what everybody who is there publishes.
fn is_agreed(network: &Network) -> bool {
    let running = |node: usize| network.nodes[node].core.is_some();
    others(network.nodes.len())
        .filter(|(at, of)| running(*at) && running(*of))
        .all(|(at, of)| {
            let published = network.published(of);
            network.nodes[at]
                .peers
                .members
                .get(&name(of))
                .is_some_and(|peer| {
                    peer.claims == published.claims && peer.state == published.state
                })
        })
}

#[test]
fn a_change_is_known_to_all_at_once() {
    let mut network = together(5, 1);
    let mut publication = ready();
    publication.claims = claims(0..10, 1_700_000_000_000);
    network.publish(2, publication);
    network.run_for(ms(2));
    assert!(is_agreed(&network), "pushed, not fetched");
}

#[test]
fn a_late_joiner_gets_tables_of_ten_thousand_claims() {
    for loss in [0.0, 0.2] {
        let mut network = Network::new(4, 7);
        network.encodes = true;
        for node in 0..3 {
            network.start(node, ready());
        }
        network.run_for(ms(2100));
        for node in 0..3 {
            let mut publication = ready();
            publication.claims = claims(node * 10_000..(node + 1) * 10_000, 1_700_000_000_000);
            network.publish(node as usize, publication);
        }
        network.run_for(ms(200));
        network.loss = loss;
        network.start(3, ready());
        let start = network.now;
        let settled = network.run_while(ms(2500), |network| !network.nodes[3].peers.settled);
        assert!(settled);
        println!("settled after {:?} with loss {loss}", network.now - start);
        assert!(network.run_while(ms(5000), |network| !is_agreed(network)));
        println!(
            "30,000 claims after {:?} with loss {loss}",
            network.now - start
        );
        assert_eq!(
            network.nodes[3].peers.members[&name(0)].claims.len(),
            10_000
        );
    }
}

#[test]
fn claims_that_go_on_changing_reach_a_joiner() {
    let mut network = Network::new(3, 4);
    network.start(0, ready());
    network.start(1, ready());
    network.run_for(ms(600));
    let mut publication = ready();
    publication.claims = claims(0..10_000, 1);
    network.publish(0, publication.clone());
    network.run_for(ms(100));
    network.start(2, ready());
    for change in 0..200 {
        publication
            .claims
            .insert(vip(change * 50), u64::from(change) + 2);
        publication.claims.remove(&vip(change * 50 + 1));
        network.publish(0, publication.clone());
        network.run_for(ms(5));
    }
    network.run_for(ms(30));
    assert!(is_agreed(&network), "without a pause in between");
}

#[test]
fn a_state_that_fills_many_datagrams_arrives() {
    let mut network = together(3, 1);
    network.encodes = true;
    let mut publication = ready();
    publication.state.interfaces = (0..200_u8)
        .map(|number| PublishedInterface {
            name: format!("bond0.{number}"),
            mac: MacAddress([2, 0, 0, 0, 0, number]),
            subnets: vec![format!("10.{number}.0.1/24").parse().unwrap()],
        })
        .collect();
    network.loss = 0.2;
    network.publish(0, publication);
    assert!(network.run_while(ms(2000), |network| !is_agreed(network)));
}

fn allocations(numbers: impl Iterator<Item = u32>, node: &str) -> Allocations {
    let mut allocations = Allocations::default();
    for number in numbers {
        let service = ServiceKey::new("shop", format!("service-{number}").as_str());
        allocations.set(&service, vec![vip(number)], node);
    }
    allocations
}

/// Everything that anybody knows, as this node knows it.
fn known(network: &Network, node: usize) -> Allocations {
    let mut all = network.published(node).allocations.clone();
    all.merge(network.nodes[node].allocations.records().cloned());
    all
}

#[test]
fn allocations_merge_everywhere_whatever_the_order() {
    let mut network = together(4, 11);
    network.encodes = true;
    network.partition(&[0, 1]);
    network.run_for(ms(500));
    for (node, name) in [(0, "node-0"), (2, "node-2")] {
        let mut publication = ready();
        publication.allocations = allocations((0..50).map(|number| number * 4 + node), name);
        network.publish(node as usize, publication);
    }
    network.run_for(ms(500));
    assert_eq!(known(&network, 1), known(&network, 0));
    assert_ne!(known(&network, 2), known(&network, 0));
    network.heal();
    assert!(network.run_while(ms(2500), |network| {
        (1..4).any(|node| known(network, node) != known(network, 0))
    }));
    assert_eq!(known(&network, 3).records().count(), 100);
}

#[test]
fn ten_thousand_allocations_reach_a_joiner() {
    let mut network = Network::new(2, 3);
    network.start(0, ready());
    network.run_for(ms(100));
    let mut publication = ready();
    publication.allocations = allocations(0..10_000, "node-0");
    network.publish(0, publication);
    network.run_for(ms(1000));
    network.start(1, ready());
    let start = network.now;
    while known(&network, 1) != known(&network, 0) {
        network.run_for(ms(100));
        assert!(network.now - start < ms(8000));
    }
    println!("10,000 allocations within {:?}", network.now - start);
}

#[test]
fn values_that_did_not_change_are_not_shown_again() {
    let mut network = together(3, 1);
    network.run_for(ms(1000));
    let limit = network.now + Duration::from_secs(5);
    while let Some((_, changed)) = network.step(limit) {
        assert!(!changed, "nothing happened");
    }
    assert!(all_alive(&network));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Random edits, losses and partitions; then quiet.
    #[test]
    fn all_agree_once_it_is_quiet(
        seed in any::<u64>(),
        edits in prop::collection::vec((0_usize..4, 0_u32..200, any::<bool>(), 0_u64..120, 0_u8..8), 1..40),
    ) {
        let mut network = Network::new(4, seed);
        start_all(&mut network);
        network.loss = 0.1;
        for (claim, (node, number, takes, pause, event)) in (1_u64..).zip(edits) {
            match event {
                0 => network.partition(&[node]),
                1 => network.heal(),
                2 => network.crash(node),
                _ => {}
            }
            if network.nodes[node].core.is_none() {
                network.start(node, ready());
            }
            let mut publication: Publication = network.published(node).clone();
            if takes {
                publication.claims.insert(vip(number), claim);
            } else {
                let kept: OrdMap<IpAddr, u64> = publication.claims.iter().skip(1).map(|(vip, claim)| (*vip, *claim)).collect();
                publication.claims = kept;
            }
            network.publish(node, publication);
            network.run_for(ms(pause));
        }
        network.heal();
        network.loss = 0.0;
        network.run_for(ms(2500));
        prop_assert!(all_alive(&network));
        prop_assert!(is_agreed(&network));
        prop_assert_eq!(presence(&network, 1, 0), Some(Presence::Alive));
    }
}
