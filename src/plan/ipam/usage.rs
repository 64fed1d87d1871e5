//! How full each pool is: numbers for metrics and `status`, which decide nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::family::Family;
use crate::model::pool::{AddressRange, Pool};
use crate::plan::address::AddressBook;

/// How full a pool is in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub pool: String,
    /// The family.
    pub family: Family,
    /// Addresses in it.
    pub total: u128,
    /// Addresses of it that Services hold; one that several Services hold counts once.
    pub allocated: usize,
    /// Addresses that a Service which asks for none in particular could still get.
    pub free: u128,
}

/// The addresses of each pool and family, for metrics and `status`.
pub fn usage(config: &Config, book: &AddressBook, allocations: &Allocations) -> Vec<PoolUsage> {
    let held: BTreeSet<IpAddr> = allocations.held_addresses().collect();
    let mut usage = Vec::new();
    for pool in &config.pools {
        for family in Family::BOTH {
            let mut numbers = PoolUsage {
                pool: pool.name.clone(),
                family,
                total: 0,
                allocated: 0,
                free: 0,
            };
            for range in &pool.ranges {
                if Family::of(range.first()) == family {
                    count(pool, range, book, &held, &mut numbers);
                }
            }
            if numbers.total > 0 {
                usage.push(numbers);
            }
        }
    }
    usage
}

/// Adds one range.
fn count(
    pool: &Pool,
    range: &AddressRange,
    book: &AddressBook,
    held: &BTreeSet<IpAddr>,
    numbers: &mut PoolUsage,
) {
    let refused = book.within(range);
    let held = held.range(range.first()..=range.last());
    // What is skipped is only counted, because a range may be large; what is held or refused is a
    // list, and must not be taken away twice.
    let listed: BTreeSet<IpAddr> = held.clone().chain(&refused).copied().collect();
    let listed_and_skipped = listed
        .iter()
        .filter(|address| pool.skips(**address))
        .count();
    let skipped = if pool.avoid_buggy_ips {
        skipped(range)
    } else {
        0
    };
    let gone = listed.len() as u128 + skipped - (listed_and_skipped as u128).min(skipped);
    numbers.total = numbers.total.saturating_add(range.count());
    numbers.allocated += held.count();
    let free = range.count().saturating_sub(gone);
    numbers.free = numbers.free.saturating_add(free);
}

/// The IPv4 addresses of a range that end in .0 or .255.
fn skipped(range: &AddressRange) -> u128 {
    let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first(), range.last()) else {
        return 0;
    };
    let (first, last) = (u64::from(first.to_bits()), u64::from(last.to_bits()));
    // Multiples of 256 in `first..=last`, and those in `first + 1..=last + 1`.
    let zeros = (last / 256 + 1) - first.div_ceil(256);
    let ends = (last + 1) / 256 - first / 256;
    u128::from(zeros + ends)
}
