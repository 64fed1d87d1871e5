//! Who had each VIP before its owner, hence may have connections of it. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use imbl::OrdSet;
use imbl::ordmap::DiffItem;

use super::FORGET_AFTER;
use crate::model::peer::{Owners, Peers, Presence, supersedes};

/// What this node remembers of owners.
#[derive(Debug)]
pub(super) struct Former {
    node: String,
    owners: Owners,
    /// Those that had the VIP before and were there when it moved, this node among them, the latest first.
    had: BTreeMap<IpAddr, Had>,
    /// Who had it last, where nobody has it now.
    last: BTreeMap<IpAddr, String>,
}

/// Who had a VIP.
#[derive(Debug)]
struct Had {
    nodes: Vec<String>,
    /// Since when.
    since: Instant,
}

impl Former {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            owners: Owners::new(),
            had: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    /// An earlier run of this node passed packets for the VIP on to that node: one of both had it before
    /// the other.
    pub(super) fn adopt(&mut self, vip: IpAddr, other: &str, now: Instant) {
        let owner = self.owners.get(&vip).cloned();
        let node = self.node.clone();
        let had = self.had(vip, now);
        for name in [node.as_str(), other] {
            let owns = owner.as_ref().is_some_and(|owner| owner == name);
            if !owns && !had.iter().any(|known| known == name) {
                had.push(name.to_owned());
            }
        }
    }

    /// Forgets what moved long ago, where nothing was passed on lately: no connection of then lives. When
    /// there will be more of that, unless packets are passed on meanwhile.
    pub(super) fn forget(
        &mut self,
        passed: &BTreeMap<IpAddr, Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let mut next = None;
        self.had.retain(|vip, had| {
            let last = passed.get(vip).map_or(had.since, |at| had.since.max(*at));
            let end = last + FORGET_AFTER;
            if end > now {
                next = Some(next.map_or(end, |next: Instant| next.min(end)));
            }
            end > now
        });
        next
    }

    fn had(&mut self, vip: IpAddr, since: Instant) -> &mut Vec<String> {
        let new = || Had {
            nodes: Vec::new(),
            since,
        };
        let had = self.had.entry(vip).or_insert_with(new);
        had.since = since;
        &mut had.nodes
    }

    /// Takes in who owns what now, and who is there: from a node that is down a VIP is taken with nothing
    /// of what it had. One that is down later is not forgotten: it may only have been silent for a moment,
    /// and where it booted meanwhile it resets what it does not know, as this node would.
    pub(super) fn follow(
        &mut self,
        owners: &Owners,
        peers: &Peers,
        vips: &OrdSet<IpAddr>,
        now: Instant,
    ) {
        let node = self.node.clone();
        let is_there = |name: &String| *name == node || is_there(peers, name);
        for had in self.had.values_mut() {
            had.nodes
                .retain(|name| *name == node || peers.members.contains_key(name));
        }
        self.last.retain(|_, name| is_there(name));
        let before = std::mem::replace(&mut self.owners, owners.clone());
        for change in before.diff(owners) {
            match change {
                DiffItem::Add(vip, owner) => {
                    let last = self.last.remove(vip);
                    self.moved(*vip, last.as_ref(), owner, peers, now);
                }
                DiffItem::Update { old, new } => {
                    let last = Some(old.1).filter(|name| is_there(name));
                    self.moved(*new.0, last, new.1, peers, now);
                }
                DiffItem::Remove(vip, owner) if is_there(owner) => {
                    self.last.insert(*vip, owner.clone());
                }
                DiffItem::Remove(..) => {}
            }
        }
        self.had
            .retain(|vip, had| !had.nodes.is_empty() && vips.contains(vip));
        self.last.retain(|vip, _| vips.contains(vip));
    }

    /// Of a VIP that this node takes, the owner before is who claims it still: this node may not have seen
    /// it own the VIP, where it looks for the first time, or was stopped for a while.
    fn moved(
        &mut self,
        vip: IpAddr,
        from: Option<&String>,
        to: &String,
        peers: &Peers,
        now: Instant,
    ) {
        let claimant = claimant(peers, vip).filter(|_| *to == self.node);
        let had = self.had(vip, now);
        for before in [from, claimant].into_iter().flatten() {
            had.retain(|name| name != before);
            had.insert(0, before.clone());
        }
        had.retain(|name| name != to);
    }

    /// For each VIP of which packets may be another node's business, that node: on the owner the one that
    /// had it last, on one that had it the owner.
    pub(super) fn others<'a>(
        &'a self,
        owners: &'a Owners,
        peers: &'a Peers,
    ) -> impl Iterator<Item = (IpAddr, &'a str)> {
        self.had.iter().filter_map(|(vip, had)| {
            let owner = owners.get(vip)?;
            let other = if *owner == self.node {
                had.nodes.iter().find(|name| is_there(peers, name))
            } else {
                had.nodes.contains(&self.node).then_some(owner)
            };
            other.map(|other| (*vip, other.as_str()))
        })
    }

    /// Whether another node has a VIP now that this one had.
    pub(super) fn has_given_up(&self) -> bool {
        (self.had.values()).any(|had| had.nodes.contains(&self.node))
    }
}

/// Who has the greatest claim among the other nodes that are there.
fn claimant(peers: &Peers, vip: IpAddr) -> Option<&String> {
    let claims = peers.members.iter().filter_map(|(name, peer)| {
        let number = *peer.claims.get(&vip)?;
        (peer.presence != Presence::Down).then_some((number, name))
    });
    let greatest = claims.reduce(|(number, name), (other, by)| {
        if supersedes((other, by), (number, name)) {
            (other, by)
        } else {
            (number, name)
        }
    });
    greatest.map(|(_, name)| name)
}

fn is_there(peers: &Peers, name: &str) -> bool {
    let peer = peers.members.get(name);
    peer.is_some_and(|peer| peer.presence != Presence::Down)
}
