//! Whether the daemon's loop is alive and the kernel holds what it should, by family, and whether
//! this node should get traffic from outside.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::snapshot::Snapshot;
use crate::config::SourceKind;
use crate::model::cluster::Node;
use crate::model::family::Family;

/// The taint of a node that the cluster autoscaler is about to remove (HZ-6).
const SCALE_DOWN_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// The shortest time between two passes that health reckons with.
const LEAST_RESYNC: Duration = Duration::from_secs(30);

/// The daemon's health at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Liveness {
    /// The families for which a change waits for twice the resync interval (HZ-3): both where the
    /// loop is silent for as long, or does not run any more.
    pub stuck: BTreeSet<Family>,
    /// The node should get traffic from outside (HZ-6).
    pub eligible: bool,
    /// When the last pass ended that put its forwarding in place, or the daemon started.
    pub last_updated: SystemTime,
}

impl Liveness {
    /// Whether all families are well.
    pub fn alive(&self) -> bool {
        self.stuck.is_empty()
    }
}

/// Watches the snapshots. Cheap to clone; all clones know the same.
#[derive(Debug, Clone)]
pub struct Health {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    seen: Arc<RwLock<Seen>>,
}

#[derive(Debug)]
struct Seen {
    /// When the newest snapshot came: measured here, so that setting the clock harms nobody.
    at: Instant,
    /// This node's object as it was last, also when it is gone (HZ-7).
    node: Option<Arc<Node>>,
}

impl Health {
    /// Healthy until it has been silent for too long (HZ-4).
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>) -> Self {
        let node = this_node(&snapshots.borrow());
        let seen = Seen {
            at: Instant::now(),
            node,
        };
        Self {
            snapshots,
            seen: Arc::new(RwLock::new(seen)),
        }
    }

    /// Follows the snapshots until there will be none any more.
    pub async fn follow(&self) {
        let mut snapshots = self.snapshots.clone();
        snapshots.mark_changed();
        while snapshots.changed().await.is_ok() {
            let node = this_node(&snapshots.borrow_and_update());
            let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
            seen.at = Instant::now();
            seen.node = node.or(seen.node.take());
        }
    }

    /// The snapshots as they come.
    pub(super) fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// The health now.
    pub fn liveness(&self) -> Liveness {
        let snapshot = self.snapshot();
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let longest = snapshot.config.proxy.resync_interval.max(LEAST_RESYNC) * 2;
        let running = self.snapshots.has_changed().is_ok();
        let silent = !running || seen.at.elapsed() > longest;
        let waits = |family: &Family| {
            let since = snapshot.applied.waiting.get(family);
            since.is_some_and(|since| Instant::from_std(*since).elapsed() > longest)
        };
        let stuck = Family::BOTH.into_iter();
        Liveness {
            stuck: stuck.filter(|family| silent || waits(family)).collect(),
            eligible: match (&seen.node, snapshot.config.source.kind) {
                (Some(node), _) => {
                    !node.deleting && !node.taints.iter().any(|taint| taint == SCALE_DOWN_TAINT)
                }
                (None, SourceKind::Kubernetes) => false,
                // Without any Node object this node is alone and serves everything.
                (None, SourceKind::Manifests) => snapshot.inputs.cluster.nodes.is_empty(),
            },
            last_updated: snapshot.applied.at.unwrap_or(snapshot.started),
        }
    }
}

fn this_node(snapshot: &Snapshot) -> Option<Arc<Node>> {
    let inputs = &snapshot.inputs;
    inputs.cluster.nodes.get(&inputs.node).cloned()
}
