//! Gathers what the followers tell into one cluster, and passes on what differs.
//!
//! ```text
//! services ───────► follower ─┐
//! endpointslices ─► follower ─┼─ Report ─► Gatherer ─┬─ SourceEvent ──► reconciler
//! nodes ──────────► follower ─┤               ▲      ├─ SourceStatus ─► status, metrics
//! namespaces ─────► follower ─┤               │      │
//! servicecidrs ───► follower ─┘               └──────┴─ cluster ──────► the recorded cluster
//! ```
//!
//! Namespaces and `ServiceCIDRs` are followed only where somebody asks for them. Nothing is passed on before the lists of
//! all that is followed and required are complete, or the cluster as it was recorded has
//! to do (RUN-1). An object is taken away only where the server said so.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::follow::{Follower, Item, News, Report};
use super::kind::{ObjectKey, Watched};
use super::problems::Problems;
use super::share::Shared;
use super::timing::Timing;
use crate::api_server::client::Credentials;
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::source::{SourceEvent, SourceProblem, SourceStatus};

/// Reports that may wait; a follower that is faster waits itself, and the server with it.
const WAITING_REPORTS: usize = 16;

/// Where the last complete cluster is recorded.
pub trait Record: Send + Sync + 'static {
    /// What was recorded, if there is anything.
    fn load(&self) -> Result<Option<ClusterState>, String>;
    /// Replaces it, whole or not at all. Blocks.
    fn save(&self, cluster: &ClusterState) -> Result<(), String>;
}

/// What the source works with.
pub struct Settings {
    pub credentials: Credentials,
    pub timing: Timing,
    /// What to follow; [`Watched::ALWAYS`] at least.
    pub kinds: Vec<Watched>,
    /// `None`: nothing is recorded.
    pub record: Option<Arc<dyn Record>>,
}

/// Follows the API server until `stop` says `true` (or its sender or the events' receiver is gone).
pub async fn run(
    settings: Settings,
    events: mpsc::Sender<SourceEvent>,
    status: watch::Sender<SourceStatus>,
    mut stop: watch::Receiver<bool>,
) {
    let (sender, reports) = mpsc::channel(WAITING_REPORTS);
    let mut followers = JoinSet::new();
    for &watched in &settings.kinds {
        let follower = Follower::new(
            watched,
            settings.credentials.clone(),
            settings.timing.clone(),
            sender.clone(),
        );
        followers.spawn(follower.follow());
    }
    drop(sender);
    let mut gatherer = Gatherer::new(settings, events, status);
    let told = tokio::select! {
        () = gatherer.gather(reports) => false,
        _ = stop.wait_for(|stop| *stop) => true,
        // They end with the gatherer only: one that panicked takes the daemon down.
        _ = followers.join_next() => false,
    };
    if told {
        gatherer.save_the_rest().await;
    }
}

/// Nobody listens any more.
struct Deaf;

struct Gatherer {
    cluster: ClusterState,
    shared: Shared,
    /// Whether the cluster was passed on, and [`SourceEvent::Complete`] after it.
    open: bool,
    /// Whose first list is complete.
    listed: BTreeSet<Watched>,
    alive: BTreeSet<Watched>,
    lost: BTreeMap<Watched, (SystemTime, String)>,
    problems: Problems,
    record_problem: Option<String>,
    /// Parts of the cluster are as they were recorded.
    from_record: bool,
    started: SystemTime,
    last_event: Option<SystemTime>,
    /// Differs from what is recorded.
    unrecorded: bool,
    timing: Timing,
    kinds: Vec<Watched>,
    record: Option<Arc<dyn Record>>,
    /// The write that is under way; never two, so that an older one cannot overtake.
    saving: JoinSet<Result<(), String>>,
    events: mpsc::Sender<SourceEvent>,
    status: watch::Sender<SourceStatus>,
}

impl Gatherer {
    fn new(
        settings: Settings,
        events: mpsc::Sender<SourceEvent>,
        status: watch::Sender<SourceStatus>,
    ) -> Self {
        let mut gatherer = Self {
            cluster: ClusterState::default(),
            shared: Shared::default(),
            open: false,
            listed: BTreeSet::new(),
            alive: BTreeSet::new(),
            lost: BTreeMap::new(),
            problems: Problems::default(),
            record_problem: None,
            from_record: false,
            started: SystemTime::now(),
            last_event: None,
            unrecorded: false,
            timing: settings.timing,
            kinds: settings.kinds,
            record: settings.record,
            saving: JoinSet::new(),
            events,
            status,
        };
        match gatherer.record.as_ref().map(|record| record.load()) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(cluster))) => {
                gatherer.cluster = gatherer.shared.cluster(cluster);
                if !gatherer.kinds.contains(&Watched::Namespaces) {
                    // Recorded when they were followed: nobody would take them away again.
                    gatherer.cluster.namespaces.clear();
                }
                if !gatherer.kinds.contains(&Watched::ServiceCidrs) {
                    gatherer.cluster.service_cidrs.clear();
                }
                gatherer.from_record = true;
            }
            Some(Err(error)) => {
                tracing::warn!(error, "recorded cluster cannot be read");
                gatherer.record_problem = Some(error);
            }
        }
        gatherer
    }

    async fn gather(&mut self, mut reports: mpsc::Receiver<Report>) {
        let mut patience = self
            .from_record
            .then(|| Instant::now() + self.timing.snapshot_patience);
        let mut next_save = Instant::now();
        self.publish();
        loop {
            let save = self.unrecorded && self.is_complete() && self.saving.is_empty();
            let save_due = save.then_some(next_save);
            let done = tokio::select! {
                report = reports.recv() => match report {
                    None => return,
                    Some(report) => {
                        let mut changes = Vec::new();
                        self.take_in(report, &mut changes);
                        // A burst goes on as one.
                        while let Ok(report) = reports.try_recv() {
                            self.take_in(report, &mut changes);
                        }
                        self.pass_on(changes).await
                    }
                },
                () = until(patience) => {
                    patience = None;
                    self.resort_to_record().await
                }
                () = until(save_due) => {
                    next_save = Instant::now() + self.timing.snapshot_interval;
                    self.save();
                    continue;
                }
                Some(saved) = self.saving.join_next() => {
                    self.saved(saved.unwrap_or_else(|error| Err(error.to_string())));
                    Ok(())
                }
            };
            if done.is_err() {
                return;
            }
            self.publish();
        }
    }

    /// Whether the first list of each kind is complete: what is known is no older than this start.
    fn is_complete(&self) -> bool {
        self.required().all(|kind| self.listed.contains(&kind))
    }

    fn required(&self) -> impl Iterator<Item = Watched> + '_ {
        let kinds = self.kinds.iter().copied();
        kinds.filter(|kind| kind.is_required())
    }

    fn take_in(&mut self, report: Report, changes: &mut Vec<ClusterChange>) {
        let Report { watched, news } = report;
        match news {
            News::Objects(items) => {
                self.last_event = Some(SystemTime::now());
                for item in items {
                    self.item(watched, item, changes);
                }
            }
            News::Listed(keys) => {
                self.last_event = Some(SystemTime::now());
                self.listed(watched, &keys, changes);
            }
            News::Alive => {
                self.alive.insert(watched);
                if self.lost.remove(&watched).is_some() {
                    tracing::info!(kind = %watched, "API server is heard again");
                }
            }
            News::Heard => self.last_event = Some(SystemTime::now()),
            News::Lost { since, reason } => {
                self.alive.remove(&watched);
                let known = self.lost.get(&watched).map(|(_, known)| known);
                if known != Some(&reason) {
                    tracing::warn!(kind = %watched, error = reason, "API server is not heard");
                }
                self.lost.insert(watched, (since, reason));
            }
        }
    }

    fn item(&mut self, watched: Watched, item: Item, changes: &mut Vec<ClusterChange>) {
        match item {
            Item::Read(read) => {
                let kept = self.has(watched, &read.key);
                self.problems.object(watched, &read, kept);
                if let Ok(change) = read.change {
                    self.change(change, changes);
                }
            }
            Item::Gone(key) => {
                self.problems.forget(watched, &key);
                self.change(watched.gone(&key), changes);
            }
            Item::Nameless(error) => self.problems.nameless(watched, &error),
        }
    }

    fn has(&self, watched: Watched, key: &ObjectKey) -> bool {
        match watched.gone(key) {
            ClusterChange::ServiceGone(key) => self.cluster.services.contains_key(&key),
            ClusterChange::SliceGone(key) => self.cluster.slices.contains_key(&key),
            ClusterChange::NodeGone(name) => self.cluster.nodes.contains_key(&name),
            ClusterChange::NamespaceGone(name) => self.cluster.namespaces.contains_key(&name),
            ClusterChange::ServiceCidrGone(name) => self.cluster.service_cidrs.contains_key(&name),
            _ => false,
        }
    }

    /// A list is complete: what is known and not in it is gone.
    fn listed(
        &mut self,
        watched: Watched,
        keys: &HashSet<ObjectKey>,
        changes: &mut Vec<ClusterChange>,
    ) {
        for key in watched.keys(&self.cluster) {
            if !keys.contains(&key) {
                self.change(watched.gone(&key), changes);
            }
        }
        self.problems.retain(watched, |key| keys.contains(key));
        self.listed.insert(watched);
        if self.from_record && self.is_complete() {
            self.from_record = false;
            tracing::info!("recorded cluster is replaced by the API server's");
        }
    }

    /// Folds a change in; it goes on where it makes a difference.
    fn change(&mut self, mut change: ClusterChange, changes: &mut Vec<ClusterChange>) {
        self.shared.change(&mut change);
        let passed_on = change.clone();
        if !self.cluster.apply(change).is_empty() {
            self.unrecorded = true;
            if self.open {
                changes.push(passed_on);
            }
        }
    }

    async fn pass_on(&mut self, changes: Vec<ClusterChange>) -> Result<(), Deaf> {
        if self.open {
            if changes.is_empty() {
                return Ok(());
            }
            return self.send(SourceEvent::Changes(changes)).await;
        }
        if self.is_complete() {
            return self.open().await;
        }
        Ok(())
    }

    /// The first complete cluster goes on whole.
    async fn open(&mut self) -> Result<(), Deaf> {
        self.open = true;
        // Whether it is a recorded cluster is told before it.
        self.publish();
        let everything = self.everything();
        self.send(SourceEvent::Changes(everything)).await?;
        self.send(SourceEvent::Complete).await
    }

    async fn resort_to_record(&mut self) -> Result<(), Deaf> {
        if self.open {
            return Ok(());
        }
        tracing::warn!("API server does not answer, going on from the recorded cluster");
        self.open().await
    }

    fn everything(&self) -> Vec<ClusterChange> {
        let cluster = &self.cluster;
        let services = cluster.services.values().cloned();
        let slices = cluster.slices.values().cloned();
        let nodes = cluster.nodes.values().cloned();
        let namespaces = cluster.namespaces.values().cloned();
        let service_cidrs = cluster.service_cidrs.iter();
        let service_cidrs = service_cidrs.map(|(name, ranges)| (name.clone(), Arc::clone(ranges)));
        services
            .map(ClusterChange::Service)
            .chain(slices.map(ClusterChange::Slice))
            .chain(nodes.map(ClusterChange::Node))
            .chain(namespaces.map(ClusterChange::Namespace))
            .chain(service_cidrs.map(|(name, ranges)| ClusterChange::ServiceCidr(name, ranges)))
            .collect()
    }

    async fn send(&self, event: SourceEvent) -> Result<(), Deaf> {
        self.events.send(event).await.map_err(|_| Deaf)
    }

    /// Records the cluster.
    fn save(&mut self) {
        let Some(record) = self.record.clone() else {
            self.unrecorded = false;
            return;
        };
        self.unrecorded = false;
        let cluster = self.cluster.clone();
        self.saving.spawn_blocking(move || record.save(&cluster));
    }

    /// What the bounded rate has held back, at the end.
    async fn save_the_rest(&mut self) {
        while self.saving.join_next().await.is_some() {}
        if self.unrecorded && self.is_complete() {
            self.save();
            while let Some(saved) = self.saving.join_next().await {
                self.saved(saved.unwrap_or_else(|error| Err(error.to_string())));
            }
        }
    }

    fn saved(&mut self, saved: Result<(), String>) {
        if let Err(error) = &saved {
            tracing::warn!(error, "cluster cannot be recorded");
            // Tried again when the interval is over.
            self.unrecorded = true;
        }
        self.record_problem = saved.err();
    }

    fn publish(&self) {
        let connected = self.required().all(|kind| self.alive.contains(&kind));
        let required = self.lost.iter().filter(|(kind, _)| kind.is_required());
        let since = required.map(|(_, (since, _))| *since).min();
        let mut problems = self.problems.list();
        let problem = |file: &str, message: String| SourceProblem {
            file: file.to_owned(),
            line: None,
            field: None,
            message,
            keeps_last_good: self.open,
        };
        for (watched, (_, reason)) in &self.lost {
            problems.push(problem(&watched.to_string(), reason.clone()));
        }
        if let Some(error) = &self.record_problem {
            problems.push(problem("cluster.json", error.clone()));
        }
        problems.sort();
        let new = SourceStatus {
            connected,
            blind_since: (!connected).then(|| since.unwrap_or(self.started)),
            from_snapshot: self.open && self.from_record,
            last_event: self.last_event,
            problems,
            ignored: self.problems.ignored(),
        };
        self.status.send_if_modified(|old| {
            let differs = *old != new;
            *old = new;
            differs
        });
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
