//! Who announces which VIP, and what this node announces where, at the price of what changed. VIPs that
//! have a Service in common go together: shared addresses, and dual stack.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::field::{Field, Own};
use super::table::{NodeTable, VipGroup};
use super::{Candidates, Ownership, together};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::family::Protocol;
use crate::model::frontend::{ForwardingMethod, FrontendAddress, FrontendPort};
use crate::model::node_state::{HeldFor, NodeState};
use crate::model::peer::NO_EXCEPTIONS;
use crate::model::service::{Service, ServiceKey, TrafficPolicy};
use crate::plan::endpoints::ready_nodes;
use crate::plan::reason::Reason;
use crate::plan::{Inputs, Plan, announcement};

/// What changed since the plan before.
pub(in crate::plan) struct Touched<'a> {
    /// Who held what.
    pub before: &'a Allocations,
    /// The Services that were planned again.
    pub dirty: &'a BTreeSet<ServiceKey>,
    /// All of it.
    pub everything: bool,
}

impl Touched<'_> {
    /// The VIPs to be settled again.
    fn vips(&self, inputs: &Inputs, plan: &Plan) -> BTreeSet<IpAddr> {
        let allocations = &plan.addresses.allocations;
        // Where somebody came, went or says something else of itself, any reason may be another one.
        if self.everything || !plan.peers.decide_like(&inputs.peers) {
            return allocations.held_addresses().collect();
        }
        let mut touched = BTreeSet::new();
        for key in self.dirty {
            touched.extend(self.before.addresses(key).iter().copied());
            touched.extend(allocations.addresses(key).iter().copied());
        }
        touched
    }
}

/// Settles who announces what.
pub(in crate::plan) fn own(
    config: &Config,
    inputs: &Inputs,
    touched: &Touched<'_>,
    plan: &mut Plan,
) {
    let mut open = touched.vips(inputs, plan);
    plan.peers = Arc::clone(&inputs.peers);
    if touched.everything {
        let table = NodeTable::new(config, &inputs.cluster, inputs.nodes_known);
        plan.nodes = Arc::new(table);
    }
    let nodes = Arc::clone(&plan.nodes);
    let judges = Judges {
        candidates: Candidates::new(config, inputs),
        field: inputs.peers.enabled.then(|| {
            let own = Own {
                name: &inputs.node,
                host: &inputs.host,
                ready: true,
                draining: inputs.draining,
                exceptions: &NO_EXCEPTIONS,
            };
            Field::new(config, &nodes, own, &inputs.peers)
        }),
    };
    while let Some(vip) = open.pop_first() {
        let (vips, holders) = together(&plan.addresses.allocations, vip);
        let served: BTreeSet<IpAddr> = (vips.iter().copied())
            .filter(|vip| {
                plan.state.held.get(vip) == Some(&HeldFor::Vip)
                    && !plan.addresses.allocations.holders_of(*vip).is_empty()
            })
            .collect();
        let holds_vip = |key: &&&ServiceKey| {
            plan.services.get(**key).is_some_and(|service| {
                let mut held = service.held.iter();
                held.any(|(_, held)| *held == HeldFor::Vip)
            })
        };
        let services: Vec<&Service> = holders
            .iter()
            .filter(holds_vip)
            .filter_map(|key| inputs.cluster.services.get(*key))
            .map(AsRef::as_ref)
            .collect();
        let lowest = vips.first().copied().unwrap_or(vip);
        let (mut group, ownership) = judges.settle(lowest, served, &services, inputs);
        let directly = (group.vips.iter()).filter(|vip| is_answered_directly(&plan.state, **vip));
        group.answered_directly = directly.copied().collect();
        for vip in vips {
            open.remove(&vip);
            let ownership = group.vips.contains(&vip).then(|| Ownership {
                owner: match &judges.field {
                    Some(_) => inputs.owners.get(&vip).cloned(),
                    None => ownership.owner.clone(),
                },
                excluded: ownership.excluded.clone(),
            });
            own_one(config, inputs, vip, ownership, plan);
            plan.groups.remove(&vip);
        }
        if let Some(lowest) = group.lowest() {
            plan.groups.insert(lowest, Arc::new(group));
        }
    }
}

/// What says who may own a group.
struct Judges<'a> {
    candidates: Candidates<'a>,
    /// Only where nodes talk with one another.
    field: Option<Field<'a>>,
}

impl Judges<'_> {
    /// The group of these VIPs, and who owns it by Nodes alone; where nodes talk, the reasons are what
    /// they say.
    fn settle(
        &self,
        lowest: IpAddr,
        vips: BTreeSet<IpAddr>,
        services: &[&Service],
        inputs: &Inputs,
    ) -> (VipGroup, Ownership) {
        let mut local: Option<BTreeSet<String>> = None;
        for service in services {
            if service.external_traffic_policy == TrafficPolicy::Local {
                let here = ready_nodes(&inputs.cluster, &service.key);
                local = Some(match local {
                    Some(nodes) => nodes.intersection(&here).cloned().collect(),
                    None => here,
                });
            }
        }
        let mut group = VipGroup {
            vips,
            local,
            ..VipGroup::default()
        };
        let ownership = if let Some(field) = &self.field {
            Ownership {
                owner: None,
                excluded: field.excluded(&group),
            }
        } else {
            let ownership = self.candidates.owner(lowest, services, inputs);
            group.by_nodes.clone_from(&ownership.owner);
            ownership
        };
        (group, ownership)
    }
}

/// Whether endpoints answer clients of one of this address's ports themselves.
fn is_answered_directly(state: &NodeState, vip: IpAddr) -> bool {
    let address = FrontendAddress::Address(vip);
    let first = FrontendPort {
        address,
        protocol: Protocol::Tcp,
        port: 0,
    };
    (state.frontends.range(first..))
        .take_while(|(port, _)| port.address == address)
        .any(|(_, frontend)| frontend.forwarding_method != ForwardingMethod::Masquerade)
}

/// Settles one VIP; without ownership it is not served at all.
fn own_one(
    config: &Config,
    inputs: &Inputs,
    vip: IpAddr,
    ownership: Option<Ownership>,
    plan: &mut Plan,
) {
    let mut own_interfaces: Vec<u32> = Vec::new();
    plan.state.answering.remove(&vip);
    if let Some(mut ownership) = ownership {
        if ownership.owner.as_deref() == Some(inputs.node.as_str()) {
            own_interfaces = announcement::interfaces(config, &inputs.host, vip)
                .map(|interface| interface.index)
                .collect();
            let told = |(node, _): &(String, Reason)| *node == inputs.node;
            if own_interfaces.is_empty() && !ownership.excluded.iter().any(told) {
                let here = (inputs.node.clone(), Reason::NoInterface);
                ownership.excluded.push(here);
            }
            if config.announce.ping {
                plan.state.answering.insert(vip);
            }
        }
        plan.ownership.insert(vip, ownership);
    } else {
        plan.ownership.remove(&vip);
    }
    announcement::announce(
        &inputs.host,
        vip,
        &own_interfaces,
        &mut plan.state.announced,
    );
}
