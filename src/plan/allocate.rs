//! One pass of address management: which Services it concerns, and the order of the steps. What each
//! step does is decided in ipam.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::address::AddressBook;
use super::ipam::Allocator;
use super::reason::Reason;
use super::sharing::sharing_key;
use super::{Inputs, Plan};
use crate::config::Config;
use crate::model::compact_set::CompactSet;
use crate::model::service::{Service, ServiceKey};

type Services = OrdMap<ServiceKey, Arc<Service>>;

/// Address management for the dirty Services and all that have a sharing key with one, for the
/// waiting ones when something came free, and for those that ask for an address whose holders
/// changed. The oldest Service comes first.
pub(super) fn allocate(
    config: &Config,
    inputs: &Inputs,
    book: &AddressBook,
    previous: &Plan,
    dirty: &mut BTreeSet<ServiceKey>,
    plan: &mut Plan,
) {
    let services = &inputs.cluster.services;
    let before = &inputs.allocations;
    let gone: Vec<ServiceKey> = if plan.services.is_empty() {
        // A full plan also finds Services that went while this program was away.
        before
            .records()
            .map(|record| record.service.clone())
            .filter(|key| !services.contains_key(key))
            .collect()
    } else {
        dirty
            .iter()
            .filter(|key| !services.contains_key(*key))
            .cloned()
            .collect()
    };
    groups(services, plan, dirty);
    let may_come_free = gone
        .iter()
        .chain(dirty.iter())
        .any(|key| !before.addresses(key).is_empty());
    if may_come_free || before.held() == 0 {
        dirty.extend(previous.pending.keys().cloned());
    }
    let groups = groups(services, plan, dirty);
    let mut allocator = Allocator::new(config, book, inputs, groups);
    for key in &gone {
        allocator.release(key);
    }
    let present = by_age(services, dirty);
    for service in &present {
        allocator.give_back(service);
    }
    let lost = allocator.part(present.iter().map(|service| &service.key));
    dirty.extend(lost);
    let present = by_age(services, dirty);
    for service in &present {
        allocator.adopt(service);
    }
    let mut outcomes: BTreeMap<ServiceKey, Vec<Reason>> = BTreeMap::new();
    for service in &present {
        outcomes.insert(service.key.clone(), allocator.allocate(service));
    }
    dirty.extend(gone);

    // What a Service gets, another may share; and whoever was refused is told who holds the address
    // in the end. Every round but the last gives something to somebody, so there is a last one.
    loop {
        let edit = allocator.allocations().latest_edit();
        let mut again = changed_hands(plan, &allocator, inputs, dirty);
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
    for key in dirty.iter() {
        match outcomes.remove(key) {
            Some(reasons) if !reasons.is_empty() => plan.pending.insert(key.clone(), reasons),
            _ => plan.pending.remove(key),
        };
    }
    plan.allocations = allocator.finish();
}

/// Makes every Service dirty that has a sharing key with a dirty one, or had before the change, and
/// returns the Services of every sharing key; some of them may have it no more.
fn groups(
    services: &Services,
    plan: &Plan,
    dirty: &mut BTreeSet<ServiceKey>,
) -> OrdMap<String, CompactSet<ServiceKey>> {
    let mut groups = plan.sharing.clone();
    let mut names: BTreeSet<String> = BTreeSet::new();
    for key in dirty.iter() {
        let before = plan.services.get(key);
        names.extend(before.and_then(|service| service.sharing.clone()));
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

/// The Services that ask for an address whose holders this pass changed.
fn changed_hands(
    plan: &Plan,
    allocator: &Allocator<'_>,
    inputs: &Inputs,
    dirty: &BTreeSet<ServiceKey>,
) -> BTreeSet<ServiceKey> {
    let (before, now) = (&inputs.allocations, allocator.allocations());
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

/// These Services as far as they exist, the oldest first.
fn by_age<'a>(services: &'a Services, keys: &BTreeSet<ServiceKey>) -> Vec<&'a Service> {
    let mut found: Vec<&Service> = keys
        .iter()
        .filter_map(|key| services.get(key))
        .map(AsRef::as_ref)
        .collect();
    found.sort_by_key(|service| service.by_age());
    found
}
