//! What a Service goes on holding: the steps of a pass before anybody gets anything new. It gives back
//! what it may no longer hold, and takes over what its status says that it held.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::families::useful;
use super::{Allocator, given_by_us, not_ours, not_ours_holding};
use crate::model::family::Family;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::plan::request::request;

impl Allocator<'_> {
    /// The first step for each Service of a pass: gives back what it may not hold, whoever else may.
    pub fn give_back(&mut self, service: &Service) {
        let key = &service.key;
        if service.kind != ServiceType::LoadBalancer
            || not_ours(self.config, &self.allocations, service).is_some()
        {
            self.release(key);
            return;
        }
        let held = self.allocations.addresses(key).to_vec();
        if held.is_empty() {
            return;
        }
        let mut kept = one_each(service, useful(service, &held));
        kept.retain(|address| self.book.refusal_everywhere(*address).is_none());
        // What goes back here may be what made the Service ours.
        if !self.request_allows(service, &kept)
            || not_ours_holding(self.config, &kept, service).is_some()
        {
            kept.clear();
        }
        if kept.is_empty() {
            self.release(key);
        } else if kept != held {
            self.allocations.set(key, kept, self.node);
            self.cursors.clear();
            self.indexes.clear();
        }
    }

    /// The second step: of Services that hold one address and may not share it, the earlier record
    /// keeps it and the later Service holds nothing. Returns those that lost.
    pub fn part<'k>(
        &mut self,
        services: impl IntoIterator<Item = &'k ServiceKey>,
    ) -> Vec<ServiceKey> {
        let mut concerned: BTreeSet<(u64, ServiceKey)> = BTreeSet::new();
        for service in services {
            for address in self.allocations.addresses(service) {
                let holders = self.allocations.holders_of(*address);
                if holders.len() > 1 {
                    let ranks = holders
                        .iter()
                        .filter_map(|holder| self.allocations.rank(holder));
                    concerned.extend(ranks.map(|(counter, holder)| (counter, holder.clone())));
                }
            }
        }
        let mut lost = Vec::new();
        for (_, key) in concerned {
            let addresses = self.allocations.addresses(&key);
            if addresses.iter().any(|address| !self.keeps(*address, &key)) {
                self.release(&key);
                lost.push(key);
            }
        }
        lost
    }

    /// Whether a holder may share an address with every earlier one.
    fn keeps(&self, address: IpAddr, key: &ServiceKey) -> bool {
        let holders = self.allocations.holders_of(address);
        let mut earlier = holders.iter().take_while(|holder| *holder != key);
        earlier.all(|holder| {
            let pair = self.services.get(key).zip(self.services.get(holder));
            // One that is not known here was known to whoever let them share.
            pair.is_none_or(|(service, holder)| {
                self.sharing_rule(address, service, holder).is_none()
            })
        })
    }

    /// The third step: a Service that holds nothing takes over what its status says that it held.
    pub fn adopt(&mut self, service: &Service) {
        let key = &service.key;
        if service.kind != ServiceType::LoadBalancer
            || !self.allocations.addresses(key).is_empty()
            || not_ours(self.config, &self.allocations, service).is_some()
        {
            return;
        }
        let mut before: Vec<IpAddr> = Vec::new();
        for address in service.ingress.iter().map(|ingress| ingress.address) {
            if given_by_us(self.config, service, address)
                // Held before: another host takes it away no more than it does what is on record.
                && self.book.refusal_of_known(address).is_none()
                && self.taken(address, service).is_none()
                && self.request_allows(service, &[address])
                && !before.contains(&address)
            {
                before.push(address);
            }
        }
        let before = one_each(service, useful(service, &before));
        if !before.is_empty() {
            self.give(service, before);
        }
    }

    /// Whether what a Service holds is still what it asks for.
    fn request_allows(&self, service: &Service, held: &[IpAddr]) -> bool {
        // A request that cannot be read changes nothing about what is held.
        let Ok(request) = request(service) else {
            return true;
        };
        let asked = request.addresses.is_empty()
            || held.iter().all(|held| request.addresses.contains(held));
        let pool = request.pool.is_none_or(|name| {
            self.config
                .pools
                .iter()
                .find(|pool| pool.name == name)
                .is_none_or(|pool| held.iter().all(|held| pool.contains(*held)))
        });
        asked && pool
    }
}

/// Of what a Service holds and did not ask for, one address per family: the one that its status names
/// first, else the first. Another is left over from a move of which a part was recorded, or from two
/// who decided at once.
fn one_each(service: &Service, held: Vec<IpAddr>) -> Vec<IpAddr> {
    let asks = request(service).map_or(true, |request| !request.addresses.is_empty());
    if asks {
        return held;
    }
    let of = |family: Family| move |address: &IpAddr| Family::of(*address) == family;
    let stays = |address: &IpAddr| {
        let family = Family::of(*address);
        let named = service.ingress.iter().map(|ingress| ingress.address);
        let mut named = named.filter(of(family));
        let first = named.find(|named| held.contains(named));
        first.or_else(|| held.iter().copied().find(of(family))) == Some(*address)
    };
    held.iter().copied().filter(stays).collect()
}
