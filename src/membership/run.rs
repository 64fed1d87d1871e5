//! The loop of membership: gives the machine the time and the datagrams, carries what it says and shows
//! what it sees. Timers go first; datagrams come in bounded batches.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::core::{Core, Refusal, Target};
use super::counters::MembershipCounters;
use super::seal::Sealer;
use super::transport::Transport;
use super::transport::resolve::Resolver;
use super::{Contact, Inputs, Told};
use crate::model::allocation::Allocations;
use crate::model::peer::Peers;

/// How often names of peers that are not heard are looked up, and interfaces that failed are opened.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is said that another node has this node's name.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// The pause between the three times that a restart is announced.
const RESTART_AGAIN: Duration = Duration::from_millis(5);

/// What others ask of the loop.
#[derive(Debug)]
pub enum Command {
    /// Tell everybody that this node restarts; answered with who was told.
    AnnounceRestart(oneshot::Sender<Option<Told>>),
}

/// Everything that runs.
pub struct Running {
    pub core: Core,
    pub sealer: Sealer,
    pub transport: Transport,
    pub resolver: Resolver,
    pub port: u16,
    pub inputs: Inputs,
    pub peers: watch::Sender<Arc<Peers>>,
    pub allocations: watch::Sender<Arc<Allocations>>,
    pub contacts: watch::Sender<Arc<BTreeMap<String, Contact>>>,
    pub counters: MembershipCounters,
    pub commands: mpsc::Receiver<Command>,
    pub buffer: Vec<u8>,
}

/// What woke the loop.
enum Event {
    Time,
    Datagrams,
    Publication,
    Nodes,
    Interfaces,
    Resolved,
    Again,
    Command(Command),
}

impl Running {
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let start = Instant::now();
        let mut again = tokio::time::interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(stop);
        let mut warned = None;
        self.take_interfaces();
        self.seek(start.elapsed());
        self.publish(start.elapsed());
        loop {
            let now = start.elapsed();
            if now >= self.core.deadline() {
                self.core.handle_timer(now);
            }
            self.carry();
            self.show(now);
            let deadline = tokio::time::Instant::from_std(start + self.core.deadline());
            let Self {
                core,
                sealer,
                transport,
                counters,
                inputs,
                resolver,
                commands,
                ..
            } = &mut self;
            let mut own_name = false;
            let receive = poll_fn(|context| {
                transport.poll_receive(context, &mut |source, octets| match sealer.open(octets) {
                    Ok(datagram) => {
                        let result = core.handle_datagram(start.elapsed(), source, datagram);
                        own_name |= result == Err(Refusal::OwnName);
                        counters.count_opened(result);
                    }
                    Err(error) => counters.count_unopened(error),
                })
            });
            let event = tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep_until(deadline) => Event::Time,
                Some(command) = commands.recv() => Event::Command(command),
                Ok(()) = inputs.publication.changed() => Event::Publication,
                Ok(()) = inputs.interfaces.changed() => Event::Interfaces,
                Ok(()) = inputs.node_addresses.changed() => Event::Nodes,
                changed = resolver.changed() => if changed { Event::Resolved } else { Event::Datagrams },
                _ = again.tick() => Event::Again,
                () = receive => Event::Datagrams,
            };
            let now = start.elapsed();
            if own_name && warned.is_none_or(|at| now.saturating_sub(at) > WARN_EVERY) {
                warned = Some(now);
                warn!("another node speaks under this node's name; set node.name of one of them");
            }
            match event {
                Event::Time | Event::Datagrams => {}
                Event::Publication => self.publish(now),
                Event::Interfaces => self.take_interfaces(),
                Event::Nodes | Event::Resolved => self.seek(now),
                Event::Again => self.try_again(),
                Event::Command(Command::AnnounceRestart(done)) => {
                    let told = self.announce_restart(start).await;
                    // Whoever asked may have given up waiting.
                    let _ = done.send(told);
                }
            }
        }
    }

    async fn announce_restart(&mut self, start: Instant) -> Option<Told> {
        let mut told = None;
        self.publish(start.elapsed());
        for time in 0..3 {
            if time > 0 {
                tokio::time::sleep(RESTART_AGAIN).await;
            }
            told = self.core.announce_restart(start.elapsed());
            self.carry();
        }
        told
    }

    fn publish(&mut self, now: Duration) {
        let publication = Arc::clone(&self.inputs.publication.borrow_and_update());
        self.core.publish(now, &publication);
    }

    fn take_interfaces(&mut self) {
        let interfaces = Arc::clone(&self.inputs.interfaces.borrow_and_update());
        self.transport.use_interfaces(&interfaces);
    }

    /// Looks for configured peers and Nodes.
    fn seek(&mut self, now: Duration) {
        let port = self.port;
        let nodes = Arc::clone(&self.inputs.node_addresses.borrow_and_update());
        let configured = self.resolver.addresses().map(|addresses| Target {
            addresses: addresses.to_vec(),
        });
        let own = self.core.name().clone();
        let others = nodes.iter().filter(|(name, _)| own != **name);
        let others = others.map(|(_, addresses)| Target {
            addresses: addresses
                .iter()
                .map(|address| SocketAddr::new(*address, port))
                .collect(),
        });
        let mut targets: Vec<Target> = configured.chain(others).collect();
        let own_addresses: Vec<IpAddr> = nodes.get(own.as_str()).cloned().unwrap_or_default();
        targets.retain(|target| {
            target.addresses.is_empty()
                || !target
                    .addresses
                    .iter()
                    .all(|address| address.port() == port && own_addresses.contains(&address.ip()))
        });
        targets.dedup();
        self.core.seek(now, targets);
    }

    fn try_again(&mut self) {
        self.transport.open_missing();
        let heard: Vec<SocketAddr> = self
            .contacts
            .borrow()
            .values()
            .filter_map(|contact| contact.udp)
            .collect();
        self.resolver
            .look_up(|addresses| addresses.iter().any(|address| heard.contains(address)));
    }

    /// Sends what the machine says.
    fn carry(&mut self) {
        for outgoing in self.core.take_outgoing() {
            if !self.transport.serves(&outgoing.route) {
                continue;
            }
            if self.sealer.seal(&outgoing.datagram, &mut self.buffer) {
                let sent = self.transport.send(&outgoing.route, &self.buffer);
                self.counters.count_sent(sent, self.buffer.len());
            } else {
                tracing::error!(datagram = ?outgoing.datagram.body, "a datagram is too long to be sent");
            }
        }
    }

    /// Shows what the machine sees.
    fn show(&mut self, now: Duration) {
        if let Some(peers) = self.core.peers() {
            self.counters.show(peers);
            let shown = Arc::new(peers.clone());
            self.peers.send_if_modified(|before| replace(before, shown));
            let contacts = Arc::new(contacts(&self.core, now));
            self.contacts
                .send_if_modified(|before| replace(before, contacts));
        }
        if let Some(allocations) = self.core.allocations(now) {
            let shown = Arc::new(allocations.clone());
            self.allocations
                .send_if_modified(|before| replace(before, shown));
        }
    }
}

/// Puts another value in the place of an equal one only where it differs.
fn replace<T: PartialEq>(before: &mut Arc<T>, shown: Arc<T>) -> bool {
    let differs = **before != *shown;
    if differs {
        *before = shown;
    }
    differs
}

fn contacts(core: &Core, now: Duration) -> BTreeMap<String, Contact> {
    let told = core
        .members()
        .filter(|(_, member)| member.tables.told_version.1 > 0);
    let contact = |member: &super::core::member::Member| Contact {
        udp: member
            .udp
            .filter(|_| member.hears_udp(now))
            .map(|heard| heard.path.peer),
        lan: member
            .lan
            .filter(|_| member.hears_lan(now))
            .map(|heard| (heard.path.interface, heard.path.mac)),
        program: member.tables.told.program.clone(),
        epoch: member.tables.told_version.0,
    };
    told.map(|(name, member)| (name.to_string(), contact(member)))
        .collect()
}

/// The clock of the node, for the start of this run.
pub fn milliseconds_since_1970() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
