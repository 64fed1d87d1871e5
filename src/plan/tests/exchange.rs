//! Several nodes without an API server: each gives out addresses by itself and tells the others its
//! records. However edits, passes and exchanges fall, once all know the same they end in one table, no
//! address is held by two that may not share it, and nobody waits for what is free.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::generate::{any_change, small};
use super::incremental::assert_shared_rightly;
use super::{inputs, node};
use crate::model::cluster::ClusterChange;
use crate::model::family::Family;
use crate::model::service::{FamilyPolicy, ServiceType};
use crate::plan::address::AddressBook;
use crate::plan::ipam::usage;
use crate::plan::reason::Reason;
use crate::plan::{Inputs, Plan, plan};

const NODES: [(&str, &str); 3] = [
    ("edge-a", "192.0.2.11"),
    ("edge-b", "192.0.2.14"),
    ("edge-c", "192.0.2.15"),
];
/// Rounds in which they must agree: in each of them every node makes a pass and every pair tells each
/// other everything, in any order. Three have always been enough.
const ROUNDS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Somebody edits the manifests.
    Edit(ClusterChange),
    /// A node hears of so many edits that it has not heard of.
    Hear(usize, usize),
    Pass(usize),
    /// The first one tells the second one its records.
    Tell(usize, usize),
    /// Both tell each other.
    Exchange(usize, usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES.len();
    prop_oneof![
        4 => any_change().prop_map(Step::Edit),
        4 => (node(), 1..4_usize).prop_map(|(node, count)| Step::Hear(node, count)),
        4 => node().prop_map(Step::Pass),
        1 => (node(), node()).prop_map(|(from, to)| Step::Tell(from, to)),
        2 => (node(), node()).prop_map(|(one, other)| Step::Exchange(one, other)),
    ]
}

/// One round: all passes and exchanges in some order.
fn any_round() -> impl Strategy<Value = Vec<Step>> {
    let mut steps = Vec::new();
    for one in 0..NODES.len() {
        steps.push(Step::Pass(one));
        steps.extend((0..one).map(|other| Step::Exchange(one, other)));
    }
    Just(steps).prop_shuffle()
}

struct Together {
    config: crate::config::Config,
    log: Vec<ClusterChange>,
    heard: [usize; 3],
    nodes: [Inputs; 3],
}

impl Together {
    fn new() -> Self {
        let nodes = NODES.map(|(name, address)| {
            let mut inputs = inputs();
            inputs.node = name.to_owned();
            for interface in inputs.host.interfaces.values_mut() {
                for net in &mut interface.addresses {
                    if net.addr().to_string() == "192.0.2.11" {
                        *net = format!("{address}/24").parse().unwrap();
                    }
                }
            }
            for (name, address) in NODES {
                inputs.put(node(name, address));
            }
            inputs
        });
        Self {
            config: small(),
            log: Vec::new(),
            heard: [0; 3],
            nodes,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Edit(change) => self.log.push(change),
            Step::Hear(node, count) => self.hear(node, count),
            Step::Pass(node) => {
                self.pass(node);
            }
            Step::Tell(from, to) => self.tell(from, to),
            Step::Exchange(one, other) => {
                self.tell(one, other);
                self.tell(other, one);
            }
        }
    }

    fn hear(&mut self, node: usize, count: usize) {
        let news = self.log.iter().skip(self.heard[node]).take(count);
        for change in news {
            self.nodes[node].cluster.apply(change.clone());
            self.heard[node] += 1;
        }
    }

    fn pass(&mut self, node: usize) -> Plan {
        self.nodes[node].planned(&self.config)
    }

    fn tell(&mut self, from: usize, to: usize) {
        let records: Vec<_> = self.nodes[from].allocations.records().cloned().collect();
        self.nodes[to].allocations.merge(records);
    }

    /// Whether all have one table, and none of them would change it.
    fn agree(&self) -> bool {
        let table = &self.nodes[0].allocations;
        let mut nodes = self.nodes.iter();
        nodes.all(|inputs| {
            inputs.allocations == *table
                && plan(&self.config, inputs).addresses.allocations == *table
        })
    }
}

/// Nobody waits for an address that is free to give, on any node.
fn assert_nobody_waits_for_what_is_free(nodes: &Together) -> Result<(), TestCaseError> {
    for inputs in &nodes.nodes {
        let plan = plan(&nodes.config, inputs);
        let book = AddressBook::new(&inputs.cluster, &inputs.host);
        let numbers = usage(&nodes.config, &book, &plan.addresses.allocations);
        let free: BTreeSet<(&str, Family)> = (numbers.iter())
            .filter(|usage| usage.free > 0)
            .map(|usage| (usage.pool.as_str(), usage.family))
            .collect();
        for (key, service) in &inputs.cluster.services {
            if service.kind != ServiceType::LoadBalancer
                || !plan.addresses.allocations.addresses(key).is_empty()
            {
                continue;
            }
            let reasons = plan.reasons(key);
            prop_assert!(!reasons.is_empty(), "{} has no address for no reason", key);
            let single = service.family_policy == Some(FamilyPolicy::SingleStack);
            let wanted = service.families.iter();
            let wanted: Vec<&Family> = wanted.take(if single { 1 } else { 2 }).collect();
            for reason in &reasons {
                if let Reason::PoolExhausted { pools } = reason {
                    let mut free = free.iter();
                    let found = free.find(|(pool, family)| {
                        pools.iter().any(|name| name == pool) && wanted.contains(&family)
                    });
                    prop_assert!(found.is_none(), "{} could have one of {:?}", key, found);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn nodes_that_know_the_same_end_in_one_table(
        steps in prop::collection::vec(any_step(), 1..60),
        rounds in prop::collection::vec(any_round(), ROUNDS),
    ) {
        let mut nodes = Together::new();
        for step in steps {
            nodes.step(step);
        }
        for node in 0..NODES.len() {
            nodes.hear(node, usize::MAX);
        }
        let mut needed = None;
        for (number, round) in rounds.into_iter().enumerate() {
            for step in round {
                nodes.step(step);
            }
            if nodes.agree() {
                needed = Some(number);
                break;
            }
        }
        let tables = nodes.nodes.each_ref().map(|inputs| {
            let records: Vec<_> = inputs.allocations.records().cloned().collect();
            records
        });
        prop_assert!(needed.is_some(), "no table after {} rounds: {:#?}", ROUNDS, tables);
        for inputs in &nodes.nodes {
            assert_shared_rightly(&nodes.config, &inputs.cluster, &inputs.allocations)?;
        }
        assert_nobody_waits_for_what_is_free(&nodes)?;
    }
}
