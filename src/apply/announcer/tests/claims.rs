//! What follows when others claim a VIP.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::apply::announcer::claims::{Claims, Reaction, Told};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 0x03];

struct Clock {
    claims: Claims,
    told: Told,
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        let told = Told::new();
        Self {
            claims: Claims::new(told.clone()),
            told,
            start: Instant::now(),
        }
    }

    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }

    /// A claim; a defence is made at once.
    fn heard(&mut self, mac: [u8; 6], milliseconds: u64) -> Reaction {
        let now = self.at(milliseconds);
        let reaction = self.claims.heard(VIP, mac, mac == NODE, now);
        if reaction.defend {
            self.claims.defended(VIP, now);
        }
        reaction
    }

    fn foreign(&self) -> String {
        let foreign = self.told.foreign();
        let foreign = foreign.borrow();
        foreign
            .get(VIP)
            .map_or_else(String::new, |mac| mac.to_string())
    }

    fn rival(&self) -> Option<(String, u128)> {
        let rivals = self.told.rivals();
        let rivals = rivals.borrow();
        let rival = rivals.get(&VIP)?;
        let heard = rival.heard.duration_since(self.start).as_millis();
        Some((rival.mac.to_string(), heard))
    }
}

#[test]
fn a_foreign_host_is_answered_once_in_ten_seconds() {
    let mut clock = Clock::new();
    let mut reactions = |at| {
        let Reaction { log, defend } = clock.heard(HOST, at);
        (log, defend)
    };
    assert_eq!(reactions(0), (true, true));
    assert_eq!(reactions(10), (false, false));
    assert_eq!(reactions(9_999), (false, false));
    assert_eq!(reactions(10_000), (true, true));
    assert_eq!(clock.foreign(), "02:00:00:00:00:66");
    assert_eq!(clock.rival(), None);
}

#[test]
fn a_defence_that_could_not_be_sent_is_made_up_for() {
    let mut clock = Clock::new();
    let now = clock.at(0);
    assert!(clock.claims.heard(VIP, HOST, false, now).defend);
    assert!(clock.claims.heard(VIP, HOST, false, now).defend);
}

#[test]
fn a_foreign_host_is_forgotten_after_a_minute_of_silence() {
    let mut clock = Clock::new();
    clock.heard(HOST, 0);
    clock.heard([2; 6], 1_000);
    clock.heard(HOST, 30_000);
    let now = clock.at(89_999);
    assert_eq!(clock.claims.due(now), None);
    assert_eq!(clock.foreign(), "02:00:00:00:00:66", "the first one counts");
    let now = clock.at(90_000);
    assert_eq!(clock.claims.next_due(), Some(now));
    assert_eq!(clock.claims.due(now), None);
    assert_eq!(clock.foreign(), "");
    assert_eq!(clock.claims.next_due(), None);
}

#[test]
fn a_rival_is_not_defended_against_but_announced_after() {
    let mut clock = Clock::new();
    assert!(!clock.heard(NODE, 0).defend);
    assert_eq!(clock.rival(), Some(("02:00:00:00:00:03".to_owned(), 0)));
    assert_eq!(clock.foreign(), "");
    clock.heard(NODE, 50);
    assert_eq!(clock.rival().unwrap().1, 0, "told a tenth of a second");
    clock.heard(NODE, 250);
    assert_eq!(clock.rival().unwrap().1, 250);
    let at = |clock: &mut Clock, milliseconds| {
        let now = clock.at(milliseconds);
        clock.claims.due(now)
    };
    assert_eq!(at(&mut clock, 299), None);
    assert_eq!(at(&mut clock, 300), Some(VIP));
    assert_eq!(at(&mut clock, 300), None);
    clock.heard(NODE, 999);
    assert_eq!(at(&mut clock, 1_500), None, "once in a second");
    clock.heard(NODE, 1_500);
    assert_eq!(at(&mut clock, 1_800), Some(VIP));
}

#[test]
fn with_the_vip_its_claims_go() {
    let mut clock = Clock::new();
    clock.heard(NODE, 0);
    clock.heard(HOST, 0);
    clock.claims.withdraw(VIP);
    assert_eq!((clock.foreign().as_str(), clock.rival()), ("", None));
    let now = clock.at(1_000);
    assert_eq!(clock.claims.due(now), None);
    clock.heard(HOST, 2_000);
    clock.claims = Claims::new(clock.told.clone());
    assert_eq!(clock.foreign(), "", "its responder has ended");
}

#[test]
fn a_rival_is_announced_after_when_nodes_had_the_time_to_settle_it() {
    for (settle, due) in [(3_000, 3_000), (60, 300)] {
        let mut clock = Clock::new();
        let told = clock.told.clone();
        clock.told = told.settled_within(Duration::from_millis(settle));
        clock.claims = Claims::new(clock.told.clone());
        clock.heard(NODE, 0);
        clock.heard(NODE, due - 1);
        let at = |clock: &mut Clock, time| {
            let now = clock.at(time);
            clock.claims.due(now)
        };
        assert_eq!(at(&mut clock, due - 1), None);
        assert_eq!(at(&mut clock, due), Some(VIP));
    }
}
