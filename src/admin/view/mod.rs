//! What the admin socket answers and `-o json` prints, derived from one [`Snapshot`] and nothing else.
//!
//! `tests/schemas/` describes each object; fields are only ever added.

mod drained;
pub mod explain;
mod passing;
mod peers;
mod pools;
mod services;
mod status;
mod vips;

pub use drained::Drained;
pub use passing::Passing;
pub use peers::{Peer, Peers};
pub use pools::{PoolFamily, Pools};
pub use services::{ServicePortView, ServiceView, ServiceVip, Services};
pub(super) use status::seconds_since_epoch;
pub use status::{
    AddressConflict, AllocatorView, ConfigurationState, Conflict, FailureView, LastPass,
    PeerCounts, ServiceCounts, SourceProblemView, SourceState, Status, VipCounts,
};
pub use vips::{ExcludedNode, VipView, Vips};

use std::net::IpAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::protocol::Command;
use super::snapshot::Snapshot;
use crate::plan::reason::Reason;

/// One "no" in three forms: for scripts, for counting, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReasonView {
    /// The reason with what it is about: an object whose key `reason` names its kind.
    pub reason: Reason,
    /// Its kind in one word, as the metrics' labels have it.
    pub label: String,
    /// A sentence.
    pub text: String,
}

impl From<&Reason> for ReasonView {
    fn from(reason: &Reason) -> Self {
        Self {
            reason: reason.clone(),
            label: reason.label().to_owned(),
            text: reason.to_string(),
        }
    }
}

/// The answer to one command.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum View {
    /// The daemon as a whole.
    Status(Box<Status>),
    /// Every Service.
    Services(Services),
    /// Every VIP.
    Vips(Vips),
    /// Every pool.
    Pools(Pools),
    /// Every Node.
    Peers(Peers),
}

impl View {
    /// Answers a command; `now` is for the uptime alone.
    pub fn of(command: Command, snapshot: &Snapshot, now: SystemTime) -> Self {
        match command {
            Command::Status => Self::Status(Box::new(Status::of(snapshot, now))),
            Command::Services => Self::Services(Services::of(snapshot)),
            Command::Vips => Self::Vips(Vips::of(snapshot)),
            Command::Pools => Self::Pools(Pools::of(snapshot)),
            Command::Peers => Self::Peers(Peers::of(snapshot)),
        }
    }
}

/// The node that announces a VIP, if there is one.
pub(super) fn owner(snapshot: &Snapshot, vip: IpAddr) -> Option<&str> {
    snapshot.plan.ownership.get(&vip)?.owner.as_deref()
}

/// Whether this node announces the VIP.
pub(super) fn owned_here(snapshot: &Snapshot, vip: IpAddr) -> bool {
    owner(snapshot, vip) == Some(snapshot.inputs.node.as_str())
}
