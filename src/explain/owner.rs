//! Who announces a VIP, why that node and why not this one, in the order that the nodes themselves
//! compute.

use std::net::IpAddr;

use super::Facts;
use super::report::{AddressDetails, AddressKind, Cause, Excluded};
use crate::model::peer::Exceptions;
use crate::model::service::Service;
use crate::plan::ownership::field::{Field, Own};
use crate::plan::ownership::{Candidates, Ownership, together};
use crate::plan::reason::Reason;

/// A VIP with its owner.
pub fn details(facts: &Facts<'_>, vip: IpAddr) -> AddressDetails {
    let ownership = facts.plan.ownership.get(&vip);
    let owner = ownership.and_then(|ownership| ownership.owner.clone());
    let ranking = ranking(facts, vip);
    let announced = facts.plan.state.announced.values();
    let interfaces = announced
        .filter(|interface| interface.addresses.contains(&vip))
        .map(|interface| interface.name.clone());
    AddressDetails {
        address: vip,
        kind: AddressKind::Vip,
        pool: facts.pool_of(vip).map(str::to_owned),
        owned_here: owner.as_deref() == Some(facts.here()),
        why: ownership.map(|ownership| why(facts, ownership, &ranking)),
        owner,
        ranking,
        excluded: ownership.map_or_else(Vec::new, |ownership| {
            let excluded = ownership.excluded.iter();
            excluded
                .map(|(node, reason)| Excluded {
                    node: node.clone(),
                    cause: cause(reason),
                })
                .collect()
        }),
        interfaces: interfaces.collect(),
    }
}

pub fn cause(reason: &Reason) -> Cause {
    Cause {
        label: reason.label().to_owned(),
        text: reason.to_string(),
    }
}

/// The nodes that may announce the VIP now, the best first.
fn ranking(facts: &Facts<'_>, vip: IpAddr) -> Vec<String> {
    let (config, inputs, plan) = (facts.config, facts.inputs, facts.plan);
    let exceptions = Exceptions::of([], plan.exceptions());
    let ranking = if inputs.peers.enabled {
        let own = Own {
            name: &inputs.node,
            host: &inputs.host,
            ready: facts.ready,
            draining: inputs.draining,
            exceptions: &exceptions,
        };
        let mut groups = plan.groups.values();
        let Some(group) = groups.find(|group| group.vips.contains(&vip)) else {
            return Vec::new();
        };
        Field::new(config, &plan.nodes, own, &inputs.peers).ranking(group)
    } else {
        let (vips, holders) = together(&plan.addresses.allocations, vip);
        let services: Vec<&Service> = holders
            .into_iter()
            .filter_map(|key| facts.service(key))
            .collect();
        let lowest = vips.first().copied().unwrap_or(vip);
        Candidates::new(config, inputs).ranking(lowest, &services, inputs)
    };
    ranking.into_iter().map(str::to_owned).collect()
}

fn why(facts: &Facts<'_>, ownership: &Ownership, ranking: &[String]) -> String {
    let here = facts.here();
    let excluded = |node: &str| {
        let mut excluded = ownership.excluded.iter();
        excluded
            .find(|(excluded, _)| excluded == node)
            .map(|(_, reason)| reason)
    };
    let Some(owner) = &ownership.owner else {
        if facts.inputs.peers.enabled && !facts.inputs.peers.settled {
            return "the nodes are still finding one another".to_owned();
        }
        let reasons = ownership.excluded.iter();
        let reasons: Vec<String> = reasons
            .map(|(node, reason)| format!("{node}: {reason}"))
            .collect();
        return if reasons.is_empty() {
            "no node has taken it yet".to_owned()
        } else {
            format!("no node may ({})", reasons.join("; "))
        };
    };
    let order = ranking.join(", ");
    let mut words = match ranking.iter().position(|node| node == owner) {
        Some(0) if ranking.len() == 1 => "it is the only node that may".to_owned(),
        Some(0) => format!("it is first in the order that all nodes compute ({order})"),
        _ if !facts.inputs.peers.enabled => format!("by the Nodes of the cluster ({order})"),
        Some(_) if !facts.config.membership.preempt => format!(
            "it took it earlier and keeps it, because membership.preempt is false (order: {order})"
        ),
        _ => match excluded(owner) {
            Some(reason) => format!("it has it still: {reason}"),
            None => format!("it has it still (order: {order})"),
        },
    };
    if owner != here {
        let not_here = match (excluded(here), ranking.iter().position(|node| node == here)) {
            (Some(reason), _) => format!("; not {here}: {reason}"),
            (None, Some(place)) => format!("; {here} would be number {}", place + 1),
            (None, None) => String::new(),
        };
        words.push_str(&not_here);
    }
    words
}
