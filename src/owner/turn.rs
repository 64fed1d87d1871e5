//! One step of the engine over all groups: for each, what this node does now and what it waits for.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::engine::{
    ASK_AGAIN, ASK_PEER_AGAIN, Engine, Outcome, PREEMPT_AFTER, Probe, START_TOGETHER, Waiting,
    World, linger, turn,
};
use super::present::Owner;
use crate::model::peer::IN_COMPANY;
use crate::plan::announcement;
use crate::plan::ownership::field::Field;
use crate::plan::ownership::table::VipGroup;
use crate::plan::reason::Reason;

/// The step that is being made.
pub(super) struct Turn<'a, 'w> {
    engine: &'a mut Engine,
    world: &'w World<'w>,
    field: Field<'w>,
    now: Instant,
    pub(super) outcome: Outcome,
}

impl<'a, 'w> Turn<'a, 'w> {
    pub(super) fn new(
        engine: &'a mut Engine,
        world: &'w World<'w>,
        field: Field<'w>,
        now: Instant,
    ) -> Self {
        Self {
            engine,
            world,
            field,
            now,
            outcome: Outcome::default(),
        }
    }

    /// Settles one group that has this owner.
    pub(super) fn settle(&mut self, lowest: IpAddr, group: &VipGroup, owner: Owner<'_>) {
        if !self.world.peers.enabled {
            return self.settle_by_nodes(lowest, group);
        }
        match owner {
            Owner::Here { whole } => self.keep(lowest, group, whole),
            Owner::There(name) => self.follow(lowest, group, name),
            Owner::Nobody => {
                self.show(group, None);
                if self.sure() {
                    self.stand_by(lowest, group, Waiting::Ownerless, Duration::ZERO);
                }
            }
        }
    }

    /// Nobody tells anybody anything: the Nodes decide.
    fn settle_by_nodes(&mut self, lowest: IpAddr, group: &VipGroup) {
        let here = group.by_nodes.as_deref() == Some(self.engine.node.as_str());
        if !here {
            self.give_up(group);
            self.show(group, group.by_nodes.as_deref());
            return;
        }
        let owned = |vip: &IpAddr| self.engine.claims.contains_key(vip);
        // Where other Nodes may have owned it, its owner answers for it until it knows better.
        let alone = self.world.table.nodes.nodes.len() <= 1;
        if alone && !group.vips.iter().all(owned) && !self.is_free(lowest, group) {
            self.show(group, None);
            return;
        }
        if !group
            .vips
            .iter()
            .all(|vip| self.engine.claims.contains_key(vip))
        {
            self.claim(lowest, group);
        }
        self.show_here(group);
    }

    /// Whether who is there has been heard: who claims nothing now, claims nothing.
    fn sure(&mut self) -> bool {
        let peers = self.world.peers;
        if !peers.settled {
            return false;
        }
        // Behind a cable that was out nobody has been heard, and somebody may have taken over.
        let until = self.engine.cut_off_until;
        let Some(until) = until.filter(|until| *until > self.now) else {
            return true;
        };
        self.wake(until);
        false
    }

    /// This node has it: go on as long as it may, or as nobody follows.
    fn keep(&mut self, lowest: IpAddr, group: &VipGroup, whole: bool) {
        if !self.sure() {
            match self.engine.awaited(group) {
                Some(until) => {
                    self.wake(until);
                    self.show_here(group);
                }
                None => self.show(group, None),
            }
            return;
        }
        let node = self.engine.node.clone();
        let Some(reason) = self.field.exclusion(&node, group) else {
            if !whole || self.is_to_be_confirmed(group) {
                self.claim(lowest, group);
            }
            self.engine.waiting.remove(&lowest);
            self.show_here(group);
            return;
        };
        let followed = !self.field.ranking(group).is_empty();
        let goes_on = match reason {
            // A node that is not ready has in its kernel what an earlier run gave it; one that is drained
            // before there is another goes on until somebody takes it, and loses nothing.
            Reason::NotReady | Reason::Draining => true,
            Reason::NoInterface => false,
            // As good as anybody's, where nobody serves it whole.
            Reason::NotServedThere if !followed => true,
            _ => followed && self.within(lowest, Waiting::Relief, linger(self.world.config)),
        };
        if goes_on {
            self.show_here(group);
        } else {
            self.give_up(group);
            self.show(group, None);
        }
    }

    /// Another node has it.
    fn follow(&mut self, lowest: IpAddr, group: &VipGroup, name: &str) {
        self.give_up(group);
        self.show(group, Some(name));
        if !self.sure() {
            return;
        }
        match self.field.exclusion(name, group) {
            None if self.reaches_more_than(name, group) => {
                self.stand_by(lowest, group, Waiting::Relief, Duration::ZERO);
            }
            None => self.consider_preemption(lowest, group),
            Some(Reason::PeerRestarting) => {
                self.engine.waiting.remove(&lowest);
            }
            Some(Reason::NotReady) => {
                let grace = self.world.config.membership.restart_grace;
                self.stand_by(lowest, group, Waiting::Starting, grace);
            }
            Some(_) => self.stand_by(lowest, group, Waiting::Relief, Duration::ZERO),
        }
    }

    /// Whether this node could announce VIPs of the group that its owner cannot.
    fn reaches_more_than(&self, owner: &str, group: &VipGroup) -> bool {
        let here = self.field.reached(&self.engine.node, group);
        here > self.field.reached(owner, group)
    }

    /// Whether claims that were made alone are to be made again: others are there, and had the time to
    /// say what they claim.
    fn is_to_be_confirmed(&self, group: &VipGroup) -> bool {
        let claims = &self.engine.claims;
        let alone = |vip: &IpAddr| {
            claims
                .get(vip)
                .is_some_and(|number| number & IN_COMPANY == 0)
        };
        self.engine.is_in_company(self.now) && group.vips.iter().any(alone)
    }

    /// Claims the group when it is this node's turn.
    fn stand_by(&mut self, lowest: IpAddr, group: &VipGroup, waiting: Waiting, after: Duration) {
        let mut ranking = self.field.ranking(group);
        if ranking.is_empty() && waiting == Waiting::Ownerless {
            ranking = self.field.last_resort(group);
        }
        let place = (ranking.iter()).position(|name| *name == self.engine.node);
        let Some(place) = place.and_then(|place| u32::try_from(place).ok()) else {
            self.engine.waiting.remove(&lowest);
            return;
        };
        let after = after + turn(self.world.config) * place;
        if after > Duration::ZERO && self.within(lowest, waiting, after) {
            return;
        }
        if waiting == Waiting::Ownerless {
            let fresh = !self.engine.greatest.contains_key(&lowest);
            let node = self.engine.node.clone();
            // Nodes that start together share the VIPs: the first one that is ready does not take all.
            if fresh
                && self.field.awaits_better(&node, group)
                && self.within(lowest, waiting, START_TOGETHER)
            {
                return;
            }
            if !self.is_free(lowest, group) {
                return;
            }
        }
        self.claim(lowest, group);
        self.show_here(group);
    }

    /// The owner is well: only a better one that may preempt takes it away.
    fn consider_preemption(&mut self, lowest: IpAddr, group: &VipGroup) {
        let best = self.world.config.membership.preempt
            && self.field.ranking(group).first() == Some(&self.engine.node.as_str());
        if !best {
            self.engine.waiting.remove(&lowest);
            return;
        }
        if let Some(until) = self.engine.damped(lowest, self.now) {
            self.wake(until);
            return;
        }
        if !self.within(lowest, Waiting::Preemption, PREEMPT_AFTER) {
            self.claim(lowest, group);
            self.show_here(group);
        }
    }

    /// Whether the group has waited for this for less than `time`; starts to wait.
    fn within(&mut self, lowest: IpAddr, waiting: Waiting, time: Duration) -> bool {
        let since = match self.engine.waiting.get(&lowest) {
            Some((known, since)) if *known == waiting => *since,
            _ => {
                self.engine.waiting.insert(lowest, (waiting, self.now));
                self.now
            }
        };
        let end = since + time;
        if end > self.now {
            self.wake(end);
        }
        end > self.now
    }

    /// Whether the VIPs may be claimed as far as other hosts go: somebody of ours had them before, or
    /// nobody on the LAN answers for them (RFC 5227, RFC 4862).
    fn is_free(&mut self, lowest: IpAddr, group: &VipGroup) -> bool {
        if self.engine.greatest.contains_key(&lowest) {
            return true;
        }
        let mut free = true;
        for vip in &group.vips {
            match self.engine.probes.get(vip).copied() {
                Some(Probe::Free) => {}
                Some(Probe::Asked) => free = false,
                Some(Probe::Used(_, at)) if at + ASK_AGAIN > self.now => {
                    self.wake(at + ASK_AGAIN);
                    free = false;
                }
                Some(Probe::UsedByPeer(at)) if at + ASK_PEER_AGAIN > self.now => {
                    self.wake(at + ASK_PEER_AGAIN);
                    free = false;
                }
                Some(Probe::Used(..) | Probe::UsedByPeer(_)) | None => {
                    self.outcome.ask.push(*vip);
                    self.engine.probes.insert(*vip, Probe::Asked);
                    free = false;
                }
            }
        }
        free
    }

    fn claim(&mut self, lowest: IpAddr, group: &VipGroup) {
        for vip in &group.vips {
            let greatest = self.engine.greatest.get(vip).copied().unwrap_or(0);
            let number = greatest.saturating_add(1).max(self.world.unix_ms) & !IN_COMPANY;
            self.engine.greatest.insert(*vip, number);
            let company = if self.engine.is_accompanied() {
                IN_COMPANY
            } else {
                0
            };
            self.engine.claims.insert(*vip, number | company);
            self.engine.probes.remove(vip);
        }
        self.engine.waiting.remove(&lowest);
    }

    /// Takes back what this node claimed.
    fn give_up(&mut self, group: &VipGroup) {
        for vip in &group.vips {
            self.engine.claims.remove(vip);
        }
    }

    /// This node owns the group and announces it.
    fn show_here(&mut self, group: &VipGroup) {
        let node = self.engine.node.clone();
        self.show(group, Some(&node));
        for vip in &group.vips {
            let reached = announcement::interfaces(self.world.config, self.world.host, *vip).next();
            if reached.is_some() && !self.engine.announced.contains(vip) {
                self.engine.announced.insert(*vip);
            } else if reached.is_none() {
                self.engine.announced.remove(vip);
            }
        }
    }

    /// Notes who owns the group; unless that is this node, nothing of it is announced here.
    fn show(&mut self, group: &VipGroup, owner: Option<&str>) {
        let here = owner == Some(self.engine.node.as_str());
        for vip in &group.vips {
            if !here {
                self.engine.announced.remove(vip);
            }
            if self.engine.owners.get(vip).map(String::as_str) == owner {
                continue;
            }
            match owner {
                Some(owner) => {
                    self.engine.owners.insert(*vip, owner.to_owned());
                    self.engine.moved(*vip, owner, self.now);
                    // Somebody has it: who else answered does not matter any more.
                    self.engine.probes.remove(vip);
                }
                None => {
                    self.engine.owners.remove(vip);
                }
            }
        }
    }

    fn wake(&mut self, at: Instant) {
        let wake = self.outcome.wake.map_or(at, |wake| wake.min(at));
        self.outcome.wake = Some(wake);
    }
}
