//! The cluster as the daemon of this configuration has it: the manifests themselves, or what a daemon
//! recorded of the API server. Reads files; asks nobody.

use crate::apply::state_directory::peek;
use crate::config::{Config, SourceKind};
use crate::model::cluster::ClusterState;
use crate::source::manifest::read_directory;

/// The cluster; none where there is neither. Problems of manifests are the daemon's to tell.
pub(super) fn read(config: &Config) -> Option<ClusterState> {
    match config.source.kind {
        SourceKind::Kubernetes => peek::cluster(&config.node.state_dir),
        SourceKind::Manifests => {
            let (changes, _) = read_directory(&config.source.manifests.dir);
            let mut cluster = ClusterState::default();
            for change in changes {
                cluster.apply(change);
            }
            Some(cluster)
        }
    }
}
