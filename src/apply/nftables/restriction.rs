//! What one rule of somebody else drops, or keeps from connection tracking: by port, by destination.
//! Reads expressions; where a rule asks something that is not understood it says so and guesses nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::Error;
use super::observe::Attributes;
use crate::model::family::Protocol;

/// `NFT_META_L4PROTO`, `NFT_META_NFPROTO`
const META_L4_PROTOCOL: u32 = 16;
const META_FAMILY: u32 = 15;
/// `enum nft_payload_bases`
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// `enum nft_cmp_ops`
const EQUAL: u32 = 0;
const LESS_OR_EQUAL: u32 = 3;
const GREATER_OR_EQUAL: u32 = 5;

/// Which packets a rule takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Restriction {
    pub protocol: Option<u8>,
    /// Destination ports, first and last.
    pub ports: Option<(u16, u16)>,
    pub destination: Option<IpNet>,
    /// It asks something else as well: it takes some of these packets only.
    pub partly: bool,
}

impl Restriction {
    /// Whether it asks nothing, and takes everything.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Whether packets of this protocol for this port can be meant.
    pub fn takes_port(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol.is_none_or(|it| it == protocol.number())
            && self
                .ports
                .is_some_and(|(first, last)| (first..=last).contains(&port))
    }

    /// Whether packets to this address can be meant, whatever their port.
    pub fn takes_address(&self, address: IpAddr) -> bool {
        self.destination.is_some_and(|it| it.contains(&address))
    }

    /// Whether it names a destination that this one is not.
    pub fn is_elsewhere(&self, address: IpAddr) -> bool {
        self.destination.is_some_and(|it| !it.contains(&address))
    }
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(destination) = &self.destination {
            words.push(format!("to {destination}"));
        }
        let protocol = match self.protocol {
            Some(6) => "tcp".to_owned(),
            Some(17) => "udp".to_owned(),
            Some(132) => "sctp".to_owned(),
            Some(number) => format!("protocol {number}"),
            None => String::new(),
        };
        let ports = match self.ports {
            Some((first, last)) if first == last => format!("port {first}"),
            Some((first, last)) => format!("ports {first}-{last}"),
            None => String::new(),
        };
        words.extend(
            [protocol, ports]
                .into_iter()
                .filter(|word| !word.is_empty()),
        );
        if self.partly {
            words.push("under a condition".to_owned());
        }
        if words.is_empty() {
            words.push("everything".to_owned());
        }
        f.write_str(&words.join(" "))
    }
}

/// What a register holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loaded {
    Protocol,
    Family,
    Port,
    Destination,
    Another,
}

/// Reads the expressions of a rule one after another.
#[derive(Debug)]
pub(super) struct Reader {
    found: Restriction,
    loaded: Loaded,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            found: Restriction::default(),
            loaded: Loaded::Another,
        }
    }

    pub(super) fn found(self) -> Restriction {
        self.found
    }

    /// Takes an expression that asks something.
    pub(super) fn take(&mut self, name: &str, data: Option<&Attributes<'_>>) -> Result<(), Error> {
        let Some(data) = data else {
            self.found.partly = true;
            return Ok(());
        };
        match name {
            "meta" => {
                self.loaded = match data.number(2) {
                    Some(META_L4_PROTOCOL) => Loaded::Protocol,
                    Some(META_FAMILY) => Loaded::Family,
                    _ => Loaded::Another,
                };
            }
            "payload" => {
                self.loaded = match (data.number(2), data.number(3), data.number(4)) {
                    (Some(TRANSPORT), Some(2), Some(2)) => Loaded::Port,
                    // An address, or the part of it that a prefix compares.
                    (Some(NETWORK), Some(16), Some(1..=4))
                    | (Some(NETWORK), Some(24), Some(1..=16)) => Loaded::Destination,
                    _ => Loaded::Another,
                };
            }
            "cmp" => {
                let value = data.nested(3).and_then(|it| it.get(1)).unwrap_or_default();
                self.compare(data.number(2), value);
            }
            "range" => {
                let value = |kind| data.nested(kind).and_then(|it| number(it.get(1)?));
                match (self.loaded, value(3), value(4)) {
                    (Loaded::Port, Some(first), Some(last)) => {
                        self.found.ports = Some((first, last));
                    }
                    _ => self.found.partly = true,
                }
            }
            // `struct xt_tcp`, `struct xt_udp`: source ports, then destination ports.
            "match" => match (data.string(1)?, data.get(3)) {
                (Some("tcp" | "udp"), Some([0, 0, 0xff, 0xff, a, b, c, d, ..])) => {
                    let (first, last) =
                        (u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d]));
                    self.found.ports = Some((first, last));
                }
                (Some("comment"), _) => {}
                _ => self.found.partly = true,
            },
            _ => {
                self.loaded = Loaded::Another;
                self.found.partly = true;
            }
        }
        Ok(())
    }

    fn compare(&mut self, operator: Option<u32>, value: &[u8]) {
        let found = &mut self.found;
        match (self.loaded, operator) {
            (Loaded::Protocol, Some(EQUAL)) => found.protocol = value.first().copied(),
            // Which family it is, its addresses say.
            (Loaded::Family, Some(EQUAL)) => {}
            (Loaded::Port, Some(EQUAL)) => match number(value) {
                Some(port) => found.ports = Some((port, port)),
                None => found.partly = true,
            },
            (Loaded::Port, Some(GREATER_OR_EQUAL)) => {
                let last = found.ports.map_or(u16::MAX, |(_, last)| last);
                found.ports = number(value).map(|first| (first, last));
            }
            (Loaded::Port, Some(LESS_OR_EQUAL)) => {
                let first = found.ports.map_or(0, |(first, _)| first);
                found.ports = number(value).map(|last| (first, last));
            }
            (Loaded::Destination, Some(EQUAL)) => match network(value) {
                Some(network) => found.destination = Some(network),
                None => found.partly = true,
            },
            _ => found.partly = true,
        }
    }
}

fn number(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

/// The whole octets of an address as a network; more than four are of IPv6.
fn network(value: &[u8]) -> Option<IpNet> {
    let length = u8::try_from(value.len()).ok()?.checked_mul(8)?;
    let address: IpAddr = if value.len() <= 4 {
        let mut octets = [0; 4];
        octets.get_mut(..value.len())?.copy_from_slice(value);
        Ipv4Addr::from(octets).into()
    } else {
        let mut octets = [0; 16];
        octets.get_mut(..value.len())?.copy_from_slice(value);
        Ipv6Addr::from(octets).into()
    };
    IpNet::new(address, length).ok()
}
