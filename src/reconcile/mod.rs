//! One pass: what changed → plan → kernel → announcement. Owns the only mutable state of the daemon;
//! it and `daemon.rs` are the only places that see both what decides and what applies.

mod agreement;
#[cfg(test)]
mod agreement_tests;
mod intake;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use agreement::Agreement;

use crate::admin::applied::{Applied, Ended};
use crate::admin::snapshot::{Failure, PassSummary, Snapshot};
use crate::allocator::AllocatorStatus;
use crate::apply::kernel::{Kernel, Report, Standing};
use crate::apply::state_directory::StateDirectory;
use crate::config::Config;
use crate::membership::counters::MembershipCounters;
use crate::model::allocation::Allocations;
use crate::model::host::Host;
use crate::model::peer::Exceptions;
use crate::plan::addresses::AddressSource;
use crate::plan::announcement::relevant;
use crate::plan::drain::{Draining, finished};
use crate::plan::ownership::moves;
use crate::plan::{Inputs, Plan, Scope, replan};
use crate::publisher::Publisher;
use crate::source::SourceStatus;

/// The first retry after a failure; doubled up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Failures of one pass that are logged one by one.
const MOST_LOGGED: usize = 10;
/// How often draining real servers are looked at.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the kernel holds what the last plan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// It does, but for single items that failed: the next pass sends differences.
    Known,
    /// A transaction failed, or was put off: the next pass compares, whenever it comes.
    Unknown,
    /// Somebody may have changed it: compare now.
    Look,
}

/// The daemon's state and what it needs to act on it.
pub struct Reconciler {
    config: Arc<Config>,
    config_problem: Option<String>,
    /// All of the host, also what no decision depends on.
    host: Host,
    inputs: Inputs,
    plan: Plan,
    scope: Scope,
    /// Other nodes may own VIPs now, or may not any more.
    reasons_changed: bool,
    source: SourceStatus,
    /// For admin alone.
    membership: MembershipCounters,
    /// Absent where there is none.
    allocator: Option<AllocatorStatus>,
    /// The first complete list of the source is here: before it nothing is touched (RUN-1).
    complete: bool,
    /// The allocations that are on the disk.
    saved: Allocations,
    /// Addresses that the kernel does not serve whole, although they are planned.
    unserved: BTreeSet<IpAddr>,
    trust: Trust,
    /// The kernel is as an earlier run left it.
    adopted: Option<Standing>,
    /// The host or the configuration changed since the first pass.
    moved_on: bool,
    /// When the oldest event that no pass has seen came in.
    waiting_since: Option<Instant>,
    retry: Option<(Instant, Duration)>,
    next_drain: Option<Instant>,
    kernel: Kernel,
    state: Arc<StateDirectory>,
    publisher: Publisher,
    agreement: Agreement,
    /// Who holds which address by the word of the other nodes.
    others: Allocations,
    /// What draining changed since the last pass.
    drained: BTreeMap<(&'static str, &'static str), usize>,
    started: SystemTime,
    pass: PassSummary,
    applied: Applied,
}

impl Reconciler {
    /// Starts from what was given out before; touches nothing yet.
    pub fn new(
        config: Arc<Config>,
        host: Host,
        kernel: Kernel,
        state: Arc<StateDirectory>,
        allocations: Allocations,
        publisher: Publisher,
    ) -> Self {
        let saved = allocations.clone();
        let inputs = Inputs {
            node: config.node.name.clone(),
            host: relevant(&config, &host),
            address_source: config.source.kind.into(),
            masquerades_only: kernel.datapath() == "nftables",
            allocations,
            ..Inputs::default()
        };
        Self {
            config,
            config_problem: None,
            host,
            inputs,
            plan: Plan::default(),
            scope: Scope::Everything,
            reasons_changed: false,
            source: SourceStatus::default(),
            membership: MembershipCounters::default(),
            allocator: None,
            complete: false,
            saved,
            unserved: BTreeSet::new(),
            trust: Trust::Look,
            adopted: None,
            moved_on: false,
            waiting_since: None,
            retry: None,
            next_drain: None,
            kernel,
            state,
            publisher,
            agreement: Agreement::default(),
            others: Allocations::default(),
            drained: BTreeMap::new(),
            started: SystemTime::now(),
            pass: PassSummary::default(),
            applied: Applied::default(),
        }
    }

    /// The addresses of all Nodes: where their daemons may be found.
    pub fn node_addresses(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let nodes = self.inputs.cluster.nodes.iter();
        nodes
            .filter(|(_, node)| !node.deleting)
            .map(|(name, node)| (name.clone(), node.addresses.clone()))
            .collect()
    }

    /// Who holds which address, where nodes agree on that among themselves.
    pub fn agreed_allocations(&self) -> Option<&Allocations> {
        let here = self.inputs.address_source == AddressSource::Here;
        here.then_some(&self.inputs.allocations)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn wait(&mut self, now: Instant) {
        self.waiting_since.get_or_insert(now);
    }

    /// When the next pass is due, if any: at once, or when a retry or a look at draining is.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if !self.may_pass() {
            return None;
        }
        let event = (self.waiting_since.is_some() || self.trust == Trust::Look).then_some(now);
        [
            event,
            self.retry.map(|(at, _)| at),
            self.next_drain,
            self.agreement.due(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether there is enough to plan from: the first complete list and, where addresses are given out
    /// by agreement, what the others gave out.
    fn may_pass(&self) -> bool {
        let agrees = self.inputs.address_source == AddressSource::Here;
        let peers = &self.inputs.peers;
        self.complete && !(agrees && peers.enabled && !peers.settled && self.pass.number == 0)
    }

    /// Whether a pass is to be made, and not only a look at what drains.
    fn wants_pass(&self, now: Instant) -> bool {
        self.waiting_since.is_some()
            || self.agreement.due().is_some_and(|at| at <= now)
            || self.trust == Trust::Look
            || self.retry_is_due(now)
    }

    fn retry_is_due(&self, now: Instant) -> bool {
        self.retry.is_some_and(|(at, _)| at <= now)
    }

    /// Makes one pass, or looks at what drains, whichever is due.
    pub async fn run(&mut self, now: Instant) {
        if !self.may_pass() {
            return;
        }
        if self.wants_pass(now) {
            self.pass(now).await;
        }
        if self.next_drain.is_some_and(|at| at <= now)
            || (self.next_drain.is_none() && self.kernel.drains())
        {
            let deadline = self.config.proxy.drain_deadline;
            let report = self
                .kernel
                .drain(now, &self.plan.state, |age, connections| {
                    finished(Draining { age, connections }, deadline)
                });
            for failure in &report.failures {
                warn(failure);
                // A comparison would end no connection: that is tried again by itself, later.
                if failure.kind != "conntrack" {
                    self.trust = Trust::Look;
                }
            }
            self.drained.extend(report.changes);
            self.next_drain = self.kernel.drains().then(|| now + DRAIN_INTERVAL);
        }
    }

    async fn pass(&mut self, now: Instant) {
        let mut scope = std::mem::replace(&mut self.scope, Scope::nothing());
        self.agree(&mut scope, now);
        let repair = self.trust != Trust::Known || self.retry_is_due(now);
        self.inputs.nodes_known |= !self.inputs.cluster.nodes.is_empty();
        let waiting_since = self.waiting_since.take();
        let plan = if scope.is_empty() && !std::mem::take(&mut self.reasons_changed) {
            self.plan.clone()
        } else {
            replan(&self.config, &self.inputs, &self.plan, &scope)
        };
        tracing::debug!(
            services = plan.services.len(),
            frontends = plan.state.frontends.len(),
            duration_ms = now.elapsed().as_secs_f64() * 1000.0,
            "plan made"
        );
        let mut failures = Vec::new();
        if self.inputs.address_source == AddressSource::Here {
            self.inputs.allocations = plan.addresses.allocations.clone();
            failures.extend(self.save_allocations());
        }
        self.log_ownership(&plan);
        self.publisher.withdraw(&plan.groups).await;
        let mut report = if self.adopts() {
            Report::unchanged()
        } else if repair {
            self.kernel.repair(&plan.state, now)
        } else {
            self.kernel.apply(&self.plan.state, &plan.state, now)
        };
        let ended = Ended {
            forwards: report.forwards,
            repaired: repair,
            failures: &report.failures,
        };
        (self.applied).pass_ended(&plan.state, &ended, waiting_since.unwrap_or(now));
        failures.append(&mut report.failures);
        if report.forwards {
            let nodes = Arc::clone(&plan.nodes);
            // What an earlier pass could not do stays undone until a comparison.
            if repair {
                self.unserved.clear();
            }
            self.unserved.append(&mut report.unserved);
            // NodePorts and ClusterIPs have no owner.
            let vips = (self.unserved.iter()).filter(|vip| plan.ownership.contains_key(*vip));
            let exceptions = Exceptions::of(vips.copied(), plan.exceptions());
            (self.publisher).publish(plan.groups.clone(), nodes, exceptions);
        }
        self.plan = plan;
        self.trust = if report.forwards && !report.uncertain {
            Trust::Known
        } else {
            Trust::Unknown
        };
        if repair || !failures.is_empty() {
            self.retry = self.next_retry(!failures.is_empty());
        } else if self.retry.is_some() {
            // What failed before is still to be tried again, and still to be shown.
            failures.clone_from(&self.pass.failures);
        }
        for (change, number) in std::mem::take(&mut self.drained) {
            *report.changes.entry(change).or_default() += number;
        }
        self.finish(now, waiting_since, report, failures);
    }

    /// Whether the kernel is left as it is: an earlier run's state is newer than the record of the
    /// cluster that this run has to do with until the API server is heard. Nothing is taken away
    /// before there is a complete list (RUN-1). Once somebody else changed what stands there, or the
    /// host or the configuration did change, the record is the best there is.
    fn adopts(&mut self) -> bool {
        let as_started = self.adopted.is_some() || self.pass.number == 0;
        let standing = (self.source.from_snapshot && as_started && !self.moved_on)
            .then(|| self.kernel.standing())
            .flatten();
        let as_left = self.adopted.is_none() || self.adopted == standing;
        self.adopted = standing.filter(|_| as_left);
        self.adopted.is_some()
    }

    /// What was given out is on disk before anybody can see it. A full disk stops nothing: the
    /// addresses are known as long as this process lives, and it is tried again.
    fn save_allocations(&mut self) -> Option<Failure> {
        if self.saved == self.inputs.allocations {
            return None;
        }
        match self.state.write_allocations(&self.inputs.allocations) {
            Ok(()) => {
                self.saved = self.inputs.allocations.clone();
                None
            }
            Err(error) => Some(Failure::new("state_directory", "allocations.json", &error)),
        }
    }

    /// When to try again what failed, later each time.
    fn next_retry(&self, failed: bool) -> Option<(Instant, Duration)> {
        let delay = self
            .retry
            .map_or(FIRST_RETRY, |(_, delay)| (delay * 2).min(LONGEST_RETRY));
        failed.then(|| (Instant::now() + delay, delay))
    }

    /// Books the pass.
    fn finish(
        &mut self,
        now: Instant,
        waiting_since: Option<Instant>,
        report: Report,
        failures: Vec<Failure>,
    ) {
        for failure in failures.iter().take(MOST_LOGGED) {
            warn(failure);
        }
        if let Some(more) = failures
            .len()
            .checked_sub(MOST_LOGGED)
            .filter(|more| *more > 0)
        {
            tracing::warn!(more, "more could not be applied, edgelb status tells all");
        }
        let finished = Instant::now();
        self.pass = PassSummary {
            number: self.pass.number + 1,
            finished: Some(SystemTime::now()),
            duration: finished.saturating_duration_since(now),
            latency: waiting_since.map(|since| finished.saturating_duration_since(since)),
            changes: report.changes,
            failures,
        };
        tracing::debug!(
            number = self.pass.number,
            duration_ms = self.pass.duration.as_secs_f64() * 1000.0,
            failures = self.pass.failures.len(),
            "pass finished"
        );
    }

    fn log_ownership(&self, plan: &Plan) {
        for (vip, before, after) in moves(&self.plan.ownership, &plan.ownership) {
            tracing::info!(%vip, from = before, to = after, "vip changed its owner");
        }
    }

    /// What membership counts, for admin to tell.
    pub fn show_membership(&mut self, counters: MembershipCounters) {
        self.membership = counters;
    }

    /// The picture that admin tells from.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            config: Arc::clone(&self.config),
            config_problem: self.config_problem.clone(),
            datapath: self.kernel.datapath(),
            started: self.started,
            inputs: Arc::new(self.inputs.clone()),
            plan: Arc::new(self.plan.clone()),
            source: self.source.clone(),
            allocator: self.allocator.clone(),
            pass: self.pass.clone(),
            applied: self.applied.clone(),
            ready: self.is_ready(),
            membership: self.membership.clone(),
        }
    }

    /// Whether the kernel forwards by the plan.
    pub fn is_ready(&self) -> bool {
        self.applied.in_force()
    }
}

fn warn(failure: &Failure) {
    tracing::warn!(
        kind = failure.kind,
        object = failure.object,
        error = failure.message,
        "could not be applied, will be tried again"
    );
}
