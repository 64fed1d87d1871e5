//! The conntrack messages of nfnetlink: dump and delete requests out of types, entries out of replies.
//!
//! Numbers in attributes are big-endian, but for the flags of a filter, which are in host order.
//! Source: `include/uapi/linux/netfilter/nfnetlink_conntrack.h`, `net/netfilter/nf_conntrack_netlink.c`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

use crate::model::family::Family;

/// `NFNL_SUBSYS_CTNETLINK << 8`
const SUBSYSTEM: u16 = 1 << 8;
/// `enum cntl_msg_types`
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Bytes of `struct nfgenmsg`.
const GENERIC_LENGTH: usize = 4;
const NESTED: u16 = 0x8000;

/// `CTA_*`
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// Linux 5.8; older kernels ignore it and tell of every protocol.
const FILTER: u16 = 25;
/// `CTA_TUPLE_*`
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// `CTA_IP_*`
const V4_SOURCE: u16 = 1;
const V4_DESTINATION: u16 = 2;
const V6_SOURCE: u16 = 3;
const V6_DESTINATION: u16 = 4;
/// `CTA_PROTO_*`
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// `IPS_DST_NAT`, `include/uapi/linux/netfilter/nf_conntrack_common.h`
const DESTINATION_NAT: u32 = 1 << 5;
/// `IPS_SEEN_REPLY`
const SEEN_REPLY: u32 = 1 << 1;
/// `CTA_FILTER_ORIG_FLAGS`
const FILTER_ORIGINAL_FLAGS: u16 = 1;
/// `CTA_FILTER_F_CTA_IP_DST`, `_PROTO_NUM` and `_PROTO_DST_PORT`
const FILTER_DESTINATION: u32 = 1 << 1;
const FILTER_PROTOCOL_NUMBER: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;
/// `CTA_PROTOINFO`, in it `CTA_PROTOINFO_TCP`, in it `CTA_PROTOINFO_TCP_STATE`
const PROTOCOL_STATE: u16 = 4;
const OF_TCP: u16 = 1;
const STATE_OF_TCP: u16 = 1;
/// `TCP_CONNTRACK_ESTABLISHED`
const ESTABLISHED: u8 = 3;
/// The number of TCP.
const TCP: u8 = 6;

/// One entry of the connection tracking table, as far as it is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// The IANA number.
    pub protocol: u8,
    /// Where the first packet was sent; port 0 where the protocol has none.
    pub original_destination: (IpAddr, u16),
    /// Where answers come from: the endpoint, where the flow was translated.
    pub reply_source: (IpAddr, u16),
    /// Who opened it.
    pub original_source: Option<IpAddr>,
    /// Whether an answer of it was seen here.
    pub answered: bool,
    /// Whether packets get there by the NAT of netfilter: IPVS changes addresses without it.
    pub destination_nat: bool,
    /// What tells exactly this entry.
    pub identity: Identity,
}

/// The exact original tuple with the entry's number: another entry that took its place is not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `CTA_TUPLE_ORIG`, as the kernel sent it.
    tuple: Vec<u8>,
    id: Vec<u8>,
    family: u8,
}

/// In the words of `conntrack`.
impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tuple = tuple(&self.tuple).unwrap_or_default();
        write!(formatter, "-p {}", tuple.protocol)?;
        if let Some(source) = tuple.source {
            write!(formatter, " --orig-src {source}")?;
        }
        if let Some(destination) = tuple.destination {
            write!(formatter, " --orig-dst {destination}")?;
        }
        for (name, port) in [
            ("sport", tuple.source_port),
            ("dport", tuple.destination_port),
        ] {
            if port != 0 {
                write!(formatter, " --{name} {port}")?;
            }
        }
        Ok(())
    }
}

/// Asks for all entries of a family, or for those of one protocol.
pub(super) fn dump(family: Family, protocol: Option<u8>) -> Vec<u8> {
    let mut request = begin(GET, number(family));
    if let Some(protocol) = protocol {
        let mut inner = Vec::new();
        append(&mut inner, PROTOCOL_NUMBER, &[protocol]);
        let mut tuple = Vec::new();
        append(&mut tuple, TUPLE_PROTOCOL | NESTED, &inner);
        append(&mut request, TUPLE_ORIGINAL | NESTED, &tuple);
        let mut filter = Vec::new();
        let flags = FILTER_PROTOCOL_NUMBER.to_ne_bytes();
        append(&mut filter, FILTER_ORIGINAL_FLAGS, &flags);
        append(&mut request, FILTER | NESTED, &filter);
    }
    request
}

/// Asks for the entries whose first packet went to this address and port. Older kernels than Linux 5.8
/// tell of every one of the family.
pub(super) fn dump_to(
    family: Family,
    protocol: u8,
    address: IpAddr,
    destination_port: u16,
) -> Vec<u8> {
    let mut request = begin(GET, number(family));
    let mut addresses = Vec::new();
    match address {
        IpAddr::V4(address) => append(&mut addresses, V4_DESTINATION, &address.octets()),
        IpAddr::V6(address) => append(&mut addresses, V6_DESTINATION, &address.octets()),
    }
    let mut transport = Vec::new();
    append(&mut transport, PROTOCOL_NUMBER, &[protocol]);
    let port = destination_port.to_be_bytes();
    append(&mut transport, DESTINATION_PORT, &port);
    let mut tuple = Vec::new();
    append(&mut tuple, TUPLE_ADDRESSES | NESTED, &addresses);
    append(&mut tuple, TUPLE_PROTOCOL | NESTED, &transport);
    append(&mut request, TUPLE_ORIGINAL | NESTED, &tuple);
    let flags = FILTER_DESTINATION | FILTER_PROTOCOL_NUMBER | FILTER_DESTINATION_PORT;
    let mut filter = Vec::new();
    append(&mut filter, FILTER_ORIGINAL_FLAGS, &flags.to_ne_bytes());
    append(&mut request, FILTER | NESTED, &filter);
    request
}

/// An entry as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// The IANA number.
    pub protocol: u8,
    /// Where the first packet was sent.
    pub original_destination: (IpAddr, u16),
    /// Where answers come from.
    pub reply_source: (IpAddr, u16),
    /// Whether packets get there by the NAT of netfilter.
    pub destination_nat: bool,
    /// Whether it is established; always so without a state that says otherwise.
    pub active: bool,
}

/// Reads an entry for counting; `None` where [`flow`] gives none.
pub(super) fn counted(payload: &[u8]) -> Option<Counted> {
    let flow = flow(payload)?;
    let within = |bytes, wanted| {
        let mut found = attributes(bytes).filter(move |(kind, _)| *kind == wanted);
        found.next().map(|(_, value)| value)
    };
    let state = within(payload.get(GENERIC_LENGTH..)?, PROTOCOL_STATE)
        .and_then(|state| within(state, OF_TCP))
        .and_then(|state| within(state, STATE_OF_TCP))
        .and_then(|state| state.first().copied());
    Some(Counted {
        protocol: flow.protocol,
        original_destination: flow.original_destination,
        reply_source: flow.reply_source,
        destination_nat: flow.destination_nat,
        active: flow.protocol != TCP || state == Some(ESTABLISHED),
    })
}

/// Asks for one entry to be deleted. A request without a tuple would delete them all: an
/// [`Identity`] always has one.
pub(super) fn delete(identity: &Identity) -> Vec<u8> {
    let mut request = begin(DELETE, identity.family);
    append(&mut request, TUPLE_ORIGINAL | NESTED, &identity.tuple);
    append(&mut request, ID, &identity.id);
    request
}

/// Reads an entry; `None` for what is incomplete, and for entries of a zone: these are of whoever
/// made the zone, and may mean other machines by the same addresses.
pub(super) fn flow(payload: &[u8]) -> Option<Flow> {
    let family = *payload.first()?;
    let mut original = None;
    let mut reply = None;
    let mut status = None;
    let mut id = None;
    for (kind, value) in attributes(payload.get(GENERIC_LENGTH..)?) {
        match kind {
            TUPLE_ORIGINAL => original = Some(value),
            TUPLE_REPLY => reply = Some(value),
            STATUS => status = value.try_into().ok().map(u32::from_be_bytes),
            ID => id = Some(value),
            ZONE if value.iter().any(|byte| *byte != 0) => return None,
            _ => {}
        }
    }
    let original = original.filter(|tuple| !tuple.is_empty())?;
    let forth = tuple(original)?;
    let back = tuple(reply?)?;
    Some(Flow {
        protocol: forth.protocol,
        original_destination: (forth.destination?, forth.destination_port),
        reply_source: (back.source?, back.source_port),
        original_source: forth.source,
        answered: status? & SEEN_REPLY != 0,
        destination_nat: status? & DESTINATION_NAT != 0,
        identity: Identity {
            tuple: original.to_vec(),
            id: id?.to_vec(),
            family,
        },
    })
}

#[derive(Default)]
struct Tuple {
    protocol: u8,
    source: Option<IpAddr>,
    source_port: u16,
    destination: Option<IpAddr>,
    destination_port: u16,
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let mut tuple = Tuple::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            TUPLE_ADDRESSES => {
                for (kind, value) in attributes(value) {
                    match kind {
                        V4_SOURCE | V6_SOURCE => tuple.source = address(value),
                        V4_DESTINATION | V6_DESTINATION => tuple.destination = address(value),
                        _ => {}
                    }
                }
            }
            TUPLE_PROTOCOL => {
                for (kind, value) in attributes(value) {
                    match kind {
                        PROTOCOL_NUMBER => tuple.protocol = *value.first()?,
                        SOURCE_PORT => tuple.source_port = port(value)?,
                        DESTINATION_PORT => tuple.destination_port = port(value)?,
                        _ => {}
                    }
                }
            }
            // A zone of one direction only.
            TUPLE_ZONE if value.iter().any(|byte| *byte != 0) => return None,
            _ => {}
        }
    }
    Some(tuple)
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    // `kind` is without the flags of nesting and byte order.
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let kind = attribute.kind();
            let length = attribute.value_length() + 4;
            (
                kind,
                attribute.into_inner().get(4..length).unwrap_or_default(),
            )
        })
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        Some(Ipv4Addr::from(octets).into())
    } else {
        let octets = <[u8; 16]>::try_from(value).ok()?;
        Some(Ipv6Addr::from(octets).into())
    }
}

fn port(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// `nlmsghdr`, whose length, flags and sequence number the socket sets, and `nfgenmsg`.
fn begin(message_type: u16, family: u8) -> Vec<u8> {
    let mut request = Vec::with_capacity(128);
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&message_type.to_ne_bytes());
    request.extend_from_slice(&[0; 10]);
    request.extend_from_slice(&[family, 0, 0, 0]);
    request
}

fn append(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // No attribute here is longer than a few dozen bytes.
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    buffer.extend_from_slice(&length.to_ne_bytes());
    buffer.extend_from_slice(&kind.to_ne_bytes());
    buffer.extend_from_slice(value);
    buffer.resize(buffer.len().next_multiple_of(4), 0);
}
