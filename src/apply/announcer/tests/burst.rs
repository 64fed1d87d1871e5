//! When gratuitous frames are due.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::apply::announcer::burst::{BurstSettings, Schedule};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const OTHER_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11));

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// The first `count` due times of a VIP whose frames are sent as soon as they are due.
fn due_times(settings: BurstSettings, jitter: f64, count: usize) -> Vec<u128> {
    let start = Instant::now();
    let mut schedule = Schedule::new(settings);
    schedule.take_over(VIP, start, jitter);
    let mut times = Vec::new();
    while let Some(due) = schedule.next_due().filter(|_| times.len() < count) {
        assert_eq!(schedule.due(due), Some(VIP));
        let before = due.checked_sub(milliseconds(1)).unwrap();
        assert_eq!(schedule.due(before), None);
        times.push((due - start).as_millis());
        schedule.sent(VIP, due, jitter);
    }
    times
}

#[test]
fn burst_then_refresh() {
    let settings = |burst: &[u64], refresh: Option<u64>| BurstSettings {
        burst: burst.iter().copied().map(milliseconds).collect(),
        refresh: refresh.map(milliseconds),
    };
    let cases = [
        (
            BurstSettings::default(),
            0.0,
            vec![0, 50, 150, 400, 1000, 2200, 5000, 10_000, 70_000, 130_000],
        ),
        (
            BurstSettings::default(),
            1.0,
            vec![0, 55, 165, 440, 1100, 2420, 5500, 11_000, 83_000, 155_000],
        ),
        (
            BurstSettings::default(),
            -1.0,
            vec![0, 45, 135, 360, 900, 1980, 4500, 9000, 57_000, 105_000],
        ),
        // More jitter than allowed is as much as allowed; nonsense is none.
        (settings(&[100], None), 50.0, vec![110]),
        (settings(&[100], None), f64::NAN, vec![100]),
        (settings(&[0, 50], None), 0.0, vec![0, 50]),
        (settings(&[0, 50], Some(0)), 0.0, vec![0, 50]),
        (settings(&[], Some(1000)), 0.0, vec![1000, 2000, 3000]),
        (settings(&[], None), 0.0, vec![]),
        // A step that is not later than the one before is sent with it.
        (settings(&[0, 50, 50, 20, 100], None), 0.0, vec![0, 50, 100]),
    ];
    for (settings, jitter, expected) in cases {
        let name = format!("{settings:?} jitter {jitter}");
        assert_eq!(
            due_times(settings, jitter, expected.len().max(1)),
            expected,
            "{name}"
        );
    }
}

#[test]
fn missed_steps_are_left_out() {
    let start = Instant::now();
    let mut schedule = Schedule::new(BurstSettings::default());
    schedule.take_over(VIP, start, 0.0);
    let late = start + milliseconds(700);
    assert_eq!(schedule.due(late), Some(VIP));
    schedule.sent(VIP, late, 0.0);
    assert_eq!(schedule.due(late), None);
    assert_eq!(schedule.next_due(), Some(start + milliseconds(1000)));
}

#[test]
fn postponed_frames_stay_the_same_step() {
    let start = Instant::now();
    let mut schedule = Schedule::new(BurstSettings::default());
    schedule.take_over(VIP, start, 0.0);
    schedule.postpone(VIP, start + milliseconds(5));
    assert_eq!(schedule.due(start), None);
    assert_eq!(schedule.due(start + milliseconds(5)), Some(VIP));
    schedule.sent(VIP, start + milliseconds(5), 0.0);
    assert_eq!(schedule.next_due(), Some(start + milliseconds(50)));
}

#[test]
fn vips_are_independent_and_a_withdrawn_one_is_never_due() {
    let start = Instant::now();
    let mut schedule = Schedule::new(BurstSettings::default());
    schedule.take_over(VIP, start, 0.0);
    schedule.take_over(OTHER_VIP, start + milliseconds(10), 0.0);
    schedule.withdraw(VIP);
    assert_eq!(schedule.due(start), None);
    assert_eq!(schedule.due(start + milliseconds(10)), Some(OTHER_VIP));
    schedule.sent(VIP, start, 0.0);
    schedule.postpone(VIP, start);
    assert_eq!(schedule.due(start), None, "neither brings it back");
    schedule.withdraw(OTHER_VIP);
    assert_eq!(schedule.next_due(), None);
}

#[test]
fn a_second_take_over_starts_anew() {
    let start = Instant::now();
    let mut schedule = Schedule::new(BurstSettings::default());
    schedule.take_over(VIP, start, 0.0);
    schedule.sent(VIP, start, 0.0);
    let again = start + milliseconds(20);
    schedule.take_over(VIP, again, 0.0);
    assert_eq!(schedule.next_due(), Some(again));
    schedule.withdraw(VIP);
    assert_eq!(schedule.next_due(), None, "only once in the queue");
}
