//! How fast and how surely a silent node is found.

use std::time::Duration;

use super::{all_alive, ms, others, presence, ready, start_all, together};
use crate::membership::core::Timing;
use crate::membership::simulation::{Network, name};
use crate::model::peer::Presence;

/// When each of the others sees the node down, in the order of nodes.
fn times_until_down(network: &mut Network, node: usize) -> Vec<Duration> {
    let last = network.now;
    let others: Vec<usize> = (0..network.nodes.len())
        .filter(|other| *other != node)
        .collect();
    let mut found: Vec<Option<Duration>> = vec![None; others.len()];
    while found.iter().any(Option::is_none) {
        assert!(
            network.step(last + ms(5000)).is_some(),
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

/// Loss of a fifth of all datagrams, both ways, for a minute: nobody is declared down.
#[test]
fn heavy_loss_makes_nobody_flap() {
    let mut lost = 0;
    for nodes in 2..=5 {
        for seed in 0..4 {
            let mut network = together(nodes, seed);
            network.loss = 0.2;
            let limit = network.now + Duration::from_secs(60);
            while let Some((_, changed)) = network.step(limit) {
                if changed && !all_alive(&network) {
                    lost += 1;
                }
            }
            network.loss = 0.0;
            network.run_for(ms(500));
            assert!(all_alive(&network));
        }
    }
    println!("{lost} times somebody was not alive in {} minutes", 4 * 4);
    assert!(lost == 0);
}

/// A link between two of three is cut: both are still heard by the third one, which says so.
#[test]
fn a_cut_link_between_two_is_bridged_by_the_third() {
    let mut network = together(3, 3);
    network.cut(0, 1);
    let limit = network.now + Duration::from_secs(5);
    while network.step(limit).is_some() {
        assert!(all_alive(&network));
    }
    // What the one tells is known to the other as well.
    let mut publication = super::ready();
    publication.state.draining = true;
    publication.claims.insert("192.0.2.7".parse().unwrap(), 7);
    network.publish(0, publication.clone());
    network.run_for(ms(300));
    let peer = &network.nodes[1].peers.members[&name(0)];
    assert_eq!(
        (&peer.state, &peer.claims),
        (&publication.state, &publication.claims)
    );
    network.crash(0);
    network.run_for(ms(400));
    assert_eq!(presence(&network, 0, 1), Some(Presence::Down));
    assert_eq!(presence(&network, 0, 2), Some(Presence::Down));
}

#[test]
fn a_partition_heals() {
    let mut network = together(5, 9);
    network.partition(&[0, 1]);
    network.run_for(ms(400));
    for (at, of) in others(5) {
        let together = (at < 2) == (of < 2);
        let expected = if together {
            Presence::Alive
        } else {
            Presence::Down
        };
        assert_eq!(presence(&network, of, at), Some(expected), "{of} at {at}");
    }
    network.run_for(Duration::from_secs(60));
    network.heal();
    let healed = network.now;
    assert!(network.run_while(ms(1500), |network| !all_alive(network)));
    println!("healed within {:?}", network.now - healed);
    let limit = network.now + Duration::from_secs(3);
    while network.step(limit).is_some() {
        assert!(all_alive(&network), "it stays healed");
    }
}

/// The UDP path is cut and the LAN is whole: nobody notices but the ways that are shown.
#[test]
fn frames_carry_on_when_udp_is_cut() {
    let mut network = Network::new(4, 5);
    network.has_lan = true;
    start_all(&mut network);
    network.run_for(ms(1000));
    let heard = |network: &Network| {
        let mut heard = others(4).map(|(at, of)| network.nodes[at].peers.members[&name(of)].heard);
        let first = heard.next().unwrap();
        assert!(heard.all(|other| other == first));
        (first.udp, first.lan)
    };
    assert_eq!(heard(&network), (true, true));
    for link in others(4) {
        network.cut_udp.insert(link);
    }
    let limit = network.now + Duration::from_secs(3);
    while network.step(limit).is_some() {
        assert!(all_alive(&network));
    }
    assert_eq!(heard(&network), (false, true));
    network.heal();
    network.run_for(ms(1200));
    assert_eq!(heard(&network), (true, true));
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

/// Whatever `membership.probe_interval` is: nobody is found silent before the lease of its fence is over,
/// nor later than four intervals, and loss makes nobody flap.
#[test]
fn every_probe_interval_leaves_the_lease_its_time() {
    for interval in [20, 50, 250, 1000].map(ms) {
        let lease = crate::config::lease(interval);
        let timing = Timing::new(interval);
        // From the last renewal on, which comes after the last sign of life.
        assert!(lease + interval / 2 <= timing.silence_agreed);
        assert!(timing.held_up < timing.silence_agreed && lease >= interval * 2);
        for seed in 0..20 {
            let nodes = 2 + usize::try_from(seed).unwrap() % 4;
            let mut network = Network::new(nodes, seed);
            network.probe_interval = interval;
            start_all(&mut network);
            network.run_for(ms(2500) + interval * 10);
            network.run_for(Duration::from_micros(seed * 1713));
            assert!(all_alive(&network), "{interval:?}");
            network.loss = 0.2;
            let limit = network.now + interval * 100;
            while network.step(limit).is_some() {
                assert!(all_alive(&network), "{interval:?} with {nodes} nodes");
            }
            network.loss = 0.0;
            network.run_for(interval * 5);
            network.crash(0);
            for time in times_until_down(&mut network, 0) {
                assert!(time >= lease, "{time:?} of {interval:?}");
                assert!(time <= interval * 4, "{time:?} of {interval:?}");
            }
        }
    }
}

/// Greetings come by frames and by UDP at once: both are answered, or a pair that met by frames alone
/// waits for the other way for as long as chance will have it, and with it the join of both.
#[test]
fn nodes_on_a_lan_meet_by_both_ways() {
    for nodes in [2, 3, 5, 8, 12] {
        for seed in 0..20 {
            let mut network = Network::new(nodes, seed);
            network.has_lan = true;
            for node in 0..nodes {
                network.start(node, ready());
            }
            network.run_for(ms(250));
            for (at, of) in others(nodes) {
                let node = &network.nodes[at];
                assert!(node.peers.settled, "{at} of {nodes}, seed {seed}");
                let heard = node.peers.members[&name(of)].heard;
                assert!(
                    heard.udp && heard.lan,
                    "{at} of {nodes}, seed {seed}: {heard:?}"
                );
            }
        }
    }
}
