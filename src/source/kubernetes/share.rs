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
            | ClusterChange::Namespace(_)
            | ClusterChange::NamespaceGone(_)
            | ClusterChange::ServiceCidr(..)
            | ClusterChange::ServiceCidrGone(_)
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
            namespaces,
            service_cidrs,
        } = cluster;
        let services = services.into_iter().map(|(_, it)| it);
        let slices = slices.into_iter().map(|(_, it)| it);
        let nodes = nodes.into_iter().map(|(_, it)| it);
        let namespaces = namespaces.into_iter().map(|(_, it)| it);
        let service_cidrs = service_cidrs.into_iter();
        let changes = services
            .map(ClusterChange::Service)
            .chain(slices.map(ClusterChange::Slice))
            .chain(nodes.map(ClusterChange::Node))
            .chain(namespaces.map(ClusterChange::Namespace))
            .chain(service_cidrs.map(|(name, ranges)| ClusterChange::ServiceCidr(name, ranges)));
        let mut small = ClusterState::default();
        for mut change in changes {
            self.change(&mut change);
            small.apply(change);
        }
        small
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey};
    use crate::model::family::Family;
    use crate::model::service::{Service, ServiceKey, ServiceType};

    #[test]
    fn nothing_that_can_be_seen_changes() {
        let mut cluster = ClusterState::default();
        for name in ["one", "two"] {
            let key = ServiceKey::new("shop", name);
            let service = Service::new(key.clone(), ServiceType::ClusterIP);
            cluster.apply(ClusterChange::Service(Arc::new(service)));
            for part in ["a", "b"] {
                let endpoint = |last: u8| Endpoint {
                    address: [10, 244, 0, last].into(),
                    conditions: Conditions::default(),
                    node: (last > 1).then(|| "edge-a".into()),
                    zone_hints: Hints::default(),
                    node_hints: Hints::default(),
                };
                cluster.apply(ClusterChange::Slice(Arc::new(EndpointSlice {
                    key: SliceKey::new("shop", format!("{name}-{part}")),
                    service: key.clone(),
                    family: Family::V4,
                    ports: Vec::with_capacity(8),
                    endpoints: (1..4).map(endpoint).collect(),
                })));
            }
        }
        let small = Shared::default().cluster(cluster.clone());
        assert_eq!(small, cluster);
        let mut slices = small.slices.values();
        assert!(slices.all(|slice| slice.ports.capacity() == 0));
    }
}
