//! The leader's state, what it takes in, and its turns. A turn does what can be done now; only while
//! this node leads is there anything to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep_until;

use super::barrier::Barrier;
use super::examine::Examiner;
use super::statuses::Statuses;
use super::view::{AllocatorStatus, Role, View};
use super::{LONGEST_PAUSE, Settings, pause, tell};
use crate::api_server::failure::causes;
use crate::apply::kubernetes::claims::Claims;
use crate::apply::kubernetes::events::Recorder;
use crate::apply::kubernetes::lease::Leadership;
use crate::model::service::ServiceKey;
use crate::model::standing::Standing;
use crate::plan::Scope;
use crate::plan::addresses::AddressPlan;

/// Refusals in a row that are no accident: an API server that has just started refuses what it will
/// allow as soon as it has read the roles. With the pauses between them that is some six seconds.
const MOST_REFUSALS: u32 = 6;

pub(super) struct Leader {
    pub(super) settings: Settings,
    pub(super) recorder: Recorder,
    pub(super) view: Arc<View>,
    /// What the statuses that the source shows name.
    standing: Standing,
    /// What statuses name, or may name by now, that the source does not show yet: the addresses of
    /// writes since that version of the Service.
    unseen: BTreeMap<ServiceKey, (String, Vec<IpAddr>)>,
    /// What the server is known to hold; absent until it was read in this term.
    pub(super) claims: Option<Claims>,
    /// When the claims are to be read again.
    pub(super) reread: Instant,
    /// What the source has to show before anything is decided; absent once it does.
    pub(super) barrier: Option<Barrier>,
    /// What those claims were planned to.
    pub(super) plan: AddressPlan,
    /// What has changed since that plan.
    pub(super) scope: Scope,
    /// Services that hold an address and are not shown.
    pub(super) examiner: Examiner,
    /// Services that were deleted and made anew under the same name since that plan.
    pub(super) recreated: BTreeSet<ServiceKey>,
    /// Addresses whose claims cannot be read.
    pub(super) reserved: BTreeSet<IpAddr>,
    pub(super) statuses: Statuses,
    /// Namespaces in which the role lacks the verb that writes statuses.
    pub(super) refused_in: BTreeSet<String>,
    /// How often in a row the role lacked the verb for a claim.
    refusals: u32,
    /// Why this node should not lead.
    pub(super) unfit: Option<String>,
    problem: Option<String>,
    failures: u32,
    paused_until: Option<Instant>,
    pub(super) written: u64,
}

impl Leader {
    pub(super) fn new(settings: Settings, recorder: Recorder, view: Arc<View>) -> Self {
        Self {
            settings,
            recorder,
            standing: Standing::of(&view.cluster.services),
            unseen: BTreeMap::new(),
            view,
            claims: None,
            reread: Instant::now(),
            barrier: None,
            plan: AddressPlan::default(),
            scope: Scope::Everything,
            examiner: Examiner::default(),
            recreated: BTreeSet::new(),
            reserved: BTreeSet::new(),
            statuses: Statuses::default(),
            refused_in: BTreeSet::new(),
            refusals: 0,
            unfit: None,
            problem: None,
            failures: 0,
            paused_until: None,
            written: 0,
        }
    }

    /// Takes in how the cluster looks now.
    pub(super) fn see(&mut self, view: &Arc<View>) {
        if Arc::ptr_eq(view, &self.view) {
            return;
        }
        let old = std::mem::replace(&mut self.view, Arc::clone(view));
        let services = &view.cluster.services;
        let differing = self.standing.take_in(&old.cluster.services, services);
        if old.differs_in_services_only(view) {
            self.scope.add_all(differing.iter().cloned());
        } else {
            self.scope = Scope::Everything;
        }
        if self.claims.is_none() {
            return;
        }
        for key in &differing {
            let identity = |view: &View| {
                let service = view.cluster.services.get(key)?;
                service.object.as_deref().cloned()
            };
            let (before, after) = (identity(&old), identity(view));
            if before.is_some()
                && before.map(|it| it.uid) != after.as_ref().map(|it| it.uid.clone())
            {
                self.recreated.insert(key.clone());
            }
            let unseen = self.unseen.get(key);
            if unseen.is_some_and(|(version, _)| after.is_none_or(|it| it.version != *version)) {
                self.unseen.remove(key);
            }
        }
        tell::ownership(&self.recorder, &old, view, &self.plan.allocations);
        self.statuses.look_at(differing);
    }

    /// What statuses name now, as far as it can be known.
    pub(super) fn standing(&self) -> Standing {
        let mut standing = self.standing.clone();
        for (key, (_, addresses)) in &self.unseen {
            for address in addresses {
                standing.name(*address, key);
            }
        }
        standing
    }

    /// A status is being written that names these addresses.
    pub(super) fn names(&mut self, service: &ServiceKey, version: &str, addresses: Vec<IpAddr>) {
        let written = (version.to_owned(), addresses);
        self.unseen.insert(service.clone(), written);
    }

    /// A write is known to have changed nothing.
    pub(super) fn names_not(&mut self, service: &ServiceKey) {
        if self.unseen.remove(service).is_some() {
            self.scope.add_all([service.clone()]);
        }
    }

    /// When to take a turn although nothing has happened.
    pub(super) fn wake(&self) -> Option<Instant> {
        // Whatever is to be done waits for the end of the pause.
        self.paused_until.or_else(|| {
            self.claims.as_ref().filter(|_| self.barrier.is_none())?;
            let due = [self.examiner.wake(), self.statuses.wake()];
            due.into_iter().flatten().chain([self.reread]).min()
        })
    }

    /// Why this node should not lead, if it should not.
    pub(super) fn unfit(&mut self) -> Option<String> {
        self.unfit.take()
    }

    /// Does what can be done now, as long as this node leads.
    pub(super) async fn turn(&mut self, leadership: &mut watch::Receiver<Leadership>) {
        if leads_until(&leadership.borrow_and_update()).is_none() {
            self.stand_down();
            return;
        }
        if self
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        self.paused_until = None;
        let worked = {
            let work = self.work();
            tokio::pin!(work);
            loop {
                // Each renewal moves it; whoever hangs on a request stops when it has passed.
                let Some(until) = leads_until(&leadership.borrow_and_update()) else {
                    break None;
                };
                tokio::select! {
                    worked = &mut work => break Some(worked),
                    () = sleep_until(until.into()) => {}
                    changed = leadership.changed() => if changed.is_err() { break None },
                }
            }
        };
        match worked {
            Some(Ok(())) => {
                self.refusals = 0;
                self.write();
            }
            Some(Err(error)) => {
                if let Some(missing) = error.missing_verb() {
                    self.refusals += 1;
                    if self.refusals >= MOST_REFUSALS {
                        self.unfit = Some(missing);
                    }
                }
                self.failed(causes(&error), error.retry_after());
            }
            // Another instance may lead by now.
            None => self.stand_down(),
        }
    }

    /// Forgets everything that is true only while this node leads. Writes under way are given up:
    /// one that has left already carries the version that it was made for.
    fn stand_down(&mut self) {
        if self.claims.take().is_some() {
            tracing::info!("allocates no more");
        }
        self.unseen.clear();
        self.barrier = None;
        self.plan = AddressPlan::default();
        self.scope = Scope::Everything;
        self.examiner = Examiner::default();
        self.recreated.clear();
        self.statuses = Statuses::default();
        self.refused_in.clear();
        self.refusals = 0;
        self.problem = None;
        self.failures = 0;
        self.paused_until = None;
    }

    /// The server took something.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.problem = None;
    }

    /// The server takes nothing: later, and later each time.
    pub(super) fn failed(&mut self, problem: String, asked: Option<Duration>) {
        let now = Instant::now();
        let wait = pause(self.failures).max(asked.unwrap_or_default().min(LONGEST_PAUSE));
        // The requests that were under way together fail together.
        if self.paused_until.is_none_or(|until| until <= now) {
            self.failures = self.failures.saturating_add(1);
        }
        self.paused_until = Some(now + wait);
        self.trouble(problem);
    }

    /// Something is in the way; told once.
    pub(super) fn trouble(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(error = problem, "not all can be written");
            self.problem = Some(problem);
        }
    }

    /// What to tell of it.
    pub(super) fn status(&self, leadership: &Leadership) -> AllocatorStatus {
        let (role, leader, problem) = match leadership {
            Leadership::Leading { .. } => {
                let role = if self.claims.is_some() {
                    Role::Leader
                } else {
                    Role::Waiting
                };
                let identity = self.settings.lease.identity.clone();
                (role, Some(identity), self.problem.clone())
            }
            Leadership::Following { holder } => {
                let holder = Some(holder.clone()).filter(|holder| !holder.is_empty());
                (Role::Follower, holder, None)
            }
            Leadership::Refused { verb, resource, .. } => {
                let problem = format!("its role lacks the verb {verb} on {resource}");
                (Role::Reader, None, Some(problem))
            }
            Leadership::Unreachable { message } => (Role::Waiting, None, Some(message.clone())),
            Leadership::Unknown => (Role::Waiting, None, None),
        };
        AllocatorStatus {
            role,
            leader,
            problem,
            waiting: self.statuses.waiting(),
            written: self.written,
        }
    }
}

/// Until when this node leads; `None` where it does not, or no longer.
fn leads_until(leadership: &Leadership) -> Option<Instant> {
    match leadership {
        Leadership::Leading { until } if Instant::now() < *until => Some(*until),
        _ => None,
    }
}
