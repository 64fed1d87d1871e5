//! Who is remembered, and for how long.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::apply::announcer::askers::Askers;
use crate::apply::announcer::verdict::Neighbour;

fn vip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn host(number: u16) -> Neighbour {
    let [high, low] = number.to_be_bytes();
    Neighbour {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, high, low)),
        mac: [2, 0, 0, 0, high, low],
    }
}

#[test]
fn the_least_recently_heard_goes() {
    let start = Instant::now();
    let mut askers = Askers::new(3);
    let at = |seconds| start + Duration::from_secs(seconds);
    for number in 0..3 {
        askers.heard(vip(1), host(number), at(number.into()));
    }
    askers.heard(vip(1), host(0), at(10));
    askers.heard(vip(2), host(9), at(11));
    assert_eq!(askers.len(), 3);
    let of = |number| askers.of(vip(number), at(12)).collect::<Vec<_>>();
    assert_eq!(of(1), [host(0), host(2)]);
    assert_eq!(of(2), [host(9)]);
    assert_eq!(of(3), []);
}

#[test]
fn a_host_with_another_hardware_address_is_known_by_the_new_one_at_once() {
    let now = Instant::now();
    let mut askers = Askers::new(3);
    askers.heard(vip(1), host(1), now);
    let moved = Neighbour {
        mac: [2; 6],
        ..host(1)
    };
    askers.heard(vip(1), moved, now);
    assert_eq!(askers.of(vip(1), now).collect::<Vec<_>>(), [moved]);
}

#[test]
fn who_has_forgotten_the_answer_is_not_told() {
    let start = Instant::now();
    let mut askers = Askers::new(3);
    askers.heard(vip(1), host(1), start);
    let later = start + Duration::from_secs(4 * 3600);
    assert_eq!(askers.of(vip(1), later).count(), 0);
    askers.heard(vip(1), host(1), later);
    assert_eq!(askers.of(vip(1), later).count(), 1);
}

#[test]
fn addresses_that_are_not_watched_any_more_are_forgotten() {
    let now = Instant::now();
    let mut askers = Askers::new(2);
    let ipv6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
    askers.heard(vip(1), host(1), now);
    askers.heard(ipv6, host(1), now);
    askers.retain(&BTreeSet::from([ipv6]));
    assert_eq!(askers.len(), 1);
    // The room is free again, and the order knows it.
    askers.heard(vip(3), host(1), now);
    assert_eq!(askers.len(), 2);
    askers.heard(vip(3), host(2), now);
    assert_eq!(askers.of(vip(3), now).count(), 2);
    assert!(!askers.is_empty());
}
