//! The frame that keeps the fence open, and the socket that it is sent by. Decides nothing about when
//! it may be sent.
//!
//! It goes to `lo`, whose egress chain takes it: so it never gets near a wire, needs no link to be
//! up, and serves every announcing interface, also those that are stacked on one another.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use super::FenceError;

/// What the fence waits for a renewal where nobody says otherwise: below any time in which others find
/// this node dead by default.
pub const TIMEOUT: Duration = Duration::from_millis(220);
/// The ethertype of the renewing frame: the second that IEEE 802 leaves to local experiments.
pub const ETHERTYPE: u16 = 0x88b6;
/// The index of `lo`, in every network namespace.
pub(super) const LOOPBACK: u32 = 1;

/// The least that Ethernet carries: 60 bytes.
const FRAME: [u8; 60] = {
    let mut frame = [0; 60];
    let [high, low] = ETHERTYPE.to_be_bytes();
    frame[12] = high;
    frame[13] = low;
    frame
};

/// What became of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The fence took it: what is owned may be spoken for until the lease is over.
    Taken,
    /// Nothing took it: somebody removed the fence, and [`super::Fence::repair`] is due.
    Passed,
    /// This kernel has no lease.
    NotNeeded,
}

/// The way to renew it: a socket, opened when needed and again after an error. No renewal waits for a
/// transaction, of whomever.
#[derive(Debug)]
pub struct Lease {
    /// Whether this kernel has a lease.
    needed: bool,
    socket: Option<Socket>,
}

impl Lease {
    pub(super) const fn new(needed: bool) -> Self {
        Self {
            needed,
            socket: None,
        }
    }

    /// Renews the lease: to be called several times as often as it lasts. The caller must not call
    /// it where it does not know any more what this node owns.
    ///
    /// The kernel runs the egress chain within the call, and says that it dropped the frame
    /// (`ENOBUFS`).
    pub fn renew(&mut self) -> Result<Renewal, FenceError> {
        if !self.needed {
            return Ok(Renewal::NotNeeded);
        }
        let renewal = match self.send() {
            // lo was down since; the socket tells it once.
            Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => self.send(),
            other => other,
        };
        renewal.map_err(FenceError::Renew)
    }

    fn send(&mut self) -> io::Result<Renewal> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => open()?,
        };
        match socket.send(&FRAME) {
            Ok(_) => {
                self.socket = Some(socket);
                Ok(Renewal::Passed)
            }
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                self.socket = Some(socket);
                Ok(Renewal::Taken)
            }
            Err(error) => Err(error),
        }
    }
}

/// A socket that sends by lo and hears nothing: its protocol is 0 (packet(7)).
fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    let address = loopback()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn loopback() -> io::Result<Option<LinkAddr>> {
    let index = usize::try_from(LOOPBACK).unwrap_or_default();
    let mut links = getifaddrs()?.filter_map(|it| it.address?.as_link_addr().copied());
    Ok(links.find(|link| link.ifindex() == index))
}
