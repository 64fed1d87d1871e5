//! What is judged of links, addresses and routes, case by case.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::model::cluster::{ClusterChange, Node};
use crate::model::foreign::MacAddress;

/// A node on a LAN with a second card, and what it can be asked for.
struct World {
    config: Config,
    host: Host,
    links: BTreeMap<u32, Link>,
    neighbours: Vec<Neighbour>,
    outside: Option<Way>,
    outside6: Option<Way>,
    vips: Vec<(IpAddr, bool, Option<Way>)>,
    cluster: ClusterState,
    strangers: Vec<Stranger>,
    sysctls: BTreeMap<String, String>,
}

fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]),
        running: true,
        loopback: false,
        addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
    }
}

fn way(link: u32, local: bool) -> Way {
    Way {
        local,
        link: Some(link),
        ..Way::default()
    }
}

impl World {
    fn new() -> Self {
        let mut config = Config::defaults("edge-a");
        let ranges = ["192.0.2.200-192.0.2.219", "fd00:2::200-fd00:2::219"];
        let ranges = ranges.map(|it| it.parse().unwrap()).to_vec();
        config.pools.push(Pool::new("lan", ranges));
        let interfaces = [
            interface(2, "eth0", &["192.0.2.11/24", "fd00:2::11/64"]),
            interface(3, "eth1", &["198.18.0.11/24"]),
        ];
        let link = |it: &Interface| Link {
            index: it.index,
            name: it.name.clone(),
            running: true,
            mtu: 1500,
            ..Link::default()
        };
        let off = ["all", "eth0", "eth1"];
        Self {
            config,
            links: interfaces.iter().map(|it| (it.index, link(it))).collect(),
            host: Host {
                interfaces: interfaces.into_iter().map(|it| (it.index, it)).collect(),
                infrastructure: vec!["192.0.2.1".parse().unwrap()],
            },
            neighbours: Vec::new(),
            outside: Some(way(2, false)),
            outside6: Some(way(2, false)),
            vips: vec![("192.0.2.200".parse().unwrap(), true, Some(way(1, true)))],
            cluster: ClusterState::default(),
            strangers: Vec::new(),
            sysctls: off
                .map(|it| (format!("net/ipv6/conf/{it}/disable_ipv6"), "0\n".to_owned()))
                .into(),
        }
    }

    fn judge(&self) -> Vec<Finding> {
        let sysctl = |path: &str| self.sysctls.get(path).cloned();
        judge(&Facts {
            config: &self.config,
            host: &self.host,
            links: &self.links,
            neighbours: &self.neighbours,
            outside: [self.outside.clone(), self.outside6.clone()],
            cluster: Some(&self.cluster),
            vips: self.vips.clone(),
            unowned: Vec::new(),
            has_daemon: true,
            strangers: self.strangers.clone(),
            sysctl: &sysctl,
        })
    }

    fn eth0(&mut self) -> &mut Interface {
        self.host.interfaces.get_mut(&2).unwrap()
    }
}

fn stranger(address: &str, interface: &str) -> Stranger {
    Stranger {
        address: address.parse().unwrap(),
        service: "default/web".to_owned(),
        interface: Some(interface.to_owned()),
    }
}

/// One fault, and how it is told.
type Case = (fn(&mut World), Level, &'static str);

const CASES: &[Case] = &[
    (
        |it| {
            let mut lo = interface(1, "lo", &["127.0.0.1/8", "192.0.2.205/32"]);
            lo.loopback = true;
            it.host.interfaces.insert(1, lo);
        },
        Level::Problem,
        "lo of this node has 192.0.2.205",
    ),
    (
        |it| it.strangers.push(stranger("10.9.0.7", "eth0")),
        Level::Warning,
        "1 pods are in no known pod range of IPv4",
    ),
    (
        |it| {
            it.strangers.push(stranger("10.9.0.7", "eth0"));
            it.config.proxy.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        },
        Level::Problem,
        "ClusterIPs refuse them",
    ),
    (
        |it| it.config.proxy.cluster_interfaces = vec!["cni0".parse().unwrap()],
        Level::Warning,
        "names cni0, and no interface of this node is called so",
    ),
    (
        |it| it.vips[0].2 = Some(way(2, false)),
        Level::Problem,
        "local route of 1 VIPs is gone",
    ),
    (
        |it| it.vips[0].2 = None,
        Level::Problem,
        "local route of 1 VIPs is gone",
    ),
    (
        |it| it.eth0().addresses.push("192.0.2.201/32".parse().unwrap()),
        Level::Problem,
        "has 192.0.2.201, which is in pool lan",
    ),
    (
        |it| it.eth0().running = false,
        Level::Problem,
        "eth0 is down or has no carrier",
    ),
    (
        |it| {
            it.config
                .announce
                .exclude_interfaces
                .push("eth*".parse().unwrap());
        },
        Level::Problem,
        "exclude_interfaces leaves out eth0",
    ),
    (
        |it| it.eth0().addresses.retain(|it| it.addr().is_ipv6()),
        Level::Warning,
        "no interface of this node has a subnet that holds 192.0.2.200-192.0.2.219",
    ),
    (
        |it| it.config.pools[0].interfaces.push("ens3".parse().unwrap()),
        Level::Warning,
        "interface ens3 only, which this node does not have",
    ),
    (
        |it| {
            it.sysctls
                .insert("net/ipv6/conf/all/disable_ipv6".to_owned(), "1".to_owned());
            it.eth0().addresses.retain(|it| it.addr().is_ipv4());
        },
        Level::Problem,
        "IPv6 is switched off",
    ),
    (
        |it| {
            it.cluster
                .apply(ClusterChange::Node(std::sync::Arc::new(Node {
                    name: "edge-b".to_owned(),
                    addresses: vec!["192.0.2.205".parse().unwrap()],
                    ..Node::default()
                })));
        },
        Level::Problem,
        "overlaps 192.0.2.205/32, the address of node edge-b",
    ),
    (
        |it| it.host.infrastructure.push("192.0.2.210".parse().unwrap()),
        Level::Problem,
        "a gateway or resolver",
    ),
    (
        |it| {
            it.neighbours.push(Neighbour {
                link: 2,
                address: "192.0.2.210".parse().unwrap(),
                mac: MacAddress([2, 0, 0, 0, 0, 9]),
            });
        },
        Level::Warning,
        "a host on the LAN uses 192.0.2.210, which is in pool lan",
    ),
    (
        |it| {
            it.outside = Some(way(3, false));
            it.sysctls
                .insert("net/ipv4/conf/all/rp_filter".to_owned(), "1".to_owned());
        },
        Level::Problem,
        "come in on eth0 and the answers leave by eth1",
    ),
    (
        |it| it.links.get_mut(&2).unwrap().mtu = 1000,
        Level::Warning,
        "MTU below 1280",
    ),
    (
        |it| it.config.announce.refresh = None,
        Level::Warning,
        "more rarely than switches forget",
    ),
    (
        |it| {
            it.config
                .proxy
                .node_port_addresses
                .push("10.0.0.0/8".parse().unwrap());
        },
        Level::Warning,
        "node ports are open nowhere",
    ),
];

#[test]
fn a_healthy_node_has_nothing_to_mend() {
    let found = World::new().judge();
    assert!(found.iter().all(|it| it.level == Level::Fine), "{found:#?}");
}

#[test]
fn each_fault_is_told_once_with_its_remedy() {
    for (number, (make, level, words)) in CASES.iter().enumerate() {
        let mut world = World::new();
        make(&mut world);
        let found = world.judge();
        let bad: Vec<&Finding> = found.iter().filter(|it| it.level > Level::Info).collect();
        assert_eq!(bad.len(), 1, "case {number}: {found:#?}");
        assert!(bad[0].message.contains(words), "case {number}: {bad:#?}");
        assert_eq!(bad[0].level, *level, "case {number}: {bad:#?}");
        assert!(bad[0].remedy.is_some(), "case {number}");
    }
}

#[test]
fn loose_filtering_and_other_ways_are_fine() {
    for value in ["0", "2"] {
        let mut world = World::new();
        world.outside = Some(way(3, false));
        world
            .sysctls
            .insert("net/ipv4/conf/all/rp_filter".to_owned(), value.to_owned());
        assert!(world.judge().iter().all(|it| it.level == Level::Fine));
    }
}

#[test]
fn a_family_without_a_default_route_is_told_and_is_no_fault() {
    let mut world = World::new();
    world.outside6 = None;
    let found = world.judge();
    let told: Vec<&Finding> = found.iter().filter(|it| it.level != Level::Fine).collect();
    assert_eq!(told.len(), 1, "{found:#?}");
    assert_eq!(told[0].level, Level::Info);
    assert!(
        told[0].message.contains("no default route for IPv6"),
        "{told:#?}"
    );
    // Where no pool has addresses of it, nobody asks by it.
    world.config.pools[0].ranges.truncate(1);
    assert!(world.judge().iter().all(|it| it.level == Level::Fine));
}

#[test]
fn an_own_or_a_held_address_is_no_foreign_host() {
    let mut world = World::new();
    for (address, mac) in [("192.0.2.210", 2), ("192.0.2.200", 9)] {
        world.neighbours.push(Neighbour {
            link: 2,
            address: address.parse().unwrap(),
            mac: MacAddress([2, 0, 0, 0, 0, mac]),
        });
    }
    assert!(world.judge().iter().all(|it| it.level == Level::Fine));
}
