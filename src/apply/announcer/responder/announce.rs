//! Sends what nobody asked for: the gratuitous frames that are due, those that defend a VIP, and those
//! for single neighbours behind them. When they are due, the schedule decides.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::trace;

use super::Responder;
use super::trouble::Kind;
use crate::apply::announcer::socket::{PacketSocket, is_link_error};
use crate::apply::announcer::verdict::Neighbour;
use crate::apply::announcer::{arp, ndp};
use crate::apply::jitter::jitter;

/// Wait after a full send queue.
const SEND_RETRY: Duration = Duration::from_millis(5);
/// Gratuitous announcements in one go, so that requests are answered in between.
const ANNOUNCE_BATCH: usize = 64;
/// Announcements for single neighbours in one go, and the wait for the next ones: 3,200 in a second.
const REFRESH_BATCH: usize = 16;
const REFRESH_PAUSE: Duration = Duration::from_millis(5);
/// Neighbours that may wait for their announcement.
const MOST_WAITING: usize = 8192;

/// The neighbours that wait for an announcement of their own.
#[derive(Debug, Default)]
pub(super) struct Refreshes {
    waiting: VecDeque<(IpAddr, Neighbour)>,
    due: Option<Instant>,
}

impl Refreshes {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due
    }
}

impl Responder {
    /// Sends the frames that are due.
    pub(super) fn announce_due(&mut self, now: Instant) {
        while let Some(vip) = self.hearing.claims.due(now) {
            // The next claim makes up for one that could not be sent.
            let _ = self.announce(vip);
        }
        self.announce_scheduled(now);
        if self.refreshes.due.is_some_and(|due| due <= now) {
            self.refresh_neighbours(now);
        }
    }

    /// One announcement against a claim of another host.
    pub(super) fn defend(&mut self, vip: IpAddr) {
        if self.announce(vip).is_ok() {
            self.hearing.claims.defended(vip, Instant::now());
        }
    }

    fn announce_scheduled(&mut self, now: Instant) {
        for _ in 0..ANNOUNCE_BATCH {
            if self.open.is_none() {
                return;
            }
            let Some(vip) = self.schedule.due(now) else {
                return;
            };
            let for_neighbours = self.schedule.is_for_neighbours(vip);
            match self.announce(vip) {
                Ok(()) => {
                    if for_neighbours {
                        self.wait_for_refresh(vip, now);
                    }
                    let jitter = jitter(&self.random);
                    self.schedule.sent(vip, now, jitter);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.schedule.postpone(vip, now + SEND_RETRY);
                    return;
                }
                Err(error) if is_link_error(&error) => return self.lose_sockets(&error),
                Err(error) => {
                    // For instance ENOBUFS, when the fence forbids this node to announce. The burst
                    // repeats by itself.
                    let error = format!("cannot send gratuitous frames for {vip}: {error}");
                    let name = &self.interface.name;
                    self.troubles.report(Kind::Sending, name, &error);
                    let jitter = jitter(&self.random);
                    self.schedule.sent(vip, now, jitter);
                }
            }
        }
    }

    /// Sends both gratuitous frames of a VIP.
    fn announce(&mut self, vip: IpAddr) -> io::Result<()> {
        let Some(open) = &self.open else {
            return Ok(());
        };
        // Held while sending: once the publisher has replaced the set, nothing is sent for a VIP that
        // is not in the new one.
        let announced = self.announced.borrow();
        if !announced.contains(self.interface.index, vip) {
            return Ok(());
        }
        let counters = &self.hearing.counters;
        let send = |socket: &PacketSocket, frame: &[u8]| {
            socket.send(frame)?;
            counters.count_gratuitous(vip);
            Ok::<_, io::Error>(())
        };
        match vip {
            IpAddr::V4(address) => {
                for frame in arp::gratuitous(address, open.arp.mac()) {
                    send(&open.arp, &frame)?;
                }
            }
            IpAddr::V6(address) => {
                for frame in ndp::unsolicited(address, open.ndp.mac()) {
                    send(&open.ndp, &frame)?;
                }
            }
        }
        drop(announced);
        trace!(%vip, interface = self.interface.name, "sent gratuitous frames");
        self.troubles.solve(Kind::Sending);
        Ok(())
    }

    /// Lets the neighbours that asked for the VIP wait for their announcement.
    fn wait_for_refresh(&mut self, vip: IpAddr, now: Instant) {
        let waiting = &mut self.refreshes.waiting;
        let room = MOST_WAITING.saturating_sub(waiting.len());
        let askers = self.hearing.askers.of(vip, now).take(room);
        waiting.extend(askers.map(|neighbour| (vip, neighbour)));
        if !waiting.is_empty() {
            self.refreshes.due.get_or_insert(now);
        }
    }

    fn refresh_neighbours(&mut self, now: Instant) {
        let Some(open) = &self.open else {
            // Whoever was to be told is told again when the interface is back.
            self.refreshes = Refreshes::default();
            return;
        };
        // As above.
        let announced = self.announced.borrow();
        for _ in 0..REFRESH_BATCH {
            let Some((vip, neighbour)) = self.refreshes.waiting.pop_front() else {
                break;
            };
            if !announced.contains(self.interface.index, vip) {
                continue;
            }
            let sent = match (vip, neighbour.address) {
                (IpAddr::V4(vip), _) => {
                    let frame = arp::refresh(vip, open.arp.mac(), neighbour.mac);
                    open.arp.send(&frame)
                }
                (IpAddr::V6(vip), IpAddr::V6(address)) => {
                    let frame = ndp::refresh(vip, open.ndp.mac(), address, neighbour.mac);
                    open.ndp.send(&frame)
                }
                (IpAddr::V6(_), IpAddr::V4(_)) => continue,
            };
            match sent {
                Ok(()) => self.hearing.counters.count_refresh(vip),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.refreshes.waiting.push_front((vip, neighbour));
                    break;
                }
                // The broadcast frames meet the same error, and report it.
                Err(error) => trace!(%vip, %error, "could not tell neighbour"),
            }
        }
        drop(announced);
        self.refreshes.due = (!self.refreshes.waiting.is_empty()).then(|| now + REFRESH_PAUSE);
    }
}
