//! Signs of life: heartbeats to all who are there, greetings to all who should be, questions to those
//! who have been silent for a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use super::member::{Member, Route, UdpPath};
use super::{Core, Outgoing, Target};
use crate::membership::datagram::{BODY_BUDGET, Body, Datagram, Heartbeat, Known};
use crate::model::text::Text;

/// How often whoever does not answer is asked.
const HELLO: Duration = Duration::from_millis(500);
/// How often in the first two seconds.
const HELLO_FIRST: Duration = Duration::from_millis(100);
const FIRST: Duration = Duration::from_secs(2);
/// How often it is told where others were heard.
const ROSTER: Duration = Duration::from_secs(1);
/// A node that is down is forgotten after that.
const FORGOTTEN: Duration = Duration::from_secs(3600);

impl Core {
    /// Asks somebody to prove that it is there, whoever it is.
    pub(super) fn hello(&mut self, route: Route) {
        let challenge = 0;
        self.outgoing.push(Outgoing {
            route,
            datagram: self.to_unknown(
                Body::Hello {
                    challenge,
                    answer: 0,
                },
                0,
                0,
            ),
        });
    }

    /// Asks a known member to prove that it is there now.
    pub(super) fn challenge(&mut self, name: &Text, now: Duration, route: Route, session: u64) {
        if let Some(datagram) = self.question(name, now, Some(session)) {
            self.say_hello(name, route, datagram);
        }
    }

    /// A challenge for this run of a member, or for the one that is known.
    pub(super) fn question(
        &mut self,
        name: &Text,
        now: Duration,
        session: Option<u64>,
    ) -> Option<Datagram> {
        let fresh = self.random.random::<u64>() | 1;
        let member = self.members.get_mut(name)?;
        let session = session.or(member.session)?;
        // One that is on its way stays valid, or whoever is slow could never answer in time.
        let number = match member.challenge {
            Some((number, at)) if now.saturating_sub(at) < self.timing.silence => number,
            _ => {
                member.challenge = Some((fresh, now));
                fresh
            }
        };
        member.sequence += 1;
        let sequence = member.sequence;
        let body = Body::Hello {
            challenge: number,
            answer: 0,
        };
        Some(self.to_unknown(body, session, sequence))
    }

    /// Asks all who have been silent for a while: a lost heartbeat must not make them look dead.
    pub(super) fn doubt(&mut self, now: Duration) {
        let doubted = self.members.iter().filter(|(_, member)| {
            member.alive
                && member.is_direct(now, self.timing.silence)
                && !member.is_direct(now, self.timing.doubt)
        });
        let doubted: Vec<(Text, Route, u64)> = doubted
            .map(|(name, member)| (name.clone(), member.route(), member.session.unwrap_or(0)))
            .collect();
        for (name, route, session) in doubted {
            self.challenge(&name, now, route, session);
        }
    }

    pub(super) fn beat(&mut self, now: Duration) {
        let heartbeat = self.heartbeat(now);
        self.send_all(&Body::Heartbeat(heartbeat));
    }

    pub(super) fn heartbeat(&self, now: Duration) -> Heartbeat {
        Heartbeat {
            versions: self.versions(),
            renewed: self.swim.renewed(),
            records: self.records.digest(),
            known: self.known(now),
        }
    }

    /// Whom this node hears, as far as it fits into a datagram; where it does not, others each time.
    pub(super) fn known(&self, now: Duration) -> Arc<[Known]> {
        let mut left = BODY_BUDGET - 64;
        let total = self.members.len().max(1);
        let start = usize::try_from(self.ticks / 2).unwrap_or_default() % total;
        let start = if self.members.len() > 24 { start } else { 0 };
        let rotated = self
            .members
            .iter()
            .cycle()
            .skip(start)
            .take(self.members.len());
        rotated
            .filter_map(|(name, member)| {
                let direct = now.saturating_sub(member.direct?);
                let versions = member.tables.versions()?;
                let heard = direct < self.timing.silence;
                // Rounded up: a sign of life is never said to be younger than it is.
                let age = u16::try_from(direct.as_micros().div_ceil(1000)).ok();
                let age = age.filter(|_| heard);
                age.is_some().then(|| Known {
                    name: name.clone(),
                    age,
                    versions,
                })
            })
            .take_while(|known| {
                let octets = known.name.len() + 34;
                let fits = octets <= left;
                left = left.saturating_sub(octets);
                fits
            })
            .collect()
    }

    /// Asks all who should be there and are not heard.
    pub(super) fn greet(&mut self, now: Duration) {
        let first = now.saturating_sub(self.started) < FIRST;
        let every = if first { HELLO_FIRST } else { HELLO };
        self.next_hello = now + every;
        // As often: the way by ARP frames is not known before the first greeting by frames arrived, and
        // UDP alone may be cut a moment after the start.
        if now >= self.next_neighbours {
            self.next_neighbours = now + every;
            self.hello(Route {
                neighbours: true,
                ..Route::default()
            });
        }
        for sought in &mut self.sought {
            sought.found |= self.members.values().any(|member| sought.target.is(member));
        }
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let members = &self.members;
        let missing = self.sought.iter().filter(|sought| {
            !members
                .values()
                .any(|member| member.hears_udp(now) && sought.target.is(member))
        });
        addresses.extend(missing.flat_map(|sought| &sought.target.addresses));
        // A member that is heard by frames only may be in reach by UDP again.
        let unheard = members.values().filter(|member| !member.hears_udp(now));
        addresses.extend(unheard.flat_map(|member| &member.addresses));
        addresses.sort_unstable();
        addresses.dedup();
        for peer in addresses {
            let udp = Some(UdpPath { peer, local: None });
            self.hello(Route {
                udp,
                ..Route::default()
            });
        }
        self.members.retain(|_, member| {
            member.alive || now.saturating_sub(member.sign.unwrap_or(now)) < FORGOTTEN
        });
    }

    pub(super) fn tell_roster(&mut self, now: Duration) {
        self.next_roster = now + ROSTER;
        let mut left = BODY_BUDGET;
        let heard = self.members.iter().filter_map(|(name, member)| {
            let address = member.udp.filter(|_| member.hears_udp(now))?.path.peer;
            Some((name.clone(), vec![address]))
        });
        let roster: Vec<(Text, Vec<SocketAddr>)> = heard
            .take_while(|(name, _)| {
                let octets = name.len() + 24;
                let fits = octets <= left;
                left = left.saturating_sub(octets);
                fits
            })
            .collect();
        if roster.len() > 1 {
            self.send_all(&Body::Roster(roster));
        }
    }
}

impl Target {
    pub(super) fn is(&self, member: &Member) -> bool {
        member.session.is_some()
            && member
                .addresses
                .iter()
                .any(|address| self.addresses.contains(address))
    }
}
