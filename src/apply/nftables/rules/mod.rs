//! The chains of the table and their rules: fixed, the same for one Service and for ten thousand.
//!
//! ```text
//! prerouting -110  guard        who may not ask is dropped; outside clients of closed frontends
//!                               are refused or dropped
//! prerouting -100  translate    frontend → endpoint, where nftables forwards; before IPVS
//! output     -100  translate    the same for this node's own packets; who may not ask is dropped
//! forward       0  restrict     where asked for: only what belongs to frontends or pods goes on
//! input       110  unserved     after IPVS: what nobody took for a held address is refused
//! postrouting 100  masquerade   where the workload must answer through this node
//! ```

mod forward;
mod pick;
mod receive;
mod translate;

use super::expression::{Load, Step, Verdict};
use super::layout::Layout;
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

pub(super) use pick::{OUTSIDE_INDEX, Pick};

/// Where refused packets go.
pub(super) const REFUSE: &str = "refuse";
/// Every source is replaced.
pub(super) const MASQUERADE_ALL: &str = "masquerade_all";
/// Every source but a pod's is replaced.
pub(super) const MASQUERADE_UNLESS_POD: &str = "masquerade_unless_pod";
/// Only this node's own source is replaced.
pub(super) const MASQUERADE_NODE: &str = "masquerade_node";

/// `NF_INET_PRE_ROUTING` and so on.
/// Where destinations are translated: before `NF_IP_PRI_NAT_DST`, where other programs do it. Of several
/// chains the first that translates a connection decides, and what Docker publishes it publishes on every
/// local address, which VIPs are.
pub const DESTINATION_PRIORITY: i32 = -105;
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
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

/// All chains, those that others go to first.
pub(super) fn chains(layout: Layout) -> Vec<Chain> {
    let mut chains = vec![receive::refuse(), receive::unserved()];
    chains.extend(translate::masquerade());
    chains.push(receive::guard());
    chains.push(translate::prerouting());
    chains.push(translate::output());
    chains.extend(forward::restriction(layout));
    chains.push(receive::input());
    chains.push(translate::postrouting());
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

/// What pods are told by: rules that end with these steps, one for each way.
fn for_pods(comment: &'static str, family: Family, steps: &[Step]) -> [Rule; 2] {
    [
        (Load::SourceAddress, Table::PodRanges),
        (Load::InputInterface, Table::PodInterfaces),
    ]
    .map(|(key, table)| {
        let told = std::iter::once(in_set(key, table, family));
        rule(comment, Some(family), told.chain(steps.to_vec()).collect())
    })
}
