//! Notices that this process did not run for a while: it was stopped, starved, or the machine slept.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Looks at the clock that goes on while the machine sleeps (`CLOCK_BOOTTIME`, `clock_gettime(2)`).
#[derive(Debug)]
pub struct PauseWatch {
    last: Duration,
}

impl PauseWatch {
    /// Starts now.
    pub fn start() -> Self {
        Self { last: boot_time() }
    }

    /// Whether more than `longest` went by since the last look; looks again.
    pub fn was_longer_than(&mut self, longest: Duration) -> bool {
        let now = boot_time();
        let paused = now.saturating_sub(self.last) > longest;
        self.last = now;
        paused
    }
}

/// The time since the boot, sleep included.
pub fn boot_time() -> Duration {
    // The clock is there since Linux 2.6.39; without it no pause is noticed.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
