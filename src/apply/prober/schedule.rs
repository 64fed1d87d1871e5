//! Decides when each wanted address is probed, and by what was heard, who uses it. Pure: the time and
//! the jitter come from the caller. Knows wanted addresses only, whatever frames say.
//!
//! An address is looked at in rounds: some probes, and a wait for answers. A claim counts at the end of
//! its round, if the address is still wanted then: a node that was just given an address announces it
//! before others have heard of that, and no conflict may come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::model::foreign::{ForeignHosts, MacAddress};

/// How the LAN is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Probes in a round (RFC 5227, `PROBE_NUM`; more than RFC 4862 asks for).
    pub probes: u32,
    /// From one probe to the next, and from the last one to the end of the round; up to a fifth more
    /// or less. Shorter than RFC 5227 has it: somebody waits for the address.
    pub spacing: Duration,
    /// Between rounds of an address that nobody uses; up to a tenth more or less.
    pub clean_interval: Duration,
    /// Between rounds of an address that another host uses. A node that gave an address up and was
    /// heard once more is forgotten after it.
    pub foreign_interval: Duration,
    /// Rounds under way at the same time, on all interfaces.
    pub most_under_way: usize,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            probes: 3,
            spacing: Duration::from_millis(200),
            clean_interval: Duration::from_secs(300),
            foreign_interval: Duration::from_secs(30),
            most_under_way: 64,
        }
    }
}

/// An address on an interface.
pub type Place = (u32, IpAddr);

/// A round that could not be finished starts again after this long.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Progress {
    /// When the next step is.
    due: Instant,
    /// Probes of the round under way; none between rounds.
    sent: Option<u32>,
    /// Who claimed it, counting when the round ends.
    heard: Option<MacAddress>,
    /// Who uses it, by the last round.
    user: Option<MacAddress>,
}

/// The rounds of all wanted addresses.
#[derive(Debug)]
pub struct Schedule {
    settings: ProbeSettings,
    progress: BTreeMap<Place, Progress>,
    /// The next steps of the rounds under way.
    steps: BTreeSet<(Instant, Place)>,
    /// When the others begin their rounds.
    rounds: BTreeSet<(Instant, Place)>,
    changed: bool,
}

impl Schedule {
    /// Nothing is wanted yet.
    pub fn new(settings: ProbeSettings) -> Self {
        Self {
            settings,
            progress: BTreeMap::new(),
            steps: BTreeSet::new(),
            rounds: BTreeSet::new(),
            changed: false,
        }
    }

    /// Makes exactly these wanted. What is known of the others is forgotten; the new ones are probed
    /// soon, but not all nodes at once (RFC 5227, `PROBE_WAIT`).
    ///
    /// `jitter` gives numbers from -1 to 1, here and below.
    pub fn want(&mut self, wanted: &BTreeSet<Place>, now: Instant, jitter: impl Fn() -> f64) {
        let gone: Vec<Place> = (self.progress.keys())
            .filter(|place| !wanted.contains(place))
            .copied()
            .collect();
        for place in gone {
            let progress = self.take(place);
            self.changed |= progress.is_some_and(|progress| progress.user.is_some());
        }
        for place in wanted {
            if !self.progress.contains_key(place) {
                let progress = Progress {
                    due: now + stray(self.settings.spacing, 1.5, 0.5, jitter()),
                    sent: None,
                    heard: None,
                    user: None,
                };
                self.put(*place, progress);
            }
        }
    }

    /// When there is something to do next.
    pub fn next_due(&self) -> Option<Instant> {
        let room = self.steps.len() < self.settings.most_under_way;
        let round = self.rounds.first().filter(|_| room);
        let next = [self.steps.first(), round];
        next.into_iter().flatten().map(|(due, _)| *due).min()
    }

    /// Ends the rounds that are over, and gives an address for which a probe is to be sent now. The
    /// caller then says whether it was [`sent`](Self::sent).
    pub fn due(&mut self, now: Instant, jitter: impl Fn() -> f64) -> Option<Place> {
        while let Some((_, place)) = self.steps.first().filter(|(due, _)| *due <= now).copied() {
            let progress = self.progress.get(&place)?;
            if progress.sent < Some(self.settings.probes) {
                return Some(place);
            }
            self.end(place, now, jitter());
        }
        if self.steps.len() >= self.settings.most_under_way {
            return None;
        }
        let (_, place) = self
            .rounds
            .first()
            .filter(|(due, _)| *due <= now)
            .copied()?;
        let mut progress = self.take(place)?;
        progress.sent = Some(0);
        self.put(place, progress);
        Some(place)
    }

    /// The probe is on the wire.
    pub fn sent(&mut self, place: Place, now: Instant, jitter: f64) {
        if let Some(mut progress) = self.take(place) {
            progress.sent = progress.sent.map(|sent| sent + 1);
            progress.due = now + stray(self.settings.spacing, 1.0, 0.2, jitter);
            self.put(place, progress);
        }
    }

    /// The probe is to be sent at `at`: the queue is full.
    pub fn postpone(&mut self, place: Place, at: Instant) {
        if let Some(mut progress) = self.take(place) {
            progress.due = at;
            self.put(place, progress);
        }
    }

    /// The probe cannot be sent. That nobody answered says nothing then, so the round is none.
    pub fn fail(&mut self, place: Place, now: Instant) {
        if let Some(mut progress) = self.take(place) {
            progress.sent = None;
            progress.due = now + AGAIN;
            self.put(place, progress);
        }
    }

    /// Somebody claims an address. The first one counts, at the end of the round; between rounds one
    /// begins at once, unless a user is known, who is looked for when it is time.
    pub fn hear(&mut self, place: Place, mac: MacAddress, now: Instant) {
        let Some(progress) = self.progress.get_mut(&place) else {
            return;
        };
        let between = progress.sent.is_none();
        if progress.heard.is_some() || (between && progress.user.is_some()) {
            return;
        }
        progress.heard = Some(mac);
        if between {
            self.postpone(place, now);
        }
    }

    /// Whether other hosts, or their addresses, are others than when this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Who uses what. Of hosts on several interfaces, the one on the first interface counts.
    pub fn foreign(&self) -> ForeignHosts {
        let mut hosts: BTreeMap<IpAddr, MacAddress> = BTreeMap::new();
        for ((_, address), progress) in &self.progress {
            if let Some(user) = progress.user {
                hosts.entry(*address).or_insert(user);
            }
        }
        hosts.into_iter().collect()
    }

    fn end(&mut self, place: Place, now: Instant, jitter: f64) {
        let Some(mut progress) = self.take(place) else {
            return;
        };
        let user = progress.heard.take();
        self.changed |= user != progress.user;
        progress.user = user;
        progress.sent = None;
        progress.due = now
            + match user {
                Some(_) => self.settings.foreign_interval,
                None => stray(self.settings.clean_interval, 1.0, 0.1, jitter),
            };
        self.put(place, progress);
    }

    fn take(&mut self, place: Place) -> Option<Progress> {
        let progress = self.progress.remove(&place)?;
        self.steps.remove(&(progress.due, place));
        self.rounds.remove(&(progress.due, place));
        Some(progress)
    }

    fn put(&mut self, place: Place, progress: Progress) {
        let queue = match progress.sent {
            Some(_) => &mut self.steps,
            None => &mut self.rounds,
        };
        queue.insert((progress.due, place));
        self.progress.insert(place, progress);
    }
}

/// `middle` times the duration, and up to `spread` times more or less.
fn stray(duration: Duration, middle: f64, spread: f64, jitter: f64) -> Duration {
    duration.mul_f64(middle + spread * jitter.clamp(-1.0, 1.0))
}
