//! How long things at the API server may take, and how long to wait after a failure. Pure but for
//! the random numbers.

use std::time::Duration;

use crate::api_server::jitter::random;

/// The times that a follower keeps to. [`Timing::default`] is what a daemon uses; tests are faster.
#[derive(Debug, Clone)]
pub struct Timing {
    /// A watch that is silent for longer is dead: the server sends a bookmark about once a minute.
    pub silence: Duration,
    /// The first byte of an answer, and the next one of a page.
    pub answer: Duration,
    /// The next initial event of a streaming list; then the server is taken for one that has none.
    pub initial_event: Duration,
    /// How long the server may keep one watch; a random part of as much again is added. The next
    /// one reads the credentials anew.
    pub watch: Duration,
    /// How often the files with the credentials are looked at while a watch stands.
    pub credentials: Duration,
    /// The pause after the first failure; it doubles with each one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// A connection that stood for so long ends a row of failures.
    pub steady: Duration,
    /// Objects on a page of a list.
    pub page: u32,
    /// How long a start waits for the API server before it goes on from the recorded cluster.
    pub snapshot_patience: Duration,
    /// The least time between two writes of the cluster.
    pub snapshot_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(100),
            answer: Duration::from_secs(30),
            initial_event: Duration::from_secs(15),
            watch: Duration::from_secs(240),
            credentials: Duration::from_secs(5),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(5),
            steady: Duration::from_secs(5),
            page: 500,
            snapshot_patience: Duration::from_secs(3),
            snapshot_interval: Duration::from_secs(10),
        }
    }
}

/// The longest that a server is obeyed that asks to be left alone.
const LONGEST_OBEDIENCE: Duration = Duration::from_secs(60);

impl Timing {
    /// The pause after so many failures in a row: from a half of the doubled one up, so that not
    /// all nodes come back at once. Never shorter than the server asked for.
    pub(super) fn pause(&self, failures: u32, asked: Option<Duration>) -> Duration {
        let doubled = self
            .first_pause
            .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)))
            .min(self.longest_pause);
        let pause = doubled.mul_f64(0.5 + random() / 2.0);
        match asked {
            Some(asked) => asked.min(LONGEST_OBEDIENCE) + pause,
            None => pause,
        }
    }

    /// How long this watch is to last, in whole seconds.
    pub(super) fn watch_seconds(&self) -> u64 {
        self.watch.mul_f64(1.0 + random()).as_secs().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_obey() {
        let timing = Timing::default();
        for (failures, most) in [
            (1, 200),
            (2, 400),
            (3, 800),
            (5, 3_200),
            (6, 5_000),
            (1000, 5_000),
        ] {
            let most = Duration::from_millis(most);
            for _ in 0..20 {
                let pause = timing.pause(failures, None);
                assert!(pause >= most / 2 && pause <= most, "{failures}: {pause:?}");
            }
        }
        let pauses: std::collections::BTreeSet<Duration> =
            (0..20).map(|_| timing.pause(5, None)).collect();
        assert!(pauses.len() > 1, "they differ");
        let asked = Duration::from_secs(7);
        assert!(timing.pause(1, Some(asked)) >= asked);
        assert!(timing.pause(1, Some(Duration::from_secs(86400))) < Duration::from_secs(61));
    }
}
