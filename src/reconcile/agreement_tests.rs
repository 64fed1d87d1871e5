//! Nodes that see the same files in different orders, lose touch and find each other again, end with
//! one table of addresses.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::agreement::Agreement;
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::ClusterChange;
use crate::model::peer::{Claims, Heard, MemberState, Peer, Peers, Presence};
use crate::model::pool::Pool;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::plan::{Inputs, Plan, Scope, replan};

const NODES: [&str; 3] = ["edge-a", "edge-b", "edge-c"];
const SERVICES: usize = 5;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    /// A file appears on a node.
    Appears(usize, usize),
    /// A file goes from a node.
    Goes(usize, usize),
    /// One node hears all that another knows.
    Hears(usize, usize),
    /// Time goes by.
    Waits(u64),
    /// Who is with whom: nodes in different halves do not hear one another.
    Parts([bool; 3]),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..3_usize, 0..SERVICES).prop_map(|(node, service)| Event::Appears(node, service)),
        2 => (0..3_usize, 0..SERVICES).prop_map(|(node, service)| Event::Goes(node, service)),
        6 => (0..3_usize, 0..3_usize).prop_map(|(one, other)| Event::Hears(one, other)),
        2 => (50..700_u64).prop_map(Event::Waits),
        1 => any::<[bool; 3]>().prop_map(Event::Parts),
    ]
}

struct Node {
    inputs: Inputs,
    plan: Plan,
    agreement: Agreement,
}

struct Cluster {
    config: Config,
    nodes: Vec<Node>,
    halves: [bool; 3],
    now: Instant,
}

fn key(service: usize) -> ServiceKey {
    ServiceKey::new("default", format!("service-{service}"))
}

impl Cluster {
    fn new() -> Self {
        let mut config = Config::defaults("unused");
        let range = "192.0.2.200-192.0.2.207".parse().unwrap();
        config.pools = vec![Pool::new("lan", vec![range])];
        let node = |name: &&str| Node {
            inputs: Inputs {
                node: (*name).to_owned(),
                ..Inputs::default()
            },
            plan: Plan::default(),
            agreement: Agreement::default(),
        };
        Self {
            config,
            nodes: NODES.iter().map(node).collect(),
            halves: [true; 3],
            now: Instant::now(),
        }
    }

    fn pass(&mut self, node: usize, mut scope: Scope) {
        let others = (0..3).filter(|other| *other != node);
        let members = others.map(|other| {
            let together = self.halves[node] == self.halves[other];
            let peer = Peer {
                presence: if together {
                    Presence::Alive
                } else {
                    Presence::Down
                },
                epoch: 1,
                state: MemberState {
                    ready: true,
                    ..MemberState::default()
                },
                claims: Claims::new(),
                heard: Heard::default(),
            };
            (NODES[other].to_owned(), Arc::new(peer))
        });
        let peers = Peers {
            enabled: true,
            settled: true,
            members: members.collect(),
        };
        let Node {
            inputs,
            plan,
            agreement,
        } = &mut self.nodes[node];
        let cluster = &inputs.cluster;
        (inputs.unconfirmed).retain(|key| !cluster.services.contains_key(key));
        inputs.deferred = agreement.defer(
            &mut scope,
            (&inputs.cluster, &inputs.allocations),
            (&inputs.node, &peers),
            self.now,
        );
        *plan = replan(&self.config, inputs, plan, &scope);
        inputs.allocations = plan.addresses.allocations.clone();
    }

    fn file(&mut self, node: usize, service: usize, appears: bool) {
        let change = if appears {
            let service = Service::new(key(service), ServiceType::LoadBalancer);
            ClusterChange::Service(Arc::new(service))
        } else {
            ClusterChange::ServiceGone(key(service))
        };
        self.nodes[node].inputs.cluster.apply(change);
        self.pass(node, Scope::Services(BTreeSet::from([key(service)])));
    }

    fn hear(&mut self, node: usize, other: usize) {
        if node == other || self.halves[node] != self.halves[other] {
            return;
        }
        let others: Allocations = self.nodes[other].inputs.allocations.clone();
        let Node {
            inputs, agreement, ..
        } = &mut self.nodes[node];
        let Inputs {
            cluster,
            node: name,
            allocations,
            unconfirmed,
            ..
        } = inputs;
        let concerned = agreement.hear(&others, cluster, name, allocations, unconfirmed);
        if !concerned.is_empty() {
            self.pass(node, Scope::Services(concerned));
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Appears(node, service) => self.file(node, service, true),
            Event::Goes(node, service) => self.file(node, service, false),
            Event::Hears(node, other) => self.hear(node, other),
            Event::Waits(ms) => {
                self.now += Duration::from_millis(ms);
                for node in 0..3 {
                    let due = self.nodes[node].agreement.due();
                    if due.is_some_and(|due| due <= self.now) {
                        self.pass(node, Scope::nothing());
                    }
                }
            }
            Event::Parts(halves) => self.halves = halves,
        }
    }

    /// All files on all nodes, and time enough for everything to be heard.
    fn rest(&mut self) {
        self.halves = [true; 3];
        for node in 0..3 {
            for service in 0..SERVICES {
                self.file(node, service, true);
            }
        }
        for _ in 0..12 {
            for node in 0..3 {
                for other in 0..3 {
                    self.hear(node, other);
                }
            }
            self.happens(&Event::Waits(400));
        }
    }

    fn addresses(&self, node: usize) -> Vec<Vec<IpAddr>> {
        let allocations = &self.nodes[node].inputs.allocations;
        let of = |service| allocations.addresses(&key(service)).to_vec();
        (0..SERVICES).map(of).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn all_nodes_end_with_one_table(events in proptest::collection::vec(event(), 0..40)) {
        let mut cluster = Cluster::new();
        for event in &events {
            cluster.happens(event);
        }
        cluster.rest();
        let first = cluster.addresses(0);
        for node in 1..3 {
            prop_assert_eq!(&cluster.addresses(node), &first);
        }
        let distinct: BTreeSet<&IpAddr> = first.iter().flatten().collect();
        prop_assert_eq!(distinct.len(), SERVICES, "each has its own: {:?}", first);
    }
}

#[test]
fn the_first_node_gives_out_for_all_in_whatever_order_they_see_the_files() {
    let mut cluster = Cluster::new();
    for service in [4, 3, 2, 1, 0] {
        cluster.file(2, service, true);
    }
    for service in 0..SERVICES {
        cluster.file(0, service, true);
    }
    // The third node waited, and never showed anything else.
    assert!(cluster.addresses(2).iter().all(Vec::is_empty));
    cluster.hear(2, 0);
    assert_eq!(cluster.addresses(2), cluster.addresses(0));
    assert!(
        cluster
            .addresses(0)
            .iter()
            .all(|addresses| addresses.len() == 1)
    );
}

#[test]
fn a_file_that_goes_from_one_node_only_changes_nothing() {
    let mut cluster = Cluster::new();
    cluster.rest();
    let before = cluster.addresses(0);
    cluster.file(1, 2, false);
    for (node, other) in [(0, 1), (2, 1), (1, 0), (1, 2), (0, 1), (1, 0)] {
        cluster.hear(node, other);
    }
    for (node, name) in NODES.iter().enumerate() {
        assert_eq!(cluster.addresses(node), before, "{name}");
    }
    // Gone everywhere, it is given back.
    cluster.file(0, 2, false);
    cluster.file(2, 2, false);
    for _ in 0..4 {
        for (node, other) in [(0, 1), (1, 2), (2, 0), (0, 2), (1, 0), (2, 1)] {
            cluster.hear(node, other);
        }
    }
    for (node, name) in NODES.iter().enumerate() {
        assert!(cluster.addresses(node)[2].is_empty(), "{name}");
    }
}

#[test]
fn a_node_that_is_alone_gives_out_by_itself() {
    let mut cluster = Cluster::new();
    cluster.halves = [true, true, false];
    cluster.file(2, 0, true);
    assert_eq!(cluster.addresses(2)[0].len(), 1);
    // Who has the file alone gives out when its turn comes.
    cluster.halves = [true; 3];
    cluster.file(2, 1, true);
    assert!(cluster.addresses(2)[1].is_empty());
    cluster.happens(&Event::Waits(700));
    assert_eq!(cluster.addresses(2)[1].len(), 1);
}
