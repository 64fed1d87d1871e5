//! The last way to a member that nothing else reaches: inside ARP frames. Decides when one is sent and
//! with what; in ordinary operation none is, for switches with ARP inspection count them.
//!
//! A member that was heard by no other way for [`Timing::doubt`](super::Timing) is sent something at
//! each `EVERY`, in addition to the usual ways. That it is heard by ARP does not end this: only the
//! usual ways do. One that does not hear us answers each question by the way it came, so that a link
//! that carries the usual ways in one direction only is enough.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::RngExt;

use super::member::{Heard, LanPath, Member, Route, Source};
use super::{Core, Outgoing, Timing};
use crate::membership::datagram::{Body, Datagram};
use crate::model::text::Text;

/// Between two frames to one member.
const EVERY: Duration = Duration::from_millis(50);
/// Between two frames on one interface...
pub const SPACING: Duration = Duration::from_millis(25);
/// ... on average: when all are silent at once, the first frames must not wait for one another.
pub const BURST: u32 = 8;
/// Between two frames to a member that does not answer...
const SEEK_EVERY: Duration = Duration::from_secs(1);
/// ... until it was silent for so long.
const SEEK: Duration = Duration::from_secs(60);
/// A member of which only others tell that it is there is kept for so long.
const BRIDGED: Duration = Duration::from_secs(2);
/// Who asked by ARP does not hear us, and for so long is told what is new by ARP.
const ASKED: Duration = Duration::from_millis(500);
/// What waits for one member: a whole answer to a request for pieces of tables.
const WAITING: usize = 40;

/// What is sent in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hello,
    News,
    Heartbeat,
}

/// Why a member is sent ARP frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    None,
    /// It is heard by ARP, or was heard a moment ago.
    Keep,
    /// It may come back.
    Seek,
}

/// The last way to one member.
#[derive(Debug, Default)]
pub struct LastWay {
    /// Its place in the order of turns, drawn once: nodes with the same order would all speak to the
    /// same one at once, and what heartbeats tell of others would come in bursts.
    place: Option<u64>,
    heard: Option<Heard<LanPath>>,
    /// When it was last heard by any other way.
    pub usual: Option<Duration>,
    /// When it was first seen to be silent: what has come since then was read before it is believed.
    doubted: Option<Duration>,
    asked: Option<Duration>,
    sent: Option<(Duration, Kind)>,
    /// A question or an answer, and where it goes.
    hello: Option<(LanPath, Datagram)>,
    news: VecDeque<Body>,
    /// News are kept for it.
    active: bool,
    /// It was said that only ARP frames of it come.
    told: bool,
}

/// What was sent on one interface.
#[derive(Debug, Default)]
pub struct Turns {
    /// When the next frame may be sent, if no burst was allowed.
    free: Duration,
    /// The place of who was served last.
    last: u64,
}

/// By the kernel's index.
pub type Interfaces = BTreeMap<u32, Turns>;

impl LastWay {
    /// Notes that it was heard directly.
    pub fn note(&mut self, from: Source, now: Duration) {
        if let Source::Arp(path) = from {
            Heard::note(&mut self.heard, path, now);
        } else {
            self.usual = Some(now);
            self.doubted = None;
        }
    }

    /// Notes that it asks by ARP frames.
    pub fn note_asked(&mut self, now: Duration) {
        self.asked = Some(now);
        self.active = true;
    }

    /// Keeps what was said to it by the usual ways, to be said again.
    pub fn keep(&mut self, body: &Body) {
        if !self.active {
            return;
        }
        match body {
            // These are made anew, or not worth a frame.
            Body::Hello { .. } | Body::Heartbeat(_) | Body::Swim(_) | Body::Roster(_) => return,
            Body::Fetch(fetch) => self.news.retain(|waiting| {
                !matches!(waiting, Body::Fetch(other) if other.of == fetch.of && other.table == fetch.table)
            }),
            Body::Buckets(_) => {
                self.news
                    .retain(|waiting| !matches!(waiting, Body::Buckets(_)));
            }
            Body::Part(_) | Body::Delta(_) | Body::Records(_) => {}
        }
        // What finds no room is fetched when the rest has arrived.
        if self.news.len() < WAITING && !self.news.contains(body) {
            self.news.push_back(body.clone());
        }
    }

    fn hears(&self, now: Duration, timing: &Timing) -> bool {
        self.heard
            .is_some_and(|heard| now.saturating_sub(heard.at) < timing.silence)
    }

    fn was_asked(&self, now: Duration) -> bool {
        self.asked.is_some_and(|at| now.saturating_sub(at) < ASKED)
    }

    fn is_due(&self, now: Duration, every: Duration) -> bool {
        self.sent
            .is_none_or(|(at, _)| now.saturating_sub(at) >= every)
    }
}

impl Member {
    /// Where ARP frames for it go.
    fn arp_path(&self) -> Option<LanPath> {
        let arp = self.last_way.heard.as_ref();
        let newest = self.lan.iter().chain(arp).max_by_key(|heard| heard.at);
        newest.map(|heard| heard.path)
    }

    fn need(&self, now: Duration, timing: &Timing) -> Need {
        // What was never heard is silent for ever.
        let silent = |at: Option<Duration>| at.map_or(Duration::MAX, |at| now.saturating_sub(at));
        let (usual, direct) = (silent(self.last_way.usual), silent(self.direct));
        if self.session.is_none() || usual < timing.doubt {
            Need::None
        } else if direct < timing.silence || (self.alive && direct < BRIDGED) {
            Need::Keep
        } else if direct < SEEK {
            Need::Seek
        } else {
            Need::None
        }
    }

    /// Looks at its silence; where something is to be sent to it.
    fn waits_for_arp(&mut self, now: Duration, name: &Text, timing: &Timing) -> Option<LanPath> {
        let mut need = self.need(now, timing);
        if need == Need::None {
            self.last_way.doubted = None;
            self.last_way.told = false;
        } else if self.last_way.doubted.is_none() {
            self.last_way.doubted = Some(now);
            need = Need::None;
        }
        let way = &mut self.last_way;
        way.active = need == Need::Keep || way.was_asked(now);
        if !way.active {
            way.news.clear();
        }
        if need == Need::Keep && way.hears(now, timing) && !way.told {
            way.told = true;
            tracing::warn!(node = %name, "a node is heard by ARP frames only; let UDP of membership.listen, or ethertype 0x88b5, pass between the nodes");
        }
        let every = match need {
            Need::Keep if way.news.is_empty() => EVERY,
            Need::Seek if way.hello.is_none() => SEEK_EVERY,
            Need::None if way.hello.is_none() && way.news.is_empty() => return None,
            _ => SPACING,
        };
        let due = way.is_due(now, every);
        let hello = way.hello.as_ref().map(|(path, _)| *path);
        hello.or_else(|| self.arp_path()).filter(|_| due)
    }
}

impl Core {
    /// Sends a question or an answer by its route; by ARP when it is its turn.
    pub(super) fn say_hello(&mut self, name: &Text, route: Route, datagram: Datagram) {
        match (route.arp, self.members.get_mut(name)) {
            (Some(path), Some(member)) => member.last_way.hello = Some((path, datagram)),
            _ => self.outgoing.push(Outgoing { route, datagram }),
        }
    }

    /// Gives the members that need it their turns, as far as the interfaces allow.
    pub(super) fn serve_by_arp(&mut self, now: Duration) {
        let timing = self.timing;
        let mut waiting: BTreeMap<u32, Vec<(u64, Text, LanPath)>> = BTreeMap::new();
        for (name, member) in &mut self.members {
            if let Some(path) = member.waits_for_arp(now, name, &timing) {
                let here = waiting.entry(path.interface).or_default();
                let place = &mut member.last_way.place;
                let place = *place.get_or_insert_with(|| self.random.random());
                here.push((place, name.clone(), path));
            }
        }
        for (interface, mut names) in waiting {
            names.sort_unstable_by_key(|(place, ..)| *place);
            let last = self.arp_interfaces.entry(interface).or_default().last;
            let next = names.partition_point(|(place, ..)| *place <= last);
            names.rotate_left(next);
            for (place, name, path) in names {
                let turns = self.arp_interfaces.entry(interface).or_default();
                let free = turns.free.max(now);
                if free >= now + SPACING * BURST {
                    break;
                }
                turns.free = free + SPACING;
                turns.last = place;
                self.take_turn(now, &name, path);
            }
        }
    }

    fn take_turn(&mut self, now: Duration, name: &Text, path: LanPath) {
        let Some(member) = self.members.get(name) else {
            return;
        };
        let way = &member.last_way;
        let need = member.need(now, &self.timing);
        // Who answers by ARP is asked a little later: heartbeats tell more than questions.
        let patience = if way.hears(now, &self.timing) {
            self.timing.doubt * 3 / 2
        } else {
            self.timing.doubt
        };
        let asks = need == Need::Seek || (need == Need::Keep && !member.is_direct(now, patience));
        let last = way.sent.map(|(_, kind)| kind);
        // Neither questions nor news may keep the heartbeats back, which say what there is.
        let may_greet = last != Some(Kind::Hello) || need == Need::Seek || member.session.is_none();
        let kind = if may_greet && (asks || way.hello.is_some()) {
            Kind::Hello
        } else if last != Some(Kind::News) && !way.news.is_empty() {
            Kind::News
        } else {
            Kind::Heartbeat
        };
        let Some(datagram) = self.arp_datagram(now, name, kind) else {
            return;
        };
        if let Some(member) = self.members.get_mut(name) {
            member.last_way.sent = Some((now, kind));
        }
        let route = Route {
            arp: Some(path),
            ..Route::default()
        };
        self.outgoing.push(Outgoing { route, datagram });
    }

    fn arp_datagram(&mut self, now: Duration, name: &Text, kind: Kind) -> Option<Datagram> {
        let way = &mut self.members.get_mut(name)?.last_way;
        // A heartbeat answers a question as well: it shows that we are there.
        let hello = way.hello.take();
        match kind {
            Kind::Hello => hello
                .map(|(_, datagram)| datagram)
                .or_else(|| self.question(name, now, None)),
            Kind::News => {
                let body = way.news.pop_front()?;
                self.for_member(name, body)
            }
            Kind::Heartbeat => {
                let heartbeat = self.heartbeat(now);
                self.for_member(name, Body::Heartbeat(heartbeat))
            }
        }
    }
}
