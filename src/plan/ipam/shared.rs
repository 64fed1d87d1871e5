//! Addresses that several Services hold: which one a Service may join, and why it may not join one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Allocator;
use crate::model::compact_set::CompactSet;
use crate::model::family::{Family, Protocol};
use crate::model::pool::Pool;
use crate::model::service::Service;
use crate::plan::reason::Reason;
use crate::plan::sharing::{SharingRule, refusal, sharing_key, told};

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
            Some(told(address, service, holder, rule))
        })
    }

    /// Why the Service may not be given an address that it does not hold: others hold it, or their
    /// statuses still name it. `None` where it may.
    pub(super) fn not_free(&self, address: IpAddr, service: &Service) -> Option<Reason> {
        self.taken(address, service).or_else(|| {
            let mut named = self.standing.strangers(address, &self.allocations);
            let holder = named.find(|named| **named != service.key)?;
            let rule = self
                .services
                .get(holder)
                .and_then(|other| self.sharing_rule(address, service, other));
            Some(match rule {
                Some(rule) => told(address, service, holder, rule),
                // Once it holds what it names they may share it.
                None => Reason::RequestTaken {
                    address,
                    holder: holder.clone(),
                },
            })
        })
    }

    /// Gives a Service these addresses, of which those that others hold may be shared with it.
    pub(super) fn give(&mut self, service: &Service, addresses: Vec<IpAddr>) {
        if let Some(index) = sharing_key(service).and_then(|key| self.indexes.get_mut(key)) {
            index.add(service, &addresses);
        }
        self.allocations.set(&service.key, addresses, self.node);
    }

    /// What the Services with this Service's sharing key hold; `None` for one without a key.
    fn index(&mut self, service: &Service) -> Option<&Index> {
        let key = sharing_key(service)?;
        if !self.indexes.contains_key(key) {
            let mut index = Index::default();
            for member in self.groups.get(key).into_iter().flat_map(CompactSet::iter) {
                if let Some(current) = self.services.get(member)
                    && sharing_key(current) == Some(key)
                {
                    index.add(current, self.allocations.addresses(member));
                }
            }
            self.indexes.insert(key.to_owned(), index);
        }
        self.indexes.get(key)
    }

    /// The lowest address of a pool that the Service may share with those of the same sharing key.
    pub(super) fn lowest_shared(
        &mut self,
        pool: &Pool,
        family: Family,
        service: &Service,
    ) -> Option<IpAddr> {
        let candidates = self.index(service)?.without_ports_of(service);
        candidates.into_iter().find(|address| {
            Family::of(*address) == family
                && pool.contains(*address)
                && self.book.refusal(*address).is_none()
                && self.not_free(*address, service).is_none()
        })
    }

    /// Why a Service with a sharing key shares with no earlier Service of that key: the lowest address
    /// that it may not share. Nothing where it does share, or is the first one.
    pub(super) fn not_shared(&mut self, service: &Service) -> Option<Reason> {
        self.index(service)?;
        let index = sharing_key(service).and_then(|key| self.indexes.get(key))?;
        let own = self.allocations.rank(&service.key);
        let held = self.allocations.addresses(&service.key);
        let earlier = |address: &IpAddr| {
            let first = self.allocations.holders_of(*address).first();
            first.is_some_and(|holder| held.is_empty() || self.allocations.rank(holder) < own)
        };
        if held.iter().any(earlier) {
            return None;
        }
        let mut addresses = index.addresses.iter().filter(|address| earlier(address));
        addresses.find_map(|address| self.taken(*address, service))
    }
}

/// The addresses that the Services of one sharing key hold, and their ports: with many Services of
/// one key, almost all addresses are out of the question because of a port.
#[derive(Debug, Default)]
pub(super) struct Index {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeMap<(Protocol, u16), BTreeSet<IpAddr>>,
}

impl Index {
    fn add(&mut self, service: &Service, addresses: &[IpAddr]) {
        if addresses.is_empty() {
            return;
        }
        self.addresses.extend(addresses);
        for port in &service.ports {
            let users = self.ports.entry((port.protocol, port.port)).or_default();
            users.extend(addresses);
        }
    }

    /// The addresses at which nobody has a port of this Service, ascending.
    fn without_ports_of(&self, service: &Service) -> Vec<IpAddr> {
        let users: Vec<&BTreeSet<IpAddr>> = service
            .ports
            .iter()
            .filter_map(|port| self.ports.get(&(port.protocol, port.port)))
            .collect();
        if users
            .iter()
            .any(|users| users.len() == self.addresses.len())
        {
            return Vec::new();
        }
        let free = |address: &&IpAddr| !users.iter().any(|users| users.contains(*address));
        self.addresses.iter().filter(free).copied().collect()
    }
}
