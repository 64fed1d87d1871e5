//! Decides who is there and shows it. Also knows when this node itself was held up, for then silence of
//! the others proves nothing.

use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use super::{Core, Timing};
use crate::membership::datagram::{Table, Versions};
use crate::model::peer::{Heard, Peer, Peers, Presence};
use crate::model::text::Text;

/// At the start nobody is waited for longer than that...
const START: Duration = Duration::from_secs(1);
/// ... unless somebody is there and its tables are on their way.
const START_JOINING: Duration = Duration::from_secs(2);

/// Until when, and for what, the others are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Unsettled {
    /// At the start who is sought is waited for; later only who is there.
    start: bool,
    since: Duration,
}

impl Unsettled {
    pub const fn start(now: Duration) -> Self {
        Self {
            start: true,
            since: now,
        }
    }
}

impl Core {
    /// Notes that the machine runs. Time in which it did not run is no silence of others.
    pub(super) fn awake(&mut self, now: Duration) {
        let late = now.saturating_sub(self.last_run.max(self.next_tick));
        self.last_run = now;
        if late < self.timing.held_up {
            return;
        }
        tracing::debug!(milliseconds = late.as_millis(), "membership was held up");
        for member in self.members.values_mut() {
            member.sign = member.sign.map(|sign| (sign + late).min(now));
            member.direct = member.direct.map(|direct| (direct + late).min(now));
            let usual = &mut member.last_way.usual;
            *usual = usual.map(|usual| (usual + late).min(now));
        }
        if late < self.timing.lease {
            return;
        }
        // The others went on without this node: what it knows of them is of before.
        self.unsettled = Some(match self.unsettled {
            Some(unsettled) if unsettled.start => unsettled,
            _ => Unsettled {
                start: false,
                since: now,
            },
        });
        let present = self.present();
        for name in present {
            if let Some(member) = self.members.get_mut(&name) {
                member.confirmed = false;
                member.challenge = None;
                let (route, session) = (member.route(), member.session.unwrap_or(0));
                self.challenge(&name, now, route, session);
            }
        }
    }

    /// A member gave back the number that was drawn for it: its next heartbeat is certainly of now.
    pub(super) fn proved(&mut self, name: &Text) {
        if let Some(member) = self.members.get_mut(name) {
            member.challenge = None;
        }
    }

    /// Decides about everybody and shows what changed.
    pub(super) fn decide(&mut self, now: Duration) {
        let grace = self.settings.restart_grace;
        for (name, member) in &mut self.members {
            let shown = member.decide(now, name, &self.timing, grace);
            self.changed |= show(&mut self.peers, name, member, shown);
        }
        if self.peers.members.len() > self.members.len() {
            let members = &self.members;
            let forgotten = self
                .peers
                .members
                .keys()
                .filter(|name| !members.contains_key(name.as_str()));
            for name in forgotten.cloned().collect::<Vec<String>>() {
                self.peers.members.remove(&name);
                self.changed = true;
            }
        }
        self.settle(now);
    }

    /// Decides about one, from whom something was heard.
    pub(super) fn decide_about(&mut self, now: Duration, name: &Text) {
        let grace = self.settings.restart_grace;
        if let Some(member) = self.members.get_mut(name) {
            let shown = member.decide(now, name, &self.timing, grace);
            self.changed |= show(&mut self.peers, name, member, shown);
        }
        if self.unsettled.is_some() {
            self.settle(now);
        }
    }

    fn settle(&mut self, now: Duration) {
        let settled = match self.unsettled {
            None => true,
            Some(unsettled) => {
                let waited = now.saturating_sub(unsettled.since);
                let mut present = self.members.values().filter(|member| member.alive);
                let complete = present.all(|member| member.confirmed && member.is_complete());
                let found = self.sought.iter().all(|sought| {
                    sought.found || self.members.values().any(|member| sought.target.is(member))
                });
                if unsettled.start {
                    let joined = found && complete && !self.sought.is_empty();
                    joined || (waited >= START && complete) || waited >= START_JOINING
                } else {
                    complete || waited >= self.timing.silence * 2
                }
            }
        };
        if settled {
            self.unsettled = None;
        }
        if self.peers.settled != settled {
            self.peers.settled = settled;
            self.changed = true;
        }
    }
}

/// Puts a member in its place among the peers where it is to be shown otherwise; whether it was.
fn show(peers: &mut Peers, name: &Text, member: &Member, what: Option<Shows>) -> bool {
    let Some(shows) = what else {
        return false;
    };
    let before = peers.members.get(&**name).map(AsRef::as_ref);
    let peer = member.peer(shows, before);
    if before == Some(&peer) {
        return false;
    }
    peers.members.insert(name.to_string(), Arc::new(peer));
    true
}

/// What is shown of a member: tables of equal versions are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shows {
    presence: Presence,
    heard: Heard,
    versions: Versions,
}

impl Member {
    /// Somebody of whom tables may be fetched.
    pub(super) fn alive_or_met(&self) -> bool {
        self.alive || self.session.is_some()
    }

    /// Everything that it is said to have is here.
    fn is_complete(&self) -> bool {
        self.advertised.state > 0 && !self.lacks(Table::State) && !self.lacks(Table::Claims)
    }

    /// Applies the deltas that came too early and fit now.
    pub(super) fn follow_early(&mut self) {
        loop {
            let (epoch, held) = self.tables.claims_version;
            let next = (epoch, held + 1);
            self.early = self.early.split_off(&next);
            let Some(changes) = self.early.remove(&next) else {
                return;
            };
            self.tables.apply(&changes);
        }
    }

    /// Decides whether it is there; what is to be shown of it, where that is something else than before.
    fn decide(
        &mut self,
        now: Duration,
        name: &Text,
        timing: &Timing,
        grace: Duration,
    ) -> Option<Shows> {
        let silent = self.sign.map(|sign| now.saturating_sub(sign));
        let limit = if self.rumoured_down {
            timing.silence_agreed
        } else {
            timing.silence
        };
        let alive = silent.is_some_and(|silent| silent < limit);
        if self.alive && !alive {
            let milliseconds = silent.unwrap_or_default().as_millis();
            tracing::info!(node = %name, milliseconds, "a node is silent");
        }
        self.alive = alive;
        let shows = self.shows(now, grace)?;
        if self.shown == Some(shows) {
            return None;
        }
        self.shown = Some(shows);
        Some(shows)
    }

    /// What is to be shown of it; nothing before it told anything.
    fn shows(&mut self, now: Duration, grace: Duration) -> Option<Shows> {
        if self.tables.told_version.1 == 0 {
            return None;
        }
        self.note_restart(now, grace);
        let waited_for = self.restarting.is_some_and(|(_, until)| now < until);
        let presence = if waited_for {
            Presence::Restarting
        } else if self.alive {
            Presence::Alive
        } else {
            Presence::Down
        };
        let heard = Heard {
            udp: self.hears_udp(now),
            lan: self.hears_lan(now),
        };
        // Tables of two runs say nothing together: the old ones stay until the new ones are complete.
        let versions = match (self.tables.versions(), self.shown) {
            (Some(versions), _) => versions,
            (None, Some(shown)) => shown.versions,
            (None, None) => return None,
        };
        Some(Shows {
            presence,
            heard,
            versions,
        })
    }

    fn peer(&self, shows: Shows, before: Option<&Peer>) -> Peer {
        let (presence, heard) = (shows.presence, shows.heard);
        match before {
            Some(before) if self.tables.versions().is_none() => Peer {
                presence,
                heard,
                ..before.clone()
            },
            _ => Peer {
                presence,
                epoch: shows.versions.epoch,
                state: self.tables.told.state.clone(),
                claims: self.tables.claims.clone(),
                heard,
            },
        }
    }

    /// Whoever says that it restarts is waited for, once per run, until it is ready again.
    fn note_restart(&mut self, now: Duration, grace: Duration) {
        let state = &self.tables.told.state;
        let epoch = self.tables.told_version.0;
        match self.restarting {
            None if state.restarting => self.restarting = Some((epoch, now + grace)),
            Some((run, _)) if state.restarting && run != epoch => {
                self.restarting = Some((epoch, now + grace));
            }
            Some(_) if state.ready && !state.restarting => self.restarting = None,
            _ => {}
        }
    }
}
