//! Random histories of Services and endpoints against a small model of what the kernel must hold,
//! compared after every step with what `nft`, `ipvsadm` and `ip` report: every list of endpoints of
//! every frontend, by who asks, and every address that is held. The seeds are fixed.
//!
//! The model says the rules once more, in its own words, for Services of two families with one port.

mod observed;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use edgelb::lab::DualStack;
use serde_json::{Value, json};

use crate::conformance::bench::Bench;
use crate::conformance::objects::{self, Endpoint, port, slices};
use crate::conformance::observe::http;
use crate::rig::{PATIENCE, eventually, ipvs, socket};
use observed::{observed, routes};

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
        // And what edgelb itself observes is the same: it compares all of it and finds nothing to do.
        let made = changes(&bench);
        let passes = bench.ask("status")["last_pass"]["number"].clone();
        bench.daemons[0].reload().unwrap();
        eventually(PATIENCE, || {
            (bench.ask("status")["last_pass"]["number"] != passes).then_some(())
        });
        assert_eq!(made, changes(&bench), "seed {seed} step {step}");
    }
}

/// What the daemon has changed in the kernel so far, but for what only goes because it has drained.
fn changes(bench: &Bench) -> BTreeSet<String> {
    let text = http(bench.n1(), socket([127, 0, 0, 1], 9750), "GET /metrics");
    let text = text.unwrap().body;
    let lines = text.lines().filter(|line| {
        let drained = line.contains("_server\"") && line.contains("\"remove\"");
        let flows = line.contains("\"flow\"");
        line.starts_with("edgelb_kernel_changes_total") && !drained && !flows
    });
    lines.map(str::to_owned).collect()
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
