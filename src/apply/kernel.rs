//! Everything of ours in the kernel, changed in the one order that is safe.
//!
//! For something new: filter and forwarding first, then the address. For something going: the
//! address first, then forwarding and filter, so that no packet for it ever meets a socket of this
//! node. Announcing comes after all this and ends before it; that is the caller's part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Failure;
use super::conntrack::{self, Conntrack};
use super::departures::Departures;
use super::fence::Fence;
use super::forwarder::Forwarder;
use super::handover::Handover;
use super::ipvs::Ipvs;
use super::ipvs::types::Timeouts;
pub use super::kernel_error::{OpenError, TimeoutsError};
use super::nftables::{self, Layout, Nftables};
use super::reach::Reach;
pub use super::report::Report;
use super::route::Routes;
use super::state_directory::{Journal, StateDirectory};
use super::sysctl::{self, Sysctls};
use super::virtual_servers::{SYSCTLS, VirtualServers};
use crate::config::{Config, Datapath};
use crate::model::family::Family;
use crate::model::node_state::NodeState;
use crate::model::sysctl::Sysctl;

/// The settings that make this node a router.
const FORWARDING: [(Family, &str); 2] = [
    (Family::V4, "net/ipv4/ip_forward"),
    (Family::V6, "net/ipv6/conf/all/forwarding"),
];

/// What stands in the kernel by which packets are forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    elements: nftables::Digest,
    routes: BTreeSet<String>,
    serving: BTreeSet<String>,
}

/// Our part of the kernel in this network namespace.
pub struct Kernel {
    nftables: Nftables,
    virtual_servers: Option<VirtualServers>,
    /// What an earlier run on the IPVS datapath left, until it is removed.
    leftover: Option<VirtualServers>,
    routes: Routes,
    conntrack: Conntrack,
    departures: Departures,
    sysctls: Sysctls,
    state: Arc<StateDirectory>,
    reach: Reach,
}

impl Kernel {
    /// Opens the sockets and chooses the datapath; changes nothing yet.
    pub fn open(datapath: Datapath, state: Arc<StateDirectory>) -> Result<Self, OpenError> {
        Self::open_for(datapath, state, &Reach::Kernel)
    }

    /// The same for no more than this: what would be changed beyond it is noted.
    pub fn open_for(
        datapath: Datapath,
        state: Arc<StateDirectory>,
        reach: &Reach,
    ) -> Result<Self, OpenError> {
        let ipvs = match (datapath, Ipvs::open_for(reach.access())) {
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
        let over = |ipvs, journal| VirtualServers::new(ipvs, journal, reach.clone());
        let (virtual_servers, leftover) = match ipvs {
            Some(ipvs) => (Some(over(ipvs, journal)), None),
            // Virtual servers of a run on the other datapath go as soon as nftables forwards.
            None if !journal.is_empty() => {
                let leftover = Ipvs::open_for(reach.access())
                    .ok()
                    .map(|ipvs| over(ipvs, journal));
                (None, leftover)
            }
            None => (None, None),
        };
        let (sysctls, warning) = Sysctls::open_for(&state, reach.clone())?;
        if let Some(warning) = warning {
            tracing::warn!(error = %warning, "previous values of sysctls are lost");
        }
        let forwarder = if virtual_servers.is_some() {
            Forwarder::Ipvs
        } else {
            Forwarder::Nftables
        };
        Ok(Self {
            nftables: Nftables::open_for(Layout::new(forwarder), reach.clone())?,
            virtual_servers,
            leftover,
            routes: Routes::open_for(reach.clone())?,
            conntrack: Conntrack::open_for(forwarder, reach.clone())?,
            departures: Departures::default(),
            sysctls,
            state,
            reach: reach.clone(),
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
            + self.conntrack.counters().messages
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

    /// What an earlier run of this version and datapath left in the kernel, if it left anything to
    /// forward by. Equal as long as nobody changes it.
    pub fn standing(&mut self) -> Option<Standing> {
        // What cannot be read is for the repair to tell.
        let elements = self.nftables.fingerprint().ok().flatten()?;
        let routes = self.routes.ours().ok()?;
        let serving = match &mut self.virtual_servers {
            Some(virtual_servers) => virtual_servers.serving().ok()?,
            None => BTreeSet::new(),
        };
        let standing = Standing {
            elements,
            routes,
            serving,
        };
        (self.leftover.is_none() && !standing.routes.is_empty()).then_some(standing)
    }

    /// Sends the difference between two states, at the price of what differs.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState, now: Instant) -> Report {
        self.send(old, new, now).telling_once()
    }

    /// Compares everything with the state and repairs what differs.
    pub fn repair(&mut self, state: &NodeState, now: Instant) -> Report {
        self.compare(state, now).telling_once()
    }

    fn send(&mut self, old: &NodeState, new: &NodeState, now: Instant) -> Report {
        let mut report = Report::default();
        let router = old.sysctls != new.sysctls || old.pod_ranges != new.pod_ranges;
        if router && self.layout(new) != self.nftables.layout() {
            return self.compare(new, now);
        }
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
            let outcome = virtual_servers.apply(old, new, now);
            let finished = self.nftables.finish(new, &outcome.refused);
            report.virtual_servers(outcome);
            let finished = report.table(finished);
            report.uncertain |= !finished;
        }
        report.routes(self.routes.apply(&between, new));
        report.conntrack(self.conntrack.settle(new, false));
        self.departures.note(&new.frontends, now);
        report.forwards = true;
        report
    }

    fn compare(&mut self, state: &NodeState, now: Instant) -> Report {
        let mut report = Report::default();
        report.routes(self.routes.prune(state));
        self.nftables.set_layout(self.layout(state));
        let table = self.nftables.repair(state);
        if !report.table(table) {
            return report;
        }
        // After the table: a node that becomes a router has the chain that says for whom.
        let waits = self.set_sysctls(state, &mut report);
        if let Some(virtual_servers) = &mut self.virtual_servers {
            let outcome = virtual_servers.repair(state, now);
            let finished = self.nftables.finish(state, &outcome.refused);
            report.virtual_servers(outcome);
            let finished = report.table(finished);
            report.uncertain |= !finished;
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
        if waits {
            // The table may have brought connection tracking along.
            self.set_sysctls(state, &mut report);
        }
        // What had to be repaired may have let flows begin that lead elsewhere.
        let repaired = !report.changes.is_empty();
        if self.reach.looks() {
            report.conntrack(self.conntrack.settle(state, repaired));
        }
        self.departures.note(&state.frontends, now);
        report.forwards = true;
        report
    }

    /// The table for a state: where it is edgelb that makes this node a router, nothing else than
    /// Services and pods passes through it that did not before. Where nothing tells a pod, what comes
    /// from pods cannot be let through alone.
    fn layout(&self, state: &NodeState) -> Layout {
        let pods_are_told = |family: &Family| {
            let mut ranges = state.pod_ranges.iter();
            !state.pod_interfaces.is_empty()
                || ranges.any(|range| Family::of(range.addr()) == *family)
        };
        let ours = FORWARDING.into_iter().filter(|(family, path)| {
            pods_are_told(family)
                && state.sysctls.contains_key(*path)
                && self.sysctls.previous(path).as_deref() == Some("0")
        });
        let ours: Vec<Family> = ours.map(|(family, _)| family).collect();
        Layout::new(self.nftables.layout().datapath).restrict_forwarding(&ours)
    }

    /// Returns whether some wait for their module.
    fn set_sysctls(&mut self, state: &NodeState, report: &mut Report) -> bool {
        let mut wanted = state.sysctls.clone();
        let known = |(path, sysctl): (&str, Sysctl)| (path.to_owned(), sysctl);
        wanted.extend(conntrack::sysctls().map(known));
        if self.virtual_servers.is_some() {
            let exactly = |(path, value)| (path, Sysctl::exactly(value));
            wanted.extend(SYSCTLS.map(exactly).map(known));
        }
        // What an earlier configuration or datapath set, and this one does not want.
        // One that somebody else has changed since is theirs, and no failure of ours.
        let restored = self.sysctls.restore(&self.state, &wanted);
        report.sysctls(restored.map(|outcome| sysctl::Outcome {
            failures: Vec::new(),
            ..outcome
        }));
        let repaired = self.sysctls.repair(&self.state, &wanted);
        let waits = matches!(&repaired, Ok(outcome) if !outcome.absent.is_empty());
        report.sysctls(repaired);
        waits
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
        if !self.reach.looks() {
            return Ok(virtual_servers.set_timeouts(wanted)?);
        }
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

    /// Whether connections to endpoints that take no new ones are waited for.
    pub fn drains(&self) -> bool {
        let virtual_servers = self.virtual_servers.as_ref();
        virtual_servers.is_some_and(VirtualServers::drains) || !self.departures.is_empty()
    }

    /// Removes the draining real servers that `finished` lets go, and ends what connections nftables
    /// still has to those. It is told age and connections; nftables counts none, so there is one.
    pub fn drain(
        &mut self,
        now: Instant,
        state: &NodeState,
        finished: impl Fn(Duration, u32) -> bool,
    ) -> Report {
        let mut report = Report {
            forwards: true,
            ..Report::default()
        };
        if let Some(virtual_servers) = &mut self.virtual_servers {
            let is_over = |draining: &super::virtual_servers::Draining| {
                let age = now.saturating_duration_since(draining.since);
                finished(age, draining.connections)
            };
            match virtual_servers.draining() {
                Ok(draining) => {
                    let gone: Vec<_> = draining.into_iter().filter(is_over).collect();
                    if !gone.is_empty() {
                        report.virtual_servers(virtual_servers.remove_drained(&gone));
                    }
                }
                Err(error) => {
                    let failure = Failure::new("virtual_server", "draining", &error);
                    report.failures.push(failure);
                }
            }
        }
        let due = self.departures.due(now, |age| finished(age, 1));
        if !due.is_empty() {
            let ended = self.conntrack.end(&due, &state.node_addresses);
            match &ended {
                // Where nothing can end them they end by themselves, which is told this once.
                Ok(_) | Err(conntrack::Error::NotAvailable) => self.departures.forget(&due),
                Err(_) => self.departures.postpone(now),
            }
            report.conntrack(ended);
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
        match Fence::open().and_then(|mut fence| fence.remove()) {
            Ok(removed) => report.count("table", "remove", removed),
            Err(error) => {
                let failure = Failure::new("table", "netdev and arp edgelb", &error);
                report.failures.push(failure);
            }
        }
        match Handover::open().and_then(|mut handover| handover.remove()) {
            Ok(removed) => report.count("table", "remove", removed),
            Err(error) => {
                let failure = Failure::new("table", "ip and ip6 edgelb", &error);
                report.failures.push(failure);
            }
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
