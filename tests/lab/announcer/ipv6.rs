//! IPv6 VIPs on a real link: the client's kernel asks, learns and detects duplicates; tcpdump looks on.

use std::net::Ipv6Addr;
use std::time::Duration;

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::Protocol;

use super::lan::{self, Lan, Publisher, eventually};
use super::{SILENCE, set, silent};

pub const VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const OTHER_VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);

/// Whether the client reaches the address, which it has to resolve first.
fn reaches(lan: &Lan, vip: Ipv6Addr) -> bool {
    let vip = vip.to_string();
    lan.client("ip", &["neigh", "flush", "dev", "eth0", "nud", "all"]);
    lan.client_can("ping", &["-6", "-c", "1", "-W", "1", &vip])
}

#[test]
fn the_clients_kernel_resolves_a_vip_until_it_is_withdrawn() {
    let lan = Lan::new(&[VIP, OTHER_VIP]);
    let (index, mac) = lan.announcing_link();
    assert!(!reaches(&lan, VIP), "the kernel itself never answers");
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let capture = lan.capture_ipv6();
    assert!(reaches(&lan, VIP));
    assert!(
        !reaches(&lan, OTHER_VIP),
        "what is not announced is not answered for"
    );
    assert!(reaches(&lan, VIP));
    let neighbour = lan.neighbour(VIP);
    assert!(neighbour.contains(&lan::text(mac)), "{neighbour}");
    assert!(!neighbour.contains("router"), "{neighbour}");
    eventually("both answers are seen", || {
        capture.advertisements(VIP).len() >= 2
    });
    for answer in capture.advertisements(VIP) {
        assert_eq!(answer.flags, "solicited, override");
        assert_eq!(
            (&*answer.from, &*answer.mac),
            (&*lan::text(mac), &*lan::text(mac))
        );
        assert_eq!(answer.to, lan::text(lan.client_mac()));
        assert!(
            answer.addresses.starts_with(&format!("{VIP} > ")),
            "{answer:?}"
        );
    }
    let counters = publisher.view().counters();
    assert!(counters.replies(Protocol::NeighborDiscovery, "lan0") >= 2);

    publisher.publish(set(2, index, mac, &[OTHER_VIP]));
    publisher.wait_in_force(2);
    assert!(!reaches(&lan, VIP), "withdrawn");
    assert!(reaches(&lan, OTHER_VIP));
}

#[test]
fn duplicate_address_detection_of_another_host_finds_the_vip() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    publisher.wait_in_force(1);
    let capture = lan.capture_ipv6();
    let on = "echo 1 > /proc/sys/net/ipv6/conf/eth0/accept_dad; \
              echo 1 > /proc/sys/net/ipv6/conf/eth0/dad_transmits";
    lan.client("sh", &["-c", on]);
    let address = format!("{VIP}/64");
    lan.client("ip", &["address", "add", &address, "dev", "eth0"]);
    eventually("the address is found to be a duplicate", || {
        lan.client("ip", &["address", "show", "dev", "eth0"])
            .contains("dadfailed")
    });
    eventually("the defence is seen", || {
        !capture.advertisements(VIP).is_empty()
    });
    let defence = &capture.advertisements(VIP)[0];
    assert_eq!(
        defence.flags, "override",
        "not solicited, as nobody can be told by unicast"
    );
    assert_eq!(defence.addresses, format!("{VIP} > ff02::1"));
    assert_eq!(defence.to, "33:33:00:00:00:01");
    assert_eq!(publisher.view().counters().conflicts(VIP.into()), 0);
}

#[test]
fn announces_a_take_over_to_all_nodes_and_routers_in_the_given_rhythm() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let capture = lan.capture_ipv6();
    let burst = BurstSettings {
        burst: [0, 50, 150].map(Duration::from_millis).to_vec(),
        refresh: Some(Duration::from_secs(1)),
    };
    // The client learnt it from another node, less than a second ago.
    lan.teach_client(VIP, [0x02, 0, 0, 0, 0, 0x77]);
    let publisher = Publisher::start(&lan, burst, set(1, index, mac, &[VIP]));
    eventually("the burst and one refresh", || {
        capture.advertisements(VIP).len() >= 8
    });
    let frames = capture.advertisements(VIP);
    for pair in frames.chunks_exact(2) {
        let [nodes, routers] = pair else {
            unreachable!()
        };
        assert_eq!(nodes.addresses, format!("{VIP} > ff02::1"));
        assert_eq!(routers.addresses, format!("{VIP} > ff02::2"));
        assert_eq!(nodes.to, "33:33:00:00:00:01");
        assert_eq!(routers.to, "33:33:00:00:00:02");
    }
    assert!(frames.iter().all(|frame| frame.flags == "override"));
    assert!(frames.iter().all(|frame| frame.mac == lan::text(mac)));
    let neighbour = lan.neighbour(VIP);
    assert!(
        neighbour.contains(&lan::text(mac)),
        "the client follows: {neighbour}"
    );
    let start = frames[0].seconds;
    // 10 % of jitter, and what a busy machine is late.
    for (pair, due) in frames.chunks_exact(2).zip([0.0, 0.05, 0.15]) {
        let at = pair[0].seconds - start;
        assert!(
            at >= due * 0.9 - 0.005 && at <= due * 1.1 + 0.5,
            "{at} s, not {due} s"
        );
    }
    assert!(publisher.view().counters().gratuitous("lan0", "ipv6") >= 8);
}

#[test]
fn the_groups_of_the_vips_are_joined_and_told_to_switches_again() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let capture = lan.capture_ipv6();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &[VIP]));
    let joined = || {
        lan.ip(&["maddr", "show", "dev", "lan0"])
            .contains("ff02::1:ff12:3456")
    };
    eventually("the group is joined", joined);
    let reports = || {
        let lines = capture.lines();
        let from = lan::text(lan.announcing_link().1);
        let of_group = |line: &&String| {
            line.contains(&format!(" {from} > "))
                && line.contains("multicast listener report")
                && line.contains("ff02::1:ff12:3456")
        };
        lines.iter().filter(of_group).count()
    };
    eventually("switches are told", || reports() > 0);

    // The cable is pulled at the other end: no socket notices.
    let before = reports();
    lan.client("ip", &["link", "set", "eth0", "down"]);
    lan.client("ip", &["link", "set", "eth0", "up"]);
    eventually("switches are told after a flap", || reports() > before);

    publisher.publish(set(2, index, mac, &[OTHER_VIP]));
    eventually("the group is left", || !joined());
}

#[test]
fn more_groups_than_a_socket_holds_are_joined_again_on_a_new_interface() {
    let lan = Lan::new(&[VIP]);
    let (index, mac) = lan.announcing_link();
    let vips: Vec<Ipv6Addr> = (0..4000_u16)
        .map(|number| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, number))
        .chain([VIP])
        .collect();
    let publisher = Publisher::start(&lan, silent(), set(1, index, mac, &vips));
    publisher.wait_in_force(1);
    let joined = || {
        let shown = lan.ip(&["maddr", "show", "dev", "lan0"]);
        shown.matches("ff02::1:ff12:").count()
    };
    eventually("all groups are joined", || joined() >= vips.len());
    assert!(publisher.view().errors().is_empty());
    lan.delete_link();
    lan.create_link();
    eventually("all groups are joined again", || joined() >= vips.len());
    eventually("the VIP is answered for", || reaches(&lan, VIP));
    assert!(publisher.view().errors().is_empty());
    publisher.publish(set(2, index, mac, &[VIP]));
    eventually("the others are left", || joined() == 1);
    std::thread::sleep(SILENCE);
    assert!(reaches(&lan, VIP));
}
