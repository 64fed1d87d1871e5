//! Decides, purely: no clock, no I/O, no tokio. [`plan`] is the whole truth; [`replan`] gives the
//! same answer at the price of what changed, and the tests hold the one against the other.

pub mod address;
pub mod announcement;
pub mod endpoints;
pub mod forwarding;
pub mod ipam;
pub mod ownership;
pub mod reason;
pub mod request;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::announcement::AnnouncedInterface;
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

    let state = host_state(config, inputs);
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
        plan.exchange(key, new);
    }
    own(config, inputs, &before, &dirty, scope, &mut plan);
    plan
}

/// Address management for the dirty Services, and for the waiting ones when something came free.
fn allocate(
    config: &Config,
    inputs: &Inputs,
    book: &AddressBook,
    previous: &Plan,
    dirty: &mut BTreeSet<ServiceKey>,
    plan: &mut Plan,
) {
    let services = &inputs.cluster.services;
    let held = inputs.allocations.held();
    let mut allocator =
        ipam::Allocator::new(config, book, &inputs.node, inputs.allocations.clone());
    let gone: Vec<ServiceKey> = match plan.services.is_empty() {
        // A full plan also finds Services that went while this program was away.
        true => inputs
            .allocations
            .records()
            .map(|record| record.service.clone())
            .filter(|key| !services.contains_key(key))
            .collect(),
        false => dirty
            .iter()
            .filter(|key| !services.contains_key(*key))
            .cloned()
            .collect(),
    };
    for key in &gone {
        allocator.release(key);
    }
    for key in dirty.iter() {
        if let Some(service) = services.get(key) {
            allocator.settle(service);
        }
    }
    let released = gone
        .iter()
        .any(|key| !inputs.allocations.addresses(key).is_empty())
        || dirty
            .iter()
            .any(|key| !inputs.allocations.addresses(key).is_empty());
    if released || held == 0 {
        dirty.extend(previous.pending.keys().cloned());
    }
    for key in dirty.iter() {
        let reasons = services
            .get(key)
            .map(|service| allocator.allocate(service))
            .unwrap_or_default();
        if reasons.is_empty() {
            plan.pending.remove(key);
        } else {
            plan.pending.insert(key.clone(), reasons);
        }
    }
    plan.allocations = allocator.finish();
}

/// What depends on the configuration, the host and the Nodes alone.
fn host_state(config: &Config, inputs: &Inputs) -> NodeState {
    let mut state = NodeState {
        service_ranges: config.proxy.service_cidrs.iter().copied().collect(),
        ..Default::default()
    };
    state.pod_ranges = config
        .proxy
        .cluster_cidrs
        .iter()
        .copied()
        .chain(
            inputs
                .cluster
                .nodes
                .values()
                .flat_map(|node| node.pod_cidrs.iter().copied()),
        )
        .collect();
    let wanted = |address: IpAddr| {
        let ranges = &config.proxy.node_port_addresses;
        ranges.is_empty() || ranges.iter().any(|range| range.contains(&address))
    };
    for interface in inputs
        .host
        .interfaces
        .values()
        .filter(|interface| !interface.loopback)
    {
        for address in interface.addresses.iter().map(IpNet::addr) {
            // NP-7: link-local IPv6 addresses open nothing.
            let link_local =
                matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            if !link_local && wanted(address) {
                state.node_addresses.insert(address);
            }
        }
    }
    for family in Family::BOTH {
        if let Some(address) = preferred_source(inputs, family) {
            state.preferred_source.insert(family, address);
        }
    }
    state.sysctls = sysctls(config);
    state
}

/// The address that this node's own packets to a held address carry: the Node object's where an
/// interface has it, else the first global one. Never the held address itself (SYS-8).
fn preferred_source(inputs: &Inputs, family: Family) -> Option<IpAddr> {
    let own: Vec<IpAddr> = inputs
        .host
        .interfaces
        .values()
        .filter(|interface| !interface.loopback && interface.running)
        .flat_map(|interface| interface.addresses.iter().map(IpNet::addr))
        .filter(|address| Family::of(*address) == family)
        .filter(|address| match address {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        })
        .collect();
    let node = inputs.cluster.nodes.get(&inputs.node);
    node.into_iter()
        .flat_map(|node| node.addresses.iter().copied())
        .find(|address| own.contains(address))
        .or_else(|| own.first().copied())
}

/// The sysctls that both datapaths need. The IPVS ones are the IPVS datapath's own business.
fn sysctls(config: &Config) -> BTreeMap<String, String> {
    let mut sysctls = BTreeMap::from([("net/ipv4/ip_forward".to_owned(), "1".to_owned())]);
    if config.proxy.strict_arp {
        // SYS-5: otherwise every node answers for every held address.
        sysctls.insert("net/ipv4/conf/all/arp_ignore".to_owned(), "1".to_owned());
        sysctls.insert("net/ipv4/conf/all/arp_announce".to_owned(), "2".to_owned());
    }
    sysctls
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
            .records()
            .flat_map(|record| record.addresses.iter().copied())
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
        announce(inputs, vip, &own_interfaces, &mut plan.state.announced);
    }
}

/// Makes `vip` announced on exactly these interfaces.
fn announce(
    inputs: &Inputs,
    vip: IpAddr,
    interfaces: &[u32],
    announced: &mut BTreeMap<u32, AnnouncedInterface>,
) {
    for (index, interface) in announced.iter_mut() {
        if !interfaces.contains(index) {
            interface.addresses.remove(&vip);
        }
    }
    announced.retain(|_, interface| !interface.addresses.is_empty());
    for index in interfaces {
        let Some(interface) = inputs.host.interfaces.get(index) else {
            continue;
        };
        let Some(mac) = interface.mac else { continue };
        announced
            .entry(*index)
            .or_insert_with(|| AnnouncedInterface {
                name: interface.name.clone(),
                mac,
                addresses: BTreeSet::new(),
            })
            .addresses
            .insert(vip);
    }
}

impl Plan {
    /// Puts the new plan of one Service in the place of the old one, and settles who wins each port.
    fn exchange(&mut self, key: &ServiceKey, new: Option<Arc<ServicePlan>>) {
        let old = self.services.remove(key);
        if let Some(old) = &old {
            for (port, _) in &old.frontends {
                let left = self.claims.get_mut(port).is_some_and(|claims| {
                    claims.remove(key);
                    claims.is_empty()
                });
                if left {
                    self.claims.remove(port);
                }
            }
            for hold in &old.held {
                count_down(&mut self.holds, hold);
            }
            for address in &old.hairpin {
                count_down(&mut self.hairpins, address);
            }
        }
        if let Some(new) = &new {
            for (port, _) in &new.frontends {
                self.claims.entry(*port).or_default().insert(key.clone());
            }
            for hold in &new.held {
                *self.holds.entry(*hold).or_insert(0) += 1;
            }
            for address in &new.hairpin {
                *self.hairpins.entry(*address).or_insert(0) += 1;
            }
            self.services.insert(key.clone(), Arc::clone(new));
        }
        let both = || old.iter().chain(&new);
        for (port, _) in both().flat_map(|plan| &plan.frontends) {
            self.settle_port(*port);
        }
        for (address, _) in both().flat_map(|plan| &plan.held) {
            self.settle_address(*address);
        }
        for address in both().flat_map(|plan| &plan.hairpin) {
            if self.hairpins.contains_key(address) {
                self.state.hairpin.insert(*address);
            } else {
                self.state.hairpin.remove(address);
            }
        }
    }

    /// The lowest Service that wants a port gets it.
    fn settle_port(&mut self, port: FrontendPort) {
        let winner = self
            .claims
            .get(&port)
            .and_then(OrdSet::get_min)
            .and_then(|key| {
                let frontends = &self.services.get(key)?.frontends;
                let at = frontends
                    .binary_search_by_key(&port, |(port, _)| *port)
                    .ok()?;
                frontends.get(at).map(|(_, frontend)| Arc::clone(frontend))
            });
        match winner {
            // An equal frontend stays the same object, so that a diff passes over it.
            Some(frontend) if self.state.frontends.get(&port) == Some(&frontend) => {}
            Some(frontend) => {
                self.state.frontends.insert(port, frontend);
            }
            None => {
                self.state.frontends.remove(&port);
            }
        }
    }

    /// An address is held as long as some Service needs it; a VIP is one whatever else it may be.
    fn settle_address(&mut self, address: IpAddr) {
        let held = [HeldFor::Vip, HeldFor::External, HeldFor::ClusterIp]
            .into_iter()
            .find(|held| self.holds.contains_key(&(address, *held)));
        match held {
            Some(held) => {
                self.state.held.insert(address, held);
            }
            None => {
                self.state.held.remove(&address);
            }
        }
    }

    /// Why a Service is not served as it asks, address management and conflicts included.
    pub fn reasons(&self, key: &ServiceKey) -> Vec<Reason> {
        let mut reasons = self.pending.get(key).cloned().unwrap_or_default();
        if let Some(plan) = self.services.get(key) {
            reasons.extend(plan.reasons.iter().cloned());
            for (port, _) in &plan.frontends {
                if let Some(holder) = self
                    .claims
                    .get(port)
                    .and_then(OrdSet::get_min)
                    .filter(|holder| *holder != key)
                {
                    reasons.push(Reason::FrontendTaken {
                        frontend: *port,
                        holder: holder.clone(),
                    });
                }
            }
        }
        reasons
    }
}

fn count_down<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    let gone = counts.get_mut(key).is_some_and(|count| {
        *count = count.saturating_sub(1);
        *count == 0
    });
    if gone {
        counts.remove(key);
    }
}

/// Whether a Service is of a type that gets a VIP.
pub fn wants_vip(kind: ServiceType) -> bool {
    kind == ServiceType::LoadBalancer
}
