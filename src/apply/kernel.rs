//! Everything of ours in the kernel, changed in the one order that is safe.
//!
//! For something new: filter and forwarding first, then the address. For something going: the
//! address first, then forwarding and filter, so that no packet for it ever meets a socket of this
//! node. Announcing comes after all this and ends before it; that is the caller's part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use super::forwarder::Forwarder;
use super::ipvs::types::Timeouts;
use super::ipvs::{self, Ipvs};
use super::nftables::{self, Layout, Nftables};
use super::route::{self, Routes};
use super::state_directory::{Journal, StateDirectory};
use super::sysctl::{self, Sysctls};
use super::virtual_servers::{self, SYSCTLS, VirtualServers};
use crate::config::{Config, Datapath};
use crate::model::node_state::NodeState;

/// Why the kernel cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `proxy.datapath` says IPVS, and there is none.
    #[error("proxy.datapath is \"ipvs\": {0}")]
    Ipvs(#[source] ipvs::Error),
    #[error(transparent)]
    Nftables(#[from] nftables::Error),
    #[error(transparent)]
    Routes(#[from] route::Error),
    #[error(transparent)]
    State(#[from] super::state_directory::Error),
}

/// Why the timeouts of IPVS could not be set.
#[derive(Debug, thiserror::Error)]
pub enum TimeoutsError {
    #[error("cannot set the timeouts of IPVS")]
    Ipvs(#[from] ipvs::Error),
    #[error("cannot record the timeouts of IPVS")]
    State(#[from] super::state_directory::Error),
}

/// What one call did.
#[derive(Debug, Default)]
pub struct Report {
    /// Edits by object and operation.
    pub changes: BTreeMap<(&'static str, &'static str), usize>,
    /// What could not be applied.
    pub failures: Vec<Failure>,
    /// Whether filter and forwarding of everything new are in place: only then may it be announced.
    pub forwards: bool,
}

/// Our part of the kernel in this network namespace.
pub struct Kernel {
    nftables: Nftables,
    virtual_servers: Option<VirtualServers>,
    /// What an earlier run on the IPVS datapath left, until it is removed.
    leftover: Option<VirtualServers>,
    routes: Routes,
    sysctls: Sysctls,
    state: Arc<StateDirectory>,
}

impl Kernel {
    /// Opens the sockets and chooses the datapath; changes nothing yet.
    pub fn open(datapath: Datapath, state: Arc<StateDirectory>) -> Result<Self, OpenError> {
        let ipvs = match (datapath, Ipvs::open()) {
            (Datapath::Nftables, _) => None,
            (_, Ok(ipvs)) => Some(ipvs),
            (Datapath::Ipvs, Err(error)) => return Err(OpenError::Ipvs(error)),
            (Datapath::Auto, Err(error)) => {
                tracing::info!(reason = %error, "ipvs cannot be used, nftables forwards");
                None
            }
        };
        let (journal, warnings) = Journal::open(&state)?;
        for warning in warnings {
            tracing::warn!(error = %warning, "some virtual servers may count as foreign");
        }
        let (virtual_servers, leftover) = match ipvs {
            Some(ipvs) => (Some(VirtualServers::new(ipvs, journal)), None),
            // Virtual servers of a run on the other datapath go as soon as nftables forwards.
            None if !journal.is_empty() => {
                let leftover = Ipvs::open()
                    .ok()
                    .map(|ipvs| VirtualServers::new(ipvs, journal));
                (None, leftover)
            }
            None => (None, None),
        };
        let (sysctls, warning) = Sysctls::open(&state)?;
        if let Some(warning) = warning {
            tracing::warn!(error = %warning, "previous values of sysctls are lost");
        }
        Ok(Self {
            nftables: Nftables::open(Layout::new(if virtual_servers.is_some() {
                Forwarder::Ipvs
            } else {
                Forwarder::Nftables
            }))?,
            virtual_servers,
            leftover,
            routes: Routes::open()?,
            sysctls,
            state,
        })
    }

    /// `ipvs` or `nftables`.
    pub fn datapath(&self) -> &'static str {
        if self.virtual_servers.is_some() {
            "ipvs"
        } else {
            "nftables"
        }
    }

    /// The netlink ports of our sockets: notifications that carry one are about our own changes.
    pub fn ports(&self) -> Vec<u32> {
        vec![self.nftables.port(), self.routes.port()]
    }

    /// Netlink messages sent so far, over all sockets.
    pub fn messages(&self) -> u64 {
        self.nftables.counters().messages
            + self.routes.counters().messages
            + self
                .virtual_servers
                .as_ref()
                .map_or(0, |servers| servers.counters().messages)
    }

    /// Virtual servers and real servers in IPVS; zero on the nftables datapath.
    pub fn totals(&self) -> (usize, usize) {
        self.virtual_servers
            .as_ref()
            .map_or((0, 0), VirtualServers::totals)
    }

    /// Sends the difference between two states, at the price of what differs.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState, now: Instant) -> Report {
        let mut report = Report::default();
        if old.sysctls != new.sysctls {
            self.set_sysctls(new, &mut report);
        }
        // What stays held in between: what was and will be.
        let mut between = old.clone();
        between.held = old
            .held
            .iter()
            .filter(|(address, _)| new.held.contains_key(*address))
            .map(|(address, held)| (*address, *held))
            .collect();
        between.service_ranges = old
            .service_ranges
            .iter()
            .filter(|range| new.service_ranges.contains(*range))
            .copied()
            .collect();
        if old.held.ptr_eq(&new.held) && old.service_ranges == new.service_ranges {
            between = old.clone();
        }
        report.routes(self.routes.apply(old, &between));
        let table = self.nftables.apply(old, new);
        if !report.table(table) {
            // An address without its filter would open this node's own ports on it.
            return report;
        }
        if let Some(virtual_servers) = &mut self.virtual_servers {
            report.virtual_servers(virtual_servers.apply(old, new, now));
            let finished = self.nftables.finish();
            report.table(finished);
        }
        report.routes(self.routes.apply(&between, new));
        report.forwards = true;
        report
    }

    /// Compares everything with the state and repairs what differs.
    pub fn repair(&mut self, state: &NodeState, now: Instant) -> Report {
        let mut report = Report::default();
        self.set_sysctls(state, &mut report);
        report.routes(self.routes.prune(state));
        let table = self.nftables.repair(state);
        if !report.table(table) {
            return report;
        }
        if let Some(virtual_servers) = &mut self.virtual_servers {
            report.virtual_servers(virtual_servers.repair(state, now));
        }
        if let Some(leftover) = &mut self.leftover {
            let outcome = leftover.remove_all();
            let removed = outcome.failures.is_empty();
            report.virtual_servers(outcome);
            if removed {
                self.leftover = None;
            }
        }
        report.routes(self.routes.repair(state));
        report.forwards = true;
        report
    }

    fn set_sysctls(&mut self, state: &NodeState, report: &mut Report) {
        let mut wanted = state.sysctls.clone();
        if self.virtual_servers.is_some() {
            wanted.extend(SYSCTLS.map(|(path, value)| (path.to_owned(), value.to_owned())));
        }
        // What an earlier configuration or datapath set, and this one does not want.
        // One that somebody else has changed since is theirs, and no failure of ours.
        let restored = self.sysctls.restore(&self.state, &wanted);
        report.sysctls(restored.map(|outcome| sysctl::Outcome {
            failures: Vec::new(),
            ..outcome
        }));
        report.sysctls(self.sysctls.repair(&self.state, &wanted));
    }

    /// Sets the timeouts of idle connections in IPVS; the ones found are recorded before.
    pub fn set_timeouts(&mut self, config: &Config) -> Result<(), TimeoutsError> {
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        let wanted = Timeouts {
            tcp: seconds(config.proxy.tcp_timeout),
            tcp_fin: seconds(config.proxy.tcp_fin_timeout),
            udp: seconds(config.proxy.udp_timeout),
        };
        let Some(virtual_servers) = &mut self.virtual_servers else {
            return Ok(());
        };
        let found = virtual_servers.timeouts()?;
        if found != wanted {
            if self.state.read_timeouts()?.0.is_none() {
                let found = [found.tcp, found.tcp_fin, found.udp];
                self.state.write_timeouts(Some(found))?;
            }
            virtual_servers.set_timeouts(wanted)?;
        }
        Ok(())
    }

    fn restore_timeouts(&mut self) -> Result<(), TimeoutsError> {
        let Some(virtual_servers) = &mut self.virtual_servers else {
            return Ok(());
        };
        if let (Some([tcp, tcp_fin, udp]), _) = self.state.read_timeouts()? {
            virtual_servers.set_timeouts(Timeouts { tcp, tcp_fin, udp })?;
            self.state.write_timeouts(None)?;
        }
        Ok(())
    }

    /// Whether real servers with weight 0 wait for their connections.
    pub fn drains(&self) -> bool {
        self.virtual_servers
            .as_ref()
            .is_some_and(VirtualServers::drains)
    }

    /// Removes the draining real servers that `finished` lets go; it is told age and connections.
    pub fn drain(&mut self, now: Instant, finished: impl Fn(Duration, u32) -> bool) -> Report {
        let mut report = Report {
            forwards: true,
            ..Report::default()
        };
        let Some(virtual_servers) = &mut self.virtual_servers else {
            return report;
        };
        match virtual_servers.draining() {
            Ok(draining) => {
                let gone: Vec<_> = draining
                    .into_iter()
                    .filter(|draining| {
                        finished(
                            now.saturating_duration_since(draining.since),
                            draining.connections,
                        )
                    })
                    .collect();
                if !gone.is_empty() {
                    report.virtual_servers(virtual_servers.remove_drained(&gone));
                }
            }
            Err(error) => report
                .failures
                .push(Failure::new("virtual_server", "draining", &error)),
        }
        report
    }

    /// Removes everything of ours and puts sysctls back.
    pub fn remove_all(&mut self) -> Report {
        let mut report = Report::default();
        report.routes(self.routes.remove_all());
        if let Some(virtual_servers) = &mut self.virtual_servers {
            report.virtual_servers(virtual_servers.remove_all());
        }
        match self.nftables.remove() {
            Ok(removed) => report.count("table", "remove", usize::from(removed)),
            Err(error) => report
                .failures
                .push(Failure::new("table", "inet edgelb", &error)),
        }
        if let Err(error) = self.restore_timeouts() {
            report
                .failures
                .push(Failure::new("virtual_server", "timeouts", &error));
        }
        report.sysctls(self.sysctls.restore(&self.state, &BTreeMap::new()));
        report
    }
}

impl Report {
    fn count(&mut self, object: &'static str, operation: &'static str, number: usize) {
        if number > 0 {
            *self.changes.entry((object, operation)).or_default() += number;
        }
    }

    /// Takes in what the table did; false where it failed.
    fn table(&mut self, result: Result<nftables::Changes, nftables::Error>) -> bool {
        match result {
            Ok(changes) => {
                self.count("element", "add", changes.added);
                self.count("element", "remove", changes.removed);
                self.count("table", "add", usize::from(changes.rebuilt));
                true
            }
            Err(error) => {
                self.failures
                    .push(Failure::new("table", "inet edgelb", &error));
                false
            }
        }
    }

    fn virtual_servers(&mut self, outcome: virtual_servers::Outcome) {
        self.count("virtual_server", "add", outcome.virtual_servers_added);
        self.count("virtual_server", "change", outcome.virtual_servers_changed);
        self.count("virtual_server", "remove", outcome.virtual_servers_removed);
        self.count("real_server", "add", outcome.real_servers_added);
        self.count("real_server", "change", outcome.real_servers_changed);
        self.count("real_server", "remove", outcome.real_servers_removed);
        self.failures.extend(outcome.failures);
    }

    fn routes(&mut self, result: Result<route::Outcome, route::Error>) {
        match result {
            Ok(outcome) => {
                self.count("route", "add", outcome.added);
                self.count("route", "change", outcome.replaced);
                self.count("route", "remove", outcome.removed);
                self.failures.extend(
                    outcome.failures.iter().map(|failure| {
                        Failure::new("route", &failure.prefix().to_string(), failure)
                    }),
                );
            }
            Err(error) => self
                .failures
                .push(Failure::new("route", "table local", &error)),
        }
    }

    fn sysctls(&mut self, result: Result<sysctl::Outcome, super::state_directory::Error>) {
        match result {
            Ok(outcome) => {
                self.count("sysctl", "change", outcome.written.len());
                self.failures.extend(
                    outcome
                        .failures
                        .iter()
                        .map(|failure| Failure::new("sysctl", failure.path(), failure)),
                );
            }
            Err(error) => {
                self.failures
                    .push(Failure::new("state_directory", "sysctls.json", &error));
            }
        }
    }
}
