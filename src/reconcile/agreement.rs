//! Which records of addresses are taken over from other nodes, and who gives out an address first, where
//! nodes agree on that among themselves (manifests and membership). Pure but for the time, which it is
//! told.
//!
//! Records merge: the later edit of a Service wins, on every node alike. What is decided here keeps
//! edits from crossing each other without need:
//! - The node with the lowest name gives out; the next ones follow when it does not, each some time
//!   later. So all of them show what one of them gave out first, in whatever order they saw the files.
//! - A Service that this node's files do not have is not released because of that: another node's may.
//! - A release by another node does not count for a Service that this node's files still have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::allocation::{Allocation, Allocations};
use crate::model::cluster::ClusterState;
use crate::model::peer::{Peers, Presence};
use crate::model::service::{ServiceKey, ServiceType};
use crate::plan::Scope;

/// How long a node waits for each node with a lower name to give out.
const TURN: Duration = Duration::from_millis(300);

/// What this node waits for, and what it leaves alone.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    /// What the others said last.
    heard: Allocations,
    /// Services without an address, and until when this node gives them none.
    deferred: BTreeMap<ServiceKey, Instant>,
}

impl Agreement {
    /// Takes in what the others say; returns the Services that it concerns. `unconfirmed` are those that
    /// this node's files do not have.
    pub(super) fn hear(
        &mut self,
        others: &Allocations,
        cluster: &ClusterState,
        node: &str,
        ours: &mut Allocations,
        unconfirmed: &mut BTreeSet<ServiceKey>,
    ) -> BTreeSet<ServiceKey> {
        let mut concerned = BTreeSet::new();
        let mut taken: Vec<Allocation> = Vec::new();
        let mut kept: Vec<Allocation> = Vec::new();
        for (_, new) in others.changed_since(&self.heard) {
            let Some(other) = new else { continue };
            let own = ours.record(&other.service);
            let merged = match own {
                Some(own) => own.clone().merge(other.clone()),
                None => other.clone(),
            };
            let present = cluster.services.contains_key(&other.service);
            if !present && !merged.addresses.is_empty() {
                unconfirmed.insert(other.service.clone());
            }
            if own == Some(&merged) {
                continue;
            }
            if let Some(own) = own
                && present
                && merged.addresses.is_empty()
                && !own.addresses.is_empty()
            {
                kept.push(own.clone());
            }
            concerned.insert(other.service.clone());
            taken.push(other.clone());
        }
        self.heard = others.clone();
        if !taken.is_empty() {
            ours.merge(taken);
        }
        for record in kept {
            ours.set(&record.service, record.addresses, node);
        }
        concerned
    }

    /// The Services to which this node gives no address yet; `scope` gets those whose time is over.
    pub(super) fn defer(
        &mut self,
        scope: &mut Scope,
        (cluster, allocations): (&ClusterState, &Allocations),
        (node, peers): (&str, &Peers),
        now: Instant,
    ) -> BTreeSet<ServiceKey> {
        let lower = peers
            .members
            .iter()
            .filter(|(name, peer)| peer.presence == Presence::Alive && name.as_str() < node);
        let before = u32::try_from(lower.count()).unwrap_or(u32::MAX);
        let waits = |key: &ServiceKey| {
            (cluster.services.get(key))
                .is_some_and(|service| service.kind == ServiceType::LoadBalancer)
                && allocations.addresses(key).is_empty()
        };
        let over: Vec<ServiceKey> = (self.deferred.iter())
            .filter(|(key, until)| before == 0 || **until <= now || !waits(key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &over {
            self.deferred.remove(key);
        }
        if before > 0 {
            let until = now + TURN * before.min(10);
            let new: Vec<&ServiceKey> = match scope {
                Scope::Everything => cluster.services.keys().collect(),
                Scope::Services(keys) => keys.iter().collect(),
            };
            for key in new {
                if !over.contains(key) && waits(key) {
                    self.deferred.entry(key.clone()).or_insert(until);
                }
            }
        }
        scope.add_all(over);
        self.deferred.keys().cloned().collect()
    }

    /// When a Service has been waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deferred.values().min().copied()
    }
}
