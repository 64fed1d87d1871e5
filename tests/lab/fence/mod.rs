//! The fence against a real kernel: what speaks for a VIP leaves only the node that owns it, while its
//! lease lives, whoever sends it.

mod lan;
mod upkeep;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use edgelb::apply::fence::{FenceSupport, Renewal, TIMEOUT};
use edgelb::lab::tool;

use lan::{CLIENT, Held, Lan, OTHER4, OTHER6, PROTOCOLS, TICKS, VIP4, VIP6, run, tagged};

const MARK: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 250);
const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP4), IpAddr::V6(VIP6)];

#[test]
fn only_the_owner_speaks_for_a_vip_whatever_socket_it_uses() {
    let lan = Lan::new();
    let [owner, other] = &lan.nodes;
    let mut of_owner = owner.fence(&owner.fenced(&VIPS));
    let mut of_other = other.fence(&other.fenced(&[]));
    assert_eq!(of_owner.support(), FenceSupport::Active);
    let capture = lan.capture();
    for protocol in PROTOCOLS {
        // A lease alone permits nothing.
        assert_eq!(other.within(|| of_other.renew()).unwrap(), Renewal::Taken);
        for frame in VIPS.iter().flat_map(|vip| other.announcements(*vip)) {
            for frame in [frame.clone(), tagged(&frame, 0)] {
                let left = other.sends("eth0", protocol, &frame);
                assert!(!left, "{protocol:04x}: {frame:02x?}");
            }
        }
    }
    let heard = capture.up_to(other, MARK);
    let told = |line: &&String| line.contains("10.9.0.100") || line.contains("fd09::100");
    assert_eq!(heard.iter().filter(told).count(), 0, "{heard:?}");
    drop(capture);

    let capture = lan.capture();
    for frame in VIPS.iter().flat_map(|vip| owner.announcements(*vip)) {
        for frame in [frame.clone(), tagged(&frame, 0)] {
            let left = owner.sends_leased(&mut of_owner, "eth0", &frame);
            assert!(left, "{frame:02x?}");
        }
    }
    let heard = capture.up_to(owner, MARK);
    for text in ["who-has 10.9.0.100", "10.9.0.100 is-at", "tgt is fd09::100"] {
        let count = heard.iter().filter(|line| line.contains(text)).count();
        assert!(count >= 2, "{text}: {heard:?}");
    }
}

#[test]
fn other_addresses_and_other_vlans_pass() {
    let lan = Lan::new();
    let [_, node] = &lan.nodes;
    let _fence = node.fence(&node.fenced(&[]));
    let own: Vec<IpAddr> = [node.address.as_str(), "fd09::2"]
        .iter()
        .map(|address| address.parse().unwrap())
        .collect();
    let others = [OTHER4.into(), OTHER6.into()];
    for frame in own
        .into_iter()
        .chain(others)
        .flat_map(|it| node.announcements(it))
    {
        assert!(node.sends("eth0", 0x0806, &frame), "{frame:02x?}");
        assert!(node.sends("eth0", 3, &tagged(&frame, 0)), "{frame:02x?}");
    }
    for frame in VIPS.iter().flat_map(|vip| node.announcements(*vip)) {
        assert!(node.sends("eth0", 3, &tagged(&frame, 7)), "{frame:02x?}");
    }
    // And the node can talk.
    run(&node.namespace, &format!("ping -c 1 -W 5 {CLIENT}"));
    run(&node.namespace, "ping -6 -c 1 -W 5 fd09::9");
}

#[test]
fn the_kernel_itself_never_speaks_for_a_vip() {
    let lan = Lan::new();
    let [_, node] = &lan.nodes;
    for setting in ["arp_ignore", "arp_announce"] {
        let path = format!("net/ipv4/conf/all/{setting}");
        node.namespace.set_sysctl(&path, "0").unwrap();
    }
    run(
        &node.namespace,
        &format!("ip route add local {VIP4} dev lo table local"),
    );
    let asks = || {
        let arguments = ["-I", "lan0", "-c", "1", "-w", "1", "10.9.0.100"];
        tool(&lan.client, "arping", &arguments).is_ok()
    };
    let speaks = || {
        let capture = lan.capture();
        run(&node.namespace, "ip neigh flush dev eth0");
        let ping = ["-c", "1", "-W", "1", "-I", "10.9.0.100", CLIENT];
        let answered = tool(&node.namespace, "ping", &ping).is_ok();
        let heard = capture.up_to(node, MARK);
        let named = heard.iter().any(|line| line.contains("tell 10.9.0.100"));
        (answered, named)
    };
    // Both is so without the fence, or the test would show nothing.
    assert!(asks());
    assert!(speaks().1);
    run(&lan.client, "ip neigh flush dev lan0");
    let mut fence = node.fence(&node.fenced(&[]));
    node.within(|| fence.renew()).unwrap();
    assert!(!asks());
    assert_eq!(speaks(), (false, false));
    // The owner's kernel does not answer either: its announcer does. But what it asks may bear the
    // VIP's name.
    let owned = node.fenced(&VIPS);
    node.within(|| fence.set(&owned)).unwrap();
    assert!(!asks());
    let request = node.announcements(VIP4.into()).remove(2);
    assert!(node.sends_leased(&mut fence, "eth0", &request));
}

#[test]
fn a_daemon_that_does_not_renew_falls_silent_and_speaks_again() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fence = node.fence(&node.fenced(&VIPS));
    let frames: Vec<Vec<u8>> = VIPS
        .iter()
        .flat_map(|vip| node.announcements(*vip))
        .collect();
    let is_silent = || {
        for frame in &frames {
            assert!(!node.sends("eth0", 0x0806, frame), "{frame:02x?}");
        }
    };
    is_silent();
    for _ in 0..3 {
        for frame in &frames {
            assert!(node.sends_leased(&mut fence, "eth0", frame), "{frame:02x?}");
        }
        let before = Instant::now();
        assert_eq!(node.within(|| fence.renew()).unwrap(), Renewal::Taken);
        let renewed = Instant::now();
        while node.sends("eth0", 0x0806, &frames[0]) {
            assert!(renewed.elapsed() < 10 * TIMEOUT);
        }
        let lived = before.elapsed();
        assert!(lived + TICKS > TIMEOUT, "{lived:?}");
        is_silent();
    }
}

#[test]
fn a_renewal_in_time_never_lets_the_lease_lapse() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fence = node.fence(&node.fenced(&VIPS));
    let frame = node.announcements(VIP4.into()).remove(0);
    let start = Instant::now();
    let mut asked = 0;
    while start.elapsed() < 4 * TIMEOUT {
        assert_eq!(node.within(|| fence.renew()).unwrap(), Renewal::Taken);
        let renewed = Instant::now();
        while renewed.elapsed() < TIMEOUT / 3 {
            let left = node.sends("eth0", 0x0806, &frame);
            // On a machine that stood still the lease is over by right.
            assert!(left || renewed.elapsed() + TICKS > TIMEOUT);
            asked += 1;
        }
    }
    assert!(asked > 10);
}

#[test]
fn bridges_macvlans_and_their_parents_share_the_lease() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    run(
        &node.namespace,
        "ip link add mac0 link eth0 type macvlan mode bridge",
    );
    run(&node.namespace, "ip link add br0 type bridge");
    for interface in ["mac0", "br0"] {
        run(&node.namespace, &format!("ip link set {interface} up"));
    }
    let mut fenced = node.fenced(&[]);
    for interface in ["mac0", "br0"] {
        fenced
            .interfaces
            .insert(node.index(interface), interface.to_owned());
    }
    let mut fence = node.fence(&fenced);
    let frame = node.announcements(VIP4.into()).remove(0);
    let left = |fence: &mut Held, expected: bool| {
        for interface in ["eth0", "mac0", "br0"] {
            let left = node.sends_leased(fence, interface, &frame);
            assert_eq!(left, expected, "{interface}");
        }
    };
    left(&mut fence, false);
    fenced.owned = VIPS.into_iter().collect();
    node.within(|| fence.set(&fenced)).unwrap();
    left(&mut fence, true);
}
