//! Who holds which address. An allocation is a record that two nodes can merge: the later edit of a
//! Service wins, and of two Services with one address the earlier allocation keeps it.

use std::net::IpAddr;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::service::ServiceKey;

/// The addresses of one Service. Without addresses it says that the Service gave them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocation {
    /// Whose.
    pub service: ServiceKey,
    /// One address per family, in the order of preference.
    pub addresses: Vec<IpAddr>,
    /// Counts the edits of all allocations: greater is later.
    pub counter: u64,
    /// The node that made this edit; settles equal counters.
    pub node: String,
}

impl Allocation {
    /// The later of two records of one Service: greater counter, then lower node name, then lower
    /// addresses. Commutative, associative and idempotent, so nodes may merge in any order.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let rank = |record: &Self| {
            (
                std::cmp::Reverse(record.counter),
                record.node.clone(),
                record.addresses.clone(),
            )
        };
        if rank(&other) < rank(&self) {
            other
        } else {
            self
        }
    }
}

/// All records, by Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Allocation>", into = "Vec<Allocation>")]
pub struct Allocations {
    records: OrdMap<ServiceKey, Allocation>,
    holders: OrdMap<IpAddr, ServiceKey>,
    counter: u64,
}

/// Returned records beyond this number are forgotten, the oldest first.
const RETURNED_KEPT: usize = 1024;

impl Allocations {
    /// The addresses that a Service holds; empty where it holds none.
    pub fn addresses(&self, service: &ServiceKey) -> &[IpAddr] {
        self.records
            .get(service)
            .map_or(&[], |record| record.addresses.as_slice())
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.holders.get(&address)
    }

    /// Every record, returned ones included, by Service.
    pub fn records(&self) -> impl Iterator<Item = &Allocation> {
        self.records.values()
    }

    /// The number of addresses that are held.
    pub fn held(&self) -> usize {
        self.holders.len()
    }

    /// Gives a Service these addresses and returns the ones that it held before. The caller has
    /// made sure that nobody else holds them.
    pub fn set(&mut self, service: &ServiceKey, addresses: Vec<IpAddr>, node: &str) {
        self.counter = self.counter.saturating_add(1);
        let record = Allocation {
            service: service.clone(),
            addresses,
            counter: self.counter,
            node: node.to_owned(),
        };
        self.put(record);
    }

    /// Takes a Service's addresses back. The record stays, so that a merge cannot bring it back.
    pub fn release(&mut self, service: &ServiceKey, node: &str) {
        if !self.addresses(service).is_empty() {
            self.set(service, Vec::new(), node);
            self.forget_old_returns();
        }
    }

    /// Takes in what another node (or the disk) says. Of two Services with one address, the record
    /// with the lower counter keeps it, then the lower Service; the other returns all of its own.
    pub fn merge(&mut self, others: impl IntoIterator<Item = Allocation>) {
        let mut records = std::mem::take(&mut self.records);
        for other in others {
            let merged = match records.remove(&other.service) {
                Some(ours) => ours.merge(other),
                None => other,
            };
            records.insert(merged.service.clone(), merged);
        }
        let mut ordered: Vec<Allocation> = records.into_iter().map(|(_, record)| record).collect();
        ordered.sort_by(|a, b| (a.counter, &a.service).cmp(&(b.counter, &b.service)));
        self.holders = OrdMap::new();
        for mut record in ordered {
            if record
                .addresses
                .iter()
                .any(|address| self.holders.contains_key(address))
            {
                record.addresses.clear();
            }
            self.counter = self.counter.max(record.counter);
            self.put(record);
        }
    }

    fn put(&mut self, record: Allocation) {
        if let Some(old) = self.records.get(&record.service) {
            for address in &old.addresses {
                self.holders.remove(address);
            }
        }
        for address in &record.addresses {
            self.holders.insert(*address, record.service.clone());
        }
        self.records.insert(record.service.clone(), record);
    }

    fn forget_old_returns(&mut self) {
        let mut returned: Vec<(u64, ServiceKey)> = self
            .records
            .values()
            .filter(|record| record.addresses.is_empty())
            .map(|record| (record.counter, record.service.clone()))
            .collect();
        if returned.len() > RETURNED_KEPT {
            returned.sort();
            returned.truncate(returned.len() - RETURNED_KEPT);
            for (_, service) in returned {
                self.records.remove(&service);
            }
        }
    }
}

impl From<Vec<Allocation>> for Allocations {
    fn from(records: Vec<Allocation>) -> Self {
        let mut allocations = Self::default();
        allocations.merge(records);
        allocations
    }
}

impl From<Allocations> for Vec<Allocation> {
    fn from(allocations: Allocations) -> Self {
        allocations
            .records
            .into_iter()
            .map(|(_, record)| record)
            .collect()
    }
}
