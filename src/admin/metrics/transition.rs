//! Why this node began or ceased to announce a VIP, told from two plans.

use std::net::IpAddr;

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

/// All of these words.
pub(super) const WORDS: [&str; 6] = [START, ALLOCATED, RELEASED, ELIGIBLE, BETTER_NODE, NODE_GONE];

/// A VIP that this node began or ceased to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) struct Transition {
    pub(in crate::admin) vip: IpAddr,
    /// Whether it began to.
    pub(in crate::admin) gained: bool,
    /// One of the words above, or the label of the [`crate::plan::reason::Reason`] that excludes the
    /// owner so far.
    pub(in crate::admin) reason: &'static str,
}

/// Each VIP that this node gained or lost, and why.
pub(in crate::admin) fn transitions(
    node: &str,
    previous: Option<&Plan>,
    now: &Plan,
) -> Vec<Transition> {
    let owns = |ownership: &Ownership| ownership.owner.as_deref() == Some(node);
    let transition = |vip: &IpAddr, gained, reason| {
        let vip = *vip;
        Some(Transition {
            vip,
            gained,
            reason,
        })
    };
    let Some(previous) = previous else {
        let gained = now
            .ownership
            .iter()
            .filter(|(_, ownership)| owns(ownership));
        return gained
            .filter_map(|(vip, _)| transition(vip, true, START))
            .collect();
    };
    // The maps share what did not change, and the comparison passes over it.
    previous
        .ownership
        .diff(&now.ownership)
        .filter_map(|change| match change {
            DiffItem::Add(vip, new) if owns(new) => transition(vip, true, ALLOCATED),
            DiffItem::Remove(vip, old) if owns(old) => transition(vip, false, RELEASED),
            DiffItem::Add(..) | DiffItem::Remove(..) => None,
            DiffItem::Update {
                old: (_, old),
                new: (vip, new),
            } => match (owns(old), owns(new)) {
                (false, true) => transition(vip, true, gained(node, old, new)),
                (true, false) => {
                    transition(vip, false, exclusion(new, node).unwrap_or(BETTER_NODE))
                }
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
