//! Health and metrics by HTTP: `/metrics /livez /readyz /healthz` for the operator, `/livez /healthz`
//! alone for load balancers and probes outside, and the health-check node ports of Services. It
//! tells and never changes anything.
//!
//! Each connection carries one request and lives a few seconds, and their number is bounded, because
//! anybody on the LAN may open them. An address that cannot be bound is tried again for ever (HZ-10):
//! the daemon forwards packets without it.

mod answer;
mod listener;
mod liveness;
mod node_port;

pub use liveness::{Health, Liveness};
pub use node_port::{BindFailure, Listener};

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use super::metrics::Metrics;
use super::snapshot::Snapshot;
use super::stopped;
use listener::BoundedListener;

/// The pause between two attempts to bind (HZ-10).
const BIND_RETRY: Duration = Duration::from_secs(5);

/// The time that open connections have to end when the daemon stops.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Connections at once to one listener.
const MOST_CONNECTIONS: usize = 64;

/// Which paths a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paths {
    /// `/metrics /livez /readyz /healthz`
    Observability,
    /// `/livez /healthz`
    Health,
}

impl Paths {
    const fn name(self) -> &'static str {
        match self {
            Self::Observability => "observability",
            Self::Health => "health",
        }
    }
}

/// Where to listen: `observability.listen` and `observability.health_listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub observability: SocketAddr,
    pub health: SocketAddr,
}

/// Serves both addresses and the health-check node ports until `stop` is true or its sender is
/// gone. Health-check ports that cannot be bound are published.
pub async fn serve(
    addresses: Addresses,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    failures: watch::Sender<Vec<BindFailure>>,
    stop: watch::Receiver<bool>,
) {
    let health = Health::new(snapshots);
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let (health, mut stop) = (health.clone(), stop.clone());
        async move {
            tokio::select! {
                () = health.follow() => {}
                () = stopped(&mut stop) => {}
            }
        }
    });
    tasks.spawn(node_port::serve(
        health.clone(),
        Arc::clone(&metrics),
        failures,
        stop.clone(),
    ));
    for (address, paths) in [
        (addresses.observability, Paths::Observability),
        (addresses.health, Paths::Health),
    ] {
        let (health, metrics, mut stop) = (health.clone(), Arc::clone(&metrics), stop.clone());
        tasks.spawn(async move {
            let listener = tokio::select! {
                listener = bind_at_last(address, paths) => listener,
                () = stopped(&mut stop) => return,
            };
            serve_on(listener, paths, health, metrics, stop).await;
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            error!(%error, "a health task failed");
        }
    }
}

/// Serves one listener until `stop` is true or its sender is gone. Somebody must run
/// [`Health::follow`] beside it.
pub async fn serve_on(
    listener: TcpListener,
    paths: Paths,
    health: Health,
    metrics: Arc<Metrics>,
    stop: watch::Receiver<bool>,
) {
    let router = answer::router(paths, health, metrics);
    let listener = BoundedListener::new(listener, MOST_CONNECTIONS);
    serve_router(listener, router, paths.name(), stop).await;
}

/// Serves the health-check node ports alone, as [`serve`] does. Somebody must run [`Health::follow`]
/// beside it.
pub async fn serve_node_ports(
    health: Health,
    metrics: Arc<Metrics>,
    failures: watch::Sender<Vec<BindFailure>>,
    stop: watch::Receiver<bool>,
) {
    node_port::serve(health, metrics, failures, stop).await;
}

async fn serve_router(
    listener: BoundedListener,
    router: Router,
    name: &'static str,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = {
        let mut stop = stop.clone();
        async move { stopped(&mut stop).await }
    };
    let serving = axum::serve(listener, router)
        .with_graceful_shutdown(graceful)
        .into_future();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => Some(ended),
        () = stopped(&mut stop) => timeout(STOP_GRACE, &mut serving).await.ok(),
    };
    if let Some(Err(error)) = ended {
        warn!(listener = name, %error, "a listener ended");
    }
}

/// Binds, however long it takes. The first failure and each other one is worth a warning.
async fn bind_at_last(address: SocketAddr, paths: Paths) -> TcpListener {
    let mut warned: Option<ErrorKind> = None;
    loop {
        match bind(address).await {
            Ok(listener) => {
                info!(listener = paths.name(), %address, "listening");
                return listener;
            }
            Err(error) => {
                if warned != Some(error.kind()) {
                    warned = Some(error.kind());
                    warn!(
                        listener = paths.name(), %address, %error,
                        retry_seconds = BIND_RETRY.as_secs(),
                        "cannot bind, trying again"
                    );
                }
                sleep(BIND_RETRY).await;
            }
        }
    }
}

async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        // A kernel without IPv6 still has every IPv4 address that [::] would have stood for.
        Err(error)
            if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)
                && error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
        {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}
