//! The announcer on a real link, seen by `arping` and `tcpdump` on the other end of it.

mod capture;
mod claims;
mod ipv6;
mod lan;
mod links;
mod load;
mod neighbours;
mod once;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use edgelb::apply::announcer::arp;
use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::Protocol;
use edgelb::model::announcement::{AnnouncedInterface, AnnouncedSet};

use capture::Capture;
use lan::{Lan, Publisher, eventually};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const OTHER_VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// As long as the capture is watched for frames that must not come. The kernel answers in far less.
const SILENCE: Duration = Duration::from_millis(400);

/// No gratuitous frames at all, so that captures show answers only.
fn silent() -> BurstSettings {
    BurstSettings {
        burst: Vec::new(),
        refresh: None,
    }
}

fn set(
    generation: u64,
    index: u32,
    mac: [u8; 6],
    vips: &[impl Into<IpAddr> + Copy],
) -> AnnouncedSet {
    let interface = AnnouncedInterface {
        watched: imbl::OrdSet::new(),
        name: "lan0".to_owned(),
        mac,
        addresses: vips.iter().map(|vip| (*vip).into()).collect(),
    };
    AnnouncedSet {
        generation,
        interfaces: BTreeMap::from([(index, interface)]),
        ..AnnouncedSet::default()
    }
}

/// Asks once and gives who answered, as tcpdump saw it.
fn ask(lan: &Lan, capture: &Capture, vip: Ipv4Addr) -> Vec<String> {
    let before = capture.replies(vip).len();
    let answered = lan.arping(&["-c", "1", "-w", "1", &vip.to_string()]);
    std::thread::sleep(SILENCE);
    let replies = capture.replies(vip).split_off(before);
    assert_eq!(answered, !replies.is_empty(), "arping and tcpdump agree");
    replies
}

#[test]
fn answers_once_with_its_own_address_until_withdrawn() {
    let lan = Lan::new(&[VIP, OTHER_VIP]);
    let (index, mac) = lan.announcing_link();
    let capture = lan.capture();
    assert!(
        ask(&lan, &capture, VIP).is_empty(),
        "the kernel itself never answers"
    );

    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    assert_eq!(ask(&lan, &capture, VIP), [lan::text(mac)]);
    assert!(
        ask(&lan, &capture, OTHER_VIP).is_empty(),
        "only what is announced"
    );
    assert!(
        !lan.arping(&["-D", "-c", "1", "-w", "1", &VIP.to_string()]),
        "a probe of RFC 5227 is told that the address is in use"
    );
    let counters = publisher.view().counters();
    assert_eq!(counters.requests(Protocol::Arp, "lan0", "answered"), 2);
    assert_eq!(counters.replies(Protocol::Arp, "lan0"), 2);
    assert!(publisher.view().errors().is_empty());

    publisher.publish(set(2, index, mac, &[OTHER_VIP]));
    publisher.wait_in_force(2);
    assert!(ask(&lan, &capture, VIP).is_empty(), "withdrawn");
    assert_eq!(ask(&lan, &capture, OTHER_VIP), [lan::text(mac)]);
    publisher.publish(AnnouncedSet {
        generation: 3,
        interfaces: BTreeMap::new(),
        ..AnnouncedSet::default()
    });
    publisher.wait_in_force(3);
    assert!(
        ask(&lan, &capture, OTHER_VIP).is_empty(),
        "withdrawn with its interface"
    );
}

#[test]
fn a_withdrawn_vip_is_not_answered_from_the_moment_of_publishing() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let replies = || publisher.view().counters().replies(Protocol::Arp, "lan0");
    let _flood = lan.flood(lan.request(VIP));
    for round in 1..200_u64 {
        let before = replies();
        eventually("answers flow", || replies() > before);
        publisher.publish(set(2 * round, index, mac, &[] as &[IpAddr]));
        let withdrawn = replies();
        publisher.wait_in_force(2 * round);
        assert_eq!(replies(), withdrawn, "answered after the withdrawal");
        publisher.publish(set(2 * round + 1, index, mac, &[VIP]));
    }
}

#[test]
fn announces_a_take_over_by_request_and_reply_in_the_given_rhythm() {
    let lan = Lan::new(&[VIP, OTHER_VIP]);
    let (index, mac) = lan.announcing_link();
    let capture = lan.capture();
    let offsets = [0_u16, 50, 150, 400];
    let burst = BurstSettings {
        burst: offsets
            .map(|offset| Duration::from_millis(offset.into()))
            .to_vec(),
        refresh: Some(Duration::from_secs(1)),
    };
    let publisher = Publisher::start(&lan, burst, set(1, index, mac, &[VIP]));
    eventually("the burst and one refresh", || {
        capture.gratuitous(VIP).len() >= 10
    });

    let frames = capture.gratuitous(VIP);
    let forms: Vec<&str> = frames.iter().map(|frame| frame.form).collect();
    assert_eq!(forms, ["request", "reply"].repeat(5));
    assert!(frames.iter().all(|frame| frame.mac == lan::text(mac)));
    let start = frames[0].seconds;
    let due = offsets.map(|offset| f64::from(offset) / 1000.0);
    for (frame, due) in frames.iter().step_by(2).zip(due) {
        let at = frame.seconds - start;
        // 10 % of jitter, and what a busy machine is late.
        assert!(
            at >= due * 0.9 - 0.005 && at <= due * 1.1 + 0.1,
            "{at} s instead of {due} s"
        );
    }
    let refresh = frames[8].seconds - frames[6].seconds;
    assert!(
        (0.795..1.3).contains(&refresh),
        "refreshed after {refresh} s"
    );

    // One more VIP bursts for itself; a withdrawn one falls silent in the middle of its burst.
    publisher.publish(set(2, index, mac, &[VIP, OTHER_VIP]));
    eventually("the other burst", || {
        capture.gratuitous(OTHER_VIP).len() >= 2
    });
    publisher.publish(set(3, index, mac, &[VIP]));
    publisher.wait_in_force(3);
    std::thread::sleep(Duration::from_millis(20));
    let sent = capture.gratuitous(OTHER_VIP).len();
    std::thread::sleep(SILENCE * 2);
    assert_eq!(capture.gratuitous(OTHER_VIP).len(), sent);
    assert!(sent < 8, "{sent} frames are the whole burst");
    let counted = publisher.view().counters().gratuitous("lan0", "ipv4");
    let seen = capture.gratuitous(VIP).len() + capture.gratuitous(OTHER_VIP).len();
    assert_eq!(counted, seen as u64);
}

#[test]
fn a_failing_interface_stops_no_other() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let mut both = set(1, index, mac, &[VIP]);
    let missing = AnnouncedInterface {
        watched: imbl::OrdSet::new(),
        name: "gone0".to_owned(),
        mac,
        addresses: BTreeSet::from([IpAddr::V4(VIP)]),
    };
    both.interfaces.insert(9999, missing);
    let publisher = Publisher::start(&lan, silent(), both);
    publisher.wait_in_force(1);
    assert_eq!(ask(&lan, &lan.capture(), VIP), [lan::text(mac)]);
    let errors = publisher.view().errors();
    assert_eq!(errors.keys().copied().collect::<Vec<_>>(), [9999]);
    assert_eq!(errors[&9999].interface, "gone0");

    publisher.publish(set(2, index, mac, &[VIP]));
    publisher.wait_in_force(2);
    assert!(publisher.view().errors().is_empty());
}

#[test]
fn the_kernel_takes_filters_of_every_size() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    // From none over the longest program and back, and beyond it: then all ARP passes the kernel.
    for (generation, count) in (2_u64..).zip([0_u32, 1, 300, 950, 2, 950, 5000, 1]) {
        let mut vips: Vec<Ipv4Addr> = (0..count)
            .map(|number| Ipv4Addr::from((198 << 24) + number * 3))
            .collect();
        vips.push(VIP);
        publisher.publish(set(generation, index, mac, &vips));
        publisher.wait_in_force(generation);
        assert!(publisher.view().errors().is_empty(), "{count} addresses");
        let before = publisher.view().counters().replies(Protocol::Arp, "lan0");
        lan.inject(&[lan.request(VIP)]);
        eventually("an answer", || {
            publisher.view().counters().replies(Protocol::Arp, "lan0") > before
        });
        let ignored = publisher
            .view()
            .counters()
            .requests(Protocol::Arp, "lan0", "not_announced");
        assert_eq!(ignored, 0, "{count} addresses");
    }
}

#[test]
fn frames_of_a_foreign_vlan_and_foreign_claims_are_not_answered() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let capture = lan.capture();
    let mut tagged = lan.request(VIP);
    tagged.splice(12..12, [0x81, 0x00, 0x00, 77]);
    let [claim, _] = arp::gratuitous(VIP, [0x02, 0, 0, 0, 0, 0x66]);
    lan.inject(&[tagged, claim.to_vec()]);
    let counters = publisher.view().counters();
    eventually("the claim is counted", || {
        counters.conflicts(IpAddr::V4(VIP)) == 1
    });
    assert_eq!(counters.requests(Protocol::Arp, "lan0", "conflict"), 1);
    std::thread::sleep(SILENCE);
    assert_eq!(capture.replies(VIP), [""; 0]);
    assert_eq!(
        ask(&lan, &capture, VIP),
        [lan::text(mac)],
        "and the VIP is not silenced"
    );
}
