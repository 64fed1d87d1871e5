//! The leader's state and its turns: plan, claim, write. A turn does what can be done now; only while
//! this node leads is there anything to do.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::Settings;
use super::examine::Examiner;
use super::standing::Standing;
use super::statuses::{Done, Statuses};
use super::tell;
use super::view::{AllocatorStatus, Role, View};
use crate::api_server::failure::causes;
use crate::apply::kubernetes::claims::{Claims, CommitError, ReadError};
use crate::apply::kubernetes::events::Recorder;
use crate::apply::kubernetes::lease::Leadership;
use crate::apply::kubernetes::status::{self as wire, StatusError};
use crate::model::cluster::Dirty;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::plan::Scope;
use crate::plan::addresses::{AddressInputs, AddressPlan, manage};
use crate::plan::ipam::not_ours;
use crate::plan::status::{StatusWrite, says, status};

/// Plans that may be overtaken by another instance's claims in one turn.
const MOST_ROUNDS: usize = 5;
/// The first pause after a failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why a turn did not end with everything claimed.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error("somebody else changed the claims {MOST_ROUNDS} times in a row")]
    Overtaken,
}

impl WorkError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Read(error) => error.source.retry_after(),
            Self::Commit(error) => error.retry_after(),
            Self::Overtaken => None,
        }
    }
}

pub(super) struct Leader {
    settings: Settings,
    recorder: Recorder,
    view: Arc<View>,
    standing: Standing,
    /// What the server is known to hold; absent until it was read in this term.
    claims: Option<Claims>,
    /// What those claims were planned to.
    plan: AddressPlan,
    /// What has changed since that plan.
    scope: Scope,
    /// Services that hold an address and are not shown.
    examiner: Examiner,
    /// Services that were deleted and made anew under the same name since that plan.
    recreated: BTreeSet<ServiceKey>,
    /// Addresses whose claims cannot be read.
    reserved: BTreeSet<IpAddr>,
    statuses: Statuses,
    problem: Option<String>,
    failures: u32,
    paused_until: Option<Instant>,
    written: u64,
}

impl Leader {
    pub(super) fn new(settings: Settings, recorder: Recorder, view: Arc<View>) -> Self {
        let mut standing = Standing::default();
        standing.take_in(&imbl::OrdMap::new(), &view.cluster.services);
        Self {
            settings,
            recorder,
            view,
            standing,
            claims: None,
            plan: AddressPlan::default(),
            scope: Scope::Everything,
            examiner: Examiner::default(),
            recreated: BTreeSet::new(),
            reserved: BTreeSet::new(),
            statuses: Statuses::default(),
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
        let differing = self
            .standing
            .take_in(&old.cluster.services, &view.cluster.services);
        if !old.differs_in_services_only(view) {
            self.scope = Scope::Everything;
        } else if let Scope::Services(services) = &mut self.scope {
            services.extend(differing.iter().cloned());
        }
        if self.claims.is_some() {
            let uid = |view: &View, key: &ServiceKey| {
                let service = view.cluster.services.get(key)?;
                Some(service.object.as_deref()?.uid.clone())
            };
            let recreated = differing.iter().filter(|key| {
                let before = uid(&old, key);
                before.is_some() && before != uid(view, key)
            });
            self.recreated.extend(recreated.cloned());
            tell::ownership(&self.recorder, &old, view, &self.plan.allocations);
            self.statuses.look_at(differing);
        }
    }

    /// When to take a turn although nothing has happened.
    pub(super) fn wake(&self) -> Option<Instant> {
        // Whatever is to be done waits for the end of the pause.
        self.paused_until.or_else(|| self.examiner.wake())
    }

    /// Does what can be done now.
    pub(super) async fn turn(&mut self, leadership: &Leadership) {
        let until = match leadership {
            Leadership::Leading { until } if Instant::now() < *until => *until,
            _ => {
                self.stand_down();
                return;
            }
        };
        if self
            .paused_until
            .is_some_and(|until| Instant::now() < until)
        {
            return;
        }
        self.paused_until = None;
        match timeout_at(until.into(), self.work()).await {
            Ok(Ok(())) => self.write(),
            Ok(Err(error)) => self.failed(causes(&error), error.retry_after()),
            // Another instance may lead by now.
            Err(_) => self.stand_down(),
        }
    }

    /// Forgets everything that is true only while this node leads. Writes under way are given up:
    /// one that has left already carries the version that it was made for.
    fn stand_down(&mut self) {
        if self.claims.take().is_some() {
            tracing::info!("allocates no more");
        }
        self.plan = AddressPlan::default();
        self.scope = Scope::Everything;
        self.examiner = Examiner::default();
        self.recreated.clear();
        self.statuses = Statuses::default();
        self.problem = None;
        self.failures = 0;
        self.paused_until = None;
    }

    /// Plans, and claims what was planned.
    async fn work(&mut self) -> Result<(), WorkError> {
        if self.claims.is_none() {
            let place = self.settings.claims.clone();
            let claims = Claims::load(place, &self.settings.server).await?;
            for entry in claims.unreadable() {
                tracing::warn!(
                    config_map = entry.config_map,
                    key = entry.key,
                    error = %entry.kept.reason,
                    "claim cannot be read, its address is given to nobody"
                );
            }
            let addresses = claims.allocations().held();
            tracing::info!(addresses, "allocates from now on");
            self.claims = Some(claims);
            self.scope = Scope::Everything;
        }
        let Some(claims) = &mut self.claims else {
            return Ok(());
        };
        for _ in 0..MOST_ROUNDS {
            if let Scope::Services(services) = &mut self.scope {
                services.extend(self.plan.concerned(&self.view.foreign));
            }
            if self.scope.is_empty() {
                return Ok(());
            }
            let reserved: BTreeSet<IpAddr> = claims.reserved().collect();
            if reserved != self.reserved {
                self.reserved = reserved;
                self.scope = Scope::Everything;
            }
            let mut before = claims.allocations().clone();
            // What is in no pool any more is kept by the Service that had it, not by its successor.
            for key in &self.recreated {
                let pools = &self.view.config.pools;
                let kept = |address: &IpAddr| pools.iter().any(|pool| pool.contains(*address));
                if !before.addresses(key).iter().all(kept) {
                    before.release(key, &self.settings.node);
                }
            }
            self.scope
                .add_all(self.plan.allocations.changed(&before).cloned());
            let services = &self.view.cluster.services;
            let mut look = |key: &ServiceKey| {
                if before.addresses(key).is_empty() || services.contains_key(key) {
                    self.examiner.settled(key);
                } else {
                    self.examiner.missing(key);
                }
            };
            match &self.scope {
                Scope::Everything => before.records().for_each(|record| look(&record.service)),
                Scope::Services(dirty) => dirty.iter().for_each(look),
            }
            let inputs = AddressInputs {
                node: &self.settings.node,
                cluster: &self.view.cluster,
                host: &self.view.host,
                foreign: &self.view.foreign,
                reserved: &self.reserved,
                unconfirmed: self.examiner.kept(),
                allocations: &before,
            };
            let managed = manage(&self.view.config, &inputs, &self.plan, &self.scope);
            let plan = managed.plan;
            match claims
                .commit(&self.settings.server, &plan.allocations)
                .await
            {
                Ok(_) => {}
                Err(CommitError::Conflict { config_maps }) => {
                    let config_maps = config_maps.join(" ");
                    tracing::info!(config_maps, "claims were changed by somebody else");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            self.scope = Scope::nothing();
            self.recreated.clear();
            self.failures = 0;
            self.problem = None;
            self.statuses.look_at(managed.dirty);
            tell::plan(&self.recorder, &self.view, &self.plan, &plan);
            self.plan = plan;
            return Ok(());
        }
        Err(WorkError::Overtaken)
    }

    /// Starts the writes that there is place for. The claims stand.
    fn write(&mut self) {
        self.examiner.start(&self.settings.server);
        while let Some(key) = self.statuses.take() {
            let server = Arc::clone(&self.settings.server);
            let Some(service) = self.view.cluster.services.get(&key) else {
                self.statuses.forget(&key);
                continue;
            };
            let service = Arc::clone(service);
            let Some(object) = &service.object else {
                continue;
            };
            if self.statuses.is_written_for(&key, &object.version) {
                continue;
            }
            let Some(write) = self.wanted(&service) else {
                continue;
            };
            if let StatusWrite::Set { addresses, .. } = &write
                && addresses
                    .iter()
                    .any(|address| self.standing.stands(*address, &self.plan.allocations))
            {
                self.statuses.block(key);
                continue;
            }
            let version = object.version.clone();
            let Some(seen) = wire::Seen::of(&service) else {
                continue;
            };
            let note = tell::written(&service, &write);
            let write = wire::StatusWrite {
                service: key.clone(),
                seen,
                change: change(&service, write),
            };
            self.statuses.start(&key, &version, note, async move {
                wire::write(&server, &write).await
            });
        }
    }

    fn wanted(&self, service: &Service) -> Option<StatusWrite> {
        let config = &self.view.config;
        let allocations = &self.plan.allocations;
        let not_ours = service.kind != ServiceType::LoadBalancer
            || not_ours(config, allocations, service).is_some();
        let reasons = self.plan.pending.get(&service.key);
        status(
            config,
            service,
            not_ours,
            allocations.addresses(&service.key),
            reasons.map_or(&[], Vec::as_slice),
        )
    }

    /// Waits for an answer, and takes in what came of it.
    pub(super) async fn answered(&mut self) {
        tokio::select! {
            done = self.statuses.next() => {
                if let Some(done) = done {
                    self.written(done);
                }
            }
            examined = self.examiner.next() => match examined {
                Ok(service) => self.scope.add(Dirty::Service(service)),
                Err(StatusError::Call(error)) => self.failed(error.describe(), error.retry_after()),
                Err(error) => self.failed(error.to_string(), None),
            }
        }
    }

    fn written(&mut self, done: Done) {
        let Done {
            service,
            outcome,
            note,
        } = done;
        match outcome {
            Ok(written) => {
                self.failures = 0;
                self.problem = None;
                self.written += 1;
                self.statuses.wrote(&service, &written.version);
                if let Some(note) = note {
                    note.tell(&self.recorder);
                }
            }
            // The watch tells what it is now, or that it is no more.
            Err(StatusError::Outdated | StatusError::Gone) => {}
            Err(error @ StatusError::Contended) => {
                self.statuses.again(service);
                self.failed(error.to_string(), None);
            }
            Err(StatusError::Call(error)) => {
                self.statuses.again(service);
                self.failed(error.describe(), error.retry_after());
            }
        }
    }

    /// The server does not take it: later, and later each time.
    fn failed(&mut self, problem: String, asked: Option<Duration>) {
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(
                error = problem,
                "API server does not take what is to be written"
            );
        }
        self.problem = Some(problem);
        let pause = FIRST_PAUSE
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(LONGEST_PAUSE);
        // The writes that were under way together fail together.
        if self
            .paused_until
            .is_none_or(|until| until <= Instant::now())
        {
            self.failures = self.failures.saturating_add(1);
        }
        let asked = asked.unwrap_or_default().min(LONGEST_PAUSE);
        self.paused_until = Some(Instant::now() + pause.max(asked));
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

/// What is to be sent: addresses that stand already are left out.
fn change(service: &Service, write: StatusWrite) -> wire::StatusChange {
    match write {
        StatusWrite::Set {
            addresses,
            condition,
        } => {
            if says(service, &addresses) {
                wire::StatusChange::Condition(condition)
            } else {
                wire::StatusChange::Set {
                    addresses,
                    condition,
                }
            }
        }
        StatusWrite::Clear => wire::StatusChange::Clear,
        StatusWrite::ClearCondition => wire::StatusChange::ClearCondition,
    }
}
