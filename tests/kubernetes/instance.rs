//! A daemon without a kernel: the real source and the real allocator on the scripted server, joined as
//! the daemon joins them. Times are short, so that a Lease of the dead is taken soon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgelb::allocator::{self, AllocatorStatus, View};
use edgelb::api_server::client::Credentials;
use edgelb::api_server::server::Server as ApiServer;
use edgelb::apply::kubernetes::claims::Place;
use edgelb::apply::kubernetes::lease::LeaseSettings;
use edgelb::cluster_record::kinds;
use edgelb::config::Config;
use edgelb::model::pool::Pool;
use edgelb::source::kubernetes::{Settings as SourceSettings, run as follow};
use edgelb::source::{SourceEvent, SourceStatus};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::authority::Secure;
use crate::rig::{LIMIT, timing};

pub const NAMESPACE: &str = "kube-system";
pub const LEASE: &str = "edgelb";

pub struct Instance {
    config: watch::Sender<Arc<Config>>,
    pub status: watch::Receiver<AllocatorStatus>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// The defaults with these pools.
pub fn config(pools: &[(&str, &str)]) -> Config {
    let mut config = Config::defaults("edge-a");
    config.pools = pools
        .iter()
        .map(|(name, ranges)| {
            let ranges = ranges.split_whitespace();
            Pool::new(*name, ranges.map(|range| range.parse().unwrap()).collect())
        })
        .collect();
    config
}

/// A Lease that is taken within a second of its holder's death.
pub fn lease(name: &str, node: &str) -> LeaseSettings {
    LeaseSettings {
        duration: Duration::from_secs(1),
        renew_deadline: Duration::from_millis(700),
        retry: Duration::from_millis(100),
        ..LeaseSettings::new(NAMESPACE, name, node)
    }
}

impl Instance {
    /// Starts as the user of a token.
    pub fn start(secure: &Secure, token: &str, config: Config) -> Self {
        Self::start_with(secure, token, config, lease(LEASE, token))
    }

    pub fn start_with(secure: &Secure, token: &str, config: Config, lease: LeaseSettings) -> Self {
        let kubeconfig = secure.kubeconfig(token);
        let (stop, stopped) = watch::channel(false);
        let (config, configured) = watch::channel(Arc::new(config));
        let view = View::nothing(configured.borrow().clone());
        let (views, view) = watch::channel(Arc::new(view));
        let (status_sender, status) = watch::channel(AllocatorStatus::default());
        let settings = allocator::Settings {
            server: Arc::new(ApiServer::new(Credentials::new(Some(kubeconfig.clone())))),
            claims: Place {
                namespace: NAMESPACE.to_owned(),
                lease: LEASE.to_owned(),
            },
            lease,
            node: token.to_owned(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(pump(kubeconfig, configured, views, stopped.clone()));
        tasks.spawn(allocator::run(settings, view, status_sender, stopped));
        Self {
            config,
            status,
            stop,
            tasks,
        }
    }

    /// Reloads with another configuration.
    pub fn configure(&self, config: Config) {
        self.config.send_replace(Arc::new(config));
    }

    pub async fn until(&mut self, mut holds: impl FnMut(&AllocatorStatus) -> bool) {
        let held = timeout(LIMIT, self.status.wait_for(|status| holds(status))).await;
        held.unwrap_or_else(|_| panic!("status stays"))
            .expect("runs");
    }

    /// Dies without a word.
    pub async fn kill(mut self) {
        self.tasks.shutdown().await;
    }

    /// Stops politely.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let all = async { while self.tasks.join_next().await.is_some() {} };
        timeout(LIMIT, all).await.expect("stops");
    }
}

/// Follows the server as the daemon does, and shows the allocator every change.
async fn pump(
    kubeconfig: PathBuf,
    mut config: watch::Receiver<Arc<Config>>,
    views: watch::Sender<Arc<View>>,
    stopped: watch::Receiver<bool>,
) {
    let (sender, mut events) = mpsc::channel(16);
    let (status_sender, status) = watch::channel(SourceStatus::default());
    let settings = SourceSettings {
        credentials: Credentials::new(Some(kubeconfig)),
        timing: timing(),
        kinds: kinds(&config.borrow()),
        record: None,
    };
    let source = follow(settings, sender, status_sender, stopped);
    let mut source = std::pin::pin!(source);
    let mut view = (**views.borrow()).clone();
    loop {
        tokio::select! {
            () = &mut source => return,
            changed = config.changed() => {
                if changed.is_err() {
                    return;
                }
                view.config = config.borrow_and_update().clone();
            }
            event = events.recv() => match event {
                None => return,
                Some(SourceEvent::Complete) => view.fresh = !status.borrow().from_snapshot,
                Some(SourceEvent::Changes(changes)) => {
                    for change in changes {
                        view.cluster.apply(change);
                    }
                }
            }
        }
        views.send_replace(Arc::new(view.clone()));
    }
}
