//! Random numbers for pauses and names, so that not all nodes come at once and no two daemons are
//! called alike. Nothing here is a secret.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Any number. `RandomState` takes its keys from the kernel's random numbers.
pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// From 0 up to 1.
pub(crate) fn random() -> f64 {
    // 53 bits are what a float holds.
    #[allow(clippy::cast_precision_loss)]
    let fraction = (number() >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

/// From three quarters of it up to five.
pub(crate) fn about(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + random() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_stay_near() {
        let pause = Duration::from_secs(2);
        let pauses: std::collections::BTreeSet<Duration> = (0..50).map(|_| about(pause)).collect();
        assert!(pauses.len() > 1, "they differ");
        let near = Duration::from_millis(1_500)..=Duration::from_millis(2_500);
        assert!(
            pauses.iter().all(|pause| near.contains(pause)),
            "{pauses:?}"
        );
    }
}
