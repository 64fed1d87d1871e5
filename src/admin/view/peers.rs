//! `peers`: the nodes among which VIPs are shared out, as far as the cluster tells.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ReasonView;
use crate::admin::snapshot::Snapshot;
use crate::plan::ownership::Candidates;

/// Every Node of the cluster, by name; this node as well where it has no Node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    pub peers: Vec<Peer>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    /// Whether it is the node that answers.
    pub this_node: bool,
    pub addresses: Vec<IpAddr>,
    /// Whether it may announce VIPs.
    pub eligible: bool,
    /// Why it may not.
    pub reasons: Vec<ReasonView>,
    /// How many VIPs it announces.
    pub vips: usize,
}

impl Peers {
    /// The nodes at the moment of the snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let inputs = &snapshot.inputs;
        let candidates = Candidates::new(&snapshot.config, inputs);
        let mut owned: BTreeMap<&str, usize> = BTreeMap::new();
        for ownership in snapshot.plan.ownership.values() {
            if let Some(owner) = &ownership.owner {
                *owned.entry(owner).or_insert(0) += 1;
            }
        }
        let mut addresses: BTreeMap<&str, &[IpAddr]> =
            BTreeMap::from([(inputs.node.as_str(), &[][..])]);
        for (name, node) in &inputs.cluster.nodes {
            addresses.insert(name, &node.addresses);
        }
        let peers = addresses
            .into_iter()
            .map(|(name, addresses)| {
                let reasons: Vec<ReasonView> = candidates
                    .excluded()
                    .iter()
                    .filter(|(excluded, _)| excluded == name)
                    .map(|(_, reason)| reason.into())
                    .collect();
                Peer {
                    name: name.to_owned(),
                    this_node: name == inputs.node,
                    addresses: addresses.to_vec(),
                    eligible: reasons.is_empty(),
                    reasons,
                    vips: owned.get(name).copied().unwrap_or(0),
                }
            })
            .collect();
        Self { peers }
    }
}
