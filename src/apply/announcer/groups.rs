//! Keeps an interface a member of the solicited-node groups of its VIPs, by a socket option: so the
//! kernel tells switches that watch (MLD, RFC 3810), which otherwise let no solicitation through, and
//! the interface lets the frames in. Decides nothing about frames.
//!
//! The kernel tells the switches again by itself after the carrier was lost. A membership ends with its
//! interface: one that was recreated gets new [`Groups`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::ndp::solicited_node;

/// The memberships on one interface. They end when it is dropped.
#[derive(Debug)]
pub(super) struct Groups {
    index: u32,
    /// Each group, and the socket that holds it.
    members: BTreeMap<Ipv6Addr, usize>,
    /// One holds some hundreds of groups (`net.core.optmem_max`).
    sockets: Vec<Socket>,
    wanted: BTreeSet<Ipv6Addr>,
    /// What differs between the two.
    pending: Vec<Ipv6Addr>,
}

impl Groups {
    pub(super) const fn new(index: u32) -> Self {
        Self {
            index,
            members: BTreeMap::new(),
            sockets: Vec::new(),
            wanted: BTreeSet::new(),
            pending: Vec::new(),
        }
    }

    /// The groups of these VIPs are to be joined, all others to be left.
    pub(super) fn want<'a>(&mut self, vips: impl IntoIterator<Item = &'a IpAddr>) {
        self.wanted = vips
            .into_iter()
            .filter_map(|vip| match vip {
                IpAddr::V6(vip) => Some(solicited_node(*vip)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let gone = self
            .members
            .keys()
            .filter(|group| !self.wanted.contains(group));
        let missing = (self.wanted.iter()).filter(|group| !self.members.contains_key(group));
        // The last ones are taken first: what is new is more urgent.
        self.pending = gone.chain(missing).copied().collect();
    }

    /// Whether something is left to be done.
    pub(super) const fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Joins or leaves at most so many groups. After an error the rest is still pending.
    pub(super) fn step(&mut self, most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some(group) = self.pending.pop() else {
                return Ok(());
            };
            let done = if self.wanted.contains(&group) {
                self.join(group)
            } else {
                self.leave(group);
                Ok(())
            };
            if let Err(error) = done {
                self.pending.push(group);
                return Err(error);
            }
        }
        Ok(())
    }

    fn join(&mut self, group: Ipv6Addr) -> io::Result<()> {
        if let Some(place) = self.sockets.len().checked_sub(1)
            && let Some(socket) = self.sockets.get(place)
        {
            match socket.join_multicast_v6(&group, self.index) {
                Ok(()) => {
                    self.members.insert(group, place);
                    return Ok(());
                }
                // It is full.
                Err(error) if is_full(&error) => {}
                Err(error) => return Err(error),
            }
        }
        // Memberships need a socket, not its traffic: it is bound to nothing.
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
        socket.join_multicast_v6(&group, self.index)?;
        self.members.insert(group, self.sockets.len());
        self.sockets.push(socket);
        Ok(())
    }

    fn leave(&mut self, group: Ipv6Addr) {
        if let Some(place) = self.members.remove(&group)
            && let Some(socket) = self.sockets.get(place)
        {
            // Fails only where the interface is gone, and the membership with it.
            let _ = socket.leave_multicast_v6(&group, self.index);
        }
        if self.members.is_empty() {
            self.sockets.clear();
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENOMEM | Errno::ENOBUFS)
    )
}
