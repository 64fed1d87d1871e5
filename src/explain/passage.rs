//! Which node's kernel a packet passes, and as what kind of source it passes there.

use std::net::IpAddr;

use super::Facts;
use super::located::At;
use super::report::{AddressKind, Asker};
use crate::model::frontend::{FrontendAddress, SourceClass};
use crate::model::node_state::HeldFor;
use crate::model::observation::{Observation, Path};

/// Where a packet passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// The node whose kernel decides.
    pub node: String,
    /// Whether it is this one.
    pub here: bool,
    pub class: SourceClass,
    /// A VIP that no node announces: the packet passes nowhere.
    pub nobody: bool,
}

/// What the address of a frontend is.
pub fn kind(facts: &Facts<'_>, at: At) -> AddressKind {
    match at.port.address {
        FrontendAddress::NodePort(_) => AddressKind::Node,
        FrontendAddress::Address(address) => match facts.plan.state.held.get(&address) {
            Some(HeldFor::ClusterIp) => AddressKind::ClusterIp,
            Some(HeldFor::External) => AddressKind::ExternalIp,
            Some(HeldFor::Vip) | None => AddressKind::Vip,
        },
    }
}

/// The asker's kind in answers. No kernel can tell another edge node from a client.
pub fn asker(class: SourceClass) -> Asker {
    match class {
        SourceClass::Outside | SourceClass::Peer => Asker::Outside,
        SourceClass::Pod => Asker::Pod,
        SourceClass::Node => Asker::Node,
    }
}

/// Where a packet from `from`, or from whoever mostly asks there, passes on its way to a frontend.
pub fn passage(
    facts: &Facts<'_>,
    at: At,
    from: Option<IpAddr>,
    observation: &Observation,
) -> Passage {
    let kind = kind(facts, at);
    let here = facts.here();
    let (class, sender) = match from {
        None if kind == AddressKind::ClusterIp => (SourceClass::Pod, Some(here)),
        None => (SourceClass::Outside, None),
        Some(from) => sender(facts, from, observation),
    };
    // A packet from a pod or a node passes the kernel where it starts. One to a node's own address goes
    // to that node, for which other nodes are as good as outside.
    let target = at
        .destination()
        .filter(|_| kind == AddressKind::Node)
        .map(|address| facts.node_with(address).unwrap_or(here));
    let class = match class {
        SourceClass::Node if target.is_some() && target != sender => SourceClass::Outside,
        class => class,
    };
    let owner = at
        .destination()
        .filter(|_| kind == AddressKind::Vip)
        .map(|vip| {
            let ownership = facts.plan.ownership.get(&vip);
            ownership.and_then(|ownership| ownership.owner.as_deref())
        });
    let node = target.or(sender);
    let nobody = node.is_none() && owner == Some(None);
    let node = node.or(owner.flatten()).unwrap_or(here);
    Passage {
        node: node.to_owned(),
        here: node == here,
        class,
        nobody,
    }
}

/// As what a source counts, and the node on which it is; none of a client's.
fn sender<'a>(
    facts: &Facts<'a>,
    from: IpAddr,
    observation: &Observation,
) -> (SourceClass, Option<&'a str>) {
    let state = &facts.plan.state;
    let inputs = facts.inputs;
    // A process of this node may also have taken an address that it only holds.
    if inputs.host.addresses().any(|own| own == from) || state.held.contains_key(&from) {
        return (SourceClass::Node, Some(&inputs.node));
    }
    let mut nodes = inputs.cluster.nodes.values();
    if let Some(node) = nodes.find(|node| node.addresses.contains(&from)) {
        return (SourceClass::Node, Some(&node.name));
    }
    let by_interface = match observation.paths.get(&from) {
        Some(Path::Interface { name, .. }) => {
            let mut patterns = state.pod_interfaces.iter();
            patterns.any(|pattern| pattern.matches(name))
        }
        _ => false,
    };
    let mut ranges = state.pod_ranges.iter();
    if by_interface || ranges.any(|range| range.contains(&from)) {
        let node = if by_interface {
            Some(inputs.node.as_str())
        } else {
            node_of_pod(facts, from)
        };
        return (SourceClass::Pod, Some(node.unwrap_or(&inputs.node)));
    }
    (SourceClass::Outside, None)
}

/// The node on which a pod is: as a slice says, or the one whose range it is in.
fn node_of_pod<'a>(facts: &Facts<'a>, pod: IpAddr) -> Option<&'a str> {
    let cluster = &facts.inputs.cluster;
    let endpoints = cluster.slices.values().flat_map(|slice| &slice.endpoints);
    let mut here = endpoints.filter(|endpoint| endpoint.address == pod);
    let by_slice = here.find_map(|endpoint| endpoint.node.as_deref());
    by_slice.or_else(|| {
        let mut nodes = cluster.nodes.values();
        let node = nodes.find(|node| node.pod_cidrs.iter().any(|range| range.contains(&pod)));
        node.map(|node| node.name.as_str())
    })
}
