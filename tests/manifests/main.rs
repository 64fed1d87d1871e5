//! A directory of manifests, from outside: real files, real notifications, hostile contents.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod hostile;
mod seed;
mod watch;

use edgelb::model::cluster::{ClusterChange, ClusterState};

/// A Service with one address.
pub fn service(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {address}\n  ports:\n  - port: 80\n"
    )
}

/// The cluster that changes lead to from nothing.
pub fn cluster(changes: Vec<ClusterChange>) -> ClusterState {
    let mut cluster = ClusterState::default();
    for change in changes {
        cluster.apply(change);
    }
    cluster
}

/// The address of a Service in the namespace `default`.
pub fn address(cluster: &ClusterState, name: &str) -> Option<String> {
    let key = edgelb::model::service::ServiceKey::new("default", name);
    Some(cluster.services.get(&key)?.cluster_ips.first()?.to_string())
}
