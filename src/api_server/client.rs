//! A client of the API server from files, read anew for every connection: a rotated certificate,
//! authority or token, or a server that moved, counts from the next connection on. Never reads a
//! user's own kubeconfig. Decides nothing about when to connect.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
    #[error("cannot read the token file {}", path.display())]
    Token {
        path: PathBuf,
        source: std::io::Error,
    },
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

/// A client, and the files that it came from.
pub struct Connected {
    pub client: Client,
    pub files: Files,
}

impl Credentials {
    /// From `source.kubernetes.kubeconfig`; without it from `/etc/edgelb/kubeconfig` where that
    /// exists, else from the pod's service account.
    pub fn new(kubeconfig: Option<PathBuf>) -> Self {
        Self { kubeconfig }
    }

    /// A new client with what the files say now.
    pub async fn client(&self) -> Result<Connected, ClientError> {
        let default = Path::new(DEFAULT_KUBECONFIG);
        let (mut config, paths) = match &self.kubeconfig {
            Some(path) => read(path).await?,
            None if default.exists() => read(default).await?,
            None => in_cluster()?,
        };
        // Looked at before they are read: a change in between is seen as one.
        let files = Files::new(paths);
        read_token(&mut config)?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        // A watch is silent between bookmarks; its reader knows how long it may be.
        config.read_timeout = None;
        // Whoever waits after an error must know of it.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|error| ClientError::Credentials {
            server,
            source: Box::new(error),
        })?;
        Ok(Connected { client, files })
    }
}

async fn read(path: &Path) -> Result<(Config, Vec<PathBuf>), ClientError> {
    let failed = |error| ClientError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(error),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    let authorities = (kubeconfig.clusters.iter())
        .filter_map(|named| named.cluster.as_ref()?.certificate_authority.as_ref());
    let users = (kubeconfig.auth_infos.iter())
        .filter_map(|named| named.auth_info.as_ref())
        .flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file])
        .flatten();
    let mut files = vec![path.to_owned()];
    files.extend(authorities.chain(users).map(PathBuf::from));
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(failed)?;
    Ok((config, files))
}

fn in_cluster() -> Result<(Config, Vec<PathBuf>), ClientError> {
    let config = Config::incluster().map_err(|error| ClientError::NoCredentials {
        source: Box::new(error),
    })?;
    let token = config.auth_info.token_file.as_ref().map(PathBuf::from);
    let files = config.root_cert_file.iter().cloned().chain(token).collect();
    Ok((config, files))
}

/// Reads the token here, because the client takes the end of a file's last line for a part of it.
fn read_token(config: &mut Config) -> Result<(), ClientError> {
    if config.auth_info.token.is_some() {
        return Ok(());
    }
    if let Some(path) = config.auth_info.token_file.take() {
        let token = std::fs::read_to_string(&path).map_err(|source| ClientError::Token {
            path: PathBuf::from(&path),
            source,
        })?;
        config.auth_info.token = Some(token.trim().into());
    }
    Ok(())
}

/// What a file is known by: a rotation replaces it or writes it anew.
type Stamp = Option<(SystemTime, u64, u64)>;

/// Files as they were when they were read.
#[derive(Debug)]
pub struct Files(Vec<(PathBuf, Stamp)>);

impl Files {
    fn new(paths: Vec<PathBuf>) -> Self {
        let stamped = paths.into_iter().map(|path| {
            let stamp = stamp(&path);
            (path, stamp)
        });
        Self(stamped.collect())
    }

    /// Waits until one of them is not what it was, looking this often.
    pub(crate) async fn changed(&self, period: Duration) {
        loop {
            tokio::time::sleep(period).await;
            if self.have_changed() {
                return;
            }
        }
    }

    /// Whether one of them is not what it was.
    pub(crate) fn have_changed(&self) -> bool {
        self.0.iter().any(|(path, old)| stamp(path) != *old)
    }
}

fn stamp(path: &Path) -> Stamp {
    // Follows links: mounted secrets are swapped by changing one.
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}
