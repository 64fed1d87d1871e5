//! Addresses, ranges and ports as Kubernetes reads them: leniently, and canonical afterwards (SP-6).
//! Decides nothing about what they are used for.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Why a text is not an address, a range or a port that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not an address at all.
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
    /// Not a range.
    #[error("{0:?} is not a range: write ADDRESS/LENGTH, such as 192.0.2.0/24 or 2001:db8::/64")]
    NotARange(String),
    /// An address that no Service or endpoint can have.
    #[error("{0} is {1}: no packet may be sent there from another machine")]
    Special(IpAddr, &'static str),
}

/// Reads an address. Leading zeros count as decimal (172.30.0.041 is 172.30.0.41), blanks around
/// it are trimmed, and an IPv4 address written as IPv6 (`::ffff:192.0.2.1`) is IPv4 (SP-6).
pub fn parse_address(text: &str) -> Result<IpAddr, InvalidAddress> {
    let trimmed = text.trim();
    let not_an_address = || InvalidAddress::NotAnAddress(shorten(text));
    if let Ok(address) = trimmed.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    if let Some(address) = parse_lenient_v4(trimmed) {
        return Ok(IpAddr::V4(address));
    }
    // Only the embedded IPv4 part of an IPv6 address can have zeros that the standard parser refuses.
    let (head, tail) = trimmed.rsplit_once(':').ok_or_else(not_an_address)?;
    let embedded = parse_lenient_v4(tail).ok_or_else(not_an_address)?;
    format!("{head}:{embedded}")
        .parse::<IpAddr>()
        .map(|address| address.to_canonical())
        .map_err(|_| not_an_address())
}

/// Reads an address that a frontend or an endpoint can have: not unspecified, loopback,
/// link-local, multicast or broadcast, as the API server's own validation demands.
pub fn parse_usable_address(text: &str) -> Result<IpAddr, InvalidAddress> {
    let address = parse_address(text)?;
    let special = match address {
        IpAddr::V4(v4) if v4.is_unspecified() || v4.octets().first() == Some(&0) => {
            Some("unspecified")
        }
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("unspecified"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        _ if address.is_loopback() => Some("loopback"),
        _ if address.is_multicast() => Some("multicast"),
        _ => None,
    };
    special.map_or(Ok(address), |what| {
        Err(InvalidAddress::Special(address, what))
    })
}

/// Reads a range. Host bits are masked, the length may have leading zeros (`/025`), blanks are
/// trimmed (SP-6).
pub fn parse_range(text: &str) -> Result<IpNet, InvalidAddress> {
    let not_a_range = || InvalidAddress::NotARange(shorten(text));
    let (address, length) = text.trim().split_once('/').ok_or_else(not_a_range)?;
    if address.trim() != address || !is_digits(length) {
        return Err(not_a_range());
    }
    let written = address.parse::<IpAddr>();
    let address = parse_address(address).map_err(|_| not_a_range())?;
    let mut length: u32 = length.parse().map_err(|_| not_a_range())?;
    if let (Ok(IpAddr::V6(_)), IpAddr::V4(_)) = (written, address) {
        // The length of an IPv4 range written as IPv6 counts the 96 bits in front.
        length = length.checked_sub(96).ok_or_else(not_a_range)?;
    }
    let length = u8::try_from(length).map_err(|_| not_a_range())?;
    IpNet::new(address, length)
        .map(|range| range.trunc())
        .map_err(|_| not_a_range())
}

/// A port number from 1 to 65535.
pub fn parse_port(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// The text for a message: at most 80 characters.
pub fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LONGEST).collect();
    short.push('…');
    short
}

fn parse_lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next().filter(|part| is_digits(part))?;
        *octet = part.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
