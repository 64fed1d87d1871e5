//! Tells who decides about owners what is served here: what goes is withdrawn from the LAN, and known to
//! be, before anything else of it is taken away; what is new is told last.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::ordmap::DiffItem;
use tokio::sync::watch;

use crate::model::peer::Exceptions;
use crate::plan::ownership::table::{NodeTable, VipGroup, VipGroups, VipTable};

/// How long a withdrawal may take to be in force before the rest of the pass goes on.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(1);

/// The way to the owner of VIPs, and the way back.
pub struct Publisher {
    sender: watch::Sender<Arc<VipTable>>,
    /// The newest generation whose withdrawals are in force.
    in_force: watch::Receiver<u64>,
}

impl Publisher {
    /// Nothing is told yet.
    pub fn new(sender: watch::Sender<Arc<VipTable>>, in_force: watch::Receiver<u64>) -> Self {
        Self { sender, in_force }
    }

    /// Stops announcing what is not in `wanted`, and waits until nobody is answered any more.
    pub async fn withdraw(&self, wanted: &VipGroups) {
        let current = Arc::clone(&self.sender.borrow());
        let Some(staying) = staying(&current.groups, wanted) else {
            return;
        };
        let generation = self.send(VipTable {
            groups: staying,
            ..VipTable::clone(&current)
        });
        let mut in_force = self.in_force.clone();
        let in_force = in_force.wait_for(|in_force| *in_force >= generation);
        let outcome = tokio::time::timeout(WITHDRAW_PATIENCE, in_force).await;
        if !outcome.is_ok_and(|heard| heard.is_ok()) {
            tracing::warn!("the announcer is slow to withdraw");
        }
    }

    /// Publishes what is served from now on; returns its generation.
    pub fn publish(&self, groups: VipGroups, nodes: Arc<NodeTable>, exceptions: Exceptions) -> u64 {
        let current = Arc::clone(&self.sender.borrow());
        let told = current.generation > 0;
        let same = current.groups == groups && current.nodes == nodes;
        if told && same && current.exceptions == exceptions {
            return current.generation;
        }
        self.send(VipTable {
            generation: 0,
            groups,
            nodes,
            exceptions,
        })
    }

    fn send(&self, table: VipTable) -> u64 {
        let generation = self.sender.borrow().generation + 1;
        self.sender.send_replace(Arc::new(VipTable {
            generation,
            ..table
        }));
        generation
    }
}

/// What is left of the groups when VIPs that are in none of the wanted ones go; none where all stay.
/// Costs what differs.
fn staying(current: &VipGroups, wanted: &VipGroups) -> Option<VipGroups> {
    let mut leaving: BTreeSet<IpAddr> = BTreeSet::new();
    let mut changed: Vec<(IpAddr, &Arc<VipGroup>)> = Vec::new();
    let mut arriving: BTreeSet<IpAddr> = BTreeSet::new();
    for difference in current.diff(wanted) {
        let (old, new) = match difference {
            DiffItem::Add(_, new) => (None, Some(new)),
            DiffItem::Update { old, new } => (Some(old), Some(new.1)),
            DiffItem::Remove(lowest, old) => (Some((lowest, old)), None),
        };
        if let Some((lowest, group)) = old {
            changed.push((*lowest, group));
            leaving.extend(group.vips.iter().copied());
        }
        arriving.extend(new.into_iter().flat_map(|group| group.vips.iter().copied()));
    }
    leaving.retain(|vip| !arriving.contains(vip));
    if leaving.is_empty() {
        return None;
    }
    let mut staying = current.clone();
    for (lowest, group) in changed {
        let mut left = VipGroup::clone(group);
        left.vips.retain(|vip| !leaving.contains(vip));
        if left.vips.len() == group.vips.len() {
            continue;
        }
        staying.remove(&lowest);
        if let Some(lowest) = left.lowest() {
            staying.insert(lowest, Arc::new(left));
        }
    }
    Some(staying)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn groups(texts: &[&str]) -> VipGroups {
        let group = |text: &&str| {
            let vips: BTreeSet<IpAddr> = text.split(' ').map(|vip| vip.parse().unwrap()).collect();
            let group = VipGroup {
                vips,
                ..VipGroup::default()
            };
            (group.lowest().unwrap(), Arc::new(group))
        };
        texts.iter().map(group).collect()
    }

    #[test]
    fn only_what_goes_is_withdrawn() {
        for (current, wanted, left) in [
            (&["192.0.2.1"][..], &["192.0.2.1", "192.0.2.2"][..], None),
            (
                &["192.0.2.1", "192.0.2.2"],
                &["192.0.2.2"],
                Some(&["192.0.2.2"][..]),
            ),
            (&["192.0.2.1"], &[], Some(&[])),
            // A group that loses its lowest VIP has another name.
            (
                &["192.0.2.1 192.0.2.2"],
                &["192.0.2.2"],
                Some(&["192.0.2.2"]),
            ),
            // VIPs that go over to another group stay.
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.1 192.0.2.2"], None),
        ] {
            let left = left.map(groups);
            assert_eq!(staying(&groups(current), &groups(wanted)), left);
        }
    }
}
