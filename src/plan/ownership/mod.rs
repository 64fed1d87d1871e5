//! Which node announces a VIP: a pure function of the address and the nodes that could. Where nodes do
//! not talk with one another, each that sees the same Nodes gives the same answer; where they do,
//! [`field`] says who may and in what order, and who has it now is for the owners themselves.

pub mod field;
pub(super) mod own;
pub mod table;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

use super::Inputs;
use super::endpoints::ready_on;
use super::reason::Reason;
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::cluster::Node;
use crate::model::selector::any_matches;
use crate::model::service::{Service, ServiceKey, TrafficPolicy};

/// The label that takes a node out of serving external load balancers, whatever its value (LBC-7).
pub const EXCLUDE_LABEL: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The label that makes a node give its VIPs up, make-before-break, whatever its value but `false`.
pub const DRAIN_LABEL: &str = "edgelb.io/drain";

/// Whether the Node is drained by its label. `edgelb drain` on the node itself asks for the same.
pub fn drained_by_label(node: &Node) -> bool {
    let label = node.labels.get(DRAIN_LABEL);
    label.is_some_and(|value| value != "false")
}

/// Who owns a VIP, and why nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// The owner; absent where no node is eligible.
    pub owner: Option<String>,
    /// The nodes that are not eligible, each with the reason.
    pub excluded: Vec<(String, Reason)>,
}

/// The VIPs that have another owner than before: from whom, and to whom; empty where that is nobody.
pub fn moves<'a>(
    before: &'a OrdMap<IpAddr, Ownership>,
    after: &'a OrdMap<IpAddr, Ownership>,
) -> impl Iterator<Item = (IpAddr, &'a str, &'a str)> {
    let owner = |ownership: &'a Ownership| ownership.owner.as_deref().unwrap_or_default();
    let differences = before.diff(after).map(move |difference| match difference {
        DiffItem::Add(vip, new) => (*vip, "", owner(new)),
        DiffItem::Update { old, new } => (*old.0, owner(old.1), owner(new.1)),
        DiffItem::Remove(vip, old) => (*vip, owner(old), ""),
    });
    differences.filter(|(_, before, after)| before != after)
}

/// The nodes that may own VIPs at all, decided once a pass.
pub struct Candidates<'a> {
    config: &'a Config,
    eligible: Vec<&'a str>,
    excluded: Vec<(String, Reason)>,
}

impl<'a> Candidates<'a> {
    /// Judges every Node. Without any Node object this node is alone and owns everything.
    pub fn new(config: &'a Config, inputs: &'a Inputs) -> Self {
        let mut candidates = Self {
            config,
            eligible: Vec::new(),
            excluded: Vec::new(),
        };
        if inputs.cluster.nodes.is_empty() && !inputs.nodes_known {
            candidates.eligible.push(&inputs.node);
            return candidates;
        }
        for (name, node) in &inputs.cluster.nodes {
            match exclusion(config, node) {
                Some(reason) => candidates.excluded.push((name.clone(), reason)),
                None => candidates.eligible.push(name),
            }
        }
        if !inputs.cluster.nodes.contains_key(&inputs.node) {
            candidates
                .excluded
                .push((inputs.node.clone(), Reason::NodeUnknown));
        }
        candidates
    }

    /// The nodes that may own no VIP at all, each with the reason; this node too where it has no Node.
    pub fn excluded(&self) -> &[(String, Reason)] {
        &self.excluded
    }

    /// The owner of a VIP and of all that go with it, of which `vip` is the lowest and which
    /// `services` hold. With a Local policy the owner has a ready endpoint of each such Service.
    pub fn owner(&self, vip: IpAddr, services: &[&Service], inputs: &Inputs) -> Ownership {
        let (ranking, excluded) = self.ranked(vip, services, inputs);
        Ownership {
            owner: ranking.first().map(|node| (*node).to_owned()),
            excluded,
        }
    }

    /// The nodes that may own what [`Self::owner`] names the owner of, the best first.
    pub fn ranking(&self, vip: IpAddr, services: &[&Service], inputs: &Inputs) -> Vec<&'a str> {
        self.ranked(vip, services, inputs).0
    }

    fn ranked(
        &self,
        vip: IpAddr,
        services: &[&Service],
        inputs: &Inputs,
    ) -> (Vec<&'a str>, Vec<(String, Reason)>) {
        let mut excluded = self.excluded.clone();
        let local = |service: &&&Service| service.external_traffic_policy == TrafficPolicy::Local;
        let prefer = self
            .config
            .pools
            .iter()
            .find(|pool| pool.contains(vip))
            .map_or(&[][..], |pool| pool.prefer.as_slice());
        let mut ranked: Vec<(usize, Reverse<u64>, Reverse<&str>)> = Vec::new();
        for node in &self.eligible {
            let mut needed = services.iter().filter(local);
            if !needed.all(|service| ready_on(&inputs.cluster, &service.key, node)) {
                excluded.push(((*node).to_owned(), Reason::NoLocalEndpoint));
                continue;
            }
            let labels = inputs.cluster.nodes.get(*node).map(|node| &node.labels);
            let preference = prefer
                .iter()
                .position(|selector| labels.is_some_and(|labels| selector.matches(labels)))
                .unwrap_or(prefer.len());
            ranked.push((preference, Reverse(weight(vip, node)), Reverse(*node)));
        }
        ranked.sort_unstable();
        let ranking = ranked.into_iter().map(|(.., Reverse(node))| node);
        (ranking.collect(), excluded)
    }
}

/// The VIPs that have an owner in common with `vip`, itself included, and the Services that hold
/// them: Services that share an address, and addresses that one Service holds, are never torn apart.
pub fn together(
    allocations: &Allocations,
    vip: IpAddr,
) -> (BTreeSet<IpAddr>, BTreeSet<&ServiceKey>) {
    let (mut vips, mut holders) = (BTreeSet::from([vip]), BTreeSet::new());
    let mut open = vec![vip];
    while let Some(vip) = open.pop() {
        for holder in allocations.holders_of(vip) {
            if holders.insert(holder) {
                let addresses = allocations.addresses(holder).iter().copied();
                open.extend(addresses.filter(|address| vips.insert(*address)));
            }
        }
    }
    (vips, holders)
}

fn exclusion(config: &Config, node: &Node) -> Option<Reason> {
    if node.deleting {
        Some(Reason::NodeDeleting)
    } else if node.labels.contains_key(EXCLUDE_LABEL) {
        Some(Reason::ExcludedByLabel)
    } else if drained_by_label(node) {
        Some(Reason::Draining)
    } else if !config.announce.node_selector.is_empty()
        && !any_matches(&config.announce.node_selector, &node.labels)
    {
        Some(Reason::NotSelected)
    } else {
        None
    }
}

/// Rendezvous weight of a node for a VIP: FNV-1a over the address and the name, then the finalizer
/// of `SplitMix64`. Fixed for ever: nodes of different versions must agree.
fn weight(vip: IpAddr, node: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    match vip {
        IpAddr::V4(address) => feed(&address.octets()),
        IpAddr::V6(address) => feed(&address.octets()),
    }
    feed(node.as_bytes());
    let mut mixed = hash;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
