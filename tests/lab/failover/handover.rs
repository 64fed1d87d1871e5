//! Connections that are open while their VIP moves on purpose: they go on for as long as the node lives
//! that has them, over one more move.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;

use edgelb::lab::client::{RequestError, Stream, open_stream};
use edgelb::lab::{MacAddress, Namespace, tool};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

use super::field::{Field, Setup, VIP, bound};
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

    /// Each of them is told at once that it is no more, and does not wait.
    #[track_caller]
    fn are_reset(&mut self, when: &str) {
        for (name, stream) in &mut self.0 {
            let result = stream.send(when);
            assert!(
                matches!(result, Err(RequestError::Reset)),
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
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn streams_survive_a_move_and_back() {
    let field = Field::with(&Setup {
        nodes: 2,
        ..Setup::default()
    });
    let first = field.owner();
    assert!(tables(field.node(first)).is_empty());
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

/// What the first node has survives one move; the third one knows of the second alone, and clients of the
/// first are told so.
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
    of_first.are_reset("after the second move");
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
    streams.are_reset("after the death");
    // Nothing is passed to it again when it comes back: it may have booted.
    failure.restore().unwrap();
    field.start(first);
    field.wait_ready(first);
    field.wait_candidates(1);
    assert!(tables(field.node(second)).is_empty());
    Streams::open(&field, "opened after the return");
}

/// What nobody knows is passed on once, and never what another node passed on: no loops, no flood.
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
    let before = passed(owner, "ip");
    let count = || passed(owner, "ip") - before;
    // In the middle of a connection that nobody has: as a stranger sends it, and as another node does.
    for port in 1..=10 {
        inject(field.node(third), to, port);
    }
    inject(field.client(), to, 100);
    eventually(PATIENCE, || (count() > 0).then_some(()));
    for port in 101..=109 {
        inject(field.client(), to, port);
    }
    eventually(PATIENCE, || (count() >= 10).then_some(()));
    // Not one came back, and the node before passed none of them on.
    std::thread::sleep(bound(100));
    assert_eq!(count(), 10);
    assert_eq!(passed(field.node(first), "ip"), 0);
}

/// Sends an ACK of no connection to the IPv4 VIP, to this hardware address.
fn inject(from: &Namespace, to: MacAddress, port: u16) {
    let mac = from.mac_address("eth0").unwrap();
    let client: Ipv4Addr = "192.0.2.250".parse().unwrap();
    let IpAddr::V4(vip) = VIP.both()[0] else {
        panic!("{:?}", VIP.both())
    };
    let mut network = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    network.extend(client.octets());
    network.extend(vip.octets());
    let sum = checksum(&network);
    network[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut transport = Vec::new();
    transport.extend(port.to_be_bytes());
    transport.extend(80_u16.to_be_bytes());
    // Sequence numbers, five words of header, ACK alone, a window.
    transport.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]);
    let pseudo = [&network[12..20], &[0, 6, 0, 20], &transport].concat();
    let sum = checksum(&pseudo);
    transport[16..18].copy_from_slice(&sum.to_be_bytes());
    let frame = [&to.0[..], &mac.0, &[8, 0], &network, &transport].concat();
    from.try_run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        let mut links = getifaddrs()?.filter(|it| it.interface_name == "eth0");
        let link = links.find_map(|it| it.address?.as_link_addr().copied());
        bind(socket.as_raw_fd(), &link.expect("eth0 is there"))?;
        socket.send(&frame)
    })
    .unwrap();
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
