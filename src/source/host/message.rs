//! Links, addresses and routes as rtnetlink sends them, as far as a `Host` needs them.
//!
//! Pure, and lenient: an attribute that is not asked for cannot spoil a message, whatever future
//! kernels put into it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::NLA_TYPE_MASK;

use crate::model::host::Interface;

pub(super) const NEW_LINK: u16 = 16;
pub(super) const GET_LINK: u16 = 18;
pub(super) const NEW_ADDRESS: u16 = 20;
pub(super) const GET_ADDRESS: u16 = 22;
pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const DELETE_ROUTE: u16 = 25;
pub(super) const GET_ROUTE: u16 = 26;

pub(super) const INET: u8 = 2;
pub(super) const INET6: u8 = 10;
/// `RT_TABLE_MAIN`.
pub(super) const TABLE_MAIN: u8 = 254;

const ARPHRD_ETHER: u16 = 1;
/// `IFF_UP`, `IFF_RUNNING` and `IFF_LOWER_UP`: switched on, operational, with carrier.
const RUNNING: u32 = 0x1 | 0x40 | 0x1_0000;
const IFF_LOOPBACK: u32 = 0x8;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `IFA_F_DADFAILED` and `IFA_F_TENTATIVE`: not ours yet, or somebody else's (RFC 4862).
const UNUSABLE: u32 = 0x08 | 0x40;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;

/// Reads a link; `None` where it is no whole message.
pub(super) fn interface(payload: &[u8]) -> Option<Interface> {
    let (header, attributes) = payload.split_first_chunk::<16>()?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let ethernet = u16::from_ne_bytes([t0, t1]) == ARPHRD_ETHER;
    let (mut name, mut mac) = (None, None);
    for (kind, value) in iterate(attributes) {
        match kind {
            IFLA_IFNAME => {
                let text = String::from_utf8_lossy(value);
                name = Some(text.trim_end_matches('\0').to_owned());
            }
            IFLA_ADDRESS if ethernet => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
    }
    Some(Interface {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: name?,
        mac,
        running: flags & RUNNING == RUNNING,
        loopback: flags & IFF_LOOPBACK != 0,
        addresses: Vec::new(),
    })
}

/// Reads an address and the index of its interface; `None` for one that cannot be used.
pub(super) fn address(payload: &[u8], family: u8) -> Option<(u32, IpNet)> {
    let (header, attributes) = payload.split_first_chunk::<8>()?;
    let [its_family, length, header_flags, _, i0, i1, i2, i3] = *header;
    if its_family != family {
        return None;
    }
    let mut flags = u32::from(header_flags);
    let (mut local, mut other) = (None, None);
    for (kind, value) in iterate(attributes) {
        match kind {
            // On a point-to-point link IFA_ADDRESS is the other end.
            IFA_LOCAL => local = ip_address(value),
            IFA_ADDRESS => other = ip_address(value),
            IFA_FLAGS => flags = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    if family == INET6 && flags & UNUSABLE != 0 {
        return None;
    }
    let prefix = IpNet::new(local.or(other)?, length).ok()?;
    Some((u32::from_ne_bytes([i0, i1, i2, i3]), prefix))
}

/// The gateways of a route of the main table.
pub(super) fn gateways(payload: &[u8], family: u8) -> Vec<IpAddr> {
    let Some((header, attributes)) = payload.split_first_chunk::<12>() else {
        return Vec::new();
    };
    let [its_family, _, _, _, table, ..] = *header;
    if its_family != family || table != TABLE_MAIN {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (kind, value) in iterate(attributes) {
        if kind == RTA_MULTIPATH {
            multipath(value, &mut found);
        } else {
            found.extend(gateway(kind, value));
        }
    }
    found
}

fn gateway(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        RTA_GATEWAY => ip_address(value),
        // `struct rtvia`: a gateway of the other family.
        RTA_VIA => ip_address(value.get(2..)?),
        _ => None,
    }
}

/// `struct rtnexthop`: length, flags, weight, interface, then attributes.
fn multipath(mut hops: &[u8], found: &mut Vec<IpAddr>) {
    while let Some((length, _)) = hops.split_first_chunk::<2>() {
        let length = usize::from(u16::from_ne_bytes(*length));
        let Some(attributes) = hops.get(8..length) else {
            return;
        };
        found.extend(iterate(attributes).filter_map(|(kind, value)| gateway(kind, value)));
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Attributes up to the first that is malformed, without the flag bits of their kinds.
fn iterate(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = attributes;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK, value))
    })
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(bytes).into())
}
