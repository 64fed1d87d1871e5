//! Others claim a VIP that is announced here: a hostile or misconfigured host, and another node.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::{arp, ndp};
use edgelb::model::foreign::MacAddress;

use super::ipv6::VIP as IPV6_VIP;
use super::lan::{self, Lan, Publisher, eventually};
use super::{SILENCE, VIP, set};

const HOST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];

fn no_burst() -> BurstSettings {
    super::silent()
}

/// Another host's claim to a VIP.
fn claim(vip: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp::gratuitous(vip, mac)[0].to_vec(),
        IpAddr::V6(vip) => ndp::unsolicited(vip, mac)[0].to_vec(),
    }
}

#[test]
fn a_vip_is_defended_at_once_and_never_silenced() {
    let vips: [IpAddr; 2] = [VIP.into(), IPV6_VIP.into()];
    let lan = Lan::new(&vips);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, no_burst(), set(1, index, mac, &vips));
    publisher.wait_in_force(1);
    let view = publisher.view();
    for vip in vips {
        lan.teach_client(vip, mac);
        // Two hundred forged frames, of which the client's kernel believes each.
        lan.inject(&vec![claim(vip, HOST); 200]);
        // The injector sends from the client's own link: its kernel does not hear itself.
        lan.teach_client(vip, HOST);
        eventually("the claims are counted", || {
            view.counters().conflicts(vip) == 200
        });
        assert_eq!(view.foreign().borrow().get(vip), Some(MacAddress(HOST)));
        assert!(view.rivals().borrow().is_empty());
        let family = if vip.is_ipv4() { "ipv4" } else { "ipv6" };
        assert_eq!(
            view.counters().gratuitous("lan0", family),
            2,
            "one defence for them all"
        );
    }
    assert!(lan.arping(&["-c", "1", "-w", "1", &VIP.to_string()]));
    publisher.publish(set(2, index, mac, &[VIP]));
    publisher.wait_in_force(2);
    let foreign = view.foreign();
    assert_eq!(
        foreign.borrow().iter().count(),
        1,
        "what is withdrawn is not contested"
    );
}

#[test]
fn the_defence_brings_the_client_back() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, no_burst(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    lan.teach_client(VIP, HOST);
    lan.inject(&[claim(VIP.into(), HOST)]);
    eventually("the client is back", || {
        lan.neighbour(VIP).contains(&lan::text(mac))
    });
    drop(publisher);
}

#[test]
fn another_node_is_a_rival_and_the_vip_is_announced_after_it() {
    let vips: [IpAddr; 2] = [VIP.into(), IPV6_VIP.into()];
    let lan = Lan::new(&vips);
    let (index, mac) = lan.announcing_link();
    let mut announced = set(1, index, mac, &vips);
    announced.peers = [MacAddress(HOST)].into_iter().collect();
    let publisher = Publisher::start(&lan, no_burst(), announced);
    publisher.wait_in_force(1);
    let view = publisher.view();
    for vip in vips {
        lan.inject(&[claim(vip, HOST)]);
        eventually("the rival is told", || {
            view.rivals().borrow().contains_key(&vip)
        });
        assert_eq!(view.rivals().borrow()[&vip].mac, MacAddress(HOST));
        assert_eq!(view.counters().rivals(vip), 1);
        assert_eq!(view.counters().conflicts(vip), 0);
    }
    assert!(view.foreign().borrow().is_empty());
    eventually("both are announced once more", || {
        ["ipv4", "ipv6"]
            .iter()
            .all(|family| view.counters().gratuitous("lan0", family) == 2)
    });
    std::thread::sleep(SILENCE);
    assert_eq!(view.counters().gratuitous("lan0", "ipv4"), 2);

    // Membership decides against this node before the repetition.
    std::thread::sleep(Duration::from_secs(1));
    lan.inject(&[claim(VIP.into(), HOST)]);
    eventually("the rival is heard", || {
        view.counters().rivals(VIP.into()) == 2
    });
    publisher.publish(set(2, index, mac, &[] as &[Ipv6Addr]));
    publisher.wait_in_force(2);
    assert!(view.rivals().borrow().is_empty());
    std::thread::sleep(SILENCE);
    assert_eq!(view.counters().gratuitous("lan0", "ipv4"), 2);
}

#[test]
fn frames_of_another_interface_of_this_node_are_no_claims() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let mut announced = set(1, index, mac, &[VIP]);
    let mut second = announced.interfaces[&index].clone();
    second.mac = HOST;
    second.name = "lan1".to_owned();
    announced.interfaces.insert(4711, second);
    let publisher = Publisher::start(&lan, no_burst(), announced);
    publisher.wait_in_force(1);
    lan.inject(&[claim(VIP.into(), HOST)]);
    let counters = publisher.view().counters();
    eventually("the frame is heard", || {
        counters.requests(
            edgelb::apply::announcer::socket::Protocol::Arp,
            "lan0",
            "own_frame",
        ) == 1
    });
    assert_eq!(counters.conflicts(VIP.into()), 0);
}
