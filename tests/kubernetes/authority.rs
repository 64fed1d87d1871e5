//! Certificates, and a scripted server that is reached with TLS alone, as a real one is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::kubeconfig::write_kubeconfig;
use crate::script::Script;
use crate::server::Server;

/// A certificate authority, with what it signed for a server and for the client.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
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
    pub fn acceptor(&self) -> TlsAcceptor {
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
    pub fn write(&self, directory: &Path) {
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

/// A server behind TLS, and the files with which clients come to it.
pub struct Secure {
    pub server: Server,
    pub home: TempDir,
}

impl Secure {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::start_on(listener, script)
    }

    /// Serves where somebody already listens, in another network namespace for example.
    pub fn start_on(listener: TcpListener, script: Script) -> Self {
        let authority = Authority::new();
        let tls = Arc::new(Mutex::new(Some(authority.acceptor())));
        let server = Server::start_on(listener, Arc::new(Mutex::new(script)), tls);
        let home = tempfile::tempdir().expect("directory");
        authority.write(home.path());
        Self { server, home }
    }

    /// A kubeconfig with this token; one file a token.
    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.home.path().join(format!("{token}.kubeconfig"));
        let url = format!("https://{}", self.server.address);
        let user =
            format!("token: {token}, client-certificate: client.crt, client-key: client.key");
        // Wherever it is, its certificate is for this name.
        let cluster = ", certificate-authority: ca.crt, tls-server-name: 127.0.0.1";
        write_kubeconfig(&path, &url, &user, cluster);
        path
    }

    /// A client with this token, which retries nothing.
    pub async fn client(&self, token: &str) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig(token)).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .expect("a configuration");
        config.default_retry = false;
        Client::try_from(config).expect("a client")
    }
}
