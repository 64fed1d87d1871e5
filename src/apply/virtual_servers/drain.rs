//! Real servers that take no new connections: which there are, and how they go.
//!
//! Those that still serve stay with what they have until the plan says that they serve no more
//! (POL-13, CT-3). From then on they wait for their connections (GT-1) and are asked about, but for UDP
//! ones. On a node that is gone nothing is waited for: the connections can only time out (D-5).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::{Outcome, Server, Standing, VirtualServers};
use crate::apply::ipvs::Error;
use crate::apply::ipvs::types::{Change, Protocol, RealServerKey, VirtualServerKey};

/// A real server that serves no more, with weight 0, and what it still has.
#[derive(Debug, Clone, Copy)]
pub struct Draining {
    pub virtual_server: VirtualServerKey,
    pub real_server: RealServerKey,
    pub since: Instant,
    pub connections: u32,
}

impl VirtualServers {
    /// What drains now, with its connections.
    pub fn draining(&mut self) -> Result<Vec<Draining>, Error> {
        let mut draining = Vec::new();
        for (key, server) in &self.servers {
            if !waits(server) {
                continue;
            }
            let observed = self.ipvs.real_servers(key)?;
            for (real_server, standing) in &server.real_servers {
                let Standing::Draining(since) = standing else {
                    continue;
                };
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
        self.servers.values().any(waits)
    }

    /// Removes real servers that have drained, and virtual servers that only waited for them.
    pub fn remove_drained(&mut self, drained: &[Draining]) -> Outcome {
        let drained: Vec<_> = drained
            .iter()
            .map(|drained| (drained.virtual_server, drained.real_server))
            .collect();
        let mut outcome = Outcome::default();
        self.remove(&drained, &mut outcome);
        outcome
    }

    /// Removes whatever has weight 0 and is at one of these addresses.
    pub(super) fn bury(&mut self, dead: &BTreeSet<IpAddr>, outcome: &mut Outcome) {
        if dead.is_empty() {
            return;
        }
        let buried: Vec<_> = self
            .servers
            .iter()
            .flat_map(|(key, server)| {
                let real_servers = server.real_servers.iter();
                let buried = real_servers.filter(|(real_server, standing)| {
                    **standing != Standing::Serving && dead.contains(&real_server.address)
                });
                buried.map(|(real_server, _)| (*key, *real_server))
            })
            .collect();
        self.remove(&buried, outcome);
    }

    fn remove(&mut self, gone: &[(VirtualServerKey, RealServerKey)], outcome: &mut Outcome) {
        let mut changes: Vec<Change> = gone
            .iter()
            .map(|(key, real_server)| Change::DeleteRealServer(*key, *real_server))
            .collect();
        for (key, real_server) in gone {
            if let Some(server) = self.servers.get_mut(key) {
                server.real_servers.remove(real_server);
                if server.real_servers.is_empty() && !server.wanted {
                    self.servers.remove(key);
                    changes.push(Change::DeleteVirtualServer(*key));
                }
            }
        }
        self.send(&changes, outcome);
    }
}

/// Whether real servers of it wait for their connections.
fn waits(server: &Server) -> bool {
    let mut standings = server.real_servers.values();
    standings.any(|standing| matches!(standing, Standing::Draining(_)))
}

/// Whether a virtual server is of a protocol.
pub(super) fn is_of(key: &VirtualServerKey, wanted: Protocol) -> bool {
    matches!(key, VirtualServerKey::Address { protocol, .. } if *protocol == wanted)
}
