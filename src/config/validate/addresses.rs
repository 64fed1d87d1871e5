//! One address, range, network or port at a time: valid value or refusal with the corrected form.
//!
//! Resolves no name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::super::defaults::MEMBERSHIP_PORT;
use super::super::problem::{Refusal, quoted};
use super::super::{ListenAddress, PeerAddress};
use crate::model::address_range::{AddressRange, AddressRangeError, parse_network};
use crate::model::port_range::{PortRange, PortRangeError};
use crate::model::selector::is_dns_subdomain;

pub(super) fn port_range(text: &str) -> Result<PortRange, Refusal> {
    text.parse().map_err(|error: PortRangeError| {
        let range = match error {
            PortRangeError::Single(port) => Some((port, port)),
            PortRangeError::Reversed(first, last) => Some((last, first)),
            PortRangeError::OutOfRange(_) => clamped(text),
            PortRangeError::Shape(_) => text
                .replace(['–', ':', ','], "-")
                .parse()
                .ok()
                .map(|range: PortRange| (range.first(), range.last())),
        };
        let corrected = range.and_then(|(first, last)| PortRange::new(first, last).ok());
        Refusal::new(error).write_maybe(corrected.map(|range| quoted(&range.to_string())))
    })
}

/// The part of a range of ports that lies within 1-65535.
fn clamped(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| {
        Some(
            u16::try_from(text.trim().parse::<u64>().ok()?.min(65_535))
                .ok()?
                .max(1),
        )
    };
    Some((port(first)?, port(last)?))
}

pub(super) fn range(text: &str) -> Result<AddressRange, Refusal> {
    text.parse().map_err(|error| address_refusal(&error))
}

pub(super) fn network(text: &str) -> Result<IpNet, Refusal> {
    parse_network(text).map_err(|error| match (&error, text.parse::<AddressRange>()) {
        (AddressRangeError::Shape(_), Ok(range)) => {
            let refusal = Refusal::new(format!(
                "{} is a range where a CIDR is wanted",
                quoted(text)
            ));
            refusal.write_maybe(range.network().map(|network| quoted(&network.to_string())))
        }
        (AddressRangeError::Shape(text), Err(_)) => {
            Refusal::new(format!("{} is not a CIDR", quoted(text)))
        }
        (AddressRangeError::Single(address), _) => {
            let refusal = Refusal::new(format!(
                "{address} is a single address where a CIDR is wanted"
            ));
            refusal.write(quoted(&IpNet::from(*address).to_string()))
        }
        _ => address_refusal(&error),
    })
}

fn address_refusal(error: &AddressRangeError) -> Refusal {
    let suggestion = match error {
        AddressRangeError::Single(address) => Some(IpNet::from(*address).to_string()),
        AddressRangeError::HostBits { network, .. } => Some(network.to_string()),
        AddressRangeError::Reversed(first, last) => Some(format!("{last}-{first}")),
        AddressRangeError::Shape(_)
        | AddressRangeError::Address(_)
        | AddressRangeError::Prefix { .. }
        | AddressRangeError::MixedFamilies(..) => None,
    };
    Refusal::new(error).write_maybe(suggestion.map(|text| quoted(&text)))
}

/// `:PORT` or `ADDRESS:PORT`.
pub(super) fn listen_address(text: &str) -> Result<ListenAddress, Refusal> {
    if let Some(port) = text.strip_prefix(':') {
        let port = port_number(text, port)
            .map_err(|refusal| refusal.write(quoted(&format!(":{MEMBERSHIP_PORT}"))))?;
        return Ok(ListenAddress {
            address: None,
            port,
        });
    }
    match socket_address(text, MEMBERSHIP_PORT) {
        Ok(socket) => Ok(ListenAddress {
            address: Some(socket.ip()),
            port: port_number(text, &socket.port().to_string())?,
        }),
        Err(refusal) if refusal.suggestion.is_some() && text.contains(':') => Err(refusal),
        Err(refusal) => {
            let port = text
                .rsplit_once(':')
                .map_or(text, |(_, port)| port)
                .parse::<NonZeroU16>()
                .ok();
            let corrected = port.map(|port| quoted(&format!(":{port}")));
            Err(Refusal {
                suggestion: corrected.or(refusal.suggestion),
                ..refusal
            })
        }
    }
}

/// `ADDRESS:PORT`, IPv6 in brackets; never a name: it would have to be resolved first.
pub(super) fn socket_address(text: &str, default_port: NonZeroU16) -> Result<SocketAddr, Refusal> {
    if let Ok(socket) = text.parse::<SocketAddr>()
        && socket.port() != 0
    {
        return Ok(socket);
    }
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address without brackets ends in a port only if what is before it is an address too.
        Some((host, port)) if text.parse::<IpAddr>().is_err() || host.parse::<IpAddr>().is_ok() => {
            (host, Some(port))
        }
        _ => (text, None),
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let address: Option<IpAddr> = match (host, port) {
        ("" | "*", Some(_)) => Some(Ipv6Addr::UNSPECIFIED.into()),
        ("localhost", _) => Some(Ipv4Addr::LOCALHOST.into()),
        (port, None) if port.parse::<NonZeroU16>().is_ok() => Some(Ipv6Addr::UNSPECIFIED.into()),
        (host, _) => host.parse().ok(),
    };
    let number = port.unwrap_or(text).parse().unwrap_or(default_port);
    let corrected =
        address.map(|address| quoted(&SocketAddr::new(address, number.get()).to_string()));
    let refusal = match port.map(|port| port_number(text, port)) {
        Some(Err(refusal)) => refusal,
        _ => Refusal::new(format!("{} is not ADDRESS:PORT", quoted(text))),
    };
    Err(refusal.write_maybe(corrected))
}

fn port_number(text: &str, port: &str) -> Result<NonZeroU16, Refusal> {
    port.parse::<NonZeroU16>().map_err(|_| {
        if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) {
            Refusal::new(format!("port {port} is outside 1-65535"))
        } else {
            Refusal::new(format!("{} does not end in :PORT", quoted(text)))
        }
    })
}

/// `HOST:PORT`, IPv6 in brackets.
pub(super) fn peer(text: &str) -> Result<PeerAddress, Refusal> {
    let refusal = |text: &str| Refusal::new(format!("{} is not HOST:PORT", quoted(text)));
    let with_port = |host: &str| quoted(&format!("{host}:{MEMBERSHIP_PORT}"));
    if let Ok(address) = text.parse::<IpAddr>() {
        let corrected = SocketAddr::new(address, MEMBERSHIP_PORT.get());
        return Err(refusal(text).write(quoted(&corrected.to_string())));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(refusal(text).write_maybe(is_host_name(text).then(|| with_port(text))));
    };
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(host) if matches!(host.parse(), Ok(IpAddr::V6(_))) => host,
        None if is_host_name(host) => host,
        _ => return Err(refusal(text)),
    };
    Ok(PeerAddress {
        host: host.to_owned(),
        port: port_number(text, port)?,
    })
}

/// RFC 1123 host name, in either case, or an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text).to_lowercase();
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric {
        text.parse::<Ipv4Addr>().is_ok()
    } else {
        is_dns_subdomain(&text)
    }
}

/// Whether two sockets cannot both be bound.
pub(super) fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let everywhere = |socket: SocketAddr| socket.ip().is_unspecified();
    one.port() == other.port() && (one.ip() == other.ip() || everywhere(one) || everywhere(other))
}
