//! Which Services' statuses name an address now. An address that moves from one Service to another
//! leaves the first status before the second one names it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::allocation::Allocations;
use crate::model::service::{Service, ServiceKey};

type Services = OrdMap<ServiceKey, Arc<Service>>;

/// By address; never an empty set.
#[derive(Debug, Default)]
pub(super) struct Standing(BTreeMap<IpAddr, BTreeSet<ServiceKey>>);

impl Standing {
    /// Takes in what is new; returns the Services that differ.
    pub(super) fn take_in(&mut self, old: &Services, new: &Services) -> BTreeSet<ServiceKey> {
        let mut differing = BTreeSet::new();
        for difference in old.diff(new) {
            let (before, after) = match difference {
                DiffItem::Add(key, after) => (None, Some((key, after))),
                DiffItem::Update { old, new } => (Some(old), Some(new)),
                DiffItem::Remove(key, before) => (Some((key, before)), None),
            };
            if let Some((key, service)) = before {
                differing.insert(key.clone());
                for ingress in &service.ingress {
                    self.forget(ingress.address, key);
                }
            }
            if let Some((key, service)) = after {
                differing.insert(key.clone());
                for ingress in &service.ingress {
                    let services = self.0.entry(ingress.address).or_default();
                    services.insert(key.clone());
                }
            }
        }
        differing
    }

    fn forget(&mut self, address: IpAddr, key: &ServiceKey) {
        if let Some(services) = self.0.get_mut(&address) {
            services.remove(key);
            if services.is_empty() {
                self.0.remove(&address);
            }
        }
    }

    /// Whether a Service that does not hold the address still names it.
    pub(super) fn stands(&self, address: IpAddr, allocations: &Allocations) -> bool {
        let holders = allocations.holders_of(address);
        let mut named = self.0.get(&address).into_iter().flatten();
        named.any(|service| !holders.contains(service))
    }
}
