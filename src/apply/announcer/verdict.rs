//! What is common to ARP and NDP: who asked, what is answered, and why a frame is not. Plain data and
//! the judgement of claims; the frames themselves are [`super::arp`]'s and [`super::ndp`]'s.

use std::net::IpAddr;

use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::MacAddress;

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

/// A host on the LAN by both of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its protocol address, of the family of what it asked for.
    pub address: IpAddr,
    /// Its hardware address, always a unicast one.
    pub mac: [u8; 6],
}

/// An answer to a request for a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<Frame> {
    /// The VIP that was asked for.
    pub vip: IpAddr,
    /// Who asked; none where the asker has no address yet (it probes for the VIP).
    pub asker: Option<Neighbour>,
    /// The reply.
    pub frame: Frame,
}

/// Another host's word that an address is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// The hardware address of the claimant, which its neighbours learn.
    pub mac: [u8; 6],
}

/// Why a frame is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreReason {
    /// Too short for an Ethernet header, or for the packet that its length fields announce.
    #[error("the frame is too short for its packet")]
    Truncated,
    /// Another `EtherType` than ARP.
    #[error("the frame is no ARP frame")]
    NotArp,
    /// Neither a neighbor solicitation nor an advertisement.
    #[error("the frame is no neighbor discovery frame")]
    NotNeighborDiscovery,
    /// ARP for other address types than Ethernet and IPv4.
    #[error("the frame's address types are not Ethernet and IPv4")]
    ForeignProtocol,
    /// Fields that contradict one another or the standard (RFC 826; RFC 4861, section 7.1).
    #[error("the frame's fields contradict one another")]
    Malformed,
    /// A hop limit below 255: a router forwarded it, so that it is from another network.
    #[error("the frame's hop limit is not 255")]
    InvalidHopLimit,
    /// In fragments, of which inspection on the way sees no whole message (RFC 6980, section 5).
    #[error("the frame is a fragment")]
    Fragmented,
    /// The `ICMPv6` checksum is wrong.
    #[error("the frame's checksum is wrong")]
    InvalidChecksum,
    /// Neither broadcast or multicast nor sent to this interface.
    #[error("the frame is addressed to another host")]
    ForeignDestination,
    /// Sent by this node and looped back, for instance by a bridge or a bond, or heard by another of
    /// its interfaces.
    #[error("the frame is this node's own")]
    OwnFrame,
    /// The sender's address is zero, multicast or broadcast: no host has such an address.
    #[error("the sender's address is no unicast address")]
    InvalidSender,
    /// Another host says that it has a VIP which is announced here (RFC 5227, section 2.4).
    #[error("another host claims {vip}")]
    Conflict {
        /// The claimed VIP.
        vip: IpAddr,
        /// The hardware address of the claimant.
        mac: [u8; 6],
    },
    /// Another node says that it has a VIP which is announced here.
    #[error("another node claims {vip}")]
    Rival {
        /// The claimed VIP.
        vip: IpAddr,
        /// The hardware address of the node.
        mac: [u8; 6],
    },
    /// Somebody asks for a VIP that another node announces.
    #[error("the frame asks for {vip}, which another node announces")]
    NotOwned {
        /// The VIP.
        vip: IpAddr,
        /// Who asked; none where the asker has no address yet.
        asker: Option<Neighbour>,
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
    /// The address asked for is announced by no node on this interface.
    #[error("the address asked for is not announced on this interface")]
    NotAnnounced,
}

impl IgnoreReason {
    /// The value of the metric label `result`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::NotArp => "not_arp",
            Self::NotNeighborDiscovery => "not_neighbor_discovery",
            Self::ForeignProtocol => "foreign_protocol",
            Self::Malformed => "malformed",
            Self::InvalidHopLimit => "invalid_hop_limit",
            Self::Fragmented => "fragmented",
            Self::InvalidChecksum => "invalid_checksum",
            Self::ForeignDestination => "foreign_destination",
            Self::OwnFrame => "own_frame",
            Self::InvalidSender => "invalid_sender",
            Self::Conflict { .. } => "conflict",
            Self::Rival { .. } => "rival",
            Self::NotOwned { .. } => "not_owned",
            Self::Reply => "reply",
            Self::UnknownOperation => "unknown_operation",
            Self::Gratuitous => "gratuitous",
            Self::NoClaim => "no_claim",
            Self::NotAnnounced => "not_announced",
        }
    }
}

/// What a claim to a VIP that is announced here is: another host's, another node's, or nothing, as it
/// comes from an interface of this node.
pub(super) fn judge_claim(vip: IpAddr, mac: [u8; 6], announced: &AnnouncedSet) -> IgnoreReason {
    let mut own = announced.interfaces.values();
    if own.any(|interface| interface.mac == mac) {
        IgnoreReason::OwnFrame
    } else if announced.peers.contains(&MacAddress(mac)) {
        IgnoreReason::Rival { vip, mac }
    } else {
        IgnoreReason::Conflict { vip, mac }
    }
}

/// Why an address that is not announced here is not answered for.
pub(super) fn not_ours(
    address: IpAddr,
    asker: Option<Neighbour>,
    index: u32,
    announced: &AnnouncedSet,
) -> IgnoreReason {
    let interface = announced.interfaces.get(&index);
    if interface.is_some_and(|interface| interface.watched.contains(&address)) {
        IgnoreReason::NotOwned {
            vip: address,
            asker,
        }
    } else {
        IgnoreReason::NotAnnounced
    }
}

/// Whether a host can have this hardware address.
pub(super) fn is_host(mac: [u8; 6]) -> bool {
    let [first, ..] = mac;
    first & 1 == 0 && mac != [0; 6]
}
