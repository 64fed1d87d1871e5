//! Real servers that take no new connections: which there are, and how they go.
//!
//! TCP ones wait for their connections (GT-1) and are asked about; UDP ones that still serve stay with
//! their flows until the plan says that they serve no more. On a node that is gone nothing is waited
//! for: the connections can only time out (D-5).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::{Outcome, Server, VirtualServers};
use crate::apply::ipvs::Error;
use crate::apply::ipvs::types::{Change, Protocol, RealServerKey, VirtualServerKey};

/// A real server with weight 0 and what it still has.
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
            if !waits(key, server) {
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
        self.servers.iter().any(|(key, server)| waits(key, server))
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
                let buried = real_servers.filter(|(real_server, since)| {
                    since.is_some() && dead.contains(&real_server.address)
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
fn waits(key: &VirtualServerKey, server: &Server) -> bool {
    is_of(key, Protocol::Tcp) && server.real_servers.values().any(Option::is_some)
}

/// Whether a virtual server is of a protocol.
pub(super) fn is_of(key: &VirtualServerKey, wanted: Protocol) -> bool {
    matches!(key, VirtualServerKey::Address { protocol, .. } if *protocol == wanted)
}
