//! A Service as the planner needs it: the fields that decide forwarding and addresses, canonical.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::family::{Family, Protocol};
use super::text::Text;

/// Namespace and name: the identity of a Service (and of what is named after it).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Text,
    /// The name in it.
    pub name: Text,
}

impl ServiceKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `spec.type`. `ExternalName` and headless Services have nothing to forward (SEL-3, SEL-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the cluster only.
    ClusterIP,
    /// On a port of each node as well.
    NodePort,
    /// With a VIP as well.
    LoadBalancer,
    /// A DNS name: nothing to forward.
    ExternalName,
}

/// `externalTrafficPolicy` or `internalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// Any endpoint of the cluster.
    #[default]
    Cluster,
    /// Only endpoints on the node that the packet reached.
    Local,
}

/// `spec.ipFamilyPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both families where both can be had.
    PreferDualStack,
    /// Both families or nothing.
    RequireDualStack,
}

/// `ipMode` of a status address: `Proxy` is not ours to forward (SP-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum IpMode {
    /// Packets arrive with the address as their destination.
    #[default]
    #[serde(rename = "VIP")]
    Vip,
    /// Packets arrive already rewritten.
    Proxy,
}

/// One address in `status.loadBalancer.ingress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressAddress {
    /// The address.
    pub address: IpAddr,
    /// How packets for it arrive.
    pub mode: IpMode,
}

/// What the API server knows one object by, from its creation to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectIdentity {
    /// `metadata.uid`: another object of the same name has another one.
    pub uid: String,
    /// `metadata.resourceVersion`: a write that names an older one is refused.
    pub version: String,
}

/// The type of our own condition in a Service's status.
pub const ADDRESS_CONDITION: &str = "edgelb.io/AddressAllocated";

/// Our own condition as it stands in a Service's status. It tells the nodes that do not allocate
/// which addresses are from us, whatever their pools are by now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressCondition {
    /// `status` is `True`: the addresses beside it are ours.
    pub allocated: bool,
    /// `reason`, a word in camel case.
    pub reason: String,
    /// `message`, a sentence for people.
    pub message: String,
}

/// One entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name; empty for the only port of a Service.
    pub name: String,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of `ClusterIP` and VIP.
    pub port: u16,
    /// Port on each node, if there is one.
    pub node_port: Option<u16>,
}

/// A Service, reduced to what decisions need. All addresses are canonical; what could not be used
/// was left out by the source, which keeps the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Identity.
    pub key: ServiceKey,
    /// `spec.type`
    pub kind: ServiceType,
    /// `metadata.labels`, for pool selectors: empty where the type is not `LoadBalancer`.
    pub labels: BTreeMap<String, String>,
    /// The annotations that edgelb understands (contract), by their full name; others are dropped.
    pub annotations: BTreeMap<String, String>,
    /// At most one `ClusterIP` per family; empty for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`
    pub external_ips: Vec<IpAddr>,
    /// `spec.ports`
    pub ports: Vec<ServicePort>,
    /// `spec.ipFamilies` in the order of preference; empty where nobody filled it.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`; absent: as many families as are named.
    #[serde(default)]
    pub family_policy: Option<FamilyPolicy>,
    /// `spec.selector` as `key=value` pairs, sorted and joined by commas; empty: none.
    #[serde(default)]
    pub selector: String,
    /// `metadata.creationTimestamp` in seconds since 1970; absent in manifests.
    #[serde(default)]
    pub created: Option<i64>,
    /// `externalTrafficPolicy`
    pub external_traffic_policy: TrafficPolicy,
    /// `internalTrafficPolicy`
    pub internal_traffic_policy: TrafficPolicy,
    /// The timeout of `sessionAffinity: ClientIP`; absent: none.
    pub session_affinity: Option<Duration>,
    /// `spec.loadBalancerSourceRanges`, or the annotation where the field is empty (SEL-11).
    pub source_ranges: Vec<IpNet>,
    /// `spec.loadBalancerClass`
    pub load_balancer_class: Option<String>,
    /// `spec.loadBalancerIP`, deprecated and still in use.
    pub load_balancer_ip: Option<String>,
    /// `spec.healthCheckNodePort`
    pub health_check_node_port: Option<u16>,
    /// `status.loadBalancer.ingress`, addresses only.
    pub ingress: Vec<IngressAddress>,
    /// The status has entries that are not in `ingress`: a host name, a mode that is not known, or
    /// something that is no usable address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub other_ingress: bool,
    /// It has a `metadata.deletionTimestamp`: it goes when others have done what they want to do first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleting: bool,
    /// Absent in manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<Box<ObjectIdentity>>,
    /// Absent where edgelb has not written its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Box<AddressCondition>>,
}

impl Service {
    /// A Service of this type with nothing else set: what tests and sources start from.
    pub fn new(key: ServiceKey, kind: ServiceType) -> Self {
        Self {
            key,
            kind,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            ports: Vec::new(),
            families: Vec::new(),
            family_policy: None,
            selector: String::new(),
            created: None,
            external_traffic_policy: TrafficPolicy::Cluster,
            internal_traffic_policy: TrafficPolicy::Cluster,
            session_affinity: None,
            source_ranges: Vec::new(),
            load_balancer_class: None,
            load_balancer_ip: None,
            health_check_node_port: None,
            ingress: Vec::new(),
            other_ingress: false,
            deleting: false,
            object: None,
            condition: None,
        }
    }

    /// Sorts Services by age, the oldest first; those of unknown age come last, by key.
    pub fn by_age(&self) -> (i64, &ServiceKey) {
        (self.created.unwrap_or(i64::MAX), &self.key)
    }

    /// Whether this Service has a frontend of any kind to forward from, by its type alone (SEL-4).
    pub fn is_forwarded(&self) -> bool {
        self.kind != ServiceType::ExternalName && !self.ports.is_empty()
    }
}
