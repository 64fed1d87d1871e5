//! Which nodes may own a VIP, and in what order, where nodes talk with one another: what Node objects
//! say, what each node says of itself, and whether it is there (AN-4, AN-9, AN-10).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::table::{NodeTable, VipGroup};
use super::weight;
use crate::config::Config;
use crate::model::host::Host;
use crate::model::peer::{Exceptions, Peers, Presence};
use crate::plan::announcement::may_announce;
use crate::plan::reason::Reason;

/// What this node knows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its interfaces.
    pub host: &'a Host,
    /// It holds the forwarding state of all VIPs.
    pub ready: bool,
    /// It gives its VIPs up.
    pub draining: bool,
    /// VIPs that it does not serve, or not whole.
    pub exceptions: &'a Exceptions,
}

/// A node that is there, or that comes back at once.
struct Member<'a> {
    name: &'a str,
    /// Why it may own nothing now.
    excluded: Option<Reason>,
    interfaces: Vec<(&'a str, &'a [IpNet])>,
    exceptions: &'a BTreeSet<IpAddr>,
    more_exceptions: bool,
}

/// All nodes that can be asked to own something, and what decides among them.
pub struct Field<'a> {
    config: &'a Config,
    nodes: &'a NodeTable,
    members: Vec<Member<'a>>,
}

impl<'a> Field<'a> {
    /// This node and every other that is known, also those that are away.
    pub fn new(config: &'a Config, nodes: &'a NodeTable, own: Own<'a>, peers: &'a Peers) -> Self {
        let usable = own.host.interfaces.values();
        let here = Member {
            name: own.name,
            excluded: judge(nodes, own.name, Presence::Alive, own.draining, own.ready),
            interfaces: usable
                .filter(|interface| may_announce(config, interface))
                .map(|interface| (interface.name.as_str(), interface.addresses.as_slice()))
                .collect(),
            exceptions: &own.exceptions.vips,
            more_exceptions: own.exceptions.more,
        };
        let others = peers.members.iter().map(|(name, peer)| {
            let state = &peer.state;
            Member {
                name,
                excluded: judge(nodes, name, peer.presence, state.draining, state.ready),
                interfaces: (state.interfaces.iter())
                    .map(|interface| (interface.name.as_str(), interface.subnets.as_slice()))
                    .collect(),
                exceptions: &state.exceptions,
                more_exceptions: state.more_exceptions,
            }
        });
        Self {
            config,
            nodes,
            members: std::iter::once(here).chain(others).collect(),
        }
    }

    /// Why a node may not own the group now; `None` where it may.
    pub fn exclusion(&self, node: &str, group: &VipGroup) -> Option<Reason> {
        let member = self.members.iter().find(|member| member.name == node);
        member.map_or(Some(Reason::PeerDown), |member| {
            self.judge(member, group).err()
        })
    }

    /// Why a node may own nothing at all now; `None` where it may.
    pub fn standing(&self, node: &str) -> Option<Reason> {
        let member = self.members.iter().find(|member| member.name == node);
        member.map_or(Some(Reason::PeerDown), |member| member.excluded.clone())
    }

    /// Every node that may not own the group, with the reason.
    pub fn excluded(&self, group: &VipGroup) -> Vec<(String, Reason)> {
        let judged = self.members.iter().filter_map(|member| {
            let reason = self.judge(member, group).err()?;
            Some((member.name.to_owned(), reason))
        });
        let mut excluded: Vec<_> = judged.collect();
        excluded.sort_by(|(one, _), (other, _)| one.cmp(other));
        excluded
    }

    /// The nodes that may own the group, the best first: those that reach most of its VIPs, then those
    /// that the pool prefers, then by rendezvous weight, so that every node sees one order.
    pub fn ranking(&self, group: &VipGroup) -> Vec<&'a str> {
        self.ranked(group, false)
    }

    /// The same with those that do not serve the group whole: to be asked where nobody does.
    pub fn last_resort(&self, group: &VipGroup) -> Vec<&'a str> {
        self.ranked(group, true)
    }

    fn ranked(&self, group: &VipGroup, with_exceptions: bool) -> Vec<&'a str> {
        let Some(lowest) = group.lowest() else {
            return Vec::new();
        };
        let pool = (self.config.pools.iter()).position(|pool| pool.contains(lowest));
        let mut ranked: Vec<_> = (self.members.iter())
            .filter_map(|member| {
                let reached = match self.judge(member, group) {
                    Err(Reason::NotServedThere) if with_exceptions => {
                        self.reached_by(member, group).ok()?
                    }
                    judged => judged.ok()?,
                };
                let preference = self.nodes.preference(member.name, pool);
                let weight = weight(lowest, member.name);
                Some((Reverse(reached), preference, Reverse(weight), member.name))
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(.., name)| name).collect()
    }

    /// How many VIPs of the group a node could announce; none where it may not own it.
    pub fn reached(&self, node: &str, group: &VipGroup) -> usize {
        let member = self.members.iter().find(|member| member.name == node);
        member.map_or(0, |member| self.judge(member, group).unwrap_or(0))
    }

    /// Whether a node that is there and about to be ready would be a better owner than `node`.
    pub fn awaits_better(&self, node: &str, group: &VipGroup) -> bool {
        let Some(lowest) = group.lowest() else {
            return false;
        };
        let own = weight(lowest, node);
        let mut about_to_be = self
            .members
            .iter()
            .filter(|member| member.excluded == Some(Reason::NotReady));
        about_to_be.any(|member| weight(lowest, member.name) > own)
    }

    /// How many VIPs of the group a node could announce, or why it may own none.
    fn judge(&self, member: &Member<'_>, group: &VipGroup) -> Result<usize, Reason> {
        if let Some(reason) = &member.excluded {
            return Err(reason.clone());
        }
        let needed = group.local.as_ref();
        if needed.is_some_and(|nodes| !nodes.contains(member.name)) {
            return Err(Reason::NoLocalEndpoint);
        }
        let excepted = |vip: &IpAddr| member.exceptions.contains(vip);
        if member.more_exceptions || group.vips.iter().any(excepted) {
            return Err(Reason::NotServedThere);
        }
        self.reached_by(member, group)
    }

    fn reached_by(&self, member: &Member<'_>, group: &VipGroup) -> Result<usize, Reason> {
        let reached = (group.vips.iter()).filter(|vip| self.reaches(member, **vip));
        match reached.count() {
            0 => Err(Reason::NoInterface),
            reached => Ok(reached),
        }
    }

    fn reaches(&self, member: &Member<'_>, vip: IpAddr) -> bool {
        let named = (self.config.pools.iter())
            .find(|pool| pool.contains(vip))
            .map_or(&[][..], |pool| pool.interfaces.as_slice());
        member.interfaces.iter().any(|(name, subnets)| {
            if named.is_empty() {
                subnets.iter().any(|subnet| subnet.contains(&vip))
            } else {
                named.iter().any(|pattern| pattern.matches(name))
            }
        })
    }
}

/// What keeps a node from owning anything. Being away comes first: the rest is what it was when it was
/// last heard.
fn judge(
    nodes: &NodeTable,
    name: &str,
    presence: Presence,
    draining: bool,
    ready: bool,
) -> Option<Reason> {
    match presence {
        Presence::Down => Some(Reason::PeerDown),
        // Who drains does not come back for what it has.
        Presence::Restarting if draining => Some(Reason::Draining),
        Presence::Restarting => Some(Reason::PeerRestarting),
        Presence::Alive => nodes.exclusion(name).or_else(|| {
            if draining {
                Some(Reason::Draining)
            } else {
                (!ready).then_some(Reason::NotReady)
            }
        }),
    }
}
