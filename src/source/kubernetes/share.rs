//! Keeps objects small: what many of them have in common is kept once, and no list has room for
//! more than it holds. Changes nothing that can be seen.

use std::sync::Arc;

use crate::model::cluster::{ClusterChange, ClusterState};
use crate::model::text::Texts;

/// What the objects of a cluster have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    texts: Texts,
}

impl Shared {
    /// Makes one change small.
    pub(super) fn change(&mut self, change: &mut ClusterChange) {
        match change {
            ClusterChange::Service(service) => {
                // Nobody else has it yet: this does not copy.
                let service = Arc::make_mut(service);
                self.texts.share(&mut service.key.namespace);
                self.texts.share(&mut service.key.name);
                service.cluster_ips.shrink_to_fit();
                service.external_ips.shrink_to_fit();
                service.ports.shrink_to_fit();
                service.families.shrink_to_fit();
                service.source_ranges.shrink_to_fit();
                service.ingress.shrink_to_fit();
            }
            ClusterChange::Slice(slice) => {
                let slice = Arc::make_mut(slice);
                self.texts.share(&mut slice.key.namespace);
                self.texts.share(&mut slice.service.namespace);
                self.texts.share(&mut slice.service.name);
                slice.ports.shrink_to_fit();
                slice.endpoints.shrink_to_fit();
                let nodes = slice.endpoints.iter_mut().flat_map(|it| &mut it.node);
                nodes.for_each(|node| self.texts.share(node));
            }
            ClusterChange::Node(_)
            | ClusterChange::ServiceGone(_)
            | ClusterChange::SliceGone(_)
            | ClusterChange::NodeGone(_) => {}
        }
    }

    /// Makes a whole cluster small.
    pub(super) fn cluster(&mut self, cluster: ClusterState) -> ClusterState {
        let ClusterState {
            services,
            slices,
            slices_of: _,
            nodes,
        } = cluster;
        let services = services.into_iter().map(|(_, it)| it);
        let slices = slices.into_iter().map(|(_, it)| it);
        let nodes = nodes.into_iter().map(|(_, it)| it);
        let changes = services
            .map(ClusterChange::Service)
            .chain(slices.map(ClusterChange::Slice))
            .chain(nodes.map(ClusterChange::Node));
        let mut small = ClusterState::default();
        for mut change in changes {
            self.change(&mut change);
            small.apply(change);
        }
        small
    }
}
