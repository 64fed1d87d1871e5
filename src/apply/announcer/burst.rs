//! Decides when gratuitous frames are due: a burst after a take-over, then a periodic refresh. Pure:
//! the time and the jitter come from the caller.
//!
//! The burst repeats because one lost broadcast would leave a router with a stale neighbour entry for
//! hours; the refresh keeps switches from forgetting the port (forwarding entries age in 300 s).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A burst's offsets stray by at most this part.
const BURST_JITTER: f64 = 0.1;
/// The refresh interval strays by at most this part.
const REFRESH_JITTER: f64 = 0.2;

/// When to announce unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BurstSettings {
    /// `announce.gratuitous_burst`: offsets from the take-over, ascending. Empty: no burst.
    pub burst: Vec<Duration>,
    /// `announce.refresh`: the interval afterwards. `None` or zero: no refresh.
    pub refresh: Option<Duration>,
}

impl Default for BurstSettings {
    fn default() -> Self {
        Self {
            burst: [0, 50, 150, 400, 1_000, 2_200, 5_000, 10_000]
                .map(Duration::from_millis)
                .to_vec(),
            refresh: Some(Duration::from_secs(60)),
        }
    }
}

/// How far one VIP has come.
#[derive(Debug, Clone, Copy)]
struct Progress {
    taken_over: Instant,
    /// Index of the burst's next step; beyond the burst: refreshing.
    step: usize,
    due: Instant,
}

/// The next gratuitous announcement of each VIP of one interface.
#[derive(Debug)]
pub struct Schedule {
    settings: BurstSettings,
    progress: BTreeMap<IpAddr, Progress>,
    /// The same due times in their order, to find the next one without a search.
    queue: BTreeSet<(Instant, IpAddr)>,
}

impl Schedule {
    /// An empty schedule.
    pub const fn new(settings: BurstSettings) -> Self {
        Self {
            settings,
            progress: BTreeMap::new(),
            queue: BTreeSet::new(),
        }
    }

    /// Starts the burst of a VIP that is taken over at `now`; one under way starts anew.
    ///
    /// `jitter` is between -1 (as early as allowed) and 1 (as late as allowed), here and below.
    pub fn take_over(&mut self, vip: IpAddr, now: Instant, jitter: f64) {
        self.withdraw(vip);
        self.plan(vip, now, 0, now, jitter);
    }

    /// Forgets a VIP. Nothing is due for it any more.
    pub fn withdraw(&mut self, vip: IpAddr) {
        if let Some(progress) = self.progress.remove(&vip) {
            self.queue.remove(&(progress.due, vip));
        }
    }

    /// When the next frame is due, on whichever VIP.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// A VIP whose frames are due at `now`, if there is one. It stays due until it is [`Self::sent`],
    /// [`Self::postpone`]d or withdrawn.
    pub fn due(&self, now: Instant) -> Option<IpAddr> {
        let (due, vip) = *self.queue.first()?;
        (due <= now).then_some(vip)
    }

    /// Whether the frames that are due are also for the single neighbours that asked for the VIP: at the
    /// take-over, at every second step of the burst, in case a frame is lost, and at each refresh.
    pub fn is_for_neighbours(&self, vip: IpAddr) -> bool {
        self.progress.get(&vip).is_some_and(|progress| {
            progress.step.is_multiple_of(2) || progress.step >= self.settings.burst.len()
        })
    }

    /// Plans what follows the frames that were sent at `now`. Steps that were missed meanwhile are
    /// left out: they would only follow in one heap.
    pub fn sent(&mut self, vip: IpAddr, now: Instant, jitter: f64) {
        let progress = self.progress.get(&vip).copied();
        self.withdraw(vip);
        if let Some(progress) = progress {
            self.plan(vip, progress.taken_over, progress.step + 1, now, jitter);
        }
    }

    /// Tries the frames that are due again at `at`.
    pub fn postpone(&mut self, vip: IpAddr, at: Instant) {
        if let Some(progress) = self.progress.get_mut(&vip) {
            self.queue.remove(&(progress.due, vip));
            progress.due = at;
            self.queue.insert((at, vip));
        }
    }

    /// Plans the first step from `step` on that is still worth sending at `now`.
    fn plan(&mut self, vip: IpAddr, taken_over: Instant, step: usize, now: Instant, jitter: f64) {
        let first = step == 0;
        let burst = self
            .settings
            .burst
            .iter()
            .enumerate()
            .skip(step)
            .filter_map(|(step, offset)| {
                let due = taken_over.checked_add(stray(*offset, BURST_JITTER, jitter))?;
                Some((step, due))
            })
            .find(|(_, due)| first || *due > now);
        let next = burst.or_else(|| {
            let interval = self.settings.refresh.filter(|refresh| !refresh.is_zero())?;
            let due = now.checked_add(stray(interval, REFRESH_JITTER, jitter))?;
            Some((self.settings.burst.len(), due))
        });
        if let Some((step, due)) = next {
            self.progress.insert(
                vip,
                Progress {
                    taken_over,
                    step,
                    due,
                },
            );
            self.queue.insert((due, vip));
        }
    }
}

/// The duration, longer or shorter by at most the part `strength` of it.
fn stray(duration: Duration, strength: f64, jitter: f64) -> Duration {
    let jitter = if jitter.is_finite() {
        jitter.clamp(-1.0, 1.0)
    } else {
        0.0
    };
    Duration::try_from_secs_f64(duration.as_secs_f64() * (1.0 + strength * jitter))
        .unwrap_or(duration)
}
