//! What one call changed in IPVS, for metrics and logs.

use crate::apply::Failure;
use crate::apply::forwarder::Refused;
use crate::apply::ipvs::types::Change;

/// What one call changed.
#[derive(Debug, Default)]
pub struct Outcome {
    pub virtual_servers_added: usize,
    pub virtual_servers_changed: usize,
    pub virtual_servers_removed: usize,
    pub real_servers_added: usize,
    pub real_servers_changed: usize,
    pub real_servers_removed: usize,
    pub failures: Vec<Failure>,
    /// What the failures are about.
    pub refused: Refused,
}

impl Outcome {
    /// Counts a change that IPVS took.
    pub(super) fn count(&mut self, change: &Change) {
        let counter = match change {
            Change::NewVirtualServer(..) => &mut self.virtual_servers_added,
            Change::SetVirtualServer(..) => &mut self.virtual_servers_changed,
            Change::DeleteVirtualServer(..) => &mut self.virtual_servers_removed,
            Change::NewRealServer(..) => &mut self.real_servers_added,
            Change::SetRealServer(..) => &mut self.real_servers_changed,
            Change::DeleteRealServer(..) => &mut self.real_servers_removed,
            Change::ZeroStatistics(_) => return,
        };
        *counter += 1;
    }
}
