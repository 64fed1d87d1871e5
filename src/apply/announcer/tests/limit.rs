//! What a source may make this node do.

use std::time::{Duration, Instant};

use crate::apply::announcer::limit::SourceLimit;

/// Frames of a source that are admitted of those sent evenly in this time.
fn admitted(
    limit: &mut SourceLimit,
    source: [u8; 6],
    from: Instant,
    rate: u32,
    seconds: u32,
) -> u32 {
    (0..rate * seconds)
        .map(|number| {
            let at = from + Duration::from_secs(1) * number / rate;
            u32::from(limit.admits(source, at))
        })
        .sum()
}

#[test]
fn ten_thousand_in_a_second_are_admitted_also_in_one_go() {
    let start = Instant::now();
    let mut limit = SourceLimit::new(start);
    let source = [2, 0, 0, 0, 0, 1];
    assert_eq!(admitted(&mut limit, source, start, 10_000, 10), 100_000);
    let later = start + Duration::from_secs(10);
    assert!((0..10_000).all(|_| limit.admits(source, later)));
}

#[test]
fn a_flood_is_cut_and_others_are_not() {
    let start = Instant::now();
    let mut limit = SourceLimit::new(start);
    let flood = admitted(&mut limit, [2, 0, 0, 0, 0, 1], start, 100_000, 10);
    // A full bucket and ten seconds of it.
    assert!((219_000..=221_000).contains(&flood), "{flood}");
    let now = start + Duration::from_secs(10);
    assert!(limit.admits([2, 0, 0, 0, 0, 2], now));
    let again = admitted(&mut limit, [2, 0, 0, 0, 0, 1], now, 100_000, 1);
    assert!((19_000..=21_000).contains(&again), "{again}");
}

#[test]
fn more_sources_than_there_is_room_for_are_all_admitted() {
    let now = Instant::now();
    let mut limit = SourceLimit::new(now);
    for number in 0..100_000_u32 {
        let [a, b, c, d] = number.to_be_bytes();
        assert!(limit.admits([2, 0, a, b, c, d], now));
    }
}
