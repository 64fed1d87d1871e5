//! Interfaces that come and go.

use std::time::{Duration, Instant};

use super::field::{Field, Setup, VIP, bound};
use crate::rig::{PATIENCE, eventually};

/// A link without carrier is noticed at once: another node, which hears of it from the owner itself,
/// answers long before any timeout could have told it.
#[test]
fn a_link_that_goes_down_is_given_up_at_once() {
    let field = Field::with(&Setup {
        management: true,
        ..Setup::default()
    });
    let mut all = Vec::new();
    for _ in 0..5 {
        let owner = field.owner();
        let name = field.name(owner).to_owned();
        let mac = field.stations()[owner];
        field.eye.reset();
        let down = Instant::now();
        field.lab.unplug(&name).unwrap();
        let other = eventually(PATIENCE, || {
            let seen = field.eye.sightings();
            let other = seen.all().iter().find(|sighting| sighting.mac != mac)?;
            Some(other.at)
        });
        all.push(other.saturating_duration_since(down));
        field.other_owner(owner);
        field.lab.plug(&name).unwrap();
        field.wait_candidates(5);
        // Whose link came back claims nothing for a second: it first hears what is so.
        std::thread::sleep(bound(1500));
    }
    all.sort_unstable();
    eprintln!("another node spoke after {all:?}");
    // Withdrawing takes 50 ms at most, hearing of it and claiming as much again.
    assert!(all[2] < bound(100), "{all:?}");
}

/// A link that flaps and one that is made anew under its old name answer again at once.
#[test]
fn a_link_that_comes_back_is_used_at_once() {
    let field = Field::with(&Setup {
        nodes: 1,
        management: true,
        ..Setup::default()
    });
    let owner = field.owner();
    let name = field.name(owner).to_owned();
    for _ in 0..3 {
        field.lab.unplug(&name).unwrap();
        eventually(PATIENCE, || {
            VIP.both()
                .into_iter()
                .all(|address| field.eye.answering(address, bound(100)).is_empty())
                .then_some(())
        });
        let up = Instant::now();
        field.lab.plug(&name).unwrap();
        field.owner();
        let after = up.elapsed();
        assert!(
            after < Duration::from_millis(500).max(bound(500)),
            "{after:?}"
        );
    }
}
