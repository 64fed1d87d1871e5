//! The handover: a packet of a TCP connection that this node does not know is passed on to the node
//! that had its VIP before, or has it now, and is translated there. So connections outlive a planned
//! move, and so does a handshake that the move cut in two.
//!
//! ```text
//! table ip edgelb, table ip6 edgelb   prerouting, after conntrack: what belongs to no connection here, is
//!                                     for a VIP in the map `handover` and no SYN, is sent (`dup`) to the
//!                                     address in the map, and dropped here
//! ```
//!
//! What another node passed on is never passed on again: it has too few hops left for that ([`rules`]).
//! There is no table where there is nothing to pass on. Decides nothing about who had a VIP: it does what [`HandedOver`]
//! says. Must not touch any other table.

mod edits;
mod observe;
mod rules;
mod support;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::fence::transact;
use super::netlink::{self, NetlinkSocket, TransactionError};
use super::nftables;
use crate::model::family::Family;
pub use support::{HandoverSupport, support};
use table::Tables;

/// How long it is remembered that a packet for a VIP was passed on: longer than an idle connection goes
/// without a keep-alive (two hours at the least by default, RFC 9293, section 3.8.4).
pub const REMEMBERED: Duration = Duration::from_secs(3 * 60 * 60);

/// Why the handover is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// This process lacks `CAP_NET_ADMIN`, or the kernel has no nfnetlink.
    #[error("nf_tables cannot be asked for the handover: the daemon needs CAP_NET_ADMIN")]
    Open(#[source] netlink::Error),
    /// A dump failed.
    #[error("cannot read the tables of the handover")]
    Observe(#[source] netlink::Error),
    /// The kernel sent something that is no `nf_tables` message.
    #[error("cannot read the tables of the handover")]
    Read(#[from] nftables::Error),
    /// A transaction was refused and rolled back whole.
    #[error("the kernel refused a transaction on the tables of the handover")]
    Apply(#[source] TransactionError),
}

/// Where a packet for a VIP comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrival {
    pub vip: IpAddr,
    /// The kernel's index of the interface.
    pub interface: u32,
}

/// What is passed on, and to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// An address of the other node on the LAN of that interface, of the VIP's family; one of another
    /// family counts for nothing.
    pub to: BTreeMap<Arrival, IpAddr>,
}

/// Our tables in this network namespace.
#[derive(Debug)]
pub struct Handover {
    /// Absent where the kernel has no nfnetlink.
    socket: Option<NetlinkSocket>,
    support: HandoverSupport,
    /// What was asked for last.
    asked: HandedOver,
    /// What the kernel holds; absent where that is not known.
    applied: Option<Tables>,
}

impl Handover {
    /// Opens a socket and finds out what this kernel can do, which also loads the modules that it takes.
    /// Leaves what is there as it is.
    pub fn open() -> Result<Self, HandoverError> {
        let mut handover = Self {
            socket: None,
            support: HandoverSupport::default(),
            asked: HandedOver::default(),
            applied: None,
        };
        match NetlinkSocket::open(NETLINK_NETFILTER) {
            Ok(mut socket) => {
                handover.support = support::of(&mut socket)?;
                handover.socket = Some(socket);
                Ok(handover)
            }
            Err(netlink::Error::Open { source, .. })
                if source.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) =>
            {
                Ok(handover)
            }
            Err(error) => Err(HandoverError::Open(error)),
        }
    }

    /// The netlink port of this socket: notifications that carry it are about our own changes. 0, the
    /// kernel's own, where there is none.
    pub fn port(&self) -> u32 {
        self.socket.as_ref().map_or(0, NetlinkSocket::port)
    }

    /// What this kernel can pass on.
    pub fn support(&self) -> HandoverSupport {
        self.support
    }

    /// What the kernel passes on now: what an earlier run left. Nothing where the tables are not ours.
    pub fn standing(&mut self) -> Result<BTreeMap<Arrival, IpAddr>, HandoverError> {
        let mut standing = BTreeMap::new();
        let Some(socket) = &mut self.socket else {
            return Ok(standing);
        };
        for family in Family::BOTH {
            if self.support.has(family)
                && let Some(contents) = observe::readable(socket, family)?
            {
                standing.extend(contents.entries(family));
            }
        }
        Ok(standing)
    }

    /// The VIPs for which packets were passed on within [`REMEMBERED`], each with how long ago.
    pub fn passed(&mut self) -> Result<BTreeMap<IpAddr, Duration>, HandoverError> {
        let mut passed = BTreeMap::new();
        let (Some(socket), Some(applied)) = (&mut self.socket, &self.applied) else {
            return Ok(passed);
        };
        for family in Family::BOTH {
            if applied.get(family).is_none() {
                continue;
            }
            for (vip, ago) in observe::passed(socket, family)? {
                let least = passed.entry(vip).or_insert(ago);
                *least = ago.min(*least);
            }
        }
        Ok(passed)
    }

    /// Makes the kernel pass on exactly this, by the difference to the last call; the first one takes
    /// over what an earlier run left, and removes it where nothing is to be passed on.
    pub fn set(&mut self, wanted: &HandedOver) -> Result<(), HandoverError> {
        if self.applied.is_some() && self.asked == *wanted {
            return Ok(());
        }
        self.asked.clone_from(wanted);
        let wanted = Tables::of(wanted, self.support);
        let (Some(socket), Some(applied)) = (&mut self.socket, self.applied.take()) else {
            return self.compare(wanted).map(|_| ());
        };
        match transact(socket, &edits::between(&applied, &wanted)) {
            Ok(()) => {
                self.applied = Some(wanted);
                Ok(())
            }
            // Somebody else was there.
            Err(TransactionError::Refused { .. }) => self.rebuild(wanted),
            Err(error) => Err(HandoverError::Apply(error)),
        }
    }

    /// Compares the kernel with what was asked for, and makes it so again; returns whether it had to.
    pub fn repair(&mut self) -> Result<bool, HandoverError> {
        self.applied = None;
        self.compare(Tables::of(&self.asked, self.support))
    }

    /// Removes both tables, those of an earlier run too; returns how many there were.
    pub fn remove(&mut self) -> Result<usize, HandoverError> {
        self.applied = None;
        self.asked = HandedOver::default();
        let Some(socket) = &mut self.socket else {
            return Ok(0);
        };
        let mut removed = 0;
        for family in Family::BOTH {
            if nftables::observe::table(socket, table::number(family))?.is_some() {
                transact(socket, &[edits::removal(family)]).map_err(HandoverError::Apply)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn compare(&mut self, wanted: Tables) -> Result<bool, HandoverError> {
        let Some(socket) = &mut self.socket else {
            return Ok(false);
        };
        let mut right = true;
        for family in Family::BOTH {
            let there = nftables::observe::table(socket, table::number(family))?.is_some();
            let same = match wanted.get(family) {
                None => !there,
                Some(table) => {
                    there && observe::readable(socket, family)?.as_ref() == Some(&table.contents())
                }
            };
            right &= same;
        }
        if right {
            self.applied = Some(wanted);
        } else {
            self.rebuild(wanted)?;
        }
        Ok(!right)
    }

    /// Replaces both tables whole, or removes them.
    fn rebuild(&mut self, wanted: Tables) -> Result<(), HandoverError> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut requests = Vec::new();
        for family in Family::BOTH {
            match wanted.get(family) {
                Some(table) => requests.extend(edits::whole(table)),
                // A kernel without the family has no table of it either.
                None if nftables::observe::table(socket, table::number(family))?.is_some() => {
                    requests.push(edits::removal(family));
                }
                None => {}
            }
        }
        transact(socket, &requests).map_err(HandoverError::Apply)?;
        self.applied = Some(wanted);
        Ok(())
    }
}
