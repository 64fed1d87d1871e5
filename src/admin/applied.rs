//! What the kernel holds for sure: of the last pass whose forwarding is in place. Health and
//! health-check node ports tell from this, and never from a plan that could not be applied.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use imbl::ordmap::DiffItem;

use crate::apply::Failure;
use crate::model::family::Family;
use crate::model::node_state::NodeState;

/// The state that is applied, and what waits to be.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// When the last pass ended that put its forwarding in place.
    pub at: Option<SystemTime>,
    /// What it put there.
    pub state: NodeState,
    /// Since when a change waits that no pass could apply, by family (HZ-3). Later changes do not
    /// make it younger, and only a pass that compares everything and has it in place ends the wait.
    pub waiting: BTreeMap<Family, Instant>,
    /// Whether a part of the kernel as a whole is not as the last state has it, until a repair.
    pub behind: bool,
}

impl Applied {
    /// Whether a pass has been made, and what it asked for is in place but for single items.
    pub fn in_force(&self) -> bool {
        self.at.is_some() && !self.behind
    }

    /// Takes in how a pass for `desired` ended. `since` is when the oldest event came in that it was
    /// made for.
    pub fn pass_ended(&mut self, desired: &NodeState, pass: &Ended, since: Instant) {
        let whole = !pass.forwards || pass.failures.iter().any(is_whole);
        let mut concerned: BTreeSet<Family> = pass.failures.iter().filter_map(unrouted).collect();
        // Another change may work where one before it did not: that one still waits for a repair.
        self.behind = whole || (self.behind && !pass.repaired);
        if self.behind {
            let of = |family: &Family| differs(&self.state, desired, *family);
            let mut changed: Vec<Family> = Family::BOTH.into_iter().filter(of).collect();
            if changed.is_empty() {
                // What was in place is gone and cannot be put back: nobody knows what still works.
                changed = Family::BOTH.to_vec();
            }
            concerned.extend(changed);
        } else {
            self.at = Some(SystemTime::now());
            self.state = desired.clone();
        }
        if pass.repaired && !whole {
            self.waiting.retain(|family, _| concerned.contains(family));
        }
        for family in concerned {
            self.waiting.entry(family).or_insert(since);
        }
    }
}

/// How a pass ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'p> {
    /// Whether filter and forwarding of everything new are in place.
    pub forwards: bool,
    /// Whether it compared everything, and so made up for what passes before it could not.
    pub repaired: bool,
    pub failures: &'p [Failure],
}

/// Whether a failure kept a part of the kernel from all that was to be changed there. Single virtual
/// servers that are refused leave all others in place.
pub(in crate::admin) fn is_whole(failure: &Failure) -> bool {
    matches!(
        (failure.kind, first_object(failure)),
        ("table", _)
            | ("virtual_server", "inventory" | "batch")
            | ("state_directory", "ipvs.journal")
            | ("route", "table local")
    )
}

/// Without the number of those that failed for the same cause.
fn first_object(failure: &Failure) -> &str {
    let object = failure.object.as_str();
    object
        .split_once(" and ")
        .map_or(object, |(first, _)| first)
}

/// The family of an address, or range of them, that this node does not take packets for, though it
/// should.
fn unrouted(failure: &Failure) -> Option<Family> {
    let single = failure.kind == "route" && !is_whole(failure);
    single.then(|| {
        if failure.object.contains(':') {
            Family::V6
        } else {
            Family::V4
        }
    })
}

/// Whether two states treat a packet of this family differently.
fn differs(old: &NodeState, new: &NodeState, family: Family) -> bool {
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    let frontends = || {
        old.frontends.diff(&new.frontends).any(|change| {
            let (DiffItem::Add(port, _)
            | DiffItem::Remove(port, _)
            | DiffItem::Update { new: (port, _), .. }) = change;
            port.address.family() == family
        })
    };
    let held = || {
        old.held.diff(&new.held).any(|change| {
            let (DiffItem::Add(address, _)
            | DiffItem::Remove(address, _)
            | DiffItem::Update {
                new: (address, _), ..
            }) = change;
            of_family(address)
        })
    };
    let addresses = || {
        let pairs = [
            (&old.node_addresses, &new.node_addresses),
            (&old.hairpin, &new.hairpin),
            (&old.answering, &new.answering),
        ];
        (pairs.into_iter()).any(|(old, new)| {
            let (old, new) = (old.iter(), new.iter());
            !(old.filter(|it| of_family(it))).eq(new.filter(|it| of_family(it)))
        })
    };
    let ranges = || {
        let pairs = [
            (&old.service_ranges, &new.service_ranges),
            (&old.pod_ranges, &new.pod_ranges),
        ];
        (pairs.into_iter()).any(|(old, new)| {
            let (old, new) = (old.iter(), new.iter());
            !(old.filter(|it| of_family(&it.addr()))).eq(new.filter(|it| of_family(&it.addr())))
        })
    };
    frontends()
        || held()
        || addresses()
        || ranges()
        || old.preferred_source.get(&family) != new.preferred_source.get(&family)
        || old.pod_interfaces != new.pod_interfaces
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::model::node_state::HeldFor;

    fn holding(addresses: &[&str]) -> NodeState {
        let mut state = NodeState::default();
        for address in addresses {
            state.held.insert(address.parse().unwrap(), HeldFor::Vip);
        }
        state
    }

    fn ended(forwards: bool, repaired: bool, failures: &[Failure]) -> Ended<'_> {
        Ended {
            forwards,
            repaired,
            failures,
        }
    }

    fn failure(kind: &'static str, object: &str) -> Failure {
        Failure::told(kind, object.to_owned(), "no permission")
    }

    #[test]
    fn a_change_that_ipvs_could_not_take_waits_until_a_repair_has_it() {
        let (old, new) = (
            holding(&["192.0.2.1"]),
            holding(&["192.0.2.1", "2001:db8::1"]),
        );
        let first = Instant::now();
        let later = first + Duration::from_secs(5);
        let waiting = BTreeMap::from([(Family::V6, first)]);
        for whole in [
            failure("virtual_server", "batch"),
            failure("virtual_server", "batch and 1 more"),
            failure("virtual_server", "inventory"),
            failure("state_directory", "ipvs.journal"),
            failure("route", "table local"),
        ] {
            let mut applied = Applied::default();
            applied.pass_ended(&old, &ended(true, true, &[]), first);
            assert!(applied.in_force());
            let failures = [whole];
            applied.pass_ended(&new, &ended(true, false, &failures), first);
            assert_eq!((&applied.waiting, &applied.state), (&waiting, &old));
            // What changed since works, and the other does not.
            applied.pass_ended(&new, &ended(true, false, &[]), later);
            assert_eq!((&applied.waiting, &applied.state), (&waiting, &old));
            applied.pass_ended(&new, &ended(true, true, &failures), later);
            assert_eq!((&applied.waiting, &applied.state), (&waiting, &old));
            assert!(!applied.in_force());
            applied.pass_ended(&new, &ended(true, true, &[]), later);
            assert!(applied.in_force() && applied.waiting.is_empty());
            assert_eq!(applied.state, new);
        }
    }

    #[test]
    fn a_route_that_is_missing_waits_and_holds_up_nothing_else() {
        let state = holding(&["192.0.2.1", "2001:db8::1"]);
        let now = Instant::now();
        let later = now + Duration::from_secs(5);
        let mut applied = Applied::default();
        let failures = [failure("route", "2001:db8::1/128")];
        applied.pass_ended(&state, &ended(true, true, &failures), now);
        let waiting = BTreeMap::from([(Family::V6, now)]);
        assert_eq!((&applied.waiting, &applied.state), (&waiting, &state));
        applied.pass_ended(&state, &ended(true, true, &failures), later);
        assert_eq!(applied.waiting, waiting);
        applied.pass_ended(&state, &ended(true, true, &[]), later);
        assert_eq!(applied.waiting, BTreeMap::new());
    }

    #[test]
    fn a_single_virtual_server_that_is_refused_holds_up_nothing() {
        let mut applied = Applied::default();
        let failures = [
            failure("virtual_server", "-A -t 192.0.2.1:80"),
            failure("sysctl", "net/ipv4/ip_forward"),
        ];
        let state = holding(&["192.0.2.1"]);
        applied.pass_ended(&state, &ended(true, true, &failures), Instant::now());
        assert!(applied.in_force() && applied.waiting.is_empty());
        assert_eq!(applied.state, state);
    }

    #[test]
    fn a_change_waits_in_its_family_from_its_first_event_until_it_is_applied() {
        let (old, new) = (
            holding(&["192.0.2.1"]),
            holding(&["192.0.2.1", "2001:db8::1"]),
        );
        let first = Instant::now();
        let later = first + Duration::from_secs(50);
        let mut applied = Applied::default();
        applied.pass_ended(&old, &ended(true, true, &[]), first);
        assert!(applied.waiting.is_empty());
        applied.pass_ended(&new, &ended(false, false, &[]), first);
        assert_eq!(applied.waiting, BTreeMap::from([(Family::V6, first)]));
        let newer = holding(&["192.0.2.2", "2001:db8::1"]);
        applied.pass_ended(&newer, &ended(false, true, &[]), later);
        let waiting = BTreeMap::from([(Family::V4, later), (Family::V6, first)]);
        assert_eq!(applied.waiting, waiting);
        assert_eq!(applied.state, old, "HC-12");
        applied.pass_ended(&new, &ended(true, true, &[]), later);
        assert!(applied.waiting.is_empty());
        assert_eq!(applied.state, new);
    }

    #[test]
    fn a_repair_that_fails_waits_in_both_families() {
        let state = holding(&["192.0.2.1"]);
        let now = Instant::now();
        let mut applied = Applied::default();
        applied.pass_ended(&state, &ended(true, true, &[]), now);
        applied.pass_ended(&state, &ended(false, true, &[]), now);
        assert_eq!(applied.waiting.len(), 2);
    }
}
