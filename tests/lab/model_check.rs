//! Random histories of Services and endpoints against a small model of what the kernel must hold,
//! compared after every step with what `nft`, `ipvsadm` and `ip` report: every list of endpoints of
//! every frontend, by who asks, and every address that is held. The seeds are fixed.
//!
//! The model says the rules once more, in its own words, for Services of two families with one port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgelb::lab::{DualStack, Namespace, tool};
use serde_json::{Value, json};

use crate::conformance::bench::Bench;
use crate::conformance::objects::{self, Endpoint, port, slices};
use crate::rig::ipvs;

const SERVICES: usize = 4;
const STEPS: usize = 12;
const TARGET_PORT: u16 = 8080;

/// xorshift64*: enough to choose, and the same everywhere.
struct Choices(u64);

impl Choices {
    fn below(&mut self, number: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(mixed).unwrap() % number
    }

    fn once_in(&mut self, number: usize) -> bool {
        self.below(number) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Terminating,
    Unready,
}

#[allow(clippy::struct_excessive_bools)] // Choices of their own, which go together in any way.
#[derive(Debug, Clone)]
struct Service {
    kind: &'static str,
    external_local: bool,
    internal_local: bool,
    sticky: bool,
    udp: bool,
    /// By the index of the workload.
    endpoints: BTreeMap<usize, State>,
}

/// Where a Service is reached: an address with port 80, or a node port of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum At {
    Address(IpAddr),
    NodePort { v6: bool, port: u16 },
}

/// A list of endpoints that the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum List {
    /// Translated by nftables for all but those outside, or for all.
    Translated,
    /// Translated by nftables for those outside.
    TranslatedOutside,
    /// Of an IPVS virtual server.
    VirtualServer,
}

type Lists = BTreeMap<(At, &'static str, List), BTreeSet<IpAddr>>;

impl Service {
    fn random(choices: &mut Choices) -> Self {
        let mut service = Self {
            kind: ["ClusterIP", "NodePort", "LoadBalancer"][choices.below(3)],
            external_local: choices.once_in(2),
            internal_local: choices.once_in(3),
            sticky: choices.once_in(3),
            udp: choices.once_in(2),
            endpoints: BTreeMap::new(),
        };
        service.other_endpoints(choices);
        service
    }

    fn other_endpoints(&mut self, choices: &mut Choices) {
        for workload in 0..4 {
            let state = match choices.below(6) {
                0..3 => State::Ready,
                3 => State::Terminating,
                4 => State::Unready,
                _ => {
                    self.endpoints.remove(&workload);
                    continue;
                }
            };
            self.endpoints.insert(workload, state);
        }
    }

    fn protocol(&self) -> &'static str {
        if self.udp { "udp" } else { "tcp" }
    }

    /// The ready ones of these workloads, or else those that terminate.
    fn usable(&self, wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        let of = |state| -> Vec<usize> {
            let known = self.endpoints.iter();
            let known = known.filter(|(workload, it)| wanted(**workload) && **it == state);
            known.map(|(workload, _)| *workload).collect()
        };
        let ready = of(State::Ready);
        if ready.is_empty() {
            of(State::Terminating)
        } else {
            ready
        }
    }
}

fn cluster_ip(index: usize) -> DualStack {
    let last = u8::try_from(40 + index).unwrap();
    DualStack {
        ipv4: Ipv4Addr::new(10, 96, 0, last),
        ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last.into()),
    }
}

fn vip(index: usize) -> DualStack {
    let last = u8::try_from(211 + index).unwrap();
    DualStack {
        ipv4: Ipv4Addr::new(192, 0, 2, last),
        ipv6: Ipv6Addr::new(
            0xfd00,
            2,
            0,
            0,
            0,
            0,
            0,
            0x211 + u16::try_from(index).unwrap(),
        ),
    }
}

fn node_port(index: usize) -> u16 {
    30_100 + u16::try_from(index).unwrap()
}

fn object(index: usize, service: &Service) -> Value {
    let addresses = cluster_ip(index);
    let mut object = objects::service(service.kind);
    object["metadata"]["name"] = json!(format!("model-{index}"));
    object["metadata"]["uid"] = json!(format!("model-{index}"));
    let policy = |local: bool| json!(if local { "Local" } else { "Cluster" });
    let spec = &mut object["spec"];
    spec["clusterIP"] = json!(addresses.ipv4);
    spec["clusterIPs"] = json!(addresses.both());
    spec["internalTrafficPolicy"] = policy(service.internal_local);
    let protocol = service.protocol().to_uppercase();
    let mut only = port("only", &protocol, 80, TARGET_PORT);
    if service.kind != "ClusterIP" {
        spec["externalTrafficPolicy"] = policy(service.external_local);
        only["nodePort"] = json!(node_port(index));
    }
    spec["ports"] = json!([only]);
    if service.sticky {
        spec["sessionAffinity"] = json!("ClientIP");
    }
    if service.kind == "LoadBalancer" {
        let [ipv4, ipv6] = vip(index).both();
        object["metadata"]["annotations"] = json!({"edgelb.io/ips": format!("{ipv4},{ipv6}")});
    }
    object
}

/// What the kernel must hold for these Services.
fn expected(bench: &Bench, services: &[Option<Service>]) -> (Lists, BTreeSet<IpAddr>) {
    let mut lists = Lists::new();
    let mut held = BTreeSet::new();
    for (index, service) in services.iter().enumerate() {
        let Some(service) = service else { continue };
        let cluster = service.usable(|_| true);
        // The first three workloads are on this node.
        let local = service.usable(|workload| workload < 3);
        for v6 in [false, true] {
            let of = |both: DualStack| both.both()[usize::from(v6)];
            let addresses = |list: &[usize]| -> BTreeSet<IpAddr> {
                let workloads = bench.lab.workloads();
                list.iter().map(|it| of(workloads[*it].address)).collect()
            };
            let internal = At::Address(of(cluster_ip(index)));
            let list = if service.internal_local {
                &local
            } else {
                &cluster
            };
            let mut add = |at, inside: &[usize], outside: &[usize]| {
                let mut put = |list, workloads: &[usize]| {
                    if !workloads.is_empty() {
                        lists.insert((at, service.protocol(), list), addresses(workloads));
                    }
                };
                let differs = !outside.is_empty() && outside != inside;
                if !ipvs() || service.sticky {
                    put(List::Translated, inside);
                    if differs {
                        put(List::TranslatedOutside, outside);
                    }
                } else if differs {
                    put(List::Translated, inside);
                    put(List::VirtualServer, outside);
                } else {
                    put(List::VirtualServer, inside);
                }
            };
            held.insert(of(cluster_ip(index)));
            // Nobody outside may use a ClusterIP.
            add(internal, list, &[]);
            let outside = if service.external_local {
                &local
            } else {
                &cluster
            };
            if service.kind != "ClusterIP" {
                let port = node_port(index);
                add(At::NodePort { v6, port }, &cluster, outside);
            }
            if service.kind == "LoadBalancer" {
                held.insert(of(vip(index)));
                add(At::Address(of(vip(index))), &cluster, outside);
            }
        }
    }
    (lists, held)
}

/// The addresses of the bench's own markers are no part of it.
fn is_marker(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [10, 96, 99])
}

fn observed(bench: &Bench) -> (Lists, BTreeSet<IpAddr>) {
    let node = bench.n1();
    let mut lists = Lists::new();
    for v6 in [false, true] {
        let family = if v6 { "6" } else { "4" };
        for (name, node_ports) in [("endpoints", false), ("node_port_endpoints", true)] {
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
                let list = if position < 0x1_0000 {
                    List::Translated
                } else {
                    List::TranslatedOutside
                };
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
fn routes(node: &Namespace) -> BTreeSet<String> {
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

fn expected_routes(held: &BTreeSet<IpAddr>) -> BTreeSet<String> {
    let ranges = ["10.96.0.0/16", "fd00:96::/112"];
    let in_range = |address: &IpAddr| {
        let mut ranges = ranges.iter().map(|it| it.parse::<ipnet::IpNet>().unwrap());
        ranges.any(|range| range.contains(address))
    };
    let own = held.iter().filter(|it| !in_range(it));
    own.map(IpAddr::to_string)
        .chain(ranges.map(str::to_owned))
        .collect()
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
        let frontend: std::net::SocketAddr = words[2].parse().unwrap();
        let real_server: std::net::SocketAddr = words[4].parse().unwrap();
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

/// Only what differs.
struct Difference(Vec<String>);

impl fmt::Debug for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

fn difference(expected: &Lists, observed: &Lists) -> Difference {
    let keys: BTreeSet<_> = expected.keys().chain(observed.keys()).collect();
    let different = keys
        .into_iter()
        .filter(|key| expected.get(key) != observed.get(key));
    let told = different.map(|key| {
        let (expected, observed) = (expected.get(key), observed.get(key));
        format!("{key:?}: {expected:?} expected, {observed:?} observed")
    });
    Difference(told.collect())
}

fn history(seed: u64) {
    let bench = Bench::new();
    let mut choices = Choices(seed);
    let mut services: Vec<Option<Service>> = vec![None; SERVICES];
    for step in 0..STEPS {
        let index = choices.below(SERVICES);
        let before = services[index].clone();
        let after = match before {
            // Now and then something goes; manifests take their time for that.
            Some(_) if choices.once_in(8) => None,
            Some(mut service) if choices.once_in(2) => {
                service.other_endpoints(&mut choices);
                Some(service)
            }
            _ => Some(Service::random(&mut choices)),
        };
        match (&services[index], &after) {
            (Some(before), None) => bench.delete(&object(index, before)),
            (_, Some(service)) => {
                let endpoints: Vec<Endpoint> = (service.endpoints.iter())
                    .map(|(workload, state)| {
                        let endpoint = bench.endpoint(&bench.lab.workloads()[*workload]);
                        let unready = json!({"ready": false, "serving": false});
                        match state {
                            State::Ready => endpoint,
                            State::Terminating => endpoint.terminating(),
                            State::Unready => endpoint.conditions(&unready),
                        }
                    })
                    .collect();
                let object = object(index, service);
                bench.put_all(&slices(&object, &endpoints));
                bench.put(&object);
            }
            (None, None) => {}
        }
        services[index] = after;
        bench.settle();
        let (lists, held) = expected(&bench, &services);
        let (observed_lists, observed_held) = observed(&bench);
        let different = difference(&lists, &observed_lists);
        assert!(
            different.0.is_empty(),
            "seed {seed} step {step}: {different:?}\nafter {:?}",
            services[index]
        );
        assert_eq!(held, observed_held, "seed {seed} step {step}");
        let routes = routes(bench.n1());
        assert_eq!(expected_routes(&held), routes, "seed {seed} step {step}");
    }
}

#[test]
fn history_of_seed_1() {
    history(0x9e37_79b9_7f4a_7c15);
}

#[test]
fn history_of_seed_2() {
    history(0xd1b5_4a32_d192_ed03);
}

#[test]
fn history_of_seed_3() {
    history(0x0123_4567_89ab_cdef);
}
