//! What has to be edited in the sets between two states, or between the kernel and a state. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use imbl::ordmap::DiffItem as MapDiff;
use imbl::ordset::DiffItem as SetDiff;

use super::element::{self, ElementKey, Elements, List, Value};
use super::frontend::of_frontend;
use super::handover::opens;
use super::layout::Layout;
use super::sets::Table;
use crate::apply::forwarder::{Forwarder, hands_over};
use crate::model::family::Family;
use crate::model::node_state::NodeState;

/// Bytes of one element in a message, at most, with its attributes' heads.
pub(super) const ELEMENT_BYTES: usize = 160;

/// One edit of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) key: ElementKey,
    pub(super) old: Option<Value>,
    pub(super) new: Option<Value>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Edits {
    pub(super) single: Vec<Edit>,
    /// Sets of ranges with all that they are to hold. They are replaced whole: the kernel refuses
    /// edits in which the end of one range becomes the start of another.
    pub(super) ranges: Ranges,
    /// What is to be done when IPVS forwards what these edits leave to it, and nothing any more that
    /// they no longer keep clients away from.
    pub(super) later: Vec<Edit>,
}

/// Sets of ranges with all that they are to hold.
pub(super) type Ranges = BTreeMap<(Table, Family), Elements>;

impl Edits {
    /// Takes in the change of one frontend.
    fn frontend(&mut self, before: &Elements, after: &Elements, datapath: Forwarder) {
        let mut changes = Self::default();
        compare(before, after, &mut changes);
        let restricted = |key: &ElementKey| after.contains_key(key);
        let waits = |edit: &Edit| datapath == Forwarder::Ipvs && opens(edit, restricted);
        let (later, single): (Vec<_>, Vec<_>) = changes.single.into_iter().partition(waits);
        self.single.extend(single);
        self.later.extend(later);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.single.is_empty() && self.ranges.is_empty() && self.later.is_empty()
    }
}

/// The edits between two states, at the price of what differs.
pub(super) fn between(old: &NodeState, new: &NodeState, layout: Layout) -> Edits {
    let mut edits = Edits::default();
    for difference in old.frontends.diff(&new.frontends) {
        let (mut before, mut after) = (Elements::new(), Elements::new());
        match difference {
            MapDiff::Add(port, frontend) => {
                of_frontend(*port, frontend, layout.datapath, &mut after);
            }
            MapDiff::Update { old, new } => {
                let datapath = layout.datapath;
                of_frontend(*old.0, old.1, datapath, &mut before);
                of_frontend(*new.0, new.1, datapath, &mut after);
                if hands_over(old.1, new.1, datapath) {
                    let last = std::mem::take(&mut after);
                    of_frontend(*new.0, new.1, Forwarder::Nftables, &mut after);
                    let mut rest = Edits::default();
                    compare(&after, &last, &mut rest);
                    edits.later.extend(rest.single);
                }
            }
            MapDiff::Remove(port, frontend) => {
                of_frontend(*port, frontend, layout.datapath, &mut before);
            }
        }
        edits.frontend(&before, &after, layout.datapath);
    }
    let add = |key| Edit {
        key,
        old: None,
        new: Some(Value::Nothing),
    };
    let remove = |key| Edit {
        key,
        old: Some(Value::Nothing),
        new: None,
    };
    for difference in old.held.diff(&new.held) {
        match difference {
            MapDiff::Add(address, _) => edits
                .single
                .push(add(element::of_address(Table::Held, *address))),
            MapDiff::Remove(address, _) => {
                edits
                    .single
                    .push(remove(element::of_address(Table::Held, *address)));
            }
            MapDiff::Update { .. } => {}
        }
    }
    let addresses = [
        (Table::Answering, &old.answering, &new.answering),
        (
            Table::NodeAddresses,
            &old.node_addresses,
            &new.node_addresses,
        ),
    ];
    for (table, old, new) in addresses {
        for difference in old.diff(new) {
            match difference {
                SetDiff::Add(address) => {
                    edits.single.push(add(element::of_address(table, *address)));
                }
                SetDiff::Remove(address) => {
                    let edit = remove(element::of_address(table, *address));
                    if layout.datapath == Forwarder::Ipvs && opens(&edit, |_| false) {
                        edits.later.push(edit);
                    } else {
                        edits.single.push(edit);
                    }
                }
            }
        }
    }
    for difference in old.hairpin.diff(&new.hairpin) {
        match difference {
            SetDiff::Add(address) => edits.single.push(add(element::of_hairpin(*address))),
            SetDiff::Remove(address) => edits.single.push(remove(element::of_hairpin(*address))),
        }
    }
    let ranges = [
        (Table::PodRanges, &old.pod_ranges, &new.pod_ranges),
        (
            Table::ServiceRanges,
            &old.service_ranges,
            &new.service_ranges,
        ),
    ];
    for (table, old, new) in ranges {
        if old != new {
            let (mut before, mut after) = (Elements::new(), Elements::new());
            element::of_ranges(table, old.iter(), &mut before);
            element::of_ranges(table, new.iter(), &mut after);
            compare(&before, &after, &mut edits);
        }
    }
    if old.pod_interfaces != new.pod_interfaces {
        let (mut before, mut after) = (Elements::new(), Elements::new());
        element::of_interfaces(old.pod_interfaces.iter(), &mut before);
        element::of_interfaces(new.pod_interfaces.iter(), &mut after);
        compare(&before, &after, &mut edits);
    }
    edits
}

/// The edits from one set of elements to another.
pub(super) fn compare(before: &Elements, after: &Elements, edits: &mut Edits) {
    let mut edit = |key: &ElementKey, old: Option<&Value>, new: Option<&Value>| {
        if key.table.interval() {
            edits.ranges.entry((key.table, key.family)).or_default();
        } else {
            edits.single.push(Edit {
                key: *key,
                old: old.cloned(),
                new: new.cloned(),
            });
        }
    };
    for (key, old) in before {
        let new = after.get(key);
        if new != Some(old) {
            edit(key, Some(old), new);
        }
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        edit(key, None, Some(new));
    }
    for ((table, family), elements) in &mut edits.ranges {
        let of_this = |key: &ElementKey| key.table == *table && key.family == *family;
        let wanted = after.iter().filter(|(key, _)| of_this(key));
        elements.extend(wanted.map(|(key, value)| (*key, value.clone())));
    }
}

/// The edits from what is there to what is wanted, in the order of the keys, made one by one: for
/// a table of the first time they are as many as its elements. Ranges are few and come at once.
pub(super) fn differences(
    mut present: List,
    mut wanted: List,
) -> (Ranges, impl Iterator<Item = Edit>) {
    let ranges = |list: &List| -> Elements {
        let ranges = list.iter().filter(|(key, _)| key.table.interval());
        ranges.cloned().collect()
    };
    let mut edits = Edits::default();
    compare(&ranges(&present), &ranges(&wanted), &mut edits);
    let single = |list: &mut List| {
        list.sort_unstable();
        list.dedup_by_key(|(key, _)| *key);
        std::mem::take(list)
            .into_iter()
            .filter(|(key, _)| !key.table.interval())
            .peekable()
    };
    let (mut present, mut wanted) = (single(&mut present), single(&mut wanted));
    let pairs = std::iter::from_fn(move || {
        let next = match (present.peek(), wanted.peek()) {
            (None, None) => return None,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let old = next.is_le().then(|| present.next()).flatten();
        let new = next.is_ge().then(|| wanted.next()).flatten();
        Some((old, new))
    });
    let single = pairs.filter_map(|(old, new)| {
        let (key, _) = old.as_ref().or(new.as_ref())?;
        let key = *key;
        let (old, new) = (old.map(|(_, value)| value), new.map(|(_, value)| value));
        (old != new).then_some(Edit { key, old, new })
    });
    (edits.ranges, single)
}

/// Cuts edits into transactions that one send can carry. Ranges are few and travel first, uncut.
pub(super) fn batches(
    mut ranges: Ranges,
    single: impl Iterator<Item = Edit>,
    room: usize,
) -> impl Iterator<Item = Edits> {
    let most = (room / (2 * ELEMENT_BYTES)).max(1);
    let mut rest = single.peekable();
    std::iter::from_fn(move || {
        let some = rest.peek().is_some() || !ranges.is_empty();
        some.then(|| Edits {
            single: rest.by_ref().take(most).collect(),
            ranges: std::mem::take(&mut ranges),
            later: Vec::new(),
        })
    })
}
