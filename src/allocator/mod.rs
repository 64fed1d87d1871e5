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

mod barrier;
mod examine;
mod lead;
mod statuses;
mod tell;
pub mod view;
mod work;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use self::lead::Leader;
pub use self::view::{AllocatorStatus, Role, View};
use crate::api_server::server::Server;
use crate::apply::kubernetes::claims::Place;
use crate::apply::kubernetes::events::{self, Recorder};
use crate::apply::kubernetes::lease::{self, Leadership, LeaseSettings};

/// How long the tasks may take to stop; the Lease is given back meanwhile.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How long a node that leads and lacks another right leaves the Lease to the others.
const UNFIT_PAUSE: Duration = Duration::from_secs(60);
/// The first pause after a failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(LONGEST_PAUSE)
}

/// What the allocator works with.
#[derive(Clone)]
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

/// How a candidacy ended.
enum End {
    /// The daemon stops.
    Stopped,
    /// This node got the Lease and lacks another right.
    Unfit(String),
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
    let (recorder, queue) = events::Recorder::with_queue();
    tasks.spawn(events::run(
        settings.node.clone(),
        Arc::clone(&settings.server),
        queue,
        stop.clone(),
    ));
    loop {
        match stand(&settings, &recorder, &mut views, &status, &mut stop).await {
            End::Stopped => break,
            End::Unfit(problem) => {
                tracing::warn!(error = problem, "leaves the Lease to others");
                status.send_replace(AllocatorStatus {
                    role: Role::Reader,
                    problem: Some(problem),
                    ..AllocatorStatus::default()
                });
                tokio::select! {
                    () = tokio::time::sleep(UNFIT_PAUSE) => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
        }
    }
}

/// Stands for the Lease, and allocates while it has it.
async fn stand(
    settings: &Settings,
    recorder: &Recorder,
    views: &mut watch::Receiver<Arc<View>>,
    status: &watch::Sender<AllocatorStatus>,
    stop: &mut watch::Receiver<bool>,
) -> End {
    let (leaderships, mut leadership) = watch::channel(Leadership::default());
    // The Lease is given back only when nothing more is written.
    let (ended, ending) = watch::channel(false);
    let lease = lease::run(
        settings.lease.clone(),
        Arc::clone(&settings.server),
        leaderships,
        ending,
    );
    let mut elector = JoinSet::new();
    elector.spawn(lease);
    let view = views.borrow_and_update().clone();
    let mut leader = Leader::new(settings.clone(), recorder.clone(), view);
    let end = loop {
        leader.see(&views.borrow_and_update().clone());
        tokio::select! {
            () = leader.turn(&mut leadership) => {}
            _ = stop.wait_for(|stop| *stop) => break End::Stopped,
        }
        let new = leader.status(&leadership.borrow());
        status.send_if_modified(|old| {
            let differs = *old != new;
            *old = new;
            differs
        });
        if let Some(problem) = leader.unfit() {
            break End::Unfit(problem);
        }
        let wake = leader.wake();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break End::Stopped,
            changed = leadership.changed() => if changed.is_err() { break End::Stopped },
            changed = views.changed() => if changed.is_err() { break End::Stopped },
            () = leader.answered() => {}
            () = until(wake.map(Instant::from)) => {}
        }
    };
    drop(leader);
    let _ = ended.send(true);
    let _ = timeout(STOP_PATIENCE, elector.join_next()).await;
    end
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
