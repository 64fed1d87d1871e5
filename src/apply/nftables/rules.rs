//! The chains of the table and their rules: fixed, the same for one Service and for ten thousand.
//!
//! ```text
//! prerouting -110  guard        outside clients of closed frontends are refused or dropped
//! prerouting -100  translate    nftables datapath: frontend → endpoint
//! output     -100  translate    the same for this node's own packets
//! input       110  unserved     after IPVS: what nobody took for a held address is refused
//! postrouting 100  masquerade   where the workload must answer through this node
//! ```

use super::expression::{Load, Step, Verdict};
use super::sets::Table;
use crate::model::family::Family;

/// A chain that hangs on a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    /// `NF_INET_*`
    pub(super) number: u32,
    pub(super) priority: i32,
    /// `filter` or `nat`
    pub(super) kind: &'static str,
}

/// One rule: what `nft list` shows as its comment, and its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) comment: &'static str,
    pub(super) steps: Vec<Step>,
}

/// One chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Where refused packets go.
pub(super) const REFUSE: &str = "refuse";
/// Every source is replaced.
pub(super) const MASQUERADE_ALL: &str = "masquerade_all";
/// Every source but a pod's is replaced.
pub(super) const MASQUERADE_UNLESS_POD: &str = "masquerade_unless_pod";
/// Only this node's own source is replaced.
pub(super) const MASQUERADE_NODE: &str = "masquerade_node";

/// `NF_INET_PRE_ROUTING` and so on.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

const FRONTEND: [Load; 3] = [
    Load::DestinationAddress,
    Load::Protocol,
    Load::DestinationPort,
];
const NODE_PORT: [Load; 2] = [Load::Protocol, Load::DestinationPort];
const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// All chains, those that others go to first. Without `translation` (the IPVS datapath) the nat
/// chains that choose endpoints are left out.
pub(super) fn chains(translation: bool) -> Vec<Chain> {
    let mut chains = vec![refuse(), unserved()];
    chains.extend(masquerade());
    chains.push(guard());
    if translation {
        chains.push(translate("prerouting", PREROUTING, true));
        chains.push(translate("output", OUTPUT, false));
    }
    chains.push(input());
    chains.push(postrouting());
    chains
}

fn rule(comment: &'static str, family: Option<Family>, steps: Vec<Step>) -> Rule {
    let steps = family.map(Step::Family).into_iter().chain(steps).collect();
    Rule { comment, steps }
}

fn in_set(key: Load, table: Table, family: Family) -> Step {
    Step::In {
        key: vec![key],
        set: table.name(family),
        inverted: false,
    }
}

fn not_in_set(key: Load, table: Table, family: Family) -> Step {
    Step::In {
        key: vec![key],
        set: table.name(family),
        inverted: true,
    }
}

fn map(key: &[Load], table: Table, family: Family) -> Step {
    Step::VerdictMap {
        key: key.to_vec(),
        map: table.name(family),
    }
}

fn goto(chain: &str) -> Step {
    Step::Verdict(Verdict::Goto(chain.into()))
}

const fn hook(number: u32, priority: i32, kind: &'static str) -> Hook {
    Hook {
        number,
        priority,
        kind,
    }
}

fn refuse() -> Chain {
    Chain {
        name: REFUSE,
        hook: None,
        rules: vec![
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
fn unserved() -> Chain {
    // Not the original direction: a connection that got to a socket of this node while the table was
    // away must not stay there.
    let mut rules = vec![
        rule(
            "errors of connections",
            None,
            vec![Step::Related, Step::Verdict(Verdict::Accept)],
        ),
        rule(
            "replies",
            None,
            vec![Step::Reply, Step::Verdict(Verdict::Accept)],
        ),
    ];
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
        rules.push(rule(
            "no other icmp",
            Some(family),
            vec![Step::Protocol(protocol), Step::Verdict(Verdict::Drop)],
        ));
    }
    rules.push(rule("no frontend has this port", None, vec![goto(REFUSE)]));
    Chain {
        name: "unserved",
        hook: None,
        rules,
    }
}

fn masquerade() -> Vec<Chain> {
    let mut unless_pod: Vec<Rule> = Family::BOTH
        .into_iter()
        .map(|family| {
            rule(
                "pods keep their address",
                Some(family),
                vec![
                    in_set(Load::SourceAddress, Table::PodRanges, family),
                    Step::Verdict(Verdict::Return),
                ],
            )
        })
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

/// Before any translation and before IPVS; only for packets that come in from somewhere.
fn guard() -> Chain {
    let mut rules = vec![rule(
        "connections that exist go on",
        None,
        vec![Step::NewConnection(false), Step::Verdict(Verdict::Accept)],
    )];
    for family in Family::BOTH {
        // Before IPVS, which would answer with an ICMP error under the kernel's rate limit.
        rules.extend(closed(family));
        rules.push(rule(
            "pods are not outside",
            Some(family),
            vec![
                in_set(Load::SourceAddress, Table::PodRanges, family),
                Step::Verdict(Verdict::Accept),
            ],
        ));
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

/// Frontends and node ports that have nothing for anybody.
fn closed(family: Family) -> [Rule; 2] {
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

/// Sends each frontend to the chain that chooses one of its endpoints.
fn translate(name: &'static str, number: u32, outside: bool) -> Chain {
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let on_node = || in_set(Load::DestinationAddress, Table::NodeAddresses, family);
        let from_outside = || not_in_set(Load::SourceAddress, Table::PodRanges, family);
        if outside {
            rules.push(rule(
                "frontends as outside clients see them",
                Some(family),
                vec![from_outside(), map(&FRONTEND, Table::Outside, family)],
            ));
        }
        rules.push(rule(
            "frontends",
            Some(family),
            vec![map(&FRONTEND, Table::Frontends, family)],
        ));
        if outside {
            rules.push(rule(
                "node ports as outside clients see them",
                Some(family),
                vec![
                    from_outside(),
                    on_node(),
                    map(&NODE_PORT, Table::NodePortsOutside, family),
                ],
            ));
        }
        rules.push(rule(
            "node ports",
            Some(family),
            vec![on_node(), map(&NODE_PORT, Table::NodePorts, family)],
        ));
    }
    Chain {
        name,
        hook: Some(hook(number, -100, "nat")),
        rules,
    }
}

/// IPVS takes its packets in this hook at 98 to 100; translated ones have another destination.
fn input() -> Chain {
    let mut rules = Vec::new();
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

/// By the connection's first destination, so that it is the same after nat and after IPVS. The
/// hairpin comes first: a pod that talks to itself needs it whatever else it may keep.
fn postrouting() -> Chain {
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

/// The chain that chooses among `count` endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pick {
    pub(super) family: Family,
    pub(super) node_port: bool,
    /// Chooses from the list for outside clients.
    pub(super) outside: bool,
    pub(super) count: u32,
}

/// Where the list for outside clients begins in the endpoint maps.
pub(super) const OUTSIDE_INDEX: u32 = 1 << 16;

impl Pick {
    pub(super) fn name(self) -> String {
        format!(
            "{}{}_{}{}",
            if self.node_port {
                "pick_node_port"
            } else {
                "pick"
            },
            match self.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            if self.outside { "outside_" } else { "" },
            self.count
        )
    }

    pub(super) fn rule(self) -> Rule {
        let offset = if self.outside { OUTSIDE_INDEX } else { 0 };
        let index = Load::Random {
            modulus: self.count,
            offset,
        };
        let (mut key, table) = if self.node_port {
            (NODE_PORT.to_vec(), Table::NodePortEndpoints)
        } else {
            (FRONTEND.to_vec(), Table::Endpoints)
        };
        key.push(index);
        rule(
            "choose an endpoint",
            Some(self.family),
            vec![Step::DestinationNat {
                key,
                map: table.name(self.family),
            }],
        )
    }
}
