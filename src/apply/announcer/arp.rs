//! Decides which ARP frames are answered and which claim an address, and builds every ARP frame that
//! edgelb sends. Pure: no socket, no clock. Frames come from a hostile LAN: whatever the bytes are, the
//! result is an answer for an announced VIP, a claim, or a reason, never a panic.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, EthernetRepr,
};

use crate::model::announcement::AnnouncedSet;

/// Octets of an Ethernet header and an ARP packet for IPv4 over Ethernet (RFC 826). The kernel's
/// driver pads to the Ethernet minimum.
pub const FRAME_LENGTH: usize = 42;

/// An ARP frame ready to be sent.
pub type Frame = [u8; FRAME_LENGTH];

/// The interface on which a frame arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnouncingInterface {
    /// Its key in the [`AnnouncedSet`].
    pub index: u32,
    /// Its name, for metrics and the log.
    pub name: String,
    /// The hardware address that it has now.
    pub mac: [u8; 6],
}

/// Why a frame is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreReason {
    /// Too short for an Ethernet header, or for the ARP packet that its length fields announce.
    #[error("the frame is too short for an ARP packet")]
    Truncated,
    /// Another `EtherType` than ARP.
    #[error("the frame is no ARP frame")]
    NotArp,
    /// ARP for other address types than Ethernet and IPv4.
    #[error("the frame's address types are not Ethernet and IPv4")]
    ForeignProtocol,
    /// Ethernet and IPv4, with address lengths that contradict it.
    #[error("the frame's address lengths contradict its address types")]
    Malformed,
    /// Neither broadcast nor sent to this interface.
    #[error("the frame is addressed to another host")]
    ForeignDestination,
    /// Sent by this interface and looped back, for instance by a bridge or a bond.
    #[error("the frame is this interface's own")]
    OwnFrame,
    /// The sender's hardware address is zero, multicast or broadcast: no host has such an address.
    #[error("the sender's hardware address is no unicast address")]
    InvalidSender,
    /// Another host says that it has a VIP which is announced here (RFC 5227, section 2.4).
    #[error("another host claims {vip}")]
    Conflict {
        /// The claimed VIP.
        vip: Ipv4Addr,
        /// The hardware address of the claimant.
        mac: [u8; 6],
    },
    /// A reply; this responder asks nobody.
    #[error("the frame is a reply")]
    Reply,
    /// Neither a request nor a reply (RARP and others).
    #[error("the frame is neither a request nor a reply")]
    UnknownOperation,
    /// Another host announces an address of its own, which is none of ours.
    #[error("the frame is another host's gratuitous announcement")]
    Gratuitous,
    /// The sender has no address yet: it probes for one, or asks for one (RFC 5227, section 1.1).
    #[error("the frame's sender claims no address")]
    NoClaim,
    /// The address asked for is not announced on this interface.
    #[error("the address asked for is not announced on this interface")]
    NotAnnounced,
}

impl IgnoreReason {
    /// The value of the metric label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotArp => "not_arp",
            Self::ForeignProtocol => "foreign_protocol",
            Self::Malformed => "malformed",
            Self::ForeignDestination => "foreign_destination",
            Self::OwnFrame => "own_frame",
            Self::InvalidSender => "invalid_sender",
            Self::Conflict { .. } => "conflict",
            Self::Reply => "reply",
            Self::UnknownOperation => "unknown_operation",
            Self::Gratuitous => "gratuitous",
            Self::NoClaim => "no_claim",
            Self::NotAnnounced => "not_announced",
        }
    }
}

/// An answer to a request for a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The VIP that was asked for.
    pub vip: Ipv4Addr,
    /// The reply, unicast to the requester.
    pub frame: Frame,
}

/// The reply to `frame` (with its Ethernet header) which arrived on `interface`.
///
/// Probes for a VIP (sender address 0.0.0.0) are answered: that is how an owner defends its address
/// (RFC 5227, section 2.1.1). A claim of another host is reported as [`IgnoreReason::Conflict`] and
/// changes nothing: one forged frame must not silence a VIP.
pub fn answer(
    frame: &[u8],
    interface: &AnnouncingInterface,
    announced: &AnnouncedSet,
) -> Result<Answer, IgnoreReason> {
    let own_mac = EthernetAddress(interface.mac);
    let (operation, sender_mac, sender, target) = hear(frame, own_mac)?;
    // Before the operation: a claim is a claim in requests and replies alike.
    if announced.contains(interface.index, IpAddr::V4(sender)) {
        return Err(IgnoreReason::Conflict {
            vip: sender,
            mac: sender_mac.0,
        });
    }
    match operation {
        ArpOperation::Request => {}
        ArpOperation::Reply => return Err(IgnoreReason::Reply),
        ArpOperation::Unknown(_) => return Err(IgnoreReason::UnknownOperation),
    }
    if sender == target {
        return Err(IgnoreReason::Gratuitous);
    }
    if !announced.contains(interface.index, IpAddr::V4(target)) {
        return Err(IgnoreReason::NotAnnounced);
    }
    Ok(Answer {
        vip: target,
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

/// Another host's word that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: Ipv4Addr,
    /// The hardware address of the claimant, which its neighbours learn.
    pub mac: [u8; 6],
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
        address: sender,
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
    if !sender_mac.is_unicast() || sender_mac.0 == [0; 6] {
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
