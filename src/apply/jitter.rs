//! Chance, for what nodes must not all do at the same moment. Nothing depends on its being
//! unpredictable.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A number between -1 and 1. `RandomState` takes its keys from the kernel's random numbers; a fresh
/// hash of the time spreads them.
pub(super) fn jitter(random: &RandomState) -> f64 {
    let mut hasher = random.build_hasher();
    hasher.write_u128(
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap_or_default()
            .as_nanos(),
    );
    let number = u32::try_from(hasher.finish() >> 32).unwrap_or_default();
    f64::from(number) / f64::from(u32::MAX) * 2.0 - 1.0
}
