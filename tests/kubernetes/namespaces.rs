//! Namespaces are followed where a pool selects by their labels, and nowhere else (case 14). The
//! objects are made up in the shape of real ones; see [`crate::script::namespace`].

use std::sync::Arc;

use edgelb::api_server::rights::NAMESPACE_RIGHTS;
use edgelb::config::Config;
use edgelb::source::kubernetes::kind::Watched;
use serde_json::json;

use crate::allocation::{wait, world};
use crate::authority::Secure;
use crate::instance::{Instance, config};
use crate::rig::{Rig, cluster_of, recorded_cluster, timing};
use crate::roles::Roles;
use crate::script::{Fault, Script, namespace};
use crate::server::Server;
use crate::snapshot::Memory;
use crate::user::load_balancer;

fn everything(server: &Server) -> edgelb::model::cluster::ClusterState {
    server.with(|script| {
        cluster_of(|kind| script.collection(kind).objects.values().cloned().collect())
    })
}

/// The label `team` of a Namespace as a follower knows it.
fn team<'a>(rig: &'a Rig, name: &str) -> Option<&'a str> {
    let namespace = rig.cluster.namespaces.get(name)?;
    namespace.labels.get("team").map(String::as_str)
}

#[tokio::test]
async fn their_names_and_labels_are_followed() {
    let server = Server::start(Script::recorded()).await;
    let mut rig = Rig::start_with_namespaces(&server, None);
    rig.until_complete().await;
    assert_eq!(rig.cluster, everything(&server));
    let names: Vec<&String> = rig.cluster.namespaces.keys().collect();
    assert_eq!(names, ["default", "infra", "kube-system", "shop"]);
    rig.until_status(|status| status.connected && status.problems.is_empty())
        .await;

    let edit = |kind: &str, object| {
        server.with(|script| script.collection(Watched::Namespaces).change(kind, object));
    };
    edit("MODIFIED", namespace("shop", &[("team", "web")]));
    edit("ADDED", namespace("new", &[("team", "data")]));
    rig.until(|cluster| cluster.namespaces.contains_key("new"))
        .await;
    assert_eq!(
        (team(&rig, "shop"), team(&rig, "new")),
        (Some("web"), Some("data"))
    );
    // What is no label makes no difference: the next change that is told is another one.
    let told = rig.changes.len();
    let mut ends = namespace("shop", &[("team", "web")]);
    ends["status"] = json!({"phase": "Terminating"});
    edit("MODIFIED", ends);
    edit("DELETED", namespace("new", &[("team", "data")]));
    rig.until(|cluster| !cluster.namespaces.contains_key("new"))
        .await;
    assert_eq!(rig.changes.len(), told + 1);
    // Whatever the watch missed, the next list has.
    server.with(|script| {
        let namespaces = script.collection(Watched::Namespaces);
        namespaces.objects.remove("/infra");
        namespaces.forget();
    });
    rig.until(|cluster| !cluster.namespaces.contains_key("infra"))
        .await;
    assert_eq!(rig.cluster, everything(&server));
}

#[tokio::test]
async fn nothing_is_complete_without_them_where_they_are_followed() {
    let mut script = Script::recorded();
    script.fault(Watched::Namespaces, Fault::Unanswered);
    let server = Server::start(script).await;
    let mut rig = Rig::start_with_namespaces(&server, None);
    // It is asked for again when it has been silent for too long, which is 5 s here.
    let told = rig
        .until_status(|status| status.problems.iter().any(|it| it.file == "namespaces"))
        .await;
    assert!(!told.connected);
    assert!(!rig.complete && rig.changes.is_empty());
    rig.until_complete().await;
    assert_eq!(rig.cluster, everything(&server));
}

#[tokio::test]
async fn where_they_are_not_followed_nobody_asks_for_them_and_none_is_known() {
    let server = Server::start(Script::recorded()).await;
    // An earlier run followed them.
    let memory = Arc::new(Memory::default());
    *memory.recorded.lock().unwrap() = Some(everything(&server));
    let mut saved = memory.saved.subscribe();
    server.with(|script| script.down = true);
    let mut rig = Rig::start_with(&server, timing(), Some(memory));
    rig.until_complete().await;
    assert_eq!(rig.cluster, recorded_cluster("initial"), "from the record");
    server.with(|script| {
        script.down = false;
        script.collection(Watched::Nodes).play(1);
    });
    rig.until(|cluster| !cluster.nodes.is_empty()).await;
    let saved = saved.wait_for(Option::is_some).await.unwrap();
    assert!(saved.as_ref().unwrap().namespaces.is_empty());
    server.with(|script| assert_eq!(script.asked(Watched::Namespaces).count(), 0));
}

fn selecting() -> Config {
    let mut config = config(&[("lan", "192.0.2.200/30")]);
    config.pools[0].namespace_selector = vec!["team=web".parse().unwrap()];
    config
}

fn refused(script: &mut Script, key: &str) -> bool {
    let condition = script.condition(key, edgelb::model::service::ADDRESS_CONDITION);
    condition.is_some_and(|it| it["status"] == "False" && it["reason"] == "NoPool")
}

fn label(secure: &Secure, labels: &[(&str, &str)]) {
    secure.server.with(|script| {
        let version = script.next_version();
        let shop = namespace("shop", labels);
        let namespaces = script.collection(Watched::Namespaces);
        namespaces.change_at(version, "MODIFIED", shop);
    });
}

#[tokio::test]
async fn a_label_that_is_put_on_a_namespace_gives_its_services_their_addresses() {
    let secure = world().await;
    let instance = Instance::start(&secure, "edge-a", selecting());
    secure.server.with(|script| {
        script.create_service(load_balancer("shop", "web"));
        script.create_service(load_balancer("infra", "web"));
    });
    wait(&secure, "both know why not", |script| {
        refused(script, "shop/web") && refused(script, "infra/web")
    })
    .await;
    label(&secure, &[("team", "web")]);
    wait(&secure, "one has it", |script| {
        !script.addresses("shop/web").is_empty()
    })
    .await;
    // The label goes: what is held is kept, and nobody new gets anything.
    label(&secure, &[]);
    secure
        .server
        .with(|script| script.create_service(load_balancer("shop", "later")));
    wait(&secure, "the later one knows why not", |script| {
        refused(script, "shop/later")
    })
    .await;
    secure.server.with(|script| {
        assert_eq!(
            script.addresses("shop/web"),
            ["192.0.2.200".parse::<std::net::IpAddr>().unwrap()]
        );
        assert!(refused(script, "infra/web"));
        assert!(script.forbidden.is_empty());
    });
    instance.stop().await;
}

#[tokio::test]
async fn without_the_rule_for_namespaces_everything_else_works() {
    let secure = world().await;
    secure.server.with(|script| {
        let mut roles = Roles::of_file();
        for right in NAMESPACE_RIGHTS {
            roles.revoke(right.verb, right.resource);
        }
        script.roles = Some(roles);
    });
    let instance = Instance::start(&secure, "edge-a", config(&[("lan", "192.0.2.200/30")]));
    secure
        .server
        .with(|script| script.create_service(load_balancer("shop", "web")));
    wait(&secure, "it has an address", |script| {
        !script.addresses("shop/web").is_empty()
    })
    .await;
    secure
        .server
        .with(|script| assert!(script.forbidden.is_empty()));
    instance.stop().await;
}
