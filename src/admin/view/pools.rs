//! `pools`: how full each pool is.

use serde::{Deserialize, Serialize};

use crate::admin::snapshot::Snapshot;
use crate::model::family::Family;
use crate::plan::ipam::usage;

/// The largest integer that every JSON reader takes exactly (RFC 8259 §6); larger pools count as this.
const LARGEST_COUNT: u64 = (1 << 53) - 1;

/// Every pool, each family on its own, in the order of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pools {
    pub pools: Vec<PoolFamily>,
}

/// One family of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolFamily {
    pub name: String,
    pub family: Family,
    /// Addresses in it, at most 2^53 - 1.
    pub total: u64,
    /// Addresses of it that Services hold.
    pub allocated: u64,
    /// Addresses of it that may still be given out, at most 2^53 - 1: neither held, nor another host's,
    /// nor skipped by `avoid_buggy_ips`.
    pub free: u64,
    /// Whether Services that name no pool may get an address from it.
    pub auto_assign: bool,
    /// Lower is tried first.
    pub priority: u32,
}

impl Pools {
    /// The pools at the moment of the snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let config = &snapshot.config;
        let book = snapshot.inputs.address_book();
        let pools = usage(config, &book, &snapshot.plan.addresses.allocations)
            .into_iter()
            .map(|usage| {
                let pool = config.pools.iter().find(|pool| pool.name == usage.pool);
                PoolFamily {
                    family: usage.family,
                    total: count(usage.total),
                    allocated: count(usage.allocated as u128),
                    free: count(usage.free),
                    auto_assign: pool.is_some_and(|pool| pool.auto_assign),
                    priority: pool.map_or(0, |pool| pool.priority),
                    name: usage.pool,
                }
            })
            .collect();
        Self { pools }
    }
}

fn count(addresses: u128) -> u64 {
    u64::try_from(addresses).map_or(LARGEST_COUNT, |count| count.min(LARGEST_COUNT))
}
