//! Who is there and what they say: the machine behind membership. No clock, no sockets and no
//! randomness but a seeded one: time comes as an argument, datagrams go out in [`Outgoing`], so that a
//! simulation runs the same code as the daemon.
//!
//! Each node sends a heartbeat to every other one, with the ages at which it heard the others. A node is
//! down when nobody who is heard has heard it for [`Timing::silence`], or a little earlier when the SWIM
//! machine agrees. Before that, ARP frames are tried. Which tables differ is seen from versions and digests in the heartbeats.

mod arp;
mod exchange;
mod greet;
pub mod member;
mod presence;
mod receive;
mod records;
mod swim;
pub mod tables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::member::{Member, Route};
use self::records::Records;
use self::swim::{Identity, Rumour, Swim};
use self::tables::{Own, Told};
use super::datagram::{Body, Datagram, Versions};
use crate::config::lease;
use crate::model::allocation::Allocations;
use crate::model::peer::Peers;
use crate::model::text::Text;

#[cfg(test)]
pub(crate) use self::arp::{BURST as ARP_BURST, SPACING as ARP_SPACING};
pub use self::receive::{Accepted, Refusal};

/// Nodes that are remembered; beyond that, those that never proved to be there are forgotten.
const MOST_MEMBERS: usize = 256;
/// The times that follow from `membership.probe_interval`.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub probe_interval: Duration,
    /// Between two looks at everything.
    pub tick: Duration,
    /// Who was silent for so long is asked at each tick.
    pub doubt: Duration,
    /// Who was silent for so long is down when SWIM says so too.
    pub silence_agreed: Duration,
    /// Who was silent for so long is down. Above the timeout of the fence, so that a frozen owner is
    /// silent on the LAN before another one answers.
    pub silence: Duration,
    /// Who was held up for so long may be down for the others.
    pub lease: Duration,
    /// Who was held up for so long counts it not as silence of the others.
    pub held_up: Duration,
}

impl Timing {
    /// Of this probe interval.
    pub fn new(probe_interval: Duration) -> Self {
        Self {
            probe_interval,
            tick: (probe_interval / 4).max(Duration::from_millis(1)),
            doubt: probe_interval,
            silence_agreed: probe_interval.mul_f32(2.75),
            silence: probe_interval * 3,
            lease: lease(probe_interval),
            held_up: probe_interval * 3 / 4,
        }
    }
}

/// What the machine is made of.
#[derive(Debug, Clone)]
pub struct CoreSettings {
    /// This node.
    pub name: Text,
    /// The start of this run, in milliseconds since 1970.
    pub epoch: u64,
    /// `membership.probe_interval`
    pub probe_interval: Duration,
    /// `membership.restart_grace`
    pub restart_grace: Duration,
    /// The version of the program.
    pub program: String,
    /// Of all its randomness; unpredictable where datagrams come from outside.
    pub seed: [u8; 32],
}

/// Somebody who should be there: a configured peer, or a Node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it may be; empty: not known yet.
    pub addresses: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Sought {
    target: Target,
    /// It was heard once (or is this node).
    found: bool,
}

/// A datagram to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// By all these ways.
    pub route: Route,
    /// What.
    pub datagram: Datagram,
}

/// The machine.
pub struct Core {
    settings: CoreSettings,
    timing: Timing,
    random: StdRng,
    session: u64,
    own: Own,
    /// Tells that it restarts, whatever is published.
    restarting: bool,
    /// The allocations that were published last.
    published: Allocations,
    records: Records,
    swim: Swim,
    members: BTreeMap<Text, Member>,
    sought: Vec<Sought>,
    outgoing: Vec<Outgoing>,
    peers: Peers,
    changed: bool,
    started: Duration,
    last_run: Duration,
    next_tick: Duration,
    ticks: u64,
    next_hello: Duration,
    next_roster: Duration,
    next_neighbours: Duration,
    arp_interfaces: arp::Interfaces,
    /// Until when this node waits for the others, after its start or after it was held up.
    unsettled: Option<presence::Unsettled>,
}

impl Core {
    /// A machine that knows nobody. `now` is a time since any moment that never changes.
    pub fn new(settings: CoreSettings, now: Duration) -> Self {
        let mut random = StdRng::from_seed(settings.seed);
        let timing = Timing::new(settings.probe_interval);
        let identity = Identity {
            name: settings.name.clone(),
            epoch: settings.epoch,
            renewed: 0,
        };
        let swim = Swim::new(identity, &timing, random.random());
        let mut own = Own::default();
        own.begin(settings.epoch);
        Self {
            session: random.random::<u64>() | 1,
            // Nodes that start at once do not beat at once.
            next_tick: now + timing.tick.mul_f32(random.random::<f32>()),
            timing,
            random,
            own,
            restarting: false,
            published: Allocations::default(),
            records: Records::new(),
            swim,
            members: BTreeMap::new(),
            sought: Vec::new(),
            outgoing: Vec::new(),
            peers: Peers {
                enabled: true,
                ..Peers::default()
            },
            changed: true,
            started: now,
            last_run: now,
            ticks: 0,
            next_hello: now,
            next_roster: now,
            next_neighbours: now,
            arp_interfaces: arp::Interfaces::new(),
            unsettled: Some(presence::Unsettled::start(now)),
            settings,
        }
    }

    /// Whom to look for. Who was found stays found.
    pub fn seek(&mut self, now: Duration, targets: Vec<Target>) {
        let before = std::mem::take(&mut self.sought);
        for target in targets {
            let found = before
                .iter()
                .any(|known| known.found && known.target == target);
            self.sought.push(Sought { target, found });
        }
        self.next_hello = now;
    }

    /// The datagrams that are to be sent now.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// The other nodes, when they are not as they were at the last call.
    pub fn peers(&mut self) -> Option<&Peers> {
        std::mem::take(&mut self.changed).then_some(&self.peers)
    }

    /// The allocations of the others, when there is news.
    pub fn allocations(&mut self, now: Duration) -> Option<&Allocations> {
        self.records.news(now)
    }

    /// What is known of the other nodes, by name.
    pub fn members(&self) -> impl Iterator<Item = (&Text, &Member)> {
        self.members.iter()
    }

    /// This node.
    pub const fn name(&self) -> &Text {
        &self.settings.name
    }

    /// What this node says of itself: its run and the versions of its tables.
    pub fn versions(&self) -> Versions {
        self.own.tables.versions().unwrap_or_default()
    }

    /// When [`Core::handle_timer`] is to be called next.
    pub fn deadline(&self) -> Duration {
        let mut deadline = self.next_tick.min(self.next_hello).min(self.next_roster);
        deadline = deadline.min(self.swim.deadline().unwrap_or(deadline));
        deadline = deadline.min(self.records.deadline().unwrap_or(deadline));
        for member in self.members.values().filter(|member| member.alive) {
            if let Some(sign) = member.sign {
                deadline = deadline.min(sign + self.timing.silence);
            }
        }
        deadline
    }

    /// Does what is due.
    pub fn handle_timer(&mut self, now: Duration) {
        self.awake(now);
        if now >= self.next_tick {
            self.ticks += 1;
            self.next_tick = (self.next_tick + self.timing.tick).max(now + self.timing.tick / 2);
            self.doubt(now);
            self.serve_by_arp(now);
            if self.ticks.is_multiple_of(2) {
                self.beat(now);
                self.fetch_all(now);
            }
        }
        self.swim.run(now);
        self.follow_swim();
        if now >= self.next_hello {
            self.greet(now);
        }
        if now >= self.next_roster {
            self.tell_roster(now);
        }
        self.decide(now);
    }

    /// Sends to a member whose run is known; to no other.
    fn send(&mut self, to: &Text, body: Body) {
        let Some(member) = self.members.get_mut(to) else {
            return;
        };
        if member.session.is_some() {
            member.last_way.keep(&body);
        }
        let route = member.route();
        if let Some(datagram) = self.for_member(to, body) {
            self.outgoing.push(Outgoing { route, datagram });
        }
    }

    /// A datagram for a member whose run is known.
    fn for_member(&mut self, to: &Text, body: Body) -> Option<Datagram> {
        let member = self.members.get_mut(to)?;
        let receiver_session = member.session?;
        member.sequence += 1;
        Some(Datagram {
            sender: self.settings.name.clone(),
            session: self.session,
            receiver_session,
            sequence: member.sequence,
            body,
        })
    }

    /// Sends to every member that is there.
    fn send_all(&mut self, body: &Body) {
        for name in self.present() {
            self.send(&name, body.clone());
        }
    }

    fn present(&self) -> Vec<Text> {
        let present = self
            .members
            .iter()
            .filter(|(_, member)| member.session.is_some() && member.alive);
        present.map(|(name, _)| name.clone()).collect()
    }

    fn to_unknown(&self, body: Body, receiver_session: u64, sequence: u64) -> Datagram {
        Datagram {
            sender: self.settings.name.clone(),
            session: self.session,
            receiver_session,
            sequence,
            body,
        }
    }

    /// Sends what the SWIM machine says and hears what it thinks.
    fn follow_swim(&mut self) {
        while let Some((to, octets)) = self.swim.next_sent() {
            self.send(&to, Body::Swim(octets));
        }
        while let Some(rumour) = self.swim.next_rumour() {
            let (name, down) = match rumour {
                Rumour::Up(name) => (name, false),
                Rumour::Down(name) => (name, true),
            };
            if let Some(member) = self.members.get_mut(&name) {
                member.rumoured_down = down;
            }
        }
    }

    fn told(&self, state: &crate::model::peer::MemberState) -> Told {
        let mut state = state.clone();
        state.restarting |= self.restarting;
        Told {
            program: self.settings.program.clone(),
            state,
        }
    }
}
