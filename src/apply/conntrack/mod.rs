//! Connection tracking entries that outlive what they were made for are deleted, one by one.
//!
//! Looks only when something changed that entries can depend on, then reads the table once and
//! deletes exact entries by tuple and number. Which entries these are is decided in `stale`. Must
//! never send a deletion without a tuple: that would empty the whole table.

mod count;
mod message;
mod stale;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use imbl::OrdSet;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::departures::Departed;
use super::forwarder::Forwarder;
use super::netlink::{self, NetlinkSocket};
use super::reach::{Operation, Reach};
use crate::model::family::{Family, Protocol};
use crate::model::node_state::NodeState;
use crate::model::sysctl::{Rule, Sysctl};
pub use message::Flow;
use message::Identity;
use stale::{Concern, Settled};

/// How large the table must be able to get, by processors and at all.
const ENTRIES_PER_PROCESSOR: u64 = 32 << 10;
const FEWEST_ENTRIES: u64 = 128 << 10;
const MOST_ENTRIES: u64 = 1 << 20;

/// Why the table could not be made to fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a socket for connection tracking")]
    Open(#[source] netlink::Error),
    /// Neither `nf_conntrack` nor its netlink interface is there.
    #[error(
        "this kernel shows no connection tracking by netlink, so flows to removed endpoints go on until they end or time out: {}",
        super::module::remedy("nf_conntrack_netlink")
    )]
    NotAvailable,
    #[error("cannot read the connection tracking table")]
    Dump(#[source] netlink::Error),
    #[error("cannot delete connection tracking entries")]
    Delete(#[source] netlink::Error),
    /// Some were refused; the first reason is given.
    #[error("{refused} connection tracking entries could not be deleted")]
    Refused {
        refused: usize,
        source: netlink::RequestError,
    },
}

/// What connection tracking is to be like, as kube-proxy sets it up: nothing where its module is not
/// loaded yet, and the size of the table only where it is not another network namespace's.
pub fn sysctls() -> [(&'static str, Sysctl); 4] {
    let exactly = |value: &str| Sysctl::optionally(Rule::Exactly(value.to_owned()));
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let entries = u64::try_from(processors)
        .unwrap_or(1)
        .saturating_mul(ENTRIES_PER_PROCESSOR)
        .clamp(FEWEST_ENTRIES, MOST_ENTRIES);
    let least = Sysctl::optionally(Rule::AtLeast(entries));
    [
        // A packet that is out of the window is not marked as invalid, which would let it leave
        // untranslated and make the client reset its connection.
        ("net/netfilter/nf_conntrack_tcp_be_liberal", exactly("1")),
        (
            "net/netfilter/nf_conntrack_tcp_timeout_established",
            exactly("86400"),
        ),
        (
            "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
            exactly("3600"),
        ),
        ("net/netfilter/nf_conntrack_max", least),
    ]
}

/// Every entry that netfilter translates to another destination, for somebody who looks at how
/// connections are spread. Changes nothing.
pub fn translated() -> Result<Vec<Flow>, Error> {
    flows(|flow| flow.destination_nat)
}

/// The entries that somebody wants to look at, those of IPVS among them. Changes nothing.
pub fn flows(wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, Error> {
    let mut socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(Error::Open)?;
    let mut flows = Vec::new();
    for family in Family::BOTH {
        let request = message::dump(family, None);
        let found = socket.dump_into(&request, Vec::new, |flows, reply| {
            let flow = message::flow(&reply.payload);
            flows.extend(flow.filter(&wanted));
        });
        flows.extend(found.map_err(Error::Dump)?);
    }
    Ok(flows)
}

/// The connection tracking table of this network namespace.
pub struct Conntrack {
    socket: NetlinkSocket,
    datapath: Forwarder,
    /// What the table was last made to fit; none before the first time.
    settled: Option<Settled>,
    reach: Reach,
}

impl Conntrack {
    /// Opens a socket; looks at nothing yet. `datapath` forwards all that it can.
    pub fn open(datapath: Forwarder) -> Result<Self, Error> {
        Self::open_for(datapath, Reach::Kernel)
    }

    /// The same for no more than this.
    pub fn open_for(datapath: Forwarder, reach: Reach) -> Result<Self, Error> {
        let socket = NetlinkSocket::open_for(NETLINK_NETFILTER, reach.access());
        Ok(Self {
            socket: socket.map_err(Error::Open)?,
            reach,
            datapath,
            settled: None,
        })
    }

    /// Sends, messages and bytes so far.
    pub fn counters(&self) -> netlink::Counters {
        self.socket.counters()
    }

    /// Deletes entries that lead where `state`, which is in force, does not: those of what changed
    /// since this last worked, or of `all` frontends. Returns how many. After an error the next call
    /// looks at what this one should have.
    pub fn settle(&mut self, state: &NodeState, all: bool) -> Result<usize, Error> {
        let before = self.settled.clone().unwrap_or_default();
        let concern = if all || self.settled.is_none() {
            Concern::everything(&before, state)
        } else {
            Concern::between(&before, state)
        };
        let deleted = if concern.is_empty() {
            0
        } else {
            let found = self.find(&concern, state)?;
            self.delete(&found)?
        };
        self.settled = Some(before.after(state));
        Ok(deleted)
    }

    /// Ends connections that were sent to these endpoints from these frontends, node ports at these
    /// addresses. Returns how many.
    pub fn end(
        &mut self,
        departed: &BTreeSet<Departed>,
        node_addresses: &OrdSet<IpAddr>,
    ) -> Result<usize, Error> {
        let mut all = Vec::new();
        for family in Family::BOTH {
            let mut ports = departed.iter().map(|(port, _)| port.address.family());
            if ports.any(|of_port| of_port == family) {
                let ends = |flow: &Flow| stale::is_departed(flow, departed, node_addresses);
                all.extend(self.dump(family, Some(Protocol::Tcp.number()), ends)?);
            }
        }
        self.delete(&all)
    }

    /// Reads the table once, holding only what is to go.
    fn find(&mut self, concern: &Concern, state: &NodeState) -> Result<Vec<Identity>, Error> {
        let mut all = Vec::new();
        for (family, only_udp) in concern.families() {
            let protocol = only_udp.then(|| Protocol::Udp.number());
            let datapath = self.datapath;
            let is_stale = |flow: &Flow| concern.is_stale(flow, state, datapath);
            all.extend(self.dump(family, protocol, is_stale)?);
        }
        Ok(all)
    }

    fn dump(
        &mut self,
        family: Family,
        protocol: Option<u8>,
        is_stale: impl Fn(&Flow) -> bool,
    ) -> Result<Vec<Identity>, Error> {
        let request = message::dump(family, protocol);
        let found = self.socket.dump_into(&request, Vec::new, |found, reply| {
            if let Some(flow) = message::flow(&reply.payload).filter(&is_stale) {
                found.push(flow.identity);
            }
        });
        found.map_err(unavailable)
    }

    fn delete(&mut self, stale: &[Identity]) -> Result<usize, Error> {
        for identity in stale {
            let command = || format!("conntrack -D {identity}");
            self.reach.note(Operation::Remove, "flow", command);
        }
        let requests: Vec<_> = stale.iter().map(message::delete).collect();
        let results = self.socket.batch(&requests).map_err(Error::Delete)?;
        let mut deleted = 0;
        let mut refusals = Vec::new();
        for result in results {
            match result {
                Ok(()) => deleted += 1,
                // It timed out meanwhile, or another one has its place.
                Err(refusal) if refusal.errno == Errno::ENOENT as i32 => {}
                Err(refusal) => refusals.push(refusal),
            }
        }
        let refused = refusals.len();
        match refusals.into_iter().next() {
            None => Ok(deleted),
            Some(source) => Err(Error::Refused { refused, source }),
        }
    }
}

/// Why the table could not be read.
fn unavailable(error: netlink::Error) -> Error {
    match &error {
        // nfnetlink knows no such subsystem.
        netlink::Error::Refused(refusal)
            if refusal.errno == Errno::EINVAL as i32 && !is_loaded() =>
        {
            Error::NotAvailable
        }
        _ => Error::Dump(error),
    }
}

/// Whether `nf_conntrack_netlink` is there; it has no file of its own where it is built in.
fn is_loaded() -> bool {
    std::path::Path::new("/sys/module/nf_conntrack_netlink").exists()
}
