//! The recorded lists and streams through the real client end in the cluster, and the plan, of the
//! recorded final lists.

use std::time::Duration;

use edgelb::config;
use edgelb::plan::{Inputs, plan};
use edgelb::source::kubernetes::kind::Watched;

use crate::rig::{Rig, recorded_cluster, timing};
use crate::script::{Script, Streaming};
use crate::server::Server;

fn planned(cluster: &edgelb::model::cluster::ClusterState) -> edgelb::plan::Plan {
    let text = "[node]\nname = \"edge-a\"\n[[pool]]\nname = \"lan\"\naddresses = [\"192.0.2.200-192.0.2.250\"]\n";
    let environment = config::Environment {
        host_name: "edge-a".to_owned(),
        ..config::Environment::default()
    };
    let loaded = config::parse(text, &environment).expect("a configuration");
    let inputs = Inputs {
        node: "edge-a".to_owned(),
        cluster: cluster.clone(),
        ..Inputs::default()
    };
    plan(&loaded.config, &inputs)
}

async fn replay(streaming: Streaming) -> Server {
    let mut script = Script::recorded();
    script.streaming = streaming;
    let server = Server::start(script).await;
    let mut fast = timing();
    if streaming == Streaming::Unknown {
        fast.initial_event = Duration::from_millis(100);
    }
    // The server would keep an unknown request's watch silent but for bookmarks.
    let mut rig = Rig::start_with(&server, fast, None);
    rig.until_complete().await;
    assert_eq!(rig.cluster, recorded_cluster("initial"));
    rig.until_status(|status| status.connected).await;
    // One event at a time, over all kinds in turn: the longest stream has 154.
    for _ in 0..200 {
        server.with(|script| {
            for kind in Watched::ALWAYS {
                script.collection(kind).play(1);
            }
        });
    }
    let wanted = recorded_cluster("final");
    rig.until_cluster(&wanted).await;
    assert_eq!(planned(&rig.cluster), planned(&wanted));
    assert!(!planned(&wanted).state.frontends.is_empty());
    let status = rig.until_status(|status| status.connected).await;
    assert_eq!(status.problems, []);
    assert_eq!(status.blind_since, None);
    assert!(status.last_event.is_some());
    server
}

#[tokio::test]
async fn a_streaming_list_and_its_stream_give_the_final_cluster() {
    let server = replay(Streaming::Served).await;
    server.with(|script| {
        assert!(script.requests.iter().all(crate::script::Request::is_watch));
        for kind in Watched::ALWAYS {
            assert_eq!(script.asked(kind).count(), 1, "one request is enough");
            let request = script.asked(kind).next().expect("was asked");
            assert_eq!(request.get("sendInitialEvents"), "true");
            assert_eq!(request.get("resourceVersionMatch"), "NotOlderThan");
            assert_eq!(request.get("allowWatchBookmarks"), "true");
            let (labels, fields) = match kind {
                Watched::Services => (
                    "!service.kubernetes.io/service-proxy-name",
                    "spec.clusterIP!=None",
                ),
                Watched::EndpointSlices => ("!service.kubernetes.io/headless", ""),
                Watched::Nodes | Watched::Namespaces | Watched::ServiceCidrs => ("", ""),
            };
            assert_eq!(request.get("labelSelector"), labels);
            assert_eq!(request.get("fieldSelector"), fields);
        }
    });
}

#[tokio::test]
async fn a_paged_list_does_where_streaming_is_refused() {
    let server = replay(Streaming::Refused).await;
    server.with(|script| {
        for kind in Watched::ALWAYS {
            let lists: Vec<_> = script.asked(kind).filter(|it| !it.is_watch()).collect();
            assert_eq!(lists.len(), 1, "the initial lists have a page each");
            assert_eq!(lists[0].get("limit"), "3");
            assert!(lists[0].get("resourceVersion").is_empty());
            let watch = script.asked(kind).last().expect("was asked");
            assert_eq!(watch.get("resourceVersion"), "228", "from the list on");
        }
    });
}

#[tokio::test]
async fn a_paged_list_does_where_streaming_is_unknown() {
    replay(Streaming::Unknown).await;
}

#[tokio::test]
async fn pages_make_one_list() {
    let mut script = Script::recorded();
    script.streaming = Streaming::Refused;
    for kind in Watched::ALWAYS {
        script.collection(kind).play(usize::MAX);
    }
    let server = Server::start(script).await;
    let rig = Rig::start(&server).await;
    assert_eq!(rig.cluster, recorded_cluster("final"));
    server.with(|script| {
        let pages = script
            .asked(Watched::Services)
            .filter(|request| !request.is_watch());
        assert_eq!(pages.count(), 7, "20 Services by 3");
    });
}
