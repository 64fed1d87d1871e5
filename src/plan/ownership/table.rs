//! What deciding about owners needs of a plan, so that it can be done without one: between two passes,
//! and while a pass is being made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::exclusion;
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::peer::{Claims, Exceptions};
use crate::plan::reason::Reason;

/// VIPs that have a Service in common, and so one owner.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VipGroup {
    /// At least one.
    pub vips: BTreeSet<IpAddr>,
    /// The nodes with a ready endpoint of each Service that has a Local policy; none, where no Service
    /// has one, and every node will do.
    pub local: Option<BTreeSet<String>>,
    /// The owner where nodes do not talk with one another: then Nodes alone decide.
    pub by_nodes: Option<String>,
    /// Those of the VIPs with a port whose endpoints answer clients themselves (direct routing, tunnel):
    /// this node sees one side of such connections, and cannot tell which of them are its own.
    pub answered_directly: BTreeSet<IpAddr>,
}

impl VipGroup {
    /// The VIP that names the group, and from which the weights of nodes are made.
    pub fn lowest(&self) -> Option<IpAddr> {
        self.vips.first().copied()
    }
}

/// Groups by their lowest VIP.
pub type VipGroups = OrdMap<IpAddr, Arc<VipGroup>>;

/// What Node objects say about owning VIPs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeTable {
    /// There are Node objects: a node without one may own nothing.
    pub known: bool,
    /// By name.
    pub nodes: BTreeMap<String, NodeStanding>,
}

/// What one Node object says about owning VIPs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeStanding {
    /// Why it may own none.
    pub excluded: Option<Reason>,
    /// For each pool of the configuration the place among its preferences: lower is better.
    pub preferences: Vec<usize>,
}

impl NodeTable {
    /// Judges every Node.
    pub fn new(config: &Config, cluster: &ClusterState, known: bool) -> Self {
        let nodes = cluster.nodes.iter().map(|(name, node)| {
            let preference = |prefer: &[crate::model::selector::LabelSelector]| {
                (prefer.iter())
                    .position(|selector| selector.matches(&node.labels))
                    .unwrap_or(prefer.len())
            };
            let standing = NodeStanding {
                excluded: exclusion(config, node),
                preferences: (config.pools.iter())
                    .map(|pool| preference(&pool.prefer))
                    .collect(),
            };
            (name.clone(), standing)
        });
        Self {
            known: known || !cluster.nodes.is_empty(),
            nodes: nodes.collect(),
        }
    }

    /// Why a node may own nothing at all, by its Node object.
    pub fn exclusion(&self, node: &str) -> Option<Reason> {
        match self.nodes.get(node) {
            Some(standing) => standing.excluded.clone(),
            None => self.known.then_some(Reason::NodeUnknown),
        }
    }

    /// The place of a node among the preferences of the pool with that index.
    pub fn preference(&self, node: &str, pool: Option<usize>) -> usize {
        let preferences = self.nodes.get(node).map(|node| node.preferences.as_slice());
        pool.and_then(|pool| preferences?.get(pool).copied())
            .unwrap_or(usize::MAX)
    }
}

/// All that is to be announced by somebody, as a plan left it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VipTable {
    /// Counts the published tables.
    pub generation: u64,
    /// What has VIPs that are served here.
    pub groups: VipGroups,
    /// The Nodes.
    pub nodes: Arc<NodeTable>,
    /// VIPs that Services hold and that are not served here, exactly as the others are told.
    pub exceptions: Exceptions,
}

impl VipTable {
    /// What a node claimed, as long as nothing else is known: every VIP by itself, of generation 0.
    pub fn of_claims(claims: &Claims) -> Self {
        let group = |vip: &IpAddr| {
            let group = VipGroup {
                vips: BTreeSet::from([*vip]),
                ..VipGroup::default()
            };
            (*vip, Arc::new(group))
        };
        Self {
            groups: claims.keys().map(group).collect(),
            ..Self::default()
        }
    }
}
