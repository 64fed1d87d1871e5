//! Who is passed what, over moves that were planned and moves that were not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdSet;

use super::former::Former;
use super::{FORGET_AFTER, Scene, take_over, ways, whose};
use crate::apply::handover::Arrival;
use crate::model::announcement::AnnouncedInterface;
use crate::model::foreign::MacAddress;
use crate::model::host::{Host, Interface};
use crate::model::peer::{
    Claims, Heard, MemberState, Owners, Peer, Peers, Presence, PublishedInterface,
};

const VIP4: &str = "192.0.2.200";
const VIP6: &str = "fd00:2::200";

/// The LAN as one of three nodes sees it.
struct Lan {
    former: Former,
    owners: Owners,
    peers: Peers,
    host: Host,
    stage: BTreeMap<u32, AnnouncedInterface>,
    vips: OrdSet<IpAddr>,
    translated: OrdSet<IpAddr>,
    passed: BTreeMap<IpAddr, Instant>,
    now: Instant,
}

fn number(node: &str) -> u8 {
    node.as_bytes()[0] - b'a' + 1
}

fn subnets(node: &str) -> Vec<ipnet::IpNet> {
    let number = number(node);
    let texts = [
        format!("10.0.0.{number}/24"),
        format!("192.0.2.{number}/24"),
        format!("fd00:2::{number}/64"),
    ];
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn peer(node: &str) -> Peer {
    let interface = PublishedInterface {
        name: "eth0".to_owned(),
        mac: MacAddress([2, 0, 0, 0, 0, number(node)]),
        subnets: subnets(node),
    };
    Peer {
        presence: Presence::Alive,
        epoch: 1,
        state: MemberState {
            interfaces: vec![interface],
            ..MemberState::default()
        },
        claims: Claims::new(),
        heard: Heard::default(),
    }
}

impl Lan {
    fn of(node: &str) -> Self {
        let vips: OrdSet<IpAddr> = [VIP4, VIP6]
            .iter()
            .map(|vip| vip.parse::<IpAddr>().unwrap())
            .collect();
        let others = ["a", "b", "c"].into_iter().filter(|other| *other != node);
        let mut addresses = subnets(node);
        addresses.remove(0);
        let interface = Interface {
            index: 7,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, number(node)]),
            running: true,
            loopback: false,
            addresses,
        };
        let announced = AnnouncedInterface {
            name: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, number(node)],
            addresses: std::collections::BTreeSet::new(),
            watched: vips.clone(),
        };
        Self {
            former: Former::new(node.to_owned()),
            owners: Owners::new(),
            peers: Peers {
                enabled: true,
                settled: true,
                members: others
                    .map(|other| (other.to_owned(), Arc::new(peer(other))))
                    .collect(),
            },
            host: Host {
                interfaces: [(7, interface)].into(),
                infrastructure: Vec::new(),
            },
            stage: [(7, announced)].into(),
            translated: vips.clone(),
            vips,
            passed: BTreeMap::new(),
            now: Instant::now(),
        }
    }

    fn is(&mut self, node: &str, presence: Presence) {
        let mut peer = peer(node);
        peer.presence = presence;
        self.peers.members.insert(node.to_owned(), Arc::new(peer));
        self.follow();
    }

    fn follow(&mut self) {
        self.former
            .follow(&self.owners, &self.peers, &self.translated, self.now);
    }

    /// That node has all VIPs now, or nobody.
    fn owned_by(&mut self, node: &str) {
        let owned = self.vips.iter().filter(|_| !node.is_empty());
        self.owners = owned.map(|vip| (*vip, node.to_owned())).collect();
        self.follow();
    }

    /// What is passed on to which address.
    fn ways(&self) -> BTreeMap<Arrival, IpAddr> {
        let peers = Arc::new(self.peers.clone());
        ways(&self.former, &self.scene(&peers))
    }

    fn scene<'a>(&'a self, peers: &'a Arc<Peers>) -> Scene<'a> {
        Scene {
            owners: &self.owners,
            peers,
            host: &self.host,
            stage: &self.stage,
            vips: &self.vips,
            translated: &self.translated,
            passed: &self.passed,
        }
    }

    /// Takes over what stands; what is left of it.
    fn takes_over(&mut self, standing: &BTreeMap<Arrival, IpAddr>) -> usize {
        let peers = Arc::new(self.peers.clone());
        let mut former = std::mem::replace(&mut self.former, Former::new(String::new()));
        let mut standing = standing.clone();
        take_over(&mut standing, &mut former, &self.scene(&peers), self.now);
        self.former = former;
        standing.len()
    }

    /// The node that both VIPs' packets go to; empty where nothing is passed on.
    #[track_caller]
    fn passes_to(&self) -> &str {
        let ways = self.ways();
        let nodes: OrdSet<&str> = ways
            .values()
            .map(|address| whose(&self.peers, *address).unwrap())
            .collect();
        assert!(
            ways.is_empty() || (ways.len(), nodes.len()) == (2, 1),
            "{ways:?}"
        );
        let node = nodes.iter().next().copied().unwrap_or_default();
        ["a", "b", "c"]
            .into_iter()
            .find(|it| *it == node)
            .unwrap_or_default()
    }
}

/// Runs the same on each of the three nodes and tells to whom each passes.
fn on_all(play: impl Fn(&mut Lan)) -> [String; 3] {
    ["a", "b", "c"].map(|node| {
        let mut lan = Lan::of(node);
        play(&mut lan);
        lan.passes_to().to_owned()
    })
}

#[test]
fn each_of_two_passes_to_the_other_over_a_move_and_back() {
    let there = |lan: &mut Lan| {
        lan.owned_by("a");
        assert_eq!(lan.passes_to(), "");
        lan.owned_by("b");
    };
    assert_eq!(on_all(there), ["b", "a", ""]);
    let back = |lan: &mut Lan| {
        there(lan);
        lan.owned_by("a");
    };
    assert_eq!(on_all(back), ["b", "a", ""]);
}

#[test]
fn a_third_one_passes_to_the_second() {
    let on = |lan: &mut Lan| {
        lan.owned_by("a");
        lan.owned_by("b");
        lan.owned_by("c");
    };
    assert_eq!(on_all(on), ["c", "c", "b"]);
}

/// A relief may leave a VIP with nobody in between.
#[test]
fn a_gap_between_two_owners_is_no_matter() {
    let gap = |lan: &mut Lan| {
        lan.owned_by("a");
        lan.owned_by("");
        assert_eq!(lan.passes_to(), "");
        lan.owned_by("b");
    };
    assert_eq!(on_all(gap), ["b", "a", ""]);
}

/// It looks for the first time when the owner drains, or was stopped for a while.
#[test]
fn who_takes_a_vip_at_first_sight_knows_its_owner_by_the_claim() {
    for (presence, passes_to) in [(Presence::Alive, "a"), (Presence::Down, "")] {
        let mut lan = Lan::of("b");
        for (node, number) in [("a", 7_u64), ("c", 5)] {
            let mut peer = peer(node);
            peer.claims = lan.vips.iter().map(|vip| (*vip, number)).collect();
            if node == "a" || passes_to.is_empty() {
                peer.presence = presence;
            }
            lan.peers.members.insert(node.to_owned(), Arc::new(peer));
        }
        lan.owned_by("b");
        assert_eq!(lan.passes_to(), passes_to);
    }
}

#[test]
fn nothing_is_passed_to_a_node_that_is_down_nor_for_what_it_died_with() {
    let mut lan = Lan::of("b");
    lan.owned_by("a");
    lan.is("a", Presence::Down);
    lan.owned_by("b");
    assert_eq!(lan.passes_to(), "");
    lan.is("a", Presence::Alive);
    assert_eq!(lan.passes_to(), "");
    // In one step.
    let mut lan = Lan::of("b");
    lan.owned_by("a");
    lan.peers.members.remove("a");
    lan.owned_by("b");
    assert_eq!(lan.passes_to(), "");
    // After the move.
    let mut lan = Lan::of("b");
    lan.owned_by("a");
    lan.owned_by("b");
    lan.is("a", Presence::Restarting);
    assert_eq!(lan.passes_to(), "a");
    lan.is("a", Presence::Down);
    assert_eq!(lan.passes_to(), "");
    // It was only silent.
    lan.is("a", Presence::Alive);
    assert_eq!(lan.passes_to(), "a");
    lan.peers.members.remove("a");
    lan.follow();
    assert_eq!(lan.passes_to(), "");
    lan.is("a", Presence::Alive);
    assert_eq!(lan.passes_to(), "");
}

/// What the first one has outlives the second one.
#[test]
fn when_the_second_dies_the_third_passes_to_the_first() {
    let mut lan = Lan::of("c");
    for owner in ["a", "b", "c"] {
        lan.owned_by(owner);
    }
    lan.is("b", Presence::Down);
    assert_eq!(lan.passes_to(), "a");
}

#[test]
fn it_ends_with_the_vip() {
    let mut lan = Lan::of("b");
    lan.owned_by("a");
    lan.owned_by("b");
    let vip: IpAddr = VIP6.parse().unwrap();
    lan.vips.remove(&vip);
    lan.translated.remove(&vip);
    lan.owners.remove(&vip);
    lan.follow();
    assert_eq!(lan.ways().len(), 1);
    // The same address for another Service begins anew.
    lan.vips.insert(vip);
    lan.translated.insert(vip);
    lan.owners.insert(vip, "b".to_owned());
    lan.follow();
    assert_eq!(lan.ways().len(), 1);
}

/// Of direct routing conntrack sees half: every packet would count as another node's.
#[test]
fn what_endpoints_answer_themselves_is_nobodys_to_pass_on() {
    let vip: IpAddr = VIP4.parse().unwrap();
    for node in ["a", "b"] {
        let mut lan = Lan::of(node);
        lan.translated.remove(&vip);
        lan.owned_by("a");
        lan.owned_by("b");
        let ways = lan.ways();
        assert!(ways.keys().all(|arrival| arrival.vip != vip), "{ways:?}");
        assert_eq!(ways.len(), 1);
        // The Service thinks of it later.
        lan.translated.clear();
        lan.follow();
        assert!(lan.ways().is_empty());
        assert!(!lan.former.has_given_up());
    }
}

/// On both sides; a connection with a keep-alive goes on for as long as it lives.
#[test]
fn what_moved_long_ago_is_forgotten_unless_packets_are_passed_on() {
    let second = Duration::from_secs(1);
    let [vip4, vip6]: [IpAddr; 2] = [VIP4.parse().unwrap(), VIP6.parse().unwrap()];
    for node in ["a", "b"] {
        let mut lan = Lan::of(node);
        let start = lan.now;
        let forget = |lan: &mut Lan, at| lan.former.forget(&lan.passed, at);
        assert_eq!(forget(&mut lan, start), None);
        lan.owned_by("a");
        lan.now = start + second;
        lan.owned_by("b");
        let end = lan.now + FORGET_AFTER;
        // Looking again makes it no younger.
        let just = start + FORGET_AFTER;
        lan.now = just;
        lan.follow();
        assert_eq!(forget(&mut lan, just), Some(end));
        assert_eq!(lan.ways().len(), 2);
        lan.passed = [(vip6, just), (vip4, start)].into();
        assert_eq!(forget(&mut lan, end), Some(just + FORGET_AFTER));
        let ways = lan.ways();
        assert!(ways.keys().all(|arrival| arrival.vip == vip6), "{ways:?}");
        assert_eq!(ways.len(), 1);
        assert_eq!(forget(&mut lan, end + FORGET_AFTER), None);
        assert!(lan.ways().is_empty());
        assert!(!lan.former.has_given_up());
        // It moves again.
        lan.owned_by("a");
        assert_eq!(lan.ways().len(), 2);
    }
}

#[test]
fn a_restart_takes_over_what_stands() {
    for (owner, before, after) in [("b", "", "a"), ("a", "", "a"), ("c", "", "c")] {
        let mut lan = Lan::of("b");
        lan.former.adopt(VIP4.parse().unwrap(), "a", lan.now);
        lan.former.adopt(VIP6.parse().unwrap(), "a", lan.now);
        lan.follow();
        assert_eq!(lan.passes_to(), before);
        lan.owned_by(owner);
        assert_eq!(lan.passes_to(), after, "{owner}");
        assert_eq!(lan.former.has_given_up(), owner != "b");
    }
}

#[test]
fn a_restart_waits_for_those_that_are_not_heard_yet() {
    let mut before = Lan::of("b");
    before.owned_by("a");
    before.owned_by("b");
    let standing = before.ways();
    assert_eq!(standing.len(), 2);
    let mut lan = Lan::of("b");
    lan.owned_by("b");
    lan.is("a", Presence::Down);
    assert_eq!(lan.takes_over(&standing), 2);
    lan.peers.members.remove("a");
    assert_eq!(lan.takes_over(&standing), 2);
    // Not for what is no VIP any more.
    let vip: IpAddr = VIP6.parse().unwrap();
    lan.translated.remove(&vip);
    assert_eq!(lan.takes_over(&standing), 1);
    lan.translated.insert(vip);
    lan.is("a", Presence::Alive);
    assert_eq!(lan.takes_over(&standing), 0);
    lan.follow();
    assert_eq!(lan.ways(), standing);
}

#[test]
fn only_to_a_neighbour_on_the_same_lan() {
    let mut lan = Lan::of("b");
    lan.owned_by("a");
    lan.owned_by("b");
    let to = |lan: &Lan| lan.ways().into_values().collect::<Vec<_>>();
    let both: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00:2::1".parse().unwrap()];
    assert_eq!(to(&lan), both);
    // No IPv6 there.
    let interface = lan.host.interfaces.get_mut(&7).unwrap();
    interface.addresses.pop();
    assert_eq!(to(&lan), both[..1]);
    // Another subnet.
    lan.host.interfaces.get_mut(&7).unwrap().addresses = vec!["198.51.100.2/24".parse().unwrap()];
    assert!(to(&lan).is_empty());
    // The other node's address is this node's own too, or a VIP.
    lan.host.interfaces.get_mut(&7).unwrap().addresses = vec![
        "192.0.2.1/24".parse().unwrap(),
        "fd00:2::2/64".parse().unwrap(),
    ];
    assert_eq!(to(&lan), both[1..]);
    lan.vips.insert(both[1]);
    assert!(to(&lan).is_empty());
}

#[test]
fn a_vip_on_two_interfaces_has_two_ways() {
    let mut lan = Lan::of("b");
    let mut second = lan.stage[&7].clone();
    second.watched.remove(&VIP6.parse::<IpAddr>().unwrap());
    lan.stage.insert(8, second);
    let mut interface = lan.host.interfaces[&7].clone();
    interface.addresses = vec!["10.0.0.2/24".parse().unwrap()];
    lan.host.interfaces.insert(8, interface);
    lan.owned_by("a");
    lan.owned_by("b");
    let ways: Vec<_> = lan
        .ways()
        .into_iter()
        .map(|(at, to)| (at.interface, to.to_string()))
        .collect();
    let expected = [(7, "192.0.2.1"), (8, "10.0.0.1"), (7, "fd00:2::1")];
    assert_eq!(ways, expected.map(|(index, to)| (index, to.to_owned())));
}
