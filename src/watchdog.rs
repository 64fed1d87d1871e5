//! systemd's watchdog: says when it wants to hear that the loop still turns.

use tokio::time::Interval;

/// Ticks as often as systemd wants to hear; never where it does not. Fed by the loop that makes the
/// passes, so that a stuck pass is noticed.
#[derive(Debug)]
pub struct Watchdog(Option<Interval>);

impl Watchdog {
    /// Asks the environment whether there is one (`sd_watchdog_enabled(3)`).
    pub fn start() -> Self {
        Self(sd_notify::watchdog_enabled().map(|limit| tokio::time::interval(limit / 3)))
    }

    /// Waits until it is to be fed.
    pub async fn tick(&mut self) {
        match &mut self.0 {
            Some(timer) => {
                timer.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}
