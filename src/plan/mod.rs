//! Decides, purely: no clock, no I/O, no tokio. [`plan`] is the whole truth; [`replan`] gives the
//! same answer at the price of what changed, and the tests hold the one against the other.

pub mod address;
pub mod addresses;
pub mod announcement;
pub mod drain;
pub mod endpoints;
mod exchange;
pub mod forwarding;
pub mod ipam;
mod node;
pub mod ownership;
pub mod pending;
pub mod probing;
pub mod reason;
pub mod request;
mod served;
pub mod sharing;
pub mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::{ClusterState, Dirty};
use crate::model::compact_set::CompactSet;
use crate::model::family::Family;
use crate::model::foreign::ForeignHosts;
use crate::model::frontend::FrontendPort;
use crate::model::host::Host;
use crate::model::node_state::{HeldFor, NodeState};
use crate::model::peer::{MOST_EXCEPTIONS, Owners, Peers};
use crate::model::service::{ServiceKey, ServiceType};
use crate::model::standing::Standing;
use address::AddressBook;
use addresses::{AddressInputs, AddressPlan, AddressSource};
use forwarding::{Forwarding, ServicePlan};
use ownership::Ownership;
use ownership::table::{NodeTable, VipGroups};

/// Everything that a plan depends on, besides the configuration. Can be recorded and replayed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inputs {
    /// This node's name.
    pub node: String,
    /// What the sources know.
    pub cluster: ClusterState,
    /// This host's interfaces.
    pub host: Host,
    /// Nodes have been seen: when none is left, none is eligible, and not every node alone.
    #[serde(default)]
    pub nodes_known: bool,
    /// Who gives out addresses.
    #[serde(default)]
    pub address_source: AddressSource,
    /// This node's datapath can do nothing but masquerade.
    #[serde(default)]
    pub masquerades_only: bool,
    /// Other hosts on the LAN that use addresses of the pools, as far as this node has heard.
    #[serde(default)]
    pub foreign: ForeignHosts,
    /// The other nodes, where nodes talk with one another.
    #[serde(default)]
    pub peers: Arc<Peers>,
    /// Who owns what, where nodes talk with one another.
    #[serde(default)]
    pub owners: Owners,
    /// This node is drained by command.
    #[serde(default)]
    pub draining: bool,
    /// Services that records name and that this node's source does not show, because another node's
    /// source does (see [`AddressInputs::unconfirmed`]).
    #[serde(default)]
    pub unconfirmed: BTreeSet<ServiceKey>,
    /// Services that another node is about to give an address.
    #[serde(default)]
    pub deferred: BTreeSet<ServiceKey>,
    /// Addresses that were given out before; of no account where a status tells who holds which.
    pub allocations: Allocations,
}

/// What the planner decided, with what it needs to decide the next time at the price of the change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// What this node must hold.
    pub state: NodeState,
    /// Who holds which VIP now, and what address management could not do.
    pub addresses: AddressPlan,
    /// Who announces each VIP.
    pub ownership: OrdMap<IpAddr, Ownership>,
    /// The VIPs that are served here, by what has one owner.
    pub groups: VipGroups,
    /// What the Nodes say about owners.
    pub nodes: Arc<NodeTable>,
    /// The other nodes, as `ownership` was made from them.
    peers: Arc<Peers>,
    /// What each Service contributes.
    pub services: OrdMap<ServiceKey, Arc<ServicePlan>>,
    /// Who wants each frontend; the lowest Service wins.
    claims: OrdMap<FrontendPort, CompactSet<ServiceKey>>,
    /// How many Services need an address, by use.
    holds: OrdMap<(IpAddr, HeldFor), usize>,
    /// How many Services have an endpoint of this address here.
    hairpins: OrdMap<IpAddr, usize>,
    /// How many Services have an endpoint of this address on a node that is gone.
    dead: OrdMap<IpAddr, usize>,
}

/// What changed since the previous plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Anything may have: configuration, host, Nodes, Namespaces.
    Everything,
    /// These Services and their slices, nothing else.
    Services(BTreeSet<ServiceKey>),
}

impl Scope {
    /// Nothing changed yet.
    pub fn nothing() -> Self {
        Self::Services(BTreeSet::new())
    }

    /// Whether a pass would find nothing to do.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Services(services) if services.is_empty())
    }

    /// Adds Services.
    pub fn add_all(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        if let Self::Services(known) = self {
            known.extend(services);
        }
    }

    /// Adds one edit of the cluster.
    pub fn add(&mut self, dirty: Dirty) {
        match (&mut *self, dirty) {
            (Self::Services(services), Dirty::Service(key)) => {
                services.insert(key);
            }
            (Self::Services(_), Dirty::Nodes | Dirty::Namespaces | Dirty::ServiceCidrs) => {
                *self = Self::Everything;
            }
            (Self::Everything, _) => {}
        }
    }
}

impl Inputs {
    /// Who has which address, as those see it who give addresses out.
    ///
    /// Where every node does that for itself, another host that uses an address is told of and keeps
    /// nobody from getting it: nodes hear probes at different times, and would give one Service
    /// different addresses. One table of such hosts for all nodes comes with membership.
    pub fn address_book(&self) -> AddressBook {
        let book = AddressBook::new(&self.cluster, &self.host);
        match self.address_source {
            AddressSource::Here => book.telling(&self.foreign),
            AddressSource::Status => book.refusing(&self.foreign),
        }
    }
}

impl Plan {
    /// The VIPs that Services hold and that this node does not serve; the lowest [`MOST_EXCEPTIONS`].
    pub fn exceptions(&self) -> Vec<IpAddr> {
        let allocations = &self.addresses.allocations;
        if allocations.held() == self.ownership.len() {
            return Vec::new();
        }
        let held = allocations.held_addresses();
        held.filter(|vip| !self.ownership.contains_key(vip))
            .take(MOST_EXCEPTIONS)
            .collect()
    }
}

/// Plans from nothing.
pub fn plan(config: &Config, inputs: &Inputs) -> Plan {
    replan(config, inputs, &Plan::default(), &Scope::Everything)
}

/// Plans what changed; everything else is shared with `previous`.
pub fn replan(config: &Config, inputs: &Inputs, previous: &Plan, scope: &Scope) -> Plan {
    // Also where an allocator gives addresses out: here they are only read and served.
    let book = AddressBook::new(&inputs.cluster, &inputs.host).telling(&inputs.foreign);
    let mut plan = match scope {
        Scope::Everything => Plan {
            peers: Arc::clone(&inputs.peers),
            ..Plan::default()
        },
        Scope::Services(_) => previous.clone(),
    };
    let managed = match inputs.address_source {
        AddressSource::Here => {
            let past = AddressInputs {
                node: &inputs.node,
                cluster: &inputs.cluster,
                host: &inputs.host,
                foreign: &inputs.foreign,
                reserved: &BTreeSet::new(),
                standing: &Standing::default(),
                unconfirmed: &inputs.unconfirmed,
                deferred: &inputs.deferred,
                allocations: &inputs.allocations,
            };
            addresses::allocate(config, &past, &book, &previous.addresses, scope)
        }
        AddressSource::Status => {
            let (cluster, foreign) = (&inputs.cluster, &inputs.foreign);
            addresses::read(config, cluster, foreign, &book, &previous.addresses, scope)
        }
    };
    plan.addresses = managed.plan;
    let dirty = managed.dirty;

    let state = node::state(config, inputs);
    let pods_known = pods_known(&state);
    let node_addresses = state.preferred_source.clone();
    if matches!(scope, Scope::Everything) {
        plan.state = state;
    }
    let allocations = plan.addresses.allocations.clone();
    let forwarding = Forwarding {
        config,
        inputs,
        book: &book,
        allocations: &allocations,
        pods_known: &pods_known,
        node_addresses: &node_addresses,
        topology: endpoints::Topology::new(inputs),
    };
    for key in &dirty {
        let new = inputs
            .cluster
            .services
            .get(key)
            .map(|service| Arc::new(forwarding.service(service)));
        plan.exchange(key, new.as_ref());
    }
    let before = &previous.addresses.allocations;
    let touched = ownership::own::Touched {
        before,
        dirty: &dirty,
        everything: matches!(scope, Scope::Everything),
    };
    ownership::own::own(config, inputs, &touched, &mut plan);
    plan
}

/// What another node plans for one Service of a plan that was made from these inputs, as far as this
/// one can know: its interfaces are not known here.
pub fn service_on(
    config: &Config,
    inputs: &Inputs,
    plan: &Plan,
    node: &str,
    key: &ServiceKey,
) -> Option<ServicePlan> {
    let service = inputs.cluster.services.get(key)?;
    let there = Inputs {
        node: node.to_owned(),
        host: Host::default(),
        ..inputs.clone()
    };
    let forwarding = Forwarding {
        config,
        inputs: &there,
        book: &AddressBook::new(&there.cluster, &there.host),
        allocations: &plan.addresses.allocations,
        pods_known: &pods_known(&plan.state),
        node_addresses: &BTreeMap::new(),
        topology: endpoints::Topology::new(&there),
    };
    Some(forwarding.service(service))
}

/// The families in which pods can be told from others (MASQ-4).
fn pods_known(state: &NodeState) -> Vec<Family> {
    let known = |family: &Family| {
        let mut ranges = state.pod_ranges.iter();
        !state.pod_interfaces.is_empty() || ranges.any(|range| Family::of(range.addr()) == *family)
    };
    Family::BOTH.into_iter().filter(known).collect()
}

/// Whether a Service is of a type that gets a VIP.
pub fn wants_vip(kind: ServiceType) -> bool {
    kind == ServiceType::LoadBalancer
}
