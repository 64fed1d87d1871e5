//! `peers`: the nodes among which VIPs are shared out, as far as the cluster and they themselves tell.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::ReasonView;
use crate::admin::snapshot::Snapshot;
use crate::model::peer::{Heard, NO_EXCEPTIONS, Presence};
use crate::owner::digest::configuration;
use crate::plan::ownership::Candidates;
use crate::plan::ownership::field::{Field, Own};
use crate::plan::reason::Reason;

/// What [`Peers::unopened`] counts.
const UNOPENED: [&str; 4] = ["unknown_key", "forged", "malformed", "own_name"];

/// Every Node of the cluster and every node that was heard of, by name, this one among them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// Whether nodes talk with one another; without it every node decides from Nodes alone.
    pub membership: bool,
    /// Datagrams of membership that had no effect, by why, since the start: `unknown_key`, `forged`,
    /// `malformed`, and `own_name` where another node has the name of this one. A daemon of an earlier
    /// version does not tell it.
    #[serde(default)]
    pub unopened: BTreeMap<String, u64>,
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
    /// Whether it is there, where nodes talk with one another and it was ever heard of; absent for this
    /// node.
    pub presence: Option<Presence>,
    /// By which ways it is heard now.
    pub heard: Option<Heard>,
    /// Whether it is drained by command.
    pub draining: bool,
    /// Whether it decides by the same configuration as this node.
    pub same_configuration: Option<bool>,
}

impl Peers {
    /// The nodes at the moment of the snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let inputs = &snapshot.inputs;
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
        for name in inputs.peers.members.keys() {
            addresses.entry(name).or_default();
        }
        let standing = Standing::new(snapshot);
        let peers = addresses.into_iter().map(|(name, addresses)| {
            let reasons: Vec<ReasonView> = standing.reasons(name).iter().map(Into::into).collect();
            let member = inputs.peers.members.get(name);
            Peer {
                name: name.to_owned(),
                this_node: name == inputs.node,
                addresses: addresses.to_vec(),
                eligible: reasons.is_empty(),
                reasons,
                vips: owned.get(name).copied().unwrap_or(0),
                presence: member.map(|member| member.presence),
                heard: member.map(|member| member.heard),
                draining: match member {
                    Some(member) => member.state.draining,
                    None => name == inputs.node && inputs.draining,
                },
                same_configuration: member.map(|member| {
                    member.state.configuration_digest == configuration(&snapshot.config)
                }),
            }
        });
        Self {
            membership: inputs.peers.enabled,
            unopened: UNOPENED
                .map(|result| (result.to_owned(), snapshot.membership.received(result)))
                .into(),
            peers: peers.collect(),
        }
    }
}

/// Who may own VIPs at all.
struct Standing<'a> {
    candidates: Candidates<'a>,
    /// Only where nodes talk with one another.
    field: Option<Field<'a>>,
}

impl<'a> Standing<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        let (config, inputs) = (&*snapshot.config, &*snapshot.inputs);
        let own = Own {
            name: &inputs.node,
            host: &inputs.host,
            ready: snapshot.ready,
            draining: inputs.draining,
            exceptions: &NO_EXCEPTIONS,
        };
        let (nodes, peers) = (&*snapshot.plan.nodes, &*inputs.peers);
        Self {
            candidates: Candidates::new(config, inputs),
            field: peers.enabled.then(|| Field::new(config, nodes, own, peers)),
        }
    }

    fn reasons(&self, name: &str) -> Vec<Reason> {
        if let Some(field) = &self.field {
            return field.standing(name).into_iter().collect();
        }
        let excluded = self.candidates.excluded().iter();
        excluded
            .filter(|(excluded, _)| excluded == name)
            .map(|(_, reason)| reason.clone())
            .collect()
    }
}
