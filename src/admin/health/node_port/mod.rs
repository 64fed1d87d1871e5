//! Health-check node ports: for each Service that only takes its own node's endpoints, an HTTP port
//! that tells outside load balancers whether this node has any (HC-1 to HC-13).
//!
//! The listeners follow what the last pass put in place, never a plan that could not be applied
//! (HC-12). One that cannot be bound is shown, and tried again: with a back-off, and when a pass may
//! have changed something. The others of its Service stay: what they tell is true all the same.

mod answer;
mod wanted;

pub use wanted::Listener;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{error, info, warn};

use super::listener::BoundedListener;
use super::{Health, STOP_GRACE, serve_router};
use crate::admin::metrics::Metrics;
use crate::admin::snapshot::Snapshot;
use crate::admin::stopped;

/// Connections at once to all ports together; more wait in the kernel's queues.
const MOST_CONNECTIONS: usize = 512;
/// Connections at once to one of them.
const MOST_OF_ONE: usize = 32;
/// Connections that the kernel keeps until they are taken.
const BACKLOG: i32 = 128;
/// The first pause before a listener is tried again; doubled up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A listener that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindFailure {
    /// Which one.
    pub listener: Listener,
    /// Why, with the remedy.
    pub message: String,
}

/// Serves the health-check node ports until `stop` is true or its sender is gone, and publishes
/// those that cannot be bound.
pub(super) async fn serve(
    health: Health,
    metrics: Arc<Metrics>,
    failures: watch::Sender<Vec<BindFailure>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut snapshots = health.snapshots();
    snapshots.mark_changed();
    let mut ports = Ports::new(health, metrics);
    loop {
        let retry = ports.retry.map(|(at, _)| at);
        tokio::select! {
            () = stopped(&mut stop) => break,
            changed = snapshots.changed() => if changed.is_err() { break },
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
            Some(ended) = ports.tasks.join_next(), if !ports.tasks.is_empty() => {
                if let Err(error) = ended {
                    error!(%error, "a health-check port failed");
                }
            }
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        ports.follow(&snapshot).await;
        failures.send_if_modified(|known| {
            let new = ports.failures();
            let differs = *known != new;
            *known = new;
            differs
        });
    }
    ports.close_all().await;
}

/// A listener that is open.
struct Open {
    stop: watch::Sender<bool>,
    /// Ends when the socket is closed.
    closed: oneshot::Receiver<Infallible>,
}

struct Ports {
    health: Health,
    metrics: Arc<Metrics>,
    /// What `wanted` was made from.
    seen: Option<(Arc<Snapshot>, BTreeSet<Listener>)>,
    open: BTreeMap<Listener, Open>,
    failed: BTreeMap<Listener, String>,
    /// When to try again what failed, and the pause before.
    retry: Option<(Instant, Duration)>,
    tasks: JoinSet<()>,
    places: Arc<Semaphore>,
}

impl Ports {
    fn new(health: Health, metrics: Arc<Metrics>) -> Self {
        Self {
            health,
            metrics,
            seen: None,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            retry: None,
            tasks: JoinSet::new(),
            places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        }
    }

    /// Closes what is not wanted any more, then opens what is missing.
    async fn follow(&mut self, snapshot: &Arc<Snapshot>) {
        let now = Instant::now();
        let new_pass = self.look(snapshot);
        let Some((_, wanted)) = &self.seen else {
            return;
        };
        self.failed.retain(|listener, _| wanted.contains(listener));
        // One whose task ended by itself is opened anew.
        self.open
            .retain(|_, open| !matches!(open.closed.try_recv(), Err(TryRecvError::Closed)));
        let (kept, gone) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|(listener, _)| wanted.contains(listener));
        self.open = kept;
        let due = self.retry.is_some_and(|(at, delay)| {
            // A pass may have changed what was in the way; many a second are no reason.
            at <= now || (new_pass && at + FIRST_RETRY <= now + delay)
        });
        let missing: Vec<Listener> = wanted
            .iter()
            .filter(|listener| !self.open.contains_key(*listener))
            .filter(|listener| due || !self.failed.contains_key(*listener))
            .cloned()
            .collect();
        close(gone).await;
        for listener in missing {
            self.open(listener);
        }
        if self.failed.is_empty() {
            self.retry = None;
        } else if due || self.retry.is_none() {
            let delay = self
                .retry
                .map_or(FIRST_RETRY, |(_, delay)| (delay * 2).min(LONGEST_RETRY));
            self.retry = Some((now + delay, delay));
        }
    }

    /// Takes in what is wanted now; whether another pass was made.
    fn look(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        let ranges = |snapshot: &Snapshot| snapshot.config.proxy.node_port_addresses.is_empty();
        let Some((seen, wanted)) = &mut self.seen else {
            let wanted = wanted::wanted(&snapshot.applied.state, ranges(snapshot));
            self.seen = Some((Arc::clone(snapshot), wanted));
            return true;
        };
        let new_pass = seen.pass.number != snapshot.pass.number;
        let (old, new) = (&seen.applied.state, &snapshot.applied.state);
        let same = old.health_checks.ptr_eq(&new.health_checks)
            && old.node_addresses == new.node_addresses
            && ranges(seen) == ranges(snapshot);
        if !same {
            *wanted = wanted::wanted(new, ranges(snapshot));
        }
        *seen = Arc::clone(snapshot);
        new_pass
    }

    fn open(&mut self, listener: Listener) {
        let socket = match bind(listener.address) {
            Ok(socket) => socket,
            Err(error) => {
                let message = describe(&error);
                if self.failed.get(&listener) != Some(&message) {
                    let (service, address) = (&listener.service, listener.address);
                    warn!(%service, %address, error = message, "cannot open a health-check port");
                }
                self.failed.insert(listener, message);
                return;
            }
        };
        let (service, address) = (&listener.service, listener.address);
        info!(%service, %address, "health-check port opened");
        self.failed.remove(&listener);
        let (stop, stopping) = watch::channel(false);
        let (open, closed) = oneshot::channel();
        let bounded = BoundedListener::new(socket, MOST_OF_ONE)
            .sharing(Arc::clone(&self.places))
            .telling(open);
        let router = answer::router(
            self.health.clone(),
            Arc::clone(&self.metrics),
            listener.clone(),
        );
        self.tasks.spawn(async move {
            serve_router(bounded, router, "health-check port", stopping).await;
        });
        self.open.insert(listener, Open { stop, closed });
    }

    fn failures(&self) -> Vec<BindFailure> {
        let failure = |(listener, message): (&Listener, &String)| BindFailure {
            listener: listener.clone(),
            message: message.clone(),
        };
        self.failed.iter().map(failure).collect()
    }

    async fn close_all(&mut self) {
        close(std::mem::take(&mut self.open)).await;
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Closes listeners, and waits until their ports are free: another one may want the same.
async fn close(listeners: BTreeMap<Listener, Open>) {
    for open in listeners.values() {
        open.stop.send_replace(true);
    }
    for (
        Listener {
            service, address, ..
        },
        open,
    ) in listeners
    {
        if timeout(STOP_GRACE, open.closed).await.is_err() {
            warn!(%service, %address, "a health-check port is slow to close");
        } else {
            info!(%service, %address, "health-check port closed");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    // Connections of an earlier listener may still be in TIME-WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// With what mends it.
fn describe(error: &io::Error) -> String {
    use nix::errno::Errno;
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "another process or Service has this port: stop it, or give the Service another \
             healthCheckNodePort"
        }
        Some(Errno::EADDRNOTAVAIL) => "the address is not usable yet, or not any more",
        Some(Errno::EAFNOSUPPORT) => "this kernel has IPv6 switched off",
        Some(Errno::EMFILE | Errno::ENFILE) => "raise LimitNOFILE= of the unit",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}
