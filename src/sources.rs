//! Starts the source that the configuration names and, where that is the API server, the allocator
//! beside it. Wires; decides nothing.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::allocator::{self, AllocatorStatus, View};
use crate::api_server::client::Credentials;
use crate::api_server::server::Server;
use crate::apply::kubernetes::claims::Place;
use crate::apply::kubernetes::events::{self, Recorder};
use crate::apply::kubernetes::lease::LeaseSettings;
use crate::apply::state_directory::StateDirectory;
use crate::cluster_record;
use crate::config::{Config, SourceKind};
use crate::reconcile::Reconciler;
use crate::source::{self, SourceEvent, SourceStatus};
use crate::tasks::Tasks;

/// Source events that may wait; a source that is faster waits itself.
const WAITING_EVENTS: usize = 256;

/// The ends that the daemon's loop holds.
pub struct Sources {
    pub events: mpsc::Receiver<SourceEvent>,
    pub status: watch::Receiver<SourceStatus>,
    pub allocator: AllocatorEnds,
    /// For Events about what this node does; absent where there is no API server.
    pub recorder: Option<Recorder>,
}

/// The daemon's ends of the allocator; without one they do nothing.
pub struct AllocatorEnds(Option<(watch::Sender<Arc<View>>, watch::Receiver<AllocatorStatus>)>);

impl AllocatorEnds {
    /// Shows the allocator how things are now.
    pub fn show(&self, reconciler: &Reconciler) {
        if let Some((views, _)) = &self.0 {
            views.send_replace(Arc::new(reconciler.view()));
        }
    }

    /// Waits for news of the allocator.
    pub async fn status(&mut self) -> AllocatorStatus {
        if let Some((_, status)) = &mut self.0
            && status.changed().await.is_ok()
        {
            return status.borrow_and_update().clone();
        }
        // One that ended is noticed by the tasks.
        std::future::pending().await
    }
}

/// Starts them as tasks of the daemon.
pub fn start(
    config: &Arc<Config>,
    state: &Arc<StateDirectory>,
    tasks: &mut Tasks,
    stopped: &watch::Receiver<bool>,
) -> Sources {
    let (event_sender, events) = mpsc::channel(WAITING_EVENTS);
    let (status_sender, status) = watch::channel(SourceStatus::default());
    let stop = stopped.clone();
    let mut allocator = AllocatorEnds(None);
    let mut recorder = None;
    match config.source.kind {
        SourceKind::Manifests => {
            let directory = config.source.manifests.dir.clone();
            tasks.spawn("source", async move {
                source::manifest::run(directory, event_sender, status_sender, stop).await;
                Ok(())
            });
        }
        SourceKind::Kubernetes => {
            let settings = cluster_record::settings(config, Arc::clone(state));
            tasks.spawn("source", async move {
                source::kubernetes::run(settings, event_sender, status_sender, stop).await;
                Ok(())
            });
            allocator = start_allocator(config, tasks, stopped);
            recorder = Some(start_events(config, tasks, stopped));
        }
    }
    Sources {
        events,
        status,
        allocator,
        recorder,
    }
}

/// What every node may tell, also one that never allocates; each has a pace of its own.
fn start_events(
    config: &Arc<Config>,
    tasks: &mut Tasks,
    stopped: &watch::Receiver<bool>,
) -> Recorder {
    let (recorder, queue) = Recorder::with_queue();
    let credentials = Credentials::new(config.source.kubernetes.kubeconfig.clone());
    let server = Arc::new(Server::new(credentials));
    let (node, stop) = (config.node.name.clone(), stopped.clone());
    tasks.spawn("events", async move {
        events::run(node, server, queue, stop).await;
        Ok(())
    });
    recorder
}

fn start_allocator(
    config: &Arc<Config>,
    tasks: &mut Tasks,
    stopped: &watch::Receiver<bool>,
) -> AllocatorEnds {
    let kubernetes = &config.source.kubernetes;
    let node = config.node.name.clone();
    let settings = allocator::Settings {
        server: Arc::new(Server::new(Credentials::new(kubernetes.kubeconfig.clone()))),
        claims: Place {
            namespace: kubernetes.lease.namespace.clone(),
            lease: kubernetes.lease.name.clone(),
        },
        lease: LeaseSettings::new(&kubernetes.lease.namespace, &kubernetes.lease.name, &node),
        node,
    };
    let (views, view) = watch::channel(Arc::new(View::nothing(Arc::clone(config))));
    let (status_sender, status) = watch::channel(AllocatorStatus::default());
    let stop = stopped.clone();
    tasks.spawn("allocator", async move {
        allocator::run(settings, view, status_sender, stop).await;
        Ok(())
    });
    AllocatorEnds(Some((views, status)))
}
