//! What the kernel of this network namespace has: links with their MTU, neighbours, and by which way a
//! packet to an address would leave. Asks by rtnetlink, sends nothing to anybody; judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::uplinks::Control;
use crate::apply::netlink::{Error, NetlinkSocket};
use crate::model::foreign::MacAddress;

const GET_LINK: u16 = 18;
const GET_ROUTE: u16 = 26;
const GET_NEIGHBOUR: u16 = 30;
const GET_RULE: u16 = 34;
const GET_DISCIPLINE: u16 = 38;
const GET_FILTER: u16 = 46;
/// `IFF_UP`, `IFF_RUNNING` and `IFF_LOWER_UP`
const RUNNING: u32 = 0x1 | 0x40 | 0x1_0000;
/// `IFF_NOARP`
const NO_ARP: u32 = 0x80;
/// `TC_H_INGRESS` of the disciplines ingress and clsact, and the latter's own place for what comes in.
const INGRESS: [u32; 2] = [0xffff_0000, 0xffff_fff2];
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`, `NUD_PROBE`: a host answered, lately or once.
const ANSWERED: u16 = 0x02 | 0x04 | 0x08 | 0x10;
/// `RTN_LOCAL`
const LOCAL: u8 = 2;

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// Switched on, with carrier.
    pub(super) running: bool,
    pub(super) mtu: u32,
    /// `bridge`, `veth`, `bond`…; none for a card.
    pub(super) kind: Option<String>,
    /// It resolves no addresses by ARP.
    pub(super) no_arp: bool,
    /// A program sees its packets first.
    pub(super) xdp: bool,
}

/// Which way a packet would take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// It stays here.
    pub(super) local: bool,
    pub(super) link: Option<u32>,
    pub(super) gateway: Option<IpAddr>,
    /// The route's own, where it has one.
    pub(super) mtu: Option<u32>,
}

/// A host that answered for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) link: u32,
    pub(super) address: IpAddr,
    pub(super) mac: MacAddress,
}

/// A rule of policy routing that some sources have another table by than the common ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceRule {
    pub(super) priority: u32,
    pub(super) from: IpNet,
    pub(super) table: u32,
}

/// Asks the kernel.
pub(super) struct Machine {
    socket: NetlinkSocket,
    /// By index.
    pub(super) links: BTreeMap<u32, Link>,
}

impl Machine {
    /// Opens a socket and reads the links.
    pub(super) fn look() -> Result<Self, Error> {
        let mut socket = NetlinkSocket::open(NETLINK_ROUTE)?;
        let replies = socket.dump(&request(GET_LINK, &[0; 16]))?;
        let links = (replies.iter())
            .filter_map(|reply| link(&reply.payload))
            .map(|link| (link.index, link))
            .collect();
        Ok(Self { socket, links })
    }

    /// The way to an address; none where there is no route.
    pub(super) fn way(&mut self, to: IpAddr) -> Option<Way> {
        let (family, octets) = octets(to);
        let length = u8::try_from(octets.len() * 8).unwrap_or(u8::MAX);
        let mut body = vec![family, length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let size = u16::try_from(octets.len() + 4).unwrap_or(u16::MAX);
        body.extend(size.to_ne_bytes());
        body.extend(1_u16.to_ne_bytes());
        body.extend(&octets);
        let replies = self.socket.request(&request(GET_ROUTE, &body)).ok()?;
        way(&replies.first()?.payload)
    }

    /// What traffic control has on a link: kinds of disciplines, and how many filters at ingress.
    pub(super) fn control(&mut self, link: u32) -> Control {
        let asked = |parent: u32| {
            let mut body = vec![0; 4];
            body.extend(link.to_ne_bytes());
            body.extend([0; 4]);
            body.extend(parent.to_ne_bytes());
            body.extend([0; 4]);
            body
        };
        let disciplines = self.socket.dump(&request(GET_DISCIPLINE, &asked(0)));
        let kinds: BTreeSet<String> = (disciplines.unwrap_or_default().iter())
            .filter_map(|reply| discipline(&reply.payload, link))
            .collect();
        let mut filters = 0;
        if kinds.contains("ingress") || kinds.contains("clsact") {
            for parent in INGRESS {
                let found = self.socket.dump(&request(GET_FILTER, &asked(parent)));
                filters = filters.max(found.map_or(0, |it| it.len()));
            }
        }
        Control { kinds, filters }
    }

    /// The rules of policy routing by source.
    pub(super) fn rules(&mut self) -> Vec<SourceRule> {
        let replies = self.socket.dump(&request(GET_RULE, &[0; 12]));
        let replies = replies.unwrap_or_default();
        (replies.iter())
            .filter_map(|reply| rule(&reply.payload))
            .collect()
    }

    /// Everybody who answered.
    pub(super) fn neighbours(&mut self) -> Vec<Neighbour> {
        let replies = self.socket.dump(&request(GET_NEIGHBOUR, &[0; 12]));
        let replies = replies.unwrap_or_default();
        (replies.iter())
            .filter_map(|reply| neighbour(&reply.payload))
            .collect()
    }
}

/// `nlmsghdr`, whose length, flags and sequence number the socket sets, and a body.
fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(kind.to_ne_bytes());
    request.extend([0; 10]);
    request.extend(body);
    request
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (2, address.octets().to_vec()),
        IpAddr::V6(address) => (10, address.octets().to_vec()),
    }
}

fn attributes(bytes: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|attribute| {
            let end = attribute.value_length() + 4;
            let kind = attribute.kind();
            let bytes = attribute.into_inner().get(4..end).unwrap_or_default();
            (kind, bytes.to_vec())
        })
        .collect()
}

fn word(attributes: &BTreeMap<u16, Vec<u8>>, kind: u16) -> Option<u32> {
    let value = attributes.get(&kind)?.as_slice();
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.trim_end_matches('\0').to_owned()
}

/// `struct ifinfomsg`, `IFLA_IFNAME` 3, `IFLA_MTU` 4, `IFLA_LINKINFO` 18 with `IFLA_INFO_KIND` 1
fn link(payload: &[u8]) -> Option<Link> {
    let (header, rest) = payload.split_first_chunk::<16>()?;
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let attributes = attributes(rest);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let kind = attributes.get(&18).and_then(|information| {
        let information = self::attributes(information);
        information.get(&1).map(|kind| text(kind))
    });
    Some(Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: text(attributes.get(&3)?),
        running: flags & RUNNING == RUNNING,
        mtu: word(&attributes, 4)?,
        kind,
        no_arp: flags & NO_ARP != 0,
        // IFLA_XDP 43 with IFLA_XDP_ATTACHED 2
        xdp: (attributes.get(&43)).is_some_and(|it| {
            self::attributes(it)
                .get(&2)
                .is_some_and(|mode| mode != &[0])
        }),
    })
}

/// `struct rtmsg`, `RTA_OIF` 4, `RTA_GATEWAY` 5, `RTA_METRICS` 8 with `RTAX_MTU` 2, `RTA_VIA` 18
fn way(payload: &[u8]) -> Option<Way> {
    let (header, rest) = payload.split_first_chunk::<12>()?;
    let [_, _, _, _, _, _, _, kind, ..] = *header;
    let attributes = attributes(rest);
    let metrics = attributes.get(&8).map(|it| self::attributes(it));
    Some(Way {
        local: kind == LOCAL,
        link: word(&attributes, 4),
        gateway: gateway(&attributes),
        mtu: metrics.and_then(|metrics| word(&metrics, 2)),
    })
}

/// `RTA_GATEWAY` is an address of the route's family, `struct rtvia` of `RTA_VIA` names the family first.
fn gateway(attributes: &BTreeMap<u16, Vec<u8>>) -> Option<IpAddr> {
    let bytes = match (attributes.get(&5), attributes.get(&18)) {
        (Some(gateway), _) => gateway.as_slice(),
        (None, via) => via?.get(2..)?,
    };
    match <[u8; 4]>::try_from(bytes) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// `struct tcmsg` of this link, `TCA_KIND` 1
fn discipline(payload: &[u8], link: u32) -> Option<String> {
    let (header, rest) = payload.split_first_chunk::<20>()?;
    let [_, _, _, _, i0, i1, i2, i3, ..] = *header;
    let own = u32::from_ne_bytes([i0, i1, i2, i3]) == link;
    own.then(|| attributes(rest).get(&1).map(|kind| text(kind)))?
}

/// `struct fib_rule_hdr` with the length of the source third, `FRA_SRC` 2, `FRA_PRIORITY` 6, `FRA_TABLE` 15;
/// the tables from 253 to 255 are default, main and local.
fn rule(payload: &[u8]) -> Option<SourceRule> {
    let (header, rest) = payload.split_first_chunk::<12>()?;
    let [_, _, length, _, short, ..] = *header;
    let attributes = attributes(rest);
    let from = address(attributes.get(&2)?)?;
    let table = word(&attributes, 15).unwrap_or_else(|| u32::from(short));
    (!(253..=255).contains(&table)).then_some(SourceRule {
        priority: word(&attributes, 6).unwrap_or(0),
        from: IpNet::new(from, length).ok()?,
        table,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(bytes) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    }
}

/// `struct ndmsg`, `NDA_DST` 1, `NDA_LLADDR` 2
fn neighbour(payload: &[u8]) -> Option<Neighbour> {
    let (header, rest) = payload.split_first_chunk::<12>()?;
    let [_, _, _, _, i0, i1, i2, i3, s0, s1, ..] = *header;
    if u16::from_ne_bytes([s0, s1]) & ANSWERED == 0 {
        return None;
    }
    let attributes = attributes(rest);
    let address = attributes.get(&1)?.as_slice();
    let address = match <[u8; 4]>::try_from(address) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
    };
    Some(Neighbour {
        link: u32::from_ne_bytes([i0, i1, i2, i3]),
        address,
        mac: MacAddress(attributes.get(&2)?.as_slice().try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_loopback_of_this_machine_is_found() {
        let mut machine = Machine::look().unwrap();
        assert!(
            machine
                .links
                .values()
                .any(|link| link.name == "lo" && link.mtu > 1280)
        );
        let way = machine.way("127.0.0.1".parse().unwrap()).unwrap();
        assert!(way.local && way.gateway.is_none());
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        for length in 0..12 {
            let bytes = vec![0; length];
            assert_eq!(link(&bytes), None);
            assert_eq!(way(&bytes), None);
            assert_eq!(neighbour(&bytes), None);
            assert_eq!(rule(&bytes), None);
        }
    }
}
