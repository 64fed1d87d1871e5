//! Rules between the ranges of pools, pods and `ClusterIPs`.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::problem::{Located, Refusal};
use super::Check;
use super::pools::PoolRange;
use crate::model::address_range::AddressRange;

impl Check<'_> {
    /// An address is a VIP, a pod's or a `ClusterIP`, and never two of these.
    pub(super) fn networks(
        &mut self,
        pools: &[PoolRange],
        cluster: &[Located<IpNet>],
        service: &[Located<IpNet>],
    ) {
        let pods = Spans::new(cluster.iter().map(|network| network.value.into()));
        for network in service {
            let found = pods.overlapping(&network.value.into());
            if let Some(pods) = found.and_then(|index| cluster.get(index)) {
                let message = format!(
                    "{} overlaps {} of {}",
                    network.value, pods.value, pods.at.key
                );
                self.error(&network.at, &Refusal::new(message));
            }
        }
        let spans = Spans::new(pools.iter().map(|pool| pool.range.value));
        for network in cluster.iter().chain(service) {
            let found = spans.overlapping(&network.value.into());
            if let Some(PoolRange { pool, range, .. }) = found.and_then(|index| pools.get(index)) {
                let message = format!("{} overlaps {} of {pool}", network.value, range.value);
                self.error(&network.at, &Refusal::new(message));
            }
        }
    }
}

/// Ranges by their first address, each with the furthest one so far: a look-up costs a bisection.
struct Spans {
    /// First address of a range, and index and last address of the furthest one up to it.
    sorted: Vec<(IpAddr, usize, IpAddr)>,
}

impl Spans {
    fn new(ranges: impl Iterator<Item = AddressRange>) -> Self {
        let mut sorted: Vec<_> = ranges
            .enumerate()
            .map(|(index, range)| (range.first(), index, range.last()))
            .collect();
        sorted.sort_unstable();
        let mut furthest: Option<(usize, IpAddr)> = None;
        for (_, index, last) in &mut sorted {
            match furthest {
                Some((reaching, end)) if end >= *last => (*index, *last) = (reaching, end),
                _ => furthest = Some((*index, *last)),
            }
        }
        Self { sorted }
    }

    /// The index of a range that shares an address with this one.
    fn overlapping(&self, range: &AddressRange) -> Option<usize> {
        let before = self
            .sorted
            .partition_point(|(first, ..)| *first <= range.last());
        let (_, index, last) = self.sorted.get(before.checked_sub(1)?)?;
        (*last >= range.first()).then_some(*index)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn range((first, length): (u8, u8)) -> AddressRange {
        let address = |last: u8| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
        AddressRange::new(address(first), address(first.saturating_add(length))).unwrap()
    }

    proptest! {
        #[test]
        fn finds_an_overlap_exactly_where_there_is_one(
            ranges in prop::collection::vec((any::<u8>(), 0_u8..40), 0..12),
            sought in (any::<u8>(), 0_u8..40),
        ) {
            let ranges: Vec<AddressRange> = ranges.into_iter().map(range).collect();
            let sought = range(sought);
            let found = Spans::new(ranges.iter().copied()).overlapping(&sought);
            prop_assert_eq!(found.is_some(), ranges.iter().any(|range| range.overlaps(&sought)));
            prop_assert!(found.is_none_or(|index| ranges[index].overlaps(&sought)));
        }
    }
}
