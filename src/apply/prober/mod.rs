//! Asks the LAN who uses the wanted addresses, by ARP probes (RFC 5227) and by duplicate address
//! detection (RFC 4862), so that none of them is given to a Service. It does what the published
//! [`Wanted`] says and decides nothing about addresses. Whoever is about to take an address asks by
//! [`once`].
//!
//! ```text
//!                Wanted (watch)            claims
//!  publisher ──────────────────► Prober ◄──────────── listeners ◄───────────────── packet sockets
//!              ForeignHosts (watch) │ └─────────────────────── probes ───────────────► packet socket
//!            ◄──────────────────────┘
//! ```
//!
//! Whoever answers a probe, or sends any frame with a wanted address as its sender, uses that
//! address, unless the frame is from an interface of this node. Frames are not authenticated: a host
//! that claims every address keeps them all from being given out, as any host on a LAN can; nothing
//! that a Service holds is given up for it.

pub mod once;
pub mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::RandomState;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{debug, info, trace, warn};

use super::announcer::socket::{PacketSocket, Protocol, is_link_error};
use super::announcer::verdict::{Claim, IgnoreReason};
use super::announcer::{arp, ndp};
use super::jitter::jitter;
use crate::model::foreign::{ForeignHosts, MacAddress, Wanted, WantedInterface};
pub use schedule::ProbeSettings;
use schedule::{Place, Schedule};

/// Claims that may wait; then frames wait in the kernel, which drops what is too much.
const WAITING_CLAIMS: usize = 64;
/// Wait before a failed interface is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Wait after a full send queue.
const SEND_RETRY: Duration = Duration::from_millis(5);
/// Probes in one go, so that claims are heard in between.
const BATCH: usize = 64;

/// Why the prober ended although there is still somebody who wants to know.
#[derive(Debug, Error)]
pub enum ProberError {
    /// A listener could not be joined, for instance because it panicked.
    #[error("a listener for claims of other hosts failed")]
    Listener(#[source] JoinError),
}

/// The task that asks. It ends when the publisher of what is wanted is dropped.
pub struct Prober {
    wanted: watch::Receiver<Arc<Wanted>>,
    own: BTreeSet<MacAddress>,
    foreign: watch::Sender<Arc<ForeignHosts>>,
    schedule: Schedule,
    links: BTreeMap<LinkKey, Link>,
    claims: mpsc::Receiver<Heard>,
    /// For new listeners.
    claim_sender: mpsc::Sender<Heard>,
    /// Each gives what it listened to, when that is of no more use.
    listeners: JoinSet<Lost>,
    random: RandomState,
}

/// What was heard on the interface with this index.
type Heard = (u32, Claim);
/// An interface by its index, for addresses of one family.
type LinkKey = (u32, Protocol);

/// An interface that a listener had to leave.
struct Lost {
    link: LinkKey,
    socket: Arc<PacketSocket>,
    error: io::Error,
}

/// An interface on which addresses of one family are wanted.
struct Link {
    wanted: WantedInterface,
    open: Option<Open>,
    /// When to try again to open it, while it is not.
    retry: Instant,
    /// Why it does not work, where that was logged.
    problem: Option<String>,
}

struct Open {
    socket: Arc<PacketSocket>,
    listener: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Prober {
    /// A prober that follows `wanted` and tells in `foreign`.
    pub fn new(
        settings: ProbeSettings,
        wanted: watch::Receiver<Arc<Wanted>>,
        foreign: watch::Sender<Arc<ForeignHosts>>,
    ) -> Self {
        let (claim_sender, claims) = mpsc::channel(WAITING_CLAIMS);
        Self {
            wanted,
            own: BTreeSet::new(),
            foreign,
            schedule: Schedule::new(settings),
            links: BTreeMap::new(),
            claims,
            claim_sender,
            listeners: JoinSet::new(),
            random: RandomState::new(),
        }
    }

    /// Asks until the publisher of what is wanted is dropped. An error is a defect: the caller should
    /// end the daemon, so that it is started again.
    pub async fn run(mut self) -> Result<(), ProberError> {
        self.adopt();
        loop {
            let wake = self.next_wake();
            // Not biased: no flood of claims may keep the rounds from ending.
            tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.adopt(),
                    Err(_publisher_gone) => return Ok(()),
                },
                () = sleep_until(wake) => self.act(),
                Some((index, claim)) = self.claims.recv() => self.hear(index, claim),
                Some(ended) = self.listeners.join_next() => match ended {
                    Ok(lost) => self.lose(&lost),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(ProberError::Listener(error)),
                },
            }
            if self.schedule.take_changed() {
                self.publish();
            }
        }
    }

    /// Follows what is wanted now.
    fn adopt(&mut self) {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        let now = Instant::now();
        self.own.clone_from(&wanted.own);
        let by_family = split(&wanted);
        self.links.retain(|key, _| by_family.contains_key(key));
        for (key, interface) in by_family {
            let link = self.links.entry(key).or_insert_with(|| Link {
                wanted: interface.clone(),
                open: None,
                retry: now,
                problem: None,
            });
            let before = std::mem::replace(&mut link.wanted, interface);
            let interface = &link.wanted;
            if before.name != interface.name || before.mac != interface.mac {
                link.open = None;
                link.retry = now;
            } else if before.addresses != interface.addresses
                && let Some(open) = &link.open
                && let Err(error) = open.socket.set_vips(&addresses(interface))
            {
                link.fail(&error.to_string(), now);
            }
        }
        let places: BTreeSet<Place> = wanted
            .interfaces
            .iter()
            .flat_map(|(index, interface)| {
                interface.addresses.iter().map(|address| (*index, *address))
            })
            .collect();
        let random = &self.random;
        self.schedule.want(&places, now, || jitter(random));
        self.open(now);
    }

    /// Opens the interfaces whose time has come.
    fn open(&mut self, now: Instant) {
        for (key, link) in &mut self.links {
            let (index, protocol) = *key;
            if link.open.is_some() || link.retry > now {
                continue;
            }
            let wanted = &link.wanted;
            match PacketSocket::open(protocol, index, &wanted.name, &addresses(wanted)) {
                Ok(socket) => {
                    debug!(
                        interface = wanted.name,
                        addresses = wanted.addresses.len(),
                        "opened packet socket to probe"
                    );
                    let socket = Arc::new(socket);
                    let listener = listen(*key, Arc::clone(&socket), self.claim_sender.clone());
                    link.open = Some(Open {
                        socket,
                        listener: self.listeners.spawn(listener),
                    });
                    link.problem = None;
                }
                Err(error) => link.fail(&error.to_string(), now),
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let closed = self.links.values().filter(|link| link.open.is_none());
        let retry = closed.map(|link| link.retry).min();
        [self.schedule.next_due(), retry]
            .into_iter()
            .flatten()
            .min()
    }

    /// Opens what is to be opened, ends rounds, and sends the probes that are due.
    fn act(&mut self) {
        let now = Instant::now();
        self.open(now);
        let random = self.random.clone();
        for _ in 0..BATCH {
            let Some(place) = self.schedule.due(now, || jitter(&random)) else {
                return;
            };
            match self.send(place) {
                Ok(()) => self.schedule.sent(place, now, jitter(&random)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.schedule.postpone(place, now + SEND_RETRY);
                    return;
                }
                Err(error) => {
                    self.schedule.fail(place, now);
                    if let Some(link) = self.links.get_mut(&key_of(place))
                        && link.open.is_some()
                    {
                        if is_link_error(&error) {
                            link.fail("the interface is down", now);
                        } else {
                            link.report(&format!("cannot send a probe: {error}"));
                        }
                    }
                }
            }
        }
    }

    fn send(&self, place: Place) -> io::Result<()> {
        let link = self.links.get(&key_of(place));
        let open = link.and_then(|link| link.open.as_ref());
        send_probe(&open.ok_or(ErrorKind::NotConnected)?.socket, place.1)
    }

    /// Takes in what somebody claims.
    fn hear(&mut self, index: u32, claim: Claim) {
        let mac = MacAddress(claim.mac);
        if !self.own.contains(&mac) {
            trace!(address = %claim.address, %mac, "heard a claim");
            let place = (index, claim.address);
            self.schedule.hear(place, mac, Instant::now());
        }
    }

    fn lose(&mut self, lost: &Lost) {
        if let Some(link) = self.links.get_mut(&lost.link)
            && let Some(open) = &link.open
            && Arc::ptr_eq(&open.socket, &lost.socket)
        {
            link.fail(&lost.error.to_string(), Instant::now());
        }
    }

    /// Tells who uses what.
    fn publish(&self) {
        let foreign = self.schedule.foreign();
        let before = Arc::clone(&self.foreign.borrow());
        for address in before.changed(&foreign) {
            if let Some(mac) = foreign.get(address) {
                warn!(%address, %mac, "another host uses an address of a pool");
            } else {
                info!(%address, "no other host is known any more to use the address");
            }
        }
        if *before != foreign {
            self.foreign.send_replace(Arc::new(foreign));
        }
    }
}

impl Link {
    /// Gives the interface up for now.
    fn fail(&mut self, problem: &str, now: Instant) {
        self.open = None;
        self.retry = now + RETRY;
        self.report(problem);
    }

    /// Logs a problem once.
    fn report(&mut self, problem: &str) {
        if self.problem.as_deref() != Some(problem) {
            warn!(
                interface = self.wanted.name,
                error = problem,
                "cannot look for other hosts on interface, will be tried again"
            );
            self.problem = Some(problem.to_owned());
        }
    }
}

const fn key_of((index, address): Place) -> LinkKey {
    (index, Protocol::of(address))
}

/// What is wanted, by interface and family.
fn split(wanted: &Wanted) -> BTreeMap<LinkKey, WantedInterface> {
    let mut split = BTreeMap::new();
    for (index, interface) in &wanted.interfaces {
        for address in &interface.addresses {
            let of_family = split.entry(key_of((*index, *address)));
            let of_family = of_family.or_insert_with(|| WantedInterface {
                name: interface.name.clone(),
                mac: interface.mac,
                addresses: BTreeSet::new(),
            });
            of_family.addresses.insert(*address);
        }
    }
    split
}

fn addresses(wanted: &WantedInterface) -> Vec<IpAddr> {
    wanted.addresses.iter().copied().collect()
}

/// Asks once whether anybody has the address.
fn send_probe(socket: &PacketSocket, address: IpAddr) -> io::Result<()> {
    match address {
        IpAddr::V4(address) => socket.send(&arp::probe(address, socket.mac())),
        IpAddr::V6(address) => socket.send(&ndp::probe(address, socket.mac())),
    }
}

/// What a frame that the socket received claims.
fn claim(socket: &PacketSocket, frame: &[u8]) -> Result<Claim, IgnoreReason> {
    match socket.protocol() {
        Protocol::Arp => arp::claim(frame, socket.mac()),
        Protocol::NeighborDiscovery => ndp::claim(frame, socket.mac()),
    }
}

/// Passes on the claims in the frames of one interface until that goes down or away.
async fn listen(link: LinkKey, socket: Arc<PacketSocket>, claims: mpsc::Sender<Heard>) -> Lost {
    let mut buffer = [0; ndp::LONGEST_FRAME + 2];
    loop {
        let length = match socket.receive(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                return Lost {
                    link,
                    socket,
                    error,
                };
            }
        };
        let frame = buffer.get(..length).unwrap_or(&buffer);
        match claim(&socket, frame) {
            // The prober ends its listeners before it goes.
            Ok(claim) => drop(claims.send((link.0, claim)).await),
            Err(reason) => trace!(%reason, "ignored frame"),
        }
    }
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
