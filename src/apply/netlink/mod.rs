//! Batched netlink requests over one blocking socket; each error comes back to its request.
//!
//! The kernel handles requests inside `send`, so nothing here waits for long and nothing is
//! asynchronous. Any netlink protocol can be spoken: requests come in as whole messages, replies
//! go out as payloads. Must not know what a message means, and must not retry what the kernel
//! refused.

mod dump;
mod error;
pub mod message;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use message::{HEADER_LENGTH, Kind, Message};
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::SockRef;

pub use error::{Error, Failure, TransactionError};
pub use message::RequestError;

/// How long a reply may take before the kernel counts as silent.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Asked for both socket buffers; user namespaces are refused it and get the system's maximum.
const BUFFER_BYTES: usize = 16 << 20;
/// Acknowledgements asked for in one send. With default buffers 256 arrive, then `ENOBUFS`.
const MAXIMUM_ACKNOWLEDGEMENTS: usize = 200;
/// What one queued acknowledgement may cost the receive buffer (`skb` and its accounting).
const ACKNOWLEDGEMENT_BYTES: usize = 1280;
/// Bytes of acknowledged requests in one send: larger ones gain nothing.
const MAXIMUM_SEND_BYTES: usize = 128 << 10;
/// The kernel keeps this much of the send buffer for itself (`netlink_sendmsg`).
const SEND_OVERHEAD_BYTES: usize = 64;
/// A datagram larger than this is reported as truncated; the kernel's dumps use up to 32 KiB.
const RECEIVE_BYTES: usize = 256 << 10;
/// A dump that changed under the reader this often is given up.
const DUMP_ATTEMPTS: usize = 8;

/// A data message of a reply or a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `nlmsg_type`.
    pub message_type: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Everything after `nlmsghdr`, without padding.
    pub payload: Vec<u8>,
}

/// What went to the kernel through one socket since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub sends: u64,
    /// Messages in those sends, begin and end of transactions among them.
    pub messages: u64,
    pub bytes: u64,
}

/// What a socket may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// Dumps and requests. Batches and transactions are what changes the kernel: these are taken as
    /// done and never sent.
    ReadOnly,
    /// Nothing leaves the process: dumps are empty, and nothing that is asked for exists.
    Nothing,
}

/// A blocking netlink socket to the kernel, bound to the network namespace it was opened in.
#[derive(Debug)]
pub struct NetlinkSocket {
    /// Absent with [`Access::Nothing`].
    socket: Option<Socket>,
    access: Access,
    sequence: u32,
    send_limit: usize,
    acknowledgement_limit: usize,
    receive_buffer: Vec<u8>,
    counters: Counters,
    port: u32,
}

/// One received datagram, or why there is none.
enum Received {
    Bytes(usize),
    Empty,
    Lost,
}

impl NetlinkSocket {
    /// Opens a socket of `protocol` (`netlink_sys::protocols`) in this thread's namespace.
    pub fn open(protocol: isize) -> Result<Self, Error> {
        Self::prepare(protocol).map_err(|source| Error::Open { protocol, source })
    }

    /// Opens a socket that may do no more than this.
    pub fn open_for(protocol: isize, access: Access) -> Result<Self, Error> {
        if access == Access::Nothing {
            return Ok(Self {
                socket: None,
                access,
                sequence: 0,
                send_limit: BUFFER_BYTES,
                acknowledgement_limit: 1,
                receive_buffer: Vec::new(),
                counters: Counters::default(),
                port: 0,
            });
        }
        let socket = Self::open(protocol)?;
        Ok(Self { access, ..socket })
    }

    /// Whether requests that change something are sent.
    pub fn changes(&self) -> bool {
        self.access == Access::Full
    }

    fn prepare(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let port = socket.bind_auto()?.port_number();
        // A connected socket takes messages from the kernel alone.
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        if protocol == NETLINK_ROUTE {
            // Dumps obey the filters in their request, such as the routing table (Linux 4.20).
            socket.set_netlink_get_strict_chk(true)?;
        }
        let options = SockRef::from(&socket);
        options.set_read_timeout(Some(REPLY_TIMEOUT))?;
        if setsockopt(&socket, sockopt::SndBufForce, &BUFFER_BYTES).is_err() {
            options.set_send_buffer_size(BUFFER_BYTES)?;
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            options.set_recv_buffer_size(BUFFER_BYTES)?;
        }
        let send_limit = options
            .send_buffer_size()?
            .saturating_sub(SEND_OVERHEAD_BYTES);
        let acknowledgement_limit = (options.recv_buffer_size()? / ACKNOWLEDGEMENT_BYTES)
            .clamp(1, MAXIMUM_ACKNOWLEDGEMENTS);
        Ok(Self {
            socket: Some(socket),
            access: Access::Full,
            sequence: 0,
            send_limit,
            acknowledgement_limit,
            receive_buffer: vec![0; RECEIVE_BYTES],
            counters: Counters::default(),
            port,
        })
    }

    /// Sends, messages and bytes since the socket was opened.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The port that the kernel gave this socket: notifications about its own requests carry it.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Bytes that one send can carry, hence the largest transaction.
    pub fn send_limit(&self) -> usize {
        self.send_limit
    }

    /// Sends `requests` in order, many in a send, and returns the result of each at its index.
    /// Request and acknowledgement flags, lengths and sequence numbers are set here. A request too
    /// large for the socket is refused with `EMSGSIZE`, one without a header with `EINVAL`.
    /// An `Err` says that what the kernel did with any of them is unknown.
    pub fn batch<R: AsRef<[u8]>>(
        &mut self,
        requests: &[R],
    ) -> Result<Vec<Result<(), RequestError>>, Error> {
        if !self.changes() {
            return Ok(vec![Ok(()); requests.len()]);
        }
        let mut results: Vec<Option<Result<(), RequestError>>> = vec![None; requests.len()];
        let mut buffer = Vec::new();
        let mut pending: Vec<usize> = Vec::new();
        for (index, request) in requests.iter().map(AsRef::as_ref).enumerate() {
            let refuse = |errno: Errno| Some(Err(RequestError::from_errno(errno as i32)));
            let early = if request.len() > self.send_limit {
                refuse(Errno::EMSGSIZE)
            } else if request.len() < HEADER_LENGTH {
                refuse(Errno::EINVAL)
            } else {
                None
            };
            if early.is_some() {
                set(&mut results, index, early);
                continue;
            }
            let full = pending.len() >= self.acknowledgement_limit
                || buffer.len() + request.len() > self.send_limit.min(MAXIMUM_SEND_BYTES);
            if full && !pending.is_empty() {
                self.exchange(&buffer, &pending, &mut results)?;
                buffer.clear();
                pending.clear();
            }
            let sequence = self.next_sequence();
            message::append(&mut buffer, request, sequence, NLM_F_REQUEST | NLM_F_ACK)
                .ok_or(Error::NotARequest { index })?;
            pending.push(index);
        }
        if !pending.is_empty() {
            self.exchange(&buffer, &pending, &mut results)?;
        }
        // Every request was refused above or answered in an exchange.
        results
            .into_iter()
            .map(|result| result.ok_or(Error::RepliesLost))
            .collect()
    }

    /// One send and all its acknowledgements. The last of `pending` has the current sequence
    /// number, each earlier one a number less.
    fn exchange(
        &mut self,
        buffer: &[u8],
        pending: &[usize],
        results: &mut [Option<Result<(), RequestError>>],
    ) -> Result<(), Error> {
        let last = self.sequence;
        self.send(buffer, pending.len())?;
        let mut missing = pending.len();
        while missing > 0 {
            let length = self.receive_reply()?;
            for_each_message(
                self.receive_buffer.get(..length).unwrap_or_default(),
                |message| {
                    let before_last = last.wrapping_sub(message.sequence) as usize;
                    let position = pending.len().checked_sub(before_last.saturating_add(1));
                    let Some(&index) = position.and_then(|position| pending.get(position)) else {
                        return Ok(());
                    };
                    match message.kind()? {
                        Kind::Acknowledgement(result) => {
                            if matches!(results.get(index), Some(None)) {
                                set(results, index, Some(result));
                                missing -= 1;
                            }
                            Ok(())
                        }
                        Kind::Overrun => Err(Error::RepliesLost),
                        Kind::Data | Kind::Done(_) | Kind::Nothing => Ok(()),
                    }
                },
            )?;
        }
        Ok(())
    }

    /// Sends `begin`, `requests` and `end` in one send (nfnetlink's `NFNL_MSG_BATCH_BEGIN` and
    /// `_END`), which the kernel applies whole or not at all. Only the last request is
    /// acknowledged; as all replies are queued when `send` returns, reading until the socket is
    /// empty sees every error. No requests is nothing to send.
    pub fn transaction<R: AsRef<[u8]>>(
        &mut self,
        begin: &[u8],
        requests: &[R],
        end: &[u8],
    ) -> Result<(), TransactionError> {
        let Some(last) = requests.len().checked_sub(1).filter(|_| self.changes()) else {
            return Ok(());
        };
        let lengths = requests.iter().map(|request| request.as_ref().len());
        // Each is aligned to four bytes.
        let bytes = lengths.map(|length| length + 4).sum::<usize>() + begin.len() + end.len() + 8;
        let mut buffer = Vec::with_capacity(bytes);
        let first = self.next_sequence();
        let none = || Error::NotARequest { index: 0 };
        message::append(&mut buffer, begin, first, NLM_F_REQUEST).ok_or_else(none)?;
        for (index, request) in requests.iter().enumerate() {
            let acknowledge = if index == last { NLM_F_ACK } else { 0 };
            let sequence = self.next_sequence();
            message::append(
                &mut buffer,
                request.as_ref(),
                sequence,
                NLM_F_REQUEST | acknowledge,
            )
            .ok_or(Error::NotARequest { index })?;
        }
        let sequence = self.next_sequence();
        message::append(&mut buffer, end, sequence, NLM_F_REQUEST).ok_or_else(none)?;
        self.send(&buffer, requests.len().saturating_add(2))?;

        let (mut failures, mut dropped, mut committed) = (Vec::new(), false, false);
        loop {
            let length = match self.receive(MsgFlags::MSG_DONTWAIT)? {
                Received::Bytes(length) => length,
                // The kernel reports the loss first; the errors that had room follow.
                Received::Lost => {
                    dropped = true;
                    continue;
                }
                Received::Empty => break,
            };
            let datagram = self.receive_buffer.get(..length).unwrap_or_default();
            for_each_message(datagram, |message| {
                // Position 0 is `begin`, `requests.len() + 1` is `end`.
                let position = message.sequence.wrapping_sub(first) as usize;
                if position > requests.len().saturating_add(1) {
                    return Ok(());
                }
                let request = position.checked_sub(1).filter(|index| *index <= last);
                match message.kind()? {
                    Kind::Acknowledgement(Ok(())) => committed |= request == Some(last),
                    Kind::Acknowledgement(Err(error)) => failures.push(Failure { request, error }),
                    Kind::Overrun => dropped = true,
                    Kind::Data | Kind::Done(_) | Kind::Nothing => {}
                }
                Ok(())
            })?;
        }
        if !failures.is_empty() {
            return Err(TransactionError::Refused {
                failures,
                complete: !dropped,
            });
        }
        if committed && !dropped {
            Ok(())
        } else {
            Err(Error::RepliesLost.into())
        }
    }

    fn socket(&self) -> Result<&Socket, Error> {
        // With Access::Nothing no caller comes this far.
        self.socket.as_ref().ok_or(Error::RepliesLost)
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&mut self, buffer: &[u8], messages: usize) -> Result<(), Error> {
        let bytes = buffer.len();
        if bytes > self.send_limit {
            return Err(Error::TooLarge {
                bytes,
                limit: self.send_limit,
            });
        }
        self.discard_stale()?;
        let sent = self
            .socket()?
            .send(buffer, 0)
            .map_err(|source| Error::Send { bytes, source })?;
        if sent != bytes {
            let source = io::Error::from(io::ErrorKind::WriteZero);
            return Err(Error::Send { bytes, source });
        }
        self.counters.sends += 1;
        self.counters.messages += messages as u64;
        self.counters.bytes += bytes as u64;
        Ok(())
    }

    /// Empties the socket of what a call that ended in an error left behind; reading on also ends
    /// a dump given up half-way, which would make the next one `EBUSY`.
    fn discard_stale(&mut self) -> Result<(), Error> {
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(Received::Empty) => return Ok(()),
                Ok(Received::Bytes(_) | Received::Lost) | Err(Error::Truncated { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for the next datagram; returns its length in the receive buffer.
    fn receive_reply(&mut self) -> Result<usize, Error> {
        match self.receive(MsgFlags::empty())? {
            Received::Bytes(length) => Ok(length),
            Received::Empty => Err(Error::Timeout),
            Received::Lost => Err(Error::RepliesLost),
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<Received, Error> {
        loop {
            let descriptor = self.socket()?.as_raw_fd();
            // With MSG_TRUNC the length is the datagram's, also where that is more than the buffer.
            return match recv(
                descriptor,
                &mut self.receive_buffer,
                flags | MsgFlags::MSG_TRUNC,
            ) {
                Ok(bytes) if bytes > self.receive_buffer.len() => Err(Error::Truncated { bytes }),
                Ok(bytes) => Ok(Received::Bytes(bytes)),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Ok(Received::Empty),
                Err(Errno::ENOBUFS) => Ok(Received::Lost),
                Err(errno) => Err(Error::Receive {
                    source: errno.into(),
                }),
            };
        }
    }
}

fn set<T>(slots: &mut [Option<T>], index: usize, value: Option<T>) {
    if let Some(slot) = slots.get_mut(index) {
        *slot = value;
    }
}

fn for_each_message(
    mut datagram: &[u8],
    mut take: impl FnMut(Message<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    while !datagram.is_empty() {
        let (message, rest) = Message::split(datagram)?;
        take(message)?;
        datagram = rest;
    }
    Ok(())
}
