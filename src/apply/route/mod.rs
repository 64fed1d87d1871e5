//! Local routes, by which this node takes packets for addresses that no interface has ("`AnyIP`").
//!
//! `local PREFIX dev lo table local proto 225 src NODE`, one for each service range and one for each
//! held address outside of them. With the preferred source the node's own connections carry the
//! node's address, not the VIP. A route with another protocol is somebody else's: it is never
//! changed, and reported where it stands in the way.

pub mod lookup;
mod message;
mod prune;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::ordmap::DiffItem;
use ipnet::IpNet;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use crate::apply::netlink::{self, Counters, NetlinkSocket, RequestError};
use crate::apply::reach::{self, Reach};
use crate::model::family::{Family, host_prefix};
use crate::model::node_state::NodeState;
use message::{LocalRoute, NEW_ROUTE};

pub use message::PROTOCOL;

/// Why nothing is known about the routes after a call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("rtnetlink is not available")]
    NotAvailable(#[source] netlink::Error),
    #[error("cannot read the local routing table")]
    Observe(#[source] netlink::Error),
    #[error("cannot change the local routing table")]
    Change(#[source] netlink::Error),
    #[error("cannot set the interface lo up: run with CAP_NET_ADMIN")]
    Loopback(#[source] netlink::Error),
}

/// What was done with one route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Add,
    Replace,
    Remove,
}

impl Operation {
    /// The operation as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Remove => "remove",
        }
    }
}

/// One route that could not be brought about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Somebody else's route has the prefix, or is preferred to ours.
    #[error(
        "a route for {prefix} with protocol {protocol} is not ours: remove it (ip route del local {prefix} table local), or do not use {prefix} in a Service"
    )]
    Foreign { prefix: IpNet, protocol: u8 },
    #[error("cannot {} the local route for {prefix}", operation.as_str())]
    Refused {
        prefix: IpNet,
        operation: Operation,
        source: RequestError,
    },
}

impl Failure {
    /// The route's prefix.
    pub fn prefix(&self) -> IpNet {
        match self {
            Self::Foreign { prefix, .. } | Self::Refused { prefix, .. } => *prefix,
        }
    }

    /// The failure as a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "route_foreign",
            Self::Refused { .. } => "route_refused",
        }
    }
}

/// What one call changed, and what it could not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    pub added: usize,
    pub replaced: usize,
    pub removed: usize,
    pub failures: Vec<Failure>,
}

/// The prefixes that must be local, each with the source of the node's own packets to it.
type Desired = BTreeMap<IpNet, Option<IpAddr>>;
/// The local table by prefix.
type Observed = BTreeMap<IpNet, Vec<LocalRoute>>;

/// Our routes in the local table of one network namespace.
#[derive(Debug)]
pub struct Routes {
    socket: NetlinkSocket,
    reach: Reach,
    loopback_up: bool,
}

impl Routes {
    /// Opens a socket in this thread's network namespace; changes nothing yet.
    pub fn open() -> Result<Self, Error> {
        Self::open_for(Reach::Kernel)
    }

    /// The same for no more than this.
    pub fn open_for(reach: Reach) -> Result<Self, Error> {
        let socket = NetlinkSocket::open_for(NETLINK_ROUTE, reach.access());
        Ok(Self {
            socket: socket.map_err(Error::NotAvailable)?,
            reach,
            loopback_up: false,
        })
    }

    /// The netlink port of this socket: notifications that carry it are about our own changes.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Sends, messages and bytes so far.
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }

    /// Sends the difference between two states. Where only addresses came and went it costs as much
    /// as they are; the kernel is only read where a route is there already or changes its source.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState) -> Result<Outcome, Error> {
        let (put, remove) = difference(old, new);
        self.set_loopback_up(false)?;
        let mut outcome = Outcome::default();
        let (add, replace): (Vec<_>, Vec<_>) = put.into_iter().partition(|put| put.new);
        let mut unclear: Desired = replace.iter().map(|put| (put.prefix, put.source)).collect();
        let routes: Vec<LocalRoute> = add
            .iter()
            .map(|put| LocalRoute::ours(put.prefix, put.source))
            .collect();
        let exist = self.send(Operation::Add, &routes, &mut outcome)?;
        unclear.extend(
            exist
                .iter()
                .map(|route| (route.prefix, route.preferred_source)),
        );
        if !unclear.is_empty() {
            let observed = self.observe()?;
            self.put(&unclear, &observed, &mut outcome)?;
        }
        // Last, so that an address that goes from a route of its own into a range, or back, is
        // local all the time.
        let routes: Vec<LocalRoute> = remove
            .into_iter()
            .map(|prefix| LocalRoute::ours(prefix, None))
            .collect();
        self.send(Operation::Remove, &routes, &mut outcome)?;
        Ok(outcome)
    }

    /// Compares the kernel with the state and changes only what differs.
    pub fn repair(&mut self, state: &NodeState) -> Result<Outcome, Error> {
        self.set_loopback_up(true)?;
        let desired = desired(state);
        let observed = self.observe()?;
        let mut outcome = Outcome::default();
        self.put(&desired, &observed, &mut outcome)?;
        let stray: Vec<LocalRoute> = observed
            .values()
            .flatten()
            .filter(|route| route.protocol == PROTOCOL)
            .filter(|route| !desired.contains_key(&route.prefix) || !has_our_form(route))
            .copied()
            .collect();
        self.send(Operation::Remove, &stray, &mut outcome)?;
        Ok(outcome)
    }

    /// Removes every route of the local table that is ours.
    pub fn remove_all(&mut self) -> Result<Outcome, Error> {
        let ours: Vec<LocalRoute> = self
            .observe()?
            .into_values()
            .flatten()
            .filter(|route| route.protocol == PROTOCOL)
            .collect();
        let mut outcome = Outcome::default();
        self.send(Operation::Remove, &ours, &mut outcome)?;
        Ok(outcome)
    }

    /// Brings about what of `desired` the kernel lacks.
    fn put(
        &mut self,
        desired: &Desired,
        observed: &Observed,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let (mut add, mut replace) = (Vec::new(), Vec::new());
        for (prefix, source) in desired {
            let route = LocalRoute::ours(*prefix, *source);
            let there = observed.get(prefix).map_or(&[][..], Vec::as_slice);
            let ours = there
                .iter()
                .find(|there| there.protocol == PROTOCOL && has_our_form(there));
            let foreign = there
                .iter()
                .find(|there| there.protocol != PROTOCOL && there.metric <= route.metric);
            match (ours, foreign) {
                (_, Some(foreign)) => outcome.failures.push(Failure::Foreign {
                    prefix: *prefix,
                    protocol: foreign.protocol,
                }),
                (Some(ours), None) if *ours == route => {}
                (Some(_), None) => replace.push(route),
                // Ours of another form, at our metric, makes place.
                (None, None) if there.iter().any(|there| there.metric == route.metric) => {
                    replace.push(route);
                }
                (None, None) => add.push(route),
            }
        }
        let exist = self.send(Operation::Add, &add, outcome)?;
        // Somebody was faster than we between the dump and this.
        for route in exist {
            let source = RequestError::from_errno(Errno::EEXIST as i32);
            outcome.failures.push(Failure::Refused {
                prefix: route.prefix,
                operation: Operation::Add,
                source,
            });
        }
        self.send(Operation::Replace, &replace, outcome)?;
        Ok(())
    }

    /// Sends one operation for many routes; returns those that could not be added because there is
    /// a route already. What is not there any more counts as removed.
    fn send(
        &mut self,
        operation: Operation,
        routes: &[LocalRoute],
        outcome: &mut Outcome,
    ) -> Result<Vec<LocalRoute>, Error> {
        for route in routes {
            let (noted, verb) = match operation {
                Operation::Add => (reach::Operation::Add, "add"),
                Operation::Replace => (reach::Operation::Change, "replace"),
                Operation::Remove => (reach::Operation::Remove, "del"),
            };
            self.reach.note(noted, "route", || route.command(verb));
        }
        let requests: Vec<Vec<u8>> = routes
            .iter()
            .map(|route| match operation {
                Operation::Add => route.add(),
                Operation::Replace => route.replace(),
                Operation::Remove => route.delete(),
            })
            .collect();
        let results = self.socket.batch(&requests).map_err(Error::Change)?;
        let mut exist = Vec::new();
        for (route, result) in routes.iter().zip(results) {
            match (operation, result) {
                (Operation::Add, Ok(())) => outcome.added += 1,
                (Operation::Replace, Ok(())) => outcome.replaced += 1,
                (Operation::Remove, Ok(())) => outcome.removed += 1,
                (Operation::Remove, Err(error)) if error.errno == Errno::ESRCH as i32 => {}
                (Operation::Add, Err(error)) if error.errno == Errno::EEXIST as i32 => {
                    exist.push(*route);
                }
                (_, Err(source)) => outcome.failures.push(Failure::Refused {
                    prefix: route.prefix,
                    operation,
                    source,
                }),
            }
        }
        Ok(exist)
    }

    /// The routes that are ours, in the words of `ip`.
    pub fn ours(&mut self) -> Result<BTreeSet<String>, Error> {
        let observed = self.observe()?;
        let routes = observed.values().flatten();
        let ours = routes.filter(|route| route.protocol == PROTOCOL);
        Ok(ours.map(ToString::to_string).collect())
    }

    fn observe(&mut self) -> Result<Observed, Error> {
        let mut observed = Observed::new();
        for family in Family::BOTH {
            let replies = match self.socket.dump(&message::dump(family)) {
                Ok(replies) => replies,
                // The table comes with the first route; a family can be switched off whole.
                Err(netlink::Error::Refused(error)) if is_absence(&error) => continue,
                Err(error) => return Err(Error::Observe(error)),
            };
            for reply in replies {
                if reply.message_type != NEW_ROUTE {
                    continue;
                }
                if let Some(route) = LocalRoute::parse(&reply.payload)
                    && Family::of(route.prefix.addr()) == family
                {
                    observed.entry(route.prefix).or_default().push(route);
                }
            }
        }
        Ok(observed)
    }

    /// Sets lo up where it is down, as in a new network namespace: no route can go through it then.
    fn set_loopback_up(&mut self, look_again: bool) -> Result<(), Error> {
        if (self.loopback_up && !look_again) || !self.reach.looks() {
            return Ok(());
        }
        let replies = self
            .socket
            .request(&message::get_loopback())
            .map_err(Error::Loopback)?;
        if !replies.iter().any(|reply| message::is_up(&reply.payload)) {
            let command = || "ip link set lo up".to_owned();
            self.reach.note(reach::Operation::Change, "link", command);
            if !self.reach.changes() {
                return Ok(());
            }
            self.socket
                .request(&message::set_loopback_up())
                .map_err(Error::Loopback)?;
        }
        self.loopback_up = true;
        Ok(())
    }
}

/// A route to bring about.
struct Put {
    prefix: IpNet,
    source: Option<IpAddr>,
    /// The old state did not have the prefix.
    new: bool,
}

/// What must be put and what removed between two states. Only where ranges or sources differ does
/// it look at every address.
fn difference(old: &NodeState, new: &NodeState) -> (Vec<Put>, Vec<IpNet>) {
    let (mut put, mut remove) = (Vec::new(), Vec::new());
    if old.service_ranges == new.service_ranges && old.preferred_source == new.preferred_source {
        for difference in old.held.diff(&new.held) {
            match difference {
                DiffItem::Add(address, _) if !in_service_range(new, *address) => put.push(Put {
                    prefix: host_prefix(*address),
                    source: source_for(new, *address),
                    new: true,
                }),
                DiffItem::Remove(address, _) if !in_service_range(old, *address) => {
                    remove.push(host_prefix(*address));
                }
                DiffItem::Add(..) | DiffItem::Remove(..) | DiffItem::Update { .. } => {}
            }
        }
        return (put, remove);
    }
    let (before, after) = (desired(old), desired(new));
    for (prefix, source) in &after {
        let there = before.get(prefix);
        if there != Some(source) {
            put.push(Put {
                prefix: *prefix,
                source: *source,
                new: there.is_none(),
            });
        }
    }
    let gone = before.keys().filter(|prefix| !after.contains_key(prefix));
    remove.extend(gone);
    (put, remove)
}

/// The routes of a state as `ip route show table local proto 225` writes them, for people and for
/// golden files.
pub fn describe(state: &NodeState) -> String {
    let mut text = String::new();
    for (prefix, source) in desired(state) {
        text.push_str(&LocalRoute::ours(prefix, source).to_string());
        text.push('\n');
    }
    text
}

fn desired(state: &NodeState) -> Desired {
    let ranges = state.service_ranges.iter().map(IpNet::trunc);
    let addresses = state
        .held
        .keys()
        .filter(|address| !in_service_range(state, **address))
        .map(|address| host_prefix(*address));
    ranges
        .chain(addresses)
        .map(|prefix| (prefix, source_for(state, prefix.addr())))
        .collect()
}

fn in_service_range(state: &NodeState, address: IpAddr) -> bool {
    state
        .service_ranges
        .iter()
        .any(|range| range.contains(&address))
}

fn source_for(state: &NodeState, address: IpAddr) -> Option<IpAddr> {
    state.preferred_source.get(&Family::of(address)).copied()
}

/// Whether a route is what we would make, whatever its preferred source.
fn has_our_form(route: &LocalRoute) -> bool {
    *route == LocalRoute::ours(route.prefix, route.preferred_source)
}

fn is_absence(error: &RequestError) -> bool {
    [Errno::ENOENT, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP]
        .iter()
        .any(|errno| error.errno == *errno as i32)
}
