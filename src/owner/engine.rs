//! Decides what this node claims, keeps and gives up, from what every node says. Pure but for the time,
//! which it is told: the same steps at the same times give the same claims.
//!
//! - Who has the greatest claim and is there, owns. A node that sees another's greater claim is silent
//!   from that moment on.
//! - A VIP that nobody who is there claims is claimed by the best node that may own it; the next best
//!   follows after [`TURN`], in case that the best one sees things differently.
//! - An owner that may not own any more, and is there, is relieved: the best other node claims, and the
//!   owner goes on until it hears so (make-before-break).
//! - Nobody else takes a VIP from an owner that is well, unless `membership.preempt` says so, and then
//!   not too often (AN-5).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use imbl::OrdSet;

use super::present::Present;
use super::turn::Turn;
use crate::config::Config;
use crate::model::foreign::MacAddress;
use crate::model::host::{Host, Interface};
use crate::model::peer::{Claims, IN_COMPANY, Owners, Peers, Presence};
use crate::plan::announcement::{interfaces, may_announce};
use crate::plan::ownership::field::{Field, Own};
use crate::plan::ownership::table::{VipGroup, VipTable};

/// The shortest time that the next best node waits for a better one.
pub const TURN: Duration = Duration::from_millis(400);
/// The same in probe intervals: nodes that ask one another seldom are slow to tell what they did.
const TURN_IN_PROBES: u32 = 4;
/// For how many turns an owner that may not own any more goes on while somebody else is to follow.
const LINGER_IN_TURNS: u32 = 5;
/// How long a better node must have been well before it takes a VIP from an owner that is well.
pub(super) const PREEMPT_AFTER: Duration = Duration::from_secs(10);
/// Moves of one VIP within [`MOVES_WINDOW`] after which nobody preempts: fabrics block an address that
/// moves five times within 180 s (RFC 7432, section 15.1).
const MOST_MOVES: usize = 3;
const MOVES_WINDOW: Duration = Duration::from_secs(180);
/// How long a node whose cable was out waits to hear the others before it trusts that nobody is there.
const HEAR_OTHERS: Duration = Duration::from_secs(1);
/// How long others must have been there before what was claimed alone is claimed with them.
const COMPANY: Duration = Duration::from_secs(3);
/// How long nodes that start together wait for one another.
pub(super) const START_TOGETHER: Duration = Duration::from_secs(1);
/// How long until an address is asked for again for which another node answered.
pub(super) const ASK_PEER_AGAIN: Duration = Duration::from_millis(500);
/// How long an address in use by another host is left alone before it is asked for again.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What is so now, as far as this node knows.
pub struct World<'a> {
    pub config: &'a Config,
    pub table: &'a VipTable,
    pub peers: &'a Peers,
    pub host: &'a Host,
    /// The forwarding state is in the kernel.
    pub ready: bool,
    pub draining: bool,
    /// It is not known whether somebody else took over: nothing is announced and nothing claimed.
    pub suspended: bool,
    /// Milliseconds since 1970: new claims are greater than all that were made before.
    pub unix_ms: u64,
}

/// Why a group waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Nobody who is there claims it.
    Ownerless,
    /// Its owner may not own it any more.
    Relief,
    /// Its owner is there and is not ready yet.
    Starting,
    /// This node would be the better owner.
    Preemption,
}

/// What the LAN said about an address that nobody is known to have owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It is being asked.
    Asked,
    /// Nobody answered.
    Free,
    /// Another host did, at that time.
    Used(MacAddress, Instant),
    /// Another node did, at that time: what it claims is about to be heard.
    UsedByPeer(Instant),
}

/// What a step leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Addresses to be asked for on the LAN before they are claimed.
    pub ask: Vec<IpAddr>,
    /// When time alone leads to something.
    pub wake: Option<Instant>,
}

/// What this node claims, and what it remembers of the others.
#[derive(Debug)]
pub struct Engine {
    pub(super) node: String,
    pub(super) claims: Claims,
    pub(super) owners: Owners,
    /// What this node announces: owned, and sure of it.
    pub(super) announced: OrdSet<IpAddr>,
    /// The greatest claim that anybody was heard to make.
    pub(super) greatest: HashMap<IpAddr, u64>,
    pub(super) waiting: BTreeMap<IpAddr, (Waiting, Instant)>,
    pub(super) probes: BTreeMap<IpAddr, Probe>,
    moves: BTreeMap<IpAddr, VecDeque<Instant>>,
    last_owners: BTreeMap<IpAddr, String>,
    /// Since when another node is there.
    company: Option<Instant>,
    /// Whether this node has an interface to announce on.
    connected: bool,
    /// Until when a node that had none waits to hear the others.
    pub(super) cut_off_until: Option<Instant>,
    /// What the others wait for, as long as they were not heard.
    resumes: Option<Resumption>,
}

/// The others certainly wait for this node with what an earlier run of it owned.
#[derive(Debug)]
struct Resumption {
    until: Instant,
    /// What that run claimed with them.
    vips: OrdSet<IpAddr>,
}

impl Engine {
    /// Starts with what an earlier run of this node claimed.
    pub fn new(node: String, claims: &Claims) -> Self {
        Self {
            node,
            // Others may have gone on together meanwhile.
            greatest: alone(claims).into_iter().collect(),
            claims: alone(claims),
            owners: Owners::new(),
            announced: OrdSet::new(),
            waiting: BTreeMap::new(),
            probes: BTreeMap::new(),
            moves: BTreeMap::new(),
            last_owners: BTreeMap::new(),
            company: None,
            connected: true,
            cut_off_until: None,
            resumes: None,
        }
    }

    /// The others were told that this node restarts, and wait for it until then: these VIPs are its own,
    /// also before it heard them. Once it heard them, or cannot have heard what they did meanwhile, that
    /// counts no more.
    pub fn resume(&mut self, until: Instant, vips: OrdSet<IpAddr>) {
        self.resumes = Some(Resumption { until, vips });
    }

    /// What this node owns, with the numbers of its claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Who owns each VIP of the table.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// What this node is to announce.
    pub fn announced(&self) -> &OrdSet<IpAddr> {
        &self.announced
    }

    /// Takes in what the LAN said about addresses that were to be asked for: which hosts use some of
    /// them, and which of them other nodes answered for.
    pub fn probed(
        &mut self,
        asked: &[IpAddr],
        used: &BTreeMap<IpAddr, MacAddress>,
        peers: &BTreeSet<IpAddr>,
        now: Instant,
    ) {
        for vip in asked.iter().filter(|vip| !self.owners.contains_key(*vip)) {
            let result = match used.get(vip) {
                Some(mac) => Probe::Used(*mac, now),
                None if peers.contains(vip) => Probe::UsedByPeer(now),
                None => Probe::Free,
            };
            self.probes.insert(*vip, result);
        }
    }

    /// The addresses that were not claimed because another host uses them.
    pub fn used_by_others(&self) -> impl Iterator<Item = (IpAddr, MacAddress)> {
        self.probes.iter().filter_map(|(vip, probe)| match probe {
            Probe::Used(mac, _) => Some((*vip, *mac)),
            Probe::Asked | Probe::Free | Probe::UsedByPeer(_) => None,
        })
    }

    /// Brings claims, owners and announcements in line with the world.
    pub fn step(&mut self, now: Instant, world: &World<'_>) -> Outcome {
        if world.suspended {
            // The lease is over: nothing is said, and nothing changes before the others were heard.
            self.resumes = None;
            return Outcome::default();
        }
        self.remember(world);
        self.connect(now, world);
        self.end_resumption(now, world.peers);
        let node = self.node.clone();
        let present = Present::new(&node, &self.claims, world.peers);
        let own = Own {
            name: &node,
            host: world.host,
            ready: world.ready,
            draining: world.draining,
            exceptions: &world.table.exceptions,
        };
        let field = Field::new(world.config, &world.table.nodes, own, world.peers);
        let mut turn = Turn::new(self, world, field, now);
        for (lowest, group) in &world.table.groups {
            turn.settle(*lowest, group, present.owner(group));
        }
        let outcome = turn.outcome;
        self.forget(world);
        outcome
    }

    /// Notes when this node, which heard nobody, has an interface again after it had none, and whether
    /// others are there.
    fn connect(&mut self, now: Instant, world: &World<'_>) {
        let mut usable = (world.host.interfaces.values())
            .filter(|interface| may_announce(world.config, interface))
            .peekable();
        let reaches = |interface: &Interface| {
            let vips = world.table.groups.values().flat_map(|group| &group.vips);
            let mut reached = vips.map(|vip| interfaces(world.config, world.host, *vip));
            reached.any(|mut those| those.any(|that| that.index == interface.index))
        };
        let connected =
            world.table.groups.is_empty() || (usable.peek().is_some() && usable.any(reaches));
        let mut others = world.peers.members.values().peekable();
        let cut_off = others.peek().is_some() && others.all(|peer| peer.presence == Presence::Down);
        if connected && !self.connected && cut_off {
            self.cut_off_until = Some(now + HEAR_OTHERS);
        }
        self.connected = connected;
        let mut peers = world.peers.members.values();
        let accompanied = peers.any(|peer| peer.presence != Presence::Down);
        if accompanied {
            self.company.get_or_insert(now);
        } else if world.peers.enabled && self.company.take().is_some() {
            // Alone from now on: those who go on together are right.
            self.claims = alone(&self.claims);
        }
    }

    /// Forgets that the others wait, once they were heard or might have gone on.
    fn end_resumption(&mut self, now: Instant, peers: &Peers) {
        let Some(resumption) = &self.resumes else {
            return;
        };
        if resumption.until <= now || self.cut_off_until.is_some() {
            self.resumes = None;
        } else if peers.settled {
            // They waited, so that these claims are as good as before the restart.
            let vips = self.resumes.take().map(|resumption| resumption.vips);
            for vip in vips.iter().flatten().filter(|_| self.company.is_some()) {
                if let Some(number) = self.claims.get_mut(vip) {
                    *number |= IN_COMPANY;
                }
            }
        }
    }

    /// Until when the others wait for this node with this group, although they were not heard.
    pub(super) fn awaited(&self, group: &VipGroup) -> Option<Instant> {
        let resumption = self.resumes.as_ref()?;
        let claimed = |vip: &&IpAddr| self.claims.contains_key(*vip);
        let mut claimed = group.vips.iter().filter(claimed);
        let all = claimed.all(|vip| resumption.vips.contains(vip));
        all.then_some(resumption.until)
    }

    /// Whether another node is there.
    pub(super) fn is_accompanied(&self) -> bool {
        self.company.is_some()
    }

    /// Whether another node has been there for so long that it is known what it claims.
    pub(super) fn is_in_company(&self, now: Instant) -> bool {
        let since = self.company;
        since.is_some_and(|since| now.saturating_duration_since(since) > COMPANY)
    }

    /// The greatest numbers, also of nodes that are gone by the time somebody follows them.
    fn remember(&mut self, world: &World<'_>) {
        for peer in world.peers.members.values() {
            for (vip, number) in &peer.claims {
                let number = number & !IN_COMPANY;
                let known = self.greatest.entry(*vip).or_insert(number);
                *known = (*known).max(number);
            }
        }
    }

    /// Drops what is about VIPs that are no more.
    fn forget(&mut self, world: &World<'_>) {
        let groups = &world.table.groups;
        self.waiting.retain(|lowest, _| groups.contains_key(lowest));
        if world.table.generation == 0 {
            // Claims of an earlier run wait for the first table.
            return;
        }
        let vips: BTreeSet<IpAddr> = (groups.values())
            .flat_map(|group| group.vips.iter().copied())
            .collect();
        let keep = |vip: &IpAddr| vips.contains(vip);
        let gone: Vec<IpAddr> = (self.owners.keys())
            .chain(self.claims.keys())
            .filter(|vip| !keep(vip))
            .copied()
            .collect();
        for vip in gone {
            self.owners.remove(&vip);
            self.claims.remove(&vip);
            self.announced.remove(&vip);
        }
        self.probes.retain(|vip, _| keep(vip));
        self.moves.retain(|vip, _| keep(vip));
        self.last_owners.retain(|vip, _| keep(vip));
        self.greatest.retain(|vip, _| keep(vip));
    }

    pub(super) fn moved(&mut self, vip: IpAddr, owner: &str, now: Instant) {
        let last = self.last_owners.insert(vip, owner.to_owned());
        if last.is_none_or(|last| last == owner) {
            return;
        }
        let moves = self.moves.entry(vip).or_default();
        moves.push_back(now);
        while moves.len() > MOST_MOVES + 1 {
            moves.pop_front();
        }
    }

    /// Whether a VIP moved too often lately; until when.
    pub(super) fn damped(&self, vip: IpAddr, now: Instant) -> Option<Instant> {
        let lately: Vec<&Instant> = (self.moves.get(&vip)?.iter())
            .filter(|moved| now.saturating_duration_since(**moved) < MOVES_WINDOW)
            .collect();
        let first = lately.len().checked_sub(MOST_MOVES)?;
        lately.get(first).map(|moved| **moved + MOVES_WINDOW)
    }
}

/// How long the next best node waits for a better one.
pub(super) fn turn(config: &Config) -> Duration {
    TURN.max(config.membership.probe_interval * TURN_IN_PROBES)
}

/// How long an owner that may not own any more goes on while somebody else is to follow.
pub(super) fn linger(config: &Config) -> Duration {
    turn(config) * LINGER_IN_TURNS
}

/// The same claims, as made by a node that was alone.
pub(super) fn alone(claims: &Claims) -> Claims {
    claims
        .iter()
        .map(|(vip, number)| (*vip, number & !IN_COMPANY))
        .collect()
}
