//! The first half of a repair: takes away what must not be local any more, and adds nothing. An
//! address must cease to be local before its filter goes.

use super::{Error, Operation, Outcome, PROTOCOL, Routes, desired, has_our_form};
use crate::apply::route::message::LocalRoute;
use crate::model::node_state::NodeState;

impl Routes {
    /// Removes our routes that the state does not want. Also sets `lo` up: IPVS refuses IPv4 real
    /// servers in a network namespace where no interface has ever been up.
    pub fn prune(&mut self, state: &NodeState) -> Result<Outcome, Error> {
        self.set_loopback_up(true)?;
        let desired = desired(state);
        let stray: Vec<LocalRoute> = self
            .observe()?
            .into_values()
            .flatten()
            .filter(|route| route.protocol == PROTOCOL)
            // One that a wanted route covers, or that covers one, goes only after that is there.
            .filter(|route| {
                let covered = desired
                    .keys()
                    .any(|wanted| wanted.contains(&route.prefix) || route.prefix.contains(wanted));
                !covered || !has_our_form(route)
            })
            .collect();
        let mut outcome = Outcome::default();
        self.send(Operation::Remove, &stray, &mut outcome)?;
        Ok(outcome)
    }
}
