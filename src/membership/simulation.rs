//! A network of cores on a virtual clock, for tests: loses, delays and reorders datagrams, cuts links,
//! crashes, freezes and restarts nodes. The same seed gives the same run. Nothing is sealed.
#![allow(clippy::indexing_slicing, clippy::unchecked_time_subtraction)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Told;
use super::core::member::{LanPath, Source, UdpPath};
use super::core::{Accepted, Core, CoreSettings, Outgoing, Refusal, Target};
use super::datagram::Datagram;
use crate::model::allocation::Allocations;
use crate::model::foreign::MacAddress;
use crate::model::peer::{Peers, Publication};

/// The port of everybody.
const PORT: u16 = 9751;
/// Virtual time 0 in milliseconds since 1970.
pub const EPOCH: u64 = 1_700_000_000_000;

/// One node of the network.
pub struct Node {
    /// The machine; absent: it is off.
    pub core: Option<Core>,
    /// What it showed last.
    pub peers: Peers,
    /// What it showed last.
    pub allocations: Allocations,
    /// It neither runs nor hears; what comes is kept for it.
    pub frozen: bool,
    /// It has carrier on the LAN, for frames.
    pub lan: bool,
    deadline: Duration,
    waiting: Vec<(Source, Datagram)>,
    published: Publication,
}

/// A datagram that was delivered.
#[derive(Debug, Clone)]
pub struct Delivered {
    pub at: Duration,
    pub to: usize,
    pub from: Source,
    pub datagram: Datagram,
    pub result: Result<Accepted, Refusal>,
}

/// The network and its clock.
pub struct Network {
    pub now: Duration,
    pub nodes: Vec<Node>,
    /// Of datagrams, from 0 to 1.
    pub loss: f64,
    /// The least and the greatest delay.
    pub delay: (Duration, Duration),
    /// Links that carry no UDP, from and to.
    pub cut_udp: BTreeSet<(usize, usize)>,
    /// Links that carry no frames, from and to.
    pub cut_lan: BTreeSet<(usize, usize)>,
    /// Links that carry no ARP, from and to.
    pub cut_arp: BTreeSet<(usize, usize)>,
    /// The ARP frames that were sent: when and by whom.
    pub arp_frames: Vec<(Duration, usize)>,
    /// Whether there is a LAN at all.
    pub has_lan: bool,
    /// Keeps what is delivered.
    pub captured: Option<Vec<Delivered>>,
    /// Encodes and decodes every datagram on its way.
    pub encodes: bool,
    /// Datagrams that were sent, and their octets where they are encoded.
    pub sent: (u64, u64),
    pub probe_interval: Duration,
    pub restart_grace: Duration,
    random: SmallRng,
    queue: BTreeMap<(Duration, u64), (usize, Source, Datagram)>,
    number: u64,
    /// Two starts within a millisecond are two runs.
    starts: u64,
}

fn address(node: usize) -> SocketAddr {
    let last = u8::try_from(node + 1).unwrap_or(u8::MAX);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, last)), PORT)
}

fn mac(node: usize) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, u8::try_from(node + 1).unwrap_or(u8::MAX)])
}

/// `node-0` and so on.
pub fn name(node: usize) -> String {
    format!("node-{node}")
}

impl Network {
    /// Nodes that are all off.
    pub fn new(nodes: usize, seed: u64) -> Self {
        let off = || Node {
            core: None,
            peers: Peers::default(),
            allocations: Allocations::default(),
            frozen: false,
            lan: true,
            deadline: Duration::MAX,
            waiting: Vec::new(),
            published: Publication::default(),
        };
        Self {
            now: Duration::from_secs(10),
            nodes: std::iter::repeat_with(off).take(nodes).collect(),
            loss: 0.0,
            delay: (Duration::from_micros(100), Duration::from_micros(400)),
            cut_udp: BTreeSet::new(),
            cut_lan: BTreeSet::new(),
            cut_arp: BTreeSet::new(),
            arp_frames: Vec::new(),
            has_lan: false,
            captured: None,
            encodes: false,
            sent: (0, 0),
            probe_interval: Duration::from_millis(100),
            restart_grace: Duration::from_secs(3),
            random: SmallRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            number: 0,
            starts: 0,
        }
    }

    /// Starts (or restarts) a node that looks for all others and publishes this.
    pub fn start(&mut self, node: usize, publication: Publication) {
        self.starts += 1;
        let epoch = EPOCH + u64::try_from(self.now.as_millis()).unwrap_or(0) + self.starts;
        self.start_at(node, publication, epoch);
    }

    /// The same with a clock of the node's own.
    pub fn start_at(&mut self, node: usize, publication: Publication, epoch: u64) {
        let settings = CoreSettings {
            name: name(node).into(),
            epoch,
            probe_interval: self.probe_interval,
            restart_grace: self.restart_grace,
            program: "simulated".to_owned(),
            seed: self.random.random(),
        };
        let mut core = Core::new(settings, self.now);
        let targets = (0..self.nodes.len()).filter(|other| *other != node);
        let targets = targets.map(|other| Target {
            addresses: vec![address(other)],
        });
        core.seek(self.now, targets.collect());
        core.publish(self.now, &publication);
        let started = &mut self.nodes[node];
        started.core = Some(core);
        started.peers = Peers::default();
        started.allocations = Allocations::default();
        started.frozen = false;
        started.waiting.clear();
        started.published = publication;
        self.follow(node);
    }

    /// Switches a node off without a word.
    pub fn crash(&mut self, node: usize) {
        self.nodes[node].core = None;
        self.nodes[node].deadline = Duration::MAX;
    }

    /// The node says that it restarts; who was told.
    pub fn announce_restart(&mut self, node: usize) -> Option<Told> {
        let core = self.nodes[node].core.as_mut()?;
        let told = core.announce_restart(self.now);
        self.follow(node);
        told
    }

    /// Stops a node's process.
    pub fn freeze(&mut self, node: usize) {
        self.nodes[node].frozen = true;
    }

    /// Lets it run again, with all that has come for it.
    pub fn thaw(&mut self, node: usize) {
        self.nodes[node].frozen = false;
        if let Some(core) = &mut self.nodes[node].core {
            core.handle_timer(self.now);
        }
        self.follow(node);
        for (from, datagram) in std::mem::take(&mut self.nodes[node].waiting) {
            self.deliver(node, from, datagram);
        }
    }

    /// What the node publishes from now on.
    pub fn publish(&mut self, node: usize, publication: Publication) {
        if let Some(core) = &mut self.nodes[node].core {
            core.publish(self.now, &publication);
            self.nodes[node].published = publication;
            self.follow(node);
        }
    }

    /// What the node published last.
    pub fn published(&self, node: usize) -> &Publication {
        &self.nodes[node].published
    }

    /// Cuts both ways between two nodes, UDP and all frames.
    pub fn cut(&mut self, one: usize, other: usize) {
        for link in [(one, other), (other, one)] {
            self.cut_udp.insert(link);
            self.cut_lan.insert(link);
            self.cut_arp.insert(link);
        }
    }

    /// Cuts every link between the nodes of a group and the others.
    pub fn partition(&mut self, group: &[usize]) {
        for one in group {
            for other in (0..self.nodes.len()).filter(|other| !group.contains(other)) {
                self.cut(*one, other);
            }
        }
    }

    /// Ends all cuts.
    pub fn heal(&mut self) {
        self.cut_udp.clear();
        self.cut_lan.clear();
        self.cut_arp.clear();
    }

    /// Runs one event that is due before (or at) the limit and gives the node that it concerned, with
    /// whether that shows other peers or allocations than before. `None`: it is the limit now.
    pub fn step(&mut self, limit: Duration) -> Option<(usize, bool)> {
        let timer = self.nodes.iter().enumerate();
        let timer = timer.filter(|(_, node)| !node.frozen && node.core.is_some());
        let timer = timer.map(|(index, node)| (node.deadline, index)).min();
        let arrival = self.queue.keys().next().map(|(at, _)| *at);
        let timer_first = match (timer, arrival) {
            (Some((at, _)), Some(arrival)) => at <= arrival,
            (timer, _) => timer.is_some(),
        };
        let at = if timer_first {
            timer.map(|(at, _)| at)
        } else {
            arrival
        };
        let Some(at) = at.filter(|at| *at <= limit) else {
            self.now = self.now.max(limit);
            return None;
        };
        self.now = self.now.max(at);
        if timer_first {
            let (_, node) = timer?;
            if let Some(core) = &mut self.nodes[node].core {
                core.handle_timer(self.now);
            }
            return Some((node, self.follow(node)));
        }
        let (_, (node, from, datagram)) = self.queue.pop_first()?;
        Some((node, self.deliver(node, from, datagram)))
    }

    /// Runs until then.
    pub fn run_until(&mut self, limit: Duration) {
        while self.step(limit).is_some() {}
    }

    /// Runs for so long.
    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Runs until it is so, at most so long; whether it became so.
    pub fn run_while(&mut self, most: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let limit = self.now + most;
        while condition(self) {
            if self.step(limit).is_none() {
                return !condition(self);
            }
        }
        true
    }

    /// Puts a datagram before a node, as it comes from somewhere.
    pub fn deliver(&mut self, node: usize, from: Source, datagram: Datagram) -> bool {
        if self.nodes[node].frozen {
            self.nodes[node].waiting.push((from, datagram));
            return false;
        }
        let Some(core) = &mut self.nodes[node].core else {
            return false;
        };
        let copy = self.captured.is_some().then(|| datagram.clone());
        let result = core.handle_datagram(self.now, from, datagram);
        if let (Some(captured), Some(datagram)) = (&mut self.captured, copy) {
            captured.push(Delivered {
                at: self.now,
                to: node,
                from,
                datagram,
                result,
            });
        }
        self.follow(node)
    }

    /// Takes what a node sends and shows; whether it shows something new.
    fn follow(&mut self, node: usize) -> bool {
        let now = self.now;
        let this = &mut self.nodes[node];
        let Some(core) = &mut this.core else {
            return false;
        };
        let mut changed = false;
        if let Some(peers) = core.peers() {
            changed |= this.peers != *peers;
            this.peers = peers.clone();
        }
        if let Some(allocations) = core.allocations(now) {
            changed = true;
            this.allocations = allocations.clone();
        }
        let outgoing = core.take_outgoing();
        this.deadline = core.deadline();
        for outgoing in outgoing {
            self.send(node, outgoing);
        }
        changed
    }

    fn send(&mut self, node: usize, outgoing: Outgoing) {
        let Outgoing { route, datagram } = outgoing;
        let nodes = self.nodes.len();
        if let Some(path) = route.udp {
            self.carry_udp(node, path, &datagram);
        }
        if self.has_lan && self.nodes[node].lan {
            if route.arp.is_some() {
                self.arp_frames.push((self.now, node));
            }
            for to in (0..nodes).filter(|to| *to != node) {
                let path = LanPath {
                    interface: 2,
                    mac: mac(node),
                };
                let by_arp = route.arp.is_some_and(|path| path.mac == mac(to));
                if by_arp && self.nodes[to].lan && !self.cut_arp.contains(&(node, to)) {
                    self.carry(to, Source::Arp(path), datagram.clone());
                }
                let meant = route.neighbours || route.lan.is_some_and(|path| path.mac == mac(to));
                if meant && self.nodes[to].lan && !self.cut_lan.contains(&(node, to)) {
                    self.carry(to, Source::Lan(path), datagram.clone());
                }
            }
        }
    }

    fn carry_udp(&mut self, node: usize, path: UdpPath, datagram: &Datagram) {
        let to = (0..self.nodes.len()).find(|to| address(*to) == path.peer);
        if let Some(to) = to.filter(|to| !self.cut_udp.contains(&(node, *to))) {
            let from = UdpPath {
                peer: address(node),
                local: Some(address(to).ip()),
            };
            self.carry(to, Source::Udp(from), datagram.clone());
        }
    }

    fn carry(&mut self, to: usize, from: Source, datagram: Datagram) {
        self.sent.0 += 1;
        if self.encodes {
            let mut octets = Vec::new();
            assert!(datagram.encode(&mut octets), "it fits: {datagram:?}");
            self.sent.1 += octets.len() as u64;
            let decoded = Datagram::decode(&octets);
            assert_eq!(
                decoded.as_ref(),
                Ok(&datagram),
                "what was encoded can be decoded"
            );
        }
        if self.loss > 0.0 && self.random.random_bool(self.loss) {
            return;
        }
        let (least, most) = self.delay;
        let spread = u64::try_from((most - least).as_nanos()).unwrap_or(0);
        let delay = least + Duration::from_nanos(self.random.random_range(0..=spread));
        self.number += 1;
        self.queue
            .insert((self.now + delay, self.number), (to, from, datagram));
    }
}
