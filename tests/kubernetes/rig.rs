//! The source on a scripted server, and what it sends. Every wait is for an event, with a limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use edgelb::api_server::client::Credentials;
use edgelb::model::cluster::{ClusterChange, ClusterState};
use edgelb::source::kubernetes::kind::Watched;
use edgelb::source::kubernetes::timing::Timing;
use edgelb::source::kubernetes::{Record, Settings, run};
use edgelb::source::{SourceEvent, SourceStatus};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::kubeconfig::write_kubeconfig;
use crate::script::recorded_list;
use crate::server::Server;

pub const LIMIT: Duration = Duration::from_secs(20);

/// Times for tests: short pauses, and patience that a busy machine does not exhaust.
pub fn timing() -> Timing {
    Timing {
        silence: Duration::from_secs(5),
        answer: Duration::from_secs(5),
        initial_event: Duration::from_secs(5),
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(40),
        credentials: Duration::from_millis(20),
        page: 3,
        snapshot_patience: Duration::from_millis(200),
        snapshot_interval: Duration::from_millis(20),
        ..Timing::default()
    }
}

pub struct Rig {
    pub home: TempDir,
    events: mpsc::Receiver<SourceEvent>,
    pub status: watch::Receiver<SourceStatus>,
    _stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    pub cluster: ClusterState,
    pub complete: bool,
    /// Everything that was ever sent.
    pub changes: Vec<ClusterChange>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rig {
    /// Starts on a server, and waits for the first complete list.
    pub async fn start(server: &Server) -> Self {
        let mut rig = Self::start_with(server, timing(), None);
        rig.until_complete().await;
        rig
    }

    pub fn start_with(server: &Server, timing: Timing, record: Option<Arc<dyn Record>>) -> Self {
        let home = tempfile::tempdir().expect("directory");
        let url = format!("http://{}", server.address);
        write_kubeconfig(&home.path().join("kubeconfig"), &url, "token: first", "");
        Self::start_in(home, timing, record)
    }

    /// Starts with Namespaces among what is followed.
    pub fn start_with_namespaces(server: &Server, record: Option<Arc<dyn Record>>) -> Self {
        let home = tempfile::tempdir().expect("directory");
        let url = format!("http://{}", server.address);
        write_kubeconfig(&home.path().join("kubeconfig"), &url, "token: first", "");
        Self::follow(home, timing(), record, Watched::ALL.to_vec())
    }

    /// Starts with the file `kubeconfig` of a directory.
    pub fn start_in(home: TempDir, timing: Timing, record: Option<Arc<dyn Record>>) -> Self {
        Self::follow(home, timing, record, Watched::ALWAYS.to_vec())
    }

    fn follow(
        home: TempDir,
        timing: Timing,
        record: Option<Arc<dyn Record>>,
        kinds: Vec<Watched>,
    ) -> Self {
        let (event_sender, events) = mpsc::channel(16);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (stop, stopped) = watch::channel(false);
        let settings = Settings {
            credentials: Credentials::new(Some(home.path().join("kubeconfig"))),
            timing,
            kinds,
            record,
        };
        let task = tokio::spawn(run(settings, event_sender, status_sender, stopped));
        Self {
            home,
            events,
            status,
            _stop: stop,
            task,
            cluster: ClusterState::default(),
            complete: false,
            changes: Vec::new(),
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("kubeconfig")
    }

    async fn event(&mut self) {
        let event = timeout(LIMIT, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("no event; {:?}", *self.status.borrow()));
        match event.expect("the source runs") {
            SourceEvent::Complete => self.complete = true,
            SourceEvent::Changes(changes) => {
                for change in changes {
                    self.changes.push(change.clone());
                    let dirty = self.cluster.apply(change.clone());
                    assert!(!dirty.is_empty(), "changes nothing: {change:?}");
                }
            }
        }
    }

    pub async fn until_complete(&mut self) {
        while !self.complete {
            self.event().await;
        }
    }

    /// Takes in events until the cluster is this one.
    pub async fn until_cluster(&mut self, wanted: &ClusterState) {
        self.until(|cluster| cluster == wanted).await;
    }

    pub async fn until(&mut self, mut holds: impl FnMut(&ClusterState) -> bool) {
        while !self.complete || !holds(&self.cluster) {
            self.event().await;
        }
    }

    pub async fn until_status(
        &mut self,
        mut holds: impl FnMut(&SourceStatus) -> bool,
    ) -> SourceStatus {
        let held = timeout(LIMIT, self.status.wait_for(|status| holds(status))).await;
        held.expect("the status in time").expect("runs").clone()
    }

    /// Until a Service of this name is there.
    pub async fn until_service(&mut self, name: &str) {
        self.until(|cluster| cluster.services.keys().any(|key| key.name == name))
            .await;
    }

    /// How many objects were ever taken away.
    pub fn taken_away(&self) -> usize {
        let gone = |change: &&ClusterChange| {
            matches!(
                change,
                ClusterChange::ServiceGone(_)
                    | ClusterChange::SliceGone(_)
                    | ClusterChange::NodeGone(_)
                    | ClusterChange::NamespaceGone(_)
            )
        };
        self.changes.iter().filter(gone).count()
    }
}

/// The cluster of recorded lists, read without the client.
pub fn recorded_cluster(which: &str) -> ClusterState {
    cluster_of(|watched| {
        if [Watched::Namespaces, Watched::ServiceCidrs].contains(&watched) {
            return Vec::new();
        }
        recorded_list(watched, which).0.into_values().collect()
    })
}

/// The cluster of these objects, read without the client.
pub fn cluster_of(mut objects: impl FnMut(Watched) -> Vec<String>) -> ClusterState {
    use edgelb::source::kubernetes::decode::{Kind, Object, decode};
    let mut cluster = ClusterState::default();
    for watched in Watched::ALL {
        for text in objects(watched) {
            let document: serde_json::Value = serde_json::from_str(&text).expect("an object");
            let kind = match watched {
                Watched::Services => Kind::Service,
                Watched::EndpointSlices => Kind::EndpointSlice,
                Watched::Nodes => Kind::Node,
                Watched::Namespaces => Kind::Namespace,
                Watched::ServiceCidrs => {
                    let name = document["metadata"]["name"].as_str().expect("name");
                    let ranges = document["spec"]["cidrs"].as_array().expect("ranges");
                    let ranges = ranges
                        .iter()
                        .map(|range| range.as_str().expect("text").parse().expect("a range"));
                    let ranges = Arc::new(ranges.collect());
                    cluster.apply(ClusterChange::ServiceCidr(name.to_owned(), ranges));
                    continue;
                }
            };
            let change = match decode(kind, &document).expect("is of its kind").0 {
                Object::Service(converted) => converted
                    .object
                    .ok()
                    .map(|it| ClusterChange::Service(it.into())),
                Object::EndpointSlice(converted) => converted
                    .object
                    .ok()
                    .map(|it| ClusterChange::Slice(it.into())),
                Object::Node(converted) => converted
                    .object
                    .ok()
                    .map(|it| ClusterChange::Node(it.into())),
                Object::Namespace(converted) => converted
                    .object
                    .ok()
                    .map(|it| ClusterChange::Namespace(it.into())),
                Object::Endpoints(_) => panic!("{kind:?}"),
            };
            change.map(|change| cluster.apply(change));
        }
    }
    cluster
}
