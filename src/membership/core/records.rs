//! The records of allocations that any node told, with digests by bucket, so that two nodes find what
//! the one has and the other has not. Merges only; who may hold what is decided in plan.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::membership::datagram::BODY_BUDGET;
use crate::model::allocation::{Allocation, Allocations};
use crate::model::service::ServiceKey;

/// The digests of all buckets fit into one datagram.
pub const BUCKETS: usize = 64;
/// Datagrams with records that answer one comparison; the next one brings the rest.
const ANSWER: usize = 128;
/// Returned records that are kept, as in [`Allocations`]; so many more before they are looked at.
const RETURNED_KEPT: usize = 1024;
const RETURNED_SLACK: usize = 128;
/// Records come in bulk: they are shown at most that often.
const SHOWN_EVERY: Duration = Duration::from_millis(50);
/// No record of a Kubernetes Service is as long; such a one would not fit into a datagram.
const LONGEST_RECORD: usize = BODY_BUDGET;

#[derive(Debug, Clone, Default)]
struct Bucket {
    records: BTreeMap<ServiceKey, Allocation>,
    /// The sum of the hashes of its records: knows no order.
    digest: u64,
}

/// The records.
#[derive(Debug)]
pub struct Records {
    buckets: Vec<Bucket>,
    /// The sum of the digests of all buckets.
    digest: u64,
    returned: usize,
    /// What others told that was news here.
    heard: Allocations,
    pending: Vec<Allocation>,
    shown: Option<Duration>,
}

impl Records {
    pub fn new() -> Self {
        Self {
            buckets: vec![Bucket::default(); BUCKETS],
            digest: 0,
            returned: 0,
            heard: Allocations::default(),
            pending: Vec::new(),
            shown: None,
        }
    }

    /// Of all records; 0 without any.
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    pub fn digests(&self) -> Vec<u64> {
        self.buckets.iter().map(|bucket| bucket.digest).collect()
    }

    /// Takes in a record of this node; whether it is news.
    pub fn own(&mut self, record: &Allocation) -> bool {
        self.merge(record.clone())
    }

    /// Takes in a record of another node; whether it is news.
    pub fn hear(&mut self, record: Allocation) -> bool {
        let news = self.merge(record.clone());
        if news {
            self.pending.push(record);
        }
        news
    }

    /// When what was heard can be shown.
    pub fn deadline(&self) -> Option<Duration> {
        let due = self
            .shown
            .map_or(Duration::ZERO, |shown| shown + SHOWN_EVERY);
        (!self.pending.is_empty()).then_some(due)
    }

    /// What others told, if there is news and time for it.
    pub fn news(&mut self, now: Duration) -> Option<&Allocations> {
        if self.deadline().is_none_or(|due| due > now) {
            return None;
        }
        self.shown = Some(now);
        self.heard.merge(std::mem::take(&mut self.pending));
        Some(&self.heard)
    }

    /// Records of the buckets that differ, in lists that fit into a datagram each.
    pub fn differing(&self, digests: &[u64]) -> Vec<Vec<Allocation>> {
        let buckets = self.buckets.iter().zip(digests);
        let differing = buckets.filter(|(bucket, digest)| bucket.digest != **digest);
        let mut lists = lists(differing.flat_map(|(bucket, _)| bucket.records.values()));
        lists.truncate(ANSWER);
        lists
    }

    fn merge(&mut self, record: Allocation) -> bool {
        if octets_of(&record) > LONGEST_RECORD {
            return false;
        }
        let at = usize::try_from(hash(record.service.to_string().as_bytes()) % BUCKETS as u64);
        let Some(bucket) = self.buckets.get_mut(at.unwrap_or_default()) else {
            return false;
        };
        let key = record.service.clone();
        let merged = match bucket.records.get(&key) {
            Some(before) => {
                let merged = before.clone().merge(record);
                if merged == *before {
                    return false;
                }
                let hash = hash_of(before);
                bucket.digest = bucket.digest.wrapping_sub(hash);
                self.digest = self.digest.wrapping_sub(hash);
                self.returned -= usize::from(before.addresses.is_empty());
                merged
            }
            None => record,
        };
        let hash = hash_of(&merged);
        bucket.digest = bucket.digest.wrapping_add(hash);
        self.digest = self.digest.wrapping_add(hash);
        self.returned += usize::from(merged.addresses.is_empty());
        bucket.records.insert(key, merged);
        if self.returned > RETURNED_KEPT + RETURNED_SLACK {
            self.forget_old_returns();
        }
        true
    }

    /// The same ones on every node that has the same records.
    fn forget_old_returns(&mut self) {
        let mut returned: Vec<(u64, ServiceKey)> = self
            .buckets
            .iter()
            .flat_map(|bucket| bucket.records.values())
            .filter(|record| record.addresses.is_empty())
            .map(|record| (record.counter, record.service.clone()))
            .collect();
        returned.sort();
        returned.truncate(returned.len().saturating_sub(RETURNED_KEPT));
        for (_, service) in returned {
            for bucket in &mut self.buckets {
                if let Some(record) = bucket.records.remove(&service) {
                    let hash = hash_of(&record);
                    bucket.digest = bucket.digest.wrapping_sub(hash);
                    self.digest = self.digest.wrapping_sub(hash);
                    self.returned -= 1;
                }
            }
        }
    }
}

/// Cuts records into lists that fit into a datagram each.
pub fn lists<'a>(records: impl IntoIterator<Item = &'a Allocation>) -> Vec<Vec<Allocation>> {
    let mut lists: Vec<Vec<Allocation>> = Vec::new();
    let mut left = 0;
    for record in records {
        let octets = octets_of(record);
        if octets > LONGEST_RECORD {
            tracing::warn!(service = %record.service, octets, "the allocation is too long to be told to other nodes");
            continue;
        }
        match lists.last_mut() {
            Some(list) if octets <= left => {
                list.push(record.clone());
                left -= octets;
            }
            _ => {
                lists.push(vec![record.clone()]);
                left = BODY_BUDGET - octets;
            }
        }
    }
    lists
}

/// At least the octets of the record in a datagram.
fn octets_of(record: &Allocation) -> usize {
    24 + record.service.namespace.len()
        + record.service.name.len()
        + record.node.len()
        + 17 * record.addresses.len()
}

fn hash_of(record: &Allocation) -> u64 {
    hash(&postcard::to_stdvec(record).unwrap_or_default())
}

/// FNV-1a with a finisher: the same in every build, and needs no secret, for whoever could choose
/// records has the key.
fn hash(octets: &[u8]) -> u64 {
    let folded = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3)
        });
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn record(number: u32, counter: u64, returned: bool) -> Allocation {
        let address = IpAddr::from(number.to_be_bytes());
        Allocation {
            service: ServiceKey::new("shop", format!("service-{number}").as_str()),
            addresses: if returned { vec![] } else { vec![address] },
            counter,
            node: "edge-1".to_owned(),
        }
    }

    proptest! {
        /// Whatever the order in which records come, and however often.
        #[test]
        fn equal_records_have_equal_digests(
            numbers in prop::collection::vec((0_u32..40, 1_u64..5, any::<bool>()), 0..80),
            turn in any::<prop::sample::Index>(),
        ) {
            let told: Vec<Allocation> = numbers.iter().map(|(number, counter, returned)| record(*number, *counter, *returned)).collect();
            let mut one = Records::new();
            let mut other = Records::new();
            for record in &told {
                one.hear(record.clone());
            }
            let (before, after) = told.split_at(if told.is_empty() { 0 } else { turn.index(told.len()) });
            for record in after.iter().chain(before).chain(after) {
                other.own(record);
            }
            prop_assert_eq!(one.digest(), other.digest());
            prop_assert_eq!(one.digests(), other.digests());
            prop_assert!(one.differing(&other.digests()).is_empty());
            let sum = one.digests().iter().fold(0_u64, |sum, digest| sum.wrapping_add(*digest));
            prop_assert_eq!(one.digest(), sum);
        }
    }

    #[test]
    fn what_differs_is_found_and_only_that() {
        let mut one = Records::new();
        let mut other = Records::new();
        for number in 0..1000 {
            one.own(&record(number, 1, false));
            other.own(&record(number, 1, false));
        }
        assert!(one.own(&record(7, 2, true)));
        assert_ne!(one.digest(), other.digest());
        let told: Vec<Allocation> = one
            .differing(&other.digests())
            .into_iter()
            .flatten()
            .collect();
        assert!(told.contains(&record(7, 2, true)) && told.len() < 60);
        for record in told {
            other.hear(record);
        }
        assert_eq!(one.digest(), other.digest());
        let now = Duration::from_secs(1);
        let news: Vec<Allocation> = other
            .news(now)
            .into_iter()
            .flat_map(Allocations::records)
            .cloned()
            .collect();
        assert_eq!(news, [record(7, 2, true)], "news only");
        assert!(other.news(now).is_none());
    }

    #[test]
    fn returned_records_are_forgotten_the_oldest_first() {
        let mut records = Records::new();
        for number in 0..3000 {
            records.own(&record(number, u64::from(number), true));
        }
        let kept: Vec<u64> = records
            .differing(&vec![1; BUCKETS])
            .into_iter()
            .flatten()
            .map(|record| record.counter)
            .collect();
        assert!(kept.len() <= RETURNED_KEPT + RETURNED_SLACK);
        assert!(
            kept.iter()
                .all(|counter| *counter >= 3000 - (RETURNED_KEPT + RETURNED_SLACK) as u64)
        );
    }
}
