//! What becomes of a datagram that was opened: is it of the sender's present run, of ours, and new?
//! Only then is it a sign of life and is its body looked at.
//!
//! A run proves itself by giving back a number that was drawn for it (RFC 4086 strength comes from the
//! seed): so nothing that was captured before a restart of either side has any effect.

use std::time::Duration;

use rand::RngExt;

use super::member::{Member, Route, Source};
use super::swim::Identity;
use super::{Core, MOST_MEMBERS};
use crate::membership::datagram::{Body, Datagram, Heartbeat, Table, Versions};
use crate::membership::replay::{Seen, Way, Window};
use crate::model::text::Text;

/// A member is answered at most that often.
const ANSWER_EVERY: Duration = Duration::from_millis(2);
/// A run that is not known is asked at most that often.
const CHALLENGE_EVERY: Duration = Duration::from_millis(10);
/// An answer counts for so long.
const CHALLENGE_VALID: Duration = Duration::from_secs(2);

/// What was done with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was taken in.
    Fresh,
    /// It is the second copy, by another way.
    OtherWay,
    /// It began or continued the proof of a run.
    Handshake,
}

/// Why a datagram that was opened had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was seen before.
    Replayed,
    /// It is of another run of the sender, or for another run of this node.
    OtherRun,
    /// This node sent it.
    Own,
    /// Another node has the name of this one, or it is of an earlier run of this one.
    OwnName,
    /// Too many nodes are known.
    TooMany,
}

impl Core {
    /// Takes in a datagram that was opened.
    pub fn handle_datagram(
        &mut self,
        now: Duration,
        from: Source,
        datagram: Datagram,
    ) -> Result<Accepted, Refusal> {
        self.awake(now);
        if datagram.sender == self.settings.name {
            return Err(self.own_name(from, &datagram));
        }
        self.make_room(&datagram.sender)?;
        if let Body::Hello { challenge, answer } = datagram.body {
            return self.handle_hello(now, from, &datagram, challenge, answer);
        }
        let Datagram {
            sender,
            session,
            receiver_session,
            sequence,
            body,
        } = datagram;
        let member = self.members.entry(sender.clone()).or_default();
        if receiver_session != self.session || member.session != Some(session) {
            let asked = member
                .challenge
                .is_some_and(|(_, at)| now.saturating_sub(at) < CHALLENGE_EVERY);
            if !asked {
                self.challenge(&sender, now, from.into(), session);
            }
            return Err(Refusal::OtherRun);
        }
        match member.window.accept(sequence, from.way()) {
            Seen::Fresh => {}
            Seen::OtherWay => {
                member.note_way(from, now);
                return Ok(Accepted::OtherWay);
            }
            Seen::Replayed => return Err(Refusal::Replayed),
        }
        self.hear_directly(now, from, &sender);
        let about = match &body {
            Body::Part(part) if part.of != sender => Some(part.of.clone()),
            _ => None,
        };
        self.handle_body(now, &sender, body);
        self.follow_swim();
        self.decide_about(now, &sender);
        if let Some(other) = about {
            self.decide_about(now, &other);
        }
        Ok(Accepted::Fresh)
    }

    fn handle_body(&mut self, now: Duration, sender: &Text, body: Body) {
        match body {
            Body::Hello { .. } => {}
            Body::Heartbeat(heartbeat) => self.handle_heartbeat(now, sender, &heartbeat),
            Body::Swim(octets) => self.swim.receive(now, &octets),
            Body::Part(part) => self.handle_part(now, sender, &part),
            Body::Delta(delta) => self.handle_delta(sender, &delta),
            Body::Fetch(fetch) => self.handle_fetch(now, sender, &fetch),
            Body::Records(records) => {
                for record in records {
                    self.records.hear(record);
                }
            }
            Body::Buckets(digests) => self.handle_buckets(now, sender, &digests),
            Body::Roster(roster) => {
                for (name, addresses) in roster {
                    if name != self.settings.name && self.make_room(&name).is_ok() {
                        let member = self.members.entry(name).or_default();
                        if !member.hears_udp(now) {
                            for address in addresses.into_iter().take(2) {
                                member.note_address(address);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Somebody speaks under this node's name.
    fn own_name(&mut self, from: Source, datagram: &Datagram) -> Refusal {
        if datagram.session != self.session {
            return Refusal::OwnName;
        }
        if let Source::Udp(path) = from {
            for sought in &mut self.sought {
                sought.found |= sought.target.addresses.contains(&path.peer);
            }
        }
        Refusal::Own
    }

    fn make_room(&mut self, name: &Text) -> Result<(), Refusal> {
        if self.members.len() < MOST_MEMBERS || self.members.contains_key(name) {
            return Ok(());
        }
        self.members.retain(|_, member| member.session.is_some());
        if self.members.len() < MOST_MEMBERS {
            return Ok(());
        }
        Err(Refusal::TooMany)
    }

    fn handle_hello(
        &mut self,
        now: Duration,
        from: Source,
        datagram: &Datagram,
        challenge: u64,
        answer: u64,
    ) -> Result<Accepted, Refusal> {
        let sender = &datagram.sender;
        let for_us = datagram.receiver_session == self.session;
        let member = self.members.entry(sender.clone()).or_default();
        let proves = for_us
            && answer != 0
            && member.challenge.is_some_and(|(number, at)| {
                number == answer && now.saturating_sub(at) < CHALLENGE_VALID
            });
        let mut fresh = None;
        if for_us && (proves || member.session == Some(datagram.session)) {
            let began = member.session != Some(datagram.session);
            if began {
                member.session = Some(datagram.session);
                member.window = Window::default();
                member.advertised = Versions::default();
                member.udp = None;
                member.lan = None;
            }
            match member.window.accept(datagram.sequence, from.way()) {
                Seen::Fresh => {
                    self.hear_directly(now, from, sender);
                    if proves {
                        self.proved(sender);
                    }
                    if challenge != 0 {
                        self.asked(now, from, sender);
                    }
                    fresh = Some(began);
                }
                Seen::OtherWay => {
                    member.note_way(from, now);
                    return Ok(Accepted::OtherWay);
                }
                Seen::Replayed => return Err(Refusal::Replayed),
            }
        }
        self.answer(now, from, datagram, challenge);
        if fresh == Some(true) {
            self.beat_to(now, sender);
        }
        self.decide_about(now, sender);
        Ok(fresh.map_or(Accepted::Handshake, |_| Accepted::Fresh))
    }

    /// Gives a challenge back, with one of ours where the sender's run is not known.
    fn answer(&mut self, now: Duration, from: Source, datagram: &Datagram, challenge: u64) {
        let fresh = self.random.random::<u64>() | 1;
        let Some(member) = self.members.get_mut(&datagram.sender) else {
            return;
        };
        let known = member.session == Some(datagram.session);
        // Nothing is asked, and nothing is to be asked.
        if challenge == 0 && known && datagram.receiver_session == self.session {
            return;
        }
        // Without a challenge it greets whoever is there: a known one is only told that we are.
        let answered = match (challenge, from.way()) {
            (0, Way::Udp) => &mut member.greeted_by_udp,
            (0, Way::Lan) => &mut member.greeted_by_frames,
            _ => &mut member.answered,
        };
        // By ARP an answer waits for its turn, and whoever asks so may not hear any other one.
        if !matches!(from, Source::Arp(_)) {
            if answered.is_some_and(|at| now.saturating_sub(at) < ANSWER_EVERY) {
                return;
            }
            *answered = Some(now);
        }
        let number = match member.challenge {
            _ if known => 0,
            Some((number, at)) if now.saturating_sub(at) < CHALLENGE_VALID / 4 => number,
            _ => {
                member.challenge = Some((fresh, now));
                fresh
            }
        };
        member.sequence += 1;
        let sequence = member.sequence;
        let body = Body::Hello {
            challenge: number,
            answer: challenge,
        };
        let sender = datagram.sender.clone();
        let datagram = self.to_unknown(body, datagram.session, sequence);
        self.say_hello(&sender, Route::from(from), datagram);
    }

    /// A member that asks by ARP does not hear this node by other ways.
    fn asked(&mut self, now: Duration, from: Source, sender: &Text) {
        if let (Source::Arp(_), Some(member)) = (from, self.members.get_mut(sender)) {
            member.last_way.note_asked(now);
        }
    }

    /// A sign of life that this node heard itself.
    fn hear_directly(&mut self, now: Duration, from: Source, sender: &Text) {
        if let Some(member) = self.members.get_mut(sender) {
            member.note_way(from, now);
            member.last_way.note(from, now);
            member.direct = Some(now);
            member.note_sign(now);
        }
    }

    fn handle_heartbeat(&mut self, now: Duration, sender: &Text, heartbeat: &Heartbeat) {
        let Some(member) = self.members.get_mut(sender) else {
            return;
        };
        member.advertised = heartbeat.versions;
        member.advertised_by = None;
        if member.challenge.is_none() {
            member.confirmed = true;
        }
        let versions = heartbeat.versions;
        if versions.claims == 0 && versions.epoch > member.tables.claims_version.0 {
            member
                .tables
                .install(Table::Claims, (versions.epoch, 0), &[0]);
        }
        let identity = (versions.epoch, heartbeat.renewed);
        if member.met != Some(identity) {
            member.met = Some(identity);
            let (name, (epoch, renewed)) = (sender.clone(), identity);
            self.swim.meet(
                now,
                Identity {
                    name,
                    epoch,
                    renewed,
                },
            );
        }
        for known in &*heartbeat.known {
            self.handle_known(now, sender, known);
        }
        self.fetch(now, sender);
        self.compare(now, sender, heartbeat.records);
    }

    fn handle_known(
        &mut self,
        now: Duration,
        sender: &Text,
        known: &crate::membership::datagram::Known,
    ) {
        if known.name == self.settings.name {
            let (theirs, ours) = (known.versions, self.versions());
            let later = theirs.epoch == ours.epoch
                && (theirs.state > ours.state || theirs.claims > ours.claims);
            if theirs.epoch > ours.epoch || later {
                self.begin_run(now, known.versions.epoch.saturating_add(1));
            }
            return;
        }
        if self.make_room(&known.name).is_err() {
            return;
        }
        let silence = self.timing.silence;
        let member: &mut Member = self.members.entry(known.name.clone()).or_default();
        if let Some(age) = known.age {
            let at = now.saturating_sub(Duration::from_millis(u64::from(age)));
            member.note_sign(at);
        }
        if member.is_direct(now, silence) {
            return;
        }
        let held = (
            member.advertised.epoch,
            member.advertised.state,
            member.advertised.claims,
        );
        let versions = known.versions;
        if (versions.epoch, versions.state, versions.claims) >= held {
            member.advertised = versions;
            member.advertised_by = Some(sender.clone());
            if versions.claims == 0 && versions.epoch > member.tables.claims_version.0 {
                member
                    .tables
                    .install(Table::Claims, (versions.epoch, 0), &[0]);
            }
            self.fetch(now, &known.name);
        }
    }
}
