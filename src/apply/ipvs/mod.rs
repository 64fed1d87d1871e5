//! IPVS by generic netlink: virtual servers, real servers, counters, timeouts.
//!
//! A client of its own, for there is none that knows SCTP, 64-bit statistics and batches. It uses
//! nothing of this program but the netlink transport, so that it can be published by itself. It
//! does what it is told: which virtual servers are whose is not its business, hence no flush.

pub mod listing;
pub mod message;
pub mod types;

use std::collections::BTreeSet;

use netlink_sys::protocols::NETLINK_GENERIC;
use nix::errno::Errno;

use crate::apply::netlink::{self, Access, Counters, NetlinkSocket, Reply, RequestError};
use message::{Encoder, MalformedReply};
use types::{
    Capabilities, Change, ObservedRealServer, ObservedVirtualServer, Statistics, Timeouts,
    VirtualServerKey,
};

/// Virtual servers (320 bytes each) that surely come in one datagram of a dump, of 4 KiB at least.
const ONE_DATAGRAM: usize = 10;
/// Dumps of virtual servers after which two that agree are no longer waited for.
const DUMP_ATTEMPTS: usize = 10;

/// Why IPVS could not be used, or a request got no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this kernel has no IPVS; load it with \"modprobe ip_vs\", or use the nftables datapath"
    )]
    NotAvailable,
    /// IPVS wants the capability in the initial user namespace (`GENL_ADMIN_PERM`).
    #[error("IPVS needs CAP_NET_ADMIN outside of any user namespace: run as root")]
    NotPermitted,
    #[error(transparent)]
    Netlink(netlink::Error),
    #[error(transparent)]
    Malformed(#[from] MalformedReply),
    #[error("IPVS acknowledged a request for {wanted} without a reply")]
    NoReply { wanted: &'static str },
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Self {
        match &error {
            netlink::Error::Refused(refusal) if refusal.errno == Errno::EPERM as i32 => {
                Self::NotPermitted
            }
            _ => Self::Netlink(error),
        }
    }
}

/// IPVS of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Ipvs {
    socket: NetlinkSocket,
    encoder: Encoder,
}

impl Ipvs {
    /// Opens IPVS in this thread's network namespace; the kernel loads the module where it has
    /// it. [`Error::NotAvailable`] and [`Error::NotPermitted`] tell that there is none to use.
    pub fn open() -> Result<Self, Error> {
        Self::open_for(Access::Full)
    }

    /// The same for no more than this; with [`Access::Nothing`] there is always one, and it is empty.
    pub fn open_for(access: Access) -> Result<Self, Error> {
        let mut socket = NetlinkSocket::open_for(NETLINK_GENERIC, access)?;
        if access == Access::Nothing {
            let encoder = Encoder::new(0);
            return Ok(Self { socket, encoder });
        }
        let replies = match socket.request(&message::get_family("IPVS")) {
            Err(netlink::Error::Refused(refusal)) if refusal.errno == Errno::ENOENT as i32 => {
                return Err(Error::NotAvailable);
            }
            other => other?,
        };
        let family = message::family(&single(replies, "its family")?.payload)?;
        let mut ipvs = Self {
            socket,
            encoder: Encoder::new(family),
        };
        // The family can be found by anybody; using it takes more.
        ipvs.capabilities()?;
        Ok(ipvs)
    }

    /// Applies `changes` in order, many in a send; returns the result of each at its index. One
    /// refused does not stop the others. An `Err` says that it is unknown what took place.
    pub fn apply(
        &mut self,
        changes: &[Change],
    ) -> Result<Vec<Result<(), RequestError>>, netlink::Error> {
        let requests: Vec<_> = changes
            .iter()
            .map(|change| self.encoder.change(change))
            .collect();
        self.socket.batch(&requests)
    }

    /// All virtual servers, whoever made them, each once. The kernel takes a long dump up again by
    /// position in a table of all network namespaces, so that a change in any of them makes it
    /// skip or repeat entries, unmarked: what needs several datagrams counts when two dumps agree.
    pub fn virtual_servers(&mut self) -> Result<Vec<ObservedVirtualServer>, Error> {
        let mut previous: Option<BTreeSet<VirtualServerKey>> = None;
        for _ in 0..DUMP_ATTEMPTS {
            let replies = self.socket.dump(&self.encoder.get_virtual_servers())?;
            let servers: Vec<_> = replies
                .iter()
                .map(|reply| message::virtual_server(&reply.payload))
                .collect::<Result<_, _>>()?;
            if servers.len() <= ONE_DATAGRAM {
                return Ok(servers);
            }
            let keys: BTreeSet<_> = servers.iter().map(|server| server.key).collect();
            if keys.len() == servers.len() && previous.as_ref() == Some(&keys) {
                return Ok(servers);
            }
            previous = Some(keys);
        }
        Err(Error::Netlink(netlink::Error::DumpInterrupted))
    }

    /// What virtual servers counted, by one dump. Where they change meanwhile it may lack some or name
    /// some twice, for which nobody who adds up has to read twice.
    pub fn statistics(&mut self) -> Result<Vec<(VirtualServerKey, Statistics)>, Error> {
        let replies = self.socket.dump(&self.encoder.get_virtual_servers())?;
        let decode = |reply: &Reply| {
            let server = message::virtual_server(&reply.payload)?;
            Ok((server.key, server.statistics))
        };
        replies.iter().map(decode).collect()
    }

    /// One virtual server; `None` where there is none with this key.
    pub fn virtual_server(
        &mut self,
        key: &VirtualServerKey,
    ) -> Result<Option<ObservedVirtualServer>, Error> {
        match self.socket.request(&self.encoder.get_virtual_server(key)) {
            Err(netlink::Error::Refused(refusal)) if refusal.errno == Errno::ESRCH as i32 => {
                Ok(None)
            }
            other => {
                let reply = single(other?, "a virtual server")?;
                Ok(Some(message::virtual_server(&reply.payload)?))
            }
        }
    }

    /// The real servers of one virtual server; none where it does not exist (the kernel answers
    /// a dump for a missing virtual server with nothing).
    pub fn real_servers(
        &mut self,
        key: &VirtualServerKey,
    ) -> Result<Vec<ObservedRealServer>, Error> {
        let replies = self.socket.dump(&self.encoder.get_real_servers(key))?;
        let decode = |reply: &Reply| Ok(message::real_server(&reply.payload, key.family())?);
        replies.iter().map(decode).collect()
    }

    /// All virtual servers with their real servers: a dump for each, one after the other. Complete
    /// for all that does not change meanwhile, which [`listing::read`] is not.
    pub fn inventory(
        &mut self,
    ) -> Result<Vec<(ObservedVirtualServer, Vec<ObservedRealServer>)>, Error> {
        let servers = self.virtual_servers()?;
        let with_real_servers = |server: ObservedVirtualServer| {
            let real_servers = self.real_servers(&server.key)?;
            Ok((server, real_servers))
        };
        servers.into_iter().map(with_real_servers).collect()
    }

    /// Version and table size.
    pub fn capabilities(&mut self) -> Result<Capabilities, Error> {
        let replies = self.socket.request(&self.encoder.get_capabilities())?;
        Ok(message::capabilities(
            &single(replies, "its version")?.payload,
        )?)
    }

    /// The timeouts of idle connections in this network namespace.
    pub fn timeouts(&mut self) -> Result<Timeouts, Error> {
        let replies = self.socket.request(&self.encoder.get_timeouts())?;
        Ok(message::timeouts(
            &single(replies, "its timeouts")?.payload,
        )?)
    }

    /// Sets the timeouts; one of 0 stays as it is.
    pub fn set_timeouts(&mut self, timeouts: Timeouts) -> Result<(), Error> {
        if self.socket.changes() {
            self.socket.request(&self.encoder.set_timeouts(timeouts))?;
        }
        Ok(())
    }

    /// Sends and messages since IPVS was opened.
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }
}

fn single(replies: Vec<Reply>, wanted: &'static str) -> Result<Reply, Error> {
    replies.into_iter().next().ok_or(Error::NoReply { wanted })
}
