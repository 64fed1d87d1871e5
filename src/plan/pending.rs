//! Why Services have no address, in numbers: of several reasons the one that keeps it from them. Decides
//! nothing.

use std::collections::BTreeMap;

use super::addresses::AddressPlan;
use super::reason::Reason;

/// The labels of what an allocator may give as the cause that there is no address.
const CAUSES: [&str; 13] = [
    "address_of_infrastructure",
    "awaiting_allocation",
    "claim_unreadable",
    "dual_stack_unmet",
    "family_missing",
    "no_pool",
    "pool_exhausted",
    "pool_not_allowed",
    "request_malformed",
    "request_outside_pools",
    "request_taken",
    "sharing_refused",
    "unknown_pool",
];

/// Of the reasons for which a Service lacks something, the one that counts most: the first that is
/// more than a note about how it asked.
pub fn principal(reasons: &[Reason]) -> Option<&Reason> {
    let note = |reason: &&Reason| matches!(reason, Reason::RequestsDisagree { .. });
    let refusal = reasons.iter().find(|reason| !note(reason));
    refusal.or(reasons.first())
}

/// How many Services wait for an address, by the label of the reason. Those that another
/// implementation serves wait for nothing.
pub fn pending(plan: &AddressPlan) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (key, reasons) in &plan.pending {
        let holds_none = plan.allocations.addresses(key).is_empty();
        if let Some(reason) = principal(reasons).filter(|_| holds_none) {
            match reason {
                Reason::OtherClass { .. } | Reason::ServedByAnother { .. } => {}
                reason => *counts.entry(label(reason)).or_insert(0) += 1,
            }
        }
    }
    counts
}

/// The label of a reason; of one that an allocator wrote into the status, that of its cause. What
/// anybody may have written there never becomes a label.
fn label(reason: &Reason) -> &'static str {
    let Reason::NotAllocated { cause, .. } = reason else {
        return reason.label();
    };
    let same = |label: &&&str| label.replace('_', "").eq_ignore_ascii_case(cause);
    let known = CAUSES.iter().find(same);
    known.copied().unwrap_or(reason.label())
}
