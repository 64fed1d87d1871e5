//! Services, Nodes and Namespaces of Kubernetes into the model. Pure. What cannot be used becomes a note with
//! the path of its field, and never stops the rest of the object or another object.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::address::{parse_usable_address, shorten};
use super::fields;
use crate::model::cluster::{Namespace, Node};
use crate::model::family::Protocol;
use crate::model::service::{Service, ServiceKey, ServiceType};

/// The label whose presence gives a Service to another proxy (SEL-1).
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The label by which the API server gives each Namespace its name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The annotation that lists source ranges where the field is empty (SEL-11).
pub const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// The annotations that edgelb understands, its own and their synonyms.
pub const ANNOTATIONS: [&str; 14] = [
    "edgelb.io/ips",
    "edgelb.io/pool",
    "edgelb.io/sharing-key",
    "edgelb.io/scheduler",
    "edgelb.io/forwarding-method",
    "metallb.io/loadBalancerIPs",
    "metallb.io/address-pool",
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/loadBalancerIPs",
    "metallb.universe.tf/address-pool",
    "metallb.universe.tf/allow-shared-ip",
    "kube-vip.io/loadbalancerIPs",
    "lbipam.cilium.io/ips",
    "lbipam.cilium.io/sharing-key",
];

/// One thing of an object that could not be used and was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The path of the field, such as `spec.ports[0].nodePort`.
    pub field: String,
    /// What is wrong, and what was done about it.
    pub message: String,
}

/// Why an object yields nothing, though nothing is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// SEL-1
    #[error("the label {PROXY_NAME_LABEL} gives it to another proxy")]
    ForeignProxy,
    /// SEL-4
    #[error("an ExternalName Service is a DNS name: there is nothing to forward")]
    ExternalName,
    /// SEL-3
    #[error("a headless Service has no address to forward from")]
    Headless,
    /// SEL-5
    #[error("the slice belongs to a headless Service")]
    HeadlessSlice,
    /// EP-1
    #[error("it has no label kubernetes.io/service-name, so it belongs to no Service")]
    NoService,
    /// EP-2
    #[error("the address type {0:?} cannot be forwarded to: only IPv4 and IPv6 can")]
    AddressType(String),
}

/// The model's object, where there is one, and what was left out on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted<T> {
    /// The object, or why there is none.
    pub object: Result<T, Ignored>,
    /// What was left out.
    pub notes: Vec<Note>,
}

/// Collects notes.
#[derive(Debug, Default)]
pub(super) struct Notes(pub(super) Vec<Note>);

impl Notes {
    pub(super) fn add(&mut self, field: impl Into<String>, message: impl fmt::Display) {
        self.0.push(Note {
            field: field.into(),
            message: message.to_string(),
        });
    }

    pub(super) fn addresses(&mut self, field: &str, texts: &[String]) -> Vec<(usize, IpAddr)> {
        let mut addresses: Vec<(usize, IpAddr)> = Vec::new();
        let mut known = BTreeSet::new();
        for (index, text) in texts.iter().enumerate() {
            if text.trim().is_empty() {
                continue; // SP-5: blanks are skipped silently.
            }
            match parse_usable_address(text) {
                Ok(address) if known.insert(address) => addresses.push((index, address)),
                Ok(_) => {}
                Err(error) => self.add(format!("{field}[{index}]"), error),
            }
        }
        addresses
    }
}

/// Converts a Service (SEL, SP).
pub fn service(object: &core::Service) -> Converted<Service> {
    let mut notes = Notes::default();
    let object = convert_service(object, &mut notes);
    Converted {
        object,
        notes: notes.0,
    }
}

fn convert_service(object: &core::Service, notes: &mut Notes) -> Result<Service, Ignored> {
    let empty = core::ServiceSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&empty);
    let labels = object.metadata.labels.clone().unwrap_or_default();
    if labels.contains_key(PROXY_NAME_LABEL) {
        return Err(Ignored::ForeignProxy);
    }
    let kind = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIP,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => return Err(Ignored::ExternalName),
        Some(other) => {
            // The type decides little (SEL-8): what else the Service says still holds.
            notes.add(
                "spec.type",
                format!(
                    "unknown type {:?} is read as ClusterIP: write ClusterIP, NodePort, LoadBalancer or ExternalName",
                    shorten(other)
                ),
            );
            ServiceType::ClusterIP
        }
    };
    if fields::is_headless(spec) {
        return Err(Ignored::Headless);
    }

    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    let mut service = Service::new(key(&object.metadata), kind);
    service.families = fields::families(spec, notes);
    service.family_policy = fields::family_policy(spec, notes);
    service.selector = fields::selector(spec);
    service.created = object
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0.as_second());
    service.cluster_ips = fields::cluster_ips(spec, &service.families, notes);
    service.external_ips = notes
        .addresses(
            "spec.externalIPs",
            spec.external_ips.as_deref().unwrap_or_default(),
        )
        .into_iter()
        .map(|(_, address)| address)
        .collect();
    service.ports = fields::ports(spec.ports.as_deref().unwrap_or_default(), notes);
    service.external_traffic_policy = fields::policy(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        notes,
    );
    service.internal_traffic_policy = fields::policy(
        "spec.internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        notes,
    );
    service.session_affinity = fields::session_affinity(spec, notes);
    service.source_ranges = fields::source_ranges(spec, &annotations, notes);
    service.load_balancer_class = fields::present(spec.load_balancer_class.as_deref());
    service.load_balancer_ip = fields::present(spec.load_balancer_ip.as_deref());
    service.health_check_node_port = fields::node_port(
        "spec.healthCheckNodePort",
        spec.health_check_node_port,
        notes,
    );
    service.ingress = fields::ingress(object.status.as_ref(), notes);
    service.other_ingress = fields::other_ingress(object.status.as_ref());
    service.deleting = object.metadata.deletion_timestamp.is_some();
    service.object = fields::identity(&object.metadata).map(Box::new);
    service.condition = fields::condition(object.status.as_ref()).map(Box::new);
    if kind == ServiceType::LoadBalancer {
        // Only pools ask for them, and there is nothing else of which an object has as much.
        service.labels = labels;
    }
    service.annotations = annotations
        .into_iter()
        .filter(|(name, _)| ANNOTATIONS.contains(&name.as_str()))
        .collect();
    Ok(service)
}

/// Converts a Node (NODE).
pub fn node(object: &core::Node) -> Converted<Node> {
    let mut notes = Notes::default();
    let spec = object.spec.clone().unwrap_or_default();
    let listed = object
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let conditions = object.status.as_ref().map(|status| &status.conditions);
    let conditions = conditions.into_iter().flatten();
    let mut addresses = Vec::new();
    let mut known = BTreeSet::new();
    for wanted in ["InternalIP", "ExternalIP"] {
        for (index, entry) in listed.iter().enumerate() {
            if entry.type_ != wanted {
                continue;
            }
            match parse_usable_address(&entry.address) {
                Ok(address) if known.insert(address) => addresses.push(address),
                Ok(_) => {}
                Err(error) => notes.add(format!("status.addresses[{index}].address"), error),
            }
        }
    }
    let (field, ranges) = match (spec.pod_cidrs, spec.pod_cidr) {
        (Some(ranges), _) if !ranges.is_empty() => ("spec.podCIDRs", ranges),
        (_, Some(range)) if !range.is_empty() => ("spec.podCIDR", vec![range]),
        _ => ("spec.podCIDRs", Vec::new()),
    };
    let pod_cidrs = fields::ranges_of(field, &ranges, &mut notes);
    let taints = spec.taints.unwrap_or_default();
    Converted {
        object: Ok(Node {
            name: object.metadata.name.clone().unwrap_or_default(),
            labels: object.metadata.labels.clone().unwrap_or_default(),
            addresses,
            pod_cidrs,
            deleting: object.metadata.deletion_timestamp.is_some(),
            taints: taints.into_iter().map(|taint| taint.key).collect(),
            silent: conditions
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "Unknown"),
        }),
        notes: notes.0,
    }
}

/// Converts a Namespace. Its name is a label of it, as the API server has it, also where the object
/// was written by hand: selectors count on it.
pub fn namespace(object: &core::Namespace) -> Converted<Namespace> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.clone());
    Converted {
        object: Ok(Namespace { name, labels }),
        notes: Vec::new(),
    }
}

/// Namespace and name of an object.
pub(super) fn key(metadata: &ObjectMeta) -> ServiceKey {
    ServiceKey::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// TCP where nothing is written, as the API server fills it in.
pub(super) fn protocol(field: String, text: Option<&str>, notes: &mut Notes) -> Option<Protocol> {
    match text.unwrap_or("TCP").parse() {
        Ok(protocol) => Some(protocol),
        Err(error) => {
            notes.add(field, format!("{error}; this port is left out"));
            None
        }
    }
}
