//! Decides which ARP frames are answered and which claim an address, and builds every ARP frame that
//! edgelb sends. Pure: no socket, no clock. Frames come from a hostile LAN: whatever the bytes are, the
//! result is an answer for an announced VIP, a claim, or a reason, never a panic.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr,
};

use super::verdict::{
    AnnouncingInterface, Answer, Claim, IgnoreReason, Neighbour, is_host, judge_claim, not_ours,
};
use crate::model::announcement::AnnouncedSet;

/// Octets of an Ethernet header and an ARP packet for IPv4 over Ethernet (RFC 826). The kernel's
/// driver pads to the Ethernet minimum.
pub const FRAME_LENGTH: usize = 42;

/// An ARP frame ready to be sent.
pub type Frame = [u8; FRAME_LENGTH];

/// The reply to `frame` (with its Ethernet header) which arrived on `interface`.
///
/// Probes for a VIP (sender address 0.0.0.0) are answered: that is how an owner defends its address
/// (RFC 5227, section 2.1.1). A claim of another host is reported as [`IgnoreReason::Conflict`] and
/// changes nothing: one forged frame must not silence a VIP.
pub fn answer(
    frame: &[u8],
    interface: &AnnouncingInterface,
    announced: &AnnouncedSet,
) -> Result<Answer<Frame>, IgnoreReason> {
    let own_mac = EthernetAddress(interface.mac);
    let (operation, sender_mac, sender, target) = hear(frame, own_mac)?;
    // Before the operation: a claim is a claim in requests and replies alike.
    if announced.contains(interface.index, IpAddr::V4(sender)) {
        return Err(judge_claim(IpAddr::V4(sender), sender_mac.0, announced));
    }
    match operation {
        ArpOperation::Request => {}
        ArpOperation::Reply => return Err(IgnoreReason::Reply),
        ArpOperation::Unknown(_) => return Err(IgnoreReason::UnknownOperation),
    }
    if sender == target {
        return Err(IgnoreReason::Gratuitous);
    }
    let vip = IpAddr::V4(target);
    let asker = (!sender.is_unspecified()).then_some(Neighbour {
        address: IpAddr::V4(sender),
        mac: sender_mac.0,
    });
    if !announced.contains(interface.index, vip) {
        return Err(not_ours(vip, asker, interface.index, announced));
    }
    Ok(Answer {
        vip,
        asker,
        frame: build(
            &ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: own_mac,
                source_protocol_addr: target,
                target_hardware_addr: sender_mac,
                target_protocol_addr: sender,
            },
            own_mac,
            sender_mac,
        ),
    })
}

/// The two gratuitous frames of one announcement, in sending order.
///
/// The request form with a target hardware address of zero comes first: Linux takes it even within
/// one second of the entry's last update. The reply form, for equipment that heeds only replies, has
/// the own hardware address as target: with the broadcast address there, Linux ignores it in that
/// first second (RFC 5227, section 3; RFC 5944, section 4.6).
pub fn gratuitous(vip: Ipv4Addr, mac: [u8; 6]) -> [Frame; 2] {
    let own = EthernetAddress(mac);
    [
        (ArpOperation::Request, EthernetAddress([0; 6])),
        (ArpOperation::Reply, own),
    ]
    .map(|(operation, target_hardware_addr)| {
        build(
            &ArpRepr::EthernetIpv4 {
                operation,
                source_hardware_addr: own,
                source_protocol_addr: vip,
                target_hardware_addr,
                target_protocol_addr: vip,
            },
            own,
            EthernetAddress::BROADCAST,
        )
    })
}

/// The announcement for one neighbour, for those that do not hear the broadcast one: unicast, in the
/// request form, which Linux takes also within one second of its entry's last update.
pub fn refresh(vip: Ipv4Addr, mac: [u8; 6], neighbour: [u8; 6]) -> Frame {
    let own = EthernetAddress(mac);
    build(
        &ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: own,
            source_protocol_addr: vip,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: vip,
        },
        own,
        EthernetAddress(neighbour),
    )
}

/// What `frame` (with its Ethernet header) claims, where it arrived on an interface with the hardware
/// address `own_mac`.
///
/// Whoever sends ARP with a sender address claims it, whatever the operation is (RFC 5227, section
/// 2.4). A probe claims nothing: the probes of other nodes for the addresses that this node probes are
/// no conflict, unlike section 2.1.1 has it, because nobody takes an address on the word of a probe.
pub fn claim(frame: &[u8], own_mac: [u8; 6]) -> Result<Claim, IgnoreReason> {
    let (_, sender_mac, sender, _) = hear(frame, EthernetAddress(own_mac))?;
    if sender.is_unspecified() {
        return Err(IgnoreReason::NoClaim);
    }
    Ok(Claim {
        address: IpAddr::V4(sender),
        mac: sender_mac.0,
    })
}

/// The probe that asks whether anybody has `address` (RFC 5227, section 2.1.1): its sender address of
/// 0.0.0.0 changes nobody's neighbour table.
pub fn probe(address: Ipv4Addr, mac: [u8; 6]) -> Frame {
    let own = EthernetAddress(mac);
    build(
        &ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: own,
            source_protocol_addr: Ipv4Addr::UNSPECIFIED,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address,
        },
        own,
        EthernetAddress::BROADCAST,
    )
}

type Parsed = (ArpOperation, EthernetAddress, Ipv4Addr, Ipv4Addr);

/// An ARP frame of another host that concerns this interface.
fn hear(frame: &[u8], own_mac: EthernetAddress) -> Result<Parsed, IgnoreReason> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| IgnoreReason::Truncated)?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return Err(IgnoreReason::NotArp);
    }
    let parsed = parse(ethernet.payload())?;
    let (_, sender_mac, ..) = parsed;
    let destination = ethernet.dst_addr();
    if !destination.is_broadcast() && destination != own_mac {
        return Err(IgnoreReason::ForeignDestination);
    }
    if sender_mac == own_mac || ethernet.src_addr() == own_mac {
        return Err(IgnoreReason::OwnFrame);
    }
    if !is_host(sender_mac.0) {
        return Err(IgnoreReason::InvalidSender);
    }
    Ok(parsed)
}

/// Operation, sender hardware address, sender and target protocol address.
fn parse(payload: &[u8]) -> Result<Parsed, IgnoreReason> {
    let packet = ArpPacket::new_checked(payload).map_err(|_| IgnoreReason::Truncated)?;
    if packet.hardware_type() != ArpHardware::Ethernet
        || packet.protocol_type() != EthernetProtocol::Ipv4
    {
        return Err(IgnoreReason::ForeignProtocol);
    }
    match ArpRepr::parse(&packet) {
        Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
            ..
        }) => Ok((
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_protocol_addr,
        )),
        Ok(_) | Err(_) => Err(IgnoreReason::Malformed),
    }
}

fn build(packet: &ArpRepr, source: EthernetAddress, destination: EthernetAddress) -> Frame {
    let mut frame = [0; FRAME_LENGTH];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    EthernetRepr {
        src_addr: source,
        dst_addr: destination,
        ethertype: EthernetProtocol::Arp,
    }
    .emit(&mut ethernet);
    packet.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
    frame
}
