//! `status`: whether this daemon works, what it works from, and what it cannot do now.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Passing, owned_here};
use crate::admin::record;
use crate::admin::snapshot::{Failure, Snapshot};
use crate::allocator::{AllocatorStatus, Role};
use crate::config::SourceKind;
use crate::model::foreign::MacAddress;
use crate::model::node_state::HeldFor;
use crate::model::peer::{Peers, Presence};
use crate::model::service::ServiceType;
use crate::plan::ipam::not_ours;
use crate::plan::reason::Reason;

/// The daemon as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program that runs.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// `ipvs` or `nftables`.
    pub datapath: String,
    /// Whole seconds since the start.
    pub uptime_seconds: u64,
    /// Whether a complete pass without failures has been made.
    pub ready: bool,
    pub config: ConfigurationState,
    pub source: SourceState,
    /// None where no allocator runs: addresses are then given out by each pass.
    pub allocator: Option<AllocatorView>,
    pub services: ServiceCounts,
    /// Endpoints in use, counted for each port.
    pub endpoints: usize,
    pub vips: VipCounts,
    pub last_pass: LastPass,
    /// Frontends that several Services want.
    pub conflicts: Vec<Conflict>,
    /// VIPs that other hosts on the LAN use.
    pub address_conflicts: Vec<AddressConflict>,
    /// A daemon of an earlier version does not tell it.
    #[serde(default)]
    pub passing: Passing,
    /// Nor this.
    #[serde(default)]
    pub peers: PeerCounts,
    /// Whether this node gives its VIPs up, by command.
    #[serde(default)]
    pub draining: bool,
}

/// The other nodes as they are heard.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PeerCounts {
    /// Whether nodes talk with one another; otherwise each decides alone, from the Nodes.
    pub membership: bool,
    pub alive: usize,
    /// Those that said that they restart, and are waited for.
    pub restarting: Vec<String>,
    pub down: Vec<String>,
}

impl PeerCounts {
    fn of(peers: &Peers) -> Self {
        let named = |presence| {
            let members = peers.members.iter();
            let found = members.filter(move |(_, peer)| peer.presence == presence);
            found.map(|(name, _)| name.clone())
        };
        Self {
            membership: peers.enabled,
            alive: named(Presence::Alive).count(),
            restarting: named(Presence::Restarting).collect(),
            down: named(Presence::Down).collect(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationState {
    /// Whether the newest file is the one in force.
    pub valid: bool,
    /// Why it is not.
    pub problem: Option<String>,
    /// Tells the values in force from others, as recordings do; a daemon of an earlier version does not
    /// tell it.
    #[serde(default)]
    pub digest: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceState {
    /// `kubernetes` or `manifests`.
    pub kind: SourceKind,
    /// Whether events arrive.
    pub connected: bool,
    /// Since when events are missed, in seconds since 1970; none while they arrive.
    pub blind_since: Option<f64>,
    /// The cluster, or a part of it, is as an earlier run recorded it.
    pub from_snapshot: bool,
    /// When the last event arrived, in seconds since 1970, to the millisecond.
    pub last_event: Option<f64>,
    pub problems: Vec<SourceProblemView>,
    /// Objects left out on purpose.
    pub ignored: Vec<String>,
}

/// What this node is to the allocation of addresses in its cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllocatorView {
    pub role: Role,
    /// The holder of the Lease, where it is known.
    pub leader: Option<String>,
    /// What keeps this node from leading or from writing.
    pub problem: Option<String>,
    /// Statuses still to be written.
    pub waiting: usize,
    /// Statuses written since the start.
    pub written: u64,
}

impl From<&AllocatorStatus> for AllocatorView {
    fn from(status: &AllocatorStatus) -> Self {
        Self {
            role: status.role,
            leader: status.leader.clone(),
            problem: status.problem.clone(),
            waiting: status.waiting,
            written: status.written,
        }
    }
}

/// Something that the source could not use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceProblemView {
    pub file: String,
    /// From 1.
    pub line: Option<u64>,
    /// Such as `spec.ports[0].port`.
    pub field: Option<String>,
    pub message: String,
    /// Whether older, good objects are still in force because of it.
    pub keeps_last_good: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceCounts {
    pub total: usize,
    /// Those of type `LoadBalancer` that are this program's to serve.
    pub load_balancer: usize,
    /// Those of them that have no VIP yet.
    pub pending: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipCounts {
    /// VIPs that this node takes packets for, whoever announces them.
    pub held: usize,
    /// VIPs that this node announces.
    pub owned: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastPass {
    /// Counts from the start; 0: none has ended yet.
    pub number: u64,
    /// When it ended, in seconds since 1970, to the millisecond.
    pub finished: Option<f64>,
    pub duration_ms: f64,
    /// From the first event to the kernel holding it; none on a resync.
    pub latency_ms: Option<f64>,
    pub failures: Vec<FailureView>,
}

/// What a pass could not apply; it is tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureView {
    /// `table`, `route`, `virtual_server` and so on.
    pub kind: String,
    pub object: String,
    pub message: String,
}

impl From<&Failure> for FailureView {
    fn from(failure: &Failure) -> Self {
        Self {
            kind: failure.kind.to_owned(),
            object: failure.object.clone(),
            message: failure.message.clone(),
        }
    }
}

/// A frontend that one Service has and others want.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conflict {
    /// Such as `tcp 192.0.2.1:80`.
    pub frontend: String,
    /// The Service that has it, NAMESPACE/NAME.
    pub holder: String,
    /// The Service that does not get it.
    pub refused: String,
}

/// A VIP that another host on the LAN uses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressConflict {
    /// The VIP.
    pub address: IpAddr,
    /// The hardware address of the other host.
    pub mac: MacAddress,
    /// Whether this node announces the VIP all the same: it was the cluster's before.
    pub announced: bool,
}

impl Status {
    /// The status at `now`.
    pub fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
        let pass = &snapshot.pass;
        let status = &snapshot.source;
        let plan = &snapshot.plan;
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: snapshot.inputs.node.clone(),
            datapath: snapshot.datapath.to_owned(),
            // A clock that was set back gives no negative uptime.
            uptime_seconds: now
                .duration_since(snapshot.started)
                .unwrap_or_default()
                .as_secs(),
            ready: snapshot.ready,
            config: ConfigurationState {
                valid: snapshot.config_problem.is_none(),
                problem: snapshot.config_problem.clone(),
                digest: Some(record::digest(&snapshot.config)),
            },
            source: SourceState {
                kind: snapshot.config.source.kind,
                connected: status.connected,
                blind_since: status.blind_since.map(seconds_since_epoch),
                from_snapshot: status.from_snapshot,
                last_event: status.last_event.map(seconds_since_epoch),
                problems: status
                    .problems
                    .iter()
                    .map(|problem| SourceProblemView {
                        file: problem.file.clone(),
                        line: problem.line,
                        field: problem.field.clone(),
                        message: problem.message.clone(),
                        keeps_last_good: problem.keeps_last_good,
                    })
                    .collect(),
                ignored: status.ignored.clone(),
            },
            allocator: snapshot.allocator.as_ref().map(AllocatorView::from),
            services: ServiceCounts::of(snapshot),
            endpoints: plan.services.values().map(|plan| plan.endpoints).sum(),
            vips: VipCounts {
                held: plan
                    .state
                    .held
                    .values()
                    .filter(|held| **held == HeldFor::Vip)
                    .count(),
                owned: plan
                    .ownership
                    .keys()
                    .filter(|vip| owned_here(snapshot, **vip))
                    .count(),
            },
            last_pass: LastPass {
                number: pass.number,
                finished: pass.finished.map(seconds_since_epoch),
                duration_ms: milliseconds(pass.duration),
                latency_ms: pass.latency.map(milliseconds),
                failures: pass.failures.iter().map(FailureView::from).collect(),
            },
            conflicts: conflicts(snapshot),
            address_conflicts: address_conflicts(snapshot),
            passing: Passing::of(snapshot),
            peers: PeerCounts::of(&snapshot.inputs.peers),
            draining: snapshot.inputs.draining,
        }
    }
}

impl ServiceCounts {
    /// Counts the Services of the cluster.
    pub fn of(snapshot: &Snapshot) -> Self {
        let services = &snapshot.inputs.cluster.services;
        let allocations = &snapshot.plan.addresses.allocations;
        let ours = || {
            services.values().filter(|service| {
                service.kind == ServiceType::LoadBalancer
                    && not_ours(&snapshot.config, allocations, service).is_none()
            })
        };
        Self {
            total: services.len(),
            load_balancer: ours().count(),
            pending: ours()
                .filter(|service| allocations.addresses(&service.key).is_empty())
                .count(),
        }
    }
}

fn address_conflicts(snapshot: &Snapshot) -> Vec<AddressConflict> {
    let allocations = &snapshot.plan.addresses.allocations;
    let foreign = snapshot.inputs.foreign.iter();
    foreign
        .filter(|(address, _)| !allocations.holders_of(*address).is_empty())
        .map(|(address, mac)| AddressConflict {
            address,
            mac,
            announced: owned_here(snapshot, address),
        })
        .collect()
}

fn conflicts(snapshot: &Snapshot) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for key in snapshot.plan.services.keys() {
        for reason in snapshot.plan.reasons(key) {
            if let Reason::FrontendTaken { frontend, holder } = reason {
                conflicts.push(Conflict {
                    frontend: frontend.to_string(),
                    holder: holder.to_string(),
                    refused: key.to_string(),
                });
            }
        }
    }
    conflicts
}

/// Whole milliseconds, in seconds since 1970; a time before that is 0.
pub(in crate::admin) fn seconds_since_epoch(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64() * 1000.0).round() / 1000.0
}

/// Milliseconds to the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
