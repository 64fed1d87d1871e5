//! Packets that must not get to an endpoint or to a socket of this node: who is turned away, how.

use super::{
    Chain, FRONTEND, ICMP, ICMPV6, INPUT, NODE_PORT, PREROUTING, REFUSE, Rule, TCP, for_pods, goto,
    hook, in_set, map, rule,
};
use crate::apply::nftables::expression::{Load, Step, Verdict};
use crate::apply::nftables::sets::Table;
use crate::model::family::Family;

pub(super) fn refuse() -> Chain {
    Chain {
        name: REFUSE,
        hook: None,
        rules: vec![
            // There a socket would hear that it may not send, and not that nobody listens.
            rule(
                "this node's own packets are refused where they arrive",
                None,
                vec![Step::NoInputInterface, Step::Verdict(Verdict::Accept)],
            ),
            rule(
                "refuse tcp at once",
                None,
                vec![Step::Protocol(TCP), Step::RejectWithReset],
            ),
            rule("refuse the rest", None, vec![Step::RejectUnreachable]),
        ],
    }
}

/// What arrives for a held address and no datapath took: never for a socket of this node.
pub(super) fn unserved() -> Chain {
    // Not the original direction: a connection that got to a socket of this node while the table was
    // away must not stay there.
    let mut rules = vec![rule(
        "errors of connections",
        None,
        vec![Step::Related, Step::Verdict(Verdict::Accept)],
    )];
    for (family, protocol, echo_request) in [(Family::V4, ICMP, 8), (Family::V6, ICMPV6, 128)] {
        rules.push(rule(
            "echo for owned addresses",
            Some(family),
            vec![
                Step::Protocol(protocol),
                Step::IcmpType(echo_request),
                in_set(Load::DestinationAddress, Table::Answering, family),
                Step::Verdict(Verdict::Accept),
            ],
        ));
        // NOEP-7: whoever asks whether the address lives is told at once that nothing is there.
        rules.push(rule(
            "echo for other addresses",
            Some(family),
            vec![
                Step::Protocol(protocol),
                Step::IcmpType(echo_request),
                Step::RejectUnreachable,
            ],
        ));
        rules.push(rule(
            "no other icmp",
            Some(family),
            vec![Step::Protocol(protocol), Step::Verdict(Verdict::Drop)],
        ));
    }
    // Of a connection that goes on such a packet is not translated, and comes here: a reset in the VIP's name
    // would end that connection (kube-proxy drops them too). What another node may know has been passed on.
    rules.push(rule(
        "what fits no connection",
        None,
        vec![Step::Invalid, Step::Verdict(Verdict::Drop)],
    ));
    rules.push(rule("no frontend has this port", None, vec![goto(REFUSE)]));
    Chain {
        name: "unserved",
        hook: None,
        rules,
    }
}

/// Before any translation and before IPVS; only for packets that come in from somewhere.
pub(super) fn guard() -> Chain {
    let mut rules = vec![rule(
        "connections that exist go on",
        None,
        vec![Step::NewConnection(false), Step::Verdict(Verdict::Accept)],
    )];
    for family in Family::BOTH {
        rules.push(not_allowed(family));
        // Before IPVS, which would answer with an ICMP error under the kernel's rate limit.
        rules.extend(closed(family));
        let accept = [Step::Verdict(Verdict::Accept)];
        rules.extend(for_pods("pods are not outside", family, &accept));
        rules.push(rule(
            "closed to the outside",
            Some(family),
            vec![map(&FRONTEND, Table::OutsideClosed, family)],
        ));
        rules.push(rule(
            "node ports closed to the outside",
            Some(family),
            vec![
                in_set(Load::DestinationAddress, Table::NodeAddresses, family),
                map(&NODE_PORT, Table::NodePortsOutsideClosed, family),
            ],
        ));
    }
    Chain {
        name: "guard",
        hook: Some(hook(PREROUTING, -110, "filter")),
        rules,
    }
}

/// SR-3, SR-7: silence, whether or not there are endpoints.
pub(super) fn not_allowed(family: Family) -> Rule {
    let mut key = FRONTEND.to_vec();
    key.push(Load::SourceAddress);
    rule(
        "sources that may not ask",
        Some(family),
        vec![
            Step::In {
                key: FRONTEND.to_vec(),
                set: Table::Restricted.name(family),
                inverted: false,
            },
            Step::In {
                key,
                set: Table::Allowed.name(family),
                inverted: true,
            },
            Step::Verdict(Verdict::Drop),
        ],
    )
}

/// Frontends and node ports that have nothing for anybody.
pub(super) fn closed(family: Family) -> [Rule; 2] {
    [
        rule(
            "closed frontends",
            Some(family),
            vec![map(&FRONTEND, Table::Closed, family)],
        ),
        rule(
            "closed node ports",
            Some(family),
            vec![
                in_set(Load::DestinationAddress, Table::NodeAddresses, family),
                map(&NODE_PORT, Table::NodePortsClosed, family),
            ],
        ),
    ]
}

/// IPVS takes its packets in this hook at 98 to 100; translated ones have another destination.
pub(super) fn input() -> Chain {
    // A connection of this node's own may have begun at a port that is a node port too.
    let mut rules = vec![rule(
        "replies",
        None,
        vec![Step::Reply, Step::Verdict(Verdict::Accept)],
    )];
    for family in Family::BOTH {
        rules.extend(closed(family));
        rules.push(rule(
            "held addresses",
            Some(family),
            vec![
                in_set(Load::DestinationAddress, Table::Held, family),
                goto("unserved"),
            ],
        ));
        rules.push(rule(
            "unused addresses of service ranges",
            Some(family),
            vec![
                in_set(Load::DestinationAddress, Table::ServiceRanges, family),
                Step::Verdict(Verdict::Drop),
            ],
        ));
    }
    Chain {
        name: "input",
        hook: Some(hook(INPUT, 110, "filter")),
        rules,
    }
}
