//! The cluster as one snapshot. The maps share structure: a clone costs nothing, and a snapshot
//! that differs in one object costs one object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::compact_set::CompactSet;
use super::endpoint::{EndpointSlice, SliceKey};
use super::service::{Service, ServiceKey};

/// A Node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
    /// `status.addresses` of type `InternalIP`, then `ExternalIP`, in their order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<IpNet>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The keys of `spec.taints`.
    pub taints: Vec<String>,
    /// Nobody has heard of it for a while: its condition `Ready` is `Unknown`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub silent: bool,
}

/// A Namespace of the cluster, for the selectors of pools.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`
    pub name: String,
    /// `metadata.labels`
    pub labels: BTreeMap<String, String>,
}

/// Every Service, `EndpointSlice`, Node and Namespace that the sources know.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// Services by key.
    #[serde(with = "pairs")]
    pub services: OrdMap<ServiceKey, Arc<Service>>,
    /// Slices by key.
    #[serde(with = "pairs")]
    pub slices: OrdMap<SliceKey, Arc<EndpointSlice>>,
    /// The slices of each Service, kept beside `slices`.
    #[serde(with = "pairs")]
    pub slices_of: OrdMap<ServiceKey, CompactSet<SliceKey>>,
    /// Nodes by name.
    pub nodes: OrdMap<String, Arc<Node>>,
    /// Namespaces by name; none where nobody asks for their labels.
    #[serde(default)]
    pub namespaces: OrdMap<String, Arc<Namespace>>,
    /// The ranges of each `ServiceCIDR` by its name; none where nobody asks for them.
    #[serde(default)]
    pub service_cidrs: OrdMap<String, Arc<Vec<IpNet>>>,
}

/// One edit to the cluster. Sources send these; the reconciler folds them into the snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum ClusterChange {
    /// A Service is new or differs.
    Service(Arc<Service>),
    /// A Service is gone.
    ServiceGone(ServiceKey),
    /// A slice is new or differs.
    Slice(Arc<EndpointSlice>),
    /// A slice is gone.
    SliceGone(SliceKey),
    /// A Node is new or differs.
    Node(Arc<Node>),
    /// A Node is gone.
    NodeGone(String),
    /// A Namespace is new or differs.
    Namespace(Arc<Namespace>),
    /// A Namespace is gone.
    NamespaceGone(String),
    /// A `ServiceCIDR` of this name is new or differs.
    ServiceCidr(String, Arc<Vec<IpNet>>),
    /// A `ServiceCIDR` is gone.
    ServiceCidrGone(String),
}

/// What must be planned again because of a change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dirty {
    /// One Service.
    Service(ServiceKey),
    /// Whatever depends on the Nodes.
    Nodes,
    /// Whatever depends on the labels of Namespaces.
    Namespaces,
    /// Whatever depends on the ranges of `ClusterIPs`.
    ServiceCidrs,
}

impl ClusterState {
    /// Folds one change in and tells what it touches; nothing where the object is the same as before.
    pub fn apply(&mut self, change: ClusterChange) -> Vec<Dirty> {
        match change {
            ClusterChange::Service(service) => {
                if self.services.get(&service.key) == Some(&service) {
                    return Vec::new();
                }
                let key = service.key.clone();
                self.services.insert(key.clone(), service);
                vec![Dirty::Service(key)]
            }
            ClusterChange::ServiceGone(key) => match self.services.remove(&key) {
                Some(_) => vec![Dirty::Service(key)],
                None => Vec::new(),
            },
            ClusterChange::Slice(slice) => {
                if self.slices.get(&slice.key) == Some(&slice) {
                    return Vec::new();
                }
                let service = slice.service.clone();
                let mut dirty = self.forget_slice(&slice.key, Some(&service));
                self.slices_of
                    .entry(service.clone())
                    .or_default()
                    .insert(slice.key.clone());
                self.slices.insert(slice.key.clone(), slice);
                dirty.push(Dirty::Service(service));
                dirty
            }
            ClusterChange::SliceGone(key) => self.forget_slice(&key, None),
            ClusterChange::Node(node) => {
                if self.nodes.get(&node.name) == Some(&node) {
                    return Vec::new();
                }
                self.nodes.insert(node.name.clone(), node);
                vec![Dirty::Nodes]
            }
            ClusterChange::NodeGone(name) => match self.nodes.remove(&name) {
                Some(_) => vec![Dirty::Nodes],
                None => Vec::new(),
            },
            ClusterChange::Namespace(namespace) => {
                if self.namespaces.get(&namespace.name) == Some(&namespace) {
                    return Vec::new();
                }
                self.namespaces.insert(namespace.name.clone(), namespace);
                vec![Dirty::Namespaces]
            }
            ClusterChange::NamespaceGone(name) => match self.namespaces.remove(&name) {
                Some(_) => vec![Dirty::Namespaces],
                None => Vec::new(),
            },
            ClusterChange::ServiceCidr(name, ranges) => {
                if self.service_cidrs.get(&name) == Some(&ranges) {
                    return Vec::new();
                }
                self.service_cidrs.insert(name, ranges);
                vec![Dirty::ServiceCidrs]
            }
            ClusterChange::ServiceCidrGone(name) => match self.service_cidrs.remove(&name) {
                Some(_) => vec![Dirty::ServiceCidrs],
                None => Vec::new(),
            },
        }
    }

    /// Takes a slice out; its old Service is dirty unless it is the one that stays its Service.
    fn forget_slice(&mut self, key: &SliceKey, stays: Option<&ServiceKey>) -> Vec<Dirty> {
        let Some(old) = self.slices.remove(key) else {
            return Vec::new();
        };
        let emptied = self.slices_of.get_mut(&old.service).is_some_and(|set| {
            set.remove(key);
            set.is_empty()
        });
        if emptied {
            self.slices_of.remove(&old.service);
        }
        if stays == Some(&old.service) {
            Vec::new()
        } else {
            vec![Dirty::Service(old.service.clone())]
        }
    }

    /// The slices of one Service.
    pub fn slices_of<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
        self.slices_of
            .get(service)
            .into_iter()
            .flat_map(CompactSet::iter)
            .filter_map(|key| self.slices.get(key))
    }
}

/// Maps whose keys are structures are written as lists of pairs, because JSON keys are strings.
mod pairs {
    use imbl::OrdMap;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K, V, S>(map: &OrdMap<K, V>, serializer: S) -> Result<S::Ok, S::Error>
    where
        K: Ord + Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map.iter())
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<OrdMap<K, V>, D::Error>
    where
        K: Ord + Clone + Deserialize<'de>,
        V: Clone + Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}
