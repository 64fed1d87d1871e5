//! What `nft`, `ipvsadm` and `ip` say of the lists and addresses that the kernel holds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use edgelb::lab::{Namespace, tool};
use serde_json::Value;

use super::{At, List, Lists, TARGET_PORT};
use crate::conformance::bench::Bench;
use crate::rig::ipvs;

/// The addresses of the bench's own markers are no part of it.
fn is_marker(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [10, 96, 99])
}

pub fn observed(bench: &Bench) -> (Lists, BTreeSet<IpAddr>) {
    let node = bench.n1();
    let mut lists = Lists::new();
    for v6 in [false, true] {
        let family = if v6 { "6" } else { "4" };
        // Endpoints by their place in a list; those of clients that stay, by their number.
        for (name, node_ports, list) in [
            ("endpoints", false, None),
            ("node_port_endpoints", true, None),
            ("members", false, Some(List::Translated)),
            ("node_port_members", true, Some(List::Translated)),
            ("outside_members", false, Some(List::TranslatedOutside)),
            (
                "node_port_outside_members",
                true,
                Some(List::TranslatedOutside),
            ),
        ] {
            let name = format!("{name}{family}");
            for (key, endpoint) in elements(node, &name) {
                let mut key = key.iter();
                let address = (!node_ports).then(|| key.next().unwrap());
                let protocol = protocol(key.next().unwrap());
                let port = u16::try_from(number(key.next().unwrap())).unwrap();
                let position = number(key.next().unwrap());
                assert_eq!(number(&endpoint[1]), u64::from(TARGET_PORT));
                let at = match address {
                    Some(address) => At::Address(parsed(address)),
                    None => At::NodePort { v6, port },
                };
                let list = list.unwrap_or(if position < 0x1_0000 {
                    List::Translated
                } else {
                    List::TranslatedOutside
                });
                let known = lists.entry((at, protocol, list)).or_default();
                assert!(known.insert(parsed(&endpoint[0])), "{name}: twice");
            }
        }
    }
    if ipvs() {
        virtual_servers(node, &mut lists);
    }
    lists.retain(|(at, _, _), _| !matches!(at, At::Address(address) if is_marker(*address)));
    let mut held = BTreeSet::new();
    for set in ["held4", "held6"] {
        let listed = listed(node, &["list", "set", "inet", "edgelb", set], "set");
        held.extend(listed["elem"].as_array().into_iter().flatten().map(parsed));
    }
    held.retain(|address| !is_marker(*address));
    (lists, held)
}

/// The routes of ours in the table `local`: those to the addresses that are held, but one for all of
/// a `ClusterIP` range.
pub fn routes(node: &Namespace) -> BTreeSet<String> {
    let mut routes = BTreeSet::new();
    for family in ["-4", "-6"] {
        let words = [
            "-j", family, "route", "show", "table", "local", "proto", "225",
        ];
        let listed: Value = serde_json::from_str(&tool(node, "ip", &words).unwrap()).unwrap();
        let listed = listed.as_array().unwrap().iter();
        routes.extend(listed.map(|it| it["dst"].as_str().unwrap().to_owned()));
    }
    routes
}

/// Adds the lists of `ipvsadm`; a node port has a virtual server on every address of the node, and
/// all of them must be the same.
fn virtual_servers(node: &Namespace, lists: &mut Lists) {
    let text = tool(node, "ipvsadm", &["-Sn"]).unwrap();
    let mut of_node_ports: BTreeMap<(At, &str), BTreeMap<IpAddr, BTreeSet<IpAddr>>> =
        BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("-a")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let protocol = if words[1] == "-u" { "udp" } else { "tcp" };
        let frontend: SocketAddr = words[2].parse().unwrap();
        let real_server: SocketAddr = words[4].parse().unwrap();
        if words.ends_with(&["-w", "0"]) {
            continue; // It drains.
        }
        if frontend.port() < 30_000 {
            let key = (At::Address(frontend.ip()), protocol, List::VirtualServer);
            lists.entry(key).or_default().insert(real_server.ip());
        } else {
            let at = At::NodePort {
                v6: frontend.is_ipv6(),
                port: frontend.port(),
            };
            let of_address = of_node_ports.entry((at, protocol)).or_default();
            of_address
                .entry(frontend.ip())
                .or_default()
                .insert(real_server.ip());
        }
    }
    for ((at, protocol), by_address) in of_node_ports {
        // One on the LAN, one towards the pods.
        assert_eq!(by_address.len(), 2, "{at:?}: {by_address:?}");
        let different: BTreeSet<_> = by_address.into_values().collect();
        assert_eq!(different.len(), 1, "{at:?}: {different:?}");
        let only = different.into_iter().next().unwrap();
        lists.insert((at, protocol, List::VirtualServer), only);
    }
}

/// The elements of a map as lists of words.
fn elements(node: &Namespace, name: &str) -> Vec<(Vec<Value>, Vec<Value>)> {
    let map = listed(node, &["list", "map", "inet", "edgelb", name], "map");
    let words = |value: &Value| value["concat"].as_array().unwrap().clone();
    let listed = map["elem"].as_array().into_iter().flatten();
    listed.map(|it| (words(&it[0]), words(&it[1]))).collect()
}

/// What nft lists, of this kind.
fn listed(node: &Namespace, words: &[&str], kind: &str) -> Value {
    let text = tool(node, "nft", &[&["-j"], words].concat()).unwrap();
    let listed: Value = serde_json::from_str(&text).unwrap();
    let mut objects = listed["nftables"].as_array().unwrap().iter();
    let object = objects.find_map(|it| it.get(kind));
    object.unwrap_or_else(|| panic!("{text}")).clone()
}

fn parsed(value: &Value) -> IpAddr {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
    text.parse()
        .unwrap_or_else(|_| panic!("{value} is no address"))
}

/// Named, or by its number.
fn protocol(value: &Value) -> &'static str {
    match value.as_str() {
        Some("udp") => "udp",
        Some("tcp") => "tcp",
        _ if number(value) == 17 => "udp",
        _ => "tcp",
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| {
        let text = value.as_str().unwrap_or_else(|| panic!("{value}"));
        let digits = text.strip_prefix("0x").unwrap_or_else(|| panic!("{text}"));
        u64::from_str_radix(digits, 16).unwrap()
    })
}
