//! Tokens that expire, and what is written anew while the daemon runs.

use edgelb::source::kubernetes::kind::Watched;

use crate::rig::{Rig, recorded_cluster, timing, write_kubeconfig};
use crate::script::Script;
use crate::server::{Server, service};

#[tokio::test]
async fn an_expired_token_is_replaced_in_the_kubeconfig() {
    let server = Server::start(Script::recorded()).await;
    let mut rig = Rig::start(&server).await;
    server.with(|script| {
        script.token = "second".to_owned();
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    server.with(|script| script.down = false);
    rig.until_status(|status| (status.problems.iter()).all(|it| it.message.contains("401")) && status.problems.len() == 3)
        .await;
    let url = format!("http://{}", server.address);
    write_kubeconfig(&rig.kubeconfig(), &url, "token: second", "");
    rig.until_status(|status| status.connected).await;
    assert_eq!(rig.taken_away(), 0);
}

#[tokio::test]
async fn a_token_file_is_read_again() {
    let server = Server::start(Script::recorded()).await;
    let home = tempfile::tempdir().expect("directory");
    let token = home.path().join("token");
    std::fs::write(&token, "first\n").expect("writes");
    let url = format!("http://{}", server.address);
    let user = format!("tokenFile: {}", token.display());
    write_kubeconfig(&home.path().join("kubeconfig"), &url, &user, "");
    let mut rig = Rig::start_in(home, timing(), None);
    rig.until_complete().await;
    server.with(|script| {
        script.token = "second".to_owned();
        script.down = true;
    });
    rig.until_status(|status| !status.connected).await;
    std::fs::write(&token, "second\n").expect("writes");
    server.with(|script| script.down = false);
    rig.until_status(|status| status.connected).await;
}

#[tokio::test]
async fn a_server_that_moved_is_found_through_the_kubeconfig() {
    let server = Server::start(Script::recorded()).await;
    let mut rig = Rig::start(&server).await;
    let moved = Server::start_with(server.script(), None).await;
    server.with(|script| script.down = true);
    rig.until_status(|status| !status.connected).await;
    drop(server);
    let url = format!("http://{}", moved.address);
    write_kubeconfig(&rig.kubeconfig(), &url, "token: first", "");
    moved.with(|script| {
        script.down = false;
        script
            .collection(Watched::Services)
            .change("ADDED", service("new", "10.96.7.7"));
    });
    rig.until_service("new").await;
    assert_eq!(rig.taken_away(), 0);
}

#[tokio::test]
async fn a_kubeconfig_that_is_missing_or_broken_is_told_and_waited_for() {
    let server = Server::start(Script::recorded()).await;
    let home = tempfile::tempdir().expect("directory");
    let mut rig = Rig::start_in(home, timing(), None);
    let told = |part: &'static str| {
        move |status: &edgelb::source::SourceStatus| {
            let told = |message: &str| message.contains("kubeconfig") && message.contains(part);
            status.problems.len() == 3 && status.problems.iter().all(|it| told(&it.message))
        }
    };
    rig.until_status(told("No such file")).await;
    std::fs::write(rig.kubeconfig(), "clusters: [").expect("writes");
    rig.until_status(told("parse")).await;
    let url = format!("http://{}", server.address);
    write_kubeconfig(&rig.kubeconfig(), &url, "token: first", "");
    rig.until_complete().await;
    assert_eq!(rig.cluster, recorded_cluster("initial"));
}
