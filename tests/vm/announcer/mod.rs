//! The announcer on links that this project's own kernels for tests have and small ones lack: bonds and
//! VLANs.

#[path = "../../lab/announcer/capture.rs"]
#[allow(dead_code)]
mod capture;
#[path = "../../lab/announcer/lan.rs"]
#[allow(dead_code)]
mod lan;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use edgelb::apply::announcer::burst::BurstSettings;
use edgelb::apply::announcer::socket::Protocol;
use edgelb::model::announcement::{AnnouncedInterface, AnnouncedSet};
use lan::{Lan, Publisher, eventually};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const IPV6_VIP: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);
const VIPS: [IpAddr; 2] = [IpAddr::V4(VIP), IpAddr::V6(IPV6_VIP)];
/// As long as a frame that must not be answered is waited for, on an emulated machine.
const SILENCE: Duration = Duration::from_secs(1);

/// The VIPs on one link of the announcing end; and its hardware address.
fn on_link(lan: &Lan, name: &str) -> (AnnouncedSet, [u8; 6]) {
    let (index, mac) = lan.link(name);
    let interface = AnnouncedInterface {
        name: name.to_owned(),
        mac,
        addresses: VIPS.into(),
        watched: imbl::OrdSet::new(),
    };
    let set = AnnouncedSet {
        generation: 1,
        interfaces: BTreeMap::from([(index, interface)]),
        ..AnnouncedSet::default()
    };
    (set, mac)
}

/// One announcement at the take-over and no refresh.
fn once() -> BurstSettings {
    BurstSettings {
        burst: vec![Duration::ZERO],
        refresh: None,
    }
}

/// Whether the client resolves both VIPs to this hardware address, on its link of this name.
fn resolves(lan: &Lan, link: &str, mac: [u8; 6]) -> bool {
    lan.client("ip", &["neigh", "flush", "dev", link, "nud", "all"]);
    VIPS.iter().all(|vip| {
        let vip = vip.to_string();
        lan.client_can("ping", &["-c", "1", "-W", "2", &vip]);
        let neighbour = lan.client("ip", &["neigh", "show", &vip, "dev", link]);
        neighbour.contains(&lan::text(mac))
    })
}

/// Puts the client's end and a second cable behind a switch of the same name.
fn second_cable(lan: &Lan) {
    let [announcing, client] = lan.namespaces();
    let second = [
        "link", "add", "lan1", "type", "veth", "peer", "name", "port1",
    ];
    lan.ip(&[&second[..], &["netns", client]].concat());
    let commands: [&[&str]; 10] = [
        &["link", "set", "eth0", "down"],
        &["link", "set", "eth0", "name", "port0"],
        &["link", "add", "eth0", "type", "bridge"],
        &["link", "set", "port0", "master", "eth0"],
        &["link", "set", "port1", "master", "eth0"],
        &["link", "set", "port0", "up"],
        &["link", "set", "port1", "up"],
        &["link", "set", "eth0", "up"],
        &["address", "flush", "dev", "port0"],
        &["address", "add", "192.0.2.100/24", "dev", "eth0"],
    ];
    for command in commands {
        lan.client("ip", command);
    }
    lan.client("ip", &["address", "add", "2001:db8::100/64", "dev", "eth0"]);
    assert!(!announcing.is_empty());
}

#[test]
fn a_bond_tells_its_neighbours_again_when_another_port_is_used() {
    let lan = Lan::new(&VIPS);
    second_cable(&lan);
    let bond = [
        "link",
        "add",
        "bond0",
        "type",
        "bond",
        "mode",
        "active-backup",
    ];
    lan.ip(&[&bond[..], &["miimon", "50"]].concat());
    for port in ["lan0", "lan1"] {
        lan.ip(&["link", "set", port, "down"]);
        lan.ip(&["link", "set", port, "master", "bond0"]);
    }
    lan.ip(&["link", "set", "bond0", "up"]);
    for address in ["192.0.2.1/24", "2001:db8::1/64"] {
        lan.ip(&["address", "add", address, "dev", "bond0"]);
    }
    let active = || {
        lan.ip(&["-d", "link", "show", "bond0"])
            .contains("active_slave lan0")
    };
    eventually("the first port is active", || {
        lan.ip(&[
            "link",
            "set",
            "bond0",
            "type",
            "bond",
            "active_slave",
            "lan0",
        ]);
        active()
    });
    let (set, mac) = on_link(&lan, "bond0");
    let publisher = Publisher::start(&lan, once(), set);
    publisher.wait_in_force(1);
    eventually("the VIPs are answered for", || resolves(&lan, "eth0", mac));
    // The switch has the bond's address at the first port.
    let port_of_bond = |port: &str| {
        let shown = lan.client("bridge", &["fdb", "show", "br", "eth0"]);
        let entry = format!("{} dev {port} master eth0", lan::text(mac));
        shown.lines().any(|line| line.trim() == entry)
    };
    eventually("the switch knows the port", || port_of_bond("port0"));
    let counters = publisher.view().counters();
    let announced = || {
        counters
            .gratuitous("bond0", "ipv4")
            .min(counters.gratuitous("bond0", "ipv6"))
    };
    let before = announced();
    lan.client("ip", &["link", "set", "port0", "down"]);
    eventually("the neighbours are told again", || {
        announced() >= before + 2
    });
    eventually("the switch knows the other port", || port_of_bond("port1"));
    eventually("the VIPs are answered for", || resolves(&lan, "eth0", mac));
    assert!(publisher.view().errors().is_empty());
}

#[test]
fn a_vlan_answers_its_own_frames_and_its_parent_those_without_a_tag() {
    let lan = Lan::new(&VIPS);
    let [announcing, client] = lan.namespaces();
    for (namespace, parent, addresses) in [
        (announcing, "lan0", ["192.0.2.1/24", "2001:db8::1/64"]),
        (client, "eth0", ["192.0.2.100/24", "2001:db8::100/64"]),
    ] {
        let vlan = format!("{parent}.77");
        let ip = |arguments: &[&str]| lan::run("ip", &[&["-n", namespace], arguments].concat());
        ip(&[
            "link", "add", "link", parent, "name", &vlan, "type", "vlan", "id", "77",
        ]);
        ip(&["link", "set", &vlan, "up"]);
        ip(&["address", "flush", "dev", parent]);
        for address in addresses {
            ip(&["address", "add", address, "dev", &vlan]);
        }
    }
    let (set, mac) = on_link(&lan, "lan0.77");
    let publisher = Publisher::start(&lan, once(), set);
    publisher.wait_in_force(1);
    eventually("the VIPs are answered for", || {
        resolves(&lan, "eth0.77", mac)
    });
    let counters = publisher.view().counters();
    let heard = || counters.requests(Protocol::Arp, "lan0.77", "answered");
    let answered = heard();
    let mut foreign = lan.request(VIP);
    foreign.splice(12..12, [0x81, 0x00, 0x00, 78]);
    lan.inject(&[lan.request(VIP), foreign]);
    std::thread::sleep(SILENCE);
    assert_eq!(
        heard(),
        answered,
        "neither without a tag nor of another VLAN"
    );
    drop(publisher);

    let (set, _) = on_link(&lan, "lan0");
    let publisher = Publisher::start(&lan, once(), set);
    publisher.wait_in_force(1);
    let counters = publisher.view().counters();
    let heard = || counters.requests(Protocol::Arp, "lan0", "answered");
    let tagged = |vlan: u8| {
        let mut frame = lan.request(VIP);
        frame.splice(12..12, [0x81, 0x00, 0x00, vlan]);
        frame
    };
    lan.inject(&[tagged(77), tagged(78)]);
    std::thread::sleep(SILENCE);
    assert_eq!(heard(), 0, "a VLAN is another network");
    lan.inject(&[lan.request(VIP), tagged(0)]);
    eventually("both frames without a VLAN are answered", || heard() == 2);
}
