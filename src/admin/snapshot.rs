//! One consistent picture of the daemon, published after each pass. Everything that admin tells is
//! derived from it, when somebody asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::applied::Applied;
use crate::allocator::AllocatorStatus;
pub use crate::apply::{Failure, KINDS};
use crate::config::Config;
use crate::membership::counters::MembershipCounters;
use crate::plan::{Inputs, Plan};
use crate::source::SourceStatus;

/// What a pass did.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct PassSummary {
    /// Counts the passes since the start.
    pub number: u64,
    /// When it ended.
    pub finished: Option<SystemTime>,
    /// How long it took.
    pub duration: Duration,
    /// From the first event that it took in to the kernel holding it; absent on a resync.
    pub latency: Option<Duration>,
    /// Edits to the kernel, by object (`element`, `route`, `virtual_server`, `real_server`, `sysctl`)
    /// and operation (`add`, `change`, `remove`).
    pub changes: BTreeMap<(&'static str, &'static str), usize>,
    /// What could not be applied.
    pub failures: Vec<Failure>,
}

/// The daemon at one moment. Cloning shares everything large.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// Why the newest configuration file is not in force, if it is not.
    pub config_problem: Option<String>,
    /// `ipvs` or `nftables`.
    pub datapath: &'static str,
    /// When the daemon started.
    pub started: SystemTime,
    /// What the last pass worked from.
    pub inputs: Arc<Inputs>,
    /// What it decided.
    pub plan: Arc<Plan>,
    /// The state of the source.
    pub source: SourceStatus,
    /// How the allocator is, where there is one.
    pub allocator: Option<AllocatorStatus>,
    /// What the last pass did.
    pub pass: PassSummary,
    /// What the kernel holds, whatever became of the last pass.
    pub applied: Applied,
    /// Whether the kernel forwards by the plan, but for single items that `pass.failures` names.
    pub ready: bool,
    /// What membership counts, now and not at the moment of the rest.
    pub membership: MembershipCounters,
}
