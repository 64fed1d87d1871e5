//! Somebody else's virtual servers at the places where ours would be made: found before the journal
//! names them, and left as they are.
//!
//! The kernel's refusal to make a second one would come too late: what is recorded counts as ours, is
//! repaired and goes with our frontend, and real servers would be added to it.

use std::collections::{BTreeMap, BTreeSet};

use super::names::name;
use super::{Intent, KIND, Outcome, VirtualServers};
use crate::apply::Failure;
use crate::apply::ipvs::Error;
use crate::apply::ipvs::types::VirtualServerKey;
use crate::apply::state_directory::VirtualServerName;

/// New virtual servers up to which the kernel is asked about each, and not about all that it has.
const MOST_ASKED: usize = 16;

impl VirtualServers {
    /// Leaves out what somebody else has at a place where we would create. What cannot be asked about
    /// waits as well.
    pub(super) fn leave_foreign(
        &mut self,
        wanted: &mut BTreeMap<VirtualServerKey, Option<Intent>>,
        outcome: &mut Outcome,
    ) {
        let new: BTreeSet<VirtualServerKey> = self.created(wanted).map(|(key, _)| key).collect();
        match self.present(&new) {
            Ok(foreign) => {
                for key in foreign {
                    wanted.remove(&key);
                    outcome.refused.servers.extend(name(&key));
                    outcome.failures.push(in_the_way(&key));
                }
            }
            Err(error) => {
                wanted.retain(|key, _| !new.contains(key));
                outcome.refused.servers.extend(new.iter().filter_map(name));
                let failure = Failure::new(KIND, "inventory", &error);
                outcome.failures.push(failure);
            }
        }
    }

    /// The virtual servers that are to be made and that the journal does not name yet.
    pub(super) fn created(
        &self,
        wanted: &BTreeMap<VirtualServerKey, Option<Intent>>,
    ) -> impl Iterator<Item = (VirtualServerKey, VirtualServerName)> {
        let serves = |intent: &Intent| !intent.real_servers.is_empty();
        wanted
            .iter()
            .filter(move |(key, wanted)| {
                wanted.as_ref().is_some_and(serves) && !self.servers.contains_key(key)
            })
            .filter_map(|(key, _)| Some((*key, name(key)?)))
            .filter(|(_, name)| !self.journal.contains(name))
    }

    /// Which of these the kernel has.
    fn present(
        &mut self,
        keys: &BTreeSet<VirtualServerKey>,
    ) -> Result<Vec<VirtualServerKey>, Error> {
        if keys.len() > MOST_ASKED {
            let all = self.ipvs.virtual_servers()?.into_iter();
            let all = all.map(|observed| observed.key);
            return Ok(all.filter(|key| keys.contains(key)).collect());
        }
        let mut present = Vec::new();
        for key in keys {
            present.extend(self.ipvs.virtual_server(key)?.map(|observed| observed.key));
        }
        Ok(present)
    }
}

/// What is told where one is in the way.
pub(super) fn in_the_way(key: &VirtualServerKey) -> Failure {
    Failure::told(
        KIND,
        key.to_string(),
        "a virtual server that edgelb did not make is in the way: remove it with ipvsadm -D",
    )
}
