//! Somebody is asked before an address is taken: hosts whose kernels have it answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use edgelb::apply::prober::once::{Answers, ProbeOnce};
use edgelb::model::foreign::{MacAddress, Wanted, WantedInterface};
use imbl::OrdSet;

use super::ipv6::VIP as IPV6_VIP;
use super::lan::{CLIENT, Lan, runtime, within};
use super::{OTHER_VIP, VIP};

const CLIENT_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

/// Asks from the announcing end.
fn ask(
    lan: &Lan,
    probe: ProbeOnce,
    addresses: impl IntoIterator<Item = IpAddr>,
    peers: &[[u8; 6]],
) -> (Answers, Duration) {
    let (index, mac) = lan.announcing_link();
    let interface = WantedInterface {
        name: "lan0".to_owned(),
        mac: MacAddress(mac),
        addresses: addresses.into_iter().collect(),
    };
    let wanted = Wanted {
        interfaces: BTreeMap::from([(index, interface)]),
        own: [MacAddress(mac)].into(),
    };
    let peers: OrdSet<MacAddress> = peers.iter().copied().map(MacAddress).collect();
    let [announcing, _] = lan.namespaces();
    let asking = move || {
        let runtime = runtime();
        let start = Instant::now();
        let answers = runtime.block_on(probe.ask(&wanted, &peers));
        (answers, start.elapsed())
    };
    within(announcing, asking).join().unwrap()
}

#[test]
fn who_uses_an_address_is_found_in_both_families() {
    let lan = Lan::new(&[] as &[IpAddr]);
    let client = lan.client_mac();
    let used: [IpAddr; 2] = [CLIENT.into(), CLIENT_IPV6.into()];
    let free: [IpAddr; 2] = [VIP.into(), IPV6_VIP.into()];
    let (answers, took) = ask(&lan, ProbeOnce::FULL, used.into_iter().chain(free), &[]);
    for address in used {
        assert_eq!(
            answers.foreign.get(address),
            Some(MacAddress(client)),
            "{address}"
        );
        assert!(answers.is_used(address));
    }
    assert_eq!(answers.foreign.iter().count(), 2);
    assert!(
        answers.peers.is_empty() && answers.unasked.is_empty(),
        "{answers:?}"
    );
    assert!(
        took >= Duration::from_millis(600),
        "free is known after all probes: {took:?}"
    );

    let (answers, took) = ask(&lan, ProbeOnce::FULL, used, &[client]);
    assert_eq!(answers.peers.get(CLIENT.into()), Some(MacAddress(client)));
    assert_eq!(answers.peers.iter().count(), 2);
    assert!(answers.foreign.is_empty());
    assert!(
        took < Duration::from_millis(400),
        "all have answered: {took:?}"
    );
    // Asking has changed nothing at the host.
    let (_, own) = lan.announcing_link();
    assert!(
        !lan.client("ip", &["neigh"])
            .contains(&super::lan::text(own))
    );
}

#[test]
fn the_short_one_takes_little_time() {
    let lan = Lan::new(&[] as &[IpAddr]);
    let (answers, took) = ask(&lan, ProbeOnce::SHORT, [VIP.into(), IPV6_VIP.into()], &[]);
    assert_eq!(answers, Answers::default());
    assert!(took >= Duration::from_millis(60), "{took:?}");
    assert!(took < Duration::from_millis(300), "{took:?}");
}

#[test]
fn two_thousand_addresses_are_asked_for_in_little_more() {
    let lan = Lan::new(&[] as &[IpAddr]);
    // Counted by the kernel: tcpdump now and then misses one of so many.
    let rules = "add table netdev count; \
                 add chain netdev count in { type filter hook ingress device eth0 priority 0; }; \
                 add rule netdev count in arp daddr ip 10.1.0.0/16 counter";
    lan.client("nft", &[rules]);
    let vips = (0..2000_u32).map(|number| IpAddr::from(Ipv4Addr::from(0x0a01_0000 + number)));
    let (answers, took) = ask(&lan, ProbeOnce::SHORT, vips.chain([CLIENT.into()]), &[]);
    assert_eq!(answers.foreign.iter().count(), 1);
    assert!(answers.unasked.is_empty());
    assert!(took < Duration::from_secs(3), "{took:?}");
    let asked = || lan.client("nft", &["list", "table", "netdev", "count"]);
    super::eventually("each is asked for twice", || {
        asked().contains("packets 4000 ")
    });
}

#[test]
fn a_link_that_is_down_says_nothing() {
    let lan = Lan::new(&[] as &[IpAddr]);
    lan.ip(&["link", "set", "lan0", "down"]);
    let (answers, took) = ask(&lan, ProbeOnce::FULL, [VIP.into(), OTHER_VIP.into()], &[]);
    assert!(answers.unasked["lan0"].contains("is down"), "{answers:?}");
    assert!(
        took < Duration::from_millis(300),
        "nobody waits for it: {took:?}"
    );
}
