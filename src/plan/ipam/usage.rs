//! How full each pool is: numbers for metrics and `status`, which decide nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::family::Family;
use crate::model::pool::AddressRange;

/// Allocated and total addresses per pool and family, for metrics and `status`.
pub fn usage(config: &Config, allocations: &Allocations) -> Vec<PoolUsage> {
    let held: BTreeSet<IpAddr> = allocations.held_addresses().collect();
    let mut usage = Vec::new();
    for pool in &config.pools {
        for family in Family::BOTH {
            let ranges = pool
                .ranges
                .iter()
                .filter(|range| Family::of(range.first()) == family);
            let total: u128 = ranges
                .clone()
                .map(AddressRange::count)
                .fold(0, u128::saturating_add);
            if total > 0 {
                let allocated = ranges
                    .map(|range| held.range(range.first()..=range.last()).count())
                    .sum::<usize>();
                usage.push(PoolUsage {
                    pool: pool.name.clone(),
                    family,
                    total,
                    allocated,
                });
            }
        }
    }
    usage
}

/// How full a pool is in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub pool: String,
    /// The family.
    pub family: Family,
    /// Addresses in it.
    pub total: u128,
    /// Addresses of it that Services hold.
    pub allocated: usize,
}
