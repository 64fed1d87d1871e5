//! The IPVS datapath: makes the virtual servers of IPVS equal to the frontends of a state.
//!
//! Touches only virtual servers that its journal names; a foreign one in the way is reported. A TCP
//! real server that is no longer wanted gets weight 0 and goes when its connections have gone.

pub mod desired;
mod outcome;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use imbl::ordmap::DiffItem;

use super::Failure;
use super::ipvs::types::{
    Change, Protocol as IpvsProtocol, RealServerKey, Timeouts, VirtualServer, VirtualServerKey,
};
use super::ipvs::{Error, Ipvs};
use super::netlink::Counters;
use super::state_directory::{Journal, VirtualServerName};
use crate::model::family::Protocol;
use crate::model::frontend::FrontendAddress;
use crate::model::node_state::NodeState;
use desired::{SERVING, Wanted, attributes_of, keys, of_frontend};

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
    /// Since when a real server has weight 0; `None` for one that takes connections.
    real_servers: BTreeMap<RealServerKey, Option<Instant>>,
    /// Whether a frontend wants it; else it only drains.
    wanted: bool,
}

/// A real server with weight 0 and what it still has.
#[derive(Debug, Clone, Copy)]
pub struct Draining {
    pub virtual_server: VirtualServerKey,
    pub real_server: RealServerKey,
    pub since: Instant,
    pub connections: u32,
}

/// The virtual servers of this network namespace that are ours.
pub struct VirtualServers {
    ipvs: Ipvs,
    journal: Journal,
    servers: BTreeMap<VirtualServerKey, Server>,
}

impl VirtualServers {
    /// Takes over IPVS; changes nothing yet.
    pub fn new(ipvs: Ipvs, journal: Journal) -> Self {
        Self {
            ipvs,
            journal,
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

    /// The timeouts of idle connections.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        self.ipvs.timeouts()
    }

    /// Sets the timeouts of idle connections.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        self.ipvs.set_timeouts(timeouts)
    }

    /// Sends the difference between two states.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState, now: Instant) -> Outcome {
        let mut wanted: BTreeMap<VirtualServerKey, Option<Wanted>> = BTreeMap::new();
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
                wanted
                    .extend(keys(*port, new).map(|key| (key, Some(of_frontend(*port, frontend)))));
            }
        }
        if old.node_addresses != new.node_addresses {
            for (port, frontend) in &new.frontends {
                if matches!(port.address, FrontendAddress::NodePort(_)) {
                    for key in keys(*port, old) {
                        wanted.entry(key).or_insert(None);
                    }
                    wanted.extend(
                        keys(*port, new).map(|key| (key, Some(of_frontend(*port, frontend)))),
                    );
                }
            }
        }
        let mut outcome = Outcome::default();
        self.change(wanted, now, &mut outcome);
        outcome
    }

    /// Compares IPVS with the state and repairs whatever differs, leaving what is right untouched.
    pub fn repair(&mut self, state: &NodeState, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut wanted: BTreeMap<VirtualServerKey, Option<Wanted>> = BTreeMap::new();
        for (port, frontend) in &state.frontends {
            wanted.extend(keys(*port, state).map(|key| (key, Some(of_frontend(*port, frontend)))));
        }
        let inventory = match self.ipvs.inventory() {
            Ok(inventory) => inventory,
            Err(error) => {
                outcome
                    .failures
                    .push(Failure::new(KIND, "inventory", &error));
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
                    outcome.failures.push(Failure::told(
                        KIND,
                        key.to_string(),
                        "a virtual server that edgelb did not make is in the way: remove it with ipvsadm -D",
                    ));
                }
                continue;
            }
            let known = before.get(&key);
            let real_servers = real_servers
                .iter()
                .map(|real_server| {
                    // Whatever is neither serving nor draining in our way is set again from weight 0.
                    let serving = real_server.real_server == attributes_of(SERVING);
                    if !serving && real_server.real_server != attributes_of(0) {
                        odd.push(Change::SetRealServer(
                            key,
                            real_server.key,
                            attributes_of(0),
                        ));
                    }
                    let draining = (!serving).then(|| {
                        known
                            .and_then(|server| *server.real_servers.get(&real_server.key)?)
                            .unwrap_or(now)
                    });
                    (real_server.key, draining)
                })
                .collect();
            let server = Server {
                attributes: observed.virtual_server,
                real_servers,
                wanted: known.is_some_and(|known| known.wanted),
            };
            self.servers.insert(key, server);
            wanted.entry(key).or_insert(None);
        }
        self.send(&odd, &mut outcome);
        self.change(wanted, now, &mut outcome);
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

    /// What drains now, with its connections.
    pub fn draining(&mut self) -> Result<Vec<Draining>, Error> {
        let mut draining = Vec::new();
        for (key, server) in &self.servers {
            if server.real_servers.values().all(Option::is_none) {
                continue;
            }
            let observed = self.ipvs.real_servers(key)?;
            for (real_server, since) in &server.real_servers {
                let Some(since) = since else { continue };
                let connections = observed
                    .iter()
                    .find(|observed| observed.key == *real_server)
                    .map_or(0, |observed| {
                        observed
                            .connections
                            .active
                            .saturating_add(observed.connections.inactive)
                    });
                draining.push(Draining {
                    virtual_server: *key,
                    real_server: *real_server,
                    since: *since,
                    connections,
                });
            }
        }
        Ok(draining)
    }

    /// Whether anything drains.
    pub fn drains(&self) -> bool {
        self.servers
            .values()
            .any(|server| server.real_servers.values().any(Option::is_some))
    }

    /// Removes real servers that have drained, and virtual servers that only waited for them.
    pub fn remove_drained(&mut self, drained: &[Draining]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut changes: Vec<Change> = drained
            .iter()
            .map(|drained| Change::DeleteRealServer(drained.virtual_server, drained.real_server))
            .collect();
        for drained in drained {
            if let Some(server) = self.servers.get_mut(&drained.virtual_server) {
                server.real_servers.remove(&drained.real_server);
                if server.real_servers.is_empty() && !server.wanted {
                    self.servers.remove(&drained.virtual_server);
                    changes.push(Change::DeleteVirtualServer(drained.virtual_server));
                }
            }
        }
        self.send(&changes, &mut outcome);
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
        mut wanted: BTreeMap<VirtualServerKey, Option<Wanted>>,
        now: Instant,
        outcome: &mut Outcome,
    ) {
        let created: Vec<VirtualServerName> = wanted
            .iter()
            .filter(|(key, wanted)| {
                wanted
                    .as_ref()
                    .is_some_and(|(_, real_servers)| !real_servers.is_empty())
                    && !self.servers.contains_key(key)
            })
            .filter_map(|(key, _)| name(key))
            .filter(|name| !self.journal.contains(name))
            .collect();
        if !created.is_empty()
            && let Err(error) = self.journal.record(&created)
        {
            // Without the record nobody would know that they are ours: these wait, no others.
            outcome
                .failures
                .push(Failure::new("state_directory", "ipvs.journal", &error));
            wanted.retain(|key, _| name(key).is_none_or(|name| !created.contains(&name)));
        }
        let mut changes = Vec::new();
        for (key, wanted) in wanted {
            self.change_one(key, wanted, now, &mut changes);
        }
        self.send(&changes, outcome);
    }

    fn change_one(
        &mut self,
        key: VirtualServerKey,
        wanted: Option<Wanted>,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let Some((attributes, real_servers)) = wanted else {
            // GT-8: with the frontend go its connections.
            if self.servers.remove(&key).is_some() {
                changes.push(Change::DeleteVirtualServer(key));
            }
            return;
        };
        let server = match self.servers.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if real_servers.is_empty() => return,
            Entry::Vacant(entry) => {
                changes.push(Change::NewVirtualServer(key, attributes.clone()));
                entry.insert(Server {
                    attributes: attributes.clone(),
                    real_servers: BTreeMap::new(),
                    wanted: true,
                })
            }
        };
        server.wanted = !real_servers.is_empty();
        if server.attributes != attributes {
            changes.push(Change::SetVirtualServer(key, attributes.clone()));
            server.attributes = attributes;
        }
        for real_server in &real_servers {
            match server.real_servers.get(real_server) {
                Some(None) => continue,
                Some(Some(_)) => changes.push(Change::SetRealServer(
                    key,
                    *real_server,
                    attributes_of(SERVING),
                )),
                None => changes.push(Change::NewRealServer(
                    key,
                    *real_server,
                    attributes_of(SERVING),
                )),
            }
            server.real_servers.insert(*real_server, None);
        }
        let drains = matches!(
            key,
            VirtualServerKey::Address {
                protocol: IpvsProtocol::Tcp,
                ..
            }
        );
        let unwanted: Vec<RealServerKey> = server
            .real_servers
            .keys()
            .filter(|present| !real_servers.contains(present))
            .copied()
            .collect();
        for real_server in unwanted {
            if !drains {
                changes.push(Change::DeleteRealServer(key, real_server));
                server.real_servers.remove(&real_server);
            } else if server.real_servers.get(&real_server) == Some(&None) {
                changes.push(Change::SetRealServer(key, real_server, attributes_of(0)));
                server.real_servers.insert(real_server, Some(now));
            }
        }
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
        match self.ipvs.apply(changes) {
            Err(error) => outcome.failures.push(Failure::new(KIND, "batch", &error)),
            Ok(results) => {
                for (change, result) in changes.iter().zip(results) {
                    match result {
                        Ok(()) => outcome.count(change),
                        Err(error) => {
                            outcome
                                .failures
                                .push(Failure::new(KIND, &describe(change), &error));
                        }
                    }
                }
            }
        }
    }
}

/// In the words of ipvsadm.
fn describe(change: &Change) -> String {
    match change {
        Change::NewVirtualServer(key, server) => format!("-A {key} -s {}", server.scheduler),
        Change::SetVirtualServer(key, server) => format!("-E {key} -s {}", server.scheduler),
        Change::DeleteVirtualServer(key) => format!("-D {key}"),
        Change::NewRealServer(key, real_server, _) => format!("-a {key} -r {real_server}"),
        Change::SetRealServer(key, real_server, attributes) => {
            format!("-e {key} -r {real_server} -w {}", attributes.weight)
        }
        Change::DeleteRealServer(key, real_server) => format!("-d {key} -r {real_server}"),
        Change::ZeroStatistics(_) => "-Z".to_owned(),
    }
}

/// The journal's name of a virtual server; none for marks, which we do not use.
fn name(key: &VirtualServerKey) -> Option<VirtualServerName> {
    match key {
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => Some(VirtualServerName {
            protocol: match protocol {
                IpvsProtocol::Tcp => Protocol::Tcp,
                IpvsProtocol::Udp => Protocol::Udp,
                IpvsProtocol::Sctp => Protocol::Sctp,
            },
            address: *address,
            port: *port,
        }),
        VirtualServerKey::FirewallMark { .. } => None,
    }
}
