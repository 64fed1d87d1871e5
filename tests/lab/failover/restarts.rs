//! Restarts of a node that may have lost what it owned: it must not answer for that before it heard who
//! has it now.

use super::field::{Field, VIP, bound};
use crate::rig::START;

/// What a run leaves that told all others that it restarts.
fn farewell(field: &mut Field, node: usize) -> bool {
    let state = field.daemon(node).state_directory();
    state.join("farewell.json").exists()
}

/// A process that was stopped while another node took over is told to end in the moment that it goes on.
#[test]
fn who_was_stopped_and_ends_at_once_says_nothing() {
    let mut field = Field::new();
    let owner = field.owner();
    field.daemon(owner).freeze().unwrap();
    let other = field.other_owner(owner);
    field.daemon(owner).thaw().unwrap();
    field.daemon(owner).terminate(START).unwrap();
    assert!(!farewell(&mut field, owner), "it was followed");
    restart_and_keep(&mut field, owner, other);
}

/// A switch that forgot it: it owns for itself what another node owns for all others.
#[test]
fn who_lost_all_others_and_ends_says_nothing() {
    let mut field = Field::new();
    let owner = field.owner();
    let others: Vec<String> = (0..=field.size())
        .filter(|node| *node != owner)
        .map(|node| field.name(node).to_owned())
        .chain(field.lab.clients().iter().map(|host| host.name.clone()))
        .collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let cut = field.lab.partition(&[field.name(owner)], &others).unwrap();
    let other = field.other_owner(owner);
    std::thread::sleep(bound(500));
    field.daemon(owner).terminate(START).unwrap();
    assert!(!farewell(&mut field, owner), "nobody heard it");
    cut.mend().unwrap();
    restart_and_keep(&mut field, owner, other);
    // With the others there it says so, and the next run relies on it.
    field.daemon(other).terminate(START).unwrap();
    assert!(farewell(&mut field, other));
}

/// Starts it again: it says nothing at all about the VIPs, which that one owns.
fn restart_and_keep(field: &mut Field, node: usize, owner: usize) {
    field.eye.reset();
    field.start(node);
    field.wait_ready(node);
    field.wait_candidates(field.size());
    std::thread::sleep(bound(500));
    let station = field.stations()[node];
    let seen = field.eye.sightings();
    let said: Vec<_> = (seen.all().iter())
        .filter(|sighting| sighting.mac == station && VIP.both().contains(&sighting.address))
        .collect();
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(field.owner(), owner);
}
