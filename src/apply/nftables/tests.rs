//! The edits between two states lead from the elements of the one to those of the other.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::prelude::*;

use super::edits::{batches, between, differences};
use super::element::{Digest, Elements, List, of_state};
use super::rules::{OUTSIDE_INDEX, Pick};
use super::schema::parse_pick;
use super::{describe, describe_chains};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Verdict,
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
    (address, 80_u16..82, treatment(), treatment()).prop_map(|(address, port, outside, inside)| {
        let port = FrontendPort {
            address,
            protocol: Protocol::Tcp,
            port,
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
        (port, Arc::new(frontend))
    })
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
    fn edits_lead_from_one_state_to_the_other(old in any_state(), new in any_state(), translation: bool) {
        let mut elements: Elements = of_state(&old, translation);
        let edits = between(&old, &new, translation);
        for edits in batches(edits.ranges, edits.single.into_iter(), 1000) {
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
        prop_assert_eq!(elements, of_state::<Elements>(&new, translation));
        prop_assert!(between(&new, &new.clone(), translation).is_empty());
    }

    #[test]
    fn repairs_lead_from_what_is_there_to_what_is_wanted(old in any_state(), new in any_state(), translation: bool) {
        let mut elements: Elements = of_state(&old, translation);
        let mut present: List = of_state(&old, translation);
        // The kernel lists them in no order.
        present.reverse();
        let (ranges, single) = differences(present, of_state(&new, translation));
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
        prop_assert_eq!(elements, of_state::<Elements>(&new, translation));
        let mut reversed: List = of_state(&new, translation);
        reversed.reverse();
        let mut digest = Digest::default();
        digest.extend(reversed);
        prop_assert_eq!(digest, of_state(&new, translation));
        let same = of_state::<Elements>(&old, translation) == of_state::<Elements>(&new, translation);
        prop_assert_eq!(digest == of_state(&old, translation), same);
        let (ranges, single) = differences(of_state(&new, translation), of_state(&new, translation));
        prop_assert!(ranges.is_empty() && single.count() == 0);
    }

    #[test]
    fn the_name_of_a_chain_tells_what_it_chooses_from(
        six: bool, node_port: bool, outside: bool, count in 1..OUTSIDE_INDEX,
    ) {
        let family = if six { Family::V6 } else { Family::V4 };
        let pick = Pick { family, node_port, outside, count };
        prop_assert_eq!(parse_pick(&pick.name()), Some(pick));
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
        describe(&state, false),
        "add element inet edgelb pod_ranges4 { 10.0.0.0/8 }\n\
         add element inet edgelb pod_ranges4 { 255.0.0.0/8 }\n\
         add element inet edgelb pod_ranges6 { fd00::/8 }\n"
    );
}

#[test]
fn beside_ipvs_nothing_is_translated() {
    assert!(describe_chains(true).contains("chain output"));
    let chains = describe_chains(false);
    assert!(!chains.contains("chain output") && !chains.contains("chain prerouting"));
    assert!(chains.contains("chain guard") && chains.contains("chain postrouting"));
}
