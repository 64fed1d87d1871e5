//! Reads links, addresses and routes of a network namespace, whole, over one blocking socket.
//!
//! The kernel answers a dump while it is asked, so nothing here waits for anybody else.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use socket2::SockRef;

use super::message::{self, INET, INET6, TABLE_MAIN};
use crate::model::host::{Host, Interface};

const HEADER_BYTES: usize = 16;
const RECEIVE_BYTES: usize = 256 << 10;
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A dump that changed under the reader this often is taken as it is: a notification will follow.
const DUMP_ATTEMPTS: usize = 4;

/// A socket that lists the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Listing {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Messages of a dump: their types and what follows `struct nlmsghdr`.
type Messages = Vec<(u16, Vec<u8>)>;

impl Listing {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Dumps obey the filters in their request: only the main table is read (Linux 4.20).
        socket.set_netlink_get_strict_chk(true)?;
        SockRef::from(&socket).set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// Interfaces with their addresses, and the gateways of the main table.
    pub(super) fn host(&mut self) -> io::Result<Host> {
        let mut interfaces: BTreeMap<u32, Interface> = self
            .dump(message::GET_LINK, &[0; 16])?
            .iter()
            .filter(|(message_type, _)| *message_type == message::NEW_LINK)
            .filter_map(|(_, payload)| message::interface(payload))
            .map(|interface| (interface.index, interface))
            .collect();
        let mut gateways: BTreeSet<IpAddr> = BTreeSet::new();
        for family in [INET, INET6] {
            let addresses = self.dump(message::GET_ADDRESS, &[family, 0, 0, 0, 0, 0, 0, 0])?;
            for (message_type, payload) in addresses {
                if message_type == message::NEW_ADDRESS
                    && let Some((index, address)) = message::address(&payload, family)
                    && let Some(interface) = interfaces.get_mut(&index)
                {
                    interface.addresses.push(address);
                }
            }
            let request = [family, 0, 0, 0, TABLE_MAIN, 0, 0, 0, 0, 0, 0, 0];
            for (message_type, payload) in self.dump(message::GET_ROUTE, &request)? {
                if message_type == message::NEW_ROUTE {
                    gateways.extend(message::gateways(&payload, family));
                }
            }
        }
        Ok(Host {
            interfaces,
            infrastructure: gateways.into_iter().collect(),
        })
    }

    fn dump(&mut self, message_type: u16, payload: &[u8]) -> io::Result<Messages> {
        let mut messages = Messages::new();
        for _ in 0..DUMP_ATTEMPTS {
            let interrupted;
            (messages, interrupted) = self.dump_once(message_type, payload)?;
            if !interrupted {
                break;
            }
        }
        Ok(messages)
    }

    /// Returns the messages, and whether the kernel says that they do not fit one another.
    fn dump_once(&mut self, message_type: u16, payload: &[u8]) -> io::Result<(Messages, bool)> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES.saturating_add(payload.len()))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut request = length.to_ne_bytes().to_vec();
        request.extend(message_type.to_ne_bytes());
        request.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(payload);
        self.socket.send(&request, 0)?;
        let (mut messages, mut interrupted) = (Messages::new(), false);
        loop {
            let length = self.receive()?;
            let mut rest = self
                .buffer
                .get(..length)
                .ok_or_else(|| io::Error::other("a netlink reply does not fit the buffer"))?;
            while !rest.is_empty() {
                let (header, payload, after) = split(rest)
                    .ok_or_else(|| io::Error::other("malformed netlink reply from the kernel"))?;
                rest = after;
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.message_type {
                    NLMSG_DONE | NLMSG_ERROR => {
                        return end(payload, messages).map(|messages| (messages, interrupted));
                    }
                    NLMSG_OVERRUN => return Err(Errno::ENOBUFS.into()),
                    other => messages.push((other, payload.to_vec())),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match recv(
                self.socket.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_TRUNC,
            ) {
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The last message of a dump carries 0 or a negative errno.
fn end(payload: &[u8], messages: Messages) -> io::Result<Messages> {
    let code = payload.first_chunk::<4>().copied().unwrap_or_default();
    let errno = Errno::from_raw(i32::from_ne_bytes(code).saturating_abs());
    match errno {
        Errno::UnknownErrno => Ok(messages),
        // A table comes with its first route; a family can be switched off whole.
        Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP => Ok(Messages::new()),
        errno => Err(errno.into()),
    }
}

struct Header {
    message_type: u16,
    flags: u16,
    sequence: u32,
}

fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let [l0, l1, l2, l3, t0, t1, f0, f1, s0, s1, s2, s3, ..] =
        *bytes.first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
    let payload = bytes.get(HEADER_BYTES..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let header = Header {
        message_type: u16::from_ne_bytes([t0, t1]),
        flags: u16::from_ne_bytes([f0, f1]),
        sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
    };
    Some((header, payload, rest))
}
