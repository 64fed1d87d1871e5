//! Why a node announces a VIP, and why not another.

use super::*;
use crate::explain::report::Fate;
use crate::model::foreign::MacAddress;
use crate::model::peer::{Heard, MemberState, Peer, Peers, Presence, PublishedInterface};
use crate::plan::ownership::EXCLUDE_LABEL;

fn world() -> World {
    web(TWO, |_| {})
}

fn label(world: &mut World, node: &str, label: &str) {
    let known = world.inputs.cluster.nodes.get(node).unwrap();
    let mut node = Node::clone(known);
    node.labels.insert(label.to_owned(), String::new());
    world.apply(ClusterChange::Node(Arc::new(node)));
}

#[test]
fn by_nodes_alone_the_first_in_the_order_announces() {
    let told = world().ask("192.0.2.200:80", None);
    let address = &told.addresses[0];
    let first = address.ranking[0].clone();
    assert_eq!(
        (address.owner.as_deref(), address.ranking.len()),
        (Some(first.as_str()), 2)
    );
    let why = address.why.as_deref().unwrap();
    assert!(
        why.starts_with("it is first in the order that all nodes compute ("),
        "{why}"
    );

    // Without it the other one does, and the first says why not.
    let told = world()
        .with(|world| label(world, &first, EXCLUDE_LABEL))
        .ask("192.0.2.200:80", None);
    let address = &told.addresses[0];
    assert_ne!(address.owner.as_ref(), Some(&first));
    let why = address.why.as_deref().unwrap();
    assert!(why.starts_with("it is the only node that may"), "{why}");
    if first == "edge-a" {
        assert!(why.contains("not edge-a: the node is labelled"), "{why}");
    }
    assert_eq!(address.excluded[0].cause.label, "excluded_by_label");
}

#[test]
fn a_vip_that_nobody_announces_is_lost() {
    let world = world().with(|world| {
        label(world, "edge-a", EXCLUDE_LABEL);
        label(world, "edge-b", EXCLUDE_LABEL);
    });
    let told = world.ask("192.0.2.200:80", Some("203.0.113.9"));
    assert_eq!((frontend(&told).fate, told.works), (Fate::Lost, false));
    let beginning = "A client at 203.0.113.9 that connects to 192.0.2.200:80/tcp gets no answer: no node announces the VIP 192.0.2.200: no node may (edge-a: the node is labelled";
    assert!(told.answer[0].starts_with(beginning), "{:#?}", told.answer);
    // A pod needs nobody to announce it.
    let told = world.ask("192.0.2.200:80", Some("10.244.1.9"));
    assert_eq!(frontend(&told).fate, Fate::Served);
    let told = world.ask("default/web", None);
    assert!(told.answer[0].starts_with("default/web is not served as it asks: a connection to 192.0.2.200 port 80/tcp gets no answer: no node announces"), "{:#?}", told.answer);
}

#[test]
fn an_owner_without_an_interface_is_told() {
    let world = world().with(|world| {
        label(world, "edge-b", EXCLUDE_LABEL);
        world.config.pools[0].interfaces = vec!["bond0".parse().unwrap()];
    });
    let told = world.ask("192.0.2.200:80", Some("203.0.113.9"));
    assert_eq!((frontend(&told).fate, told.works), (Fate::Lost, false));
    assert!(told.answer[0].contains("edge-a owns the VIP 192.0.2.200 and announces it nowhere: no running interface has a subnet that holds it, or"), "{:#?}", told.answer);
}

/// Where nodes talk with one another who has it keeps it.
#[test]
fn an_owner_that_took_it_earlier_keeps_it() {
    let peer = |presence| Peer {
        presence,
        epoch: 1,
        state: MemberState {
            ready: true,
            interfaces: vec![PublishedInterface {
                name: "eth0".to_owned(),
                mac: MacAddress([2, 0, 0, 0, 0, 2]),
                subnets: vec!["192.0.2.12/24".parse().unwrap()],
            }],
            ..MemberState::default()
        },
        claims: imbl::OrdMap::default(),
        heard: Heard::default(),
    };
    let world = |owner: Option<&str>, presence| {
        web(TWO, |_| {}).with(|world| {
            let mut peers = Peers {
                enabled: true,
                settled: true,
                ..Peers::default()
            };
            peers
                .members
                .insert("edge-b".to_owned(), Arc::new(peer(presence)));
            world.inputs.peers = Arc::new(peers);
            if let Some(owner) = owner {
                world
                    .inputs
                    .owners
                    .insert(ip("192.0.2.200"), owner.to_owned());
            }
        })
    };
    let ranking = |told: &Explanation| told.addresses[0].ranking.clone();
    let order = ranking(&world(None, Presence::Alive).ask("192.0.2.200:80", None));
    assert_eq!(order.len(), 2);
    let told = world(Some(&order[1]), Presence::Alive).ask("192.0.2.200:80", None);
    let why = told.addresses[0].why.as_deref().unwrap();
    assert!(
        why.starts_with("it took it earlier and keeps it, because membership.preempt is false"),
        "{why}"
    );
    let told = world(Some("edge-b"), Presence::Restarting).ask("192.0.2.200:80", None);
    let why = told.addresses[0].why.as_deref().unwrap();
    assert!(
        why.contains("the node restarts and keeps what it owns meanwhile"),
        "{why}"
    );
    let told = world(None, Presence::Alive).ask("192.0.2.200:80", None);
    assert!(
        told.answer[0].contains("no node announces the VIP 192.0.2.200: no node has taken it yet"),
        "{:#?}",
        told.answer
    );
}
