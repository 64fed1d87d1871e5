//! Which endpoints a Service port may use: slices merged, conditions judged, duplicates settled.
//! Decides nothing about who asks; that is `forwarding`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::cluster::ClusterState;
use crate::model::endpoint::{Conditions, Endpoint};
use crate::model::family::Family;
use crate::model::frontend::RealServer;
use crate::model::service::{ServiceKey, ServicePort};

/// The endpoints of one Service port in one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// What a Cluster policy uses (POL-1): ready ones, or else the serving and terminating.
    pub cluster: Arc<[RealServer]>,
    /// The same among the endpoints on this node (POL-2).
    pub local: Arc<[RealServer]>,
    /// Usable endpoints that run on this node, whatever list they are in.
    pub on_this_node: Vec<RealServer>,
}

impl Endpoints {
    /// Whether anything in the cluster could answer (POL-1).
    pub fn any(&self) -> bool {
        !self.cluster.is_empty()
    }
}

struct Candidate<'a> {
    conditions: Conditions,
    node: Option<&'a str>,
}

/// The endpoints of `port` in `family`, as seen by the node `this_node`.
pub fn select(
    cluster: &ClusterState,
    service: &ServiceKey,
    port: &ServicePort,
    family: Family,
    this_node: &str,
) -> Endpoints {
    let mut candidates: BTreeMap<RealServer, Candidate<'_>> = BTreeMap::new();
    for slice in cluster
        .slices_of(service)
        .filter(|slice| slice.family == family)
    {
        let numbers = slice
            .ports
            .iter()
            // EP-5: same name and same protocol; EP-6: each slice brings its own number.
            .filter(|slice_port| {
                slice_port.name == port.name && slice_port.protocol == port.protocol
            });
        for slice_port in numbers {
            for endpoint in &slice.endpoints {
                let real_server = RealServer {
                    address: endpoint.address,
                    port: slice_port.port,
                };
                merge(&mut candidates, real_server, endpoint);
            }
        }
    }
    let local =
        |candidate: &Candidate<'_>| candidate.node == Some(this_node) && !this_node.is_empty();
    Endpoints {
        cluster: usable(&candidates, |_| true),
        local: usable(&candidates, local),
        on_this_node: candidates
            .iter()
            .filter(|(_, candidate)| {
                // A single node that nobody named still has its own pods on it (hairpin).
                (local(candidate) || candidate.node.is_none()) && candidate.conditions.serving
            })
            .map(|(real_server, _)| *real_server)
            .collect(),
    }
}

/// Whether some endpoint of the Service that is ready runs on `node`, in any family and port.
pub fn ready_on(cluster: &ClusterState, service: &ServiceKey, node: &str) -> bool {
    cluster.slices_of(service).any(|slice| {
        slice
            .endpoints
            .iter()
            .any(|endpoint| endpoint.conditions.ready && endpoint.node.as_deref() == Some(node))
    })
}

/// EP-13: a terminating entry never replaces another one.
fn merge<'a>(
    candidates: &mut BTreeMap<RealServer, Candidate<'a>>,
    at: RealServer,
    endpoint: &'a Endpoint,
) {
    if endpoint.conditions.terminating && candidates.contains_key(&at) {
        return;
    }
    candidates.insert(
        at,
        Candidate {
            conditions: endpoint.conditions,
            node: endpoint.node.as_deref(),
        },
    );
}

/// EP-9: ready ones; if there is none, those that still serve while they terminate.
fn usable(
    candidates: &BTreeMap<RealServer, Candidate<'_>>,
    wanted: impl Fn(&Candidate<'_>) -> bool,
) -> Arc<[RealServer]> {
    let pick = |good: fn(Conditions) -> bool| -> Arc<[RealServer]> {
        candidates
            .iter()
            .filter(|(_, candidate)| wanted(candidate) && good(candidate.conditions))
            .map(|(real_server, _)| *real_server)
            .collect()
    };
    let ready = pick(|conditions| conditions.ready);
    if ready.is_empty() {
        pick(|conditions| conditions.serving && conditions.terminating)
    } else {
        ready
    }
}
