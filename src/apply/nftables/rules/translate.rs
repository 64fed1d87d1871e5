//! Where packets go that nftables forwards, and whose source address is replaced on either datapath.

use super::receive::{closed, not_allowed};
use super::{
    Chain, DESTINATION_PRIORITY, FRONTEND, MASQUERADE_ALL, MASQUERADE_NODE, MASQUERADE_UNLESS_POD,
    NODE_PORT, OUTPUT, POSTROUTING, PREROUTING, Rule, for_pods, hook, in_set, map, not_in_set,
    rule,
};
use crate::apply::nftables::expression::{Load, Step, Verdict};
use crate::apply::nftables::sets::Table;
use crate::model::family::Family;

/// What comes in from somewhere.
pub(super) fn prerouting() -> Chain {
    let rules = Family::BOTH.into_iter().flat_map(|family| {
        let mut rules = counted(family).to_vec();
        for ports in [Ports::Frontends, Ports::NodePorts] {
            let [outside, inside, everybody] = ports.choices(family);
            let mut steps = vec![
                not_in_set(Load::SourceAddress, Table::PodRanges, family),
                not_in_set(Load::InputInterface, Table::PodInterfaces, family),
            ];
            steps.extend(outside);
            rules.push(rule(ports.comments().0, Some(family), steps));
            rules.extend(for_pods(ports.comments().1, family, &inside));
            rules.push(rule(ports.comments().2, Some(family), everybody));
        }
        rules
    });
    Chain {
        name: "prerouting",
        hook: Some(hook(PREROUTING, DESTINATION_PRIORITY, "nat")),
        rules: rules.collect(),
    }
}

/// This node's own packets. The chain is asked once for each connection, so that sources are looked
/// at here too, and not in one that every packet would pass.
pub(super) fn output() -> Chain {
    let rules = Family::BOTH.into_iter().flat_map(|family| {
        let mut rules = vec![not_allowed(family)];
        // Before IPVS, which refuses where real servers only drain.
        rules.extend(closed(family));
        rules.extend(counted(family));
        for ports in [Ports::Frontends, Ports::NodePorts] {
            let [_, inside, everybody] = ports.choices(family);
            rules.push(rule(ports.comments().1, Some(family), inside));
            rules.push(rule(ports.comments().2, Some(family), everybody));
        }
        rules
    });
    Chain {
        name: "output",
        hook: Some(hook(OUTPUT, DESTINATION_PRIORITY, "nat")),
        rules: rules.collect(),
    }
}

/// Counts connections by frontend, and lets them pass. What is refused never comes this far.
fn counted(family: Family) -> [Rule; 2] {
    let listed = |key: &[Load], table: Table| Step::In {
        key: key.to_vec(),
        set: table.name(family),
        inverted: false,
    };
    [
        rule(
            "connections to frontends are counted",
            Some(family),
            vec![listed(&FRONTEND, Table::Connections)],
        ),
        rule(
            "connections to node ports are counted",
            Some(family),
            vec![
                in_set(Load::DestinationAddress, Table::NodeAddresses, family),
                listed(&NODE_PORT, Table::NodePortConnections),
            ],
        ),
    ]
}

/// Which maps send a packet to the chain that chooses its endpoint.
#[derive(Clone, Copy)]
enum Ports {
    Frontends,
    NodePorts,
}

impl Ports {
    /// For outside clients, for pods and this node, for everybody.
    fn choices(self, family: Family) -> [Vec<Step>; 3] {
        match self {
            Self::Frontends => [Table::Outside, Table::Inside, Table::Frontends]
                .map(|table| vec![map(&FRONTEND, table, family)]),
            Self::NodePorts => [
                Table::NodePortsOutside,
                Table::NodePortsInside,
                Table::NodePorts,
            ]
            .map(|table| {
                vec![
                    in_set(Load::DestinationAddress, Table::NodeAddresses, family),
                    map(&NODE_PORT, table, family),
                ]
            }),
        }
    }

    fn comments(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Frontends => (
                "frontends as outside clients see them",
                "frontends as pods and this node see them",
                "frontends",
            ),
            Self::NodePorts => (
                "node ports as outside clients see them",
                "node ports as pods and this node see them",
                "node ports",
            ),
        }
    }
}

pub(super) fn masquerade() -> Vec<Chain> {
    let keep = [Step::Verdict(Verdict::Return)];
    let mut unless_pod: Vec<Rule> = Family::BOTH
        .into_iter()
        .flat_map(|family| for_pods("pods keep their address", family, &keep))
        .collect();
    unless_pod.push(rule("everybody else", None, vec![Step::Masquerade]));
    let chain = |name, rules| Chain {
        name,
        hook: None,
        rules,
    };
    vec![
        chain(
            MASQUERADE_ALL,
            vec![rule("everybody", None, vec![Step::Masquerade])],
        ),
        chain(MASQUERADE_UNLESS_POD, unless_pod),
        chain(
            MASQUERADE_NODE,
            vec![rule(
                "this node",
                None,
                vec![Step::LocalSource, Step::Masquerade],
            )],
        ),
    ]
}

/// By the connection's first destination, so that it is the same after nat and after IPVS. The
/// hairpin comes first: a pod that talks to itself needs it whatever else it may keep.
pub(super) fn postrouting() -> Chain {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        rules.push(rule(
            "an endpoint that is its own client",
            Some(family),
            vec![
                Step::In {
                    key: vec![Load::SourceAddress, Load::DestinationAddress],
                    set: Table::Hairpin.name(family),
                    inverted: false,
                },
                Step::Masquerade,
            ],
        ));
        rules.push(rule(
            "frontends",
            Some(family),
            vec![map(
                &[
                    Load::OriginalDestination,
                    Load::Protocol,
                    Load::OriginalPort,
                ],
                Table::Masquerade,
                family,
            )],
        ));
        rules.push(rule(
            "node ports",
            Some(family),
            vec![
                in_set(Load::OriginalDestination, Table::NodeAddresses, family),
                map(
                    &[Load::Protocol, Load::OriginalPort],
                    Table::NodePortMasquerade,
                    family,
                ),
            ],
        ));
    }
    Chain {
        name: "postrouting",
        hook: Some(hook(POSTROUTING, 100, "nat")),
        rules,
    }
}
