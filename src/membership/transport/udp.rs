//! The UDP sockets of membership: receive with the address that was asked, send from a given one.
//! Decides nothing about what is received.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::core::member::UdpPath;
use crate::config::ListenAddress;

/// Holds what several nodes send at once while this thread does not run: whole tables.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// The socket cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address} (UDP): {source}{}", remedy(source))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the system answered.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrInUse => {
            "; another program (or a second edgelb) has the port: set membership.listen"
        }
        ErrorKind::AddrNotAvailable => {
            "; this node has no such address: set membership.listen to one of its own, or to the port only"
        }
        _ => "",
    }
}

/// One socket of one family.
#[derive(Debug)]
pub struct UdpSocket {
    socket: AsyncFd<Socket>,
    v6: bool,
    /// Room for the control messages of one datagram.
    control: Vec<u8>,
}

/// Opens the sockets of `membership.listen`: of both families where no address is named.
pub fn listen(listen: &ListenAddress) -> Result<Vec<UdpSocket>, ListenError> {
    let port = listen.port.get();
    let open = |address: IpAddr| {
        let address = SocketAddr::new(address, port);
        UdpSocket::open(address).map_err(|source| ListenError { address, source })
    };
    if let Some(address) = listen.address {
        return Ok(vec![open(address)?]);
    }
    let mut sockets = vec![open(IpAddr::V4(Ipv4Addr::UNSPECIFIED))?];
    match open(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) {
        Ok(socket) => sockets.push(socket),
        Err(error) if has_no_ipv6(&error.source) => {}
        Err(error) => return Err(error),
    }
    Ok(sockets)
}

/// The kernel was built or booted without IPv6.
fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

impl UdpSocket {
    fn open(address: SocketAddr) -> io::Result<Self> {
        let v6 = address.is_ipv6();
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        if v6 {
            socket.set_only_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
            // Without CAP_NET_ADMIN, as far as net.core.rmem_max allows.
            socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        }
        socket.bind(&address.into())?;
        Ok(Self {
            socket: watch(socket)?,
            v6,
            control: nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo),
        })
    }

    /// The next datagram: its length in `buffer` and the way back. Errors of earlier sends, which the
    /// kernel reports here, are passed over.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<(usize, UdpPath)> {
        loop {
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(context)) else {
                return Poll::Pending;
            };
            let control = &mut self.control;
            let received = guard.try_io(|socket| {
                receive(socket.get_ref(), buffer, control).map_err(io::Error::from)
            });
            match received {
                Ok(Ok(Some(received))) => return Poll::Ready(received),
                // Not of the Internet, or an error of an earlier send.
                Ok(_) => {}
                Err(_would_block) => {}
            }
        }
    }

    /// Whether an address is of this socket's family.
    pub const fn reaches(&self, peer: &SocketAddr) -> bool {
        self.v6 == peer.is_ipv6()
    }

    /// Sends without waiting: what the kernel has no room for is lost, as on the network.
    pub fn send(&self, path: &UdpPath, octets: &[u8]) -> io::Result<()> {
        let slices = [IoSlice::new(octets)];
        let peer = SockaddrStorage::from(path.peer);
        let fd = self.socket.get_ref().as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match (path.local, path.peer) {
            (Some(IpAddr::V4(local)), SocketAddr::V4(_)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from(local).to_be(),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                sendmsg(
                    fd,
                    &slices,
                    &[ControlMessage::Ipv4PacketInfo(&info)],
                    flags,
                    Some(&peer),
                )
            }
            (Some(IpAddr::V6(local)), SocketAddr::V6(_)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: local.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                sendmsg(
                    fd,
                    &slices,
                    &[ControlMessage::Ipv6PacketInfo(&info)],
                    flags,
                    Some(&peer),
                )
            }
            _ => sendmsg(fd, &slices, &[], flags, Some(&peer)),
        };
        match sent {
            // The address that was asked is not this node's any more: let the route choose.
            Err(Errno::EINVAL | Errno::EADDRNOTAVAIL) if path.local.is_some() => self.send(
                &UdpPath {
                    local: None,
                    ..*path
                },
                octets,
            ),
            sent => Ok(sent.map(|_| ())?),
        }
    }
}

fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut [u8],
) -> Result<Option<(usize, UdpPath)>, Errno> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(control), flags)?;
    let mut local = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                local = Some(IpAddr::V4(u32::from_be(info.ipi_spec_dst.s_addr).into()));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                local = Some(IpAddr::V6(info.ipi6_addr.s6_addr.into()));
            }
            _ => {}
        }
    }
    let peer = message.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|peer| SocketAddr::V4((*peer).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|peer| SocketAddr::V6((*peer).into()))
        })
    });
    let length = message.bytes;
    Ok(peer.map(|peer| (length, UdpPath { peer, local })))
}

#[allow(
    deprecated,
    reason = "tokio deprecates it for types that may close their descriptor while it is registered; \
              a Socket owns its descriptor until it is dropped, and the replacement is unsafe code"
)]
pub(super) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR)
}
