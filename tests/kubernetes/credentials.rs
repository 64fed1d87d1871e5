//! Tokens that expire, and what is written anew while the daemon runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgelb::source::kubernetes::kind::Watched;

use crate::authority::Authority;
use crate::kubeconfig::write_kubeconfig;
use crate::rig::{LIMIT, Rig, recorded_cluster, timing};
use crate::script::Script;
use crate::server::{Server, Tls, service};

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
    rig.until_status(|status| {
        (status.problems.iter()).all(|it| it.message.contains("401")) && status.problems.len() == 3
    })
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
    let moved = Server::start_with(server.script(), Tls::default()).await;
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

#[tokio::test]
async fn rotated_certificates_and_authorities_count_from_the_next_connection_on() {
    let first = Authority::new();
    let tls: Tls = Arc::new(Mutex::new(Some(first.acceptor())));
    let script = Arc::new(Mutex::new(Script::recorded()));
    let server = Server::start_with(script, Arc::clone(&tls)).await;
    let home = tempfile::tempdir().expect("directory");
    first.write(home.path());
    let url = format!("https://{}", server.address);
    write_kubeconfig(
        &home.path().join("kubeconfig"),
        &url,
        "token: first, client-certificate: client.crt, client-key: client.key",
        ", certificate-authority: ca.crt",
    );
    let mut rig = Rig::start_in(home, timing(), None);
    rig.until_complete().await;
    rig.until_status(|status| status.connected).await;

    let second = Authority::new();
    *tls.lock().expect("lock") = Some(second.acceptor());
    server.with(|script| script.down = true);
    // The old authority is not trusted with the new server, whoever is in between.
    rig.until_status(|status| {
        (status.problems.iter()).any(|problem| problem.message.contains("certificate"))
    })
    .await;
    server.with(|script| {
        script.down = false;
        script
            .collection(Watched::Services)
            .change("ADDED", service("new", "10.96.7.7"));
    });
    second.write(rig.home.path());
    rig.until_service("new").await;
    rig.until_status(|status| status.connected).await;

    // The watches stand, and go over by themselves when the files are exchanged.
    let asked = server.with(|script| script.requests.len());
    let third = Authority::new();
    *tls.lock().expect("lock") = Some(third.acceptor());
    third.write(rig.home.path());
    let again = async {
        while server.with(|script| script.requests.len()) < asked + 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, again)
        .await
        .expect("all watches go over in time");
    server.with(|script| {
        script
            .collection(Watched::Services)
            .change("ADDED", service("newer", "10.96.7.8"));
    });
    rig.until_service("newer").await;
    assert_eq!(rig.taken_away(), 0);
}
