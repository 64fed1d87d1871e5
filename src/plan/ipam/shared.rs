//! Addresses that several Services hold: which one a Service may join, and why it may not join one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Allocator;
use crate::model::family::Family;
use crate::model::pool::Pool;
use crate::model::service::{Service, ServiceKey};
use crate::plan::reason::Reason;
use crate::plan::sharing::{SharingRule, refusal, sharing_key};

impl Allocator<'_> {
    /// The rule that keeps these two from both holding the address, if one does.
    pub(super) fn sharing_rule(
        &self,
        address: IpAddr,
        one: &Service,
        other: &Service,
    ) -> Option<SharingRule> {
        refusal(self.config, address, one, other)
    }

    /// Why the Service may not hold an address that others hold; the earliest holder that refuses is
    /// named. `None` where nobody does.
    pub(super) fn taken(&self, address: IpAddr, service: &Service) -> Option<Reason> {
        let mut others = self.allocations.holders_of(address).iter();
        others.find_map(|holder| {
            if *holder == service.key {
                return None;
            }
            let rule = match self.services.get(holder) {
                Some(other) => self.sharing_rule(address, service, other)?,
                None => SharingRule::Key,
            };
            let holder = holder.clone();
            Some(if sharing_key(service).is_some() {
                Reason::SharingRefused {
                    address,
                    holder,
                    rule,
                }
            } else {
                Reason::RequestTaken { address, holder }
            })
        })
    }

    /// The addresses of the Services with the same sharing key, each with its earliest such holder.
    fn group(&self, service: &Service) -> BTreeMap<IpAddr, &ServiceKey> {
        let key = sharing_key(service);
        let members = key.and_then(|key| self.groups.get(key));
        let mut addresses = BTreeMap::new();
        for member in members.into_iter().flatten() {
            let current = self.services.get(member);
            if *member == service.key || current.and_then(|member| sharing_key(member)) != key {
                continue;
            }
            for address in self.allocations.addresses(member) {
                let known = addresses.entry(*address).or_insert(member);
                if self.allocations.rank(member) < self.allocations.rank(known) {
                    *known = member;
                }
            }
        }
        addresses
    }

    /// The lowest address of a pool that the Service may share with those of the same sharing key.
    pub(super) fn lowest_shared(
        &self,
        pool: &Pool,
        family: Family,
        service: &Service,
    ) -> Option<IpAddr> {
        self.group(service).into_keys().find(|address| {
            Family::of(*address) == family
                && pool.contains(*address)
                && self.book.refusal(*address).is_none()
                && self.taken(*address, service).is_none()
        })
    }

    /// Why a Service with a sharing key shares with no earlier Service of that key: the lowest address
    /// that it may not share. Nothing where it does share, or is the first one.
    pub(super) fn not_shared(&self, service: &Service) -> Option<Reason> {
        let own = self.allocations.rank(&service.key);
        let held = self.allocations.addresses(&service.key);
        let mut group = self.group(service);
        group.retain(|_, holder| held.is_empty() || self.allocations.rank(holder) < own);
        if group.keys().any(|address| held.contains(address)) {
            return None;
        }
        group
            .into_keys()
            .find_map(|address| self.taken(address, service))
    }
}
