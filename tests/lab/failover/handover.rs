//! Connections that are open while their VIP moves on purpose: they go on for as long as the node lives
//! that has them, over one more move.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use edgelb::apply::handover::{HandedOver, Handover, REMEMBERED};
use edgelb::lab::client::{RequestError, Stream, open_stream};
use edgelb::lab::{DualStack, Namespace, tool};
use serde_json::Value;

use super::field::{Field, Setup, VIP, bound};
use crate::packets::{ACK, FIN, LONG, RST, SYN, Segment, Wire, icmp};
use crate::rig::{PATIENCE, START, eventually};

/// Open connections, each with what it is called in a failure.
struct Streams(Vec<(String, Stream)>);

impl Streams {
    /// Of the client on the LAN and of the one behind the router, to both VIPs.
    fn open(field: &Field, name: &str) -> Self {
        let mut streams = Vec::new();
        for client in [field.client(), field.remote()] {
            for address in VIP.both() {
                let name = format!("{name}, from {} to {address}", client.name());
                let stream = open_stream(client, SocketAddr::new(address, 80))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                streams.push((name, stream));
            }
        }
        let mut streams = Self(streams);
        streams.go_on("opened");
        streams
    }

    /// Each of them gets an answer.
    #[track_caller]
    fn go_on(&mut self, when: &str) {
        for (name, stream) in &mut self.0 {
            match stream.send(when) {
                Ok(answer) => assert_eq!(answer.text, when, "{name}"),
                Err(error) => panic!("{when}: {name}: {error}"),
            }
        }
    }

    /// Each of them goes on or is told at once that it is no more; none waits for nothing.
    #[track_caller]
    fn go_on_or_are_reset(&mut self, when: &str) {
        for (name, stream) in &mut self.0 {
            let result = stream.send(when);
            assert!(
                matches!(result, Ok(_) | Err(RequestError::Reset)),
                "{when}: {name}: {result:?}"
            );
        }
    }
}

/// Drains the owner; the node that has its VIPs then.
#[track_caller]
fn drain(field: &Field, owner: usize) -> usize {
    field.command(owner, "drain");
    field.other_owner(owner)
}

fn undrain(field: &Field, node: usize, candidates: usize) {
    field.command(node, "undrain");
    field.wait_candidates(candidates);
}

/// The tables of the handover in a node.
fn tables(node: &Namespace) -> Vec<String> {
    let all = tool(node, "nft", &["list", "tables"]).unwrap();
    let ours = |line: &&str| ["table ip edgelb", "table ip6 edgelb"].contains(line);
    all.lines().filter(ours).map(str::to_owned).collect()
}

const BOTH: [&str; 2] = ["table ip edgelb", "table ip6 edgelb"];

/// Packets that a node passed on.
fn passed(node: &Namespace, family: &str) -> u64 {
    let chain = ["list", "chain", family, "edgelb", "pass"];
    let text = tool(node, "nft", &chain).unwrap();
    let (_, counter) = text.split_once("counter packets ").unwrap();
    counter.split_once(' ').unwrap().0.parse().unwrap()
}

#[test]
fn streams_survive_a_move_and_back() {
    let field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    let mut of_first = Streams::open(&field, "opened at the first");
    let load = field.load_from(&[field.client(), field.remote()]);

    let second = drain(&field, first);
    of_first.go_on("after the move");
    let mut of_second = Streams::open(&field, "opened at the second");
    load.wait_steady();
    for node in [first, second] {
        assert_eq!(tables(field.node(node)), BOTH);
    }

    undrain(&field, first, 2);
    of_first.go_on("before the move back");
    assert_eq!(drain(&field, second), first);
    of_first.go_on("after the move back");
    of_second.go_on("after the move back");
    load.wait_steady();

    undrain(&field, second, 2);
    assert_eq!(drain(&field, first), second);
    of_first.go_on("after the third move");
    of_second.go_on("after the third move");
    load.wait_steady();
    load.end().assert_nothing_lost();
    field.assert_one_owner(&field.eye.sightings());
}

/// What the first node has survives one move. The third one passes on to the second alone, which resets
/// what it does not know either; clients of the first are told so, and do not wait.
#[test]
fn streams_over_moves_to_a_third_node() {
    let field = Field::with(&Setup {
        nodes: 3,
        ..Setup::default()
    });
    let first = field.owner();
    let mut of_first = Streams::open(&field, "opened at the first");
    let load = field.load_from(&[field.client(), field.remote()]);
    let second = drain(&field, first);
    of_first.go_on("after the first move");
    let mut of_second = Streams::open(&field, "opened at the second");
    let third = drain(&field, second);
    assert!(![first, second].contains(&third));
    of_second.go_on("after the second move");
    of_first.go_on_or_are_reset("after the second move");
    load.wait_steady();
    load.end().assert_nothing_lost();
    field.assert_one_owner(&field.eye.sightings());
}

/// The daemons of both nodes may restart, and somebody may delete the tables.
#[test]
fn streams_survive_restarts_and_foreign_edits_after_the_move() {
    let mut field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    let mut streams = Streams::open(&field, "opened at the first");
    let second = drain(&field, first);
    for node in [first, second] {
        field.daemon(node).terminate(START).unwrap();
        streams.go_on("while a daemon is away");
        field.start(node);
        field.wait_ready(node);
        field.wait_candidates(1);
        streams.go_on("after a restart");
        assert_eq!(tables(field.node(node)), BOTH);
    }
    for family in ["ip", "ip6"] {
        let node = field.node(second);
        tool(node, "nft", &["delete", "table", family, "edgelb"]).unwrap();
        eventually(PATIENCE, || (tables(node) == BOTH).then_some(()));
        tool(node, "nft", &["flush", "chain", family, "edgelb", "pass"]).unwrap();
        let chain = ["list", "chain", family, "edgelb", "pass"];
        let whole = || tool(node, "nft", &chain).unwrap().contains("dup to");
        eventually(PATIENCE, || whole().then_some(()));
    }
    streams.go_on("after the repairs");
}

#[test]
fn nothing_is_left_when_the_old_owner_has_died() {
    let mut field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    let mut streams = Streams::open(&field, "opened at the first");
    let second = drain(&field, first);
    streams.go_on("after the move");
    let daemon = field.daemons[first].as_mut();
    let failure = field.lab.power_off(first, daemon).unwrap();
    let node = field.node(second);
    eventually(PATIENCE, || tables(node).is_empty().then_some(()));
    streams.go_on_or_are_reset("after the death");
    // It may only have been silent: what nobody knows goes there again when it comes back, and is reset.
    failure.restore().unwrap();
    field.start(first);
    field.wait_ready(first);
    field.wait_candidates(1);
    assert_eq!(tables(field.node(second)), BOTH);
    Streams::open(&field, "opened after the return");
}

/// The addresses of which the kernel remembers that it passed on a packet, with how long it does.
fn remembered(node: &Namespace) -> Vec<(IpAddr, u64)> {
    let mut remembered = Vec::new();
    for family in ["ip", "ip6"] {
        let set = ["-j", "list", "set", family, "edgelb", "passed"];
        let set: Value = serde_json::from_str(&tool(node, "nft", &set).unwrap()).unwrap();
        let sets = set["nftables"].as_array().unwrap();
        let elements = sets.iter().filter_map(|it| it["set"]["elem"].as_array());
        for element in elements.flatten() {
            let vip = element["elem"]["val"]["concat"][0].as_str().unwrap();
            let rest = element["elem"]["expires"].as_u64().unwrap();
            remembered.push((vip.parse().unwrap(), rest));
        }
    }
    remembered
}

/// By that the nodes know when the connections of then are gone.
#[test]
fn it_is_remembered_what_is_passed_on() {
    let field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    let mut streams = Streams::open(&field, "opened at the first");
    let second = drain(&field, first);
    streams.go_on("after the move");
    let hours = REMEMBERED.as_secs();
    let vips = VIP.both().into_iter().collect::<BTreeSet<_>>();
    let seen = remembered(field.node(second));
    assert_eq!(seen.iter().map(|it| it.0).collect::<BTreeSet<_>>(), vips);
    let fresh = |(_, rest): &(IpAddr, u64)| (hours - 60..=hours).contains(rest);
    assert!(seen.iter().all(fresh), "{seen:?}");
    // Each packet counts, not only the first one.
    std::thread::sleep(Duration::from_millis(2500));
    let before = remembered(field.node(second));
    streams.go_on("later");
    let after = remembered(field.node(second));
    for ((vip, before), (again, after)) in before.into_iter().zip(after) {
        assert_eq!(vip, again);
        assert!(after > before, "{vip}: {before} {after}");
    }
    // The daemon reads the same.
    let ago = field.node(second).run(|| {
        let mut handover = Handover::open().unwrap();
        let to = handover.standing().unwrap();
        handover.set(&HandedOver { to }).unwrap();
        handover.passed().unwrap()
    });
    let ago = ago.unwrap();
    assert_eq!(ago.keys().copied().collect::<BTreeSet<_>>(), vips);
    let just = |ago: &Duration| *ago < Duration::from_mins(1);
    assert!(ago.values().all(just), "{ago:?}");
    // What the tables are was not touched by that.
    assert_eq!(remembered(field.node(second)).len(), vips.len());
    streams.go_on("at last");
}

/// As the nft program reads it from the kernel: what is passed on, how much of it, and how far.
#[test]
fn it_is_bounded_what_is_passed_on() {
    let field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    let second = drain(&field, first);
    for (family, hops) in [("ip", "ttl"), ("ip6", "hoplimit")] {
        let chain = ["list", "chain", family, "edgelb", "pass"];
        let text = eventually(PATIENCE, || tool(field.node(second), "nft", &chain).ok());
        let rule = format!(
            "{family} {hops} > 16 limit rate 50000/second burst 10000 packets \
             update @passed {{ {family} daddr . iif }} {family} {hops} set 16 \
             dup to {family} daddr . iif map @handover device iif counter packets "
        );
        assert!(text.contains(&rule), "{text}");
    }
}

/// A machine that goes down does not come back soon: nobody waits for it, although connections end with it.
#[test]
fn nothing_is_passed_to_a_machine_that_goes_down() {
    let mut field = Field::with(&Setup {
        nodes: 2,
        configuration: "[membership]\nrestart_grace = \"60s\"\n",
        ..Setup::default()
    });
    let first = field.owner();
    let mut streams = Streams::open(&field, "opened at the first");
    let second = drain(&field, first);
    streams.go_on("after the move");
    let socket = field.daemon(first).admin_socket();
    std::fs::write(socket.with_file_name("leaving"), "").unwrap();
    field.daemon(first).terminate(START).unwrap();
    let node = field.node(second);
    eventually(PATIENCE, || tables(node).is_empty().then_some(()));
    streams.go_on_or_are_reset("after the end");
}

/// What nobody knows is passed on once, whoever sent it, although the node before would pass it back: no
/// loops, no flood.
#[test]
fn a_packet_is_passed_on_once() {
    let field = Field::with(&Setup {
        nodes: 3,
        ..Setup::default()
    });
    let first = field.owner();
    let second = drain(&field, first);
    let third = (0..field.size())
        .find(|node| ![first, second].contains(node))
        .unwrap();
    let owner = field.node(second);
    let to = field.stations()[second];
    let count = || ["ip", "ip6"].map(|family| passed(owner, family));
    let before = count();
    // In the middle of a connection that nobody has: from an address that is no node's, and from a node's.
    let client = Wire::open(field.client());
    for from in [&client, &Wire::open(field.node(third))] {
        for port in 1..=10 {
            from.send(to, &tcp(port, ACK, LONG));
            from.send(to, &tcp6(port, ACK, LONG));
        }
    }
    // What ends a connection, and what a router says of one; not what begins one, nor what asks.
    for packet in [
        tcp(200, FIN | ACK, LONG),
        tcp(201, RST, LONG),
        icmp_of(3, 202),
    ] {
        client.send(to, &packet);
    }
    for packet in [tcp(203, SYN, LONG), icmp_of(8, 204)] {
        client.send(to, &packet);
    }
    // What could have been passed on before, and what certainly was not.
    for (hops, port) in [(1, 205), (2, 206), (15, 207), (16, 208), (17, 209)] {
        client.send(to, &tcp(port, ACK, hops));
        client.send(to, &tcp6(port, ACK, hops));
    }
    let expected = [before[0] + 24, before[1] + 21];
    eventually(PATIENCE, || {
        let reached = count().into_iter().zip(expected);
        reached
            .into_iter()
            .all(|(is, wanted)| is >= wanted)
            .then_some(())
    });
    // Not one came back, and the node before passed none of them on.
    std::thread::sleep(bound(100));
    assert_eq!(count(), expected);
    assert_eq!(tables(field.node(first)), BOTH);
    for family in ["ip", "ip6"] {
        assert_eq!(passed(field.node(first), family), 0, "{family}");
    }
}

/// A neighbour that is not there, so that nobody answers what it is told.
const STRANGER: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 250),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x250),
};

/// From the stranger's port to the IPv4 VIP's, port 80.
fn tcp(port: u16, flags: u8, hops: u8) -> Vec<u8> {
    segment(0, port, flags, hops)
}

/// The same to the IPv6 VIP.
fn tcp6(port: u16, flags: u8, hops: u8) -> Vec<u8> {
    segment(1, port, flags, hops)
}

/// To the IPv4 VIP; an error is about what the VIP sent to that port of the stranger's.
fn icmp_of(kind: u8, port: u16) -> Vec<u8> {
    icmp(kind, STRANGER.ipv4, VIP.ipv4, port)
}

fn segment(family: usize, port: u16, flags: u8, hops: u8) -> Vec<u8> {
    let segment = Segment {
        from: SocketAddr::new(STRANGER.both()[family], port),
        to: SocketAddr::new(VIP.both()[family], 80),
        flags,
        hops,
    };
    segment.packet()
}
