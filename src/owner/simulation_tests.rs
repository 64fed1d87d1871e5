//! Ten thousand random schedules of joins, crashes, partitions, freezes, drains, losses and delays, on a
//! virtual clock: the machine of membership and the engine of ownership together, as the daemon runs them.
//!
//! Once things are quiet each VIP has one owner, and all nodes know which; and no VIP leaves a node to
//! which nothing happened.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::digest;
use super::engine::{Engine, World};
use crate::config::Config;
use crate::membership::simulation::{EPOCH, Network, name};
use crate::model::host::{Host, Interface};
use crate::model::peer::{Claims, MemberState, Publication};
use crate::model::pool::Pool;
use crate::plan::ownership::table::{VipGroup, VipTable};

const SCHEDULES: u64 = 10_000;
const VIPS: [&str; 3] = ["192.0.2.200", "192.0.2.201", "192.0.2.202"];
/// How long things happen, and how long they are quiet afterwards.
const BUSY: Duration = Duration::from_millis(1500);
const QUIET: Duration = Duration::from_millis(3500);
/// An event may have its effect for so long: detection, damping and the turns of all nodes.
const AFTERMATH: Duration = Duration::from_secs(3);
/// What a node that was stopped waits for before it speaks.
const SILENCE: Duration = Duration::from_millis(150);

/// What belongs to a node besides its membership.
struct Own {
    engine: Engine,
    /// What is on its disk.
    recorded: Claims,
    draining: bool,
    suspended_until: Duration,
    wake: Duration,
    /// When something last happened to it.
    touched: Duration,
}

struct Fleet {
    network: Network,
    nodes: Vec<Own>,
    config: Config,
    table: VipTable,
    host: Host,
    base: Instant,
    /// Why the schedule failed.
    complaint: Option<String>,
}

impl Fleet {
    fn new(seed: u64) -> (Self, SmallRng) {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(2..=5);
        let mut network = Network::new(count, seed);
        network.has_lan = random.random_bool(0.5);
        let mut config = Config::defaults("unused");
        config.pools = vec![Pool::new("lan", vec!["192.0.2.200/29".parse().unwrap()])];
        let group = |vip: &str| {
            let vips: BTreeSet<IpAddr> = BTreeSet::from([vip.parse().unwrap()]);
            let group = VipGroup {
                vips,
                ..VipGroup::default()
            };
            (group.lowest().unwrap(), Arc::new(group))
        };
        let eth0 = Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            loopback: false,
            addresses: vec!["192.0.2.11/24".parse().unwrap()],
        };
        let own = |node: usize| Own {
            engine: Engine::new(name(node), &Claims::new()),
            recorded: Claims::new(),
            draining: false,
            suspended_until: Duration::ZERO,
            wake: Duration::MAX,
            touched: network.now,
        };
        let fleet = Self {
            nodes: (0..count).map(own).collect(),
            network,
            config,
            table: VipTable {
                generation: 1,
                groups: VIPS.iter().copied().map(group).collect(),
                ..VipTable::default()
            },
            host: Host {
                interfaces: BTreeMap::from([(2, eth0)]),
                infrastructure: Vec::new(),
            },
            base: Instant::now(),
            complaint: None,
        };
        (fleet, random)
    }

    fn publication(&self, node: usize) -> Publication {
        let own = &self.nodes[node];
        Publication {
            state: MemberState {
                ready: true,
                draining: own.draining,
                interfaces: digest::published(&self.config, &self.host),
                ..MemberState::default()
            },
            claims: own.engine.claims().clone(),
            ..Publication::default()
        }
    }

    fn is_up(&self, node: usize) -> bool {
        self.network.nodes[node].core.is_some()
    }

    fn announces(&self, node: usize, vip: IpAddr) -> bool {
        let silent = self.nodes[node].suspended_until > self.network.now;
        let runs = self.is_up(node) && !self.network.nodes[node].frozen && !silent;
        runs && self.nodes[node].engine.announced().contains(&vip)
    }

    fn announced(&self, node: usize) -> BTreeSet<IpAddr> {
        let vips = self.table.groups.keys().copied();
        vips.filter(|vip| self.announces(node, *vip)).collect()
    }

    fn start(&mut self, node: usize) {
        let recorded = self.nodes[node].recorded.clone();
        self.nodes[node].engine = Engine::new(name(node), &recorded);
        let publication = self.publication(node);
        self.network.start(node, publication);
        self.touch(node);
        self.decide(node);
    }

    fn touch(&mut self, node: usize) {
        self.nodes[node].touched = self.network.now;
    }

    fn touch_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.touch(node);
        }
    }

    /// What the owner task does when something changed.
    fn decide(&mut self, node: usize) {
        if !self.is_up(node) || self.network.nodes[node].frozen {
            return;
        }
        let before = self.announced(node);
        let now = self.network.now;
        let publication = self.publication(node);
        loop {
            let own = &mut self.nodes[node];
            let suspended = own.suspended_until > now;
            let outcome = own.engine.step(
                self.base + now,
                &World {
                    config: &self.config,
                    table: &self.table,
                    peers: &self.network.nodes[node].peers,
                    host: &self.host,
                    ready: true,
                    draining: own.draining,
                    suspended,
                    unix_ms: EPOCH + u64::try_from(now.as_millis()).unwrap(),
                },
            );
            let wake = outcome
                .wake
                .map(|wake| wake.saturating_duration_since(self.base));
            let silent = suspended.then_some(own.suspended_until);
            own.wake = [wake, silent]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(Duration::MAX);
            if outcome.ask.is_empty() {
                break;
            }
            // Nobody else has the address.
            let asked = outcome.ask;
            (own.engine).probed(&asked, &BTreeMap::new(), &BTreeSet::new(), self.base + now);
        }
        self.nodes[node].recorded = self.nodes[node].engine.claims().clone();
        if self.publication(node) != publication {
            let seen = self.network.nodes[node].peers.clone();
            self.network.publish(node, self.publication(node));
            // What the machine showed while it was told is news as well.
            if self.network.nodes[node].peers != seen {
                self.decide(node);
            }
        }
        let lost: Vec<IpAddr> = before.difference(&self.announced(node)).copied().collect();
        let quiet = now.saturating_sub(self.nodes[node].touched) > AFTERMATH;
        if !lost.is_empty() && quiet {
            let node = name(node);
            self.complaint = Some(format!("{node} lost {lost:?} at {now:?} without a cause"));
        }
    }

    fn run_until(&mut self, limit: Duration) {
        loop {
            let wake = self.nodes.iter().map(|own| own.wake).min().unwrap();
            let until = limit.min(wake.max(self.network.now));
            match self.network.step(until) {
                Some((node, true)) => self.decide(node),
                Some((_, false)) => {}
                None if until == limit => return,
                None => {
                    for node in 0..self.nodes.len() {
                        if self.nodes[node].wake <= self.network.now {
                            self.nodes[node].wake = Duration::MAX;
                            self.decide(node);
                        }
                    }
                }
            }
        }
    }

    /// Something happens.
    fn event(&mut self, random: &mut SmallRng) {
        let count = self.nodes.len();
        let node = random.random_range(0..count);
        match random.random_range(0..11) {
            0 | 1 if self.is_up(node) => {
                self.network.crash(node);
                self.network.nodes[node].frozen = false;
                self.touch(node);
            }
            0..=3 if !self.is_up(node) => self.start(node),
            4 => {
                let other = random.random_range(0..count);
                if other != node {
                    self.network.cut(node, other);
                    self.touch(node);
                    self.touch(other);
                }
            }
            5 => {
                let group: Vec<usize> = (0..count).filter(|_| random.random_bool(0.5)).collect();
                self.network.partition(&group);
                self.touch_all();
            }
            6 => {
                self.network.heal();
                self.touch_all();
            }
            7 if self.is_up(node) && !self.network.nodes[node].frozen => {
                self.network.freeze(node);
                self.touch(node);
            }
            8 if self.network.nodes[node].frozen => self.thaw(node),
            9 if self.is_up(node) => {
                self.nodes[node].draining = !self.nodes[node].draining;
                self.touch(node);
                let publication = self.publication(node);
                if !self.network.nodes[node].frozen {
                    self.network.publish(node, publication);
                }
                self.decide(node);
            }
            10 => {
                self.network.loss = if random.random_bool(0.5) { 0.2 } else { 0.0 };
                let most = if random.random_bool(0.3) { 30 } else { 1 };
                self.network.delay = (Duration::from_micros(100), Duration::from_millis(most));
                self.touch_all();
            }
            _ => {}
        }
    }

    fn thaw(&mut self, node: usize) {
        self.touch(node);
        self.nodes[node].suspended_until = self.network.now + SILENCE;
        self.network.thaw(node);
        self.decide(node);
        let publication = self.publication(node);
        self.network.publish(node, publication);
        self.decide(node);
    }

    /// The faults end; who is drained or off stays so.
    fn calm(&mut self) {
        self.network.heal();
        self.network.loss = 0.0;
        self.network.delay = (Duration::from_micros(100), Duration::from_millis(1));
        for node in 0..self.nodes.len() {
            if self.network.nodes[node].frozen {
                self.thaw(node);
            }
        }
        self.touch_all();
    }

    /// What is wrong now that things are quiet.
    fn judge(&self) -> Option<String> {
        if self.complaint.is_some() {
            return self.complaint.clone();
        }
        let up: Vec<usize> = (0..self.nodes.len())
            .filter(|node| self.is_up(*node))
            .collect();
        for vip in self.table.groups.keys() {
            let announcing: Vec<usize> = (up.iter().copied())
                .filter(|node| self.announces(*node, *vip))
                .collect();
            let willing = up.iter().any(|node| !self.nodes[*node].draining);
            if announcing.len() > 1 || (announcing.is_empty() && willing) {
                let views: Vec<String> = (up.iter())
                    .map(|node| {
                        let own = self.nodes[*node].engine.claims().get(vip);
                        let peers = &self.network.nodes[*node].peers;
                        let members = peers.members.iter();
                        let seen: Vec<_> = members
                            .map(|(name, peer)| (name, peer.presence, peer.claims.get(vip)))
                            .collect();
                        let settled = peers.settled;
                        format!("node {node} claims {own:?}, settled {settled}, sees {seen:?}")
                    })
                    .collect();
                let views = views.join("; ");
                return Some(format!(
                    "{vip} is announced by {announcing:?} of {up:?}: {views}"
                ));
            }
            let Some(owner) = announcing.first() else {
                continue;
            };
            if willing && self.nodes[*owner].draining {
                return Some(format!("{vip} is announced by the drained node {owner}"));
            }
            for node in &up {
                let known = self.nodes[*node].engine.owners().get(vip);
                if known != Some(&name(*owner)) {
                    return Some(format!(
                        "node {node} thinks that {known:?} owns {vip}, not {owner}"
                    ));
                }
            }
        }
        None
    }
}

/// Runs one schedule; what went wrong.
fn schedule(seed: u64) -> Option<String> {
    let (mut fleet, mut random) = Fleet::new(seed);
    for node in 0..fleet.nodes.len() {
        if random.random_bool(0.8) {
            fleet.start(node);
        }
    }
    let begin = fleet.network.now;
    let first = begin + Duration::from_millis(random.random_range(0..1500));
    fleet.run_until(first);
    let end = first + BUSY;
    loop {
        let next = fleet.network.now + Duration::from_millis(random.random_range(0..300));
        fleet.run_until(next.min(end));
        if next >= end {
            break;
        }
        fleet.event(&mut random);
    }
    fleet.calm();
    let quiet = fleet.network.now + QUIET;
    fleet.run_until(quiet);
    fleet.judge()
}

#[test]
fn each_vip_has_one_owner_once_things_are_quiet() {
    // One schedule again, to look at it: the number is in the complaint.
    if let Ok(seed) = std::env::var("EDGELB_SCHEDULE") {
        assert_eq!(schedule(seed.parse().unwrap()), None);
        return;
    }
    let next = AtomicU64::new(0);
    let complaints: Vec<String> = std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            let mut complaints = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SCHEDULES || complaints.len() >= 5 {
                    return complaints;
                }
                if let Some(complaint) = schedule(seed) {
                    complaints.push(format!("EDGELB_SCHEDULE={seed}: {complaint}"));
                }
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
