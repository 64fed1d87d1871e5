//! Who holds which address where somebody else gives them out: a Service holds what its status names.
//! A function of the cluster and the configuration alone, so that all nodes agree; gives nothing out.
//! What this node has heard of other hosts on the LAN is only told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::{AddressPlan, Managed, by_age};
use crate::config::Config;
use crate::model::allocation::Allocation;
use crate::model::cluster::ClusterState;
use crate::model::compact_set::CompactSet;
use crate::model::foreign::ForeignHosts;
use crate::model::service::{IpMode, Service, ServiceKey, ServiceType};
use crate::plan::Scope;
use crate::plan::address::AddressBook;
use crate::plan::ipam::{given_by_us, in_pools, not_ours_holding};
use crate::plan::reason::{Reason, cut, shortened};
use crate::plan::sharing::{refusal, told};
use crate::plan::status::LONGEST_MESSAGE;

/// Reads the statuses of the Services of the scope, and settles each address that one of them names
/// among all that name it.
pub(in crate::plan) fn read(
    config: &Config,
    cluster: &ClusterState,
    foreign: &ForeignHosts,
    book: &AddressBook,
    previous: &AddressPlan,
    scope: &Scope,
) -> Managed {
    let (mut plan, mut dirty) = previous.start(cluster, scope);
    let told = previous.concerned(foreign);
    plan.foreign = foreign.clone();
    let mut reading = Reading {
        config,
        book,
        services: &cluster.services,
        plan,
    };
    // A Service that is the same as before, with other endpoints, holds what it held.
    let edited: BTreeSet<ServiceKey> = dirty
        .iter()
        .filter(|key| reading.is_edited(key))
        .cloned()
        .collect();
    let concerned = reading.settle(&edited, &mut dirty);
    for key in edited.iter().chain(&concerned).chain(&told) {
        let reasons = cluster
            .services
            .get(key)
            .map_or_else(Vec::new, |service| reading.reasons(service));
        if reading.plan.pending.get(key).map_or(&[][..], Vec::as_slice) != reasons {
            reading.plan.settle(key, reasons);
            dirty.insert(key.clone());
        }
    }
    for key in &dirty {
        reading.plan.contribute(key, cluster.services.get(key));
    }
    Managed {
        plan: reading.plan,
        dirty,
    }
}

/// One pass over statuses.
struct Reading<'a> {
    config: &'a Config,
    book: &'a AddressBook,
    services: &'a OrdMap<ServiceKey, Arc<Service>>,
    plan: AddressPlan,
}

impl Reading<'_> {
    /// Whether the Service differs from the one that was read last.
    fn is_edited(&self, key: &ServiceKey) -> bool {
        let before = self.plan.contributions.get(key);
        let before = before.map(|contribution| &contribution.service);
        before.is_none() || before != self.services.get(key)
    }

    /// Settles every address that an edited Service holds or may hold, and returns the Services that
    /// may hold one of them. Those that hold others than before, and those that name an address whose
    /// holders changed, become dirty.
    fn settle(
        &mut self,
        edited: &BTreeSet<ServiceKey>,
        dirty: &mut BTreeSet<ServiceKey>,
    ) -> BTreeSet<ServiceKey> {
        // Whoever may hold an address, of those that do it now, ask for it, or are edited.
        let mut named: BTreeMap<IpAddr, BTreeSet<ServiceKey>> = BTreeMap::new();
        for key in edited {
            for address in self.plan.allocations.addresses(key) {
                named.entry(*address).or_default();
            }
            for address in self.may_hold(key) {
                named.entry(address).or_default().insert(key.clone());
            }
        }
        let mut concerned: BTreeSet<ServiceKey> = BTreeSet::new();
        let mut changes: BTreeMap<IpAddr, Vec<ServiceKey>> = BTreeMap::new();
        for (address, mut services) in named {
            let before = self.plan.allocations.holders_of(address);
            let asking = self
                .plan
                .asks
                .get(&address)
                .into_iter()
                .flat_map(CompactSet::iter);
            let others = before.iter().chain(asking);
            services.extend(
                others
                    .filter(|key| self.may_hold(key).contains(&address))
                    .cloned(),
            );
            changes.insert(address, self.holders(address, &services));
            concerned.extend(services);
        }
        let held: Vec<Allocation> = edited
            .iter()
            .chain(concerned.difference(edited))
            .map(|key| self.record(key, &changes))
            .collect();
        let before = self.plan.allocations.clone();
        for record in held {
            if self.plan.allocations.addresses(&record.service) != record.addresses {
                dirty.insert(record.service.clone());
            }
            self.plan.allocations.put(record);
        }
        for address in changes.keys() {
            if before.holders_of(*address) != self.plan.allocations.holders_of(*address) {
                let asking = self
                    .plan
                    .asks
                    .get(address)
                    .into_iter()
                    .flat_map(CompactSet::iter);
                dirty.extend(asking.cloned());
            }
        }
        concerned
    }

    /// The addresses of a status that the Service holds unless another one keeps them, in their order.
    fn may_hold(&self, key: &ServiceKey) -> Vec<IpAddr> {
        let Some(service) = self.services.get(key) else {
            return Vec::new();
        };
        let mut addresses = Vec::new();
        if self.is_ours(service).is_ok() {
            for ingress in &service.ingress {
                let address = ingress.address;
                // SP-11: what arrives already rewritten is not ours.
                if ingress.mode == IpMode::Vip
                    && given_by_us(self.config, service, address)
                    && self.book.refusal_everywhere(address).is_none()
                    && !addresses.contains(&address)
                {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Whether a Service is one for a VIP of ours; the reason where there is one.
    fn is_ours(&self, service: &Service) -> Result<(), Option<Reason>> {
        if service.kind != ServiceType::LoadBalancer {
            return Err(None);
        }
        // Records of the past count for nothing here.
        not_ours_holding(self.config, &[], service).map_or(Ok(()), |reason| Err(Some(reason)))
    }

    /// Of the Services that name an address, those that hold it: the oldest, and each that may share
    /// it with all the older ones that do.
    fn holders(&self, address: IpAddr, services: &BTreeSet<ServiceKey>) -> Vec<ServiceKey> {
        let mut holders: Vec<&Service> = Vec::new();
        for service in by_age(self.services, services) {
            let mut older = holders.iter();
            if older.all(|holder| refusal(self.config, address, service, holder).is_none()) {
                holders.push(service);
            }
        }
        holders
            .into_iter()
            .map(|holder| holder.key.clone())
            .collect()
    }

    /// What a Service holds after these changes of holders. Its place among the holders of an address
    /// is its age, which stands where other records count edits; no node made it.
    fn record(&self, key: &ServiceKey, changes: &BTreeMap<IpAddr, Vec<ServiceKey>>) -> Allocation {
        let mut addresses = self.may_hold(key);
        addresses.retain(|address| match changes.get(address) {
            Some(holders) => holders.contains(key),
            None => self.plan.allocations.holders_of(*address).contains(key),
        });
        let created = self
            .services
            .get(key)
            .map_or(0, |service| service.by_age().0);
        Allocation {
            service: key.clone(),
            addresses,
            // From the lowest number to 0, and so on: the order stays.
            counter: created.cast_unsigned() ^ (1 << 63),
            node: String::new(),
        }
    }

    /// Why a Service does not hold what its status names, or has nothing there to hold.
    fn reasons(&self, service: &Service) -> Vec<Reason> {
        if let Err(reason) = self.is_ours(service) {
            return reason.into_iter().collect();
        }
        let held = self.plan.allocations.addresses(&service.key);
        let mut reasons: Vec<Reason> = Vec::new();
        for ingress in &service.ingress {
            let address = ingress.address;
            let reason = if held.contains(&address) {
                (!in_pools(self.config, address)).then_some(Reason::PoolGone { address })
            } else if ingress.mode == IpMode::Vip && given_by_us(self.config, service, address) {
                self.book
                    .refusal_everywhere(address)
                    .or_else(|| self.kept_by_another(address, service))
            } else {
                None
            };
            reasons.extend(reason.filter(|reason| !reasons.contains(reason)));
        }
        reasons.extend(
            held.iter()
                .filter_map(|address| self.book.conflict(*address)),
        );
        if held.is_empty() {
            match &service.condition {
                Some(condition) if !condition.allocated => reasons.push(Reason::NotAllocated {
                    cause: shortened(&condition.reason),
                    message: cut(&condition.message, LONGEST_MESSAGE).to_owned(),
                }),
                _ if reasons.is_empty() => reasons.push(Reason::AwaitingAllocation),
                _ => {}
            }
        }
        reasons
    }

    /// The oldest holder with which the Service may not share the address.
    fn kept_by_another(&self, address: IpAddr, service: &Service) -> Option<Reason> {
        let mut holders = self.plan.allocations.holders_of(address).iter();
        holders.find_map(|key| {
            let holder = self.services.get(key)?;
            let rule = refusal(self.config, address, service, holder)?;
            Some(told(address, service, key, rule))
        })
    }
}
