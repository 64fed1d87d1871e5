//! Netlink notifications for tokio: multicast groups behind a filter that runs in the kernel.
//!
//! What a notification means is not known here. A listener tells when the kernel had to drop some;
//! what then must be observed again is the caller's to know.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Asked for the receive buffer; user namespaces get the system's maximum instead.
const BUFFER_BYTES: usize = 4 << 20;
/// `nf_tables` joins notifications of one transaction to datagrams of some pages.
const DATAGRAM_BYTES: usize = 64 << 10;

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// One step of a filter (classic BPF). Numbers in a notification are in this machine's byte order,
/// which the filter machine reads as big endian; comparisons here take them as they are meant.
pub mod filter {
    use super::{JUMP_IF_EQUAL, LOAD_BYTE, LOAD_HALF, LOAD_WORD, RETURN, SockFilter};

    /// Where `nlmsg_type` is: two bytes.
    pub const TYPE: u32 = 4;
    /// Where `nlmsg_pid` is, the port of whoever caused the notification: four bytes.
    pub const PORT: u32 = 12;

    /// Loads four bytes, counted from `struct nlmsghdr` on, to be compared by [`word_is`].
    pub fn load_word(offset: u32) -> SockFilter {
        SockFilter::new(LOAD_WORD, 0, 0, offset)
    }

    /// Loads two bytes, counted from `struct nlmsghdr` on, to be compared by [`half_is`].
    pub fn load_half(offset: u32) -> SockFilter {
        SockFilter::new(LOAD_HALF, 0, 0, offset)
    }

    /// Loads one byte, counted from `struct nlmsghdr` on, to be compared by [`byte_is`].
    pub fn load_byte(offset: u32) -> SockFilter {
        SockFilter::new(LOAD_BYTE, 0, 0, offset)
    }

    /// Skips so many steps where the loaded four bytes are this number, and so many where not.
    pub fn word_is(value: u32, skip_if_so: u8, skip_if_not: u8) -> SockFilter {
        let value = u32::from_be_bytes(value.to_ne_bytes());
        SockFilter::new(JUMP_IF_EQUAL, skip_if_so, skip_if_not, value)
    }

    /// Skips so many steps where the loaded two bytes are this number, and so many where not.
    pub fn half_is(value: u16, skip_if_so: u8, skip_if_not: u8) -> SockFilter {
        let value = u16::from_be_bytes(value.to_ne_bytes());
        SockFilter::new(JUMP_IF_EQUAL, skip_if_so, skip_if_not, value.into())
    }

    /// Skips so many steps where the loaded byte is this one, and so many where not.
    pub fn byte_is(value: u8, skip_if_so: u8, skip_if_not: u8) -> SockFilter {
        SockFilter::new(JUMP_IF_EQUAL, skip_if_so, skip_if_not, value.into())
    }

    /// Ends with the notification queued.
    pub fn accept() -> SockFilter {
        SockFilter::new(RETURN, 0, 0, u32::MAX)
    }

    /// Ends with the notification dropped.
    pub fn ignore() -> SockFilter {
        SockFilter::new(RETURN, 0, 0, 0)
    }
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notification<'a> {
    /// One or more whole messages, each from its `nlmsghdr` on.
    Messages(&'a [u8]),
    /// The kernel dropped notifications, or one did not fit the buffer.
    Lost,
}

/// A socket that only listens, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NetlinkListener {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl NetlinkListener {
    /// Joins `groups` of `protocol` (`netlink_sys::protocols`) behind `filter`. Everything that
    /// happens after this returns is told. Must be called inside a tokio runtime.
    pub fn open(protocol: isize, groups: &[u32], filter: &[SockFilter]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        let options = SockRef::from(&socket);
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            options.set_recv_buffer_size(BUFFER_BYTES)?;
        }
        // Before the first group, so that nothing slips past it.
        options.attach_filter(filter)?;
        socket.set_non_blocking(true)?;
        socket.bind_auto()?;
        // A connected socket takes messages from the kernel alone.
        socket.connect(&SocketAddr::new(0, 0))?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self {
            socket: watch(socket)?,
            buffer: vec![0; DATAGRAM_BYTES],
        })
    }

    /// Replaces the filter for what comes from now on.
    pub fn set_filter(&self, filter: &[SockFilter]) -> io::Result<()> {
        SockRef::from(self.socket.get_ref()).attach_filter(filter)
    }

    /// Waits for the next notification. Loses nothing when it is cancelled.
    pub async fn receive(&mut self) -> io::Result<Notification<'_>> {
        let length = loop {
            let mut ready = self.socket.readable().await?;
            match receive(self.socket.get_ref(), &mut self.buffer) {
                Err(Errno::EAGAIN) => ready.clear_ready(),
                result => break result,
            }
        };
        self.notification(length)
    }

    /// The next notification, if there is one already.
    pub fn try_receive(&mut self) -> io::Result<Option<Notification<'_>>> {
        match receive(self.socket.get_ref(), &mut self.buffer) {
            Err(Errno::EAGAIN) => Ok(None),
            result => self.notification(result).map(Some),
        }
    }

    fn notification(&self, result: Result<usize, Errno>) -> io::Result<Notification<'_>> {
        match result {
            Ok(length) => Ok(self
                .buffer
                .get(..length)
                .map_or(Notification::Lost, Notification::Messages)),
            Err(Errno::ENOBUFS) => Ok(Notification::Lost),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The successor of `with_interest` is unsafe for descriptors that can be closed meanwhile; this one
/// owns its descriptor.
#[allow(deprecated, reason = "the replacement is unsafe code")]
fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR)
}

/// Returns the length of the datagram, also where it is more than the buffer's.
fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    loop {
        match recv(socket.as_raw_fd(), buffer, flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
