//! Our local routes as rtnetlink messages, and the routes that a dump shows.
//!
//! Pure: what is to be added, replaced or deleted is decided elsewhere.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{
    Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Parseable,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::family::Family;

/// The route protocol by which a route is known to be ours.
pub const PROTOCOL: u8 = 225;
/// `RT_TABLE_LOCAL`.
pub(super) const TABLE_LOCAL: u8 = 255;
/// `LOOPBACK_IFINDEX`: the same in every network namespace.
pub(super) const LOOPBACK: u32 = 1;
/// `RTM_NEWROUTE`, the type of the messages of a dump.
pub(super) const NEW_ROUTE: u16 = 24;
/// `IP6_RT_PRIO_USER`: what the kernel makes of an IPv6 route without a metric.
const IPV6_METRIC: u32 = 1024;

/// A route of the local table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalRoute {
    pub prefix: IpNet,
    pub protocol: u8,
    pub kind: RouteType,
    pub scope: RouteScope,
    /// Lower is preferred; two routes of one prefix differ in it.
    pub metric: u32,
    /// The interface, where there is exactly one.
    pub interface: Option<u32>,
    pub preferred_source: Option<IpAddr>,
}

/// In the words of `ip route show table local proto 225`.
impl fmt::Display for LocalRoute {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "local ")?;
        if self.prefix.prefix_len() == self.prefix.max_prefix_len() {
            write!(formatter, "{} dev lo", self.prefix.addr())?;
        } else {
            write!(formatter, "{} dev lo", self.prefix)?;
        }
        if self.scope == RouteScope::Host {
            write!(formatter, " scope host")?;
        }
        if let Some(source) = self.preferred_source {
            write!(formatter, " src {source}")?;
        }
        if self.metric != 0 {
            write!(formatter, " metric {} pref medium", self.metric)?;
        }
        Ok(())
    }
}

impl LocalRoute {
    /// The route by which this node takes packets for a prefix.
    pub(super) fn ours(prefix: IpNet, preferred_source: Option<IpAddr>) -> Self {
        let (scope, metric) = match Family::of(prefix.addr()) {
            Family::V4 => (RouteScope::Host, 0),
            // IPv6 routes have no scope.
            Family::V6 => (RouteScope::Universe, IPV6_METRIC),
        };
        Self {
            prefix,
            protocol: PROTOCOL,
            kind: RouteType::Local,
            scope,
            metric,
            interface: Some(LOOPBACK),
            preferred_source,
        }
    }

    /// The command of `ip route` that does this with it.
    pub(super) fn command(&self, verb: &str) -> String {
        format!("ip route {verb} {self} table local proto {}", self.protocol)
    }

    /// `RTM_NEWROUTE` that fails where there is a route of this prefix and metric.
    pub(super) fn add(&self) -> Vec<u8> {
        let message = RouteNetlinkMessage::NewRoute(self.message());
        encode(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// `RTM_NEWROUTE` that takes the place of the route of this prefix and metric, whosesoever it
    /// is. Both families change the route without a moment in which there is none.
    pub(super) fn replace(&self) -> Vec<u8> {
        let message = RouteNetlinkMessage::NewRoute(self.message());
        encode(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// `RTM_DELROUTE` of just this route: the kernel compares its protocol too, and takes any
    /// preferred source.
    pub(super) fn delete(&self) -> Vec<u8> {
        let any_source = Self {
            preferred_source: None,
            ..*self
        };
        encode(RouteNetlinkMessage::DelRoute(any_source.message()), 0)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: address_family(Family::of(self.prefix.addr())),
            destination_prefix_length: self.prefix.prefix_len(),
            table: TABLE_LOCAL,
            protocol: self.protocol.into(),
            scope: self.scope,
            kind: self.kind,
            ..RouteHeader::default()
        };
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Destination(self.prefix.network().into()));
        if let Some(interface) = self.interface {
            attributes.push(RouteAttribute::Oif(interface));
        }
        if self.metric != 0 {
            attributes.push(RouteAttribute::Priority(self.metric));
        }
        if let Some(source) = self.preferred_source {
            attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }

    /// Reads a payload of a dump; `None` for routes of other tables and families.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        // Most routes of a large dump are told by the header alone.
        if payload.get(4) != Some(&TABLE_LOCAL) {
            return None;
        }
        let RouteMessage {
            header, attributes, ..
        } = RouteMessage::parse(payload).ok()?;
        let unspecified = match header.address_family {
            AddressFamily::Inet => Family::V4.unspecified(),
            AddressFamily::Inet6 => Family::V6.unspecified(),
            _ => return None,
        };
        let (mut destination, mut metric, mut interface, mut source) = (unspecified, 0, None, None);
        for attribute in attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip_address(&address)?,
                RouteAttribute::Priority(value) => metric = value,
                RouteAttribute::Oif(index) => interface = Some(index),
                RouteAttribute::PrefSource(address) => source = Some(ip_address(&address)?),
                _ => {}
            }
        }
        Some(Self {
            prefix: IpNet::new(destination, header.destination_prefix_length).ok()?,
            protocol: u8::from(header.protocol),
            kind: header.kind,
            scope: header.scope,
            metric,
            interface,
            preferred_source: source,
        })
    }
}

/// A dump request for the local table; kernels that cannot filter send all tables.
pub(super) fn dump(family: Family) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(family),
        table: TABLE_LOCAL,
        protocol: RouteProtocol::Unspec,
        ..RouteHeader::default()
    };
    encode(RouteNetlinkMessage::GetRoute(message), 0)
}

/// What the kernel answers about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// Packets for it are this node's own.
    pub local: bool,
    pub protocol: u8,
    pub interface: Option<u32>,
    pub source: Option<IpAddr>,
}

/// `RTM_GETROUTE` of the route to one address, or of the entry that is found for it (`RTM_F_FIB_MATCH`).
pub(super) fn get_route(to: IpAddr, entry: bool) -> Vec<u8> {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(Family::of(to)),
        destination_prefix_length: crate::model::family::host_prefix(to).prefix_len(),
        protocol: RouteProtocol::Unspec,
        flags: if entry {
            RouteFlags::FibMatch
        } else {
            RouteFlags::empty()
        },
        ..RouteHeader::default()
    };
    message
        .attributes
        .push(RouteAttribute::Destination(to.into()));
    encode(RouteNetlinkMessage::GetRoute(message), 0)
}

/// Reads the answer to [`get_route`].
pub(super) fn answer(payload: &[u8]) -> Option<Answer> {
    let RouteMessage {
        header, attributes, ..
    } = RouteMessage::parse(payload).ok()?;
    let (mut interface, mut source) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(index),
            RouteAttribute::PrefSource(address) => source = ip_address(&address),
            _ => {}
        }
    }
    Some(Answer {
        local: header.kind == RouteType::Local,
        protocol: u8::from(header.protocol),
        interface,
        source,
    })
}

/// `RTM_GETLINK` of the loopback interface.
pub(super) fn get_loopback() -> Vec<u8> {
    get_link(LOOPBACK)
}

/// `RTM_GETLINK` of one interface.
pub(super) fn get_link(index: u32) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    encode(RouteNetlinkMessage::GetLink(message), 0)
}

/// The name of the interface that a reply is about.
pub(super) fn link_name(payload: &[u8]) -> Option<String> {
    let message = LinkMessage::parse(payload).ok()?;
    message
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
}

/// Whether a reply says that an interface is up.
pub(super) fn is_up(payload: &[u8]) -> bool {
    // `ifi_flags` of `struct ifinfomsg`.
    let flags = payload.get(8..12).and_then(|bytes| bytes.try_into().ok());
    flags.is_some_and(|bytes| u32::from_ne_bytes(bytes) & LinkFlags::Up.bits() != 0)
}

/// `ip link set lo up`.
pub(super) fn set_loopback_up() -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.index = LOOPBACK;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    encode(RouteNetlinkMessage::NewLink(message), 0)
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn encode(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}
