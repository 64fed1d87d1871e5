//! Takes in what an interface hears: many frames at a wake-up, each judged against the published set,
//! answered, remembered or counted. Opens and closes nothing.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use tracing::{debug, trace, warn};

use super::{Ready, Responder};
use crate::apply::announcer::askers::Askers;
use crate::apply::announcer::claims::{Claims, Told};
use crate::apply::announcer::counters::{
    ANSWERED, AnnouncerCounters, InterfaceCounters, RATE_LIMITED, SEND_FAILED,
};
use crate::apply::announcer::limit::SourceLimit;
use crate::apply::announcer::socket::{PacketSocket, Protocol};
use crate::apply::announcer::verdict::{AnnouncingInterface, Answer, IgnoreReason};
use crate::apply::announcer::{arp, ndp};
use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::MacAddress;

/// Frames in one go: some hundred microseconds of work.
const BATCH: usize = 64;
/// Neighbours remembered by who asked for which VIP.
const MOST_ASKERS: usize = 4096;

/// What is kept of what was heard.
pub(super) struct Hearing {
    pub(super) counters: InterfaceCounters,
    pub(super) askers: Askers,
    pub(super) claims: Claims,
    all_counters: AnnouncerCounters,
    limit: SourceLimit,
}

impl Hearing {
    pub(super) fn new(all: &AnnouncerCounters, interface: &str, told: Told) -> Self {
        Self {
            counters: all.on(interface),
            all_counters: all.clone(),
            askers: Askers::new(MOST_ASKERS),
            claims: Claims::new(told),
            limit: SourceLimit::new(Instant::now()),
        }
    }

    /// The interface has another name now.
    pub(super) fn rename(&mut self, interface: &str) {
        self.counters = self.all_counters.on(interface);
    }

    /// Judges a frame and sends the reply; gives the VIP that is to be defended.
    fn hear(
        &mut self,
        frame: &[u8],
        socket: &PacketSocket,
        interface: &AnnouncingInterface,
        announced: &AnnouncedSet,
        now: Instant,
    ) -> Option<IpAddr> {
        let protocol = socket.protocol();
        let source = frame.get(6..12).and_then(|source| source.try_into().ok());
        if source.is_some_and(|source| !self.limit.admits(source, now)) {
            self.counters.count_request(protocol, RATE_LIMITED);
            return None;
        }
        let result = match protocol {
            Protocol::Arp => arp::answer(frame, interface, announced)
                .map(|answer| self.reply(&answer, socket, interface, now)),
            Protocol::NeighborDiscovery => ndp::answer(frame, interface, announced)
                .map(|answer| self.reply(&answer, socket, interface, now)),
        };
        let mut defend = None;
        let result = result.unwrap_or_else(|reason| {
            trace!(interface = interface.name, %reason, "ignored frame");
            defend = self.ignore(reason, interface, now);
            reason.as_str()
        });
        self.counters.count_request(protocol, result);
        defend
    }

    fn reply<Frame: AsRef<[u8]>>(
        &mut self,
        answer: &Answer<Frame>,
        socket: &PacketSocket,
        interface: &AnnouncingInterface,
        now: Instant,
    ) -> &'static str {
        let vip = answer.vip;
        if let Some(asker) = answer.asker {
            self.askers.heard(vip, asker, now);
        }
        match socket.send(answer.frame.as_ref()) {
            Ok(()) => {
                self.counters.count_reply(socket.protocol());
                trace!(%vip, interface = interface.name, "answered request");
                ANSWERED
            }
            Err(error) => {
                debug!(%vip, interface = interface.name, %error, "could not send reply");
                SEND_FAILED
            }
        }
    }

    fn ignore(
        &mut self,
        reason: IgnoreReason,
        interface: &AnnouncingInterface,
        now: Instant,
    ) -> Option<IpAddr> {
        let (vip, mac, by_peer) = match reason {
            IgnoreReason::NotOwned { vip, asker } => {
                if let Some(asker) = asker {
                    self.askers.heard(vip, asker, now);
                }
                return None;
            }
            IgnoreReason::Conflict { vip, mac } => (vip, mac, false),
            IgnoreReason::Rival { vip, mac } => (vip, mac, true),
            _ => return None,
        };
        self.counters.count_claim(vip, by_peer);
        let reaction = self.claims.heard(vip, mac, by_peer, now);
        if reaction.log {
            let (claimant, interface) = (MacAddress(mac), &interface.name);
            if by_peer {
                warn!(%vip, %claimant, interface, "another node claims the address");
            } else {
                warn!(%vip, %claimant, interface, "another host claims the address");
            }
        }
        reaction.defend.then_some(vip)
    }
}

impl Responder {
    /// Takes in what waits, a bounded number of frames; true where there may be more.
    pub(super) fn drain(
        &mut self,
        protocol: Protocol,
        ready: Ready<'_>,
        buffer: &mut [u8],
    ) -> bool {
        let (socket, mut guard) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                self.lose_sockets(&error);
                return false;
            }
        };
        debug_assert_eq!(socket.protocol(), protocol);
        let mut defend = Vec::new();
        let drained = {
            // Held while sending: once the publisher has replaced the set, nothing is sent for a VIP
            // that is not in the new one.
            let announced = self.announced.borrow();
            let now = Instant::now();
            let mut taken = 0;
            loop {
                if taken == BATCH {
                    break Ok(true);
                }
                taken += 1;
                match socket.try_receive(buffer) {
                    Ok(Some(length)) => {
                        let frame = buffer.get(..length).unwrap_or(buffer);
                        let interface = &self.interface;
                        let contested =
                            (self.hearing).hear(frame, socket, interface, &announced, now);
                        // One defence for all claims of this go.
                        defend.extend(contested.filter(|vip| !defend.contains(vip)));
                    }
                    Ok(None) => {
                        guard.clear_ready();
                        break Ok(false);
                    }
                    Err(error) => break Err(error),
                }
            }
        };
        for vip in defend {
            self.defend(vip);
        }
        drained.unwrap_or_else(|error: io::Error| {
            self.lose_sockets(&error);
            false
        })
    }
}
