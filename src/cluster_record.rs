//! Joins the source that follows the API server to the state directory, which neither knows of the
//! other: the last complete cluster outlives the daemon. Decides nothing.

use std::sync::Arc;

use crate::api_server::client::Credentials;
use crate::apply::state_directory::StateDirectory;
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::source::kubernetes::kind::Watched;
use crate::source::kubernetes::timing::Timing;
use crate::source::kubernetes::{Record, Settings};

struct InStateDirectory(Arc<StateDirectory>);

impl Record for InStateDirectory {
    fn load(&self) -> Result<Option<ClusterState>, String> {
        match self.0.read_cluster() {
            Ok((cluster, None)) => Ok(cluster),
            Ok((_, Some(warning))) => Err(warning.to_string()),
            Err(error) => Err(describe(error)),
        }
    }

    fn save(&self, cluster: &ClusterState) -> Result<(), String> {
        self.0.write_cluster(cluster).map_err(describe)
    }
}

fn describe(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// What the source works with in a daemon.
pub fn settings(config: &Config, state: Arc<StateDirectory>) -> Settings {
    Settings {
        credentials: Credentials::new(config.source.kubernetes.kubeconfig.clone()),
        timing: Timing::default(),
        kinds: kinds(config),
        record: Some(Arc::new(InStateDirectory(state))),
    }
}

/// What a daemon of this configuration follows.
pub fn kinds(config: &Config) -> Vec<Watched> {
    let namespaces = config.selects_namespaces();
    let service_cidrs = config.finds_service_cidrs();
    let wanted = |kind: &Watched| match kind {
        Watched::Namespaces => namespaces,
        Watched::ServiceCidrs => service_cidrs,
        Watched::Services | Watched::EndpointSlices | Watched::Nodes => true,
    };
    Watched::ALL.into_iter().filter(wanted).collect()
}
