//! Who holds which address. An allocation is a record that two nodes can merge: the later edit of a
//! Service wins, and of two Services with one address the earlier allocation keeps it.

use std::net::IpAddr;

use imbl::{OrdMap, OrdSet};
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
///
/// Records merge one by one and are never rewritten by a merge: who holds an address that two
/// records name is read from all of them, so that the order of merges cannot matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Allocation>", into = "Vec<Allocation>")]
pub struct Allocations {
    records: OrdMap<ServiceKey, Allocation>,
    /// Read from `records`.
    holders: OrdMap<IpAddr, ServiceKey>,
    /// Services that another one was before at one of their addresses; read from `records`.
    losers: OrdSet<ServiceKey>,
    counter: u64,
}

/// Returned records beyond this number are forgotten, the oldest first.
const RETURNED_KEPT: usize = 1024;

impl Allocations {
    /// The addresses that a Service holds; empty where it holds none.
    pub fn addresses(&self, service: &ServiceKey) -> &[IpAddr] {
        if self.losers.contains(service) {
            return &[];
        }
        self.records
            .get(service)
            .map_or(&[], |record| record.addresses.as_slice())
    }

    /// Who holds an address.
    pub fn holder(&self, address: IpAddr) -> Option<&ServiceKey> {
        self.holders.get(&address)
    }

    /// Every record as it was made, returned ones and those that lost an address included, by
    /// Service. What is held now is told by [`Self::holders`].
    pub fn records(&self) -> impl Iterator<Item = &Allocation> {
        self.records.values()
    }

    /// Every address that is held, ascending, and its Service.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &ServiceKey)> {
        self.holders
            .iter()
            .map(|(address, service)| (*address, service))
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
        let before = self.records.insert(service.clone(), record);
        if !self.losers.is_empty() {
            self.read_holders();
            return;
        }
        for address in before.iter().flat_map(|record| &record.addresses) {
            self.holders.remove(address);
        }
        let now = self.records.get(service);
        for address in now.iter().flat_map(|record| &record.addresses) {
            self.holders.insert(*address, service.clone());
        }
    }

    /// Takes a Service's addresses back. The record stays, so that a merge cannot bring it back.
    pub fn release(&mut self, service: &ServiceKey, node: &str) {
        if !self.addresses(service).is_empty() || self.has_lost(service) {
            self.set(service, Vec::new(), node);
            self.forget_old_returns();
        }
    }

    /// Whether the Service's record names an address that another one holds: it holds none then,
    /// until it is given others.
    pub fn has_lost(&self, service: &ServiceKey) -> bool {
        self.losers.contains(service)
    }

    /// Takes in what another node (or the disk) says. Of two Services with one address, the record
    /// with the lower counter keeps it, then the lower Service; the other holds nothing.
    pub fn merge(&mut self, others: impl IntoIterator<Item = Allocation>) {
        for other in others {
            let merged = match self.records.remove(&other.service) {
                Some(ours) => ours.merge(other),
                None => other,
            };
            self.counter = self.counter.max(merged.counter);
            self.records.insert(merged.service.clone(), merged);
        }
        self.read_holders();
    }

    /// Reads holders and losers from the records: the earliest record first.
    fn read_holders(&mut self) {
        let mut records: Vec<&Allocation> = self.records.values().collect();
        records.sort_by_key(|record| (record.counter, &record.service));
        let (mut holders, mut losers) = (OrdMap::new(), OrdSet::new());
        for record in records {
            if record
                .addresses
                .iter()
                .any(|address| holders.contains_key(address))
            {
                losers.insert(record.service.clone());
            } else {
                holders.extend(
                    record
                        .addresses
                        .iter()
                        .map(|address| (*address, record.service.clone())),
                );
            }
        }
        self.holders = holders;
        self.losers = losers;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey::new("shop", name)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn any_record() -> impl Strategy<Value = Allocation> {
        (
            prop::sample::select(vec!["alpha", "beta", "gamma", "delta"]),
            prop::collection::vec(0_u8..4, 0..3),
            0_u64..6,
            prop::sample::select(vec!["edge-a", "edge-b"]),
        )
            .prop_map(|(service, addresses, counter, node)| Allocation {
                service: key(service),
                addresses: addresses.into_iter().map(ip).collect(),
                counter,
                node: node.to_owned(),
            })
    }

    fn any_allocations() -> impl Strategy<Value = Allocations> {
        prop::collection::vec(any_record(), 0..8).prop_map(Allocations::from)
    }

    fn merged(a: &Allocations, b: &Allocations) -> Allocations {
        let mut merged = a.clone();
        merged.merge(b.records().cloned());
        merged
    }

    fn assert_sound(allocations: &Allocations) -> Result<(), TestCaseError> {
        let mut held = 0;
        for record in allocations.records() {
            for address in allocations.addresses(&record.service) {
                prop_assert_eq!(allocations.holder(*address), Some(&record.service));
            }
            let addresses: std::collections::BTreeSet<_> =
                allocations.addresses(&record.service).iter().collect();
            held += addresses.len();
        }
        prop_assert_eq!(held, allocations.held(), "every held address is somebody's");
        Ok(())
    }

    proptest! {
        #[test]
        fn merging_knows_no_order(a in any_allocations(), b in any_allocations(), c in any_allocations()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a), "commutative");
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)), "associative");
            prop_assert_eq!(&merged(&a, &a), &a, "idempotent");
            prop_assert_eq!(merged(&merged(&a, &b), &b), merged(&a, &b), "idempotent");
            assert_sound(&merged(&a, &b))?;
        }

        #[test]
        fn edits_keep_holders_right_and_survive_json(
            start in any_allocations(),
            edits in prop::collection::vec((any_record(), any::<bool>()), 0..12),
        ) {
            let mut allocations = start;
            for (record, gives) in edits {
                let counter = allocations.counter;
                let free = |address: &IpAddr| {
                    allocations.holder(*address).is_none_or(|holder| *holder == record.service)
                };
                if gives && record.addresses.iter().all(free) {
                    allocations.set(&record.service, record.addresses, &record.node);
                } else {
                    allocations.release(&record.service, &record.node);
                    prop_assert!(allocations.addresses(&record.service).is_empty());
                }
                prop_assert!(allocations.counter >= counter, "counters never go back");
                assert_sound(&allocations)?;
                let text = serde_json::to_string(&allocations).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Allocations>(&text).unwrap(), &allocations);
            }
        }
    }

    #[test]
    fn of_two_with_one_address_the_earlier_keeps_it_until_it_gives_it_back() {
        let mut allocations = Allocations::default();
        allocations.set(&key("late"), Vec::new(), "edge-a");
        allocations.set(&key("late"), vec![ip(1), ip(2)], "edge-a");
        let mut others = Allocations::default();
        others.set(&key("early"), vec![ip(1)], "edge-b");
        let both = merged(&allocations, &others);
        assert_eq!(both.holder(ip(1)), Some(&key("early")));
        assert_eq!(both.holder(ip(2)), None, "the other holds nothing at all");
        assert!(both.has_lost(&key("late")) && both.addresses(&key("late")).is_empty());
        // The earlier one had given it back long ago: whoever hears of it last must not lose it.
        let mut returned = both.clone();
        returned.release(&key("early"), "edge-b");
        assert_eq!(
            merged(&allocations, &returned).addresses(&key("late")),
            [ip(1), ip(2)]
        );
        assert_eq!(merged(&allocations, &returned), merged(&returned, &both));
    }
}
