//! The handover as the owner task sees it: before a VIP is announced here, what belongs to no connection
//! of this node goes to the node that had the VIP before, and on a node that had it, to the one that has
//! it now. Only says so; [`passing`] does it.

mod former;
pub(super) mod passing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::{OrdMap, OrdSet};

use crate::apply::handover::{Arrival, HandedOver, Handover, REMEMBERED};
use crate::model::announcement::AnnouncedInterface;
use crate::model::family::Family;
use crate::model::host::Host;
use crate::model::peer::{Owners, Peer, Peers, Presence};
use former::Former;

/// For how long after the start a node is waited for that an earlier run passed packets on to.
const HEAR_OTHERS: Duration = Duration::from_secs(10);

/// How often it is looked whether packets are passed on.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// How long after its move, and after the last packet that was passed on, a VIP is nobody else's any more:
/// that packet was counted by then.
const FORGET_AFTER: Duration = REMEMBERED.saturating_add(COUNT_EVERY.saturating_mul(2));

/// What is so now.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    pub owners: &'a Owners,
    pub peers: &'a Arc<Peers>,
    pub host: &'a Host,
    /// The announcing interfaces with the VIPs that may be announced there.
    pub stage: &'a BTreeMap<u32, AnnouncedInterface>,
    /// All VIPs; made anew whenever host or stage are others.
    pub vips: &'a OrdSet<IpAddr>,
    /// Those of which conntrack sees both sides of a connection: of all others it knows none, so that
    /// nothing of theirs can be told to be another node's. Made anew together with `vips`.
    pub translated: &'a OrdSet<IpAddr>,
    /// When a packet was passed on last, by VIP; not known to the minute.
    pub passed: &'a BTreeMap<IpAddr, Instant>,
}

/// Knows what is to be passed on.
#[derive(Debug)]
pub struct HandingOver {
    former: Former,
    /// What was looked at last.
    seen: Option<(Owners, Arc<Peers>, OrdSet<IpAddr>)>,
    /// What an earlier run left, until the nodes are heard that have those addresses.
    standing: BTreeMap<Arrival, IpAddr>,
    /// When it goes, should they not be heard.
    standing_until: Instant,
    /// When something may be forgotten.
    forget_at: Option<Instant>,
    /// What is to be so now.
    wanted: Option<Arc<HandedOver>>,
}

impl HandingOver {
    /// What an earlier run of this node passed on stays so until the other nodes were heard.
    pub fn new(node: String, tables: &mut Handover) -> Self {
        let missing = tables.support().missing_modules();
        if !missing.is_empty() {
            tracing::warn!(
                modules = missing.join(" and "),
                "the kernel cannot pass packets on, connections break when their vip moves on purpose"
            );
        }
        let standing = tables.standing().unwrap_or_else(|error| {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(error, "what an earlier run passed on is not known");
            BTreeMap::new()
        });
        Self {
            former: Former::new(node),
            seen: None,
            standing,
            standing_until: Instant::now() + HEAR_OTHERS,
            forget_at: None,
            wanted: None,
        }
    }

    /// Looks at what belongs to other nodes now. To be called before anything is announced that was not
    /// announced before.
    pub fn settle(&mut self, scene: &Scene<'_>) {
        if scene.peers.enabled && !scene.peers.settled {
            return;
        }
        let same = self.seen.as_ref().is_some_and(|(owners, peers, vips)| {
            owners.ptr_eq(scene.owners)
                && vips.ptr_eq(scene.vips)
                && (Arc::ptr_eq(peers, scene.peers) || peers.decide_like(scene.peers))
        });
        if same && !self.is_due() {
            return;
        }
        let now = Instant::now();
        if self.standing_until <= now || !scene.peers.enabled {
            self.standing.clear();
        }
        take_over(&mut self.standing, &mut self.former, scene, now);
        self.former
            .follow(scene.owners, scene.peers, scene.translated, now);
        self.forget_at = self.former.forget(scene.passed, now);
        let mut to = self.standing.clone();
        to.extend(ways(&self.former, scene));
        let wanted = HandedOver { to };
        if self.wanted.as_deref() != Some(&wanted) {
            self.wanted = Some(Arc::new(wanted));
        }
        let (owners, peers) = (scene.owners.clone(), Arc::clone(scene.peers));
        self.seen = Some((owners, peers, scene.vips.clone()));
    }

    /// Whether it is time to settle, although nothing changed.
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let unheard = !self.standing.is_empty() && self.standing_until <= now;
        unheard || self.forget_at.is_some_and(|at| at <= now)
    }

    /// Whether another node passes packets on to this one: connections end with it that it does not
    /// announce.
    pub fn is_passed_to(&self) -> bool {
        self.former.has_given_up()
    }

    /// What is to be passed on; nothing before it is known: then what an earlier run passed on stays so.
    pub fn wanted(&self) -> Option<Arc<HandedOver>> {
        self.wanted.clone()
    }
}

/// Takes over what an earlier run left to nodes that are heard by now; the rest stays as it is.
fn take_over(
    standing: &mut BTreeMap<Arrival, IpAddr>,
    former: &mut Former,
    scene: &Scene<'_>,
    now: Instant,
) {
    standing.retain(|arrival, address| {
        let name = whose(scene.peers, *address);
        if let Some(name) = name {
            former.adopt(arrival.vip, name, now);
        }
        name.is_none() && scene.translated.contains(&arrival.vip)
    });
}

/// The node that has this address and is there.
fn whose(peers: &Peers, address: IpAddr) -> Option<&str> {
    let mut members = peers.members.iter();
    let found = members.find(|(_, peer)| {
        peer.presence != Presence::Down && addresses(peer).any(|its| its == address)
    });
    found.map(|(name, _)| name.as_str())
}

fn addresses(peer: &Peer) -> impl Iterator<Item = IpAddr> {
    let interfaces = peer.state.interfaces.iter();
    interfaces.flat_map(|interface| interface.subnets.iter().map(ipnet::IpNet::addr))
}

/// For each VIP, on each interface where it may be announced: an address of the other node there.
fn ways(former: &Former, scene: &Scene<'_>) -> BTreeMap<Arrival, IpAddr> {
    let mut known: OrdMap<(&str, u32, Family), Option<IpAddr>> = OrdMap::new();
    let mut ways = BTreeMap::new();
    for (vip, other) in former.others(scene.owners, scene.peers) {
        let family = Family::of(vip);
        for (index, interface) in scene.stage {
            if !interface.watched.contains(&vip) {
                continue;
            }
            let on_lan = *known
                .entry((other, *index, family))
                .or_insert_with(|| address_there(scene, other, *index, family));
            if let Some(address) = on_lan {
                let interface = *index;
                ways.insert(Arrival { vip, interface }, address);
            }
        }
    }
    ways
}

/// An address of that node, of this family, that is a neighbour on this interface.
fn address_there(scene: &Scene<'_>, other: &str, index: u32, family: Family) -> Option<IpAddr> {
    let here = &scene.host.interfaces.get(&index)?.addresses;
    let peer = scene.peers.members.get(other)?;
    addresses(peer).find(|address| {
        Family::of(*address) == family
            // What another program gave an interface is no node's own.
            && !scene.vips.contains(address)
            && here.iter().any(|net| net.contains(address))
            && here.iter().all(|net| net.addr() != *address)
    })
}
