//! Why this node began or ceased to announce a VIP, told from two plans.

use imbl::ordmap::DiffItem;

use crate::plan::Plan;
use crate::plan::ownership::Ownership;

/// The daemon has just started and the VIP is this node's.
const START: &str = "start";
/// The VIP was given to a Service, or is served from now on.
const ALLOCATED: &str = "allocated";
/// The VIP went back to its pool, or is not served any more.
const RELEASED: &str = "released";
/// This node may announce the VIP now and is better than its owner so far.
const ELIGIBLE: &str = "eligible";
/// Another node may announce the VIP now and is better than this one.
const BETTER_NODE: &str = "better_node";
/// The owner so far is not among the Nodes any more.
const NODE_GONE: &str = "node_gone";

/// A reason for each VIP that this node gained or lost: one of the words above, or the label of the
/// [`crate::plan::reason::Reason`] that excludes the owner so far.
pub(super) fn reasons(node: &str, previous: Option<&Plan>, now: &Plan) -> Vec<&'static str> {
    let owns = |ownership: &Ownership| ownership.owner.as_deref() == Some(node);
    let Some(previous) = previous else {
        let gained = now.ownership.values().filter(|ownership| owns(ownership));
        return gained.map(|_| START).collect();
    };
    // The maps share what did not change, and the comparison passes over it.
    previous
        .ownership
        .diff(&now.ownership)
        .filter_map(|change| match change {
            DiffItem::Add(_, new) => owns(new).then_some(ALLOCATED),
            DiffItem::Remove(_, old) => owns(old).then_some(RELEASED),
            DiffItem::Update {
                old: (_, old),
                new: (_, new),
            } => match (owns(old), owns(new)) {
                (false, true) => Some(gained(node, old, new)),
                (true, false) => Some(exclusion(new, node).unwrap_or(BETTER_NODE)),
                _ => None,
            },
        })
        .collect()
}

fn gained(node: &str, old: &Ownership, new: &Ownership) -> &'static str {
    match &old.owner {
        Some(owner) => exclusion(new, owner).unwrap_or(if exclusion(old, node).is_some() {
            ELIGIBLE
        } else {
            // Ranks never change, so that an owner who could still announce it would have kept it.
            NODE_GONE
        }),
        None => ELIGIBLE,
    }
}

fn exclusion(ownership: &Ownership, node: &str) -> Option<&'static str> {
    let mut excluded = ownership.excluded.iter();
    excluded
        .find(|(excluded, _)| excluded == node)
        .map(|(_, reason)| reason.label())
}
