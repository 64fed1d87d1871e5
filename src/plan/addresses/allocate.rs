//! One pass of address management: which Services it concerns, and the order of the steps. What each
//! step does is decided in ipam.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::{AddressInputs, AddressPlan, Managed, by_age};
use crate::config::Config;
use crate::model::compact_set::CompactSet;
use crate::model::service::{Service, ServiceKey};
use crate::plan::Scope;
use crate::plan::address::AddressBook;
use crate::plan::ipam::{Allocator, in_pools};
use crate::plan::reason::Reason;
use crate::plan::sharing::sharing_key;

type Services = OrdMap<ServiceKey, Arc<Service>>;

/// Address management for the Services of the scope and all that have a sharing key with one, for
/// those whose record is another than in the previous plan, for the waiting ones when something came
/// free, and for those that ask for an address whose holders changed. The oldest Service comes first.
pub(in crate::plan) fn allocate(
    config: &Config,
    inputs: &AddressInputs<'_>,
    book: &AddressBook,
    previous: &AddressPlan,
    scope: &Scope,
) -> Managed {
    let services = &inputs.cluster.services;
    let (mut plan, mut dirty) = previous.start(inputs.cluster, scope);
    // A full plan finds here also the Services that went while this program was away.
    let changed: BTreeSet<ServiceKey> = plan
        .allocations
        .changed(inputs.allocations)
        .cloned()
        .collect();
    let mut came_free = !changed.is_empty();
    dirty.extend(changed);
    dirty.extend(previous.concerned(inputs.foreign));
    plan.foreign = inputs.foreign.clone();
    for address in moved(&plan, inputs) {
        dirty.extend(
            plan.asks
                .get(&address)
                .into_iter()
                .flat_map(CompactSet::iter)
                .cloned(),
        );
        came_free |= in_pools(config, address);
    }
    plan.standing = inputs.standing.clone();
    let groups_now = groups(services, &plan, &mut dirty);
    let gone: Vec<ServiceKey> = dirty
        .iter()
        .filter(|key| !services.contains_key(*key) && !inputs.unconfirmed.contains(*key))
        .cloned()
        .collect();
    let mut allocator = Allocator::new(config, book, inputs, groups_now);
    for key in &gone {
        allocator.release(key);
    }
    let present = by_age(services, &dirty);
    for service in &present {
        allocator.give_back(service);
    }
    let lost = allocator.part(present.iter().map(|service| &service.key));
    dirty.extend(lost);
    // Later steps only give. An edit that takes nothing back, such as the status that was written
    // because of an earlier pass, is no business of those that wait.
    if came_free || allocator.allocations().latest_edit() != inputs.allocations.latest_edit() {
        dirty.extend(previous.waiting().cloned());
    }
    groups(services, &plan, &mut dirty);
    let present = by_age(services, &dirty);
    for service in &present {
        allocator.adopt(service);
    }
    let mut outcomes: BTreeMap<ServiceKey, Vec<Reason>> = BTreeMap::new();
    for service in &present {
        outcomes.insert(service.key.clone(), allocator.allocate(service));
    }

    // What a Service gets, another may share; and whoever was refused is told who holds the address
    // in the end. Every round but the last gives something to somebody, so there is a last one.
    loop {
        let edit = allocator.allocations().latest_edit();
        let mut again = changed_hands(&plan, &allocator, &dirty);
        again.extend(outcomes.iter().filter_map(|(key, reasons)| {
            let refused = reasons.iter().any(|reason| {
                matches!(
                    reason,
                    Reason::RequestTaken { .. } | Reason::SharingRefused { .. }
                )
            });
            let shares = || {
                services
                    .get(key)
                    .is_some_and(|service| sharing_key(service).is_some())
            };
            (refused || shares()).then(|| key.clone())
        }));
        for service in by_age(services, &again) {
            allocator.adopt(service);
            outcomes.insert(service.key.clone(), allocator.allocate(service));
        }
        dirty.extend(again);
        if allocator.allocations().latest_edit() == edit {
            break;
        }
    }
    plan.allocations = allocator.finish();
    for key in &dirty {
        plan.settle(key, outcomes.remove(key).unwrap_or_default());
        plan.contribute(key, services.get(key));
    }
    Managed { plan, dirty }
}

/// Makes every Service dirty that has a sharing key with a dirty one, or had before the change, and
/// returns the Services of every sharing key; some of them may have it no more.
fn groups(
    services: &Services,
    plan: &AddressPlan,
    dirty: &mut BTreeSet<ServiceKey>,
) -> OrdMap<String, CompactSet<ServiceKey>> {
    let mut groups = plan.sharing.clone();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for key in dirty.iter() {
        let before = plan.contributions.get(key);
        names.extend(before.and_then(|before| before.sharing.clone()));
        let now = services.get(key).and_then(|service| sharing_key(service));
        if let Some(name) = now {
            groups
                .entry(name.to_owned())
                .or_default()
                .insert(key.clone());
            names.insert(name.to_owned());
        }
    }
    for name in &names {
        dirty.extend(
            groups
                .get(name)
                .into_iter()
                .flat_map(CompactSet::iter)
                .cloned(),
        );
    }
    groups
}

/// The addresses that other Services than before name without holding them.
fn moved(plan: &AddressPlan, inputs: &AddressInputs<'_>) -> Vec<IpAddr> {
    let (before, now) = (&plan.standing, inputs.standing);
    let moved = before.changed(now).filter(|address| {
        let before = before.strangers(*address, &plan.allocations);
        before.ne(now.strangers(*address, inputs.allocations))
    });
    moved.collect()
}

/// The Services that ask for an address whose holders this pass changed.
fn changed_hands(
    plan: &AddressPlan,
    allocator: &Allocator<'_>,
    dirty: &BTreeSet<ServiceKey>,
) -> BTreeSet<ServiceKey> {
    let (before, now) = (&plan.allocations, allocator.allocations());
    let mut interested = BTreeSet::new();
    for key in dirty {
        let both = before.addresses(key).iter().chain(now.addresses(key));
        for address in
            both.filter(|address| before.holders_of(**address) != now.holders_of(**address))
        {
            interested.extend(
                plan.asks
                    .get(address)
                    .into_iter()
                    .flat_map(CompactSet::iter)
                    .cloned(),
            );
        }
    }
    interested
}
