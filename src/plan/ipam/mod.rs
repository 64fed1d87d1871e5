//! Address management: which VIPs a `LoadBalancer` Service holds. Lowest free address of the first
//! pool by rank; what a Service holds it keeps. Decides nothing about announcing.

mod families;
mod keep;
mod shared;
mod usage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;

use super::address::AddressBook;
use super::addresses::AddressInputs;
use super::reason::{Reason, shortened};
use super::request::{Request, request};
use super::status::vouches;
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::Namespace;
use crate::model::compact_set::CompactSet;
use crate::model::family::Family;
use crate::model::pool::{AddressRange, Pool};
use crate::model::selector::any_matches;
use crate::model::service::{FamilyPolicy, Service, ServiceKey, ServiceType};
use crate::model::standing::Standing;

pub use usage::{PoolUsage, usage};

/// Why a Service is not ours to give an address, or `None` where it is. What it holds was ours
/// when it was given, and so was what stands beside our own condition, whatever became of the pool.
pub fn not_ours(config: &Config, allocations: &Allocations, service: &Service) -> Option<Reason> {
    not_ours_holding(config, allocations.addresses(&service.key), service)
}

/// The same for a Service that holds these addresses.
pub(super) fn not_ours_holding(
    config: &Config,
    held: &[IpAddr],
    service: &Service,
) -> Option<Reason> {
    match &service.load_balancer_class {
        Some(class) if *class == config.load_balancer.class => None,
        Some(class) => Some(Reason::OtherClass {
            class: shortened(class),
        }),
        None if !config.load_balancer.default => Some(Reason::OtherClass {
            class: String::new(),
        }),
        // What stands beside our own condition is ours to put right.
        None if service.other_ingress && !is_allocated(service) => Some(Reason::ServedElsewhere),
        // So it does where a record says what belongs there: a foreign address is an edit by hand.
        None if !held.is_empty() && is_allocated(service) => None,
        None => service
            .ingress
            .iter()
            .map(|ingress| ingress.address)
            .find(|address| !given_by_us(config, service, *address) && !held.contains(address))
            .map(|address| Reason::ServedByAnother { address }),
    }
}

/// Whether an address of a Service's status can be from us: a pool has it, or our own condition says
/// that it is. What somebody else wrote beside the condition is not.
pub(super) fn given_by_us(config: &Config, service: &Service, address: IpAddr) -> bool {
    let condition = service.condition.as_ref();
    in_pools(config, address) || condition.is_some_and(|condition| vouches(condition, address))
}

fn is_allocated(service: &Service) -> bool {
    let condition = service.condition.as_ref();
    condition.is_some_and(|condition| condition.allocated)
}

pub(super) fn in_pools(config: &Config, address: IpAddr) -> bool {
    config.pools.iter().any(|pool| pool.contains(address))
}

/// One pass of address management over a shared set of allocations.
pub struct Allocator<'a> {
    config: &'a Config,
    book: &'a AddressBook,
    node: &'a str,
    deferred: &'a BTreeSet<ServiceKey>,
    services: &'a OrdMap<ServiceKey, Arc<Service>>,
    standing: &'a Standing,
    namespaces: &'a OrdMap<String, Arc<Namespace>>,
    /// The Services of each sharing key, and maybe some that have it no more.
    groups: OrdMap<String, CompactSet<ServiceKey>>,
    /// Of `groups`, those that were asked about since the last release.
    indexes: BTreeMap<String, shared::Index>,
    /// Pools by rank.
    pools: Vec<&'a Pool>,
    allocations: Allocations,
    /// Where the search of a pool goes on: below it nothing was free in this pass. `None`: nothing
    /// is free in it.
    cursors: BTreeMap<(&'a str, Family), Option<IpAddr>>,
}

impl<'a> Allocator<'a> {
    /// Starts a pass from what is held now. `groups` names for each sharing key all Services that
    /// have it; those that have it no more do no harm.
    pub fn new(
        config: &'a Config,
        book: &'a AddressBook,
        inputs: &AddressInputs<'a>,
        groups: OrdMap<String, CompactSet<ServiceKey>>,
    ) -> Self {
        let mut pools: Vec<&Pool> = config.pools.iter().collect();
        pools.sort_by_key(|pool| pool.rank());
        Self {
            config,
            book,
            node: inputs.node,
            deferred: inputs.deferred,
            services: &inputs.cluster.services,
            standing: inputs.standing,
            namespaces: &inputs.cluster.namespaces,
            groups,
            indexes: BTreeMap::new(),
            pools,
            allocations: inputs.allocations.clone(),
            cursors: BTreeMap::new(),
        }
    }

    /// What is held now.
    pub fn allocations(&self) -> &Allocations {
        &self.allocations
    }

    /// Ends the pass.
    pub fn finish(self) -> Allocations {
        self.allocations
    }

    /// Takes back what a Service holds; the addresses are free for others in this same pass.
    pub fn release(&mut self, service: &ServiceKey) {
        self.allocations.release(service, self.node);
        self.cursors.clear();
        self.indexes.clear();
    }

    /// The last step: gives the Service what it still lacks. Returns what it could not do.
    pub fn allocate(&mut self, service: &Service) -> Vec<Reason> {
        if service.kind != ServiceType::LoadBalancer {
            return Vec::new();
        }
        let mut reasons = self.complete(service);
        let held = self.allocations.addresses(&service.key).iter();
        reasons.extend(held.filter_map(|address| self.book.conflict(*address)));
        reasons
    }

    /// Gives the Service what it lacks, as far as it is ours and asks for something that can be.
    fn complete(&mut self, service: &Service) -> Vec<Reason> {
        if let Some(reason) = not_ours(self.config, &self.allocations, service) {
            return vec![reason];
        }
        let request = match request(service) {
            Ok(request) => request,
            Err(reason) => return vec![reason],
        };
        let held = self.allocations.addresses(&service.key).to_vec();
        if held.is_empty() && self.deferred.contains(&service.key) {
            return vec![Reason::AwaitingAllocation];
        }
        let mut reasons = request.notes.clone();
        let given = if service.deleting {
            if held.is_empty() {
                return vec![Reason::BeingDeleted];
            }
            held.clone()
        } else if request.addresses.is_empty() {
            self.any(service, &request, &held, &mut reasons)
        } else {
            self.exactly(service, &request, &held, &mut reasons)
        };
        if given != held && !given.is_empty() {
            self.give(service, given.clone());
        }
        if request.addresses.is_empty() {
            reasons.extend(self.not_shared(service));
        }
        for address in given {
            if !in_pools(self.config, address) {
                reasons.push(Reason::PoolGone { address });
            }
        }
        reasons
    }

    /// The addresses that were asked for, or nothing at all.
    fn exactly(
        &self,
        service: &Service,
        request: &Request,
        held: &[IpAddr],
        reasons: &mut Vec<Reason>,
    ) -> Vec<IpAddr> {
        let refusal = |address: IpAddr| {
            if held.contains(&address) {
                self.book.refusal_of_known(address)
            } else {
                self.book.refusal(address)
            }
        };
        // What no other Service can change comes first: the reason is then the same whoever else
        // takes or gives back an address.
        let permanent = request.addresses.iter().find_map(|address| {
            refusal(*address).or_else(|| {
                let served = self.pools.iter().any(|pool| {
                    pool.contains(*address)
                        && self.permits(pool, service)
                        && request.pool.as_ref().is_none_or(|name| *name == pool.name)
                });
                (!served).then_some(Reason::RequestOutsidePools { address: *address })
            })
        });
        let one_family = || {
            let asked = |family: &Family| {
                let mut asked = request.addresses.iter();
                asked.any(|address| Family::of(*address) == *family)
            };
            let lacking = Family::BOTH.into_iter().find(|family| !asked(family))?;
            let required = service.family_policy == Some(FamilyPolicy::RequireDualStack);
            required.then_some(Reason::DualStackUnmet { family: lacking })
        };
        let taken = || {
            let mut asked = request.addresses.iter();
            asked.find_map(|address| {
                if held.contains(address) {
                    self.taken(*address, service)
                } else {
                    self.not_free(*address, service)
                }
            })
        };
        if let Some(refusal) = permanent.or_else(one_family).or_else(taken) {
            reasons.push(refusal);
            return Vec::new();
        }
        request.addresses.clone()
    }

    /// One address per family, all from one pool; what is held stays and says which pool.
    fn any(
        &mut self,
        service: &Service,
        request: &Request,
        held: &[IpAddr],
        reasons: &mut Vec<Reason>,
    ) -> Vec<IpAddr> {
        let families = families::wanted(service, held, &self.pools);
        let missing: Vec<Family> = families
            .iter()
            .copied()
            .filter(|family| !held.iter().any(|held| Family::of(*held) == *family))
            .collect();
        if missing.is_empty() {
            return held.to_vec();
        }
        let pools = match self.candidates(service, request) {
            Ok(pools) => pools,
            Err(reason) => {
                reasons.push(reason);
                return held.to_vec();
            }
        };
        // A Service that holds an address never moves to another pool for its second family.
        let pools: Vec<&Pool> = match held.first() {
            Some(held) => pools
                .into_iter()
                .filter(|pool| pool.contains(*held))
                .collect(),
            None => pools,
        };
        // The most families win, then the one that the Service names first.
        let rank = |found: &[IpAddr]| {
            let preferred = found.first().map(|address| Family::of(*address));
            (found.len(), preferred == missing.first().copied())
        };
        let mut best: Vec<IpAddr> = Vec::new();
        for pool in &pools {
            let found: Vec<IpAddr> = missing
                .iter()
                .filter_map(|family| {
                    self.lowest_shared(pool, *family, service)
                        .or_else(|| self.lowest_free(pool, *family, service))
                })
                .collect();
            let complete = found.len() == missing.len();
            if !found.is_empty() && (best.is_empty() || rank(&found) > rank(&best)) {
                best = found;
            }
            if complete {
                break;
            }
        }
        let lacking = missing
            .iter()
            .find(|family| !best.iter().any(|found| Family::of(*found) == **family));
        let required = service.family_policy == Some(FamilyPolicy::RequireDualStack);
        if let Some(family) = lacking.filter(|_| required && held.is_empty() && !best.is_empty()) {
            // Both or nothing; what is held already stays, because somebody may be using it.
            reasons.push(Reason::DualStackUnmet { family: *family });
            return Vec::new();
        }
        let mut given = held.to_vec();
        given.append(&mut best);
        if given.is_empty() {
            reasons.push(Reason::PoolExhausted {
                pools: pools.iter().map(|pool| pool.name.clone()).collect(),
            });
        } else {
            for family in families {
                if !given.iter().any(|address| Family::of(*address) == family) {
                    reasons.push(Reason::FamilyMissing { family });
                }
            }
        }
        given
    }

    /// The pools that may serve this request, in order.
    fn candidates(&self, service: &Service, request: &Request) -> Result<Vec<&'a Pool>, Reason> {
        if let Some(name) = &request.pool {
            let pool = self
                .pools
                .iter()
                .find(|pool| pool.name == *name)
                .ok_or_else(|| Reason::UnknownPool {
                    pool: shortened(name),
                })?;
            if !self.permits(pool, service) {
                return Err(Reason::PoolNotAllowed { pool: name.clone() });
            }
            return Ok(vec![pool]);
        }
        let pools: Vec<&Pool> = self
            .pools
            .iter()
            .copied()
            .filter(|pool| pool.auto_assign && self.permits(pool, service))
            .collect();
        if pools.is_empty() {
            Err(Reason::NoPool)
        } else {
            Ok(pools)
        }
    }

    /// Whether a pool is for this Service at all: its namespace, named or selected by its labels, and
    /// its own labels, each where it is given. A Namespace that is not known has no labels to match.
    fn permits(&self, pool: &Pool, service: &Service) -> bool {
        let namespace = &service.key.namespace;
        let selected = || {
            let known = self.namespaces.get(namespace.as_str());
            known.is_some_and(|known| any_matches(&pool.namespace_selector, &known.labels))
        };
        let any_namespace = pool.namespaces.is_empty() && pool.namespace_selector.is_empty();
        (any_namespace || pool.namespaces.iter().any(|name| namespace == name) || selected())
            && (pool.service_selector.is_empty()
                || any_matches(&pool.service_selector, &service.labels))
    }

    /// The lowest address of a pool that nobody holds and no other Service's status names.
    fn lowest_free(&mut self, pool: &'a Pool, family: Family, service: &Service) -> Option<IpAddr> {
        let own = service.ingress.iter().map(|ingress| ingress.address);
        let own = own.filter(|address| {
            Family::of(*address) == family
                && pool.contains(*address)
                && self.may_be_given(pool, *address)
                && self.not_free(*address, service).is_none()
        });
        own.min()
            .into_iter()
            .chain(self.lowest_unnamed(pool, family))
            .min()
    }

    /// The lowest address of a pool that nobody holds and no status names. Within a pass addresses are
    /// only taken after the last release, so the search goes on where it stopped.
    fn lowest_unnamed(&mut self, pool: &'a Pool, family: Family) -> Option<IpAddr> {
        let place = (pool.name.as_str(), family);
        let cursor = match self.cursors.get(&place) {
            Some(None) => return None,
            Some(cursor) => *cursor,
            None => None,
        };
        for range in in_order(pool, family) {
            let mut candidate = match cursor {
                Some(cursor) if cursor > range.last() => continue,
                Some(cursor) if cursor > range.first() => cursor,
                _ => range.first(),
            };
            loop {
                if self.may_be_given(pool, candidate)
                    && self.standing.named_by(candidate).next().is_none()
                {
                    self.cursors.insert(place, Some(candidate));
                    return Some(candidate);
                }
                match successor(candidate) {
                    Some(next) if next <= range.last() => candidate = next,
                    _ => break,
                }
            }
        }
        self.cursors.insert(place, None);
        None
    }

    /// Whether nobody holds an address of this pool and nobody must be kept from it.
    fn may_be_given(&self, pool: &Pool, address: IpAddr) -> bool {
        self.allocations.holders_of(address).is_empty()
            && !pool.skips(address)
            && self.book.refusal(address).is_none()
    }
}

/// The ranges of a pool in the order in which their addresses are given out.
pub(in crate::plan) fn in_order(pool: &Pool, family: Family) -> Vec<&AddressRange> {
    let ranges = pool.ranges.iter();
    let mut ranges: Vec<_> = ranges
        .filter(|range| Family::of(range.first()) == family)
        .collect();
    ranges.sort();
    ranges
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}
