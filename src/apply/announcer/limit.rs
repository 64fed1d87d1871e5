//! Limits what each source may make this node do, so that one that floods is not answered at the cost
//! of others. Pure: the time comes from the caller.
//!
//! A token bucket for each hardware address, in a table of fixed size: a source takes the place of the
//! one in its set that was heard least recently. Who forges a new address for each frame is not limited
//! by this, only by the room in the kernel's queue.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

/// Frames in a second.
const RATE: u32 = 20_000;
/// Frames in one go.
const DEPTH: u32 = 20_000;
/// Sets, and places in each.
const SETS: usize = 256;
const PLACES: usize = 4;

/// Nanoseconds that one frame costs.
const COST: u64 = 1_000_000_000 / RATE as u64;
const FULL: u64 = COST * DEPTH as u64;

/// One source. What it may still use is counted in nanoseconds, which come by themselves.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    source: [u8; 6],
    /// When it was heard, since the table was made; zero: never.
    heard: u64,
    left: u64,
}

/// The buckets of one interface.
#[derive(Debug)]
pub struct SourceLimit {
    buckets: Vec<[Bucket; PLACES]>,
    start: Instant,
    /// Keeps others from choosing addresses that share a set.
    random: RandomState,
}

impl SourceLimit {
    /// Every source may begin with a full bucket.
    pub fn new(start: Instant) -> Self {
        Self {
            buckets: vec![[Bucket::default(); PLACES]; SETS],
            start,
            random: RandomState::new(),
        }
    }

    /// Whether a frame of the source is to be looked at.
    pub fn admits(&mut self, source: [u8; 6], now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.start).as_nanos();
        let now = u64::try_from(elapsed).unwrap_or(u64::MAX).max(1);
        let hash = usize::try_from(self.random.hash_one(source) % SETS as u64).unwrap_or_default();
        let Some(set) = self.buckets.get_mut(hash) else {
            return true;
        };
        let known = set
            .iter()
            .position(|bucket| bucket.heard > 0 && bucket.source == source);
        let Some(bucket) = (match known {
            Some(place) => set.get_mut(place),
            None => set.iter_mut().min_by_key(|bucket| bucket.heard),
        }) else {
            return true;
        };
        if known.is_none() {
            *bucket = Bucket {
                source,
                heard: now,
                left: FULL,
            };
        }
        bucket.left = (bucket.left + now.saturating_sub(bucket.heard)).min(FULL);
        bucket.heard = now;
        let admitted = bucket.left >= COST;
        if admitted {
            bucket.left -= COST;
        }
        admitted
    }
}
