//! What happens to this node, as events for scripts: told from two snapshots that follow one another.
//! Decides nothing, and costs as much as what changed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::metrics::transition::{Transition, transitions};
use super::snapshot::Snapshot;
use super::view::{FailureView, owner, seconds_since_epoch};
use crate::model::family::Family;
use crate::model::foreign::MacAddress;
use crate::model::peer::Presence;
use crate::plan::ipam::usage;
use crate::plan::ownership::drained_by_label;

/// One thing that happened, or that is so when the watching begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When the daemon saw it, in seconds since 1970, to the millisecond.
    pub time: f64,
    #[serde(flatten)]
    pub kind: EventKind,
    /// It did not happen now: it is so when the watching begins.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
}

/// What happened: the field `event`, and what it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// The first event of all.
    Watching { node: String, version: String },
    /// This node announces a VIP from now on.
    VipTaken {
        vip: IpAddr,
        /// NAMESPACE/NAME of the Services that hold it.
        services: Vec<String>,
        /// As the metric `edgelb_vip_transitions_total` has it.
        reason: String,
    },
    /// It announces it no more.
    VipLost {
        vip: IpAddr,
        /// Who does now, as far as this node knows.
        owner: Option<String>,
        reason: String,
    },
    /// Another host on the LAN uses a VIP.
    Conflict { vip: IpAddr, mac: MacAddress },
    /// It does so no more, or no Service holds the VIP any more.
    ConflictOver { vip: IpAddr },
    /// No address of a pool is free any more.
    PoolFull { pool: String, family: Family },
    /// One is.
    PoolFree { pool: String, family: Family },
    /// Something could not be applied; told again when it is something else.
    PassFailed {
        pass: u64,
        failures: Vec<FailureView>,
    },
    /// Everything is applied again.
    PassRecovered { pass: u64 },
    /// Another node answers.
    PeerUp { peer: String },
    /// It does not, or left.
    PeerDown { peer: String },
    /// What happens in the cluster is not seen.
    SourceLost,
    /// It is seen again.
    SourceBack,
    /// This node gives its VIPs up.
    Draining,
    /// It has given all of them up.
    Drained,
    /// It takes VIPs again.
    Undrained,
    /// The newest configuration file is not in force.
    ConfigRefused { problem: String },
    /// It is.
    ConfigAccepted,
    /// The kernel forwards by the plan.
    Ready,
    /// It does not.
    NotReady,
    /// Whoever watches was too slow for so many events.
    Missed { count: u64 },
}

impl Event {
    /// An event of now.
    pub fn now(kind: EventKind) -> Self {
        Self {
            time: seconds_since_epoch(SystemTime::now()),
            kind,
            snapshot: false,
        }
    }
}

/// What is so, as the events that would have told it; what is well is not told, but that the daemon is
/// ready.
pub fn present(snapshot: &Snapshot) -> Vec<Event> {
    let mut kinds = vec![EventKind::Watching {
        node: snapshot.inputs.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }];
    of_vips(None, snapshot, &mut kinds);
    kinds.extend(
        Standing::of(snapshot)
            .0
            .into_values()
            .map(|(begins, _)| begins),
    );
    let event = |kind| Event {
        snapshot: true,
        ..Event::now(kind)
    };
    kinds.into_iter().map(event).collect()
}

/// What happened between two snapshots.
pub fn between(old: &Snapshot, new: &Snapshot) -> Vec<Event> {
    let mut kinds = Vec::new();
    of_vips(Some(old), new, &mut kinds);
    let (before, now) = (Standing::of(old).0, Standing::of(new).0);
    for (key, (_, ends)) in &before {
        if !now.contains_key(key) && !kinds.contains(ends) {
            let ends = match ends {
                EventKind::PassRecovered { .. } => EventKind::PassRecovered {
                    pass: new.pass.number,
                },
                other => other.clone(),
            };
            kinds.push(ends);
        }
    }
    for (key, (begins, _)) in now {
        let same = before
            .get(&key)
            .is_some_and(|(was, _)| is_same(was, &begins));
        if !same {
            kinds.push(begins);
        }
    }
    kinds.into_iter().map(Event::now).collect()
}

/// The pass in which something fails goes on counting.
fn is_same(was: &EventKind, now: &EventKind) -> bool {
    match (was, now) {
        (
            EventKind::PassFailed { failures: was, .. },
            EventKind::PassFailed { failures: now, .. },
        ) => was == now,
        _ => was == now,
    }
}

fn of_vips(old: Option<&Snapshot>, new: &Snapshot, kinds: &mut Vec<EventKind>) {
    let previous = old.map(|old| &*old.plan);
    for Transition {
        vip,
        gained,
        reason,
    } in transitions(&new.inputs.node, previous, &new.plan)
    {
        let reason = reason.to_owned();
        kinds.push(if gained {
            let holders = new.plan.addresses.allocations.holders_of(vip);
            EventKind::VipTaken {
                vip,
                services: holders.iter().map(ToString::to_string).collect(),
                reason,
            }
        } else {
            EventKind::VipLost {
                vip,
                owner: owner(new, vip).map(str::to_owned),
                reason,
            }
        });
    }
}

/// What can be so and cease to be so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Ready,
    Config,
    Source,
    Peer(String),
    Conflict(IpAddr),
    Pool(String, Family),
    Draining,
    Drained,
    Pass,
}

/// What is so now: each with the event that tells its beginning and the one that tells its end.
struct Standing(BTreeMap<Key, (EventKind, EventKind)>);

impl Standing {
    fn of(snapshot: &Snapshot) -> Self {
        let mut standing = BTreeMap::new();
        let mut so = |key, begins, ends| {
            standing.insert(key, (begins, ends));
        };
        if snapshot.ready {
            so(Key::Ready, EventKind::Ready, EventKind::NotReady);
        }
        if let Some(problem) = &snapshot.config_problem {
            let problem = problem.clone();
            let begins = EventKind::ConfigRefused { problem };
            so(Key::Config, begins, EventKind::ConfigAccepted);
        }
        if !snapshot.source.connected {
            so(Key::Source, EventKind::SourceLost, EventKind::SourceBack);
        }
        for (name, peer) in &snapshot.inputs.peers.members {
            if peer.presence != Presence::Down {
                let peer = name.clone();
                let ends = EventKind::PeerDown { peer: peer.clone() };
                so(Key::Peer(name.clone()), EventKind::PeerUp { peer }, ends);
            }
        }
        let allocations = &snapshot.plan.addresses.allocations;
        for (vip, mac) in snapshot.inputs.foreign.iter() {
            if !allocations.holders_of(vip).is_empty() {
                let ends = EventKind::ConflictOver { vip };
                so(Key::Conflict(vip), EventKind::Conflict { vip, mac }, ends);
            }
        }
        let book = snapshot.inputs.address_book();
        for usage in usage(&snapshot.config, &book, allocations) {
            if usage.total > 0 && usage.free == 0 {
                let (pool, family) = (usage.pool, usage.family);
                let key = Key::Pool(pool.clone(), family);
                let ends = EventKind::PoolFree {
                    pool: pool.clone(),
                    family,
                };
                so(key, EventKind::PoolFull { pool, family }, ends);
            }
        }
        if is_draining(snapshot) {
            so(Key::Draining, EventKind::Draining, EventKind::Undrained);
            if nothing_owned(snapshot) {
                // That it ends with the draining is told by that.
                so(Key::Drained, EventKind::Drained, EventKind::Undrained);
            }
        }
        let pass = &snapshot.pass;
        if !pass.failures.is_empty() {
            let failures = pass.failures.iter().map(FailureView::from).collect();
            let number = pass.number;
            let begins = EventKind::PassFailed {
                pass: number,
                failures,
            };
            so(Key::Pass, begins, EventKind::PassRecovered { pass: number });
        }
        Self(standing)
    }
}

fn is_draining(snapshot: &Snapshot) -> bool {
    let inputs = &snapshot.inputs;
    let own = inputs.cluster.nodes.get(&inputs.node);
    inputs.draining || own.is_some_and(|node| drained_by_label(node))
}

fn nothing_owned(snapshot: &Snapshot) -> bool {
    let node = Some(snapshot.inputs.node.as_str());
    let mut owners = snapshot.plan.ownership.values();
    !owners.any(|ownership| ownership.owner.as_deref() == node)
}
