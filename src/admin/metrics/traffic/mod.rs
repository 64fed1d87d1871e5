//! Traffic by Service port, as the kernel counted it: read when somebody scrapes, at most once a second.
//!
//! What counts in the kernel comes and goes with endpoints, addresses and rulesets, and begins at zero
//! each time; what is shown never goes back while the daemon runs. A Service that is gone has no series
//! any more. Nothing here waits for a pass, and no pass for it.

mod series;
#[cfg(test)]
mod tests;
mod totals;

use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::admin::snapshot::Snapshot;
use crate::apply::traffic::Reading;
pub(super) use series::register;
use totals::Last;
pub(super) use totals::Totals;

/// How old a reading may be that is shown again.
const FRESH: Duration = Duration::from_secs(1);

/// Reads the kernel's counters.
pub type Read = Box<dyn FnMut() -> Result<Reading, Box<dyn Error + Send + Sync>> + Send>;

/// What was counted so far, and the way to the kernel.
pub struct Traffic(Mutex<State>);

struct State {
    read: Read,
    read_at: Option<Instant>,
    last: Last,
    totals: Arc<Totals>,
    problem: Option<String>,
}

impl fmt::Debug for Traffic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Traffic").finish_non_exhaustive()
    }
}

impl Traffic {
    /// Reads nothing before it is asked.
    pub fn new(read: Read) -> Self {
        Self(Mutex::new(State {
            read,
            read_at: None,
            last: Last::default(),
            totals: Arc::default(),
            problem: None,
        }))
    }

    /// The totals now, or of less than a second ago. Where the kernel cannot be read they stay as they
    /// are, and the failure is counted.
    pub(super) fn totals(&self, snapshot: &Snapshot) -> Arc<Totals> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |at: Instant| at.elapsed() < FRESH;
        if !state.read_at.is_some_and(fresh) {
            state.take(snapshot);
            // After the reading: one that takes long is not begun again at once.
            state.read_at = Some(Instant::now());
        }
        Arc::clone(&state.totals)
    }
}

impl State {
    fn take(&mut self, snapshot: &Snapshot) {
        // Nobody holds them but a scrape that still writes.
        let totals = Arc::make_mut(&mut self.totals);
        match (self.read)() {
            Ok(reading) => {
                self.problem = None;
                totals.take(&reading, &mut self.last, snapshot);
            }
            Err(error) => {
                let problem = format!("{:#}", anyhow::Error::from_boxed(error));
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(error = problem, "traffic counters could not be read");
                    self.problem = Some(problem);
                }
                totals.failures += 1;
            }
        }
    }
}
