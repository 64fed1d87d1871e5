//! Which messages a change becomes, and what each kernel is given to hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use super::edits::between;
use super::table::{HANDOVER, Tables};
use super::{Arrival, HandedOver, HandoverSupport};
use crate::apply::nftables::encode::message::{
    DELETE_ELEMENT, DELETE_TABLE, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET, NEW_TABLE,
};
use crate::model::family::Family;

const BOTH: HandoverSupport = HandoverSupport { v4: true, v6: true };

fn handed(to: &[(&str, &str)]) -> HandedOver {
    let arrival = |vip: &str| Arrival {
        vip: vip.parse().unwrap(),
        interface: 7,
    };
    HandedOver {
        to: to
            .iter()
            .map(|(vip, other)| (arrival(vip), other.parse().unwrap()))
            .collect(),
    }
}

/// Message type and family of each request.
fn kinds(old: &HandedOver, new: &HandedOver, support: HandoverSupport) -> Vec<(u16, u8)> {
    let requests = between(&Tables::of(old, support), &Tables::of(new, support));
    let kind = |request: &[u8]| (u16::from(request[4]), request[16]);
    requests.iter().map(|it| kind(it.as_ref())).collect()
}

#[test]
fn a_table_is_there_while_there_is_something_to_pass_on() {
    let none = handed(&[]);
    let four = handed(&[("192.0.2.200", "192.0.2.12")]);
    let made = [
        NEW_TABLE,
        DELETE_TABLE,
        NEW_TABLE,
        NEW_SET,
        NEW_SET,
        NEW_CHAIN,
        NEW_CHAIN,
        NEW_RULE,
        NEW_RULE,
        NEW_RULE,
        NEW_RULE,
        NEW_ELEMENT,
    ];
    assert_eq!(kinds(&none, &four, BOTH), made.map(|kind| (kind, 2)));
    assert_eq!(kinds(&four, &none, BOTH), [(DELETE_TABLE, 2)]);
    assert_eq!(kinds(&none, &none, BOTH), []);
    let six = handed(&[("fd00:2::200", "fd00:2::12")]);
    assert_eq!(kinds(&four, &six, BOTH)[0], (DELETE_TABLE, 2));
    let only_four = HandoverSupport {
        v4: true,
        v6: false,
    };
    assert_eq!(kinds(&none, &six, only_four), []);
    assert_eq!(kinds(&none, &four, HandoverSupport::default()), []);
}

#[test]
fn only_what_differs_is_changed_and_removals_come_first() {
    let old = handed(&[("192.0.2.200", "192.0.2.12"), ("192.0.2.201", "192.0.2.12")]);
    assert_eq!(kinds(&old, &old, BOTH), []);
    // Another node for one of them.
    let new = handed(&[("192.0.2.200", "192.0.2.12"), ("192.0.2.201", "192.0.2.13")]);
    let moved = [(DELETE_ELEMENT, 2), (NEW_ELEMENT, 2)];
    assert_eq!(kinds(&old, &new, BOTH), moved);
}

#[test]
fn what_is_of_another_family_counts_for_nothing() {
    let mixed = handed(&[("192.0.2.200", "fd00:2::12")]);
    assert_eq!(Tables::of(&mixed, BOTH), Tables::default());
}

#[test]
fn what_was_written_is_read_back() {
    let all = handed(&[("192.0.2.200", "192.0.2.12"), ("fd00:2::200", "fd00:2::12")]);
    let tables = Tables::of(&all, BOTH);
    let read = Family::BOTH.map(|family| tables.get(family).unwrap().contents().entries(family));
    assert_eq!(
        read.into_iter().flatten().collect::<Vec<_>>(),
        all.to.into_iter().collect::<Vec<_>>()
    );
    // A map of another shape is not ours.
    let mut foreign = tables.get(Family::V4).unwrap().contents();
    foreign.sets.get_mut(HANDOVER).unwrap().0.key_length = 12;
    assert!(foreign.entries(Family::V4).is_empty());
}

#[test]
fn missing_modules_are_named() {
    assert!(BOTH.missing_modules().is_empty());
    let none = HandoverSupport::default();
    assert_eq!(none.missing_modules(), ["nft_dup_ipv4", "nft_dup_ipv6"]);
}
