//! Routes between states, and messages of the kernel, whole and broken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use imbl::{OrdMap, OrdSet};
use proptest::prelude::*;

use super::*;
use crate::model::node_state::HeldFor;

fn state(held: &[&str], ranges: &[&str], source: Option<&str>) -> NodeState {
    let mut state = NodeState {
        held: held
            .iter()
            .map(|address| (address.parse::<IpAddr>().unwrap(), HeldFor::Vip))
            .collect::<OrdMap<_, _>>(),
        service_ranges: ranges
            .iter()
            .map(|range| range.parse::<IpNet>().unwrap())
            .collect::<OrdSet<_>>(),
        ..NodeState::default()
    };
    if let Some(source) = source {
        let source: IpAddr = source.parse().unwrap();
        state.preferred_source.insert(Family::of(source), source);
    }
    state
}

fn edits(old: &NodeState, new: &NodeState) -> (Vec<String>, Vec<String>) {
    let (put, remove) = difference(old, new);
    let put = put
        .iter()
        .map(|put| {
            let sign = if put.new { '+' } else { '~' };
            let source = put
                .source
                .map_or_else(String::new, |source| format!(" src {source}"));
            format!("{sign}{}{source}", put.prefix)
        })
        .collect();
    (put, remove.iter().map(ToString::to_string).collect())
}

#[test]
fn a_held_address_in_a_service_range_needs_no_route() {
    let none = NodeState::default();
    let some = state(
        &["192.0.2.1", "10.96.0.1", "2001:db8::1"],
        &["10.96.0.7/12"],
        Some("10.0.0.1"),
    );
    let (put, remove) = edits(&none, &some);
    assert_eq!(
        put,
        [
            "+10.96.0.0/12 src 10.0.0.1",
            "+192.0.2.1/32 src 10.0.0.1",
            "+2001:db8::1/128"
        ]
    );
    assert!(remove.is_empty());
    assert_eq!(edits(&some, &none).1.len(), 3);
    let more = state(
        &["192.0.2.1", "10.96.0.1", "10.96.0.2", "192.0.2.2"],
        &["10.96.0.7/12"],
        Some("10.0.0.1"),
    );
    let expected = vec!["+192.0.2.2/32 src 10.0.0.1".to_owned()];
    assert_eq!(
        edits(&some, &more),
        (expected, vec!["2001:db8::1/128".to_owned()])
    );
}

#[test]
fn a_range_that_comes_or_goes_takes_the_addresses_in_it_along() {
    let without = state(&["10.96.0.1"], &[], None);
    let with = state(&["10.96.0.1"], &["10.96.0.0/12"], None);
    let text = |text: &str| vec![text.to_owned()];
    assert_eq!(
        edits(&without, &with),
        (text("+10.96.0.0/12"), text("10.96.0.1/32"))
    );
    assert_eq!(
        edits(&with, &without),
        (text("+10.96.0.1/32"), text("10.96.0.0/12"))
    );
}

#[test]
fn another_source_changes_the_routes_of_its_family() {
    let old = state(&["192.0.2.1", "2001:db8::1"], &[], Some("10.0.0.1"));
    let new = state(&["192.0.2.1", "2001:db8::1"], &[], Some("10.0.0.2"));
    assert_eq!(
        edits(&old, &new),
        (vec!["~192.0.2.1/32 src 10.0.0.2".to_owned()], vec![])
    );
}

#[test]
fn a_route_has_the_bytes_that_rtnetlink_wants() {
    let route = LocalRoute::ours(
        "192.0.2.1/32".parse().unwrap(),
        Some("10.0.0.1".parse().unwrap()),
    );
    let mut expected = vec![52, 0, 0, 0, 24, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0];
    expected.extend([2, 32, 0, 0, 255, 225, 254, 2, 0, 0, 0, 0]);
    expected.extend([8, 0, 1, 0, 192, 0, 2, 1]);
    expected.extend([8, 0, 4, 0, 1, 0, 0, 0]);
    expected.extend([8, 0, 7, 0, 10, 0, 0, 1]);
    assert_eq!(route.add(), expected);
    expected[6..8].copy_from_slice(&0x500_u16.to_ne_bytes());
    assert_eq!(route.replace(), expected);
    let delete = route.delete();
    assert_eq!((delete[4], delete.len()), (25, 44));
}

proptest! {
    #[test]
    fn a_route_is_read_as_it_was_written(
        address in any::<IpAddr>(), length in 0_u8..=32, source in prop::option::of(any::<IpAddr>())
    ) {
        let prefix = IpNet::new(address, length).unwrap().trunc();
        let source = source.filter(|source| source.is_ipv4() == address.is_ipv4());
        let route = LocalRoute::ours(prefix, source);
        prop_assert_eq!(LocalRoute::parse(&route.add()[16..]), Some(route));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut payload in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Some(table) = payload.get_mut(4) {
            *table = 255;
        }
        LocalRoute::parse(&payload);
    }

    #[test]
    fn the_short_way_and_the_long_way_agree(
        old in prop::collection::btree_set(0_u8..40, 0..20),
        new in prop::collection::btree_set(0_u8..40, 0..20)
    ) {
        let build = |hosts: &std::collections::BTreeSet<u8>, source: &str| {
            let held: Vec<String> = hosts.iter().map(|host| format!("192.0.2.{host}")).collect();
            let held: Vec<&str> = held.iter().map(String::as_str).collect();
            state(&held, &["192.0.2.0/29", "192.0.2.32/32"], Some(source))
        };
        let (put, remove) = edits(&build(&old, "10.0.0.1"), &build(&new, "10.0.0.1"));
        let (before, after) = (desired(&build(&old, "10.0.0.1")), desired(&build(&new, "10.0.0.1")));
        let added: Vec<String> = after
            .keys()
            .filter(|prefix| !before.contains_key(prefix))
            .map(|prefix| format!("+{prefix} src 10.0.0.1"))
            .collect();
        let removed: Vec<String> = before
            .keys()
            .filter(|prefix| !after.contains_key(prefix))
            .map(ToString::to_string)
            .collect();
        prop_assert_eq!((put, remove), (added, removed));
    }
}
