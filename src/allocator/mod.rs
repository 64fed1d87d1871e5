//! Gives out addresses in a Kubernetes cluster, on the one node that leads: which Service gets which,
//! claimed by a compare-and-swap before any status names it, then written into the status.
//!
//! ```text
//! reconciler ─ View ─► plan::addresses ─► claims (ConfigMaps) ─► statuses ─► events
//! lease ─ Leadership ─┘                    a conflict: plan again
//! ```
//!
//! Like `reconcile.rs` it sees both what decides and what applies. It touches no kernel: every node
//! forwards by the status, this one too.

mod examine;
mod lead;
mod standing;
mod statuses;
mod tell;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::lead::Leader;
pub use self::view::{AllocatorStatus, Role, View};
use crate::api_server::server::Server;
use crate::apply::kubernetes::claims::Place;
use crate::apply::kubernetes::events;
use crate::apply::kubernetes::lease::{self, Leadership, LeaseSettings};

/// How long the tasks may take to stop; the Lease is given back meanwhile.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What the allocator works with.
pub struct Settings {
    /// For all writes.
    pub server: Arc<Server>,
    /// The Lease that makes a leader.
    pub lease: LeaseSettings,
    /// Where the claims are.
    pub claims: Place,
    /// This node's name, for records and events.
    pub node: String,
}

/// Allocates whenever this node leads, until `stop` says `true` (or its sender is gone).
pub async fn run(
    settings: Settings,
    mut views: watch::Receiver<Arc<View>>,
    status: watch::Sender<AllocatorStatus>,
    mut stop: watch::Receiver<bool>,
) {
    // What was recorded on the disk may be long past: nothing is decided from it.
    tokio::select! {
        fresh = views.wait_for(|view| view.fresh) => if fresh.is_err() { return },
        _ = stop.wait_for(|stop| *stop) => return,
    }
    let mut tasks = JoinSet::new();
    let (leaderships, mut leadership) = watch::channel(Leadership::default());
    // The Lease is given back only when nothing more is written.
    let (ended, ending) = watch::channel(false);
    let (recorder, queue) = events::Recorder::with_queue();
    tasks.spawn(events::run(
        settings.node.clone(),
        Arc::clone(&settings.server),
        queue,
        ending.clone(),
    ));
    tasks.spawn(lease::run(
        settings.lease.clone(),
        Arc::clone(&settings.server),
        leaderships,
        ending,
    ));
    let mut leader = Leader::new(settings, recorder, views.borrow_and_update().clone());
    loop {
        let now = leadership.borrow_and_update().clone();
        leader.see(&views.borrow_and_update().clone());
        leader.turn(&now).await;
        let new = leader.status(&now);
        status.send_if_modified(|old| {
            let differs = *old != new;
            *old = new;
            differs
        });
        let wake = leader.wake();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            changed = leadership.changed() => if changed.is_err() { break },
            changed = views.changed() => if changed.is_err() { break },
            () = leader.answered() => {}
            () = until(wake.map(Instant::from)) => {}
        }
    }
    drop(leader);
    let _ = ended.send(true);
    let _ = tokio::time::timeout(STOP_PATIENCE, async {
        while tasks.join_next().await.is_some() {}
    })
    .await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
