//! What can happen to a LAN: power failures, pulled cables, cut and lossy networks. Each is undone by
//! a method of its own; a cut that is dropped is undone as well, so that a failed test leaves nothing
//! behind for what follows in the same lab.
//!
//! Faults of a daemon alone (crash, freeze, restart) are methods of [`super::daemon::Daemon`], a
//! pulled cable is [`Lab::unplug`].

mod cut;
mod power;

pub use cut::{Cut, Traffic};
pub use power::PowerFailure;

use super::daemon::Daemon;
use super::{Lab, LabError};

impl Lab {
    /// A node loses its power: its cables are dead, its pods are gone with it, and its daemon too,
    /// if it has one. What its kernel held comes back with the power, which a machine would not do.
    pub fn power_off(
        &self,
        node: usize,
        daemon: Option<&mut Daemon>,
    ) -> Result<PowerFailure, LabError> {
        PowerFailure::strike(self, node, daemon)
    }

    /// No two nodes of these hear each other's traffic of that kind any more; all else passes.
    pub fn cut(&self, nodes: &[usize], traffic: Traffic) -> Result<Cut, LabError> {
        Cut::between_all(self, nodes, traffic)
    }

    /// Nothing passes between the hosts of the one half and those of the other, by their names on
    /// the LAN (nodes, clients, `router`). The nodes' second network is parted alike.
    pub fn partition(&self, one: &[&str], other: &[&str]) -> Result<Cut, LabError> {
        Cut::between_halves(self, one, other)
    }

    /// Of the traffic of that kind between any two nodes, this share of the packets is lost, at
    /// random and in each direction.
    pub fn lose(&self, percent: u8, traffic: Traffic) -> Result<Cut, LabError> {
        Cut::at_random(self, percent, traffic)
    }
}
