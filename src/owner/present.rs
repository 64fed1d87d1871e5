//! Who has each VIP now: the greatest claim among the nodes that are there. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::peer::{Claims, Peers, Presence, supersedes};
use crate::plan::ownership::table::VipGroup;

/// The greatest claim to each VIP.
pub struct Present<'a> {
    node: &'a str,
    claims: HashMap<IpAddr, (u64, &'a str)>,
}

/// Who owns a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// Nobody who is there claims any of its VIPs.
    Nobody,
    /// This node does.
    Here {
        /// And no VIP of the group is unclaimed, or claimed by another.
        whole: bool,
    },
    /// That node does.
    There(&'a str),
}

impl<'a> Present<'a> {
    /// Of this node's claims and those of all that are not down.
    pub fn new(node: &'a str, own: &Claims, peers: &'a Peers) -> Self {
        let mut claims: HashMap<IpAddr, (u64, &'a str)> = own
            .iter()
            .map(|(vip, number)| (*vip, (*number, node)))
            .collect();
        let there = (peers.members.iter()).filter(|(_, peer)| peer.presence != Presence::Down);
        for (name, peer) in there {
            for (vip, number) in &peer.claims {
                let claim = (*number, name.as_str());
                let known = claims.entry(*vip).or_insert(claim);
                if supersedes(claim, *known) {
                    *known = claim;
                }
            }
        }
        Self { node, claims }
    }

    /// The greatest claim to any of the group's VIPs decides for all of them.
    pub fn owner(&self, group: &VipGroup) -> Owner<'a> {
        let claims = || group.vips.iter().map(|vip| self.claims.get(vip).copied());
        let greatest = claims().flatten().reduce(
            |one, other| {
                if supersedes(other, one) { other } else { one }
            },
        );
        match greatest {
            None => Owner::Nobody,
            Some((_, name)) if name == self.node => Owner::Here {
                whole: claims().all(|claim| claim.is_some_and(|(_, name)| name == self.node)),
            },
            Some((_, name)) => Owner::There(name),
        }
    }
}
