//! Which endpoints a Service port may use: slices merged, conditions judged, duplicates settled.
//! Decides nothing about who asks; that is `forwarding`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::Inputs;
use super::addresses::AddressSource;
use crate::model::cluster::{ClusterState, Node};
use crate::model::endpoint::{Conditions, Endpoint};
use crate::model::family::Family;
use crate::model::frontend::RealServer;
use crate::model::service::{ServiceKey, ServicePort};

/// The label of a Node that names its zone (TOPO-7).
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The endpoints of one Service port in one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoints {
    /// What a Cluster policy uses (POL-1): ready ones, narrowed by hints (TOPO-2), or else the serving
    /// and terminating.
    pub cluster: Arc<[RealServer]>,
    /// Those on this node, whatever the hints say (POL-2, TOPO-2).
    pub local: Arc<[RealServer]>,
    /// All that serve, whatever any policy says (CT-3).
    pub serving: Arc<[RealServer]>,
    /// Usable endpoints that run on this node, whatever list they are in.
    pub on_this_node: Vec<RealServer>,
    /// Those on nodes that are gone or silent.
    pub dead: Vec<RealServer>,
}

impl Endpoints {
    /// Whether anything in the cluster could answer (POL-1).
    pub fn any(&self) -> bool {
        !self.cluster.is_empty()
    }
}

/// Where this node is, for hints, and which nodes there are.
#[derive(Debug, Clone, Copy)]
pub struct Topology<'a> {
    node: &'a str,
    /// The value of the Node's zone label; none where it is absent or empty (TOPO-7).
    zone: Option<&'a str>,
    nodes: &'a OrdMap<String, Arc<Node>>,
    /// A node that is not among them is gone.
    nodes_complete: bool,
    /// A silent node is dead. Where more than half are silent at once it is the API server that nobody
    /// reaches, and their pods live.
    silence_tells: bool,
}

impl<'a> Topology<'a> {
    /// From this node's own Node object.
    pub fn new(inputs: &'a Inputs) -> Self {
        let nodes = &inputs.cluster.nodes;
        let zone = nodes
            .get(&inputs.node)
            .and_then(|node| node.labels.get(ZONE_LABEL))
            .map(String::as_str)
            .filter(|zone| !zone.is_empty());
        let silent = nodes.values().filter(|node| node.silent).count();
        Self {
            node: &inputs.node,
            zone,
            nodes,
            // Manifests need not name every node.
            nodes_complete: inputs.nodes_known && inputs.address_source == AddressSource::Status,
            silence_tells: silent * 2 <= nodes.len(),
        }
    }

    /// Whether what runs on a node is given up, because the node is gone or silent.
    pub fn is_dead(&self, node: &str) -> bool {
        match self.nodes.get(node) {
            Some(known) => known.silent && self.silence_tells,
            None => self.nodes_complete,
        }
    }
}

struct Candidate<'a> {
    conditions: Conditions,
    endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    fn node(&self) -> Option<&str> {
        self.endpoint.node.as_deref()
    }
}

/// The endpoints of `port` in `family`, as seen from this node.
pub fn select(
    cluster: &ClusterState,
    service: &ServiceKey,
    port: &ServicePort,
    family: Family,
    topology: &Topology<'_>,
) -> Endpoints {
    let candidates = candidates(cluster, service, port, family);
    let this_node = topology.node;
    let local =
        |candidate: &Candidate<'_>| candidate.node() == Some(this_node) && !this_node.is_empty();
    let hinted = hints(&candidates, topology);
    let all = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<RealServer> {
        let wanted = candidates.iter().filter(|(_, candidate)| wanted(candidate));
        wanted.map(|(real_server, _)| *real_server).collect()
    };
    let by_hints = |candidate: &Candidate<'_>| hinted(candidate.endpoint);
    let cluster = usable(&candidates, |_| true, by_hints);
    let serving = all(&|candidate| candidate.conditions.serving);
    Endpoints {
        // Almost always the same list: held once.
        serving: if *serving == *cluster {
            Arc::clone(&cluster)
        } else {
            serving.into()
        },
        cluster,
        local: usable(&candidates, local, |_| true),
        // A single node that nobody named still has its own pods on it (hairpin).
        on_this_node: all(&|candidate| {
            (local(candidate) || candidate.node().is_none()) && candidate.conditions.serving
        }),
        dead: all(&|candidate| candidate.node().is_some_and(|node| topology.is_dead(node))),
    }
}

/// The endpoints that slices name for `port` in `family`, each once.
fn candidates<'a>(
    cluster: &'a ClusterState,
    service: &ServiceKey,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<RealServer, Candidate<'a>> {
    let mut candidates: BTreeMap<RealServer, Candidate<'a>> = BTreeMap::new();
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
    candidates
}

/// Each endpoint that slices name for `port` in `family`, as it was judged, by address and port: for
/// those who are to be told why one is not used.
pub fn judged<'a>(
    cluster: &'a ClusterState,
    service: &ServiceKey,
    port: &ServicePort,
    family: Family,
) -> impl Iterator<Item = (RealServer, &'a Endpoint)> {
    let candidates = candidates(cluster, service, port, family);
    candidates
        .into_iter()
        .map(|(real_server, candidate)| (real_server, candidate.endpoint))
}

/// The names in a kind of hint.
type NamesOf = fn(&Endpoint) -> &[String];

fn node_hints(endpoint: &Endpoint) -> &[String] {
    endpoint.node_hints.names()
}

fn zone_hints(endpoint: &Endpoint) -> &[String] {
    endpoint.zone_hints.names()
}

/// Which ready endpoints the hints leave for this node (TOPO-3): those for the node where every one
/// of them has such a hint and one is for this node; else the same with zones; else all.
fn hints<'a>(
    candidates: &BTreeMap<RealServer, Candidate<'_>>,
    topology: &Topology<'a>,
) -> impl Fn(&Endpoint) -> bool + use<'a> {
    let complete = |names: NamesOf, here: &str| {
        // TOPO-6: those that are not ready count neither for nor against.
        let mut ready = candidates
            .values()
            .filter(|candidate| candidate.conditions.ready)
            .map(|candidate| names(candidate.endpoint));
        let mut named_here = false;
        // TOPO-4: one without a hint is enough to disregard all.
        ready.all(|names| {
            named_here |= names.iter().any(|name| name == here);
            !names.is_empty()
        }) && named_here
    };
    let by_node = Some((node_hints as NamesOf, topology.node)).filter(|(_, node)| !node.is_empty());
    let by_zone = topology.zone.map(|zone| (zone_hints as NamesOf, zone));
    let mode = [by_node, by_zone]
        .into_iter()
        .flatten()
        .find(|(names, here)| complete(*names, here));
    move |endpoint| mode.is_none_or(|(names, here)| names(endpoint).iter().any(|name| name == here))
}

/// How many addresses of a Service's ready endpoints are on `node` (HC-5).
pub fn ready_addresses(
    cluster: &ClusterState,
    service: &ServiceKey,
    node: &str,
    family: Family,
) -> usize {
    let addresses: BTreeSet<IpAddr> = cluster
        .slices_of(service)
        .filter(|slice| slice.family == family)
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.ready && endpoint.node.as_deref() == Some(node))
        .map(|endpoint| endpoint.address)
        .collect();
    addresses.len()
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

/// The nodes on which some endpoint of the Service is ready.
pub fn ready_nodes(cluster: &ClusterState, service: &ServiceKey) -> BTreeSet<String> {
    let endpoints = cluster
        .slices_of(service)
        .flat_map(|slice| slice.endpoints.iter());
    endpoints
        .filter(|endpoint| endpoint.conditions.ready)
        .filter_map(|endpoint| endpoint.node.clone())
        .map(String::from)
        .collect()
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
    let conditions = endpoint.conditions;
    candidates.insert(
        at,
        Candidate {
            conditions,
            endpoint,
        },
    );
}

/// EP-9: ready ones, of these the `preferred`; if none is ready, those that still serve while they
/// terminate, all of them (TOPO-8).
fn usable(
    candidates: &BTreeMap<RealServer, Candidate<'_>>,
    wanted: impl Fn(&Candidate<'_>) -> bool,
    preferred: impl Fn(&Candidate<'_>) -> bool,
) -> Arc<[RealServer]> {
    let pick = |good: &dyn Fn(&Candidate<'_>) -> bool| -> Arc<[RealServer]> {
        candidates
            .iter()
            .filter(|(_, candidate)| wanted(candidate) && good(candidate))
            .map(|(real_server, _)| *real_server)
            .collect()
    };
    let ready = pick(&|candidate| candidate.conditions.ready && preferred(candidate));
    if ready.is_empty() {
        pick(&|candidate| candidate.conditions.serving && candidate.conditions.terminating)
    } else {
        ready
    }
}
