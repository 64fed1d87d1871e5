//! When addresses are probed, and what a claim does. What touches the kernel is tested in the lab.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::schedule::{Place, ProbeSettings, Schedule};
use crate::model::foreign::MacAddress;

fn place(last: u8) -> Place {
    (2, IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

/// A schedule whose clock stands still until it is told to go on; nothing strays.
struct Clock {
    schedule: Schedule,
    start: Instant,
    now: Instant,
}

impl Clock {
    fn new(settings: ProbeSettings, wanted: impl IntoIterator<Item = Place>) -> Self {
        let now = Instant::now();
        let mut clock = Self {
            schedule: Schedule::new(settings),
            start: now,
            now,
        };
        clock.want(wanted);
        clock
    }

    fn want(&mut self, wanted: impl IntoIterator<Item = Place>) {
        let wanted = wanted.into_iter().collect();
        self.schedule.want(&wanted, self.now, || 0.0);
    }

    /// Sends all that is due until so many milliseconds after the start; gives when each was sent.
    fn until(&mut self, milliseconds: u64) -> Vec<(u128, Place)> {
        let end = self.start + Duration::from_millis(milliseconds);
        let mut sent = Vec::new();
        while let Some(due) = self.schedule.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            while let Some(place) = self.schedule.due(self.now, || 0.0) {
                sent.push(((self.now - self.start).as_millis(), place));
                self.schedule.sent(place, self.now, 0.0);
            }
        }
        self.now = end;
        sent
    }

    fn hear(&mut self, place: Place, mac: MacAddress) {
        self.schedule.hear(place, mac, self.now);
    }

    fn users(&self) -> Vec<String> {
        let foreign = self.schedule.foreign();
        foreign
            .iter()
            .map(|(address, mac)| format!("{address} {mac}"))
            .collect()
    }
}

#[test]
fn an_address_is_probed_three_times_and_again_after_five_minutes() {
    let mut clock = Clock::new(ProbeSettings::default(), [place(7)]);
    let round = |start: u128| {
        [0, 200, 400]
            .map(|offset| (start + offset, place(7)))
            .to_vec()
    };
    assert_eq!(clock.until(299_000), round(300));
    assert_eq!(clock.until(500_000), round(300_900));
    assert_eq!(clock.users(), [""; 0]);
    assert!(!clock.schedule.take_changed());
}

#[test]
fn who_answers_uses_it_until_a_whole_round_is_silent() {
    let mut clock = Clock::new(ProbeSettings::default(), [place(7), place(8)]);
    clock.until(350);
    clock.hear(place(7), mac(1));
    clock.hear(place(7), mac(2));
    clock.hear((3, place(7).1), mac(3));
    clock.hear(place(9), mac(3));
    assert_eq!(clock.users(), [""; 0], "the round is not over");
    clock.until(900);
    assert_eq!(
        clock.users(),
        ["192.0.2.7 02:00:00:00:00:01"],
        "the first one, and nothing that is not wanted"
    );
    assert!(clock.schedule.take_changed() && !clock.schedule.take_changed());

    // Between rounds nobody else takes its place, and no round begins for it.
    clock.hear(place(7), mac(2));
    assert_eq!(clock.until(30_800), []);
    assert_eq!(clock.until(30_900).len(), 1);
    clock.hear(place(7), mac(2));
    clock.until(31_600);
    assert_eq!(
        clock.users(),
        ["192.0.2.7 02:00:00:00:00:02"],
        "another host has it now"
    );
    assert!(clock.schedule.take_changed());
    assert_eq!(clock.until(62_200).len(), 3);
    assert_eq!(clock.users(), [""; 0], "nobody answered in a whole round");
    assert!(clock.schedule.take_changed());
}

#[test]
fn a_claim_between_rounds_is_looked_into_at_once() {
    let mut clock = Clock::new(ProbeSettings::default(), [place(7)]);
    clock.until(10_000);
    clock.hear(place(7), mac(1));
    assert_eq!(clock.until(10_599).len(), 3);
    assert_eq!(clock.users(), [""; 0]);
    clock.until(10_600);
    assert_eq!(clock.users(), ["192.0.2.7 02:00:00:00:00:01"]);
}

#[test]
fn what_is_not_wanted_any_more_is_forgotten() {
    let mut clock = Clock::new(ProbeSettings::default(), [place(7), place(8)]);
    clock.until(350);
    clock.hear(place(7), mac(1));
    clock.hear(place(8), mac(2));
    clock.want([place(8)]);
    clock.until(900);
    assert_eq!(
        clock.users(),
        ["192.0.2.8 02:00:00:00:00:02"],
        "given to a Service meanwhile"
    );
    assert!(clock.schedule.take_changed());
    clock.want([]);
    assert_eq!(clock.users(), [""; 0]);
    assert!(clock.schedule.take_changed());
    assert_eq!(clock.schedule.next_due(), None);
}

#[test]
fn a_probe_that_is_not_sent_proves_nothing() {
    let mut clock = Clock::new(ProbeSettings::default(), [place(7)]);
    clock.until(350);
    clock.hear(place(7), mac(1));
    clock.until(900);
    // The interface is gone for the next rounds.
    for _ in 0..5 {
        clock.now = clock.schedule.next_due().unwrap();
        let place = clock.schedule.due(clock.now, || 0.0).unwrap();
        clock.schedule.fail(place, clock.now);
    }
    assert_eq!(clock.users(), ["192.0.2.7 02:00:00:00:00:01"]);
    clock.until(60_000);
    assert_eq!(clock.users(), [""; 0]);
}

proptest! {
    /// Whatever is claimed: no more rounds at once than allowed, each wanted address is probed soon,
    /// and nothing is known of others.
    #[test]
    fn no_storm_and_nobody_forgotten(
        count in 1_u8..200,
        most in 1_usize..70,
        claims in prop::collection::vec((0_u64..20_000, any::<u8>(), any::<u8>()), 0..50),
    ) {
        let settings = ProbeSettings { most_under_way: most, ..ProbeSettings::default() };
        let mut clock = Clock::new(settings, (0..count).map(place));
        let mut claims = claims;
        claims.sort_unstable();
        let mut probes: BTreeMap<Place, Vec<u128>> = BTreeMap::new();
        for (at, last, host) in claims {
            for (sent, place) in clock.until(at) {
                probes.entry(place).or_default().push(sent);
            }
            clock.hear(place(last), mac(host));
        }
        let last = 300 + 800 * u64::from(count).div_ceil(most as u64) + 800 * 51 + 20_000;
        for (sent, place) in clock.until(last) {
            probes.entry(place).or_default().push(sent);
        }
        prop_assert_eq!(probes.len(), usize::from(count));
        let mut under_way: Vec<(u128, i32)> = Vec::new();
        for sent in probes.values() {
            for round in sent.chunks(3) {
                // A round holds its place until 200 ms after its last probe.
                under_way.push((round[0], 1));
                under_way.push((round[round.len() - 1] + 200, -1));
            }
        }
        under_way.sort_unstable();
        let mut now = 0;
        for (_, step) in under_way {
            now += step;
            prop_assert!(usize::try_from(now).unwrap() <= most);
        }
        let known: BTreeSet<_> = clock.schedule.foreign().iter().map(|(address, _)| address).collect();
        prop_assert!(known.iter().all(|address| (0..count).any(|last| place(last).1 == *address)));
    }
}
