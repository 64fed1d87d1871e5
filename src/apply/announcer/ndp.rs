//! Decides which neighbor discovery frames are answered and which claim an address, and builds every
//! one that edgelb sends. The IPv6 twin of [`super::arp`], and as pure: no socket, no clock, and
//! whatever the bytes are, an answer, a claim, or a reason, never a panic.
//!
//! The VIPs are local routes here and no addresses, so the kernel itself answers for none of them.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Message, Icmpv6Packet,
    Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::verdict::{
    AnnouncingInterface, Answer, Claim, IgnoreReason, Neighbour, is_host, judge_claim, not_ours,
};
use crate::model::announcement::AnnouncedSet;

/// Octets of the headers of Ethernet and IPv6.
const HEADERS_LENGTH: usize = 14 + 40;
/// Octets of a neighbor solicitation or advertisement without options (RFC 4861, section 4.3).
const MESSAGE_LENGTH: usize = 24;
/// Octets of the option with an Ethernet address (RFC 4861, section 4.6.1).
const OPTION_LENGTH: usize = 8;

/// A neighbor advertisement ready to be sent: it always names the hardware address.
pub type Advertisement = [u8; HEADERS_LENGTH + MESSAGE_LENGTH + OPTION_LENGTH];
/// A neighbor solicitation ready to be sent: a probe, which never names one.
pub type Solicitation = [u8; HEADERS_LENGTH + MESSAGE_LENGTH];

/// The longest frame that is looked at: whatever options neighbours add, none needs more than a whole
/// Ethernet frame.
pub const LONGEST_FRAME: usize = 1514;

/// Options of a solicitation and of an advertisement (RFC 4861, section 4.6.1).
const SOURCE_LINK_LAYER_ADDRESS: u8 = 1;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// Extension headers that are passed over: each kind stands there once, destination options twice (RFC
/// 8200, section 4.1).
const MOST_EXTENSIONS: usize = 4;

/// Told from other hop limits, as a router lowers it (RFC 4861, section 3.1).
const HOP_LIMIT: u8 = 255;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The multicast group in which an address is asked for (RFC 4291, section 2.7.1).
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The hardware address of a multicast group (RFC 2464, section 7).
const fn multicast_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// The advertisement that answers `frame` (with its Ethernet header) which arrived on `interface`.
///
/// A probe of duplicate address detection (from the address ::) is answered to all nodes: that is how
/// an owner defends its address (RFC 4862, section 5.4.3). A claim of another host is reported and
/// changes nothing, as for ARP.
pub fn answer(
    frame: &[u8],
    interface: &AnnouncingInterface,
    announced: &AnnouncedSet,
) -> Result<Answer<Advertisement>, IgnoreReason> {
    let (target, source, source_mac) = match hear(frame, interface.mac)? {
        Heard::Advertisement { target, mac } => {
            if announced.contains(interface.index, IpAddr::V6(target)) {
                return Err(judge_claim(IpAddr::V6(target), mac, announced));
            }
            return Err(IgnoreReason::Reply);
        }
        Heard::Solicitation {
            target,
            source,
            mac,
        } => (target, source, mac),
    };
    // Whoever sends from an address claims it: neighbours learn the source of a solicitation.
    if announced.contains(interface.index, IpAddr::V6(source)) {
        return Err(judge_claim(IpAddr::V6(source), source_mac, announced));
    }
    let vip = IpAddr::V6(target);
    let asker = (!source.is_unspecified()).then_some(Neighbour {
        address: IpAddr::V6(source),
        mac: source_mac,
    });
    if !announced.contains(interface.index, vip) {
        return Err(not_ours(vip, asker, interface.index, announced));
    }
    let override_flag = NdiscNeighborFlags::OVERRIDE;
    let (flags, destination, destination_mac) = match asker {
        Some(_) => (
            NdiscNeighborFlags::SOLICITED | override_flag,
            source,
            source_mac,
        ),
        // Nobody can be answered by unicast at ::; a multicast one must not be marked solicited.
        None => (override_flag, ALL_NODES, multicast_mac(ALL_NODES)),
    };
    Ok(Answer {
        vip,
        asker,
        frame: advertisement(target, interface.mac, flags, destination, destination_mac),
    })
}

/// The two unsolicited advertisements of one announcement, in sending order.
///
/// With the override flag, or neighbours would keep the hardware address that they have; to all nodes
/// (RFC 4861, section 7.2.6), and to all routers, which may learn a new neighbour from it (RFC 9131).
pub fn unsolicited(vip: Ipv6Addr, mac: [u8; 6]) -> [Advertisement; 2] {
    [ALL_NODES, ALL_ROUTERS].map(|group| {
        let flags = NdiscNeighborFlags::OVERRIDE;
        advertisement(vip, mac, flags, group, multicast_mac(group))
    })
}

/// The announcement for one neighbour, for those that do not hear the multicast ones.
pub fn refresh(
    vip: Ipv6Addr,
    mac: [u8; 6],
    neighbour: Ipv6Addr,
    neighbour_mac: [u8; 6],
) -> Advertisement {
    let flags = NdiscNeighborFlags::OVERRIDE;
    advertisement(vip, mac, flags, neighbour, neighbour_mac)
}

/// What `frame` (with its Ethernet header) claims, where it arrived on an interface with the hardware
/// address `own_mac`: an advertisement claims its target, a solicitation its source. A probe claims
/// nothing, as for ARP.
pub fn claim(frame: &[u8], own_mac: [u8; 6]) -> Result<Claim, IgnoreReason> {
    let (address, mac) = match hear(frame, own_mac)? {
        Heard::Advertisement { target, mac } => (target, mac),
        Heard::Solicitation { source, mac, .. } => (source, mac),
    };
    if address.is_unspecified() {
        return Err(IgnoreReason::NoClaim);
    }
    Ok(Claim {
        address: IpAddr::V6(address),
        mac,
    })
}

/// The probe that asks whether anybody has `address` (RFC 4862, section 5.4.2). Its source changes
/// nobody's neighbour table; the answer goes to all nodes.
pub fn probe(address: Ipv6Addr, mac: [u8; 6]) -> Solicitation {
    let mut frame = [0; _];
    let message = NdiscRepr::NeighborSolicit {
        target_addr: address,
        lladdr: None,
    };
    let group = solicited_node(address);
    build(
        &mut frame,
        message,
        mac,
        Ipv6Addr::UNSPECIFIED,
        group,
        multicast_mac(group),
    );
    frame
}

/// A frame of another host that keeps the rules of RFC 4861, sections 7.1.1 and 7.1.2.
enum Heard {
    Solicitation {
        target: Ipv6Addr,
        source: Ipv6Addr,
        /// What the sender says its hardware address is, or what the frame comes from.
        mac: [u8; 6],
    },
    Advertisement {
        target: Ipv6Addr,
        mac: [u8; 6],
    },
}

fn hear(frame: &[u8], own_mac: [u8; 6]) -> Result<Heard, IgnoreReason> {
    let ethernet = EthernetFrame::new_checked(frame).map_err(|_| IgnoreReason::Truncated)?;
    if ethernet.ethertype() != EthernetProtocol::Ipv6 {
        return Err(IgnoreReason::NotNeighborDiscovery);
    }
    let packet =
        Ipv6Packet::new_checked(ethernet.payload()).map_err(|_| IgnoreReason::Truncated)?;
    if packet.version() != 6 {
        return Err(IgnoreReason::NotNeighborDiscovery);
    }
    let octets = behind_extensions(&packet)?;
    let message = Icmpv6Packet::new_checked(octets).map_err(|_| IgnoreReason::Truncated)?;
    if !matches!(
        message.msg_type(),
        Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert
    ) {
        return Err(IgnoreReason::NotNeighborDiscovery);
    }
    if octets.len() < MESSAGE_LENGTH {
        return Err(IgnoreReason::Truncated);
    }
    if packet.hop_limit() != HOP_LIMIT {
        return Err(IgnoreReason::InvalidHopLimit);
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if !message.verify_checksum(&source, &destination) {
        return Err(IgnoreReason::InvalidChecksum);
    }
    if message.msg_code() != 0 {
        return Err(IgnoreReason::Malformed);
    }
    let from = ethernet.src_addr();
    let to = ethernet.dst_addr();
    if !to.is_multicast() && to.0 != own_mac {
        return Err(IgnoreReason::ForeignDestination);
    }
    if source.is_multicast() {
        return Err(IgnoreReason::InvalidSender);
    }
    // Options of length zero among them: RFC 4861 has such a packet discarded whole.
    let options = message.payload();
    let message = NdiscRepr::parse(&message).map_err(|_| IgnoreReason::Malformed)?;
    let heard = judge(&message, options, source, destination, from)?;
    let (Heard::Solicitation { mac, .. } | Heard::Advertisement { mac, .. }) = heard;
    if mac == own_mac || from.0 == own_mac {
        return Err(IgnoreReason::OwnFrame);
    }
    if !is_host(mac) {
        return Err(IgnoreReason::InvalidSender);
    }
    Ok(heard)
}

/// The `ICMPv6` message of a packet. Hosts take neighbor discovery behind extension headers for what it is,
/// so a claim that is made so is one; in fragments it is none (RFC 6980, section 5).
fn behind_extensions<'f>(packet: &Ipv6Packet<&'f [u8]>) -> Result<&'f [u8], IgnoreReason> {
    let (mut next, mut octets) = (packet.next_header(), packet.payload());
    for _ in 0..=MOST_EXTENSIONS {
        match next {
            IpProtocol::Icmpv6 => return Ok(octets),
            IpProtocol::Ipv6Frag => return Err(IgnoreReason::Fragmented),
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {}
            _ => return Err(IgnoreReason::NotNeighborDiscovery),
        }
        let [following, length, _, segments_left, ..] = octets else {
            return Err(IgnoreReason::Truncated);
        };
        if next == IpProtocol::Ipv6Route && *segments_left > 0 {
            // On its way to another host.
            return Err(IgnoreReason::NotNeighborDiscovery);
        }
        next = IpProtocol::from(*following);
        // In units of 8 octets, the first one not counted (RFC 8200, section 4).
        let rest = octets.get((usize::from(*length) + 1) * 8..);
        octets = rest.ok_or(IgnoreReason::Truncated)?;
    }
    Err(IgnoreReason::Malformed)
}

/// The rules that depend on the kind of message.
fn judge(
    message: &NdiscRepr,
    options: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    from: EthernetAddress,
) -> Result<Heard, IgnoreReason> {
    match *message {
        NdiscRepr::NeighborSolicit {
            target_addr: target,
            ..
        } => {
            let named = named_mac(options, SOURCE_LINK_LAYER_ADDRESS)?;
            let is_probe = source.is_unspecified();
            // A sender without an address has no hardware address to be learnt either.
            let probe_is_wrong =
                is_probe && (named.is_some() || destination != solicited_node(target));
            if target.is_multicast() || probe_is_wrong {
                return Err(IgnoreReason::Malformed);
            }
            Ok(Heard::Solicitation {
                target,
                source,
                mac: named.unwrap_or(from.0),
            })
        }
        NdiscRepr::NeighborAdvert {
            target_addr: target,
            flags,
            ..
        } => {
            let named = named_mac(options, TARGET_LINK_LAYER_ADDRESS)?;
            let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
            if target.is_multicast() || (destination.is_multicast() && solicited) {
                return Err(IgnoreReason::Malformed);
            }
            if source.is_unspecified() {
                return Err(IgnoreReason::InvalidSender);
            }
            Ok(Heard::Advertisement {
                target,
                mac: named.unwrap_or(from.0),
            })
        }
        _ => Err(IgnoreReason::NotNeighborDiscovery),
    }
}

/// The hardware address in the first option of this kind: of several, Linux neighbours learn that one
/// (`ndisc_parse_options`), and RFC 4861, section 9, says nothing of it.
fn named_mac(options: &[u8], kind: u8) -> Result<Option<[u8; 6]>, IgnoreReason> {
    let mut rest = options;
    while let [option, length, value @ ..] = rest {
        if *option == kind {
            let whole = value.first_chunk().filter(|_| *length == 1);
            return whole.copied().map(Some).ok_or(IgnoreReason::Malformed);
        }
        if *length == 0 {
            return Err(IgnoreReason::Malformed);
        }
        let following = rest.get(usize::from(*length) * 8..);
        rest = following.ok_or(IgnoreReason::Malformed)?;
    }
    Ok(None)
}

/// The router flag stays out: this node is no router for the LAN, and hosts would drop it from their
/// routers if it were one and said so only here (RFC 4861, section 7.2.5).
fn advertisement(
    vip: Ipv6Addr,
    mac: [u8; 6],
    flags: NdiscNeighborFlags,
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
) -> Advertisement {
    let mut frame = [0; _];
    let message = NdiscRepr::NeighborAdvert {
        flags,
        target_addr: vip,
        lladdr: Some(EthernetAddress(mac).into()),
    };
    build(&mut frame, message, mac, vip, destination, destination_mac);
    frame
}

fn build(
    frame: &mut [u8],
    message: NdiscRepr,
    mac: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    destination_mac: [u8; 6],
) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    EthernetRepr {
        src_addr: EthernetAddress(mac),
        dst_addr: EthernetAddress(destination_mac),
        ethertype: EthernetProtocol::Ipv6,
    }
    .emit(&mut ethernet);
    let message = Icmpv6Repr::Ndisc(message);
    let mut packet = Ipv6Packet::new_unchecked(ethernet.payload_mut());
    Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: HOP_LIMIT,
    }
    .emit(&mut packet);
    message.emit(
        &source,
        &destination,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
}
