//! The packet socket of one interface and protocol: receives the ARP or neighbor discovery frames that
//! concern its VIPs and sends ours. Decides nothing about them. Needs `CAP_NET_RAW` (packet(7)).
//!
//! The socket is bound to one `EtherType`: the kernel hands frames that this host sends only to sockets
//! bound to `ETH_P_ALL`, so own frames do not come back even without `PACKET_IGNORE_OUTGOING`.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, bind, recvfrom, setsockopt, sockopt};
use socket2::{Domain, SockFilter, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::Handle;

use super::filter::{self, Instruction};

/// Bounds what one interface may queue in the kernel while this process does not run: some 5,000
/// frames, those of 50 ms of a flood of 100,000 in a second; a lost request is asked again. Where only
/// the system's maximum is granted, it is less.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// ARP frames that concern IPv4 addresses.
    Arp,
    /// Neighbor solicitations and advertisements that concern IPv6 addresses.
    NeighborDiscovery,
}

impl Protocol {
    /// What is asked for this address by.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Arp,
            IpAddr::V6(_) => Self::NeighborDiscovery,
        }
    }

    const fn ether_type(self) -> libc::c_int {
        match self {
            Self::Arp => libc::ETH_P_ARP,
            Self::NeighborDiscovery => libc::ETH_P_IPV6,
        }
    }
}

/// Why an interface has no working socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// No interface has the index or the name.
    #[error("interface {name} does not exist; announcing goes on as soon as it is there again")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The interface is not administratively up.
    #[error("interface {name} is down; announcing goes on as soon as it is up")]
    Down {
        /// Its name.
        name: String,
    },
    /// The interface has no Ethernet address.
    #[error(
        "interface {name} has no Ethernet address; exclude it with announce.exclude_interfaces"
    )]
    NotEthernet {
        /// Its name.
        name: String,
    },
    /// A system call failed.
    #[error("cannot {operation} on interface {name}: {source}{}", remedy(.source))]
    System {
        /// What was tried.
        operation: &'static str,
        /// The interface's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => "; the daemon needs CAP_NET_RAW",
        _ => "",
    }
}

/// An interface as the kernel knows it now.
#[derive(Debug, Clone, Copy)]
struct Link {
    address: LinkAddr,
    mac: [u8; 6],
    up: bool,
}

/// An open socket.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<Descriptor>,
    protocol: Protocol,
    index: u32,
    mac: [u8; 6],
    name: String,
}

/// A socket that does not make the thread wait which drops it: the kernel takes as long for closing as
/// for binding.
#[derive(Debug)]
pub struct Descriptor(Option<Socket>);

impl Descriptor {
    fn get(&self) -> io::Result<&Socket> {
        self.0
            .as_ref()
            .ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if let (Some(socket), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(socket)));
        }
    }
}

/// A socket that no runtime watches yet.
struct Bound {
    socket: Socket,
    link: Link,
}

impl PacketSocket {
    /// Opens a socket on the interface with this index, or, where the index is gone, on the one that
    /// has the name now. No frame of before the filter is ever delivered.
    ///
    /// Takes some 20 ms, as binding waits until all processors have seen it. `vips` of the protocol's
    /// family count only. Must be called inside a tokio runtime.
    pub fn open(
        protocol: Protocol,
        index: u32,
        name: &str,
        vips: &[IpAddr],
    ) -> Result<Self, SocketError> {
        let bound = Self::bind(protocol, index, name, vips)?;
        Self::watched(bound, protocol, name)
    }

    /// Like [`Self::open`], while the calling task's thread does other work.
    pub async fn open_in_background(
        protocol: Protocol,
        index: u32,
        name: &str,
        vips: Arc<[IpAddr]>,
    ) -> Result<Self, SocketError> {
        let owned = name.to_owned();
        let bound =
            tokio::task::spawn_blocking(move || Self::bind(protocol, index, &owned, &vips)).await;
        let bound = bound.unwrap_or_else(|error| {
            Err(SocketError::System {
                operation: "open a packet socket",
                name: name.to_owned(),
                source: io::Error::other(error),
            })
        })?;
        Self::watched(bound, protocol, name)
    }

    fn watched(bound: Bound, protocol: Protocol, name: &str) -> Result<Self, SocketError> {
        let Bound { socket, link } = bound;
        Ok(Self {
            socket: watch(socket).map_err(|source| SocketError::System {
                operation: "watch the packet socket",
                name: name.to_owned(),
                source,
            })?,
            protocol,
            index: link.index(),
            mac: link.mac,
            name: name.to_owned(),
        })
    }

    fn bind(
        protocol: Protocol,
        index: u32,
        name: &str,
        vips: &[IpAddr],
    ) -> Result<Bound, SocketError> {
        let failed = |operation| {
            move |source: io::Error| SocketError::System {
                operation,
                name: name.to_owned(),
                source,
            }
        };
        let link = find_link(index, name)
            .map_err(failed("list interfaces"))?
            .ok_or_else(|| SocketError::NoInterface {
                name: name.to_owned(),
            })?;
        if link.address.hatype() != libc::ARPHRD_ETHER || link.mac == [0; 6] {
            return Err(SocketError::NotEthernet {
                name: name.to_owned(),
            });
        }
        if !link.up {
            return Err(SocketError::Down {
                name: name.to_owned(),
            });
        }

        // From here on the socket receives from every interface, so it is closed to all frames, bound,
        // emptied and only then opened to those of the VIPs.
        let socket = packet_socket(protocol).map_err(failed("open a packet socket"))?;
        attach(&socket, &filter::reject_all()).map_err(failed("close the packet socket"))?;
        // The address of the interface list has no protocol: the one of the socket stays in force.
        bind(socket.as_raw_fd(), &link.address)
            .map_err(|error| failed("bind a packet socket")(error.into()))?;
        empty(&socket).map_err(failed("empty the packet socket"))?;
        enlarge(&socket).map_err(failed("enlarge the receive buffer"))?;
        attach_vips(&socket, protocol, vips).map_err(failed("set the packet filter"))?;
        Ok(Bound { socket, link })
    }

    /// What it receives.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The hardware address of the interface when it was opened.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The index of the interface; differs from the one asked for when it was recreated.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Lets the frames of exactly these VIPs through from now on. The kernel swaps the programs
    /// atomically: a VIP that stays misses no request.
    pub fn set_vips(&self, vips: &[IpAddr]) -> Result<(), SocketError> {
        let socket = self.socket.get_ref().get();
        socket
            .and_then(|socket| attach_vips(socket, self.protocol, vips))
            .map_err(|source| SocketError::System {
                operation: "set the packet filter",
                name: self.name.clone(),
                source,
            })
    }

    /// Waits for a frame and gives its length in `buffer`.
    ///
    /// Cancel safe. An error means that the interface went down or away; the socket is of no more
    /// use then.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut guard = self.ready().await?;
            match self.try_receive(buffer)? {
                Some(length) => return Ok(length),
                None => guard.clear_ready(),
            }
        }
    }

    /// Waits until there is a frame, or an error. Cancel safe. Whoever finds none by
    /// [`Self::try_receive`] then clears the guard, or this does not wait the next time.
    pub async fn ready(&self) -> io::Result<AsyncFdReadyGuard<'_, Descriptor>> {
        self.socket
            .ready(Interest::READABLE | Interest::ERROR)
            .await
    }

    /// Gives the length of a frame in `buffer`, if there is one. Errors as [`Self::receive`].
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let socket = self.socket.get_ref().get()?;
        loop {
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer) {
                Ok((length, sender)) => {
                    // Others are those of a VLAN, a bond or a bridge on this interface, which have
                    // sockets of their own, and what was queued while the first filter was attached.
                    let ours = sender.is_some_and(|sender| {
                        u32::try_from(sender.ifindex()).is_ok_and(|index| index == self.index)
                            && u32::from(sender.pkttype()) != filter::PACKET_OTHERHOST
                            && u32::from(sender.pkttype()) != filter::PACKET_OUTGOING
                    });
                    if ours {
                        return Ok(Some(length));
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a frame, complete with its Ethernet header. Never waits: `WouldBlock` means that the
    /// send queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().get()?.send(frame).map(|_| ())
    }
}

/// Whether the error means that the interface is down or gone.
pub fn is_link_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV)
    )
}

impl Link {
    fn index(&self) -> u32 {
        u32::try_from(self.address.ifindex()).unwrap_or_default()
    }
}

fn find_link(index: u32, name: &str) -> io::Result<Option<Link>> {
    let mut by_name = None;
    for entry in getifaddrs()? {
        let Some(address) = entry
            .address
            .as_ref()
            .and_then(|address| address.as_link_addr())
            .copied()
        else {
            continue;
        };
        let link = Link {
            mac: address.addr().unwrap_or_default(),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            address,
        };
        if link.index() == index {
            return Ok(Some(link));
        }
        if entry.interface_name == name {
            by_name = Some(link);
        }
    }
    Ok(by_name)
}

fn packet_socket(protocol: Protocol) -> io::Result<Socket> {
    let ether_type = u16::try_from(protocol.ether_type()).unwrap_or_default();
    Socket::new(
        Domain::PACKET,
        Type::RAW.nonblocking().cloexec(),
        Some(socket2::Protocol::from(i32::from(ether_type.to_be()))),
    )
}

/// The system's maximum (`net.core.rmem_max`) is small, and may be passed by `CAP_NET_ADMIN` only.
fn enlarge(socket: &Socket) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER))
}

/// Registers the socket for frames and for errors: a link that goes down or away is an error.
#[allow(
    deprecated,
    reason = "tokio deprecates it for types that may close their descriptor while it is registered; \
              a Descriptor owns its own until it is dropped, and the replacement is unsafe code"
)]
fn watch(socket: Socket) -> io::Result<AsyncFd<Descriptor>> {
    AsyncFd::with_interest(
        Descriptor(Some(socket)),
        Interest::READABLE | Interest::ERROR,
    )
}

/// Reads away what came before the socket was closed to all frames; bounded by its receive buffer.
fn empty(socket: &Socket) -> io::Result<()> {
    let mut octet = [0; 1];
    loop {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut octet) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Attaches the filter of the VIPs, or, where it is too long for the kernel or for the socket's
/// memory (`net.core.optmem_max`), one that lets all frames of the protocol through.
fn attach_vips(socket: &Socket, protocol: Protocol, vips: &[IpAddr]) -> io::Result<()> {
    let (program, coarse) = match protocol {
        Protocol::Arp => (filter::accept_vips(ipv4(vips)), filter::accept_all()),
        Protocol::NeighborDiscovery => (
            filter::accept_ipv6_vips(ipv6(vips)),
            filter::accept_all_neighbor_discovery(),
        ),
    };
    if let Some(program) = program {
        match attach(socket, &program) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOMEM as i32) => {}
            result => return result,
        }
    }
    attach(socket, &coarse)
}

fn ipv4(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv4Addr> {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    })
}

fn ipv6(addresses: &[IpAddr]) -> impl Iterator<Item = Ipv6Addr> {
    addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    })
}

fn attach(socket: &Socket, program: &[Instruction]) -> io::Result<()> {
    let program: Vec<SockFilter> = program
        .iter()
        .map(|instruction| {
            SockFilter::new(
                instruction.code,
                instruction.jump_true,
                instruction.jump_false,
                instruction.constant,
            )
        })
        .collect();
    socket.attach_filter(&program)
}
