//! The objects in force, and the changes that lead from one set of them to the next. Pure.
//!
//! `Endpoints` count for a Service that has no `EndpointSlice` of its own in the directory: Kubernetes
//! mirrors them for Services without a selector, but a manifest's selector selects nothing here, as
//! there are no pods, so it cannot tell.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::parse::{ManifestObject, ObjectKey};
use crate::model::cluster::{ClusterChange, Namespace, Node};
use crate::model::endpoint::{EndpointSlice, SliceKey};
use crate::model::service::{Service, ServiceKey};

type Slices = BTreeMap<SliceKey, Arc<EndpointSlice>>;

/// What is in force.
#[derive(Debug, Default)]
pub(super) struct Merged {
    services: BTreeMap<ServiceKey, Arc<Service>>,
    nodes: BTreeMap<String, Arc<Node>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    /// Slices that stand in files, and the Service of each.
    service_of: BTreeMap<SliceKey, ServiceKey>,
    written: BTreeMap<ServiceKey, Slices>,
    /// Slices that mirror `Endpoints`.
    mirrored: BTreeMap<ServiceKey, Slices>,
    /// What was told of each Service.
    told: BTreeMap<ServiceKey, Slices>,
}

impl Merged {
    /// Takes in the objects that are new in force (`None`: none is) and answers with the changes.
    pub(super) fn apply(
        &mut self,
        objects: Vec<(&ObjectKey, Option<ManifestObject>)>,
    ) -> Vec<ClusterChange> {
        let mut gone = Vec::new();
        let mut changes = Vec::new();
        let mut touched = BTreeSet::new();
        for (key, object) in objects {
            match key {
                ObjectKey::Service(key) => {
                    let service = match object {
                        Some(ManifestObject::Service(service)) => Some(service),
                        _ => None,
                    };
                    match put(&mut self.services, key, service) {
                        Put::Changed(service) => changes.push(ClusterChange::Service(service)),
                        Put::Gone => gone.push(ClusterChange::ServiceGone(key.clone())),
                        Put::Same => {}
                    }
                }
                ObjectKey::Node(name) => {
                    let node = match object {
                        Some(ManifestObject::Node(node)) => Some(node),
                        _ => None,
                    };
                    match put(&mut self.nodes, name, node) {
                        Put::Changed(node) => changes.push(ClusterChange::Node(node)),
                        Put::Gone => gone.push(ClusterChange::NodeGone(name.clone())),
                        Put::Same => {}
                    }
                }
                ObjectKey::Namespace(name) => {
                    let namespace = match object {
                        Some(ManifestObject::Namespace(namespace)) => Some(namespace),
                        _ => None,
                    };
                    match put(&mut self.namespaces, name, namespace) {
                        Put::Changed(namespace) => {
                            changes.push(ClusterChange::Namespace(namespace));
                        }
                        Put::Gone => gone.push(ClusterChange::NamespaceGone(name.clone())),
                        Put::Same => {}
                    }
                }
                ObjectKey::Slice(key) => {
                    self.forget_slice(key, &mut touched);
                    if let Some(ManifestObject::Slice(slice)) = object {
                        let service = slice.service.clone();
                        touched.insert(service.clone());
                        self.service_of.insert(key.clone(), service.clone());
                        let slices = self.written.entry(service).or_default();
                        slices.insert(key.clone(), slice);
                    }
                }
                ObjectKey::Endpoints(key) => {
                    touched.insert(key.clone());
                    match object {
                        Some(ManifestObject::Endpoints(slices)) => {
                            let slices = slices
                                .into_iter()
                                .map(|slice| (slice.key.clone(), slice))
                                .collect();
                            self.mirrored.insert(key.clone(), slices);
                        }
                        _ => {
                            self.mirrored.remove(key);
                        }
                    }
                }
            }
        }
        self.tell_slices(&touched, &mut gone, &mut changes);
        // What goes goes first, so that a slice that changes its Service is not lost.
        gone.append(&mut changes);
        gone
    }

    /// Everything, as changes to an empty cluster: endpoints before the Services that need them.
    pub(super) fn everything(&self) -> Vec<ClusterChange> {
        let nodes = self.nodes.values().cloned().map(ClusterChange::Node);
        let slices = self.told.values().flat_map(BTreeMap::values).cloned();
        let services = self.services.values().cloned();
        let namespaces = self.namespaces.values().cloned();
        nodes
            .chain(namespaces.map(ClusterChange::Namespace))
            .chain(slices.map(ClusterChange::Slice))
            .chain(services.map(ClusterChange::Service))
            .collect()
    }

    /// `Endpoints` that do not count, because their Service has slices of its own.
    pub(super) fn unused_endpoints(&self) -> impl Iterator<Item = &ServiceKey> {
        self.mirrored
            .keys()
            .filter(|service| self.written.contains_key(service))
    }

    fn forget_slice(&mut self, key: &SliceKey, touched: &mut BTreeSet<ServiceKey>) {
        let Some(service) = self.service_of.remove(key) else {
            return;
        };
        if let Some(slices) = self.written.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.written.remove(&service);
            }
        }
        touched.insert(service);
    }

    fn tell_slices(
        &mut self,
        touched: &BTreeSet<ServiceKey>,
        gone: &mut Vec<ClusterChange>,
        changes: &mut Vec<ClusterChange>,
    ) {
        let nothing = Slices::new();
        let mut told_now = BTreeSet::new();
        let mut no_longer = Vec::new();
        for service in touched {
            let wanted = self
                .written
                .get(service)
                .or_else(|| self.mirrored.get(service))
                .unwrap_or(&nothing);
            let told = self.told.get(service).unwrap_or(&nothing);
            for (key, slice) in wanted {
                told_now.insert(key.clone());
                if !same(told.get(key), slice) {
                    changes.push(ClusterChange::Slice(slice.clone()));
                }
            }
            no_longer.extend(told.keys().filter(|key| !wanted.contains_key(key)).cloned());
            let wanted = wanted.clone();
            if wanted.is_empty() {
                self.told.remove(service);
            } else {
                self.told.insert(service.clone(), wanted);
            }
        }
        // One that has moved to another Service is told as changed, not as gone.
        gone.extend(
            no_longer
                .into_iter()
                .filter(|key| !told_now.contains(key))
                .map(ClusterChange::SliceGone),
        );
    }
}

enum Put<T> {
    Same,
    Changed(Arc<T>),
    Gone,
}

fn put<K: Ord + Clone, T: PartialEq>(
    map: &mut BTreeMap<K, Arc<T>>,
    key: &K,
    object: Option<Arc<T>>,
) -> Put<T> {
    match object {
        Some(object) if same(map.get(key), &object) => Put::Same,
        Some(object) => {
            map.insert(key.clone(), object.clone());
            Put::Changed(object)
        }
        None => map.remove(key).map_or(Put::Same, |_| Put::Gone),
    }
}

fn same<T: PartialEq>(old: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    old.is_some_and(|old| Arc::ptr_eq(old, new) || old == new)
}
