//! Tells the announcer what to announce: what goes is withdrawn, and known to be, before anything
//! else of it is taken away; what is new is told last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::apply::announcer::AnnouncerView;
use crate::model::announcement::{AnnouncedInterface, AnnouncedSet};

/// How long a withdrawal may take to be in force before the rest of the pass goes on.
const WITHDRAW_PATIENCE: Duration = Duration::from_secs(1);

/// What is announced where, by interface index.
type Interfaces = BTreeMap<u32, AnnouncedInterface>;

/// The way to the announcer, and the way back.
pub struct Publisher {
    sender: watch::Sender<Arc<AnnouncedSet>>,
    announcer: AnnouncerView,
}

impl Publisher {
    /// Nothing is told yet.
    pub fn new(sender: watch::Sender<Arc<AnnouncedSet>>, announcer: AnnouncerView) -> Self {
        Self { sender, announcer }
    }

    /// Stops announcing what is not in `wanted`, and waits until nobody is answered any more.
    pub async fn withdraw(&self, wanted: &Interfaces) {
        let current = Arc::clone(&self.sender.borrow());
        let mut staying = current.interfaces.clone();
        for (index, interface) in &mut staying {
            let wanted = wanted.get(index);
            interface
                .addresses
                .retain(|vip| wanted.is_some_and(|wanted| wanted.addresses.contains(vip)));
        }
        if staying == current.interfaces {
            return;
        }
        let generation = self.publish(staying);
        let in_force = self.announcer.wait_in_force(generation);
        if tokio::time::timeout(WITHDRAW_PATIENCE, in_force)
            .await
            .is_err()
        {
            tracing::warn!("the announcer is slow to withdraw");
        }
    }

    /// Publishes what is to be announced from now on; returns its generation.
    pub fn publish(&self, interfaces: Interfaces) -> u64 {
        let current = Arc::clone(&self.sender.borrow());
        if current.interfaces == interfaces {
            return current.generation;
        }
        let generation = current.generation + 1;
        // The announcer ends only with the daemon.
        let _ = self.sender.send(Arc::new(AnnouncedSet {
            generation,
            interfaces,
            peers: current.peers.clone(),
        }));
        generation
    }
}
