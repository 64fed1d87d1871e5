//! The fence: a VIP's ARP and neighbor advertisements leave this node only while it owns the VIP and
//! its daemon is alive, whoever sends them: this daemon, a second one, another program, the kernel.
//!
//! ```text
//! table netdev edgelb   egress of every announcing interface: what speaks for a VIP (`vips*`) passes
//!                       only when it is in `owned*` and the element of `lease` lives
//! table arp edgelb      input: requests for a VIP never reach the kernel's own answering
//! ```
//!
//! The lease has a timeout, and a frame that this daemon sends to `lo` renews it: no transaction, so
//! the ruleset's generation stays and nobody's listing of it is disturbed. Decides nothing about
//! ownership: it does what [`Fenced`] says. Must not touch any other table.

mod edits;
mod lease;
mod observe;
mod rehearse;
mod requests;
mod rules;
mod shape;
mod support;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use imbl::OrdSet;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::netlink::{self, NetlinkSocket, TransactionError};
use super::nftables::encode::{Request, message};
use super::nftables::{self, TABLE};
use crate::model::host::Host;
pub use lease::{ETHERTYPE, Lease, Renewal, TIMEOUT};
pub use rehearse::rehearse;
use shape::{ARP, NETDEV, Table, Tables};
pub use support::{FenceSupport, hold_strict_arp, stands, support};

/// The name under which a table is tried; it never stays.
const TRIAL: &str = "edgelb_trial";
/// Bytes for the markers around a transaction.
const ROOM_FOR_MARKERS: usize = 64;
/// The interface that kube-proxy gives every address of a Service: they are no host's own.
const KUBE_PROXY_INTERFACE: &str = "kube-ipvs0";

/// Why the fence is not as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// This process lacks `CAP_NET_ADMIN`, or the kernel has no nfnetlink.
    #[error("nf_tables cannot be asked for the fence: the daemon needs CAP_NET_ADMIN")]
    Open(#[source] netlink::Error),
    /// A dump failed.
    #[error("cannot read the tables of the fence")]
    Observe(#[source] netlink::Error),
    /// The kernel sent something that is no `nf_tables` message.
    #[error("cannot read the tables of the fence")]
    Read(#[from] nftables::Error),
    /// A transaction was refused and rolled back whole.
    #[error("the kernel refused a transaction on the tables of the fence")]
    Apply(#[source] TransactionError),
    /// The frame that renews the lease could not be sent.
    #[error("cannot renew the lease of the fence: is lo up, and has the daemon CAP_NET_RAW?")]
    Renew(#[source] io::Error),
}

/// What is held back where, and what passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fenced {
    /// Announcing interfaces: name by index. One that is not there is left out until the next call.
    pub interfaces: BTreeMap<u32, String>,
    /// Addresses for which nobody may speak unless they are owned.
    pub vips: OrdSet<IpAddr>,
    /// Those that this node owns.
    pub owned: OrdSet<IpAddr>,
}

impl Fenced {
    /// Of all VIPs that any node announces, fences those that are no addresses of this host's own:
    /// its own ARP must pass whatever a pool says.
    pub fn new(
        interfaces: BTreeMap<u32, String>,
        vips: &OrdSet<IpAddr>,
        owned: OrdSet<IpAddr>,
        host: &Host,
    ) -> Self {
        let interfaces_of_its_own = host
            .interfaces
            .values()
            .filter(|interface| !interface.loopback && interface.name != KUBE_PROXY_INTERFACE);
        let own = interfaces_of_its_own.flat_map(|interface| &interface.addresses);
        // A clone shares its structure, so that what did not change costs nothing.
        let mut fenced = vips.clone();
        for address in own {
            fenced.remove(&address.addr());
        }
        Self {
            interfaces,
            vips: fenced,
            owned,
        }
    }

    /// Without the interfaces that are not there now: the kernel would refuse the whole transaction.
    fn present(&self) -> Self {
        let mut present = self.clone();
        present.interfaces.retain(|index, name| {
            *index != lease::LOOPBACK && if_nametoindex(name.as_str()).is_ok_and(|it| it == *index)
        });
        present
    }
}

/// Our fence in this network namespace.
#[derive(Debug)]
pub struct Fence {
    /// Absent where the kernel has no nfnetlink.
    socket: Option<NetlinkSocket>,
    tables: Tables,
    /// What was asked for last.
    asked: Fenced,
    /// What the kernel holds; absent where that is not known.
    applied: Option<Fenced>,
}

impl Fence {
    /// Opens a socket and finds out what this kernel can do. Leaves what is there as it is.
    pub fn open() -> Result<Self, FenceError> {
        let mut fence = Self {
            socket: None,
            tables: Tables::NONE,
            asked: Fenced::default(),
            applied: None,
        };
        let mut socket = match NetlinkSocket::open(NETLINK_NETFILTER) {
            Ok(socket) => socket,
            Err(netlink::Error::Open { source, .. })
                if source.raw_os_error() == Some(Errno::EPROTONOSUPPORT as i32) =>
            {
                return Ok(fence);
            }
            Err(error) => return Err(FenceError::Open(error)),
        };
        let mut can = |table: &Table| match trial(&mut socket, table) {
            Ok(()) => Ok(true),
            Err(TransactionError::Refused { failures, .. })
                if failures
                    .iter()
                    .all(|it| it.error.errno != Errno::EPERM as i32) =>
            {
                tracing::debug!(family = table.family, reason = ?failures.first().map(ToString::to_string),
                    "kernel cannot hold this part of the fence");
                Ok(false)
            }
            Err(error) => Err(FenceError::Apply(error)),
        };
        let egress = can(&rules::egress(&BTreeMap::new(), TIMEOUT))?;
        let arp = can(&rules::arp(egress, &BTreeMap::new()))?;
        fence.tables = Tables {
            egress,
            arp,
            ..Tables::NONE
        };
        fence.socket = Some(socket);
        Ok(fence)
    }

    /// The netlink port of this socket: notifications that carry it are about our own changes. 0, the
    /// kernel's own, where there is none.
    pub fn port(&self) -> u32 {
        self.socket.as_ref().map_or(0, NetlinkSocket::port)
    }

    /// What this kernel can hold back.
    pub fn support(&self) -> FenceSupport {
        match self.tables {
            Tables { egress: true, .. } => FenceSupport::Active,
            Tables { arp: true, .. } => FenceSupport::NoEgressHook,
            Tables { .. } => FenceSupport::NoTables,
        }
    }

    /// Makes the kernel hold back exactly this, by the difference to the last call; the first one
    /// takes over what an earlier run left.
    pub fn set(&mut self, fenced: &Fenced) -> Result<(), FenceError> {
        self.asked.clone_from(fenced);
        let wanted = fenced.present();
        let Some(applied) = self.applied.take() else {
            return self.compare(&wanted).map(|_| ());
        };
        if applied != wanted {
            match self.change(&applied, &wanted) {
                Ok(()) => {}
                // Somebody else was there, or an interface went away in between.
                Err(FenceError::Apply(TransactionError::Refused { .. })) => {
                    return self.rebuild(&fenced.present());
                }
                Err(error) => return Err(error),
            }
        }
        self.applied = Some(wanted);
        Ok(())
    }

    /// Compares the kernel with what was asked for, and makes it so again, in one transaction;
    /// returns whether it had to. An interface that came in between is taken in.
    pub fn repair(&mut self) -> Result<bool, FenceError> {
        self.applied = None;
        let wanted = self.asked.present();
        self.compare(&wanted)
    }

    /// What an earlier run was let speak for, and this one is as long as it asks for nothing else: the
    /// kernel still holds that.
    pub fn inherited(&mut self) -> Result<OrdSet<IpAddr>, FenceError> {
        let Some(socket) = self.socket.as_mut().filter(|_| self.tables.egress) else {
            return Ok(OrdSet::new());
        };
        let Some(contents) = observe::contents(socket, NETDEV)? else {
            return Ok(OrdSet::new());
        };
        let owned = [rules::OWNED4, rules::OWNED6];
        let sets = owned.iter().filter_map(|name| contents.sets.get(*name));
        let keys = sets.flat_map(|(_, elements)| elements.iter());
        Ok(keys.filter_map(|element| element.key.address()).collect())
    }

    /// The same with a lease that lasts so long, from the next change on.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.tables.lease = lease;
        self
    }

    /// The way to renew the lease of this fence, for a thread that no transaction holds up.
    pub fn lease(&self) -> Lease {
        Lease::new(self.tables.egress)
    }

    /// Whether everything that was asked for last is held: not where an interface was not there.
    pub fn is_whole(&self) -> bool {
        let held = (self.applied.as_ref()).is_some_and(|it| it.interfaces == self.asked.interfaces);
        held || self.socket.is_none()
    }

    /// Removes both tables, those of an earlier run too; returns how many there were.
    pub fn remove(&mut self) -> Result<usize, FenceError> {
        self.applied = None;
        let Some(socket) = &mut self.socket else {
            return Ok(0);
        };
        let mut removed = 0;
        for (family, able) in [(NETDEV, self.tables.egress), (ARP, self.tables.arp)] {
            if !able || nftables::observe::table(socket, family)?.is_none() {
                continue;
            }
            transact(
                socket,
                &[requests::table_request(
                    TABLE,
                    family,
                    message::DELETE_TABLE,
                    0,
                )],
            )
            .map_err(FenceError::Apply)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// Takes over what is right, and makes anew what is not.
    fn compare(&mut self, wanted: &Fenced) -> Result<bool, FenceError> {
        let Some(socket) = &mut self.socket else {
            return Ok(false);
        };
        let mut right = true;
        for table in self.tables.of(wanted) {
            let observed = match observe::contents(socket, table.family) {
                // Somebody put there what no table of ours has.
                Err(FenceError::Read(nftables::Error::Malformed(_))) => None,
                other => other?,
            };
            right &= observed.is_some_and(|observed| observed == table.into_contents());
        }
        if right {
            self.applied = Some(wanted.clone());
        } else {
            self.rebuild(wanted)?;
        }
        Ok(!right)
    }

    /// Replaces the tables whole: the old ones hold until the new ones do. The new ones have no lease
    /// yet: whoever has it renews it.
    fn rebuild(&mut self, wanted: &Fenced) -> Result<(), FenceError> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut requests = Vec::new();
        for table in self.tables.of(&Fenced {
            interfaces: wanted.interfaces.clone(),
            ..Fenced::default()
        }) {
            requests.extend(requests::whole(&table));
        }
        // What is held back comes before what passes, where one transaction cannot carry all.
        let edits = edits::between(&Fenced::default(), wanted, self.tables);
        requests.extend(edits.element_requests());
        transact(socket, &requests).map_err(FenceError::Apply)?;
        self.applied = Some(wanted.clone());
        Ok(())
    }

    fn change(&mut self, applied: &Fenced, wanted: &Fenced) -> Result<(), FenceError> {
        if !self.tables.egress && applied.interfaces != wanted.interfaces {
            // Rare, and there it is nothing but a set.
            return self.rebuild(wanted);
        }
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut requests = Vec::new();
        if applied.interfaces != wanted.interfaces {
            // The kernel removes chains by itself when their interface goes.
            let chains = observe::chains(socket, NETDEV)?;
            requests = requests::of_chains(
                &chains,
                &rules::egress(&wanted.interfaces, self.tables.lease),
            );
        }
        let edits = edits::between(applied, wanted, self.tables);
        requests.extend(edits.element_requests());
        transact(socket, &requests).map_err(FenceError::Apply)
    }
}

/// Lets the kernel make a table and take it away again, in one transaction: nobody ever sees it.
fn trial(socket: &mut NetlinkSocket, table: &Table) -> Result<(), TransactionError> {
    let table = Table {
        name: TRIAL,
        ..table.clone()
    };
    let mut requests = requests::whole(&table);
    requests.push(requests::table_request(
        TRIAL,
        table.family,
        message::DELETE_TABLE,
        0,
    ));
    socket.transaction(
        Request::begin().as_ref(),
        &requests,
        Request::end().as_ref(),
    )
}

/// Sends requests in as few transactions as the socket's buffer allows, in their order.
pub(in crate::apply) fn transact(
    socket: &mut NetlinkSocket,
    requests: &[Request],
) -> Result<(), TransactionError> {
    let room = socket.send_limit().saturating_sub(ROOM_FOR_MARKERS);
    let mut rest = requests;
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|request| {
            bytes += request.as_ref().len() + 4;
            bytes <= room
        });
        // One that fits nowhere is refused by the socket, with its size.
        let (now, later) = rest.split_at(fitting.count().max(1));
        socket.transaction(Request::begin().as_ref(), now, Request::end().as_ref())?;
        rest = later;
    }
    Ok(())
}
