//! What the kernel holds for sure: of the last pass whose forwarding is in place. Health and
//! health-check node ports tell from this, and never from a plan that could not be applied.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use imbl::ordmap::DiffItem;

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
    /// make it younger, and only a pass that puts its forwarding in place ends the wait.
    pub waiting: BTreeMap<Family, Instant>,
}

impl Applied {
    /// Whether a pass has been made, and the last one put its forwarding in place.
    pub fn in_force(&self) -> bool {
        self.at.is_some() && self.waiting.is_empty()
    }

    /// Takes in how a pass for `desired` ended. `since` is when the oldest event came in that it was
    /// made for.
    pub fn pass_ended(&mut self, desired: &NodeState, forwards: bool, since: Instant) {
        if forwards {
            self.at = Some(SystemTime::now());
            self.state = desired.clone();
            self.waiting.clear();
            return;
        }
        let mut concerned = Family::BOTH.map(|family| differs(&self.state, desired, family));
        if concerned == [false, false] {
            // What was in place is gone and cannot be put back: nobody knows what still works.
            concerned = [true, true];
        }
        for (family, concerned) in Family::BOTH.into_iter().zip(concerned) {
            if concerned {
                self.waiting.entry(family).or_insert(since);
            }
        }
    }
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

    #[test]
    fn a_change_waits_in_its_family_from_its_first_event_until_it_is_applied() {
        let (old, new) = (
            holding(&["192.0.2.1"]),
            holding(&["192.0.2.1", "2001:db8::1"]),
        );
        let first = Instant::now();
        let later = first + Duration::from_secs(50);
        let mut applied = Applied::default();
        applied.pass_ended(&old, true, first);
        assert!(applied.waiting.is_empty());
        applied.pass_ended(&new, false, first);
        assert_eq!(applied.waiting, BTreeMap::from([(Family::V6, first)]));
        let newer = holding(&["192.0.2.2", "2001:db8::1"]);
        applied.pass_ended(&newer, false, later);
        let waiting = BTreeMap::from([(Family::V4, later), (Family::V6, first)]);
        assert_eq!(applied.waiting, waiting);
        assert_eq!(applied.state, old, "HC-12");
        applied.pass_ended(&new, true, later);
        assert!(applied.waiting.is_empty());
        assert_eq!(applied.state, new);
    }

    #[test]
    fn a_repair_that_fails_waits_in_both_families() {
        let state = holding(&["192.0.2.1"]);
        let now = Instant::now();
        let mut applied = Applied::default();
        applied.pass_ended(&state, true, now);
        applied.pass_ended(&state, false, now);
        assert_eq!(applied.waiting.len(), 2);
    }
}
