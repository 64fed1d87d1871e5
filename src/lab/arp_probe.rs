//! Asks the LAN who has an IPv4 address, as `arping` does, and gives everyone who says "I".

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::client_error;
use super::{LabError, MacAddress, Namespace};

/// The `EtherType` of ARP (RFC 826) as socket(2) wants it for a packet socket: in network byte order.
const ARP_ONLY: i32 = 0x0806_u16.to_be() as i32;

/// Broadcasts one request for `address` on `link` and collects the Ethernet addresses of all that
/// answer within `window`. It always waits the whole window: a second answer is what it looks for.
pub fn arp_probe(
    from: &Namespace,
    link: &str,
    source: Ipv4Addr,
    address: Ipv4Addr,
    window: Duration,
) -> Result<Vec<MacAddress>, LabError> {
    from.try_run(|| probe(link, source, address, window))
        .map_err(|error| client_error(from, error))
}

fn probe(
    link: &str,
    source: Ipv4Addr,
    address: Ipv4Addr,
    window: Duration,
) -> io::Result<Vec<MacAddress>> {
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(ARP_ONLY)))?;
    let link_address = link_address(link)?;
    // The address of getifaddrs(3) names the link and no protocol: the socket keeps its own (packet(7)).
    bind(socket.as_raw_fd(), &link_address)?;
    let own = link_address.addr().map(EthernetAddress).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{link} has no Ethernet address"),
        )
    })?;

    let deadline = Instant::now() + window;
    socket.send(&request(own, source, address))?;
    let mut answers = BTreeSet::new();
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(answers.into_iter().collect());
        }
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.read(&mut buffer) {
            Ok(length) => answers.extend(
                buffer
                    .get(..length)
                    .and_then(|frame| answer(frame, own, address)),
            ),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The packet address of the link in the calling thread's namespace.
fn link_address(link: &str) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter(|interface| interface.interface_name == link)
        .find_map(|interface| {
            interface
                .address
                .as_ref()
                .and_then(|address| address.as_link_addr().copied())
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {link}")))
}

fn request(own: EthernetAddress, source: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    let arp = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: own,
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress::default(),
        target_protocol_addr: address,
    };
    let ethernet = EthernetRepr {
        src_addr: own,
        dst_addr: EthernetAddress::BROADCAST,
        ethertype: EthernetProtocol::Arp,
    };
    let mut frame = EthernetFrame::new_unchecked(vec![0; ethernet.buffer_len() + arp.buffer_len()]);
    ethernet.emit(&mut frame);
    arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    frame.into_inner()
}

/// The answering station, if the frame is an answer to us about that address. The sender is taken
/// from the ARP packet: that is what a neighbor table would learn.
fn answer(frame: &[u8], own: EthernetAddress, address: Ipv4Addr) -> Option<MacAddress> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp || frame.dst_addr() != own {
        return None;
    }
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    if packet.hardware_type() != ArpHardware::Ethernet {
        return None;
    }
    match ArpRepr::parse(&packet).ok()? {
        ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr,
            source_protocol_addr,
            ..
        } if source_protocol_addr == address => Some(MacAddress(source_hardware_addr.0)),
        _ => None,
    }
}
