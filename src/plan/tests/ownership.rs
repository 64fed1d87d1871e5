//! Who announces a VIP, and where: eligibility (LBC-6, LBC-7, AN-9), the spread over nodes, and when
//! a draining real server may go (GT-1, GT-2).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use imbl::OrdMap;

use super::{HERE, config, inputs, interface, ip, load_balancer, node, pool, slice};
use crate::config::Config;
use crate::model::cluster::Node;
use crate::model::service::{Service, TrafficPolicy};
use crate::plan::drain::{Draining, finished};
use crate::plan::ownership::{Candidates, EXCLUDE_LABEL, Ownership, moves};
use crate::plan::reason::Reason;
use crate::plan::{Inputs, announcement};

const VIP: &str = "192.0.2.200";

fn lan() -> Config {
    config(vec![pool(
        "lan",
        "192.0.2.200-192.0.2.219 2001:db8::200/124",
    )])
}

fn three_nodes() -> Inputs {
    let mut inputs = inputs();
    for (name, address) in [
        (HERE, "192.0.2.11"),
        ("edge-b", "192.0.2.12"),
        ("edge-c", "192.0.2.13"),
    ] {
        inputs.put(node(name, address));
    }
    inputs
}

fn owner(config: &Config, inputs: &Inputs, vip: IpAddr, service: &Service) -> Option<String> {
    Candidates::new(config, inputs)
        .owner(vip, &[service], inputs)
        .owner
}

#[test]
fn exclusions_have_their_reasons() {
    let labelled = |name: &str, label: &str| {
        let mut node = node(name, "192.0.2.13");
        node.labels.insert(label.to_owned(), String::new());
        node
    };
    let deleting = Node {
        deleting: true,
        ..node("edge-c", "192.0.2.13")
    };
    let mut selecting = lan();
    selecting.announce.node_selector = vec!["edge".parse().unwrap(), "!core".parse().unwrap()];
    for (config, replaced, reason) in [
        (
            lan(),
            labelled("edge-c", EXCLUDE_LABEL),
            Some(Reason::ExcludedByLabel),
        ),
        (lan(), deleting, Some(Reason::NodeDeleting)),
        (lan(), labelled("edge-c", "core"), None),
        (
            selecting.clone(),
            labelled("edge-c", "core"),
            Some(Reason::NotSelected),
        ),
        (selecting, labelled("edge-c", "edge"), None),
    ] {
        let mut inputs = three_nodes();
        inputs.put(replaced);
        let ownership =
            Candidates::new(&config, &inputs).owner(ip(VIP), &[&load_balancer("web")], &inputs);
        let expected: Vec<_> = reason
            .into_iter()
            .map(|reason| ("edge-c".to_owned(), reason))
            .collect();
        assert_eq!(ownership.excluded, expected);
        assert!(ownership.owner.is_some());
    }
}

#[test]
fn without_nodes_this_one_owns_everything_and_an_unknown_one_nothing() {
    let service = load_balancer("web");
    assert_eq!(
        owner(&lan(), &inputs(), ip(VIP), &service).as_deref(),
        Some(HERE)
    );
    let mut inputs = inputs();
    inputs.put(node("edge-b", "192.0.2.12"));
    let ownership = Candidates::new(&lan(), &inputs).owner(ip(VIP), &[&service], &inputs);
    assert_eq!(ownership.owner.as_deref(), Some("edge-b"));
    assert_eq!(ownership.excluded, [(HERE.to_owned(), Reason::NodeUnknown)]);
}

#[test]
fn a_local_policy_is_announced_where_an_endpoint_is_ready() {
    // Cases 32 and 33, LBC-6
    let mut service = load_balancer("web");
    service.external_traffic_policy = TrafficPolicy::Local;
    for (endpoints, expected) in [
        ("10.244.0.1@edge-b 10.244.0.2@edge-c#s", Some("edge-b")),
        ("10.244.0.1@edge-b#st 10.244.0.2@edge-c", Some("edge-c")),
        ("10.244.0.1@edge-b#st", None),
        ("10.244.0.1@elsewhere", None),
    ] {
        let mut inputs = three_nodes();
        inputs
            .put(service.clone())
            .put(slice("web", "web-1", endpoints));
        let ownership = Candidates::new(&lan(), &inputs).owner(ip(VIP), &[&service], &inputs);
        assert_eq!(ownership.owner.as_deref(), expected, "{endpoints}");
        let without = 3 - usize::from(expected.is_some());
        assert_eq!(ownership.excluded.len(), without, "{endpoints}");
        assert!(
            ownership
                .excluded
                .iter()
                .all(|(_, reason)| *reason == Reason::NoLocalEndpoint)
        );
        let plan = inputs.planned(&lan());
        assert_eq!(plan.ownership[&ip(VIP)], ownership);
        assert!(plan.state.announced.is_empty() && plan.state.answering.is_empty());
    }
}

#[test]
fn a_pool_says_which_nodes_are_better() {
    // Case 38: the best selector wins, then the hash; a node that goes leaves it to the next best.
    let service = load_balancer("web");
    let racked = |name: &str, rack: &str| {
        let mut node = node(name, "192.0.2.13");
        node.labels.insert("rack".to_owned(), rack.to_owned());
        node
    };
    let mut inputs = three_nodes();
    inputs
        .put(racked("edge-b", "second"))
        .put(racked("edge-c", "first"));
    let mut config = lan();
    let vips: Vec<IpAddr> = (0..16)
        .map(|last| Ipv4Addr::new(192, 0, 2, 200 + last).into())
        .collect();
    let owners = |config: &Config, inputs: &Inputs| -> Vec<String> {
        let owner = |vip: &IpAddr| owner(config, inputs, *vip, &service).unwrap();
        vips.iter().map(owner).collect()
    };
    let by_hash = owners(&config, &inputs);
    config.pools[0].prefer = vec!["rack=nowhere".parse().unwrap()];
    assert_eq!(owners(&config, &inputs), by_hash, "nobody is better");
    config.pools[0].prefer = ["rack=first", "rack"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    assert_eq!(owners(&config, &inputs), vec!["edge-c"; 16]);
    inputs.cluster.nodes.remove("edge-c");
    assert_eq!(owners(&config, &inputs), vec!["edge-b"; 16]);
    inputs.put(racked("edge-c", "second"));
    let shared = owners(&config, &inputs);
    assert!(
        ["edge-b", "edge-c"]
            .iter()
            .all(|name| shared.iter().any(|owner| owner == name))
    );
    assert!(!shared.iter().any(|owner| owner == HERE));
}

#[test]
fn an_owner_that_has_no_interface_for_a_vip_says_so() {
    // Cases 30 and 42: announced nowhere, and reported.
    let far = config(vec![pool("far", "198.51.100.8/30")]);
    let mut missing = lan();
    missing.pools[0].interfaces = vec!["missing".parse().unwrap()];
    for config in [far, missing] {
        let mut inputs = inputs();
        inputs.put(load_balancer("web"));
        let plan = inputs.planned(&config);
        let ownership = plan.ownership.values().next().unwrap();
        assert_eq!(ownership.owner.as_deref(), Some(HERE));
        assert_eq!(ownership.excluded, [(HERE.to_owned(), Reason::NoInterface)]);
        assert!(plan.state.announced.is_empty());
    }
}

#[test]
fn a_service_without_a_port_is_not_announced() {
    let mut inputs = inputs();
    inputs.put(Service {
        ports: Vec::new(),
        ..load_balancer("web")
    });
    let plan = inputs.planned(&lan());
    assert_eq!(super::held(&plan, "web"), VIP);
    assert!(plan.ownership.is_empty() && plan.state.announced.is_empty());
}

/// Otherwise every node would answer for every VIP once the last Node has gone.
#[test]
fn the_last_node_that_goes_leaves_no_owner() {
    let mut inputs = inputs();
    inputs.put(load_balancer("web"));
    inputs.nodes_known = true;
    let plan = inputs.planned(&lan());
    assert_eq!(plan.ownership.get(&ip(VIP)).unwrap().owner, None);
    assert!(plan.state.announced.is_empty());
}

#[test]
fn hundred_vips_spread_and_only_those_of_a_node_that_goes_move() {
    let service = load_balancer("web");
    let vips: Vec<IpAddr> = (0..100)
        .map(|last| Ipv4Addr::new(198, 51, 100, last).into())
        .collect();
    let spread = |inputs: &Inputs| -> BTreeMap<IpAddr, String> {
        let owner = |vip: &IpAddr| (*vip, owner(&lan(), inputs, *vip, &service).unwrap());
        vips.iter().map(owner).collect()
    };
    let mut inputs = three_nodes();
    let before = spread(&inputs);
    for name in [HERE, "edge-b", "edge-c"] {
        let owned = before.values().filter(|owner| *owner == name).count();
        assert!((20..=47).contains(&owned), "{name} owns {owned} of 100");
    }
    inputs.cluster.nodes.remove("edge-b");
    let after = spread(&inputs);
    for (vip, owner) in &before {
        if owner != "edge-b" {
            assert_eq!(after[vip], *owner, "{vip} stays");
        }
    }
    let inherited = |name: &str| {
        after
            .iter()
            .filter(|(vip, owner)| *owner == name && before[*vip] == "edge-b")
            .count()
    };
    assert!(
        inherited(HERE) >= 5 && inherited("edge-c") >= 5,
        "both inherit"
    );
    inputs.put(node("edge-b", "192.0.2.12"));
    assert_eq!(spread(&inputs), before, "and back");
}

#[test]
fn owners_are_the_same_in_every_version() {
    // Nodes of different versions must agree: these values never change.
    let inputs = three_nodes();
    let service = load_balancer("web");
    let v4 = (0..8).map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, 200 + last)));
    let v6 =
        (0..8).map(|last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200 + last)));
    let letters: String = v4
        .chain(v6)
        .map(|vip| {
            owner(&lan(), &inputs, vip, &service)
                .unwrap()
                .pop()
                .unwrap()
        })
        .collect();
    assert_eq!(letters, "abcacccaaacabccc");
}

#[test]
fn interfaces_are_running_not_excluded_and_in_the_subnet() {
    let mut inputs = inputs();
    let down = crate::model::host::Interface {
        running: false,
        ..interface(3, "eth1", "192.0.2.21/24")
    };
    let without_mac = crate::model::host::Interface {
        mac: None,
        ..interface(4, "wg0", "192.0.2.22/24")
    };
    let others = [
        down,
        without_mac,
        interface(5, "docker0", "192.0.2.23/24"),
        interface(6, "eth2", "198.51.100.2/24"),
        interface(7, "eth3", "192.0.2.24/24"),
    ];
    inputs
        .host
        .interfaces
        .extend(others.map(|interface| (interface.index, interface)));
    let names = |config: &Config, vip: &str| -> Vec<String> {
        let interfaces = announcement::interfaces(config, &inputs.host, ip(vip));
        interfaces.map(|interface| interface.name.clone()).collect()
    };
    let mut config = lan();
    assert_eq!(names(&config, VIP), ["eth0", "eth3"]);
    assert_eq!(names(&config, "2001:db8::200"), ["eth0"]);
    assert_eq!(names(&config, "203.0.113.1"), Vec::<String>::new());
    // Case 42: named ones need no subnet, but must be there and running.
    config.pools[0].interfaces = vec!["eth2".parse().unwrap(), "eth1".parse().unwrap()];
    assert_eq!(names(&config, VIP), ["eth2"]);
    config.pools[0].interfaces = vec!["docker0".parse().unwrap(), "missing".parse().unwrap()];
    assert_eq!(names(&config, VIP), Vec::<String>::new());
}

#[test]
fn an_owned_vip_is_announced_with_the_interfaces_own_address() {
    let mut inputs = inputs();
    inputs.put(load_balancer("web"));
    let mut config = lan();
    let plan = inputs.planned(&config);
    let announced = &plan.state.announced[&2];
    assert_eq!(
        (announced.name.as_str(), announced.mac),
        ("eth0", [2, 0, 0, 0, 0, 2])
    );
    assert!(announced.addresses.contains(&ip(VIP)) && announced.addresses.len() == 1);
    assert_eq!(plan.state.announced.len(), 1);
    assert!(plan.state.answering.contains(&ip(VIP)));
    config.announce.ping = false;
    assert!(inputs.planned(&config).state.answering.is_empty());
}

#[test]
fn a_drained_real_server_goes_when_nobody_uses_it_or_at_the_deadline() {
    let deadline = Duration::from_secs(900);
    for (age, connections, gone) in [
        (0, 0, true),
        (0, 1, false),
        (899, 1, false),
        (900, 1, true),
        (901, u32::MAX, true),
    ] {
        let draining = Draining {
            age: Duration::from_secs(age),
            connections,
        };
        assert_eq!(
            finished(draining, deadline),
            gone,
            "GT-1, GT-2: {draining:?}"
        );
    }
    let cut = Draining {
        age: Duration::ZERO,
        connections: 7,
    };
    assert!(finished(cut, Duration::ZERO), "no deadline, no waiting");
}

#[test]
fn a_move_is_a_vip_with_another_owner() {
    let ownership = |owners: &str| -> OrdMap<IpAddr, Ownership> {
        let owners = owners.split_whitespace();
        let owners = owners.map(|owner| owner.split_once('=').unwrap());
        owners
            .map(|(vip, owner)| {
                let ownership = Ownership {
                    owner: (owner != "-").then(|| owner.to_owned()),
                    excluded: Vec::new(),
                };
                (ip(vip), ownership)
            })
            .collect()
    };
    let before = ownership("192.0.2.1=a 192.0.2.2=a 192.0.2.3=a 192.0.2.4=- 192.0.2.5=-");
    let after = ownership("192.0.2.1=a 192.0.2.2=b 192.0.2.4=b 192.0.2.6=a 192.0.2.7=-");
    let moved: Vec<String> = moves(&before, &after)
        .map(|(vip, from, to)| format!("{vip} {from}>{to}"))
        .collect();
    assert_eq!(
        moved,
        [
            "192.0.2.2 a>b",
            "192.0.2.3 a>",
            "192.0.2.4 >b",
            "192.0.2.6 >a"
        ]
    );
}
