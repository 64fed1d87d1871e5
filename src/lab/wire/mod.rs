//! An eye on the wire: asks all the time who has an address, by ARP and Neighbor Discovery, and
//! records everybody who says "I", also unasked.
//!
//! Put it on a host that sends no other traffic to those addresses, so that its questions teach the
//! measured clients nothing. It sees what a host sees: answers to itself, and what is said to all.

mod flood;
pub mod frame;
mod sightings;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use smoltcp::wire::EthernetAddress;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::client::client_error;
use super::{DualStack, Host, LabError, MacAddress};
pub use flood::Flood;
pub use sightings::{Kind, Sighting, Sightings};

/// From one question to the next, for each address.
const PACE: Duration = Duration::from_millis(10);
/// The host's link.
const LINK: &str = "eth0";

/// The two ways to ask, and the `EtherType`s of their frames.
#[derive(Debug, Clone, Copy)]
enum Family {
    Arp = 0x0806,
    Ipv6 = 0x86dd,
}

/// A running eye; dropping it closes it.
#[derive(Debug)]
pub struct Eye {
    sightings: Arc<Mutex<Sightings>>,
    closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl Eye {
    /// Starts to ask from that host for these addresses, each 10 ms.
    pub fn open(host: &Host, addresses: &[IpAddr]) -> Result<Self, LabError> {
        Self::open_with_pace(host, addresses, PACE)
    }

    /// The same with another time from one question to the next.
    pub fn open_with_pace(
        host: &Host,
        addresses: &[IpAddr],
        pace: Duration,
    ) -> Result<Self, LabError> {
        let mut eye = Self {
            sightings: Arc::new(Mutex::new(Sightings::new(Instant::now()))),
            closed: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        let failed = |source| client_error(&host.namespace, source);
        for family in [Family::Arp, Family::Ipv6] {
            let addresses: Vec<_> = addresses
                .iter()
                .copied()
                .filter(|address| address.is_ipv4() == matches!(family, Family::Arp))
                .collect();
            if addresses.is_empty() {
                continue;
            }
            let look = host
                .namespace
                .try_run(|| Look::open(family, host.address, addresses, pace))
                .map_err(failed)?;
            let (sightings, closed) = (Arc::clone(&eye.sightings), Arc::clone(&eye.closed));
            let thread = host
                .namespace
                .spawn_thread(move || look.run(&sightings, &closed))
                .map_err(failed)?;
            eye.threads.push(thread);
        }
        Ok(eye)
    }

    /// What was seen since the start or the last [`Self::reset`].
    pub fn sightings(&self) -> Sightings {
        self.sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets what was seen so far.
    pub fn reset(&self) {
        *self
            .sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Sightings::new(Instant::now());
    }

    /// Who answered for the address within the last moments; more than one where several do.
    pub fn answering(&self, address: IpAddr, within: Duration) -> BTreeSet<MacAddress> {
        let since = Instant::now().checked_sub(within);
        self.sightings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answering(address, since)
    }

    /// Whether it still looks: an eye that failed sees nobody, which must not count as silence.
    pub fn check(&self) -> Result<(), LabError> {
        if self.threads.iter().any(JoinHandle::is_finished) {
            return Err(LabError::Shape("the eye on the wire has failed".to_owned()));
        }
        Ok(())
    }
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if let Err(error) = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the eye panicked")))
            {
                tracing::warn!(%error, "the eye on the wire failed");
            }
        }
    }
}

/// One packet socket and what is asked on it.
struct Look {
    family: Family,
    socket: Socket,
    mac: EthernetAddress,
    host: DualStack,
    addresses: Vec<IpAddr>,
    pace: Duration,
}

impl Look {
    fn open(
        family: Family,
        host: DualStack,
        addresses: Vec<IpAddr>,
        pace: Duration,
    ) -> io::Result<Self> {
        let (socket, mac) = packet_socket(LINK, family as u16)?;
        if let Family::Ipv6 = family {
            socket.attach_filter(&advertisements())?;
        }
        Ok(Self {
            family,
            socket,
            mac,
            host,
            addresses,
            pace,
        })
    }

    fn run(mut self, sightings: &Mutex<Sightings>, closed: &AtomicBool) -> io::Result<()> {
        let mut buffer = [0; 2048];
        let mut next = Instant::now();
        while !closed.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now >= next {
                self.ask()?;
                next = now + self.pace;
            }
            let left = next.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let length = match self.socket.read(&mut buffer) {
                Ok(length) => length,
                Err(error) if is_passing(&error) => continue,
                Err(error) => return Err(error),
            };
            let at = Instant::now();
            let frame = buffer.get(..length).unwrap_or_default();
            let seen = match self.family {
                Family::Arp => frame::read_arp(frame, self.mac),
                Family::Ipv6 => frame::read_advertisement(frame, self.mac),
            };
            if let Some((address, mac, kind)) = seen
                && self.addresses.contains(&address)
            {
                let sighting = Sighting {
                    at,
                    address,
                    mac,
                    kind,
                };
                sightings
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(sighting);
            }
        }
        Ok(())
    }

    fn ask(&self) -> io::Result<()> {
        for address in &self.addresses {
            let frame = match address {
                IpAddr::V4(address) => frame::request(self.mac, self.host.ipv4, *address),
                IpAddr::V6(address) => frame::solicitation(self.mac, self.host.ipv6, *address),
            };
            match self.socket.send(&frame) {
                Ok(_) => {}
                // A cable that is out, or a queue that is full: the next question may get through.
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A packet socket on that link in the calling thread's namespace, and the link's Ethernet address.
/// `ethertype` is of the frames that it receives; none for 0.
fn packet_socket(link: &str, ethertype: u16) -> io::Result<(Socket, EthernetAddress)> {
    // socket(2) wants it in network byte order.
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    let address = getifaddrs()?
        .filter(|interface| interface.interface_name == link)
        .find_map(|interface| interface.address.as_ref()?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {link}")))?;
    let mac = LinkAddr::addr(&address)
        .map(EthernetAddress)
        .ok_or_else(|| io::Error::other(format!("{link} has no Ethernet address")))?;
    // The address of getifaddrs(3) names the link and no protocol: the socket keeps its own.
    bind(socket.as_raw_fd(), &address)?;
    Ok((socket, mac))
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::TimedOut
            | io::ErrorKind::Interrupted
            | io::ErrorKind::NetworkDown
    ) || error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32)
}

/// Neighbor Advertisements (`ICMPv6` type 136) without extension headers; nothing else.
fn advertisements() -> [SockFilter; 6] {
    const LOAD_OCTET: u16 = 0x30;
    const IS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_OCTET, 0, 0, 20),
        SockFilter::new(IS_EQUAL, 0, 3, 58),
        SockFilter::new(LOAD_OCTET, 0, 0, 54),
        SockFilter::new(IS_EQUAL, 0, 1, 136),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
