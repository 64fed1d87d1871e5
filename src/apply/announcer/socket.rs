//! The packet socket of one interface: receives the ARP frames that concern its VIPs and sends ours.
//! Decides nothing about them. Needs `CAP_NET_RAW` (packet(7)).
//!
//! The socket is bound to `ETH_P_ARP`: the kernel hands frames that this host sends only to sockets
//! bound to `ETH_P_ALL`, so own frames do not come back even without `PACKET_IGNORE_OUTGOING`.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, bind, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::filter::{self, Instruction};

/// Bounds what one interface may queue in the kernel while this process does not run: some 250
/// frames; a lost request is asked again.
const RECEIVE_BUFFER: usize = 256 * 1024;

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
pub struct ArpSocket {
    socket: AsyncFd<Socket>,
    index: u32,
    mac: [u8; 6],
    name: String,
}

impl ArpSocket {
    /// Opens a socket on the interface with this index, or, where the index is gone, on the one that
    /// has the name now. No frame of before the filter is ever delivered.
    pub fn open(index: u32, name: &str, vips: &[Ipv4Addr]) -> Result<Self, SocketError> {
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
        let socket = packet_socket().map_err(failed("open a packet socket"))?;
        attach(&socket, &filter::reject_all()).map_err(failed("close the packet socket"))?;
        // The address of the interface list has no protocol: the one of the socket stays in force.
        bind(socket.as_raw_fd(), &link.address)
            .map_err(|error| failed("bind a packet socket")(error.into()))?;
        empty(&socket).map_err(failed("empty the packet socket"))?;
        attach_vips(&socket, vips).map_err(failed("set the packet filter"))?;
        Ok(Self {
            socket: watch(socket).map_err(failed("watch the packet socket"))?,
            index: u32::try_from(link.address.ifindex()).unwrap_or(index),
            mac: link.mac,
            name: name.to_owned(),
        })
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
    pub fn set_vips(&self, vips: &[Ipv4Addr]) -> Result<(), SocketError> {
        attach_vips(self.socket.get_ref(), vips).map_err(|source| SocketError::System {
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
            let mut guard = self
                .socket
                .ready(Interest::READABLE | Interest::ERROR)
                .await?;
            let received = guard.try_io(|socket| {
                recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer).map_err(io::Error::from)
            });
            match received {
                Ok(Ok((length, sender))) => {
                    // A frame that another interface queued while the first filter was attached.
                    let ours = sender.is_some_and(|sender| {
                        u32::try_from(sender.ifindex()).is_ok_and(|index| index == self.index)
                            && u32::from(sender.pkttype()) != filter::PACKET_OTHERHOST
                            && u32::from(sender.pkttype()) != filter::PACKET_OUTGOING
                    });
                    if ours {
                        return Ok(length);
                    }
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Sends a frame, complete with its Ethernet header. Never waits: `WouldBlock` means that the
    /// send queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame).map(|_| ())
    }
}

/// Whether the error means that the interface is down or gone.
pub fn is_link_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV)
    )
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
        if u32::try_from(address.ifindex()).is_ok_and(|found| found == index) {
            return Ok(Some(link));
        }
        if entry.interface_name == name {
            by_name = Some(link);
        }
    }
    Ok(by_name)
}

fn packet_socket() -> io::Result<Socket> {
    let protocol = u16::try_from(libc::ETH_P_ARP).unwrap_or_default().to_be();
    let socket = Socket::new(
        Domain::PACKET,
        Type::RAW.nonblocking().cloexec(),
        Some(Protocol::from(i32::from(protocol))),
    )?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket)
}

/// Registers the socket for frames and for errors: a link that goes down or away is an error.
#[allow(
    deprecated,
    reason = "tokio deprecates it for types that may close their descriptor while it is registered; \
              a Socket owns its descriptor until it is dropped, and the replacement is unsafe code"
)]
fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE | Interest::ERROR)
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
/// memory (`net.core.optmem_max`), one that lets all ARP frames through.
fn attach_vips(socket: &Socket, vips: &[Ipv4Addr]) -> io::Result<()> {
    if let Some(program) = filter::accept_vips(vips.iter().copied()) {
        match attach(socket, &program) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOMEM as i32) => {}
            result => return result,
        }
    }
    attach(socket, &filter::accept_all())
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
