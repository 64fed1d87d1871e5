//! A client of the API server from files, read anew for every connection: a rotated certificate,
//! authority or token, or a server that moved, counts from the next connection on. Never reads a
//! user's own kubeconfig. Decides nothing about when to connect.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::config::DEFAULT_KUBECONFIG;

/// How long a TCP connection and its TLS handshake may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        path: PathBuf,
        source: Box<KubeconfigError>,
    },
    #[error(
        "there is no {DEFAULT_KUBECONFIG} and this is no pod with a service account: set source.kubernetes.kubeconfig"
    )]
    NoCredentials { source: Box<InClusterError> },
    #[error("cannot use the credentials for {server}")]
    Credentials {
        server: String,
        source: Box<kube::Error>,
    },
}

/// Where the credentials are.
#[derive(Debug, Clone)]
pub struct Credentials {
    kubeconfig: Option<PathBuf>,
}

impl Credentials {
    /// From `source.kubernetes.kubeconfig`; without it from `/etc/edgelb/kubeconfig` where that
    /// exists, else from the pod's service account.
    pub fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self { kubeconfig }
    }

    /// A new client with what the files say now.
    pub async fn client(&self) -> Result<Client, ClientError> {
        let default = Path::new(DEFAULT_KUBECONFIG);
        let mut config = match &self.kubeconfig {
            Some(path) => read(path).await?,
            None if default.exists() => read(default).await?,
            None => Config::incluster().map_err(|error| ClientError::NoCredentials {
                source: Box::new(error),
            })?,
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // A watch is silent between bookmarks; its reader knows how long it may be.
        config.read_timeout = None;
        // Whoever waits after an error must know of it.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        Client::try_from(config).map_err(|error| ClientError::Credentials {
            server,
            source: Box::new(error),
        })
    }
}

async fn read(path: &Path) -> Result<Config, ClientError> {
    let failed = |error| ClientError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(error),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}
