//! The full plan as the oracle: whatever is edited in whatever order, a plan made at the price of the
//! change is the plan made from nothing. And what must hold of every plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::generate::{SERVICES, any_passes, small};
use super::{inputs, key};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::ClusterState;
use crate::model::service::Service;
use crate::plan::sharing::refusal;
use crate::plan::{Inputs, Plan, Scope, plan, replan};

pub(super) fn reasons(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    let names = SERVICES.map(|name| {
        let reasons = plan.reasons(&key(name));
        (
            name.to_owned(),
            reasons.iter().map(ToString::to_string).collect(),
        )
    });
    names.into()
}

/// What must hold of every plan.
pub(super) fn assert_sound(
    config: &Config,
    inputs: &Inputs,
    plan: &Plan,
) -> Result<(), TestCaseError> {
    assert_shared_rightly(config, &inputs.cluster, &plan.addresses.allocations)?;
    for service in inputs.cluster.services.keys() {
        let owners = plan.addresses.allocations.addresses(service).iter();
        let owners: BTreeSet<_> = owners
            .filter_map(|vip| plan.ownership.get(vip))
            .map(|ownership| &ownership.owner)
            .collect();
        prop_assert!(owners.len() <= 1, "{} has one owner", service);
    }
    for (vip, ownership) in &plan.ownership {
        prop_assert!(
            plan.state.held.contains_key(vip)
                && !plan.addresses.allocations.holders_of(*vip).is_empty()
        );
        let ours = ownership.owner.as_deref() == Some(inputs.node.as_str());
        prop_assert_eq!(plan.state.answering.contains(vip), ours);
    }
    for announced in plan.state.announced.values() {
        prop_assert!(!announced.addresses.is_empty());
        prop_assert!(
            announced
                .addresses
                .iter()
                .all(|vip| plan.state.answering.contains(vip))
        );
    }
    Ok(())
}

/// Nobody holds an address but Services that are there, and no two that may not share it.
pub(super) fn assert_shared_rightly(
    config: &Config,
    cluster: &ClusterState,
    allocations: &Allocations,
) -> Result<(), TestCaseError> {
    let mut seen: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
    for (key, service) in &cluster.services {
        for address in allocations.addresses(key) {
            let others = seen.entry(*address).or_default();
            for other in others.iter() {
                prop_assert_eq!(
                    refusal(config, *address, service, other),
                    None,
                    "{} is held by {} and {}",
                    address,
                    key,
                    other.key
                );
            }
            others.push(service);
            prop_assert!(allocations.holders_of(*address).contains(key));
        }
    }
    prop_assert_eq!(
        seen.values().map(Vec::len).sum::<usize>(),
        allocations.holders().count(),
        "nobody else holds anything"
    );
    Ok(())
}

proptest! {
    #[test]
    fn what_changed_plans_as_everything_does(passes in any_passes()) {
        let config = small();
        let mut inputs = inputs();
        let mut previous = plan(&config, &inputs);
        for changes in passes {
            let mut scope = Scope::nothing();
            for change in changes {
                for dirty in inputs.cluster.apply(change) {
                    scope.add(dirty);
                }
            }
            let counter = previous.addresses.allocations.clone();
            let next = replan(&config, &inputs, &previous, &scope);
            let full = plan(&config, &inputs);
            prop_assert_eq!(reasons(&next), reasons(&full));
            prop_assert_eq!(&next, &full, "from the same allocations");
            inputs.allocations = next.addresses.allocations.clone();
            let again = plan(&config, &inputs);
            prop_assert_eq!(reasons(&next), reasons(&again));
            prop_assert_eq!(&next, &again, "from its own allocations: there is nothing left to do");
            let latest = |allocations: &Allocations| {
                allocations.records().map(|record| record.counter).max()
            };
            prop_assert!(latest(&counter) <= latest(&next.addresses.allocations), "counters never go back");
            assert_sound(&config, &inputs, &next)?;
            previous = next;
        }
    }
}
