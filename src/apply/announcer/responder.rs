//! Answers and announces on one interface: owns its socket and its schedule of gratuitous frames. What
//! may be answered is read from the published set at each frame; this file decides only when to open,
//! close and try again. An interface that goes down, away or comes back never ends it.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, trace, warn};

use super::InterfaceProblem;
use super::arp::{self, AnnouncingInterface, IgnoreReason};
use super::burst::{BurstSettings, Schedule};
use super::counters::{ANSWERED, AnnouncerCounters, SEND_FAILED};
use super::filter;
use super::socket::{ArpSocket, SocketError, is_link_error};
use crate::apply::jitter::jitter;
use crate::model::announcement::AnnouncedSet;

/// First wait before a failed interface is tried again; doubled up to [`LONGEST_RETRY`]. Short enough
/// that a recreated interface answers again within half a second.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_millis(200);
/// The same while no VIP waits for it.
const LONGEST_IDLE_RETRY: Duration = Duration::from_secs(2);
/// Wait after a full send queue.
const SEND_RETRY: Duration = Duration::from_millis(5);
/// Gratuitous announcements in one go, so that requests are answered in between.
const ANNOUNCE_BATCH: usize = 64;
/// A conflict is logged once in this time for each VIP (RFC 5227, `DEFEND_INTERVAL`).
const CONFLICT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The shared problems of all interfaces, by index.
pub(super) type Problems = Arc<watch::Sender<BTreeMap<u32, InterfaceProblem>>>;

/// The task of one interface.
pub(super) struct Responder {
    announced: watch::Receiver<Arc<AnnouncedSet>>,
    /// The generation that is in force here.
    applied: watch::Sender<Option<u64>>,
    counters: AnnouncerCounters,
    problems: Problems,
    interface: AnnouncingInterface,
    /// The hardware address that the newest set names; the socket's own may be newer.
    told_mac: [u8; 6],
    /// Ascending.
    vips: Vec<Ipv4Addr>,
    schedule: Schedule,
    socket: Option<ArpSocket>,
    /// When to try again to open the socket; only without a socket.
    retry: Option<Instant>,
    retry_interval: Duration,
    logged_conflicts: BTreeMap<Ipv4Addr, Instant>,
    random: RandomState,
}

impl Responder {
    pub(super) fn new(
        index: u32,
        settings: BurstSettings,
        announced: watch::Receiver<Arc<AnnouncedSet>>,
        applied: watch::Sender<Option<u64>>,
        counters: AnnouncerCounters,
        problems: Problems,
    ) -> Self {
        Self {
            announced,
            applied,
            counters,
            problems,
            interface: AnnouncingInterface {
                index,
                name: String::new(),
                mac: [0; 6],
            },
            told_mac: [0; 6],
            vips: Vec::new(),
            schedule: Schedule::new(settings),
            socket: None,
            retry: None,
            retry_interval: FIRST_RETRY,
            logged_conflicts: BTreeMap::new(),
            random: RandomState::new(),
        }
    }

    /// Runs until the publisher of the set is gone.
    pub(super) async fn run(mut self) {
        let mut buffer = [0; filter::ACCEPTED_LENGTH as usize];
        self.adopt();
        loop {
            let wake = self.next_wake();
            // Not biased: neither a flood of frames nor a long burst may starve the other.
            tokio::select! {
                changed = self.announced.changed() => match changed {
                    Ok(()) => self.adopt(),
                    Err(_publisher_gone) => return,
                },
                () = sleep_until(wake) => self.act(),
                received = receive(self.socket.as_ref(), &mut buffer) => match received {
                    Ok(length) => self.answer(buffer.get(..length).unwrap_or(&buffer)),
                    Err(error) => self.lose_socket(&error),
                },
            }
        }
    }

    /// Makes the newest set this interface's own and says so.
    fn adopt(&mut self) {
        let set = Arc::clone(&self.announced.borrow_and_update());
        let index = self.interface.index;
        let vips: Vec<Ipv4Addr> = set.ipv4_addresses(index).collect();
        for vip in without(&self.vips, &vips) {
            self.schedule.withdraw(IpAddr::V4(vip));
            self.logged_conflicts.remove(&vip);
            info!(%vip, interface = self.interface.name, "withdrew address");
        }
        let before = std::mem::replace(&mut self.vips, vips);
        if let Some(wanted) = set.interfaces.get(&index) {
            self.interface.name.clone_from(&wanted.name);
            // The kernel has the last word on the hardware address: a set with another one only
            // makes this task look again, once.
            let told = std::mem::replace(&mut self.told_mac, wanted.mac);
            match &self.socket {
                Some(socket) if wanted.mac == told || wanted.mac == socket.mac() => {
                    if before != self.vips {
                        self.refilter(&before);
                    }
                }
                // Also without VIPs: opening takes some 20 ms, which a take-over should not wait for.
                _ => self.open(),
            }
        } else {
            self.socket = None;
            self.retry = None;
            self.solved();
        }
        self.applied.send_replace(Some(set.generation));
    }

    /// Puts changed VIPs into the filter of the open socket and starts the bursts of the new ones.
    fn refilter(&mut self, before: &[Ipv4Addr]) {
        let Some(socket) = &self.socket else { return };
        match socket.set_vips(&self.vips) {
            Ok(()) => self.take_over(before),
            Err(error) => self.fail(&error),
        }
    }

    /// Starts the bursts of the VIPs that were not there before.
    fn take_over(&mut self, before: &[Ipv4Addr]) {
        let now = Instant::now();
        for vip in without(&self.vips, before) {
            let jitter = jitter(&self.random);
            self.schedule.take_over(IpAddr::V4(vip), now, jitter);
            info!(%vip, interface = self.interface.name, "announced address");
        }
    }

    fn open(&mut self) {
        self.socket = None;
        self.retry = None;
        match ArpSocket::open(self.interface.index, &self.interface.name, &self.vips) {
            Ok(socket) => {
                debug!(
                    interface = self.interface.name,
                    index = socket.index(),
                    vips = self.vips.len(),
                    "opened packet socket"
                );
                self.interface.mac = socket.mac();
                self.socket = Some(socket);
                self.retry_interval = FIRST_RETRY;
                self.solved();
                // Whatever the neighbours learnt meanwhile: they are told again.
                self.take_over(&[]);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn lose_socket(&mut self, error: &io::Error) {
        debug!(interface = self.interface.name, %error, "lost packet socket");
        self.socket = None;
        self.retry = Some(Instant::now() + FIRST_RETRY);
    }

    /// Notes why there is no socket, once for each new reason, and when to try again.
    fn fail(&mut self, error: &SocketError) {
        self.socket = None;
        self.retry = Some(Instant::now() + self.retry_interval);
        let longest = if self.vips.is_empty() {
            LONGEST_IDLE_RETRY
        } else {
            LONGEST_RETRY
        };
        self.retry_interval = (self.retry_interval * 2).min(longest);
        self.report(error.to_string());
    }

    fn report(&self, error: String) {
        let problem = InterfaceProblem {
            interface: self.interface.name.clone(),
            error,
        };
        self.problems.send_if_modified(|problems| {
            if problems.get(&self.interface.index) == Some(&problem) {
                return false;
            }
            warn!(
                interface = problem.interface,
                error = problem.error,
                "cannot announce on interface"
            );
            problems.insert(self.interface.index, problem);
            true
        });
    }

    fn solved(&self) {
        self.problems.send_if_modified(|problems| {
            let solved = problems.remove(&self.interface.index);
            if let Some(problem) = &solved {
                info!(
                    interface = problem.interface,
                    error = problem.error,
                    "interface has recovered or is not needed any more"
                );
            }
            solved.is_some()
        });
    }

    fn next_wake(&self) -> Option<Instant> {
        if self.socket.is_some() {
            self.schedule.next_due()
        } else {
            self.retry
        }
    }

    /// Opens the socket again or sends the gratuitous frames that are due.
    fn act(&mut self) {
        let now = Instant::now();
        if self.socket.is_none() && self.retry.is_some_and(|retry| retry <= now) {
            self.open();
            return;
        }
        for _ in 0..ANNOUNCE_BATCH {
            let Some(vip) = self.schedule.due(now) else {
                return;
            };
            match self.announce(vip) {
                Ok(()) => {
                    let jitter = jitter(&self.random);
                    self.schedule.sent(vip, now, jitter);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.schedule.postpone(vip, now + SEND_RETRY);
                    return;
                }
                Err(error) if is_link_error(&error) => return self.lose_socket(&error),
                Err(error) => {
                    // For instance ENOBUFS, when the fence forbids this node to announce. The burst
                    // repeats by itself.
                    self.report(format!("cannot send gratuitous ARP for {vip}: {error}"));
                    let jitter = jitter(&self.random);
                    self.schedule.sent(vip, now, jitter);
                }
            }
        }
    }

    /// Sends both gratuitous frames of a VIP.
    fn announce(&self, vip: IpAddr) -> io::Result<()> {
        let (Some(socket), IpAddr::V4(address)) = (&self.socket, vip) else {
            return Ok(());
        };
        // Held while sending: once the publisher has replaced the set, nothing is sent for a VIP that
        // is not in the new one.
        let announced = self.announced.borrow();
        if !announced.contains(self.interface.index, vip) {
            return Ok(());
        }
        for frame in arp::gratuitous(address, socket.mac()) {
            socket.send(&frame)?;
            self.counters.count_gratuitous(&self.interface.name, "ipv4");
        }
        trace!(%vip, interface = self.interface.name, "sent gratuitous frames");
        drop(announced);
        self.solved();
        Ok(())
    }

    /// Judges a received frame and sends the reply.
    fn answer(&mut self, frame: &[u8]) {
        let Some(socket) = &self.socket else { return };
        // Held while sending, for the same reason as above.
        let announced = self.announced.borrow();
        let result = match arp::answer(frame, &self.interface, &announced) {
            Ok(answer) => match socket.send(&answer.frame) {
                Ok(()) => {
                    self.counters.count_reply(&self.interface.name);
                    trace!(vip = %answer.vip, interface = self.interface.name, "answered request");
                    ANSWERED
                }
                Err(error) => {
                    debug!(vip = %answer.vip, interface = self.interface.name, %error, "could not send reply");
                    SEND_FAILED
                }
            },
            Err(reason) => {
                trace!(interface = self.interface.name, %reason, "ignored frame");
                if let IgnoreReason::Conflict { vip, mac } = reason {
                    self.counters.count_conflict(IpAddr::V4(vip));
                    let now = Instant::now();
                    let logged = self.logged_conflicts.get(&vip);
                    if logged.is_none_or(|at| now.duration_since(*at) >= CONFLICT_LOG_INTERVAL) {
                        self.logged_conflicts.insert(vip, now);
                        let claimant = smoltcp::wire::EthernetAddress(mac);
                        warn!(%vip, %claimant, interface = self.interface.name, "another host claims the address");
                    }
                }
                reason.as_str()
            }
        };
        self.counters.count_request(&self.interface.name, result);
    }
}

/// The VIPs that are not among the others, both ascending.
fn without(vips: &[Ipv4Addr], others: &[Ipv4Addr]) -> Vec<Ipv4Addr> {
    let missing = |vip: &&Ipv4Addr| others.binary_search(vip).is_err();
    vips.iter().filter(missing).copied().collect()
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

async fn receive(socket: Option<&ArpSocket>, buffer: &mut [u8]) -> io::Result<usize> {
    match socket {
        Some(socket) => socket.receive(buffer).await,
        None => std::future::pending().await,
    }
}
