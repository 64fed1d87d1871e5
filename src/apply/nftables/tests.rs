//! The edits between two states lead from the elements of the one to those of the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::edits::{batches, between, differences};
use super::element::{Digest, Elements, List, of_state};
use super::expression::Choice;
use super::rules::{OUTSIDE_INDEX, Pick};
use super::{Layout, describe, describe_chains};
use crate::apply::forwarder::Forwarder;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{
    Affinity, ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment,
    Verdict,
};
use crate::model::node_state::{HeldFor, NodeState};
use crate::model::scheduler::Scheduler;
use crate::model::service::ServiceKey;

fn any_verdict() -> impl Strategy<Value = Verdict> {
    let real_servers = prop::collection::btree_set(1_u8..5, 1..4).prop_map(|lasts| {
        let real_servers = lasts.into_iter().map(|last| RealServer {
            address: [10, 244, 0, last].into(),
            port: 8080,
        });
        Verdict::Forward(real_servers.collect())
    });
    prop_oneof![3 => real_servers, 1 => Just(Verdict::Refuse), 1 => Just(Verdict::Drop)]
}

fn any_frontend() -> impl Strategy<Value = (FrontendPort, Arc<Frontend>)> {
    let address = prop_oneof![
        (1_u8..4).prop_map(|last| FrontendAddress::Address([192, 0, 2, last].into())),
        Just(FrontendAddress::NodePort(Family::V4)),
    ];
    let treatment = || {
        (any_verdict(), any::<bool>()).prop_map(|(verdict, masquerade)| Treatment {
            verdict,
            masquerade,
        })
    };
    let affinity = prop::option::of((0_u64..2, 1_u64..3)).prop_map(|affinity| {
        affinity.map(|(scope, seconds)| Affinity {
            scope,
            timeout: Duration::from_secs(seconds),
        })
    });
    let allowed = prop::collection::btree_set(0_u8..4, 1..4).prop_map(|thirds| {
        let ranges = thirds.into_iter().map(|third| {
            let prefix = if third % 2 == 0 { 24 } else { 32 };
            IpNet::new([198, 51, third, 0].into(), prefix).unwrap()
        });
        ranges.collect::<Arc<[IpNet]>>()
    });
    let scheduler = prop::sample::select(vec![Scheduler::Rr, Scheduler::Sh, Scheduler::Mh]);
    let wishes = (affinity, prop::option::of(allowed), scheduler);
    (address, 80_u16..82, treatment(), treatment(), wishes).prop_map(
        |(address, port, outside, inside, wishes)| {
            let port = FrontendPort {
                address,
                protocol: Protocol::Tcp,
                port,
            };
            let frontend = Frontend {
                service: ServiceKey::new("shop", "web"),
                treatments: [outside.clone(), inside.clone(), inside, outside],
                session_affinity: wishes.0,
                allowed_sources: wishes.1,
                keeps: Arc::default(),
                forwarding_method: ForwardingMethod::Masquerade,
                scheduler: wishes.2,
            };
            (port, Arc::new(frontend))
        },
    )
}

fn any_state() -> impl Strategy<Value = NodeState> {
    let addresses = || {
        prop::collection::vec(
            (1_u8..6).prop_map(|last| IpAddr::from([192, 0, 2, last])),
            0..4,
        )
    };
    let ranges = || {
        prop::collection::vec(
            prop::sample::select(vec![
                "10.0.0.0/9",
                "10.128.0.0/9",
                "10.1.0.0/16",
                "fd00::/8",
                "::/0",
                "0.0.0.0/0",
            ]),
            0..3,
        )
    };
    (
        prop::collection::vec(any_frontend(), 0..5),
        (addresses(), addresses(), addresses(), addresses()),
        (ranges(), ranges()),
    )
        .prop_map(
            |(frontends, (held, answering, node, hairpin), (pods, services))| NodeState {
                frontends: frontends.into_iter().collect(),
                held: held
                    .into_iter()
                    .map(|address| (address, HeldFor::Vip))
                    .collect(),
                answering: answering.into_iter().collect(),
                node_addresses: node.into_iter().collect(),
                hairpin: hairpin.into_iter().collect(),
                pod_ranges: pods
                    .iter()
                    .map(|range| range.parse::<IpNet>().unwrap())
                    .collect(),
                service_ranges: services
                    .iter()
                    .map(|range| range.parse::<IpNet>().unwrap())
                    .collect(),
                ..NodeState::default()
            },
        )
}

proptest! {
    #[test]
    fn edits_lead_from_one_state_to_the_other(old in any_state(), new in any_state(), ipvs: bool) {
        let mut elements: Elements = of_state(&old, layout(ipvs));
        let edits = between(&old, &new, layout(ipvs));
        let single = edits.single.into_iter().chain(edits.later);
        for edits in batches(edits.ranges, single, 1000) {
            for ((table, family), whole) in edits.ranges {
                elements.retain(|key, _| key.table != table || key.family != family);
                elements.extend(whole);
            }
            for edit in edits.single {
                prop_assert_eq!(elements.get(&edit.key), edit.old.as_ref(), "the kernel has what goes");
                match edit.new {
                    Some(value) => elements.insert(edit.key, value),
                    None => elements.remove(&edit.key),
                };
            }
        }
        prop_assert_eq!(elements, of_state::<Elements>(&new, layout(ipvs)));
        prop_assert!(between(&new, &new.clone(), layout(ipvs)).is_empty());
    }

    #[test]
    fn repairs_lead_from_what_is_there_to_what_is_wanted(old in any_state(), new in any_state(), ipvs: bool) {
        let mut elements: Elements = of_state(&old, layout(ipvs));
        let mut present: List = of_state(&old, layout(ipvs));
        // The kernel lists them in no order.
        present.reverse();
        let (ranges, single) = differences(present, of_state(&new, layout(ipvs)));
        for edits in batches(ranges, single, 1000) {
            for ((table, family), whole) in edits.ranges {
                elements.retain(|key, _| key.table != table || key.family != family);
                elements.extend(whole);
            }
            for edit in edits.single {
                prop_assert_eq!(elements.get(&edit.key), edit.old.as_ref(), "the kernel has what goes");
                prop_assert_ne!(&edit.old, &edit.new);
                match edit.new {
                    Some(value) => elements.insert(edit.key, value),
                    None => elements.remove(&edit.key),
                };
            }
        }
        prop_assert_eq!(elements, of_state::<Elements>(&new, layout(ipvs)));
        let mut reversed: List = of_state(&new, layout(ipvs));
        reversed.reverse();
        let mut digest = Digest::default();
        digest.extend(reversed);
        prop_assert_eq!(digest, of_state(&new, layout(ipvs)));
        let same = of_state::<Elements>(&old, layout(ipvs)) == of_state::<Elements>(&new, layout(ipvs));
        prop_assert_eq!(digest == of_state(&old, layout(ipvs)), same);
        let (ranges, single) = differences(of_state(&new, layout(ipvs)), of_state(&new, layout(ipvs)));
        prop_assert!(ranges.is_empty() && single.count() == 0);
    }

    #[test]
    fn the_name_of_a_chain_tells_what_it_chooses_from(
        six: bool, node_port: bool, outside: bool, sticky in proptest::option::of(any::<u32>()),
        choice in prop::sample::select(vec![Choice::Random, Choice::Source, Choice::Flow]),
        count in 1..OUTSIDE_INDEX,
    ) {
        let family = if six { Family::V6 } else { Family::V4 };
        let pick = Pick { family, node_port, outside, sticky, choice, count };
        prop_assert_eq!(Pick::parse(&pick.name()), Some(pick));
    }
}

#[test]
fn ranges_that_touch_or_overlap_are_described_as_one() {
    let mut state = NodeState::default();
    for range in [
        "10.0.0.0/9",
        "10.128.0.0/9",
        "10.1.0.0/16",
        "fd00::/8",
        "255.0.0.0/8",
    ] {
        state.pod_ranges.insert(range.parse::<IpNet>().unwrap());
    }
    assert_eq!(
        describe(&state, layout(true)),
        "add element inet edgelb pod_ranges4 { 10.0.0.0/8 }\n\
         add element inet edgelb pod_ranges4 { 255.0.0.0/8 }\n\
         add element inet edgelb pod_ranges6 { fd00::/8 }\n"
    );
}

pub(super) fn layout(ipvs: bool) -> Layout {
    Layout::new(if ipvs {
        Forwarder::Ipvs
    } else {
        Forwarder::Nftables
    })
}

/// One frontend: outside clients have the first list, all others the second one.
pub(super) fn one_frontend(outside: &[u8], inside: &[u8]) -> (FrontendPort, Frontend) {
    let treatment = |lasts: &[u8]| {
        let list = lasts.iter().map(|last| RealServer {
            address: [10, 244, 0, *last].into(),
            port: 8080,
        });
        let verdict = if lasts.is_empty() {
            Verdict::Drop
        } else {
            Verdict::Forward(list.collect())
        };
        let masquerade = false;
        Treatment {
            verdict,
            masquerade,
        }
    };
    let (outside, inside) = (treatment(outside), treatment(inside));
    let port = FrontendPort {
        address: FrontendAddress::Address([192, 0, 2, 1].into()),
        protocol: Protocol::Tcp,
        port: 80,
    };
    let frontend = Frontend {
        service: ServiceKey::new("shop", "web"),
        treatments: [outside.clone(), inside.clone(), inside, outside],
        session_affinity: None,
        allowed_sources: None,
        keeps: Arc::default(),
        forwarding_method: ForwardingMethod::Masquerade,
        scheduler: Scheduler::Rr,
    };
    (port, frontend)
}

fn described((port, frontend): (FrontendPort, Frontend), ipvs: bool) -> Vec<String> {
    let mut state = NodeState::default();
    state.frontends.insert(port, Arc::new(frontend));
    let text = describe(&state, layout(ipvs));
    let begins = "add element inet edgelb ";
    text.lines()
        .map(|line| line.strip_prefix(begins).unwrap().to_owned())
        .collect()
}

#[test]
fn beside_ipvs_only_what_it_cannot_do_is_translated() {
    let none: [&str; 0] = [];
    assert_eq!(described(one_frontend(&[1, 2], &[1, 2]), true), none);
    // Outside clients are the guard's, and IPVS has the list of all others.
    assert_eq!(
        described(one_frontend(&[], &[1]), true),
        ["outside_closed4 { 192.0.2.1 . tcp . 80 : drop }"]
    );
    assert_eq!(
        described(one_frontend(&[1], &[1, 2]), true),
        [
            "connections4 { 192.0.2.1 . tcp . 80 }",
            "endpoints4 { 192.0.2.1 . tcp . 80 . 0x00000000 : 10.244.0.1 . 8080 }",
            "endpoints4 { 192.0.2.1 . tcp . 80 . 0x00000001 : 10.244.0.2 . 8080 }",
            "inside4 { 192.0.2.1 . tcp . 80 : goto pick4_2 }",
        ]
    );
}

#[test]
fn affinity_is_the_same_on_both_datapaths() {
    let mut frontend = one_frontend(&[1], &[1, 2]);
    frontend.1.session_affinity = Some(Affinity {
        scope: 0x0102_0304_0506_0708,
        timeout: Duration::from_secs(10_800),
    });
    let elements = described(frontend.clone(), true);
    assert_eq!(
        elements,
        [
            "connections4 { 192.0.2.1 . tcp . 80 }",
            "choices4 { 192.0.2.1 . tcp . 80 . 0x00000000 : 80 . 0x7d11672f }",
            "choices4 { 192.0.2.1 . tcp . 80 . 0x00010000 : 80 . 0x7d11672f }",
            "choices4 { 192.0.2.1 . tcp . 80 . 0x00000001 : 80 . 0x76fc65c6 }",
            "members4 { 192.0.2.1 . tcp . 80 . 0x7d11672f : 10.244.0.1 . 8080 }",
            "members4 { 192.0.2.1 . tcp . 80 . 0x76fc65c6 : 10.244.0.2 . 8080 }",
            "outside_members4 { 192.0.2.1 . tcp . 80 . 0x7d11672f : 10.244.0.1 . 8080 }",
            "scopes4 { 192.0.2.1 . tcp . 80 : 0x00000000 . 0x04030201 . 0x08070605 }",
            "frontends4 { 192.0.2.1 . tcp . 80 : goto pick4_sticky10800_2 }",
            "outside4 { 192.0.2.1 . tcp . 80 : goto pick4_outside_sticky10800_1 }",
        ]
    );
    assert_eq!(described(frontend, false), elements);
}

#[test]
fn hashing_schedulers_hash_and_all_others_roll_dice() {
    for scheduler in Scheduler::ALL {
        let mut frontend = one_frontend(&[1, 2], &[1, 2]);
        frontend.1.scheduler = scheduler;
        let chain = match scheduler {
            Scheduler::Sh => "pick4_source_2",
            Scheduler::Mh => "pick4_flow_2",
            _ => "pick4_2",
        };
        let last = described(frontend, false).pop().unwrap();
        assert!(last.ends_with(&format!(": goto {chain} }}")), "{last}");
    }
}

#[test]
fn source_ranges_hold_for_addresses_and_not_for_node_ports() {
    let mut frontend = one_frontend(&[1], &[1]);
    let ranges = ["192.0.2.48/28", "198.51.100.7/32"];
    let ranges = ranges.map(|range| range.parse::<IpNet>().unwrap());
    frontend.1.allowed_sources = Some(Arc::from(ranges));
    let restricting = |frontend| -> Vec<String> {
        let elements = described(frontend, true).into_iter();
        elements
            .filter(|line| line.starts_with("allowed") || line.starts_with("restricted"))
            .collect()
    };
    assert_eq!(
        restricting(frontend.clone()),
        [
            "allowed4 { 192.0.2.1 . tcp . 80 . 192.0.2.48-192.0.2.63 }",
            "allowed4 { 192.0.2.1 . tcp . 80 . 198.51.100.7-198.51.100.7 }",
            "restricted4 { 192.0.2.1 . tcp . 80 }",
        ]
    );
    frontend.0.address = FrontendAddress::NodePort(Family::V4);
    assert!(restricting(frontend).is_empty());
}

#[test]
fn interfaces_are_ranges_of_names() {
    let described = |patterns: &[&str]| -> Vec<String> {
        let patterns = patterns.iter().map(|pattern| pattern.parse().unwrap());
        let state = NodeState {
            pod_interfaces: patterns.collect(),
            ..NodeState::default()
        };
        let text = describe(&state, layout(false));
        let begins = "add element inet edgelb pod_interfaces4 { ";
        text.lines()
            .filter_map(|line| line.strip_prefix(begins)?.strip_suffix(" }"))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(described(&["cni0", "veth*"]), ["\"cni0\"", "\"veth*\""]);
    assert_eq!(described(&["veth*", "vetha", "veth"]), ["\"veth*\""]);
    assert_eq!(described(&["abcdefghijklmno"]), ["\"abcdefghijklmno\""]);
    assert_eq!(described(&["cali*", "*"]), ["\"*\""]);
    // A pattern that is no beginning tells nobody.
    assert!(described(&["eth?"]).is_empty());
}

#[test]
fn forwarding_is_restricted_by_family() {
    let chains = |families: &[Family]| describe_chains(layout(true).restrict_forwarding(families));
    assert_eq!(chains(&[]), describe_chains(layout(false)));
    let four = chains(&[Family::V4]);
    let forward = four.split("chain forward {").nth(1).unwrap();
    let forward = forward.split_once("}\n").unwrap().0;
    assert!(
        forward.contains("ip daddr @pod_ranges4 accept"),
        "{forward}"
    );
    assert!(
        forward.contains("meta nfproto ipv4 drop") && !forward.contains("ipv6"),
        "{forward}"
    );
}
