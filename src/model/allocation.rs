//! Who holds which address. An allocation is a record that two nodes can merge: the later edit of a
//! Service wins. Several Services may name one address; whether they may is decided in plan.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
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
/// Records merge one by one and are never rewritten by a merge: who holds an address that several
/// records name is read from all of them, so that the order of merges cannot matter.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Allocation>", into = "Vec<Allocation>")]
pub struct Allocations {
    records: OrdMap<ServiceKey, Allocation>,
    /// Read from `records`; never an empty list.
    holders: OrdMap<IpAddr, Arc<[ServiceKey]>>,
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

    /// The Services that hold an address, the earliest record first: that one stays where they may
    /// not share it. Empty where the address is free.
    pub fn holders_of(&self, address: IpAddr) -> &[ServiceKey] {
        self.holders.get(&address).map_or(&[], AsRef::as_ref)
    }

    /// Where a Service's record stands among all: the lower of two is the earlier one. `None` where
    /// it has none.
    pub fn rank(&self, service: &ServiceKey) -> Option<(u64, &ServiceKey)> {
        let record = self.records.get(service)?;
        Some((record.counter, &record.service))
    }

    /// The number of the latest edit; it only grows.
    pub fn latest_edit(&self) -> u64 {
        self.counter
    }

    /// The Services whose record is another one in `other`, or is in one of the two only. Costs what
    /// differs where one was made from the other.
    pub fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a ServiceKey> {
        self.records
            .diff(&other.records)
            .map(|difference| match difference {
                DiffItem::Add(service, _) | DiffItem::Remove(service, _) => service,
                DiffItem::Update { new, .. } => new.0,
            })
    }

    /// Every record as it was made, returned ones included, by Service.
    pub fn records(&self) -> impl Iterator<Item = &Allocation> {
        self.records.values()
    }

    /// A Service's record, a returned one too.
    pub fn record(&self, service: &ServiceKey) -> Option<&Allocation> {
        self.records.get(service)
    }

    /// The records that are not what they were: each as it was and as it is, by Service. What both
    /// share is passed over, so that an edit of a copy costs as much as the edit.
    pub fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Allocation>, Option<&'a Allocation>)> {
        before.records.diff(&self.records).map(|item| match item {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
            DiffItem::Remove(_, old) => (Some(old), None),
        })
    }

    /// Every address that is held and each of its Services: addresses ascending, then the earliest
    /// record first.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &ServiceKey)> {
        self.holders
            .iter()
            .flat_map(|(address, services)| services.iter().map(|service| (*address, service)))
    }

    /// Every address that is held, once, ascending.
    pub fn held_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.holders.keys().copied()
    }

    /// The number of addresses that are held, a shared one counted once.
    pub fn held(&self) -> usize {
        self.holders.len()
    }

    /// Gives a Service these addresses and takes back the ones that it held before. The caller has
    /// made sure that whoever else holds one of them shares it.
    pub fn set(&mut self, service: &ServiceKey, addresses: Vec<IpAddr>, node: &str) {
        self.counter = self.counter.saturating_add(1);
        self.replace(Allocation {
            service: service.clone(),
            addresses,
            counter: self.counter,
            node: node.to_owned(),
        });
    }

    /// Puts a record, as it is, in the place of the Service's: no edit, and nothing to be merged later.
    /// One without addresses takes the Service's out, and nothing of it stays.
    pub fn put(&mut self, record: Allocation) {
        let (service, empty) = (record.service.clone(), record.addresses.is_empty());
        if !empty && self.records.get(&service) == Some(&record) {
            return;
        }
        self.replace(record);
        if empty {
            self.records.remove(&service);
        }
    }

    fn replace(&mut self, record: Allocation) {
        let (service, addresses) = (record.service.clone(), record.addresses.clone());
        let before = self.records.insert(service.clone(), record);
        for address in before.into_iter().flat_map(|record| record.addresses) {
            let others: Vec<ServiceKey> = self
                .holders_of(address)
                .iter()
                .filter(|holder| **holder != service)
                .cloned()
                .collect();
            self.put_holders(address, others);
        }
        for address in addresses {
            let mut holders = self.holders_of(address).to_vec();
            if !holders.contains(&service) {
                holders.push(service.clone());
                self.put_holders(address, holders);
            }
        }
    }

    /// Takes a Service's addresses back. The record stays, so that a merge cannot bring it back.
    pub fn release(&mut self, service: &ServiceKey, node: &str) {
        if !self.addresses(service).is_empty() {
            self.set(service, Vec::new(), node);
            self.forget_old_returns();
        }
    }

    /// Takes in what another node (or the disk) says. Services that name one address all hold it
    /// afterwards: the next plan decides whether they may, and who keeps it where they may not.
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

    fn put_holders(&mut self, address: IpAddr, mut holders: Vec<ServiceKey>) {
        if holders.is_empty() {
            self.holders.remove(&address);
            return;
        }
        if holders.len() > 1 {
            holders.sort_by_cached_key(|holder| {
                let counter = self.records.get(holder).map(|record| record.counter);
                (counter, holder.clone())
            });
        }
        self.holders.insert(address, holders.into());
    }

    /// Reads the holders from the records: the earliest record first.
    fn read_holders(&mut self) {
        let mut records: Vec<&Allocation> = self.records.values().collect();
        records.sort_by_key(|record| (record.counter, &record.service));
        let mut holders: BTreeMap<IpAddr, Vec<ServiceKey>> = BTreeMap::new();
        for record in records {
            for address in &record.addresses {
                let services = holders.entry(*address).or_default();
                if services.last() != Some(&record.service) {
                    services.push(record.service.clone());
                }
            }
        }
        self.holders = holders
            .into_iter()
            .map(|(address, services)| (address, Arc::from(services)))
            .collect();
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
        let mut named = std::collections::BTreeSet::new();
        for record in allocations.records() {
            for address in allocations.addresses(&record.service) {
                prop_assert!(allocations.holders_of(*address).contains(&record.service));
                named.insert((*address, record.service.clone()));
            }
        }
        let holders: Vec<_> = allocations.holders().collect();
        prop_assert_eq!(
            holders.len(),
            named.len(),
            "every holder's record names the address"
        );
        for pair in holders.windows(2) {
            let rank = |at: usize| {
                pair.get(at)
                    .map(|(address, service)| (*address, allocations.rank(service)))
            };
            prop_assert!(
                rank(0) < rank(1),
                "addresses ascend, the earliest record first"
            );
        }
        prop_assert_eq!(allocations.held_addresses().count(), allocations.held());
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
                if gives {
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

        #[test]
        fn a_record_that_is_put_is_there_as_it_is(
            start in any_allocations(),
            records in prop::collection::vec(any_record(), 0..12),
        ) {
            let mut allocations = start;
            for record in records {
                let before = allocations.clone();
                allocations.put(record.clone());
                assert_sound(&allocations)?;
                prop_assert_eq!(before.latest_edit(), allocations.latest_edit(), "no edit");
                let of = |allocations: &Allocations| {
                    let mut records = allocations.records();
                    records.find(|other| other.service == record.service).cloned()
                };
                let wanted = (!record.addresses.is_empty()).then(|| record.clone());
                prop_assert_eq!(of(&allocations), wanted);
                let changed: Vec<ServiceKey> = before.changed(&allocations).cloned().collect();
                let differs = of(&before) != of(&allocations);
                prop_assert_eq!(changed, if differs { vec![record.service] } else { vec![] });
            }
        }
    }

    #[test]
    fn changes_are_told_as_they_were_and_are() {
        let mut before = Allocations::default();
        before.set(&key("alpha"), vec![ip(1)], "edge-a");
        before.set(&key("beta"), vec![ip(2)], "edge-a");
        let mut after = before.clone();
        assert_eq!(after.changed_since(&before).count(), 0);
        after.release(&key("alpha"), "edge-a");
        after.set(&key("gamma"), vec![ip(1)], "edge-a");
        let changes: Vec<_> = after.changed_since(&before).collect();
        let (alpha, gamma) = (key("alpha"), key("gamma"));
        assert_eq!(
            changes,
            [
                (before.record(&alpha), after.record(&alpha)),
                (None, after.record(&gamma)),
            ]
        );
        let undone: Vec<_> = before.changed_since(&after).collect();
        assert_eq!(undone.last(), Some(&(after.record(&gamma), None)));
    }

    #[test]
    fn of_two_with_one_address_the_earlier_comes_first_until_it_gives_it_back() {
        let mut allocations = Allocations::default();
        allocations.set(&key("late"), Vec::new(), "edge-a");
        allocations.set(&key("late"), vec![ip(1), ip(2)], "edge-a");
        let mut others = Allocations::default();
        others.set(&key("early"), vec![ip(1)], "edge-b");
        let both = merged(&allocations, &others);
        assert_eq!(both.holders_of(ip(1)), [key("early"), key("late")]);
        assert_eq!(both.holders_of(ip(2)), [key("late")]);
        assert_eq!(both.held(), 2, "a shared address counts once");
        // The earlier one had given it back long ago: whoever hears of it last must not lose it.
        let mut returned = both.clone();
        returned.release(&key("early"), "edge-b");
        assert_eq!(
            merged(&allocations, &returned).holders_of(ip(1)),
            [key("late")]
        );
        assert_eq!(merged(&allocations, &returned), merged(&returned, &both));
    }
}
