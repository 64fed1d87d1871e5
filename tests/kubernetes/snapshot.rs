//! A node that starts while the API server is away works from what an earlier run recorded, says
//! so, and takes over what the server says when it is back.

use std::sync::{Arc, Mutex};

use edgelb::apply::state_directory::StateDirectory;
use edgelb::model::cluster::ClusterState;
use edgelb::source::kubernetes::Record;
use edgelb::source::kubernetes::kind::Watched;

use crate::rig::{LIMIT, Rig, recorded_cluster, timing};
use crate::script::Script;
use crate::server::{Server, service};

#[derive(Default)]
pub struct Memory {
    pub recorded: Mutex<Option<ClusterState>>,
    pub saved: tokio::sync::watch::Sender<Option<ClusterState>>,
}

impl Record for Memory {
    fn load(&self) -> Result<Option<ClusterState>, String> {
        Ok(self.recorded.lock().expect("lock").clone())
    }

    fn save(&self, cluster: &ClusterState) -> Result<(), String> {
        self.saved.send_replace(Some(cluster.clone()));
        Ok(())
    }
}

fn final_script() -> Script {
    let mut script = Script::recorded();
    for kind in Watched::ALWAYS {
        script.collection(kind).play(usize::MAX);
    }
    script
}

#[tokio::test]
async fn the_record_does_until_the_server_is_there() {
    let mut script = final_script();
    script.down = true;
    let server = Server::start(script).await;
    let mut known = recorded_cluster("final");
    let old = edgelb::model::service::Service::new(
        edgelb::model::service::ServiceKey::new("shop", "deleted-since"),
        edgelb::model::service::ServiceType::ClusterIP,
    );
    known.apply(edgelb::model::cluster::ClusterChange::Service(old.into()));
    let memory = Arc::new(Memory::default());
    *memory.recorded.lock().expect("lock") = Some(known.clone());

    let mut rig = Rig::start_with(&server, timing(), Some(memory.clone()));
    rig.until_complete().await;
    assert_eq!(rig.cluster, known);
    let status = rig.until_status(|status| status.from_snapshot).await;
    assert!(!status.connected);
    assert!(status.blind_since.is_some());
    assert_eq!(*memory.saved.borrow(), None, "nothing is written over it");

    server.with(|script| script.down = false);
    rig.until_cluster(&recorded_cluster("final")).await;
    assert_eq!(rig.taken_away(), 1, "the one that was deleted meanwhile");
    rig.until_status(|status| status.connected && !status.from_snapshot)
        .await;
}

#[tokio::test]
async fn without_a_record_nothing_is_complete_before_the_server_is_there() {
    let mut script = final_script();
    script.down = true;
    let server = Server::start(script).await;
    let mut rig = Rig::start_with(&server, timing(), Some(Arc::new(Memory::default())));
    rig.until_status(|status| status.problems.len() == 3).await;
    server.with(|script| script.down = false);
    rig.until_complete().await;
    assert_eq!(rig.cluster, recorded_cluster("final"), "whole at once");
}

#[tokio::test]
async fn what_changes_is_recorded() {
    let server = Server::start(final_script()).await;
    let memory = Arc::new(Memory::default());
    let mut saved = memory.saved.subscribe();
    let mut rig = Rig::start_with(&server, timing(), Some(memory));
    rig.until_complete().await;
    server.with(|script| {
        script
            .collection(Watched::Services)
            .change("ADDED", service("new", "10.96.7.7"));
    });
    rig.until_service("new").await;
    let wanted = rig.cluster.clone();
    tokio::time::timeout(
        LIMIT,
        saved.wait_for(|saved| saved.as_ref() == Some(&wanted)),
    )
    .await
    .expect("is recorded in time")
    .expect("the record is there");
}

#[tokio::test]
async fn the_first_complete_cluster_is_recorded_at_once() {
    let server = Server::start(final_script()).await;
    let memory = Arc::new(Memory::default());
    let mut saved = memory.saved.subscribe();
    let slow = edgelb::source::kubernetes::timing::Timing {
        snapshot_interval: 10 * LIMIT,
        ..timing()
    };
    let _rig = Rig::start_with(&server, slow, Some(memory));
    let wanted = recorded_cluster("final");
    tokio::time::timeout(
        LIMIT,
        saved.wait_for(|saved| saved.as_ref() == Some(&wanted)),
    )
    .await
    .expect("is recorded in time")
    .expect("the record is there");
}

#[test]
fn a_cluster_survives_the_state_directory() {
    let home = tempfile::tempdir().expect("directory");
    let path = home.path().join("state");
    let cluster = recorded_cluster("final");
    let (state, _) = StateDirectory::open(&path).expect("opens");
    assert_eq!(state.read_cluster().expect("reads"), (None, None));
    state.write_cluster(&cluster).expect("writes");
    assert_eq!(state.read_cluster().expect("reads"), (Some(cluster), None));
    std::fs::write(
        path.join("cluster.json"),
        "{\"version\":1,\"content\":{\"serv",
    )
    .expect("writes");
    let (read, warning) = state.read_cluster().expect("reads");
    assert_eq!(read, None);
    assert!(warning.expect("a warning").set_aside.is_some());
}
