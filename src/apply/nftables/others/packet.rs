//! A packet as far as it is known before it was sent: what a rule that looks at it would load. Pure.

use std::net::IpAddr;

use super::rule::Load;
use crate::model::family::Family;

/// `enum nft_payload_bases`
const LINK: u32 = 0;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const TCP: u8 = 6;
/// `NF_CT_STATE_BIT` of `IP_CT_NEW` and `IP_CT_ESTABLISHED`
const NEW: u32 = 8;
const ESTABLISHED: u32 = 2;
/// `IPS_DST_NAT`, `IPS_DST_NAT_DONE`; `IPS_SEEN_REPLY`, `IPS_CONFIRMED`
const TRANSLATED: u32 = 0x20 | 0x100;
const ANSWERED: u32 = 0x2 | 0x8;
/// `RTN_UNICAST`, `RTN_LOCAL`
const UNICAST: u32 = 1;
const LOCAL: u32 = 2;

/// A packet.
#[expect(clippy::struct_excessive_bools, reason = "rules ask for each of them")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub family: Family,
    /// Of the transport, as IP numbers them.
    pub protocol: u8,
    pub source: Option<IpAddr>,
    pub source_port: Option<u16>,
    pub destination: Option<IpAddr>,
    pub destination_port: Option<u16>,
    /// Index and name.
    pub comes_by: Option<(u32, String)>,
    pub leaves_by: Option<(u32, String)>,
    /// An answer, and not the first packet of a connection.
    pub answer: bool,
    /// Whether connection tracking translates its destination.
    pub translated: bool,
    /// Whether connection tracking has seen it.
    pub tracked: bool,
    /// Where its connection first went.
    pub original: (Option<IpAddr>, Option<u16>),
    /// Whether its destination is an address of this node.
    pub local: bool,
    /// Whether it comes and goes by way of a bridge of this node.
    pub bridged: bool,
    /// ARP, of this operation, and nothing of the above but the interfaces.
    pub arp: Option<u16>,
}

/// Octets of which some are known, and whether they are of the destination.
pub(super) type Octets = Vec<(Option<u8>, bool)>;

fn known(bytes: &[u8]) -> Octets {
    bytes.iter().map(|byte| (Some(*byte), false)).collect()
}

fn unknown(length: usize) -> Octets {
    vec![(None, false); length]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Packet {
    /// What a rule would load; what is not known has the length that is asked for, or the longest.
    pub(super) fn load(&self, load: Load) -> Octets {
        match load {
            Load::Payload(base, offset, length) => {
                let header = self.header(base);
                (offset..offset.saturating_add(length.min(64)))
                    .map(|at| header.get(at).copied().unwrap_or((None, false)))
                    .collect()
            }
            Load::Meta(key) => self.meta(key),
            Load::Conntrack(key, direction) => self.conntrack(key, direction),
            Load::Route(result, flags) => self.route(result, flags),
        }
    }

    fn address(&self, address: Option<IpAddr>, destination: bool) -> Octets {
        let length = match self.family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        let bytes = address
            .filter(|it| Family::of(*it) == self.family)
            .map(octets);
        (0..length)
            .map(|at| {
                (
                    bytes.as_ref().and_then(|it| it.get(at).copied()),
                    destination,
                )
            })
            .collect()
    }

    fn header(&self, base: u32) -> Octets {
        match (base, self.arp) {
            (LINK, arp) => {
                let kind: u16 = match (arp, self.family) {
                    (Some(_), _) => 0x0806,
                    (None, Family::V4) => 0x0800,
                    (None, Family::V6) => 0x86dd,
                };
                [unknown(12), known(&kind.to_be_bytes())].concat()
            }
            (NETWORK, Some(operation)) => {
                let head = [0, 1, 8, 0, 6, 4];
                [known(&head), known(&operation.to_be_bytes()), unknown(20)].concat()
            }
            (NETWORK, None) => self.network(),
            (TRANSPORT, None) => {
                let port = |port: Option<u16>, destination: bool| -> Octets {
                    let bytes = port.map(u16::to_be_bytes);
                    let byte = |at: usize| bytes.and_then(|it| it.get(at).copied());
                    vec![(byte(0), destination), (byte(1), destination)]
                };
                let mut header = port(self.source_port, false);
                header.extend(port(self.destination_port, true));
                if self.protocol == TCP {
                    header.extend(unknown(9));
                    // SYN, or SYN and ACK.
                    header.extend(known(&[if self.answer { 0x12 } else { 0x02 }]));
                }
                header
            }
            _ => Octets::new(),
        }
    }

    fn network(&self) -> Octets {
        let source = self.address(self.source, false);
        let destination = self.address(self.destination, true);
        let head = match self.family {
            Family::V4 => [
                known(&[0x45]),
                unknown(5),
                // It is no fragment.
                vec![(None, false), (Some(0), false)],
                unknown(1),
                known(&[self.protocol]),
                unknown(2),
            ],
            Family::V6 => [
                unknown(6),
                known(&[self.protocol]),
                unknown(1),
                Octets::new(),
                Octets::new(),
                Octets::new(),
            ],
        };
        [head.concat(), source, destination].concat()
    }

    fn meta(&self, key: u32) -> Octets {
        let name = |interface: &Option<(u32, String)>| match interface {
            None => unknown(16),
            Some((_, name)) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(16, 0);
                known(&bytes)
            }
        };
        let index = |interface: &Option<(u32, String)>| match interface {
            None => unknown(4),
            Some((index, _)) => known(&index.to_ne_bytes()),
        };
        match key {
            // NFT_META_PROTOCOL
            1 => self.header(LINK).split_off(12),
            4 => index(&self.comes_by),
            5 => index(&self.leaves_by),
            6 => name(&self.comes_by),
            7 => name(&self.leaves_by),
            // NFT_META_NFPROTO; ARP is 3.
            15 => known(&[match (self.arp, self.family) {
                (Some(_), _) => 3,
                (None, Family::V4) => 2,
                (None, Family::V6) => 10,
            }]),
            // NFT_META_L4PROTO
            16 if self.arp.is_none() => known(&[self.protocol]),
            _ => unknown(16),
        }
    }

    fn conntrack(&self, key: u32, direction: Option<u8>) -> Octets {
        if !self.tracked {
            return unknown(16);
        }
        let original = direction == Some(0);
        match key {
            0 => known(&self.state().to_ne_bytes()),
            1 => known(&[u8::from(self.answer)]),
            2 => known(&self.status().to_ne_bytes()),
            7 => known(&[match self.family {
                Family::V4 => 2,
                Family::V6 => 10,
            }]),
            // NFT_CT_DST, NFT_CT_DST_IP, NFT_CT_DST_IP6
            9 | 20 | 22 if original => self.address(self.original.0, true),
            10 => known(&[self.protocol]),
            // NFT_CT_PROTO_DST
            12 if original => match self.original.1 {
                Some(port) => (port.to_be_bytes().iter())
                    .map(|byte| (Some(*byte), true))
                    .collect(),
                None => vec![(None, true); 2],
            },
            _ => unknown(16),
        }
    }

    /// `enum nft_fib_result`: 3 is the kind of the address; flags: 1 source, 2 destination.
    fn route(&self, result: u32, flags: u32) -> Octets {
        let kind = match (result, flags & 3) {
            (3, 2) if self.local => LOCAL,
            (3, 1 | 2) => UNICAST,
            _ => return unknown(16),
        };
        known(&kind.to_ne_bytes())
    }

    pub(super) fn state(&self) -> u32 {
        if self.answer { ESTABLISHED } else { NEW }
    }

    pub(super) fn status(&self) -> u32 {
        let translated = if self.translated { TRANSLATED } else { 0 };
        let answered = if self.answer { ANSWERED } else { 0 };
        translated | answered
    }
}
