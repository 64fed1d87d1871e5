//! Neighbours that asked for a VIP are told by unicast when it moves here: the client of these tests
//! hears neither broadcast nor multicast frames.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::Protocol;

use super::ipv6::VIP as IPV6_VIP;
use super::lan::{self, Lan, Publisher, eventually};
use super::{SILENCE, VIP, set};

const OLD_OWNER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x77];

fn once() -> BurstSettings {
    BurstSettings {
        burst: vec![Duration::ZERO],
        refresh: None,
    }
}

/// Makes the client deaf for everything that is not sent to it alone.
fn deafen(lan: &Lan) {
    let rules = "add table netdev deaf; \
                 add chain netdev deaf in { type filter hook ingress device eth0 priority 0; }; \
                 add rule netdev deaf in ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop";
    lan.client("nft", &[rules]);
}

/// The client sends to the VIP, so that its kernel asks for it.
fn asks(lan: &Lan, vip: IpAddr) {
    let vip = vip.to_string();
    lan.client_can("ping", &["-c", "1", "-W", "1", &vip]);
}

#[test]
fn who_asked_before_the_take_over_is_told_of_it_even_within_a_second() {
    let vips: [IpAddr; 2] = [VIP.into(), IPV6_VIP.into()];
    let lan = Lan::new(&vips);
    let (index, mac) = lan.announcing_link();
    let mut other_owner = set(1, index, mac, &[] as &[IpAddr]);
    let on = other_owner.interfaces.get_mut(&index).unwrap();
    on.watched = vips.into_iter().collect();
    let watched = on.watched.clone();
    let publisher = Publisher::start(&lan, once(), other_owner);
    publisher.wait_in_force(1);
    let counters = publisher.view().counters();
    for vip in vips {
        asks(&lan, vip);
        let protocol = Protocol::of(vip);
        eventually("the question is heard", || {
            counters.requests(protocol, "lan0", "not_owned") > 0
        });
        assert_eq!(counters.replies(protocol, "lan0"), 0);
    }
    deafen(&lan);
    for vip in vips {
        lan.teach_client(vip, OLD_OWNER);
    }
    let mut owner = set(2, index, mac, &vips);
    owner.interfaces.get_mut(&index).unwrap().watched = watched;
    publisher.publish(owner);
    for vip in vips {
        eventually("the client follows", || {
            lan.neighbour(vip).contains(&lan::text(mac))
        });
    }
    assert_eq!(counters.refreshes("lan0", "ipv4"), 1);
    assert!(counters.refreshes("lan0", "ipv6") >= 1);
}

#[test]
fn the_deaf_client_hears_nothing_of_a_take_over_without_it() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    deafen(&lan);
    lan.teach_client(VIP, OLD_OWNER);
    let publisher = Publisher::start(&lan, once(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let counters = publisher.view().counters();
    eventually("the burst", || counters.gratuitous("lan0", "ipv4") == 2);
    std::thread::sleep(SILENCE);
    assert!(lan.neighbour(VIP).contains(&lan::text(OLD_OWNER)));
    assert_eq!(counters.refreshes("lan0", "ipv4"), 0);
}

#[test]
fn a_client_that_learnt_the_old_owner_just_now_follows_the_broadcast() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    // Below a second Linux heeds only the request form (locktime).
    lan.teach_client(VIP, OLD_OWNER);
    let publisher = Publisher::start(&lan, once(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    eventually("the client follows", || {
        lan.neighbour(VIP).contains(&lan::text(mac))
    });
    drop(publisher);
}

#[test]
fn each_refresh_is_for_the_neighbours_as_well_and_there_is_a_bound() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let refreshing = BurstSettings {
        burst: Vec::new(),
        refresh: Some(Duration::from_millis(500)),
    };
    let publisher = Publisher::start(&lan, refreshing, set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let counters = publisher.view().counters();
    // More than are remembered, in four goes that the kernel's queue can take.
    for part in 0..4_u16 {
        let frames: Vec<Vec<u8>> = (0..1250_u16)
            .map(|number| {
                let mut frame = lan.request(VIP);
                let address = Ipv4Addr::from(0x0a00_0000 | u32::from(part * 1250 + number));
                frame[28..32].copy_from_slice(&address.octets());
                frame
            })
            .collect();
        lan.inject(&frames);
        let answered = u64::from(part + 1) * 1250;
        eventually("all are answered", || {
            counters.replies(Protocol::Arp, "lan0") >= answered
        });
    }
    // 4,096 of the 5,000, at each refresh.
    let before = counters.refreshes("lan0", "ipv4");
    eventually("a refresh of all that are remembered", || {
        counters.refreshes("lan0", "ipv4") >= before + 2 * 4096
    });
    // Answering goes on meanwhile.
    assert!(lan.arping(&["-c", "1", "-w", "1", &VIP.to_string()]));
    publisher.publish(set(2, index, mac, &[] as &[IpAddr]));
    publisher.wait_in_force(2);
    let stopped = counters.refreshes("lan0", "ipv4");
    std::thread::sleep(SILENCE);
    assert_eq!(counters.refreshes("lan0", "ipv4"), stopped, "withdrawn");
}
