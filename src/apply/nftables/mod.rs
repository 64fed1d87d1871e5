//! `nf_tables` by nfnetlink: the table `inet edgelb`, which is ours whole.
//!
//! Chains are fixed; what changes with Services are set and map elements, changed one by one, all
//! that belongs together in one transaction. Must not touch any other table.

mod describe;
mod edits;
mod element;
pub(in crate::apply) mod encode;
pub(in crate::apply) mod expression;
mod frontend;
mod handover;
#[cfg(test)]
mod handover_tests;
pub mod inspect;
mod layout;
pub(in crate::apply) mod observe;
pub mod others;
mod rehearse;
pub(in crate::apply) mod requests;
mod rules;
pub(in crate::apply) mod schema;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::apply::forwarder::{Forwarder, Refused};
use crate::apply::netlink::{self, NetlinkSocket, TransactionError};
use crate::apply::reach::Reach;
use crate::model::family::Family;
use crate::model::node_state::NodeState;
use edits::{Edit, Edits, batches};
pub use element::Digest;
use element::{ElementKey, List, Summary, Value};
use encode::{Request, message};
use expression::Verdict;
use handover::{opens, released};
pub(in crate::apply) use sets::Table;

pub use describe::{describe, describe_chains};
pub use layout::Layout;
pub use observe::Observed;
pub use rules::DESTINATION_PRIORITY;

/// The name of our table.
pub const TABLE: &str = "edgelb";

/// Room in a transaction for chains and for the heads of messages.
const RESERVED_BYTES: usize = 16 << 10;
/// A transaction is held twice, as messages and as what is sent: larger ones would cost more memory
/// than all that they are made from. This is room for 13,000 elements.
const LARGEST_TRANSACTION: usize = 8 << 20;

/// Why the table could not be observed or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no `nf_tables`, or this process lacks `CAP_NET_ADMIN`.
    #[error("nf_tables is not available: load the module nf_tables and run with CAP_NET_ADMIN")]
    NotAvailable(#[source] netlink::Error),
    /// A dump failed.
    #[error("cannot read the table inet edgelb")]
    Observe(#[source] netlink::Error),
    /// A transaction was refused and rolled back whole.
    #[error("the kernel refused a transaction on the table inet edgelb")]
    Apply(#[source] TransactionError),
    /// The kernel sent something that is no `nf_tables` message.
    #[error("a malformed nf_tables message came from the kernel: {0}")]
    Malformed(&'static str),
}

/// What one call changed, for metrics and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: usize,
    pub removed: usize,
    /// The table or its chains were made anew.
    pub rebuilt: bool,
    /// Something waits that IPVS refused to take over.
    pub held: bool,
}

/// Our table in the kernel of this network namespace.
pub struct Nftables {
    socket: NetlinkSocket,
    layout: Layout,
    /// Chains that choose an endpoint and are there.
    picks: BTreeSet<String>,
    /// Edits that wait for IPVS.
    later: Vec<Edit>,
    reach: Reach,
}

impl Nftables {
    /// Opens a socket; changes nothing yet.
    pub fn open(layout: Layout) -> Result<Self, Error> {
        Self::open_for(layout, Reach::Kernel)
    }

    /// The same for no more than this.
    pub fn open_for(layout: Layout, reach: Reach) -> Result<Self, Error> {
        let socket = NetlinkSocket::open_for(NETLINK_NETFILTER, reach.access());
        Ok(Self {
            socket: socket.map_err(Error::NotAvailable)?,
            reach,
            layout,
            picks: BTreeSet::new(),
            later: Vec::new(),
        })
    }

    /// Changes the parameters of the table; the next repair makes it accordingly.
    pub fn set_layout(&mut self, layout: Layout) {
        self.layout = layout;
    }

    /// The parameters of the table.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Sends, messages and bytes so far.
    pub fn counters(&self) -> netlink::Counters {
        self.socket.counters()
    }

    /// The netlink port of this socket: notifications that carry it are about our own changes.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Sends the difference between two states. What IPVS takes over is still forwarded here too,
    /// and who was kept away still is, until [`Self::finish`] is called.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState) -> Result<Changes, Error> {
        let mut edits = edits::between(old, new, self.layout);
        self.later = std::mem::take(&mut edits.later);
        self.send(edits)
    }

    /// Leaves to IPVS what it forwards now, and lets those through who may ask it. Where IPVS refused
    /// something, nftables goes on forwarding what it forwarded, and whoever is kept away stays so:
    /// then the next call must be a repair.
    pub fn finish(&mut self, state: &NodeState, refused: &Refused) -> Result<Changes, Error> {
        let later = std::mem::take(&mut self.later);
        let (single, held) = released(later, state, refused, self.layout);
        let edits = Edits {
            single,
            ..Edits::default()
        };
        let changes = self.send(edits)?;
        Ok(Changes { held, ..changes })
    }

    /// What tells whether the content of the table is as it was; `None` where the table is not there
    /// as this version makes it.
    pub fn fingerprint(&mut self) -> Result<Option<Digest>, Error> {
        let Some(observed) = observe::observe(&mut self.socket)? else {
            return Ok(None);
        };
        let restrictions = Family::BOTH.map(|family| vec![family]).into_iter();
        let restrictions = restrictions.chain([Vec::new(), Family::BOTH.to_vec()]);
        let mut layouts = restrictions.map(|families| self.layout.restrict_forwarding(&families));
        if !layouts.any(|layout| schema::fits(&observed, layout)) {
            return Ok(None);
        }
        observe::elements::<Digest>(&mut self.socket, &observed).map(Some)
    }

    /// Compares the kernel with the state and repairs whatever differs; makes the table where it is
    /// missing. Leaves what is right untouched. Beside IPVS it ends with [`Self::finish`], as
    /// [`Self::apply`] does.
    pub fn repair(&mut self, state: &NodeState) -> Result<Changes, Error> {
        match self.repair_or_make(state, false) {
            // What is there cannot be edited into what is wanted, whatever the reason: made anew, in
            // one transaction, it can.
            Err(Error::Apply(TransactionError::Refused { .. })) => self.repair_or_make(state, true),
            other => other,
        }
    }

    fn repair_or_make(&mut self, state: &NodeState, anew: bool) -> Result<Changes, Error> {
        self.later.clear();
        let observed = observe::observe(&mut self.socket)?;
        let differences = rehearse::differences(observed.as_ref(), self.layout);
        let fits = !anew && observed.is_some() && differences.is_empty();
        for step in differences {
            self.reach.note_step(|| step);
        }
        let summary: Summary = element::of_state(state, self.layout);
        let (mut requests, present) = match observed {
            Some(observed) if fits => {
                self.picks = observed.picks();
                // Almost always: found without holding either side.
                let present: Digest = observe::elements(&mut self.socket, &observed)?;
                if present == summary.digest {
                    self.remove_unused(&summary)?;
                    return Ok(Changes::default());
                }
                let present = observe::elements(&mut self.socket, &observed)?;
                (Vec::new(), present)
            }
            // Made anew, it has again what it had: only what is different then is noted.
            Some(observed) if !self.reach.changes() => {
                self.picks = observed.picks();
                let present = match observe::elements(&mut self.socket, &observed) {
                    Err(Error::Malformed(_)) => List::new(),
                    other => other?,
                };
                (schema::requests(self.layout), present)
            }
            Some(_) | None => {
                self.picks.clear();
                (schema::requests(self.layout), List::new())
            }
        };
        let wanted: List = element::of_state(state, self.layout);
        let rebuilt = !requests.is_empty();
        let waiting = !rebuilt && self.layout.datapath == Forwarder::Ipvs;
        let restrictions: BTreeSet<ElementKey> = wanted
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| waiting && key.table == Table::Restricted)
            .collect();
        self.note_ranges(&present, &wanted);
        let (ranges, single) = edits::differences(present, wanted);
        let mut later = Vec::new();
        let single = single.filter_map(|edit| {
            let lets_go = edit.new.is_none() && edit.key.table.translates();
            if waiting && (lets_go || opens(&edit, |key| restrictions.contains(key))) {
                later.push(edit);
                return None;
            }
            Some(edit)
        });
        let mut changes = Changes {
            rebuilt,
            ..Changes::default()
        };
        let room = self.room();
        let mut batches = batches(ranges, single, room);
        // The first edits travel with the table, so that it is never there and empty.
        if rebuilt {
            let first = batches.next().unwrap_or_default();
            changes.count(&first);
            requests.extend(self.requests(&first));
            self.transaction(&requests)?;
        }
        for batch in batches {
            changes.count(&batch);
            let requests = self.requests(&batch);
            self.transaction(&requests)?;
        }
        self.later = later;
        self.remove_unused(&summary)?;
        Ok(changes)
    }

    /// Removes the chains that chose among as many endpoints as no frontend has any more.
    fn remove_unused(&mut self, wanted: &Summary) -> Result<(), Error> {
        let waits: BTreeSet<&str> = self
            .later
            .iter()
            .filter_map(|edit| match &edit.old {
                Some(Value::Verdict(Verdict::Goto(chain))) => Some(&**chain),
                _ => None,
            })
            .collect();
        let used = |name: &str| wanted.chains.contains(name) || waits.contains(name);
        let unused: Vec<String> = (self.picks.iter())
            .filter(|name| !used(name))
            .cloned()
            .collect();
        self.note_removed(&unused);
        for names in unused.chunks(1000) {
            let requests: Vec<Request> = (names.iter())
                .map(|name| requests::remove_chain_request(name))
                .collect();
            self.transaction(&requests)?;
            self.picks.retain(|name| !names.contains(name));
        }
        Ok(())
    }

    /// Removes the table, if it is there.
    pub fn remove(&mut self) -> Result<bool, Error> {
        if observe::table(&mut self.socket, encode::INET)?.is_none() {
            return Ok(false);
        }
        let mut request = Request::new(message::DELETE_TABLE, 0);
        request.string(1, TABLE);
        self.transaction(&[request])?;
        self.picks.clear();
        Ok(true)
    }

    fn room(&self) -> usize {
        let limit = self.socket.send_limit().min(LARGEST_TRANSACTION);
        limit.saturating_sub(RESERVED_BYTES) / 2
    }

    fn send(&mut self, edits: Edits) -> Result<Changes, Error> {
        let mut changes = Changes::default();
        for batch in batches(edits.ranges, edits.single.into_iter(), self.room()) {
            changes.count(&batch);
            let requests = self.requests(&batch);
            self.transaction(&requests)?;
        }
        Ok(changes)
    }

    fn requests(&mut self, edits: &Edits) -> Vec<Request> {
        self.note(edits);
        requests::of_edits(edits, &mut self.picks)
    }

    fn transaction(&mut self, requests: &[Request]) -> Result<(), Error> {
        let result =
            self.socket
                .transaction(Request::begin().as_ref(), requests, Request::end().as_ref());
        if result.is_err() {
            // Whether chains of this transaction are there is unknown; the repair finds out.
            self.picks.clear();
        }
        result.map_err(Error::Apply)
    }
}

impl Changes {
    fn count(&mut self, edits: &Edits) {
        self.added += edits.ranges.values().map(BTreeMap::len).sum::<usize>();
        self.added += edits
            .single
            .iter()
            .filter(|edit| edit.new.is_some())
            .count();
        self.removed += edits
            .single
            .iter()
            .filter(|edit| edit.old.is_some() && edit.new.is_none())
            .count();
    }
}
