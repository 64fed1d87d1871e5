//! Links that go and come back, and links that are more than a cable: bridges, macvlans, VLAN tags.

use std::time::{Duration, Instant};

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::model::announcement::AnnouncedSet;

use super::ipv6::VIP as IPV6_VIP;
use super::lan::{self, Lan, Publisher, eventually};
use super::{SILENCE, VIP, ask, set, silent};

#[test]
fn a_link_that_goes_down_or_is_recreated_answers_again() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);

    lan.ip(&["link", "set", "lan0", "down"]);
    eventually("the loss is reported", || {
        let errors = publisher.view().errors();
        errors
            .get(&index)
            .is_some_and(|problem| problem.error.contains("is down"))
    });
    lan.ip(&["link", "set", "lan0", "up"]);
    answers_soon(&lan, mac);
    assert!(publisher.view().errors().is_empty());

    lan.delete_link();
    eventually("the loss is reported", || {
        let errors = publisher.view().errors();
        errors
            .get(&index)
            .is_some_and(|problem| problem.error.contains("does not exist"))
    });
    lan.create_link();
    let (new_index, new_mac) = lan.announcing_link();
    assert_ne!(new_index, index);
    assert_ne!(new_mac, mac);
    answers_soon(&lan, new_mac);

    // The plan follows with the new index: still one answer, and no error is left behind.
    publisher.publish(set(2, new_index, new_mac, &[VIP]));
    publisher.wait_in_force(2);
    assert_eq!(ask(&lan, &lan.capture(), VIP), [lan::text(new_mac)]);
    assert!(publisher.view().errors().is_empty());
}

/// Asks all the time, by frames of its own: arping's own interval is a second.
fn answers_soon(lan: &Lan, mac: [u8; 6]) {
    let capture = lan.capture();
    let start = Instant::now();
    while capture.replies(VIP).is_empty() {
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "no answer within 500 ms"
        );
        lan.inject(&[lan.request(VIP)]);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(capture.replies(VIP)[0], lan::text(mac));
}

/// The set for another link of the announcing end.
fn on_link(lan: &Lan, name: &str, generation: u64) -> (AnnouncedSet, [u8; 6]) {
    let (index, mac) = lan.link(name);
    let mut announced = set(
        generation,
        index,
        mac,
        &[VIP.into(), std::net::IpAddr::V6(IPV6_VIP)],
    );
    name.clone_into(&mut announced.interfaces.get_mut(&index).unwrap().name);
    (announced, mac)
}

/// Whether the client resolves the IPv6 VIP to this hardware address.
fn resolves(lan: &Lan, mac: [u8; 6]) -> bool {
    lan.client("ip", &["neigh", "flush", "dev", "eth0", "nud", "all"]);
    lan.client_can("ping", &["-6", "-c", "1", "-W", "1", &IPV6_VIP.to_string()]);
    lan.neighbour(IPV6_VIP).contains(&lan::text(mac))
}

#[test]
fn a_cable_that_is_plugged_in_again_is_told_of() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let once = BurstSettings {
        burst: vec![Duration::ZERO],
        refresh: None,
    };
    let publisher = Publisher::start(&lan, once, set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let announced = || publisher.view().counters().gratuitous("lan0", "ipv4");
    eventually("the burst", || announced() == 2);
    // Only the other end goes down: no socket of this one notices.
    lan.client("ip", &["link", "set", "eth0", "down"]);
    std::thread::sleep(SILENCE);
    lan.client("ip", &["link", "set", "eth0", "up"]);
    let start = Instant::now();
    eventually("the neighbours are told again", || announced() >= 4);
    // The kernel collects such changes for up to a second (linkwatch).
    let took = start.elapsed();
    assert!(took < Duration::from_millis(1200), "{took:?}");
}

#[test]
fn another_hardware_address_is_told_at_once() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let capture = lan.capture();
    let new = [0x02, 0, 0, 0, 0, 0x42];
    lan.ip(&["link", "set", "lan0", "address", &lan::text(new)]);
    let start = Instant::now();
    while capture.replies(VIP).last() != Some(&lan::text(new)) {
        assert!(
            start.elapsed() < Duration::from_millis(500),
            "{:?}",
            capture.replies(VIP)
        );
        lan.inject(&[lan.request(VIP)]);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_bridge_answers_for_its_ports() {
    let lan = Lan::new(&[VIP.into(), std::net::IpAddr::V6(IPV6_VIP)]);
    lan.ip(&["link", "add", "br0", "type", "bridge"]);
    lan.ip(&["link", "set", "lan0", "master", "br0"]);
    lan.ip(&["link", "set", "br0", "up"]);
    lan.ip(&["address", "add", "2001:db8::2/64", "dev", "br0"]);
    let (announced, mac) = on_link(&lan, "br0", 1);
    let publisher = Publisher::start(&lan, silent(), announced);
    publisher.wait_in_force(1);
    assert_eq!(ask(&lan, &lan.capture(), VIP), [lan::text(mac)]);
    eventually("the client resolves the IPv6 VIP", || resolves(&lan, mac));
}

#[test]
fn a_link_with_macvlans_on_it_and_a_macvlan_answer_once() {
    let lan = Lan::new(&[VIP.into(), std::net::IpAddr::V6(IPV6_VIP)]);
    let macvlan = [
        "link", "add", "mac0", "link", "lan0", "type", "macvlan", "mode", "bridge",
    ];
    lan.ip(&macvlan);
    lan.ip(&["link", "set", "mac0", "up"]);
    for name in ["lan0", "mac0"] {
        let (announced, mac) = on_link(&lan, name, 1);
        let publisher = Publisher::start(&lan, silent(), announced);
        publisher.wait_in_force(1);
        assert_eq!(ask(&lan, &lan.capture(), VIP), [lan::text(mac)], "{name}");
        eventually("the client resolves the IPv6 VIP", || resolves(&lan, mac));
    }
}

#[test]
fn a_priority_tag_is_no_vlan() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let capture = lan.capture();
    let mut tagged = lan.request(VIP);
    // Priority 5, VLAN 0 (IEEE 802.1Q, section 9.6).
    tagged.splice(12..12, [0x81, 0x00, 0xa0, 0x00]);
    lan.inject(&[tagged]);
    eventually("it is answered", || {
        capture.replies(VIP) == [lan::text(mac)]
    });
}
