//! `vips`: each address that a Service holds, who announces it where, and why nobody else does.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ReasonView, owned_here, owner};
use crate::admin::snapshot::Snapshot;
use crate::model::family::Family;
use crate::model::node_state::HeldFor;
use crate::model::service::ServiceKey;
use crate::plan::reason::Reason;

/// Every VIP that is given out, ascending.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vips {
    pub vips: Vec<VipView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VipView {
    pub address: IpAddr,
    pub family: Family,
    /// The pool that it is from; none where that pool is gone.
    pub pool: Option<String>,
    /// NAMESPACE/NAME of the Service that holds it.
    pub service: String,
    /// The node that announces it.
    pub owner: Option<String>,
    /// Whether that is this node.
    pub owned_here: bool,
    /// Whether this node takes packets for it.
    pub held: bool,
    /// The interfaces of this node on which it is announced.
    pub interfaces: Vec<String>,
    /// The nodes that may not announce it.
    pub excluded: Vec<ExcludedNode>,
    /// Why this node does not announce it; empty where it does.
    pub reasons: Vec<ReasonView>,
}

/// A node that may not announce a VIP, with the reason's three forms beside its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExcludedNode {
    pub node: String,
    #[serde(flatten)]
    pub reason: ReasonView,
}

impl Vips {
    /// The VIPs at the moment of the snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let holders = snapshot.plan.addresses.allocations.holders();
        Self {
            vips: holders
                .map(|(address, service)| view(snapshot, address, service))
                .collect(),
        }
    }
}

fn view(snapshot: &Snapshot, address: IpAddr, service: &ServiceKey) -> VipView {
    let plan = &snapshot.plan;
    let interfaces: Vec<String> = (plan.state.announced.values())
        .filter(|interface| interface.addresses.contains(&address))
        .map(|interface| interface.name.clone())
        .collect();
    let excluded = plan.ownership.get(&address);
    VipView {
        address,
        family: Family::of(address),
        pool: (snapshot.config.pools.iter())
            .find(|pool| pool.contains(address))
            .map(|pool| pool.name.clone()),
        service: service.to_string(),
        owner: owner(snapshot, address).map(str::to_owned),
        owned_here: owned_here(snapshot, address),
        held: plan.state.held.get(&address) == Some(&HeldFor::Vip),
        reasons: not_announced(snapshot, address, service, interfaces.is_empty())
            .iter()
            .map(ReasonView::from)
            .collect(),
        interfaces,
        excluded: (excluded.into_iter())
            .flat_map(|ownership| &ownership.excluded)
            .map(|(node, reason)| ExcludedNode {
                node: node.clone(),
                reason: reason.into(),
            })
            .collect(),
    }
}

/// Why this node does not announce the VIP.
fn not_announced(
    snapshot: &Snapshot,
    address: IpAddr,
    service: &ServiceKey,
    nowhere: bool,
) -> Vec<Reason> {
    let node = &snapshot.inputs.node;
    let Some(ownership) = snapshot.plan.ownership.get(&address) else {
        // It is not served at all; what the Service lacks says why.
        return snapshot.plan.reasons(service);
    };
    match &ownership.owner {
        Some(owner) if owner == node && nowhere => vec![Reason::NoInterface],
        Some(owner) if owner == node => Vec::new(),
        other => {
            let first = match other {
                Some(owner) => Reason::OwnedBy {
                    node: owner.clone(),
                },
                None => Reason::NoEligibleNode,
            };
            let own = (ownership.excluded.iter())
                .filter(|(excluded, _)| excluded == node)
                .map(|(_, reason)| reason.clone());
            std::iter::once(first).chain(own).collect()
        }
    }
}
