//! Announcements and the view of each Service, as the golden files have them.

use std::fmt::Write as _;

use edgelb::plan::{Inputs, Plan};
use edgelb::source::SourceProblem;

/// A line for each VIP that is served: interface and hardware address where this node announces
/// it, and its owner; below it the nodes that may not own it.
pub fn announcements(plan: &Plan) -> String {
    let mut text = String::new();
    for (vip, ownership) in &plan.ownership {
        let owner = ownership.owner.as_deref().unwrap_or("nobody");
        let mut announced = false;
        for interface in plan.state.announced.values() {
            if interface.addresses.contains(vip) {
                let mac = interface.mac.map(|byte| format!("{byte:02x}")).join(":");
                let _ = writeln!(text, "{vip} {} {mac} owner {owner}", interface.name);
                announced = true;
            }
        }
        if !announced {
            let _ = writeln!(text, "{vip} - - owner {owner}");
        }
        for (node, reason) in &ownership.excluded {
            let _ = writeln!(text, "# not {node}: {reason}");
        }
    }
    text
}

/// What each Service holds and why it is not served as it asks; then what the source refused.
pub fn status(inputs: &Inputs, plan: &Plan, problems: &[SourceProblem]) -> String {
    let mut text = String::from("services:\n");
    for key in inputs.cluster.services.keys() {
        let vips = plan.addresses.allocations.addresses(key);
        let vips: Vec<String> = vips.iter().map(|vip| format!("\"{vip}\"")).collect();
        let _ = writeln!(text, "  {key}:\n    vips: [{}]", vips.join(", "));
        let reasons = plan.reasons(key);
        if !reasons.is_empty() {
            text.push_str("    reasons:\n");
        }
        for reason in reasons {
            let _ = writeln!(text, "    - {}: {:?}", reason.label(), reason.to_string());
        }
    }
    if !problems.is_empty() {
        text.push_str("problems:\n");
    }
    for problem in problems {
        let file = problem.file.rsplit('/').next().unwrap_or_default();
        let _ = writeln!(text, "- {file}: {:?}", problem.message);
    }
    text
}
