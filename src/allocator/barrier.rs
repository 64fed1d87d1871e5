//! What a new leader waits for: that its source shows no load balancer older than it was when the
//! claims were read. An older picture would take addresses from Services that have them. A Service
//! that is not shown at all is the examiner's business.

use std::collections::BTreeMap;

use crate::api_server::server::{CallError, Server};
use crate::apply::kubernetes::catalogue;
use crate::model::cluster::ClusterState;
use crate::model::service::ServiceKey;

/// The versions that are to be shown.
pub(super) struct Barrier(BTreeMap<ServiceKey, String>);

impl Barrier {
    /// Asks the server.
    pub(super) async fn raise(server: &Server) -> Result<Self, CallError> {
        Ok(Self(catalogue::load_balancers(server).await?))
    }

    /// How many the source still shows as they were before.
    pub(super) fn behind(&mut self, cluster: &ClusterState) -> usize {
        self.0.retain(|key, wanted| {
            let shown = cluster.services.get(key);
            let shown = shown.and_then(|service| service.object.as_deref());
            shown.is_some_and(|object| is_older(&object.version, wanted))
        });
        self.0.len()
    }
}

/// Versions are numbers that grow (they are comparable since Kubernetes 1.35, and were before for
/// all objects in etcd); for others, only the same one is known not to be older.
fn is_older(shown: &str, wanted: &str) -> bool {
    match (shown.parse::<u64>(), wanted.parse::<u64>()) {
        (Ok(shown), Ok(wanted)) => shown < wanted,
        _ => shown != wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (shown, wanted, older) in [
            ("9", "10", true),
            ("10", "10", false),
            ("11", "10", false),
            ("a", "a", false),
            ("a", "b", true),
        ] {
            assert_eq!(is_older(shown, wanted), older, "{shown} {wanted}");
        }
    }
}
