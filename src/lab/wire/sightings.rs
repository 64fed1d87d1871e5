//! What an eye has seen, and what that means: who answers, for how long nobody did, for how long
//! several did. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::lab::MacAddress;

/// Two stations that take turns faster than this answer at the same time.
const AT_THE_SAME_TIME: Duration = Duration::from_millis(250);

/// How somebody said that it has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the question of the eye.
    Answer,
    /// To all hosts, or to somebody else.
    Announcement,
}

/// Somebody said that it has an address.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// When it was heard.
    pub at: Instant,
    /// The address.
    pub address: IpAddr,
    /// What neighbors learn from it.
    pub mac: MacAddress,
    /// How it was said.
    pub kind: Kind,
}

/// All sightings, in the order of their time.
#[derive(Debug, Clone)]
pub struct Sightings {
    start: Instant,
    all: Vec<Sighting>,
}

impl Sightings {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            start,
            all: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, sighting: Sighting) {
        self.all.push(sighting);
    }

    /// All of them.
    pub fn all(&self) -> &[Sighting] {
        &self.all
    }

    /// Who answered for the address, since then or ever.
    pub fn answering(&self, address: IpAddr, since: Option<Instant>) -> BTreeSet<MacAddress> {
        self.of(address)
            .rev()
            .take_while(|sighting| since.is_none_or(|since| sighting.at >= since))
            .filter(|sighting| sighting.kind == Kind::Answer)
            .map(|sighting| sighting.mac)
            .collect()
    }

    /// The longest time in which none of these stations answered for the address, up to `now`.
    pub fn longest_silence(
        &self,
        address: IpAddr,
        among: &BTreeSet<MacAddress>,
        now: Instant,
    ) -> Duration {
        let answers = self
            .of(address)
            .filter(|sighting| sighting.kind == Kind::Answer && among.contains(&sighting.mac))
            .map(|sighting| sighting.at)
            .chain([now]);
        let mut last = self.start;
        let mut longest = Duration::ZERO;
        for at in answers {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    /// The longest time in which several of these stations said at once that they have the address.
    /// A clean handover is no time at all.
    pub fn longest_contention(&self, address: IpAddr, among: &BTreeSet<MacAddress>) -> Duration {
        let mut longest = Duration::ZERO;
        let mut before: Option<MacAddress> = None;
        // The first and the last change of voices that follow one another at once.
        let mut quarrel: Option<(Instant, Instant)> = None;
        for sighting in self.of(address).filter(|it| among.contains(&it.mac)) {
            if before
                .replace(sighting.mac)
                .is_some_and(|mac| mac != sighting.mac)
            {
                let began = match quarrel {
                    Some((began, last))
                        if sighting.at.saturating_duration_since(last) < AT_THE_SAME_TIME =>
                    {
                        began
                    }
                    _ => sighting.at,
                };
                quarrel = Some((began, sighting.at));
                longest = longest.max(sighting.at.saturating_duration_since(began));
            }
        }
        longest
    }

    fn of(&self, address: IpAddr) -> impl DoubleEndedIterator<Item = &Sighting> {
        self.all
            .iter()
            .filter(move |sighting| sighting.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const LIAR: MacAddress = MacAddress([2, 0, 0, 0, 0, 9]);
    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 200));

    fn seen(voices: &[(u64, MacAddress)]) -> (Sightings, Instant) {
        let start = Instant::now();
        let mut sightings = Sightings::new(start);
        for (milliseconds, mac) in voices {
            sightings.push(Sighting {
                at: start + Duration::from_millis(*milliseconds),
                address: ADDRESS,
                mac: *mac,
                kind: Kind::Answer,
            });
        }
        (sightings, start)
    }

    fn contention(voices: &[(u64, MacAddress)]) -> u128 {
        let nodes = BTreeSet::from([A, B]);
        seen(voices)
            .0
            .longest_contention(ADDRESS, &nodes)
            .as_millis()
    }

    #[test]
    fn a_clean_handover_is_no_contention() {
        assert_eq!(contention(&[(0, A), (20, A), (40, B), (60, B)]), 0);
        assert_eq!(contention(&[(0, A), (20, B), (900, A), (920, A)]), 0);
    }

    #[test]
    fn stations_that_take_turns_contend_from_the_first_change_to_the_last() {
        assert_eq!(
            contention(&[(0, A), (20, B), (40, A), (60, B), (80, B)]),
            40
        );
        assert_eq!(
            contention(&[(0, A), (20, B), (200, A), (440, B), (1000, A), (1100, B)]),
            420
        );
    }

    #[test]
    fn a_liar_is_no_contender() {
        assert_eq!(contention(&[(0, A), (10, LIAR), (20, A), (30, LIAR)]), 0);
    }

    #[test]
    fn silence_counts_from_the_start_and_up_to_now() {
        let nodes = BTreeSet::from([A, B]);
        let (sightings, start) = seen(&[(300, A), (310, LIAR), (400, B)]);
        let silence = |now| {
            sightings
                .longest_silence(ADDRESS, &nodes, start + Duration::from_millis(now))
                .as_millis()
        };
        assert_eq!(silence(410), 300);
        assert_eq!(silence(1000), 600);
        assert_eq!(sightings.answering(ADDRESS, None).len(), 3);
        assert_eq!(
            sightings.answering(ADDRESS, Some(start + Duration::from_millis(305))),
            BTreeSet::from([B, LIAR])
        );
    }
}
