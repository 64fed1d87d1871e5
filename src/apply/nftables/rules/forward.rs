//! What a node forwards that forwarded nothing before: only what belongs to frontends or pods.

use super::{Chain, FORWARD, for_pods, hook, in_set, rule};
use crate::apply::nftables::expression::{Load, Step, Verdict};
use crate::apply::nftables::layout::Layout;
use crate::apply::nftables::sets::Table;

/// The chain, where any family is restricted. A packet of a connection that exists passes one rule.
pub(super) fn restriction(layout: Layout) -> Option<Chain> {
    let families: Vec<_> = layout.restricted().collect();
    if families.is_empty() {
        return None;
    }
    let accept = [Step::Verdict(Verdict::Accept)];
    let mut rules = vec![
        rule(
            "connections that exist go on",
            None,
            vec![Step::Established, Step::Verdict(Verdict::Accept)],
        ),
        // br_netfilter hands the frames of a bridge to this hook, where the bridge is both interfaces.
        // No rule can compare the two: routing from one bridge to another passes as well.
        rule(
            "frames within a bridge",
            None,
            vec![Step::BetweenBridges, Step::Verdict(Verdict::Accept)],
        ),
    ];
    for family in families {
        // An address of this node's own would not be forwarded to, but for a translation.
        for (key, table, comment) in [
            (Load::OriginalDestination, Table::Held, "frontends"),
            (
                Load::OriginalDestination,
                Table::NodeAddresses,
                "node ports",
            ),
            // Other nodes forward to the pods of this one.
            (Load::DestinationAddress, Table::PodRanges, "to pods"),
            (Load::OutputInterface, Table::PodInterfaces, "to pods"),
        ] {
            let steps = vec![in_set(key, table, family), Step::Verdict(Verdict::Accept)];
            rules.push(rule(comment, Some(family), steps));
        }
        rules.extend(for_pods("from pods", family, &accept));
        rules.push(rule(
            "nothing else was forwarded before",
            Some(family),
            vec![Step::Verdict(Verdict::Drop)],
        ));
    }
    Some(Chain {
        name: "forward",
        hook: Some(hook(FORWARD, 0, "filter")),
        rules,
    })
}
