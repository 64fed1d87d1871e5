//! The IPVS datapath: makes the virtual servers of IPVS equal to the frontends of a state.
//!
//! Touches only virtual servers that its journal names; a foreign one in the way is reported. A real
//! server that gets no new connections has weight 0 as long as it serves (POL-13, CT-3); when it serves
//! no more, a UDP one goes at once and any other when its connections have gone.

pub mod desired;
mod drain;
mod foreign;
pub mod inspect;
mod names;
mod outcome;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use imbl::OrdSet;
use imbl::ordmap::DiffItem;
use nix::errno::Errno;

use super::Failure;
use super::ipvs::types::{
    Change, ForwardingMethod, Protocol, RealServer, RealServerKey, Timeouts, VirtualServer,
    VirtualServerKey,
};
use super::ipvs::{Error, Ipvs};
use super::netlink::Counters;
use super::reach::{Operation, Reach};
use super::state_directory::{Journal, VirtualServerName};
use crate::model::frontend::{Frontend, FrontendAddress, FrontendPort};
use crate::model::node_state::NodeState;
use desired::{SERVING, keeps, keys, method, of_frontend};
use drain::is_of;
use foreign::in_the_way;
use names::{
    describe, kind, missing_scheduler, name, name_of, real_server_of, scheduler_of, words,
};

pub use drain::Draining;
pub use outcome::Outcome;

/// The kind of object in failures.
const KIND: &str = "virtual_server";

/// What the IPVS datapath needs of the kernel, below `/proc/sys`.
pub const SYSCTLS: [(&str, &str); 3] = [
    // Masquerading after IPVS needs its connections in conntrack.
    ("net/ipv4/vs/conntrack", "1"),
    // UDP flows of a removed real server are scheduled anew at once.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // Persistence never leads to a real server with weight 0 (AFF-10).
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];

/// A virtual server as this node means it to be, or as it was left.
#[derive(Debug, Clone, PartialEq)]
struct Server {
    attributes: VirtualServer,
    method: ForwardingMethod,
    real_servers: BTreeMap<RealServerKey, Standing>,
    /// Whether a frontend wants it; else it only waits for what its real servers still have.
    wanted: bool,
}

/// Whether a real server takes connections, and what for it is there if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It takes connections.
    Serving,
    /// Weight 0: it serves the connections that it has, for as long as they last.
    Kept,
    /// Weight 0 since then: it serves no more, and its connections have a deadline.
    Draining(Instant),
}

impl Standing {
    /// Of one that is not to serve: `keeps` says whether the plan lets it keep its connections.
    fn without_new_connections(self, keeps: bool, now: Instant) -> Self {
        match self {
            _ if keeps => Self::Kept,
            Self::Draining(since) => Self::Draining(since),
            Self::Serving | Self::Kept => Self::Draining(now),
        }
    }
}

/// What a frontend wants of IPVS.
#[derive(Debug, Clone)]
struct Intent {
    attributes: VirtualServer,
    method: ForwardingMethod,
    /// Those that take connections.
    real_servers: BTreeSet<RealServerKey>,
    /// Those whose connections go on, without new ones.
    keeps: BTreeSet<RealServerKey>,
}

impl Intent {
    fn of(port: FrontendPort, frontend: &Frontend) -> Self {
        let (attributes, real_servers) = of_frontend(port, frontend);
        Self {
            attributes,
            method: method(port, frontend),
            real_servers,
            keeps: keeps(frontend),
        }
    }
}

/// The virtual servers of this network namespace that are ours.
pub struct VirtualServers {
    ipvs: Ipvs,
    journal: Journal,
    servers: BTreeMap<VirtualServerKey, Server>,
    reach: Reach,
}

impl VirtualServers {
    /// Takes over IPVS, which was opened for as much; changes nothing yet.
    pub fn new(ipvs: Ipvs, journal: Journal, reach: Reach) -> Self {
        Self {
            ipvs,
            journal,
            reach,
            servers: BTreeMap::new(),
        }
    }

    /// Sends and messages so far.
    pub fn counters(&self) -> Counters {
        self.ipvs.counters()
    }

    /// Virtual servers and real servers that are there now.
    pub fn totals(&self) -> (usize, usize) {
        (
            self.servers.len(),
            self.servers
                .values()
                .map(|server| server.real_servers.len())
                .sum(),
        )
    }

    /// Every real server of ours that takes connections, in the words of `ipvsadm`.
    pub fn serving(&mut self) -> Result<BTreeSet<String>, Error> {
        let mut serving = BTreeSet::new();
        for (server, real_servers) in self.ipvs.inventory()? {
            let key = server.key;
            if name(&key).is_some_and(|name| self.journal.contains(&name)) {
                let takes = real_servers.iter().filter(|it| it.real_server.weight > 0);
                serving.extend(takes.map(|it| format!("{key} {}", it.key)));
            }
        }
        Ok(serving)
    }

    /// The timeouts of idle connections.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        self.ipvs.timeouts()
    }

    /// Sets the timeouts of idle connections.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        let Timeouts { tcp, tcp_fin, udp } = timeouts;
        self.reach.note(Operation::Change, "timeouts", || {
            format!("ipvsadm --set {tcp} {tcp_fin} {udp}")
        });
        self.ipvs.set_timeouts(timeouts)
    }

    /// Sends the difference between two states.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState, now: Instant) -> Outcome {
        let mut wanted: BTreeMap<VirtualServerKey, Option<Intent>> = BTreeMap::new();
        for difference in old.frontends.diff(&new.frontends) {
            let (before, after) = match difference {
                DiffItem::Add(port, frontend) => (None, Some((port, frontend))),
                DiffItem::Update { old, new } => (Some(old.0), Some(new)),
                DiffItem::Remove(port, _) => (Some(port), None),
            };
            for key in before.into_iter().flat_map(|port| keys(*port, old)) {
                wanted.entry(key).or_insert(None);
            }
            if let Some((port, frontend)) = after {
                wanted.extend(keys(*port, new).map(|key| (key, Some(Intent::of(*port, frontend)))));
            }
        }
        if old.node_addresses != new.node_addresses {
            for (port, frontend) in &new.frontends {
                if matches!(port.address, FrontendAddress::NodePort(_)) {
                    for key in keys(*port, old) {
                        wanted.entry(key).or_insert(None);
                    }
                    wanted.extend(
                        keys(*port, new).map(|key| (key, Some(Intent::of(*port, frontend)))),
                    );
                }
            }
        }
        let mut outcome = Outcome::default();
        self.leave_foreign(&mut wanted, &mut outcome);
        self.change(wanted, &new.dead, now, &mut outcome);
        if old.dead != new.dead {
            let newly = new.dead.iter().filter(|dead| !old.dead.contains(*dead));
            self.bury(&newly.copied().collect(), &mut outcome);
        }
        outcome
    }

    /// Compares IPVS with the state and repairs whatever differs, leaving what is right untouched.
    pub fn repair(&mut self, state: &NodeState, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut wanted: BTreeMap<VirtualServerKey, Option<Intent>> = BTreeMap::new();
        for (port, frontend) in &state.frontends {
            wanted.extend(keys(*port, state).map(|key| (key, Some(Intent::of(*port, frontend)))));
        }
        let inventory = match self.ipvs.inventory() {
            Ok(inventory) => inventory,
            Err(error) => {
                outcome
                    .failures
                    .push(Failure::new(KIND, "inventory", &error));
                outcome.refused.everything = true;
                return outcome;
            }
        };
        let before = std::mem::take(&mut self.servers);
        let mut odd = Vec::new();
        for (observed, real_servers) in inventory {
            let key = observed.key;
            if !name(&key).is_some_and(|name| self.journal.contains(&name)) {
                // Somebody else's: never changed, and in the way only where we want the same.
                if wanted.remove(&key).is_some() {
                    outcome.refused.servers.extend(name(&key));
                    outcome.failures.push(in_the_way(&key));
                }
                continue;
            }
            let known = before.get(&key);
            let method = match wanted.get(&key) {
                Some(Some(intent)) => intent.method,
                _ => known.map_or(ForwardingMethod::Masquerade, |known| known.method),
            };
            let real_servers = real_servers
                .iter()
                .map(|real_server| {
                    // Whatever is neither serving nor draining in our way is set again from weight 0.
                    let serving = real_server.real_server == RealServer::new(method, SERVING);
                    let quiet = RealServer::new(method, 0);
                    if !serving && real_server.real_server != quiet {
                        odd.push(Change::SetRealServer(key, real_server.key, quiet));
                    }
                    let standing = if serving {
                        Standing::Serving
                    } else {
                        known
                            .and_then(|server| server.real_servers.get(&real_server.key))
                            .copied()
                            .filter(|standing| *standing != Standing::Serving)
                            .unwrap_or(Standing::Draining(now))
                    };
                    (real_server.key, standing)
                })
                .collect();
            let server = Server {
                attributes: observed.virtual_server,
                method,
                real_servers,
                wanted: known.is_some_and(|known| known.wanted),
            };
            self.servers.insert(key, server);
            wanted.entry(key).or_insert(None);
        }
        self.send(&odd, &mut outcome);
        self.change(wanted, &state.dead, now, &mut outcome);
        self.bury(&state.dead.iter().copied().collect(), &mut outcome);
        let live: BTreeSet<VirtualServerName> = self.servers.keys().filter_map(name).collect();
        let gone: Vec<VirtualServerName> = self
            .journal
            .iter()
            .filter(|name| !live.contains(name))
            .copied()
            .collect();
        if let Err(error) = self.journal.forget(&gone) {
            outcome
                .failures
                .push(Failure::new("state_directory", "ipvs.journal", &error));
        }
        outcome
    }

    /// Removes every virtual server that is ours.
    pub fn remove_all(&mut self) -> Outcome {
        let empty = NodeState::default();
        self.repair(&empty, Instant::now())
    }

    /// Takes these virtual servers to what is wanted; `None` for one that no frontend has any more.
    fn change(
        &mut self,
        mut wanted: BTreeMap<VirtualServerKey, Option<Intent>>,
        dead: &OrdSet<IpAddr>,
        now: Instant,
        outcome: &mut Outcome,
    ) {
        let created: Vec<VirtualServerName> = self.created(&wanted).map(|(_, name)| name).collect();
        if !created.is_empty()
            && let Err(error) = self.journal.record(&created)
        {
            // Without the record nobody would know that they are ours: these wait, no others.
            outcome
                .failures
                .push(Failure::new("state_directory", "ipvs.journal", &error));
            wanted.retain(|key, _| name(key).is_none_or(|name| !created.contains(&name)));
            outcome.refused.servers.extend(created);
        }
        let mut changes = Vec::new();
        for (key, wanted) in wanted {
            self.change_one(key, wanted, dead, now, &mut changes);
        }
        self.send(&changes, outcome);
    }

    fn change_one(
        &mut self,
        key: VirtualServerKey,
        intent: Option<Intent>,
        dead: &OrdSet<IpAddr>,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let Some(intent) = intent else {
            // GT-8: with the frontend go its connections.
            if self.servers.remove(&key).is_some() {
                changes.push(Change::DeleteVirtualServer(key));
            }
            return;
        };
        let server = match self.servers.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if intent.real_servers.is_empty() => return,
            Entry::Vacant(entry) => {
                changes.push(Change::NewVirtualServer(key, intent.attributes.clone()));
                entry.insert(Server {
                    attributes: intent.attributes.clone(),
                    method: intent.method,
                    real_servers: BTreeMap::new(),
                    wanted: true,
                })
            }
        };
        server.wanted = !intent.real_servers.is_empty();
        if server.attributes != intent.attributes {
            changes.push(Change::SetVirtualServer(key, intent.attributes.clone()));
            server.attributes = intent.attributes;
        }
        let same_method = server.method == intent.method;
        server.method = intent.method;
        let serving = RealServer::new(intent.method, SERVING);
        let quiet = RealServer::new(intent.method, 0);
        for real_server in &intent.real_servers {
            let before = server.real_servers.insert(*real_server, Standing::Serving);
            changes.push(match before {
                Some(Standing::Serving) if same_method => continue,
                Some(_) => Change::SetRealServer(key, *real_server, serving),
                None => Change::NewRealServer(key, *real_server, serving),
            });
        }
        // Nobody knows the end of a UDP flow.
        let drains = !is_of(&key, Protocol::Udp);
        server.real_servers.retain(|real_server, standing| {
            if intent.real_servers.contains(real_server) {
                return true;
            }
            let keeps = intent.keeps.contains(real_server);
            if !(keeps || drains) || dead.contains(&real_server.address) {
                changes.push(Change::DeleteRealServer(key, *real_server));
                return false;
            }
            if *standing == Standing::Serving || !same_method {
                changes.push(Change::SetRealServer(key, *real_server, quiet));
            }
            *standing = standing.without_new_connections(keeps, now);
            true
        });
        if server.real_servers.is_empty() && !server.wanted {
            changes.push(Change::DeleteVirtualServer(key));
            self.servers.remove(&key);
        }
    }

    /// Sends changes in batches; what is refused is told and forgotten, so that a repair finds it.
    fn send(&mut self, changes: &[Change], outcome: &mut Outcome) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            let (operation, object) = kind(change);
            self.reach.note(operation, object, || words(change));
        }
        let results = match self.ipvs.apply(changes) {
            Ok(results) => results,
            Err(error) => {
                outcome.failures.push(Failure::new(KIND, "batch", &error));
                outcome.refused.everything = true;
                return;
            }
        };
        // Without the virtual server there is no place for its real servers: one cause, told once.
        let mut missing = BTreeSet::new();
        let mut deleted = Vec::new();
        for (change, result) in changes.iter().zip(results) {
            let refusal = match result {
                Ok(()) => {
                    outcome.count(change);
                    if let Change::DeleteVirtualServer(key) = change {
                        deleted.extend(name(key));
                    }
                    continue;
                }
                Err(refusal) => refusal,
            };
            outcome.refused.servers.extend(name_of(change));
            if let Change::NewVirtualServer(key, _) = change {
                missing.insert(*key);
            } else if real_server_of(change).is_some_and(|key| missing.contains(&key)) {
                continue;
            }
            let object = describe(change);
            outcome.failures.push(match scheduler_of(change) {
                Some(scheduler) if refusal.errno == Errno::ENOENT as i32 => {
                    Failure::told(KIND, object, &missing_scheduler(scheduler))
                }
                _ => Failure::new(KIND, &object, &refusal),
            });
        }
        // Whoever makes one in its place is not us.
        if let Err(error) = self.journal.forget(&deleted) {
            let failure = Failure::new("state_directory", "ipvs.journal", &error);
            outcome.failures.push(failure);
        }
    }
}
