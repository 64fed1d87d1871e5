//! Who claims what, in a LAN of engines that hear of one another at once unless they are cut off: the
//! rules one by one. Delays and losses are the simulation's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod claims;
mod exceptions;
mod restarts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::digest;
use super::engine::{Engine, TURN, World};
use crate::config::Config;
use crate::model::foreign::MacAddress;
use crate::model::host::{Host, Interface};
use crate::model::peer::{Claims, Exceptions, Heard, IN_COMPANY, Peer, Peers, Presence};
use crate::model::pool::Pool;
use crate::plan::ownership::table::{NodeTable, VipGroup, VipTable};

const VIP: &str = "192.0.2.200";
const OTHER: &str = "192.0.2.201";
const VIP6: &str = "2001:db8::200";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[allow(clippy::struct_excessive_bools, reason = "each is a state of its own")]
struct Member {
    engine: Engine,
    host: Host,
    presence: Presence,
    ready: bool,
    draining: bool,
    settled: bool,
    suspended: bool,
    /// What it could not program.
    exceptions: Vec<IpAddr>,
    /// Whom it does not hear.
    deaf_to: BTreeSet<&'static str>,
    /// What it was told to ask for and has not been answered.
    asked: Vec<IpAddr>,
}

impl Member {
    fn interface(&mut self, running: bool) {
        for interface in self.host.interfaces.values_mut() {
            interface.running = running;
        }
    }
}

struct Lan {
    config: Config,
    table: VipTable,
    now: Instant,
    start: Instant,
    members: BTreeMap<&'static str, Member>,
}

impl Lan {
    fn new(names: &[&'static str], groups: &[&[&str]]) -> Self {
        let mut config = Config::defaults("unused");
        let ranges = ["192.0.2.200-192.0.2.219", "2001:db8::200/124"];
        let pool = Pool::new("lan", ranges.map(|range| range.parse().unwrap()).to_vec());
        config.pools = vec![pool];
        let start = Instant::now();
        let mut lan = Self {
            config,
            table: VipTable {
                generation: 1,
                ..VipTable::default()
            },
            now: start,
            start,
            members: BTreeMap::new(),
        };
        for group in groups {
            lan.serve(group);
        }
        for name in names {
            lan.join(name);
        }
        lan
    }

    fn serve(&mut self, vips: &[&str]) {
        let group = VipGroup {
            vips: vips.iter().map(|vip| ip(vip)).collect(),
            ..VipGroup::default()
        };
        (self.table.groups).insert(group.lowest().unwrap(), Arc::new(group));
        self.table.generation += 1;
    }

    fn edit(&mut self, vip: &str, edit: impl FnOnce(&mut VipGroup)) {
        let mut group = VipGroup::clone(&self.table.groups[&ip(vip)]);
        edit(&mut group);
        self.table.groups.insert(ip(vip), Arc::new(group));
        self.table.generation += 1;
    }

    fn join(&mut self, name: &'static str) {
        let number = u8::try_from(self.members.len()).unwrap();
        let eth0 = Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, number]),
            running: true,
            loopback: false,
            addresses: vec![
                format!("192.0.2.{}/24", 11 + number).parse().unwrap(),
                format!("2001:db8::{}/64", 11 + number).parse().unwrap(),
            ],
        };
        let member = Member {
            engine: Engine::new(name.to_owned(), &Claims::new()),
            host: Host {
                interfaces: BTreeMap::from([(2, eth0)]),
                infrastructure: Vec::new(),
            },
            presence: Presence::Alive,
            ready: true,
            draining: false,
            settled: true,
            suspended: false,
            exceptions: Vec::new(),
            deaf_to: BTreeSet::new(),
            asked: Vec::new(),
        };
        self.members.insert(name, member);
    }

    fn member(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).unwrap()
    }

    fn peers(&self, of: &str) -> Peers {
        let own = &self.members[of];
        let others = self.members.iter().filter(|(name, _)| **name != of);
        let members = others.map(|(name, member)| {
            let cut = own.deaf_to.contains(name);
            let nobody = Peers::default();
            let table = self.table(member);
            let state = digest::state(&self.world(member, &table, &nobody), (0, 0));
            let peer = Peer {
                presence: if cut { Presence::Down } else { member.presence },
                epoch: 1,
                state,
                claims: member.engine.claims().clone(),
                heard: Heard::default(),
            };
            ((*name).to_owned(), Arc::new(peer))
        });
        Peers {
            enabled: true,
            settled: own.settled,
            members: members.collect(),
        }
    }

    /// One step of one node.
    fn step(&mut self, name: &'static str) {
        let peers = self.peers(name);
        let mut member = self.members.remove(name).unwrap();
        if member.presence == Presence::Alive {
            let table = self.table(&member);
            let mut engine = std::mem::replace(
                &mut member.engine,
                Engine::new(name.to_owned(), &Claims::new()),
            );
            let outcome = engine.step(self.now, &self.world(&member, &table, &peers));
            member.engine = engine;
            member.asked.extend(outcome.ask);
        }
        self.members.insert(name, member);
    }

    /// The table as this node has it.
    fn table(&self, member: &Member) -> VipTable {
        VipTable {
            exceptions: Exceptions::of(member.exceptions.iter().copied(), []),
            ..self.table.clone()
        }
    }

    fn world<'a>(&'a self, member: &'a Member, table: &'a VipTable, peers: &'a Peers) -> World<'a> {
        World {
            config: &self.config,
            table,
            peers,
            host: &member.host,
            ready: member.ready,
            draining: member.draining,
            suspended: member.suspended,
            unix_ms: u64::try_from((self.now - self.start).as_millis()).unwrap() + 1_000,
        }
    }

    /// Steps until nothing changes; nobody on the LAN answers for what is asked.
    fn settle(&mut self) {
        for _ in 0..10 {
            let before: Vec<Claims> = self.claims();
            let names: Vec<&'static str> = self.members.keys().copied().collect();
            for name in names {
                self.step(name);
                let now = self.now;
                let member = self.member(name);
                let asked = std::mem::take(&mut member.asked);
                if !asked.is_empty() {
                    member
                        .engine
                        .probed(&asked, &BTreeMap::new(), &BTreeSet::new(), now);
                    self.step(name);
                }
            }
            if before == self.claims() {
                return;
            }
        }
        panic!("claims never come to rest");
    }

    fn claims(&self) -> Vec<Claims> {
        let members = self.members.values();
        members
            .map(|member| member.engine.claims().clone())
            .collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// Who announces the VIP.
    fn announcers(&self, vip: &str) -> Vec<&'static str> {
        let alive = self
            .members
            .iter()
            .filter(|(_, it)| it.presence == Presence::Alive);
        alive
            .filter(|(_, member)| member.engine.announced().contains(&ip(vip)))
            .map(|(name, _)| *name)
            .collect()
    }

    /// The one who does.
    fn owner(&self, vip: &str) -> &'static str {
        let announcers = self.announcers(vip);
        assert_eq!(announcers.len(), 1, "{announcers:?}");
        announcers[0]
    }
}

fn three() -> Lan {
    let mut lan = Lan::new(&["a", "b", "c"], &[&[VIP]]);
    lan.settle();
    lan
}

fn another(lan: &Lan, than: &[&str]) -> &'static str {
    let mut names = lan.members.keys().copied();
    names.find(|name| !than.contains(name)).unwrap()
}

#[test]
fn one_node_claims_and_every_node_knows_it() {
    let lan = three();
    let owner = lan.owner(VIP);
    for member in lan.members.values() {
        assert_eq!(member.engine.owners().get(&ip(VIP)).unwrap(), owner);
    }
}

#[test]
fn a_dead_owner_is_followed_and_does_not_take_it_back() {
    let mut lan = three();
    let first = lan.owner(VIP);
    lan.member(first).presence = Presence::Down;
    lan.settle();
    let second = lan.owner(VIP);
    assert_ne!(first, second);
    // It comes back with what it claimed (AN-5).
    lan.member(first).presence = Presence::Alive;
    lan.settle();
    assert_eq!(lan.owner(VIP), second);
    lan.pass(Duration::from_secs(600));
    assert_eq!(lan.owner(VIP), second);
}

#[test]
fn the_next_best_claims_where_the_best_does_not() {
    let mut lan = three();
    let first = lan.owner(VIP);
    // Everybody thinks that the two others are there; the better one of them is stuck.
    lan.member(first).presence = Presence::Down;
    let (one, other) = {
        let one = another(&lan, &[first]);
        (one, another(&lan, &[first, one]))
    };
    let mut probe = three();
    probe.member(first).presence = Presence::Down;
    probe.settle();
    let best = probe.owner(VIP);
    let next = if best == one { other } else { one };
    lan.step(next);
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.now += TURN + Duration::from_millis(1);
    lan.step(next);
    assert_eq!(lan.announcers(VIP), [next]);
    // The best one wakes up: the one who has it keeps it.
    lan.pass(Duration::from_millis(1));
    assert_eq!(lan.owner(VIP), next);
}

#[test]
fn after_a_partition_one_owner_is_left() {
    let mut lan = three();
    let first = lan.owner(VIP);
    let others: Vec<&'static str> = (lan.members.keys().copied())
        .filter(|name| *name != first)
        .collect();
    for other in &others {
        lan.member(other).deaf_to.insert(first);
        lan.member(first).deaf_to.insert(other);
    }
    lan.now += Duration::from_millis(50);
    lan.settle();
    assert_eq!(lan.announcers(VIP).len(), 2);
    let later = *others
        .iter()
        .find(|name| lan.announcers(VIP).contains(name))
        .unwrap();
    for member in lan.members.values_mut() {
        member.deaf_to.clear();
    }
    lan.step(first);
    assert_eq!(
        lan.announcers(VIP),
        [later],
        "the older claim is given up at once"
    );
    lan.settle();
    assert_eq!(lan.owner(VIP), later);
}

#[test]
fn a_drained_owner_goes_on_until_it_is_followed() {
    let mut lan = three();
    let first = lan.owner(VIP);
    lan.member(first).draining = true;
    lan.step(first);
    assert_eq!(lan.announcers(VIP), [first], "nobody has followed yet");
    lan.settle();
    let second = lan.owner(VIP);
    assert_ne!(second, first);
    // With all of them drained the last one loses nothing.
    for name in ["a", "b", "c"] {
        lan.member(name).draining = true;
    }
    lan.pass(Duration::from_secs(60));
    assert_eq!(lan.owner(VIP), second);
    // And who is undrained first gets it.
    lan.member(first).draining = false;
    lan.settle();
    assert_eq!(lan.owner(VIP), first);
}

#[test]
fn a_local_policy_follows_its_endpoints() {
    let mut lan = three();
    let first = lan.owner(VIP);
    let with = another(&lan, &[first]);
    lan.edit(VIP, |group| {
        group.local = Some(BTreeSet::from([with.to_owned()]));
    });
    lan.settle();
    assert_eq!(lan.owner(VIP), with);
    // Without any endpoint nobody announces.
    lan.edit(VIP, |group| group.local = Some(BTreeSet::new()));
    lan.settle();
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.edit(VIP, |group| {
        group.local = Some(BTreeSet::from([first.to_owned()]));
    });
    lan.settle();
    assert_eq!(lan.owner(VIP), first);
}

#[test]
fn a_cable_that_is_pulled_gives_up_at_once() {
    let mut lan = three();
    let first = lan.owner(VIP);
    for interface in lan.member(first).host.interfaces.values_mut() {
        interface.running = false;
    }
    lan.step(first);
    assert_eq!(lan.announcers(VIP), [""; 0]);
    lan.settle();
    assert_ne!(lan.owner(VIP), first);
}
