//! What nftables does before IPVS has changed, what after it, and what not at all where IPVS refuses.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::edits::{Edit, between};
use super::element::{Elements, of_state};
use super::handover::released;
use super::sets::Table;
use super::tests::{layout, one_frontend};
use crate::apply::forwarder::Refused;
use crate::apply::state_directory::VirtualServerName;
use crate::model::family::Protocol;
use crate::model::frontend::{Frontend, FrontendPort};
use crate::model::node_state::NodeState;

fn state((port, frontend): &(FrontendPort, Frontend)) -> NodeState {
    let mut state = NodeState::default();
    state.frontends.insert(*port, Arc::new(frontend.clone()));
    state
}

fn changed(edits: &[Edit]) -> Vec<(Table, bool)> {
    let tables = edits
        .iter()
        .map(|edit| (edit.key.table, edit.new.is_some()));
    tables.collect()
}

fn refused(address: impl Into<IpAddr>, port: u16) -> Refused {
    let server = VirtualServerName {
        protocol: Protocol::Tcp,
        address: address.into(),
        port,
    };
    Refused {
        everything: false,
        servers: [server].into(),
    }
}

#[test]
fn ipvs_has_taken_over_before_nftables_lets_go() {
    let (split, closed) = (one_frontend(&[1], &[1, 2]), one_frontend(&[], &[1, 2]));
    let edits = between(&state(&split), &state(&closed), layout(true));
    // Outside clients are kept away at once; pods and this node have their endpoints all the time.
    assert!(changed(&edits.single).contains(&(Table::OutsideClosed, true)));
    assert!(changed(&edits.single).contains(&(Table::Frontends, true)));
    assert!(changed(&edits.later).contains(&(Table::Frontends, false)));
    let back = between(&state(&closed), &state(&split), layout(true));
    // What stood for outside clients in IPVS until now was the list of the others.
    assert_eq!(changed(&back.later), [(Table::OutsideClosed, false)]);
}

#[test]
fn nobody_is_let_through_to_what_ipvs_still_has() {
    let edits = |old: &NodeState, new: &NodeState, ipvs| {
        let edits = between(old, new, layout(ipvs));
        (changed(&edits.single), changed(&edits.later))
    };
    let mut restricted = one_frontend(&[1], &[1]);
    restricted.1.allowed_sources = Some(Arc::from(["192.0.2.48/28".parse::<IpNet>().unwrap()]));
    let lifted = vec![(Table::Allowed, false), (Table::Restricted, false)];
    // The frontend goes, or everybody may ask it.
    let open = state(&one_frontend(&[1], &[1]));
    for new in [&NodeState::default(), &open] {
        let old = state(&restricted);
        assert_eq!(edits(&old, new, true), (vec![], lifted.clone()));
        assert!(edits(&old, new, false).1.is_empty());
    }
    assert_eq!(edits(&open, &state(&restricted), true).1, vec![]);
    // The ranges of one that stays restricted change at once.
    let mut other = restricted.clone();
    other.1.allowed_sources = Some(Arc::from(["192.0.2.0/24".parse::<IpNet>().unwrap()]));
    assert_eq!(
        edits(&state(&restricted), &state(&other), true),
        (
            vec![(Table::Allowed, false), (Table::Allowed, true)],
            vec![]
        )
    );
    // Outside clients get an endpoint of their own while IPVS has the list of the pods.
    let (old, new) = (one_frontend(&[], &[2]), one_frontend(&[1], &[2]));
    let (at_once, later) = edits(&state(&old), &state(&new), true);
    assert!(at_once.contains(&(Table::Inside, true)), "{at_once:?}");
    assert_eq!(later, [(Table::OutsideClosed, false)]);
    // A frontend that nobody had.
    let (old, new) = (one_frontend(&[], &[]), one_frontend(&[1], &[1]));
    assert_eq!(
        edits(&state(&old), &state(&new), true),
        (vec![], vec![(Table::Closed, false)])
    );
    // An address that is the node's no more takes its node ports along.
    let mut old = NodeState::default();
    old.node_addresses.insert([192, 0, 2, 10].into());
    assert_eq!(
        edits(&old, &NodeState::default(), true),
        (vec![], vec![(Table::NodeAddresses, false)])
    );
}

/// Makes the edits.
fn make(elements: &mut Elements, edits: Vec<Edit>) {
    for edit in edits {
        assert_eq!(
            elements.get(&edit.key),
            edit.old.as_ref(),
            "the kernel has what goes"
        );
        match edit.new {
            Some(value) => elements.insert(edit.key, value),
            None => elements.remove(&edit.key),
        };
    }
}

#[test]
fn nftables_forwards_what_ipvs_refuses_to_take_over() {
    let (split, closed) = (one_frontend(&[1], &[1, 2]), one_frontend(&[], &[1, 2, 3]));
    let new = state(&closed);
    let mut kernel: Elements = of_state(&state(&split), layout(true));
    let edits = between(&state(&split), &new, layout(true));
    let later = edits.later.clone();
    make(&mut kernel, edits.single);
    let here = |state: &NodeState| of_state::<Elements>(state, layout(false));
    let is_here = |kernel: &Elements, state: &NodeState| {
        assert_eq!(kernel, &here(state));
    };
    is_here(&kernel, &new);
    for refused in [
        refused([192, 0, 2, 1], 80),
        Refused {
            everything: true,
            ..Refused::default()
        },
    ] {
        let released = released(later.clone(), &new, &refused, layout(true));
        assert_eq!(released, (vec![], true));
    }
    // Others are not held up.
    for refused in [
        Refused::default(),
        refused([192, 0, 2, 1], 81),
        refused([192, 0, 2, 2], 80),
    ] {
        let released = released(later.clone(), &new, &refused, layout(true));
        assert_eq!(released, (later.clone(), false));
    }
    // The endpoints change while IPVS still refuses: a repair has these removals to make.
    let newest = state(&one_frontend(&[], &[4]));
    let wanted: Elements = of_state(&newest, layout(true));
    let gone = kernel.iter().filter(|(key, _)| !wanted.contains_key(*key));
    let later: Vec<Edit> = gone
        .map(|(key, value)| Edit {
            key: *key,
            old: Some(value.clone()),
            new: None,
        })
        .collect();
    let (edits, holds) = released(later, &newest, &refused([192, 0, 2, 1], 80), layout(true));
    assert!(holds);
    make(&mut kernel, edits);
    is_here(&kernel, &newest);
}

#[test]
fn nothing_is_opened_that_ipvs_did_not_change() {
    let (old, new) = (one_frontend(&[], &[2]), one_frontend(&[1], &[2]));
    let later = between(&state(&old), &state(&new), layout(true)).later;
    let released = |refused: &Refused| {
        let (edits, holds) = released(later.clone(), &state(&new), refused, layout(true));
        (changed(&edits), holds)
    };
    assert_eq!(released(&refused([192, 0, 2, 1], 80)), (vec![], true));
    let open = vec![(Table::OutsideClosed, false)];
    assert_eq!(released(&refused([192, 0, 2, 2], 80)), (open, false));
    // A virtual server of a node port on an address that goes.
    let mut old = NodeState::default();
    old.node_addresses.insert([192, 0, 2, 10].into());
    let none = NodeState::default();
    let later = between(&old, &none, layout(true)).later;
    let found = super::handover::released(
        later,
        &none,
        &refused([192, 0, 2, 10], 30_080),
        layout(true),
    );
    assert_eq!(found, (vec![], true));
}
