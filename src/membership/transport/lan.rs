//! The packet sockets of one interface: membership's datagrams as frames of a local experimental
//! ethertype (IEEE 802, 88-B5), so that nodes on one LAN hear each other when their IP paths are cut,
//! and in ARP frames ([`super::arp`]) for when these frames are filtered as well.
//!
//! A frame's payload is the length of the datagram (2 octets, big endian) and the datagram: short
//! frames are padded on the wire. Needs `CAP_NET_RAW` (packet(7)).

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, bind, recvfrom, setsockopt, sockopt};
use nix::{setsockopt_impl, sockopt_impl};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::super::core::member::{LanPath, Source};
use super::arp;
use super::udp::watch;
use crate::model::foreign::MacAddress;

/// The ethertype.
pub const ETHERTYPE: u16 = 0x88b5;
/// Where hellos go: a locally administered group address.
pub const GROUP: [u8; 6] = [0x03, 0x65, 0x64, 0x67, 0x65, 0x6c];

/// The octets of the Ethernet header.
pub(super) const HEADER: usize = 14;
const LENGTH: usize = 2;
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// `PACKET_OTHERHOST` and `PACKET_OUTGOING` of `linux/if_packet.h`.
const OTHERHOST: u32 = 3;
const OUTGOING: u32 = 4;

sockopt_impl!(
    #[allow(missing_docs)]
    PacketAddMembership,
    SetOnly,
    libc::SOL_PACKET,
    libc::PACKET_ADD_MEMBERSHIP,
    libc::packet_mreq
);

/// An interface on a LAN where nodes may meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanInterface {
    /// The kernel's index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: MacAddress,
    /// Its addresses with their prefix lengths.
    pub subnets: Vec<IpNet>,
}

/// The open sockets of an interface.
#[derive(Debug)]
pub struct LanSocket {
    socket: AsyncFd<Socket>,
    arp: AsyncFd<Socket>,
    /// Which of the two is looked at first, so that none starves the other.
    arp_first: bool,
    index: u32,
    mac: [u8; 6],
}

/// How a datagram is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// As a frame of [`ETHERTYPE`]; to the group where no address is given.
    Experimental(Option<MacAddress>),
    /// In an ARP frame.
    Arp(MacAddress),
}

impl LanSocket {
    /// Opens the sockets on the interface.
    pub fn open(interface: &LanInterface) -> io::Result<Self> {
        let link = find(interface.index)?
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the interface is gone or down"))?;
        let socket = packet_socket(ETHERTYPE)?;
        bind(socket.as_raw_fd(), &link)?;
        let mut group = [0; 8];
        for (octet, from) in group.iter_mut().zip(GROUP) {
            *octet = from;
        }
        let request = libc::packet_mreq {
            mr_ifindex: i32::try_from(interface.index).unwrap_or(0),
            mr_type: u16::try_from(libc::PACKET_MR_MULTICAST).unwrap_or(0),
            mr_alen: 6,
            mr_address: group,
        };
        setsockopt(&socket, PacketAddMembership, &request)?;
        let arp = packet_socket(arp::ETHERTYPE)?;
        // What came before the filter is judged like everything else.
        arp.attach_filter(&arp::filter())?;
        bind(arp.as_raw_fd(), &link)?;
        Ok(Self {
            socket: watch(socket)?,
            arp: watch(arp)?,
            arp_first: false,
            index: interface.index,
            mac: link.addr().unwrap_or(interface.mac.0),
        })
    }

    /// The next datagram: where it stands in `buffer` and the way back. An error means that the
    /// interface is down or gone; the socket is of no more use then.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(std::ops::Range<usize>, Source)>> {
        self.arp_first = !self.arp_first;
        for by_arp in [self.arp_first, !self.arp_first] {
            let received = self.poll_receive_by(by_arp, context, buffer);
            if received.is_ready() {
                return received;
            }
        }
        Poll::Pending
    }

    fn poll_receive_by(
        &self,
        by_arp: bool,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(std::ops::Range<usize>, Source)>> {
        let socket = if by_arp { &self.arp } else { &self.socket };
        loop {
            let mut guard = ready!(socket.poll_read_ready(context))?;
            let received = guard.try_io(|socket| {
                recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer).map_err(io::Error::from)
            });
            match received {
                Ok(Ok((length, sender))) => {
                    if let Some((range, path)) = self.judge(by_arp, buffer.get(..length), sender) {
                        let source = if by_arp { Source::Arp } else { Source::Lan };
                        return Poll::Ready(Ok((range, source(path))));
                    }
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// The datagram of a frame that is meant for this node.
    fn judge(
        &self,
        by_arp: bool,
        frame: Option<&[u8]>,
        sender: Option<LinkAddr>,
    ) -> Option<(std::ops::Range<usize>, LanPath)> {
        let sender = sender?;
        let kind = u32::from(sender.pkttype());
        if kind == OTHERHOST || kind == OUTGOING || sender.ifindex() != self.index as usize {
            return None;
        }
        let frame = frame?;
        let start = if by_arp { arp::payload(frame)? } else { HEADER };
        let payload = frame.get(start..)?;
        let (length, rest) = payload.split_first_chunk::<LENGTH>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > rest.len() {
            return None;
        }
        let start = start + LENGTH;
        let mac = MacAddress(sender.addr()?);
        Some((
            start..start + length,
            LanPath {
                interface: self.index,
                mac,
            },
        ))
    }

    /// Sends without waiting.
    pub fn send(&self, how: Frame, octets: &[u8], frame: &mut Vec<u8>) -> io::Result<()> {
        let (socket, to, ethertype) = match how {
            Frame::Experimental(to) => (&self.socket, to.map_or(GROUP, |mac| mac.0), ETHERTYPE),
            Frame::Arp(to) => (&self.arp, to.0, arp::ETHERTYPE),
        };
        frame.clear();
        frame.extend_from_slice(&to);
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ethertype.to_be_bytes());
        if matches!(how, Frame::Arp(_)) {
            arp::write(MacAddress(self.mac), frame);
        }
        frame.extend_from_slice(&u16::try_from(octets.len()).unwrap_or(0).to_be_bytes());
        frame.extend_from_slice(octets);
        socket.get_ref().send(frame).map(|_| ())
    }
}

/// A socket for the frames of an ethertype, with room for those of several nodes at once.
fn packet_socket(ethertype: u16) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::PACKET, kind, Some(protocol))?;
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

/// Whether the error means that the interface is down or gone.
pub fn is_link_error(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV))
}

/// The address of an interface that is up.
fn find(index: u32) -> io::Result<Option<LinkAddr>> {
    let links = getifaddrs()?.filter(|entry| entry.flags.contains(InterfaceFlags::IFF_UP));
    let mut links = links.filter_map(|entry| entry.address?.as_link_addr().copied());
    Ok(links.find(|link| link.ifindex() == index as usize && link.hatype() == libc::ARPHRD_ETHER))
}
