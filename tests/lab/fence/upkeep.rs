//! What keeps the fence standing: differences, foreign edits, interfaces that come and go, and what it
//! costs others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use edgelb::apply::fence::{Fence, Fenced, Renewal};
use edgelb::apply::monitor::{ForeignEdits, Monitor};
use edgelb::apply::netlink::NetlinkSocket;
use edgelb::model::host::{Host, Interface};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::VIPS;
use super::lan::{Lan, Node, VIP4, run};

/// The number of transactions that the ruleset has seen: `NFT_MSG_GETGEN`.
fn generation(node: &Node) -> u32 {
    node.within(|| {
        let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).unwrap();
        let mut request = vec![0; 20];
        request[4..6].copy_from_slice(&(10_u16 << 8 | 16).to_ne_bytes());
        let replies = socket.request(&request).unwrap();
        // nfgenmsg, then NFTA_GEN_ID first.
        let number = replies[0].payload[8..12].try_into().unwrap();
        u32::from_be_bytes(number)
    })
}

/// 10,000 addresses, half of each family.
fn many() -> Vec<IpAddr> {
    let v4 = (0..5_000).map(|number| Ipv4Addr::from_bits(0xc612_0000 + number).into());
    let v6 = (0..5_000).map(|number| Ipv6Addr::from_bits((0xfd10 << 112) + number).into());
    v4.chain(v6).collect()
}

fn listing(node: &Node) -> String {
    run(&node.namespace, "nft list ruleset")
}

#[test]
fn renewals_leave_the_generation_of_the_ruleset_alone() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fence = node.fence(&node.fenced(&VIPS));
    let before = generation(node);
    for _ in 0..100 {
        assert_eq!(node.within(|| fence.renew()).unwrap(), Renewal::Taken);
    }
    assert_eq!(generation(node), before);
    // A change is one transaction, and none at all where nothing differs.
    let fenced = node.fenced(&[]);
    node.within(|| fence.set(&fenced)).unwrap();
    assert_eq!(generation(node), before + 1);
    node.within(|| fence.set(&fenced)).unwrap();
    assert_eq!(generation(node), before + 1);
}

#[test]
fn ten_thousand_vips_are_fenced_fast_and_one_more_is_cheap() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fenced = node.fenced(&[]);
    let mut fence = node.fence(&fenced);
    for address in many() {
        fenced.vips.insert(address);
        fenced.owned.insert(address);
    }
    let mut one_less = fenced.clone();
    one_less.owned.remove(&many()[4_000]);
    let measure = |fence: &mut Fence, fenced: &Fenced| {
        node.within(|| {
            let start = Instant::now();
            fence.set(fenced).unwrap();
            start.elapsed()
        })
    };
    let all = measure(&mut fence, &one_less);
    let before = generation(node);
    let one = measure(&mut fence, &fenced);
    assert_eq!(generation(node), before + 1);
    let checked = node.within(|| {
        let start = Instant::now();
        assert!(!fence.repair().unwrap());
        start.elapsed()
    });
    run(&node.namespace, "nft flush ruleset");
    let rebuilt = node.within(|| {
        let start = Instant::now();
        assert!(fence.repair().unwrap());
        start.elapsed()
    });
    eprintln!("10,000 vips {all:?}, one more {one:?}, checked {checked:?}, rebuilt {rebuilt:?}");
    // What one more costs must not grow with those that are there. An emulated machine is fifty times
    // slower than any that this runs on, and not even there may an address cost a millisecond.
    assert!(all < Duration::from_secs(10), "{all:?}");
    assert!(one < Duration::from_millis(100), "{one:?}");
    assert!(rebuilt < Duration::from_secs(10), "{rebuilt:?}");
    let text = listing(node);
    assert!(text.contains("198.18.15.160") && text.contains("fd10::1387"));
}

#[test]
fn what_others_do_to_the_fence_is_noticed_and_repaired() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fence = node.fence(&node.fenced(&[VIP4.into()]));
    let right = listing(node);
    let (runtime, receiver) = node.within(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let context = runtime.enter();
        let (monitor, receiver) = Monitor::open(&[fence.port()]).unwrap();
        drop(context);
        runtime.spawn(monitor.run());
        (runtime, receiver)
    });
    let egress = format!("egress_{}", node.index("eth0"));
    for edit in [
        "flush ruleset".to_owned(),
        "delete table netdev edgelb".to_owned(),
        "delete table arp edgelb".to_owned(),
        "flush table netdev edgelb".to_owned(),
        "flush chain arp edgelb input".to_owned(),
        "flush chain netdev edgelb arp_sender".to_owned(),
        format!("delete chain netdev edgelb {egress}"),
        "insert rule netdev edgelb arp_sender accept".to_owned(),
        "flush set netdev edgelb vips4".to_owned(),
        "add element netdev edgelb owned6 { fd09::100 }".to_owned(),
        "delete element netdev edgelb frames { ip6 }".to_owned(),
        "add element arp edgelb vips4 { 10.9.0.7 }".to_owned(),
        "add set netdev edgelb odd { type ipv6_addr . mark ; elements = { ::1 . 7 } ; }".to_owned(),
    ] {
        assert!(!node.within(|| fence.repair()).unwrap(), "before: {edit}");
        let before = *receiver.borrow();
        run(&node.namespace, &format!("nft {edit}"));
        let start = Instant::now();
        while receiver.borrow().fences == before.fences {
            assert!(start.elapsed() < Duration::from_secs(5), "not told: {edit}");
            std::thread::sleep(Duration::from_millis(1));
        }
        let taken = start.elapsed();
        assert!(node.within(|| fence.repair()).unwrap(), "repairs: {edit}");
        let elapsed = start.elapsed();
        assert!(elapsed < Duration::from_secs(1), "{edit}: {elapsed:?}");
        eprintln!("{edit}: noticed {taken:?}, repaired {elapsed:?}");
        assert_eq!(listing(node), right, "{edit}");
    }
    // The fence's own work was told to nobody, and nothing was taken for the forwarding table's.
    let told: ForeignEdits = *receiver.borrow();
    assert_eq!((told.tables, told.routes), (0, 0));
    let count = told.fences;
    let fenced = node.fenced(&VIPS);
    node.within(|| fence.set(&fenced)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(receiver.borrow().fences, count);
    runtime.shutdown_background();
}

#[test]
fn a_flush_is_felt_by_the_renewal_and_a_repair_needs_another() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let mut fence = node.fence(&node.fenced(&[VIP4.into()]));
    let [of_vip4, of_vip6] = VIPS.map(|vip| node.announcements(vip).remove(0));
    assert_eq!(node.within(|| fence.renew()).unwrap(), Renewal::Taken);
    run(&node.namespace, "nft flush ruleset");
    node.within(|| {
        assert_eq!(fence.renew().unwrap(), Renewal::Passed);
        assert_eq!(fence.renew().unwrap(), Renewal::Passed);
        assert!(fence.repair().unwrap());
    });
    assert!(!node.sends("eth0", 0x86dd, &of_vip6));
    // The new table has no lease: whoever knows what is owned renews it.
    assert!(!node.sends("eth0", 0x0806, &of_vip4));
    assert!(node.sends_leased(&mut fence, "eth0", &of_vip4));
    // A set that the kernel refuses, because somebody was there before, ends in a repair too.
    run(&node.namespace, "nft delete table netdev edgelb");
    let fenced = node.fenced(&[]);
    node.within(|| fence.set(&fenced)).unwrap();
    node.within(|| fence.renew()).unwrap();
    assert!(!node.sends("eth0", 0x0806, &of_vip4));
}

#[test]
fn interfaces_come_go_and_come_again_under_the_same_name() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let fenced = node.fenced(&[]);
    let mut fence = node.fence(&fenced);
    let frame = node.announcements(VIP4.into()).remove(0);
    let first = node.index("eth0");
    run(&node.namespace, "ip link del eth0");
    // Not there: no error, and the rest stands.
    node.within(|| {
        fence.set(&fenced).unwrap();
        assert!(!fence.repair().unwrap());
    });
    node.connect(&lan.client, 1);
    let again = node.fenced(&[]);
    assert_ne!(node.index("eth0"), first);
    node.within(|| fence.set(&again)).unwrap();
    assert!(!node.sends("eth0", 0x0806, &frame));
    assert!(!node.within(|| fence.repair()).unwrap());

    // A second interface, and another name for it.
    run(
        &node.namespace,
        "ip link add eth1 type veth peer name peer1",
    );
    for interface in ["eth1", "peer1"] {
        run(&node.namespace, &format!("ip link set {interface} up"));
    }
    let mut both = again.clone();
    both.interfaces
        .insert(node.index("eth1"), "eth1".to_owned());
    assert!(node.sends("eth1", 0x0806, &frame));
    node.within(|| fence.set(&both)).unwrap();
    assert!(!node.sends("eth1", 0x0806, &frame));
    run(&node.namespace, "ip link set eth1 name uplink");
    let mut renamed = again.clone();
    renamed
        .interfaces
        .insert(node.index("uplink"), "uplink".to_owned());
    node.within(|| fence.set(&renamed)).unwrap();
    assert!(!node.sends("uplink", 0x0806, &frame));
    assert!(!node.sends("eth0", 0x0806, &frame));
    node.within(|| fence.set(&again)).unwrap();
    assert!(node.sends("uplink", 0x0806, &frame));
    assert!(!node.sends("eth0", 0x0806, &frame));
    assert!(!node.within(|| fence.repair()).unwrap());
}

#[test]
fn an_earlier_run_is_taken_over_and_everything_is_removed() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    drop(node.fence(&node.fenced(&VIPS)));
    run(&node.namespace, "nft add table inet other");
    let before = generation(node);
    // Opening tries what the kernel can in two transactions that leave nothing; what stands is right.
    let mut fence = node.fence(&node.fenced(&VIPS));
    assert_eq!(generation(node), before + 2);
    let text = listing(node);
    assert!(!text.contains("trial"), "{text}");
    assert_eq!(node.within(|| fence.remove()).unwrap(), 2);
    assert_eq!(node.within(|| fence.remove()).unwrap(), 0);
    assert_eq!(listing(node).trim(), "table inet other {\n}");
    let fenced = node.fenced(&[]);
    node.within(|| fence.set(&fenced)).unwrap();
    assert!(listing(node).contains("table netdev edgelb"));
}

#[test]
fn other_packets_pay_for_two_expressions() {
    let lan = Lan::new();
    let [node, _] = &lan.nodes;
    let _fence = node.fence(&node.fenced(&VIPS));
    let egress = format!("egress_{}", node.index("eth0"));
    let count = |chain: &str, ends: &str| {
        let command = format!("nft --debug=netlink list chain netdev edgelb {chain}");
        let text = run(&node.namespace, &command);
        let expressions: Vec<&str> = text.lines().filter(|it| it.starts_with("  [ ")).collect();
        let end = expressions.iter().position(|it| it.contains(ends));
        (expressions.len(), end)
    };
    // Where the ethertype is in no map, the rule ends with the lookup.
    assert_eq!(count(&egress, "lookup"), (2, Some(1)));
    // Packets on lo end with the comparison.
    assert_eq!(count("renew", "cmp").1, Some(1));
    assert_eq!(count("nd_message", "cmp").1, Some(1));
}

#[test]
fn addresses_of_the_host_are_never_fenced() {
    let own: Vec<IpAddr> = ["10.9.0.1", "fd09::1"]
        .iter()
        .map(|it| it.parse().unwrap())
        .collect();
    let interface = |index: u32, name: &str, loopback: bool, addresses: &[&str]| Interface {
        index,
        name: name.to_owned(),
        mac: None,
        running: true,
        loopback,
        addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
    };
    let host = Host {
        interfaces: BTreeMap::from([
            (1, interface(1, "lo", true, &["10.9.0.100/32"])),
            (
                2,
                interface(2, "eth0", false, &["10.9.0.1/24", "fd09::1/64"]),
            ),
            (3, interface(3, "kube-ipvs0", false, &["10.9.0.100/32"])),
        ]),
        infrastructure: Vec::new(),
    };
    let vips = own.iter().copied().chain(VIPS).collect();
    let fenced = Fenced::new(BTreeMap::new(), &vips, vips.clone(), &host);
    assert_eq!(fenced.vips.into_iter().collect::<Vec<_>>(), VIPS);
}
