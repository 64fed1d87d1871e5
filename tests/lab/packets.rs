//! Packets made by hand, as no socket would send them, and what comes back.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use edgelb::lab::{MacAddress, Namespace};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::bind;
use socket2::{Domain, Protocol, Socket, Type};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 0x10;
/// Hops that a packet may go over as clients send it.
pub const LONG: u8 = 64;
/// `ETH_P_ALL`
const EVERYTHING: u16 = 3;

/// A TCP segment without data.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    /// The TTL, or the hop limit.
    pub hops: u8,
}

impl Segment {
    /// The packet from the network header on.
    pub fn packet(&self) -> Vec<u8> {
        let mut segment = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        // Sequence numbers, five words of header, a window.
        segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags]);
        segment.extend([0x10, 0, 0, 0, 0, 0]);
        let addresses = [octets(self.from.ip()), octets(self.to.ip())].concat();
        let pseudo = [&addresses, &[0, 6, 0, 20][..], &segment].concat();
        segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        let header = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(6, self.hops, from, to, segment.len()),
            _ => [&[0x60, 0, 0, 0, 0, 20, 6, self.hops][..], &addresses].concat(),
        };
        [header, segment].concat()
    }
}

/// An ICMP message of this type; an error is about what `to` port 80 sent to that port of `from`.
pub fn icmp(kind: u8, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut message = vec![kind, if kind == 3 { 4 } else { 0 }, 0, 0, 0, 0, 5, 0];
    message.extend(ipv4(6, LONG, to, from, 8));
    message.extend([80_u16.to_be_bytes(), port.to_be_bytes()].concat());
    message.extend([0, 0, 0, 1]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [ipv4(1, LONG, from, to, message.len()), message].concat()
}

/// A packet socket on `eth0` of a namespace.
pub struct Wire {
    socket: Socket,
    own: MacAddress,
}

impl Wire {
    pub fn open(namespace: &Namespace) -> Self {
        let own = namespace.mac_address("eth0").unwrap();
        let socket = namespace.try_run(|| {
            let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            let mut links = getifaddrs()?.filter(|it| it.interface_name == "eth0");
            let link = links.find_map(|it| it.address?.as_link_addr().copied());
            bind(socket.as_raw_fd(), &link.expect("eth0 is there"))?;
            Ok(socket)
        });
        let socket = socket.unwrap();
        Self { socket, own }
    }

    /// Sends a packet to this hardware address.
    pub fn send(&self, to: MacAddress, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 {
            [8, 0]
        } else {
            [0x86, 0xdd]
        };
        let frame = [&to.0[..], &self.own.0, &kind, packet].concat();
        self.socket.send(&frame).unwrap();
    }

    /// Waits for the next reset of TCP from there: from which port, and for which.
    pub fn reset_by(&self, from: IpAddr, patience: Duration) -> Option<(u16, u16)> {
        let end = Instant::now() + patience;
        let mut buffer = [0; 2048];
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            let left = left.max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            match (&self.socket).read(&mut buffer) {
                Ok(length) => {
                    if let Some(ports) = reset(&buffer[..length], from) {
                        return Some(ports);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// The ports of a frame that is a reset in the name of this address.
fn reset(frame: &[u8], from: IpAddr) -> Option<(u16, u16)> {
    let (network, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (protocol, source, segment) = match network {
        [8, 0] => (packet.get(9)?, packet.get(12..16)?, packet.get(20..)?),
        [0x86, 0xdd] => (packet.get(6)?, packet.get(8..24)?, packet.get(40..)?),
        _ => return None,
    };
    let number = |at: usize| {
        Some(u16::from_be_bytes(
            segment.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let is_reset = *protocol == 6 && segment.get(13)? & RST != 0;
    let is_from = *source == octets(from);
    (is_reset && is_from).then_some((number(0)?, number(2)?))
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
fn ipv4(protocol: u8, hops: u8, source: Ipv4Addr, destination: Ipv4Addr, length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(u16::try_from(20 + length).unwrap().to_be_bytes());
    header.extend([0, 0, 0x40, 0, hops, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// RFC 1071
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
