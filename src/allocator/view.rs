//! What the allocator decides from, and what it tells of itself.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::plan::ownership::Ownership;

/// The daemon's view of the cluster at one moment. Cloning shares everything large.
#[derive(Debug, Clone)]
pub struct View {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// What the source knows.
    pub cluster: ClusterState,
    /// This host's interfaces, as far as decisions depend on them.
    pub host: Host,
    /// Other hosts on the LAN that use addresses of the pools.
    pub foreign: ForeignHosts,
    /// Who announces which VIP.
    pub ownership: OrdMap<IpAddr, Ownership>,
    /// The cluster is the API server's, and not one that an earlier run recorded.
    pub fresh: bool,
}

impl View {
    /// Whether everything else that address management depends on is as in another view.
    pub(super) fn differs_in_services_only(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
            && self.cluster.nodes == other.cluster.nodes
            && self.cluster.namespaces == other.cluster.namespaces
            && self.host == other.host
    }

    /// Nothing is known yet.
    pub fn nothing(config: Arc<Config>) -> Self {
        Self {
            config,
            cluster: ClusterState::default(),
            host: Host::default(),
            foreign: ForeignHosts::default(),
            ownership: OrdMap::new(),
            fresh: false,
        }
    }
}

/// What this node is to the allocation of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The cluster has not been heard of yet, or the Lease cannot be read.
    #[default]
    Waiting,
    /// It gives out addresses.
    Leader,
    /// Another node does; this one stands by.
    Follower,
    /// It has no right to.
    Reader,
}

/// What `status` tells about the allocator.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllocatorStatus {
    /// What this node is.
    pub role: Role,
    /// Who leads, where that is known.
    pub leader: Option<String>,
    /// What keeps it from its work, if anything does.
    pub problem: Option<String>,
    /// Statuses that are still to be written.
    pub waiting: usize,
    /// Statuses that this node has written since its start.
    pub written: u64,
}
