//! Tokens that expire, and what is written anew while the daemon runs.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgelb::source::kubernetes::kind::Watched;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::rig::{LIMIT, Rig, recorded_cluster, timing, write_kubeconfig};
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

/// A certificate authority, with what it signed for a server and for the client.
struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signs");
        let issuer = Issuer::new(params, key);
        Self {
            certificate,
            issuer,
        }
    }

    fn sign(&self, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).expect("signs");
        (certificate, key)
    }

    /// A server that lets in clients of this authority alone.
    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ServerAuth);
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a root");
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .expect("a verifier");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        TlsAcceptor::from(Arc::new(config))
    }

    /// Writes what a client needs, as a rotation does: each file replaced whole.
    fn write(&self, directory: &Path) {
        let (certificate, key) = self.sign(ExtendedKeyUsagePurpose::ClientAuth);
        for (name, text) in [
            ("ca.crt", self.certificate.pem()),
            ("client.crt", certificate.pem()),
            ("client.key", key.serialize_pem()),
        ] {
            let temporary = directory.join("temporary");
            std::fs::write(&temporary, text).expect("writes");
            std::fs::rename(&temporary, directory.join(name)).expect("renames");
        }
    }
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
