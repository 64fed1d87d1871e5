//! Decides, purely: no clock, no I/O, no tokio. [`plan`] is the whole truth; [`replan`] gives the
//! same answer at the price of what changed, and the tests hold the one against the other.

pub mod address;
pub mod announcement;
pub mod drain;
pub mod endpoints;
mod exchange;
pub mod forwarding;
pub mod ipam;
mod node;
pub mod ownership;
pub mod reason;
pub mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::{ClusterState, Dirty};
use crate::model::family::Family;
use crate::model::frontend::FrontendPort;
use crate::model::host::Host;
use crate::model::node_state::{HeldFor, NodeState};
use crate::model::service::{ServiceKey, ServiceType};
use address::AddressBook;
use forwarding::{Forwarding, ServicePlan};
use ownership::{Candidates, Ownership};
use reason::Reason;

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
    /// Addresses that were given out before.
    pub allocations: Allocations,
}

/// What the planner decided, with what it needs to decide the next time at the price of the change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// What this node must hold.
    pub state: NodeState,
    /// Who holds which VIP now.
    pub allocations: Allocations,
    /// Who announces each VIP.
    pub ownership: OrdMap<IpAddr, Ownership>,
    /// What each Service contributes.
    pub services: OrdMap<ServiceKey, Arc<ServicePlan>>,
    /// What address management could not do, by Service.
    pub pending: OrdMap<ServiceKey, Vec<Reason>>,
    /// Who wants each frontend; the lowest Service wins.
    claims: OrdMap<FrontendPort, OrdSet<ServiceKey>>,
    /// How many Services need an address, by use.
    holds: OrdMap<(IpAddr, HeldFor), usize>,
    /// How many Services have an endpoint of this address here.
    hairpins: OrdMap<IpAddr, usize>,
    /// Who asks for an address that it does not hold: planned again when its holder changes.
    asks: OrdMap<IpAddr, OrdSet<ServiceKey>>,
}

/// What changed since the previous plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Anything may have: configuration, host, Nodes.
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

    /// Adds one edit of the cluster.
    pub fn add(&mut self, dirty: Dirty) {
        match (&mut *self, dirty) {
            (Self::Services(services), Dirty::Service(key)) => {
                services.insert(key);
            }
            (Self::Services(_), Dirty::Nodes) => *self = Self::Everything,
            (Self::Everything, _) => {}
        }
    }
}

/// Plans from nothing.
pub fn plan(config: &Config, inputs: &Inputs) -> Plan {
    replan(config, inputs, &Plan::default(), &Scope::Everything)
}

/// Plans what changed; everything else is shared with `previous`.
pub fn replan(config: &Config, inputs: &Inputs, previous: &Plan, scope: &Scope) -> Plan {
    let book = AddressBook::new(inputs);
    let mut plan = match scope {
        Scope::Everything => Plan::default(),
        Scope::Services(_) => previous.clone(),
    };
    let mut dirty: BTreeSet<ServiceKey> = match scope {
        Scope::Everything => inputs
            .cluster
            .services
            .keys()
            .chain(previous.services.keys())
            .cloned()
            .collect(),
        Scope::Services(services) => services.clone(),
    };
    let before = inputs.allocations.clone();
    allocate(config, inputs, &book, previous, &mut dirty, &mut plan);

    let state = node::state(config, inputs);
    let pods_known: Vec<Family> = Family::BOTH
        .into_iter()
        .filter(|family| {
            state
                .pod_ranges
                .iter()
                .any(|range| Family::of(range.addr()) == *family)
        })
        .collect();
    if matches!(scope, Scope::Everything) {
        plan.state = state;
    }
    let allocations = plan.allocations.clone();
    let forwarding = Forwarding {
        config,
        inputs,
        book: &book,
        allocations: &allocations,
        pods_known: &pods_known,
    };
    for key in &dirty {
        let new = inputs
            .cluster
            .services
            .get(key)
            .map(|service| Arc::new(forwarding.service(service)));
        plan.exchange(key, new.as_ref());
    }
    own(config, inputs, &before, &dirty, scope, &mut plan);
    plan
}

/// Address management for the dirty Services, for the waiting ones when something came free, and
/// for those that ask for an address whose holder changed.
fn allocate(
    config: &Config,
    inputs: &Inputs,
    book: &AddressBook,
    previous: &Plan,
    dirty: &mut BTreeSet<ServiceKey>,
    plan: &mut Plan,
) {
    let services = &inputs.cluster.services;
    let before = &inputs.allocations;
    let mut allocator = ipam::Allocator::new(config, book, &inputs.node, before.clone());
    let gone: Vec<ServiceKey> = if plan.services.is_empty() {
        // A full plan also finds Services that went while this program was away.
        before
            .records()
            .map(|record| record.service.clone())
            .filter(|key| !services.contains_key(key))
            .collect()
    } else {
        dirty
            .iter()
            .filter(|key| !services.contains_key(*key))
            .cloned()
            .collect()
    };
    let may_come_free = gone
        .iter()
        .chain(dirty.iter())
        .any(|key| !before.addresses(key).is_empty());
    if may_come_free || before.held() == 0 {
        dirty.extend(previous.pending.keys().cloned());
    }
    for key in &gone {
        allocator.release(key);
    }
    let present = || dirty.iter().filter_map(|key| services.get(key));
    present().for_each(|service| allocator.give_back(service));
    present().for_each(|service| allocator.adopt(service));
    let mut outcomes: BTreeMap<ServiceKey, Vec<Reason>> = present()
        .map(|service| (service.key.clone(), allocator.allocate(service)))
        .collect();
    dirty.extend(gone);

    let mut interested: BTreeSet<ServiceKey> = BTreeSet::new();
    for key in dirty.iter() {
        let now = allocator.allocations();
        let both = before.addresses(key).iter().chain(now.addresses(key));
        for address in both.filter(|address| before.holder(**address) != now.holder(**address)) {
            interested.extend(plan.asks.get(address).into_iter().flatten().cloned());
        }
    }
    // Whoever was refused early in this pass is told who holds the address at the end of it.
    interested.extend(outcomes.iter().filter_map(|(key, reasons)| {
        let refused = |reason: &Reason| matches!(reason, Reason::RequestTaken { .. });
        reasons.iter().any(refused).then(|| key.clone())
    }));
    for service in interested.iter().filter_map(|key| services.get(key)) {
        outcomes.insert(service.key.clone(), allocator.allocate(service));
    }
    dirty.extend(interested);
    for key in dirty.iter() {
        match outcomes.remove(key) {
            Some(reasons) if !reasons.is_empty() => plan.pending.insert(key.clone(), reasons),
            _ => plan.pending.remove(key),
        };
    }
    plan.allocations = allocator.finish();
}

/// Who announces which VIP, and what this node announces where.
fn own(
    config: &Config,
    inputs: &Inputs,
    before: &Allocations,
    dirty: &BTreeSet<ServiceKey>,
    scope: &Scope,
    plan: &mut Plan,
) {
    let candidates = Candidates::new(config, inputs);
    let mut touched: BTreeSet<IpAddr> = match scope {
        Scope::Everything => plan
            .allocations
            .holders()
            .map(|(address, _)| address)
            .collect(),
        Scope::Services(_) => BTreeSet::new(),
    };
    for key in dirty {
        touched.extend(before.addresses(key).iter().copied());
        touched.extend(plan.allocations.addresses(key).iter().copied());
    }
    for vip in touched {
        let holder = plan
            .allocations
            .holder(vip)
            .and_then(|key| inputs.cluster.services.get(key));
        let served = plan.state.held.get(&vip) == Some(&HeldFor::Vip);
        let mut own_interfaces: Vec<u32> = Vec::new();
        match holder {
            Some(service) if served => {
                let ownership = candidates.owner(vip, service, inputs);
                if ownership.owner.as_deref() == Some(inputs.node.as_str()) {
                    own_interfaces = announcement::interfaces(config, &inputs.host, vip)
                        .map(|interface| interface.index)
                        .collect();
                    if config.announce.ping {
                        plan.state.answering.insert(vip);
                    }
                } else {
                    plan.state.answering.remove(&vip);
                }
                plan.ownership.insert(vip, ownership);
            }
            _ => {
                plan.ownership.remove(&vip);
                plan.state.answering.remove(&vip);
            }
        }
        announcement::announce(
            &inputs.host,
            vip,
            &own_interfaces,
            &mut plan.state.announced,
        );
    }
}

/// Whether a Service is of a type that gets a VIP.
pub fn wants_vip(kind: ServiceType) -> bool {
    kind == ServiceType::LoadBalancer
}
