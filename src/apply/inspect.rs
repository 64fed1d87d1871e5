//! Reads what the kernel holds for a few frontends and compares it with what is planned: on request,
//! with sockets of its own, at the price of these frontends. Changes nothing, and what cannot be read
//! is told and stops nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;

use super::Failure;
use super::conntrack::Conntrack;
use super::forwarder::Forwarder;
use super::ipvs::Ipvs;
use super::nftables::inspect::{self as table, Inspector};
use super::route::lookup::Lookup;
use super::virtual_servers::inspect as virtual_servers;
use crate::model::family::Family;
use crate::model::frontend::{Frontend, FrontendAddress, FrontendPort, RealServer, SourceClass};
use crate::model::node_state::NodeState;
use crate::model::observation::{Connections, Observation, ObservedFrontend, Way};

/// What is to be read.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// These frontends, and of a node port only what is at this address, if one is given.
    pub frontends: Vec<(FrontendPort, Option<IpAddr>)>,
    /// Who asks, where it is known.
    pub from: Option<IpAddr>,
    /// Where the node is to be asked how it would send there.
    pub paths: BTreeSet<IpAddr>,
}

/// Reads it. `state` is what is planned; `datapath` forwards all that it can.
pub fn inspect(datapath: Forwarder, state: &NodeState, wanted: &Wanted) -> Observation {
    let mut reading = Reading {
        datapath,
        state,
        wanted,
        observation: Observation::default(),
    };
    reading.routes();
    let mut observed = Vec::new();
    for (port, address) in &wanted.frontends {
        if let Some(frontend) = state.frontends.get(port) {
            let frontend = One {
                port: *port,
                address: *address,
                frontend,
            };
            observed.push((frontend, ObservedFrontend::default()));
        }
    }
    for (one, found) in &mut observed {
        reading.ways(one, found);
    }
    reading.table(&mut observed);
    if datapath == Forwarder::Ipvs {
        reading.virtual_servers(&mut observed);
    }
    reading.connections(&mut observed);
    let frontends = observed.into_iter().map(|(one, found)| (one.port, found));
    reading.observation.frontends = frontends.collect();
    reading.observation
}

/// A frontend that is to be read.
struct One<'a> {
    port: FrontendPort,
    address: Option<IpAddr>,
    frontend: &'a Frontend,
}

struct Reading<'a> {
    datapath: Forwarder,
    state: &'a NodeState,
    wanted: &'a Wanted,
    observation: Observation,
}

type Observed<'a> = [(One<'a>, ObservedFrontend)];

impl Reading<'_> {
    fn unread(&mut self, what: &str, error: &dyn Error) {
        let told = Failure::new("explain", what, error);
        let told = format!("{what}: {}", told.message);
        if !self.observation.unread.contains(&told) {
            self.observation.unread.push(told);
        }
    }

    fn ways(&self, one: &One<'_>, found: &mut ObservedFrontend) {
        found.ways = table::ways(one.port, one.frontend, self.datapath);
        if self.datapath == Forwarder::Ipvs {
            let ipvs = virtual_servers::ways(one.port, one.frontend, self.state, one.address);
            found.ways.extend(ipvs);
        }
    }

    fn routes(&mut self) {
        const WHAT: &str = "the routing tables";
        let mut lookup = match Lookup::open() {
            Ok(lookup) => lookup,
            Err(error) => return self.unread(WHAT, &error),
        };
        let held: BTreeSet<IpAddr> = (self.wanted.frontends.iter())
            .filter_map(|(port, _)| match port.address {
                FrontendAddress::Address(address) => Some(address),
                FrontendAddress::NodePort(_) => None,
            })
            .filter(|address| self.state.held.contains_key(address))
            .collect();
        for address in held {
            match lookup.held(address, self.state) {
                Ok(difference) => self.observation.differences.extend(difference),
                Err(error) => self.unread(WHAT, &error),
            }
        }
        for to in &self.wanted.paths {
            match lookup.path(*to) {
                Ok(path) => {
                    self.observation.paths.insert(*to, path);
                }
                Err(error) => self.unread(WHAT, &error),
            }
        }
    }

    fn table(&mut self, observed: &mut Observed<'_>) {
        const WHAT: &str = "the table inet edgelb";
        let mut inspector = match Inspector::open(self.datapath) {
            Ok(inspector) => inspector,
            Err(error) => return self.unread(WHAT, &error),
        };
        match inspector.table(self.state) {
            Ok(differences) => self.observation.differences.extend(differences),
            Err(error) => self.unread(WHAT, &error),
        }
        for (one, found) in observed {
            let family = one.port.address.family();
            let from = self.wanted.from.filter(|from| Family::of(*from) == family);
            match inspector.frontend(one.port, one.frontend, self.state, from) {
                Ok(differences) => found.differences.extend(differences),
                Err(error) => self.unread(WHAT, &error),
            }
            if let Some(from) = from {
                match inspector.stuck(one.frontend, from) {
                    Ok(stuck) => found.stuck = stuck,
                    Err(error) => self.unread(WHAT, &error),
                }
            }
        }
    }

    fn virtual_servers(&mut self, observed: &mut Observed<'_>) {
        const WHAT: &str = "the virtual servers of IPVS";
        if observed.is_empty() {
            return;
        }
        let mut ipvs = match Ipvs::open() {
            Ok(ipvs) => ipvs,
            Err(error) => return self.unread(WHAT, &error),
        };
        for (one, found) in observed {
            let (port, frontend) = (one.port, one.frontend);
            match virtual_servers::inspect(&mut ipvs, port, frontend, self.state, one.address) {
                Ok(inspected) => {
                    found.differences.extend(inspected.differences);
                    found.real_servers.extend(inspected.real_servers);
                }
                Err(error) => self.unread(WHAT, &error),
            }
        }
    }

    /// Of what nftables forwards: nobody counts it but connection tracking.
    fn connections(&mut self, observed: &mut Observed<'_>) {
        const WHAT: &str = "connection tracking";
        let by_table = |found: &ObservedFrontend| {
            let mut ways = found.ways.values();
            ways.any(|way| matches!(way, Way::Chain { .. }))
        };
        if !observed.iter().any(|(_, found)| by_table(found)) {
            return;
        }
        let mut conntrack = match Conntrack::open(self.datapath) {
            Ok(conntrack) => conntrack,
            Err(error) => return self.unread(WHAT, &error),
        };
        for (one, found) in observed {
            if !by_table(found) {
                continue;
            }
            for address in self.addresses(one) {
                match conntrack.connections(one.port.protocol, address, one.port.port) {
                    Ok(counted) => add(found, one.frontend, &counted),
                    Err(error) => self.unread(WHAT, &error),
                }
            }
        }
    }

    /// Where packets for a frontend are sent to.
    fn addresses(&self, one: &One<'_>) -> Vec<IpAddr> {
        match (one.port.address, one.address) {
            (FrontendAddress::Address(address), _) | (_, Some(address)) => vec![address],
            (FrontendAddress::NodePort(family), None) => (self.state.node_addresses.iter())
                .filter(|address| Family::of(**address) == family)
                .copied()
                .collect(),
        }
    }
}

/// Adds what was counted; an endpoint that has nothing has no connections.
fn add(
    found: &mut ObservedFrontend,
    frontend: &Frontend,
    counted: &BTreeMap<RealServer, Connections>,
) {
    let listed = SourceClass::ALL
        .into_iter()
        .flat_map(|class| frontend.real_servers(class))
        .chain(frontend.keeps.iter());
    for real_server in listed.chain(counted.keys()) {
        let known = found.real_servers.entry(*real_server).or_default();
        known.connections.get_or_insert_default();
    }
    for (real_server, connections) in counted {
        let known = found.real_servers.entry(*real_server).or_default();
        let sum = known.connections.get_or_insert_default();
        sum.active += connections.active;
        sum.inactive += connections.inactive;
    }
}
