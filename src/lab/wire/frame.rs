//! The frames by which hosts ask for an address and say that they have it. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::Kind;
use crate::lab::MacAddress;

/// Who has it (RFC 826), to all.
pub(crate) fn request(own: EthernetAddress, source: Ipv4Addr, address: Ipv4Addr) -> Vec<u8> {
    arp(
        EthernetAddress::BROADCAST,
        own,
        &ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: own,
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress::default(),
            target_protocol_addr: address,
        },
    )
}

/// A request that tells all hosts that `mac` has the address, sent by `station` (RFC 5227, section
/// 3): what an owner sends when it takes the address over, and what a liar sends.
pub fn gratuitous(station: MacAddress, mac: MacAddress, address: Ipv4Addr) -> Vec<u8> {
    arp(
        EthernetAddress::BROADCAST,
        EthernetAddress(station.0),
        &ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(mac.0),
            source_protocol_addr: address,
            target_hardware_addr: EthernetAddress::default(),
            target_protocol_addr: address,
        },
    )
}

fn arp(to: EthernetAddress, from: EthernetAddress, packet: &ArpRepr) -> Vec<u8> {
    let ethernet = EthernetRepr {
        src_addr: from,
        dst_addr: to,
        ethertype: EthernetProtocol::Arp,
    };
    let length = ethernet.buffer_len() + packet.buffer_len();
    let mut frame = EthernetFrame::new_unchecked(vec![0; length]);
    ethernet.emit(&mut frame);
    packet.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    frame.into_inner()
}

/// Who has it (RFC 4861, section 4.3), to its solicited-node multicast address.
pub(crate) fn solicitation(own: EthernetAddress, source: Ipv6Addr, address: Ipv6Addr) -> Vec<u8> {
    let packet = NdiscRepr::NeighborSolicit {
        target_addr: address,
        lladdr: Some(RawHardwareAddress::from(own)),
    };
    let [.., a, b, c] = address.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    );
    discovery(
        EthernetAddress([0x33, 0x33, 0xff, a, b, c]),
        own,
        source,
        group,
        packet,
    )
}

/// An advertisement that overrides (RFC 4861, section 4.4), to all nodes, sent by `station`: it
/// tells them that `mac` has the address.
pub fn unsolicited(station: MacAddress, mac: MacAddress, address: Ipv6Addr) -> Vec<u8> {
    let packet = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: address,
        lladdr: Some(RawHardwareAddress::from(EthernetAddress(mac.0))),
    };
    discovery(
        EthernetAddress([0x33, 0x33, 0, 0, 0, 1]),
        EthernetAddress(station.0),
        address,
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        packet,
    )
}

fn discovery(
    to: EthernetAddress,
    from: EthernetAddress,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    packet: NdiscRepr<'_>,
) -> Vec<u8> {
    let packet = Icmpv6Repr::Ndisc(packet);
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: packet.buffer_len(),
        // Neighbor Discovery is not routed (RFC 4861, section 7.1).
        hop_limit: 255,
    };
    let ethernet = EthernetRepr {
        src_addr: from,
        dst_addr: to,
        ethertype: EthernetProtocol::Ipv6,
    };
    let length = ethernet.buffer_len() + ip.buffer_len() + packet.buffer_len();
    let mut frame = EthernetFrame::new_unchecked(vec![0; length]);
    ethernet.emit(&mut frame);
    let mut network = Ipv6Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut network);
    packet.emit(
        &source,
        &destination,
        &mut Icmpv6Packet::new_unchecked(network.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    frame.into_inner()
}

/// Who says in an ARP frame that it has which address: the sender, which neighbor tables learn.
pub(super) fn read_arp(frame: &[u8], own: EthernetAddress) -> Option<(IpAddr, MacAddress, Kind)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    let packet = ArpPacket::new_checked(frame.payload()).ok()?;
    if packet.hardware_type() != ArpHardware::Ethernet {
        return None;
    }
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let kind = if operation == ArpOperation::Reply && frame.dst_addr() == own {
        Kind::Answer
    } else {
        Kind::Announcement
    };
    Some((
        IpAddr::V4(source_protocol_addr),
        MacAddress(source_hardware_addr.0),
        kind,
    ))
}

/// Who says in a Neighbor Advertisement that it has which address.
pub(super) fn read_advertisement(
    frame: &[u8],
    own: EthernetAddress,
) -> Option<(IpAddr, MacAddress, Kind)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
    if ip.next_header() != IpProtocol::Icmpv6 || ip.hop_limit() != 255 {
        return None;
    }
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let checksums = ChecksumCapabilities::default();
    let parsed = Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &packet, &checksums).ok()?;
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        target_addr,
        lladdr,
        ..
    }) = parsed
    else {
        return None;
    };
    // Without the option, neighbors keep what they know; the sender is the best that is known here.
    let mac = lladdr
        .and_then(|address| address.as_bytes().try_into().ok())
        .map_or(MacAddress(frame.src_addr().0), MacAddress);
    let kind = if frame.dst_addr() == own {
        Kind::Answer
    } else {
        Kind::Announcement
    };
    Some((IpAddr::V6(target_addr), mac, kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OWN: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
    const LIAR: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);

    #[test]
    fn what_is_said_to_all_is_no_answer() {
        let v4 = Ipv4Addr::new(192, 0, 2, 200);
        let v6: Ipv6Addr = "fd00:2::200".parse().unwrap();
        assert_eq!(
            read_arp(&gratuitous(LIAR, OTHER, v4), OWN),
            Some((IpAddr::V4(v4), OTHER, Kind::Announcement))
        );
        assert_eq!(
            read_advertisement(&unsolicited(LIAR, OTHER, v6), OWN),
            Some((IpAddr::V6(v6), OTHER, Kind::Announcement))
        );
    }

    #[test]
    fn a_question_claims_nothing_but_the_askers_own_address() {
        let own = Ipv4Addr::new(192, 0, 2, 50);
        let asked = read_arp(&request(OWN, own, Ipv4Addr::new(192, 0, 2, 200)), OWN).unwrap();
        assert_eq!(asked.0, IpAddr::V4(own));
        let source = "fd00:2::50".parse().unwrap();
        let question = solicitation(OWN, source, "fd00:2::1:2345".parse().unwrap());
        assert_eq!(
            question.get(..6),
            Some(&[0x33, 0x33, 0xff, 1, 0x23, 0x45][..])
        );
        assert_eq!(read_advertisement(&question, OWN), None);
    }

    #[test]
    fn what_cannot_be_read_says_nothing() {
        let frame = gratuitous(LIAR, OTHER, Ipv4Addr::new(192, 0, 2, 200));
        for length in 0..frame.len() {
            assert_eq!(read_arp(frame.get(..length).unwrap(), OWN), None);
            assert_eq!(read_advertisement(frame.get(..length).unwrap(), OWN), None);
        }
    }
}
