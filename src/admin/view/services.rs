//! `services`: each Service, where it can be reached, who answers for it, and what is wrong with it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ReasonView, owned_here, owner};
use crate::admin::snapshot::Snapshot;
use crate::model::family::Protocol;
use crate::model::service::{Service, ServiceType};

/// Every Service of the cluster, by namespace and name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Services {
    pub services: Vec<ServiceView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub namespace: String,
    pub name: String,
    /// `spec.type`
    #[serde(rename = "type")]
    pub kind: ServiceType,
    /// What it holds from the pools, in its order of preference.
    pub vips: Vec<ServiceVip>,
    pub cluster_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    /// As the Service names them; `reasons` tells of one that is not opened.
    pub node_ports: Vec<u16>,
    /// `spec.healthCheckNodePort`, where this node tells of its endpoints.
    #[serde(default)]
    pub health_check_node_port: Option<u16>,
    pub ports: Vec<ServicePortView>,
    /// Endpoints in use, counted for each port.
    pub endpoints: usize,
    /// Why it is not served as it asks; empty when all is well.
    pub reasons: Vec<ReasonView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceVip {
    pub address: IpAddr,
    /// The node that announces it.
    pub owner: Option<String>,
    /// Whether that is this node.
    pub owned_here: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServicePortView {
    /// Empty for the only port of a Service.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

impl Services {
    /// The Services at the moment of the snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            services: snapshot
                .inputs
                .cluster
                .services
                .values()
                .map(|service| view(snapshot, service))
                .collect(),
        }
    }
}

fn view(snapshot: &Snapshot, service: &Service) -> ServiceView {
    let plan = &snapshot.plan;
    let vips = plan.addresses.allocations.addresses(&service.key).iter();
    ServiceView {
        namespace: service.key.namespace.to_string(),
        name: service.key.name.to_string(),
        kind: service.kind,
        vips: vips
            .map(|address| ServiceVip {
                address: *address,
                owner: owner(snapshot, *address).map(str::to_owned),
                owned_here: owned_here(snapshot, *address),
            })
            .collect(),
        cluster_ips: service.cluster_ips.clone(),
        external_ips: service.external_ips.clone(),
        node_ports: (service.ports.iter())
            .filter_map(|port| port.node_port)
            .collect(),
        health_check_node_port: (plan.state.health_checks.get(&service.key))
            .map(|check| check.port),
        ports: (service.ports.iter())
            .map(|port| ServicePortView {
                name: port.name.clone(),
                protocol: port.protocol,
                port: port.port,
                node_port: port.node_port,
            })
            .collect(),
        endpoints: (plan.services.get(&service.key)).map_or(0, |plan| plan.endpoints),
        reasons: (plan.reasons(&service.key).iter())
            .map(ReasonView::from)
            .collect(),
    }
}
