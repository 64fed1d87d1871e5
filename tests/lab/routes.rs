//! Local routes on the real kernel, seen by `ip` and by connections.

use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener, TcpStream};

use edgelb::apply::route::{Failure, Outcome, Routes};
use edgelb::lab::{Namespace, tool};
use edgelb::model::family::Family;
use edgelb::model::node_state::{HeldFor, NodeState};

const SOURCES: [&str; 2] = ["10.9.0.1", "2001:db8:9::1"];
const OTHER_SOURCES: [&str; 2] = ["10.9.0.2", "2001:db8:9::2"];

/// A node with an interface and two addresses of each family.
fn node() -> Namespace {
    let node = Namespace::create("routes").unwrap();
    ip(&node, "link add eth0 type veth peer name eth1");
    ip(&node, "link set eth0 up");
    for address in SOURCES.iter().chain(&OTHER_SOURCES) {
        let length = if address.contains(':') { 64 } else { 24 };
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(
            &node,
            &format!("addr add {address}/{length} dev eth0{nodad}"),
        );
    }
    node
}

fn ip(node: &Namespace, arguments: &str) -> String {
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    tool(node, "ip", &arguments).unwrap()
}

/// Our routes as `ip` prints them: `local PREFIX dev lo … src ADDRESS`.
fn ours(node: &Namespace) -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let text = ip(node, &format!("{family} route show table local proto 225"));
        lines.extend(text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let source = words.iter().position(|word| *word == "src");
            let source = source.map_or(String::new(), |at| format!(" src {}", words[at + 1]));
            format!("{}{source}", words[..4].join(" "))
        }));
    }
    lines
}

fn state(held: &[&str], ranges: &[&str], sources: [&str; 2]) -> NodeState {
    let mut state = NodeState {
        held: held
            .iter()
            .map(|address| (address.parse::<IpAddr>().unwrap(), HeldFor::Vip))
            .collect(),
        service_ranges: ranges
            .iter()
            .map(|range| range.parse::<ipnet::IpNet>().unwrap())
            .collect(),
        ..NodeState::default()
    };
    for source in sources {
        let source: IpAddr = source.parse().unwrap();
        state.preferred_source.insert(Family::of(source), source);
    }
    state
}

fn changes(added: usize, replaced: usize, removed: usize) -> Outcome {
    Outcome {
        added,
        replaced,
        removed,
        failures: Vec::new(),
    }
}

/// The address that a connection of the node itself to `address` comes from.
fn source_of_own_connection(node: &Namespace, address: &str) -> String {
    let address: IpAddr = address.parse().unwrap();
    let work = || {
        // IPv6 binds only to addresses of interfaces.
        let listener = TcpListener::bind((Family::of(address).unspecified(), 0))?;
        let stream = TcpStream::connect((address, listener.local_addr()?.port()))?;
        Ok(stream.local_addr()?.ip().to_string())
    };
    node.try_run(work).unwrap()
}

#[test]
fn held_addresses_and_ranges_become_local_with_the_node_s_own_source() {
    let node = node();
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let empty = NodeState::default();
    let full = state(
        &["192.0.2.1", "10.96.0.1", "2001:db8::1"],
        &["10.96.0.0/12", "fd00:96::/108"],
        SOURCES,
    );
    assert_eq!(routes.apply(&empty, &full).unwrap(), changes(4, 0, 0));
    assert_eq!(
        ours(&node),
        [
            "local 10.96.0.0/12 dev lo src 10.9.0.1",
            "local 192.0.2.1 dev lo src 10.9.0.1",
            "local 2001:db8::1 dev lo src 2001:db8:9::1",
            "local fd00:96::/108 dev lo src 2001:db8:9::1"
        ]
    );
    for (address, source) in [
        ("192.0.2.1", SOURCES[0]),
        ("10.96.7.7", SOURCES[0]),
        ("2001:db8::1", SOURCES[1]),
        ("fd00:96::7", SOURCES[1]),
    ] {
        assert_eq!(
            source_of_own_connection(&node, address),
            source,
            "to {address}"
        );
    }
    // A restart finds them and has nothing to do.
    let mut restarted = node.run(Routes::open).unwrap().unwrap();
    assert_eq!(restarted.apply(&empty, &full).unwrap(), changes(0, 0, 0));
    assert_eq!(restarted.repair(&full).unwrap(), changes(0, 0, 0));
    assert_eq!(restarted.apply(&full, &empty).unwrap(), changes(0, 0, 4));
    assert!(ours(&node).is_empty());
    assert_eq!(restarted.apply(&full, &empty).unwrap(), changes(0, 0, 0));
}

#[test]
fn another_preferred_source_takes_place_without_a_gap() {
    let node = node();
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let (first, second) = (
        state(&["192.0.2.1", "2001:db8::1"], &[], SOURCES),
        state(&["192.0.2.1", "2001:db8::1"], &[], OTHER_SOURCES),
    );
    routes.repair(&first).unwrap();
    // Looks up both routes without a pause while their source changes to and fro.
    let looking = node
        .spawn_thread(|| {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..30_000 {
                for address in ["192.0.2.1:9", "[2001:db8::1]:9"] {
                    let local = if address.starts_with('[') {
                        "[::]:0"
                    } else {
                        "0.0.0.0:0"
                    };
                    let socket = std::net::UdpSocket::bind(local)?;
                    // A lookup that holds the replaced entry passes over it (`fib_dead`) and finds
                    // none: one lookup, not a gap. The next one sees the new entry.
                    let connected = socket.connect(address).or_else(|_| socket.connect(address));
                    connected.map_err(|error| {
                        std::io::Error::new(error.kind(), format!("{address}: {error}"))
                    })?;
                    seen.insert(socket.local_addr()?.ip().to_string());
                }
            }
            Ok(seen)
        })
        .unwrap();
    let mut rounds = 0;
    while !looking.is_finished() {
        assert_eq!(routes.apply(&first, &second).unwrap(), changes(0, 2, 0));
        assert_eq!(routes.apply(&second, &first).unwrap(), changes(0, 2, 0));
        rounds += 1;
    }
    let seen = looking.join().unwrap().unwrap();
    let expected: Vec<&str> = vec![SOURCES[0], OTHER_SOURCES[0], SOURCES[1], OTHER_SOURCES[1]];
    assert_eq!(
        seen.iter().map(String::as_str).collect::<Vec<_>>(),
        expected,
        "{rounds} rounds"
    );
    assert_eq!(
        ours(&node),
        [
            "local 192.0.2.1 dev lo src 10.9.0.1",
            "local 2001:db8::1 dev lo src 2001:db8:9::1"
        ]
    );
}

#[test]
fn foreign_routes_are_reported_and_left_alone() {
    let node = node();
    ip(
        &node,
        "route add local 192.0.2.1 dev lo table local src 10.9.0.2",
    );
    ip(&node, "-6 route add local 2001:db8::1 dev lo table local");
    ip(&node, "addr add 192.0.2.2/32 dev eth0");
    ip(&node, "-6 addr add 2001:db8::2/128 dev eth0 nodad");
    // The kernel makes an IPv6 address local when it has seen that the link is up.
    super::rig::eventually(super::rig::PATIENCE, || {
        let local = ip(&node, "-6 route show table local");
        local.contains("local 2001:db8::2 ").then_some(())
    });
    let foreign = |node: &Namespace| {
        let both = [
            ip(node, "-4 route show table local"),
            ip(node, "-6 route show table local"),
        ];
        let lines = both.iter().flat_map(|text| text.lines());
        lines
            .filter(|line| !line.contains("proto 225"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let before = foreign(&node);
    let wanted = state(
        &[
            "192.0.2.1",
            "192.0.2.2",
            "192.0.2.3",
            "2001:db8::1",
            "2001:db8::2",
            "2001:db8::3",
        ],
        &[],
        SOURCES,
    );
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let outcome = routes.repair(&wanted).unwrap();
    let conflicts = |outcome: &Outcome| {
        let mut prefixes: Vec<String> = Vec::new();
        for failure in &outcome.failures {
            assert!(matches!(failure, Failure::Foreign { .. }), "{failure}");
            assert!(failure.to_string().contains(&failure.prefix().to_string()));
            prefixes.push(failure.prefix().to_string());
        }
        prefixes
    };
    assert_eq!(outcome.added, 2, "{outcome:?}");
    assert_eq!(
        conflicts(&outcome),
        [
            "192.0.2.1/32",
            "192.0.2.2/32",
            "2001:db8::1/128",
            "2001:db8::2/128"
        ]
    );
    assert_eq!(
        ours(&node),
        [
            "local 192.0.2.3 dev lo src 10.9.0.1",
            "local 2001:db8::3 dev lo src 2001:db8:9::1"
        ]
    );
    assert_eq!(foreign(&node), before);

    // The same on the way of differences, then all of it is taken down.
    let outcome = routes.apply(&NodeState::default(), &wanted).unwrap();
    assert!(conflicts(&outcome).contains(&"192.0.2.1/32".to_owned()));
    assert!(conflicts(&outcome).contains(&"2001:db8::1/128".to_owned()));
    assert_eq!(foreign(&node), before);
    routes.apply(&wanted, &NodeState::default()).unwrap();
    assert_eq!(foreign(&node), before);
    assert!(ours(&node).is_empty());
}

#[test]
fn repair_brings_back_what_others_took_and_takes_what_is_stray() {
    let node = node();
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let wanted = state(&["192.0.2.1", "192.0.2.2", "2001:db8::1"], &[], SOURCES);
    assert_eq!(routes.repair(&wanted).unwrap(), changes(3, 0, 0));
    ip(&node, "route del local 192.0.2.1 table local");
    ip(
        &node,
        "route replace local 192.0.2.2 dev lo table local proto 225 src 10.9.0.2",
    );
    ip(
        &node,
        "route add local 192.0.2.77 dev eth0 table local proto 225",
    );
    ip(
        &node,
        "-6 route add local 2001:db8::77 dev lo table local proto 225 metric 7",
    );
    assert_eq!(routes.repair(&wanted).unwrap(), changes(1, 1, 2));
    assert_eq!(
        ours(&node),
        [
            "local 192.0.2.1 dev lo src 10.9.0.1",
            "local 192.0.2.2 dev lo src 10.9.0.1",
            "local 2001:db8::1 dev lo src 2001:db8:9::1"
        ]
    );
    assert_eq!(routes.remove_all().unwrap(), changes(0, 0, 3));
    assert!(ours(&node).is_empty());
    assert!(ip(&node, "route show table local").contains("10.9.0.1"));
}

#[test]
fn lo_is_set_up_where_it_is_down() {
    let node = node();
    ip(&node, "link set lo down");
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let wanted = state(&["192.0.2.1", "2001:db8::1"], &[], SOURCES);
    let outcome = routes.apply(&NodeState::default(), &wanted).unwrap();
    assert_eq!(outcome, changes(2, 0, 0));
    // The kernel takes the IPv6 route away with it, the IPv4 one not.
    ip(&node, "link set lo down");
    assert_eq!(ours(&node), ["local 192.0.2.1 dev lo src 10.9.0.1"]);
    assert_eq!(routes.repair(&wanted).unwrap(), changes(1, 0, 0));
    assert_eq!(source_of_own_connection(&node, "192.0.2.1"), SOURCES[0]);
    assert_eq!(source_of_own_connection(&node, "2001:db8::1"), SOURCES[1]);
}

#[test]
fn one_failing_route_does_not_stop_the_others() {
    let node = node();
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    // No interface has this source.
    let wanted = state(
        &["192.0.2.1", "2001:db8::1"],
        &[],
        ["10.9.0.77", SOURCES[1]],
    );
    let outcome = routes.apply(&NodeState::default(), &wanted).unwrap();
    assert_eq!(
        (outcome.added, outcome.failures.len()),
        (1, 1),
        "{outcome:?}"
    );
    assert_eq!(outcome.failures[0].prefix().to_string(), "192.0.2.1/32");
    assert_eq!(outcome.failures[0].kind(), "route_refused");
}

#[test]
fn ten_thousand_addresses_go_in_few_sends() {
    let node = node();
    let mut routes = node.run(Routes::open).unwrap().unwrap();
    let held: Vec<String> = (0..10_000)
        .map(|host| format!("198.18.{}.{}", host / 250, host % 250))
        .collect();
    let held: Vec<&str> = held.iter().map(String::as_str).collect();
    let wanted = state(&held, &[], SOURCES);
    assert_eq!(
        routes.apply(&NodeState::default(), &wanted).unwrap(),
        changes(10_000, 0, 0)
    );
    assert!(routes.counters().sends < 60, "{:?}", routes.counters());
    let sends = routes.counters().sends;
    let mut fewer = wanted.clone();
    fewer.held.remove(&"198.18.0.1".parse::<IpAddr>().unwrap());
    assert_eq!(routes.apply(&wanted, &fewer).unwrap(), changes(0, 0, 1));
    assert_eq!(routes.counters().sends - sends, 1);
    assert_eq!(ours(&node).len(), 9_999);
    assert_eq!(routes.remove_all().unwrap(), changes(0, 0, 9_999));
    let unreachable = node
        .try_run(|| TcpStream::connect("198.18.0.5:9").map(drop))
        .unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::NetworkUnreachable);
}
