//! What a node's kernel was found to hold for a few frontends, when somebody asked. Plain data: who
//! reads the kernel (apply) and who explains it (explain) meet here only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frontend::{FrontendPort, RealServer, SourceClass};

/// All that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The frontends that were asked for.
    pub frontends: BTreeMap<FrontendPort, ObservedFrontend>,
    /// How this node sends to endpoints and to whoever asks; none where it could not be read.
    pub paths: BTreeMap<IpAddr, Path>,
    /// Where the kernel is not as planned in what all frontends need: the table with its chains, the
    /// sets of the node, the local routes.
    pub differences: Vec<Difference>,
    /// What could not be read, with the cause.
    pub unread: Vec<String>,
}

/// One frontend in the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObservedFrontend {
    /// How packets of each source class get to their endpoint.
    pub ways: BTreeMap<SourceClass, Way>,
    /// What is there of each endpoint that takes connections or still has some.
    pub real_servers: BTreeMap<RealServer, ObservedRealServer>,
    /// The endpoint that the asking client is kept with now.
    pub stuck: Option<Stuck>,
    /// Where the kernel is not as planned.
    pub differences: Vec<Difference>,
}

/// What in the kernel sends packets to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// A virtual server of IPVS, as `ipvsadm -Ln` names it, with its scheduler.
    VirtualServer { name: String, scheduler: String },
    /// A chain of the table `inet edgelb` that chooses among the endpoints, and the map that leads there.
    Chain { map: String, chain: String },
}

/// One endpoint in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObservedRealServer {
    /// Its weight in IPVS; absent where nftables forwards, which knows none.
    pub weight: Option<u32>,
    /// Connections that it has from this frontend; absent where they could not be counted.
    pub connections: Option<Connections>,
}

/// Connections at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Connections {
    /// Established ones; of UDP all.
    pub active: u64,
    /// In any other state: opening, closing, or kept for late packets.
    pub inactive: u64,
}

/// Where a client is kept by session affinity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The endpoint; absent where the one that is remembered is none of the frontend's any more.
    pub real_server: Option<RealServer>,
    /// After how long without a new connection the client is forgotten.
    pub expires: Option<Duration>,
}

/// How this node sends to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// By this interface.
    Interface {
        /// Its name.
        name: String,
        /// The source that its own packets have, which is also what masquerading puts there.
        source: Option<IpAddr>,
    },
    /// It has no route there.
    NoRoute,
}

/// One thing in the kernel that is not as planned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Difference {
    /// What, in the words of `nft`, `ipvsadm` or `ip`.
    pub object: String,
    /// What is wrong with it: a phrase such as `is missing`.
    pub problem: String,
    /// Whether it stays until somebody acts: edgelb never changes what is not its own.
    pub foreign: bool,
}

impl Difference {
    /// Of an object of ours, which the next repair makes right.
    pub fn of_ours(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            problem: problem.into(),
            foreign: false,
        }
    }

    /// Of an object of somebody else, which edgelb leaves alone.
    pub fn of_others(object: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            foreign: true,
            ..Self::of_ours(object, problem)
        }
    }
}
