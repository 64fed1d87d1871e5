//! The collections that are watched, what is asked for of them, and the change that one of
//! their objects is. Pure.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::Deserialize;

use super::convert::{self, Ignored, Note, Notes};
use super::fields;
use super::slice;
use crate::api_server::{SERVICE_SELECTORS, lenient};
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::model::endpoint::SliceKey;
use crate::model::service::{ADDRESS_CONDITION, ServiceKey};

/// A collection that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Watched {
    Services,
    EndpointSlices,
    Nodes,
    Namespaces,
    ServiceCidrs,
}

/// Namespace and name; Nodes and Namespaces have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

/// What one object of the API server is to the cluster.
#[derive(Debug)]
pub struct Read {
    pub key: ObjectKey,
    /// Opaque; where to go on from.
    pub resource_version: String,
    /// What it changes; or why it cannot be read, and then what was known of it stays.
    pub change: Result<ClusterChange, String>,
    /// What was left out of it.
    pub notes: Vec<Note>,
    /// Why it is left out, of a Service with which nothing is wrong.
    pub ignored: Option<Ignored>,
}

#[derive(Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: String,
}

impl Watched {
    /// Those without which there is no plan.
    pub const ALWAYS: [Self; 3] = [Self::Services, Self::EndpointSlices, Self::Nodes];
    /// All there are: Namespaces only where a pool asks for their labels, so that nobody else needs
    /// the right to read them; `ServiceCIDRs` only where the configuration names no range itself.
    pub const ALL: [Self; 5] = [
        Self::Services,
        Self::EndpointSlices,
        Self::Nodes,
        Self::Namespaces,
        Self::ServiceCidrs,
    ];

    /// Whether nothing is complete without it. Servers before 1.33 have no `ServiceCIDRs`, and less
    /// is known without them, nothing else.
    pub fn is_required(self) -> bool {
        self != Self::ServiceCidrs
    }

    /// The path of the collection over all namespaces.
    pub fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::Namespaces => "/api/v1/namespaces",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    /// The selectors, percent-encoded (SEL-1, SEL-2, SEL-5).
    pub fn selectors(self) -> &'static str {
        match self {
            Self::Services => SERVICE_SELECTORS,
            Self::EndpointSlices => "labelSelector=%21service.kubernetes.io%2Fheadless",
            Self::Nodes | Self::Namespaces | Self::ServiceCidrs => "",
        }
    }

    /// Reads and converts one object; the rest of it is dropped here. An error says that not even
    /// its name can be read.
    pub(super) fn read(self, text: &str) -> Result<Read, serde_json::Error> {
        let Head { metadata } = serde_json::from_str(text)?;
        let key = ObjectKey {
            namespace: metadata.namespace,
            name: metadata.name,
        };
        let mut ignored = None;
        let converted = match self {
            Self::Services => lenient::read::<core::Service>(text.as_bytes(), ADDRESS_CONDITION)
                .map(|object| {
                    let converted = convert::service(&object);
                    let change = match converted.object {
                        Ok(service) => ClusterChange::Service(Arc::new(service)),
                        Err(reason) => {
                            ignored = Some(reason);
                            self.gone(&key)
                        }
                    };
                    (change, converted.notes)
                }),
            Self::EndpointSlices => {
                serde_json::from_str::<discovery::EndpointSlice>(text).map(|object| {
                    let converted = slice::endpoint_slice(&object);
                    let change = match converted.object {
                        Ok(slice) => ClusterChange::Slice(Arc::new(slice)),
                        Err(_) => self.gone(&key),
                    };
                    (change, converted.notes)
                })
            }
            Self::Nodes => serde_json::from_str::<core::Node>(text).map(|object| {
                let converted = convert::node(&object);
                let change = match converted.object {
                    Ok(node) => ClusterChange::Node(Arc::new(node)),
                    Err(_) => self.gone(&key),
                };
                (change, converted.notes)
            }),
            Self::Namespaces => serde_json::from_str::<core::Namespace>(text).map(|object| {
                let converted = convert::namespace(&object);
                let change = match converted.object {
                    Ok(namespace) => ClusterChange::Namespace(Arc::new(namespace)),
                    Err(_) => self.gone(&key),
                };
                (change, converted.notes)
            }),
            Self::ServiceCidrs => {
                serde_json::from_str::<networking::ServiceCIDR>(text).map(|object| {
                    let mut notes = Notes::default();
                    let ranges = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
                    let ranges = fields::ranges_of("spec.cidrs", &ranges, &mut notes);
                    let change = ClusterChange::ServiceCidr(key.name.clone(), Arc::new(ranges));
                    (change, notes.0)
                })
            }
        };
        let (change, notes) = match converted {
            Ok((change, notes)) => (Ok(change), notes),
            Err(error) => (Err(error.to_string()), Vec::new()),
        };
        Ok(Read {
            key,
            resource_version: metadata.resource_version,
            change,
            notes,
            ignored,
        })
    }

    /// The change that takes this object away.
    pub(super) fn gone(self, key: &ObjectKey) -> ClusterChange {
        let (namespace, name) = (&key.namespace, &key.name);
        match self {
            Self::Services => ClusterChange::ServiceGone(ServiceKey::new(namespace, name)),
            Self::EndpointSlices => ClusterChange::SliceGone(SliceKey::new(namespace, name)),
            Self::Nodes => ClusterChange::NodeGone(name.clone()),
            Self::Namespaces => ClusterChange::NamespaceGone(name.clone()),
            Self::ServiceCidrs => ClusterChange::ServiceCidrGone(name.clone()),
        }
    }

    /// The objects of this kind that the cluster has.
    pub(super) fn keys(self, cluster: &ClusterState) -> Vec<ObjectKey> {
        let key = |namespace: &str, name: &str| ObjectKey {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        match self {
            Self::Services => (cluster.services.keys())
                .map(|known| key(&known.namespace, &known.name))
                .collect(),
            Self::EndpointSlices => (cluster.slices.keys())
                .map(|known| key(&known.namespace, &known.name))
                .collect(),
            Self::Nodes => (cluster.nodes.keys()).map(|name| key("", name)).collect(),
            Self::Namespaces => (cluster.namespaces.keys())
                .map(|name| key("", name))
                .collect(),
            Self::ServiceCidrs => (cluster.service_cidrs.keys())
                .map(|name| key("", name))
                .collect(),
        }
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "services",
            Self::EndpointSlices => "endpointslices",
            Self::Nodes => "nodes",
            Self::Namespaces => "namespaces",
            Self::ServiceCidrs => "servicecidrs",
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}
