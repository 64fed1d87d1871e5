//! What the kernel does with single addresses, without reading whole tables: whether it takes packets
//! for them, and how it would send there. Changes nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;

use super::message::{self, Answer, PROTOCOL};
use super::{Error, source_for};
use crate::apply::netlink::{self, NetlinkSocket};
use crate::model::node_state::NodeState;
use crate::model::observation::{Difference, Path};

/// Looks routes up in this thread's network namespace.
pub struct Lookup {
    socket: NetlinkSocket,
    /// The names of interfaces that were asked for.
    names: BTreeMap<u32, String>,
}

impl Lookup {
    /// Opens a socket.
    pub fn open() -> Result<Self, Error> {
        let socket = NetlinkSocket::open(NETLINK_ROUTE).map_err(Error::NotAvailable)?;
        Ok(Self {
            socket,
            names: BTreeMap::new(),
        })
    }

    /// How this node sends to an address.
    pub fn path(&mut self, to: IpAddr) -> Result<Path, Error> {
        let Found::Route(answer) = self.ask(to, false)? else {
            return Ok(Path::NoRoute);
        };
        let Some(index) = answer.interface else {
            return Ok(Path::NoRoute);
        };
        Ok(Path::Interface {
            name: self.name(index)?,
            source: answer.source,
        })
    }

    /// The name of an interface.
    fn name(&mut self, index: u32) -> Result<String, Error> {
        if let Some(name) = self.names.get(&index) {
            return Ok(name.clone());
        }
        let request = message::get_link(index);
        let replies = self.socket.request(&request).map_err(Error::Observe)?;
        let mut names = replies
            .iter()
            .filter_map(|reply| message::link_name(&reply.payload));
        let name = names.next().unwrap_or_else(|| format!("interface {index}"));
        self.names.insert(index, name.clone());
        Ok(name)
    }

    /// Why this node does not take packets for a held address as planned, if it does not.
    pub fn held(
        &mut self,
        address: IpAddr,
        state: &NodeState,
    ) -> Result<Option<Difference>, Error> {
        let object = format!("route for {address} in table local");
        let answer = match self.ask(address, true)? {
            Found::Route(answer) => answer,
            Found::Nothing => return Ok(Some(Difference::of_ours(object, "is missing"))),
            // Never ours.
            Found::Refusal => {
                let what =
                    "is somebody else's, and refuses packets (blackhole, unreachable or prohibit)";
                return Ok(Some(Difference::of_ours(object, what)));
            }
        };
        Ok(if !answer.local {
            Some(Difference::of_ours(object, "is missing"))
        } else if answer.protocol != PROTOCOL {
            let protocol = answer.protocol;
            let what = format!(
                "is somebody else's (protocol {protocol}): remove it with ip route del local {address} table local, or do not use {address} in a Service"
            );
            Some(Difference::of_others(object, what))
        } else if answer.source != source_for(state, address) {
            Some(Difference::of_ours(object, "names another source address"))
        } else {
            None
        })
    }

    /// The route that the kernel takes, or, of `entry`, the entry of the table that it finds.
    fn ask(&mut self, to: IpAddr, entry: bool) -> Result<Found, Error> {
        const NOTHING: [Errno; 2] = [Errno::ENETUNREACH, Errno::ESRCH];
        // `fib_props`, `net/ipv4/fib_semantics.c`, and the same of IPv6.
        const REFUSALS: [Errno; 3] = [Errno::EINVAL, Errno::EHOSTUNREACH, Errno::EACCES];
        let is_one = |errno: i32, of: &[Errno]| of.iter().any(|known| *known as i32 == errno);
        match self.socket.request(&message::get_route(to, entry)) {
            Ok(replies) => {
                let mut answers = replies.iter();
                let answer = answers.find_map(|reply| message::answer(&reply.payload));
                Ok(answer.map_or(Found::Nothing, Found::Route))
            }
            Err(netlink::Error::Refused(refusal)) if is_one(refusal.errno, &NOTHING) => {
                Ok(Found::Nothing)
            }
            Err(netlink::Error::Refused(refusal)) if is_one(refusal.errno, &REFUSALS) => {
                Ok(Found::Refusal)
            }
            Err(error) => Err(Error::Observe(error)),
        }
    }
}

/// What the kernel knows of the way to an address.
enum Found {
    Route(Answer),
    Nothing,
    /// A route that says that there is no way.
    Refusal,
}
