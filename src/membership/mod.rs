//! Who is there: each node hears all others by authenticated datagrams and tells them what it is, what
//! it owns and which allocations it knows. Decides nothing about VIPs.
//!
//! ```text
//!  Publication, node addresses, interfaces (watch)
//!              │
//!              ▼            datagrams               sealed
//!  run ──► Core (sans-I/O) ◄─────────► Sealer ◄──────────────► Transport ──► UDP, frames 0x88B5, ARP
//!              │
//!              ▼
//!  Peers, Allocations, Contacts (watch) ──► MembershipView
//! ```
//!
//! One task owns everything; it is meant for a current-thread runtime on a thread of its own, opened in
//! that thread, so that no other work delays a heartbeat.

pub mod core;
pub mod counters;
pub mod datagram;
pub mod keys;
pub mod replay;
mod run;
pub mod seal;
pub mod transport;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SysRng;
use rand::{SeedableRng, TryRng, rngs::StdRng};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use self::core::{Core, CoreSettings};
use self::counters::MembershipCounters;
use self::keys::KeyError;
use self::run::{Command, Running};
use self::seal::Sealer;
use self::transport::Transport;
use self::transport::lan::LanInterface;
use self::transport::resolve::Resolver;
use self::transport::udp::ListenError;
use crate::model::allocation::Allocations;
use crate::model::foreign::MacAddress;
use crate::model::peer::{Peers, Publication};

/// What membership is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of this node.
    pub node: String,
    /// The configuration.
    pub configuration: crate::config::Membership,
    /// The version of the program, for the other nodes to show.
    pub program: String,
}

/// What membership follows.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// What this node tells the others.
    pub publication: watch::Receiver<Arc<Publication>>,
    /// The addresses of Nodes, by name; this one's among them.
    pub node_addresses: watch::Receiver<Arc<BTreeMap<String, Vec<IpAddr>>>>,
    /// The interfaces whose LANs have clients of VIPs.
    pub interfaces: watch::Receiver<Arc<Vec<LanInterface>>>,
}

/// Membership cannot start.
#[derive(Debug, Error)]
pub enum MembershipError {
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There are peers, and no key to speak to them.
    #[error(
        "membership.peers names {peers} peers and membership.key_files no key; \
         write one with: head -c 32 /dev/urandom | base64, and copy it to all nodes"
    )]
    NoKey {
        /// How many.
        peers: usize,
    },
    /// This node's name cannot be told to others.
    #[error("the node name {name:?} is not one that other nodes accept; set node.name")]
    NodeName {
        /// The name.
        name: String,
    },
    /// A socket cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// Where another node is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// The address that it is heard from by UDP.
    pub udp: Option<SocketAddr>,
    /// The interface, by its index, on which it is heard by frames, and its address there.
    pub lan: Option<(u32, MacAddress)>,
    /// The version of its program.
    pub program: String,
    /// The start of its run, in milliseconds since 1970.
    pub epoch: u64,
}

/// Who was told that this node restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// All who are there, and somebody is.
    Others,
    /// This run never heard anybody.
    Nobody,
}

/// The task. It ends when it is told to.
pub struct Membership {
    running: Option<Running>,
}

/// What others see of membership. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MembershipView {
    /// All other nodes.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// What the other nodes know of allocations, merged.
    pub allocations: watch::Receiver<Arc<Allocations>>,
    /// Where they are heard, by name.
    pub contacts: watch::Receiver<Arc<BTreeMap<String, Contact>>>,
    /// What was received and sent.
    pub counters: MembershipCounters,
    commands: mpsc::Sender<Command>,
}

impl MembershipView {
    /// Tells all others three times that this node restarts, whatever its publication says; who was told,
    /// and `None` where membership is off, has ended, took longer than `most`, or hears nobody any more.
    pub async fn announce_restart(&self, most: Duration) -> Option<Told> {
        let (done, wait) = oneshot::channel();
        let told = async {
            self.commands
                .send(Command::AnnounceRestart(done))
                .await
                .ok()?;
            wait.await.ok()
        };
        tokio::time::timeout(most, told).await.ok()??
    }
}

impl Membership {
    /// Opens sockets where there is a key or a peer. To be called in the thread, the namespace and the
    /// runtime where it runs.
    pub fn open(
        settings: Settings,
        inputs: Inputs,
    ) -> Result<(Self, MembershipView), MembershipError> {
        let Settings {
            node,
            configuration,
            program,
        } = settings;
        let counters = MembershipCounters::default();
        let enabled = !configuration.key_files.is_empty();
        if !enabled && !configuration.peers.is_empty() {
            return Err(MembershipError::NoKey {
                peers: configuration.peers.len(),
            });
        }
        let (peers, peers_view) = watch::channel(Arc::new(Peers {
            enabled,
            settled: !enabled,
            ..Peers::default()
        }));
        let (allocations, allocations_view) = watch::channel(Arc::default());
        let (contacts, contacts_view) = watch::channel(Arc::default());
        let (sender, commands) = mpsc::channel(4);
        let view = MembershipView {
            peers: peers_view,
            allocations: allocations_view,
            contacts: contacts_view,
            counters: counters.clone(),
            commands: sender,
        };
        if !enabled {
            return Ok((Self { running: None }, view));
        }
        if !datagram::is_node_name(&node) {
            return Err(MembershipError::NodeName { name: node });
        }
        let keys = keys::read(&configuration.key_files)?;
        let transport = Transport::open(&configuration.listen)?;
        let core = CoreSettings {
            name: node.into(),
            epoch: run::milliseconds_since_1970(),
            probe_interval: configuration.probe_interval,
            restart_grace: configuration.restart_grace,
            program,
            seed: random()?,
        };
        let running = Running {
            core: Core::new(core, Duration::ZERO),
            sealer: Sealer::new(keys, StdRng::from_seed(random()?)),
            transport,
            resolver: Resolver::new(&configuration.peers),
            port: configuration.listen.port.get(),
            inputs,
            peers,
            allocations,
            contacts,
            counters,
            commands,
            buffer: Vec::new(),
        };
        Ok((
            Self {
                running: Some(running),
            },
            view,
        ))
    }

    /// Runs until `stopped` is true or its sender is gone.
    pub async fn run(self, mut stopped: watch::Receiver<bool>) {
        let stop = async {
            // A sender that is gone means the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        match self.running {
            Some(running) => running.run(stop).await,
            None => stop.await,
        }
    }
}

fn random() -> Result<[u8; 32], MembershipError> {
    let mut seed = [0; 32];
    let filled = SysRng.try_fill_bytes(&mut seed);
    filled.map_err(|error| MembershipError::Random(error.to_string()))?;
    Ok(seed)
}

#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;
