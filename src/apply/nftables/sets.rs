//! The sets and maps of the table: their names, keys and data. What is in them is `element`'s.

use crate::model::family::Family;

/// One of the sets, without its family. Their order is the one in which they are filled where one
/// transaction cannot carry all: first what keeps packets away from the node's own sockets, last what
/// sends them to endpoints that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Ranges whose addresses are pods.
    PodRanges,
    /// Ranges of `ClusterIPs`.
    ServiceRanges,
    /// Addresses that this node takes packets for.
    Held,
    /// Frontends that refuse or drop whoever comes this far.
    Closed,
    /// Frontends that refuse or drop outside clients.
    OutsideClosed,
    /// Node ports that refuse or drop whoever comes this far.
    NodePortsClosed,
    /// Node ports that refuse or drop outside clients.
    NodePortsOutsideClosed,
    /// Addresses on which node ports are open.
    NodeAddresses,
    /// Held addresses that answer ICMP echo.
    Answering,
    /// Endpoints on this node, twice: as source and as destination.
    Hairpin,
    /// Whose source address is replaced, by frontend.
    Masquerade,
    /// Whose source address is replaced, by node port.
    NodePortMasquerade,
    /// Frontend and index → endpoint.
    Endpoints,
    /// Node port and index → endpoint.
    NodePortEndpoints,
    /// Address, protocol and port of a frontend → how it is translated.
    Frontends,
    /// Protocol and node port → how it is translated.
    NodePorts,
    /// The same for outside clients, where they are treated differently.
    Outside,
    /// The same for outside clients, where they are treated differently.
    NodePortsOutside,
}

/// What a set maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maps {
    /// Nothing: a plain set.
    Nothing,
    /// A verdict.
    Verdict,
    /// Address and port.
    Endpoint,
}

/// `enum nft_datatypes` of the nft program: what `nft list` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Address,
    Protocol,
    Port,
    Index,
}

impl Part {
    fn datatype(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::V4) => 7,
            (Self::Address, Family::V6) => 8,
            (Self::Protocol, _) => 12,
            (Self::Port, _) => 13,
            // "mark": a number of 32 bits in host order.
            (Self::Index, _) => 19,
        }
    }

    fn length(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::V6) => 16,
            (Self::Address, Family::V4) | (Self::Index, _) => 4,
            (Self::Protocol, _) => 1,
            (Self::Port, _) => 2,
        }
    }
}

/// The nft program's number of a type, and the bytes of a value. In a concatenation every part
/// takes whole words; a single part does not.
pub(super) fn data_type(parts: &[Part], family: Family) -> (u32, u32) {
    let kind = parts
        .iter()
        .fold(0, |kind, part| (kind << 6) | part.datatype(family));
    let length = match parts {
        [part] => part.length(family),
        parts => parts
            .iter()
            .map(|part| part.length(family).next_multiple_of(4))
            .sum(),
    };
    (kind, length)
}

const ENDPOINT: [Part; 2] = [Part::Address, Part::Port];

/// What the kernel knows of a set: `NFTA_SET_FLAGS`, `_KEY_TYPE`, `_KEY_LEN`, `_DATA_TYPE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObservedSet {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) data_type: Option<u32>,
}

/// What a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) ipv4_name: &'static str,
    pub(super) ipv6_name: &'static str,
    pub(super) key: &'static [Part],
    pub(super) maps: Maps,
    /// Holds ranges.
    pub(super) interval: bool,
    /// Needed on the nftables datapath only.
    pub(super) translation: bool,
}

impl Table {
    /// Every set, in the order in which they are made.
    pub const ALL: [Self; 18] = [
        Self::PodRanges,
        Self::ServiceRanges,
        Self::Held,
        Self::Closed,
        Self::OutsideClosed,
        Self::NodePortsClosed,
        Self::NodePortsOutsideClosed,
        Self::NodeAddresses,
        Self::Answering,
        Self::Hairpin,
        Self::Masquerade,
        Self::NodePortMasquerade,
        Self::Endpoints,
        Self::NodePortEndpoints,
        Self::Frontends,
        Self::NodePorts,
        Self::Outside,
        Self::NodePortsOutside,
    ];

    pub(super) fn shape(self) -> Shape {
        use Part::{Address, Index, Port, Protocol};
        let frontend = |ipv4_name, ipv6_name, maps, translation| Shape {
            ipv4_name,
            ipv6_name,
            key: &[Address, Protocol, Port],
            maps,
            interval: false,
            translation,
        };
        let node_port = |ipv4_name, ipv6_name, maps, translation| Shape {
            key: &[Protocol, Port],
            ..frontend(ipv4_name, ipv6_name, maps, translation)
        };
        let addresses = |ipv4_name, ipv6_name, interval| Shape {
            key: &[Address],
            interval,
            ..frontend(ipv4_name, ipv6_name, Maps::Nothing, false)
        };
        match self {
            Self::Frontends => frontend("frontends4", "frontends6", Maps::Verdict, true),
            Self::Outside => frontend("outside4", "outside6", Maps::Verdict, true),
            Self::NodePorts => node_port("node_ports4", "node_ports6", Maps::Verdict, true),
            Self::NodePortsOutside => node_port(
                "node_ports_outside4",
                "node_ports_outside6",
                Maps::Verdict,
                true,
            ),
            Self::Endpoints => Shape {
                key: &[Address, Protocol, Port, Index],
                ..frontend("endpoints4", "endpoints6", Maps::Endpoint, true)
            },
            Self::NodePortEndpoints => Shape {
                key: &[Protocol, Port, Index],
                ..frontend(
                    "node_port_endpoints4",
                    "node_port_endpoints6",
                    Maps::Endpoint,
                    true,
                )
            },
            Self::Closed => frontend("closed4", "closed6", Maps::Verdict, false),
            Self::OutsideClosed => {
                frontend("outside_closed4", "outside_closed6", Maps::Verdict, false)
            }
            Self::NodePortsClosed => node_port(
                "node_ports_closed4",
                "node_ports_closed6",
                Maps::Verdict,
                false,
            ),
            Self::NodePortsOutsideClosed => node_port(
                "node_ports_outside_closed4",
                "node_ports_outside_closed6",
                Maps::Verdict,
                false,
            ),
            Self::Masquerade => frontend("masquerade4", "masquerade6", Maps::Verdict, false),
            Self::NodePortMasquerade => node_port(
                "node_port_masquerade4",
                "node_port_masquerade6",
                Maps::Verdict,
                false,
            ),
            Self::Hairpin => Shape {
                key: &[Address, Address],
                ..frontend("hairpin4", "hairpin6", Maps::Nothing, false)
            },
            Self::Held => addresses("held4", "held6", false),
            Self::Answering => addresses("answering4", "answering6", false),
            Self::NodeAddresses => addresses("node_addresses4", "node_addresses6", false),
            Self::PodRanges => addresses("pod_ranges4", "pod_ranges6", true),
            Self::ServiceRanges => addresses("service_ranges4", "service_ranges6", true),
        }
    }

    /// What the kernel says of this set in one family.
    pub(super) fn as_observed(self, family: Family) -> ObservedSet {
        let shape = self.shape();
        let (key_type, key_length) = data_type(shape.key, family);
        ObservedSet {
            flags: if shape.interval { 4 } else { 0 }
                | if shape.maps == Maps::Nothing { 0 } else { 8 },
            key_type,
            key_length,
            data_type: match shape.maps {
                Maps::Nothing => None,
                Maps::Verdict => Some(0xffff_ff00), // NFT_DATA_VERDICT
                Maps::Endpoint => Some(data_type(&ENDPOINT, family).0),
            },
        }
    }

    /// Bytes of what it maps to; a verdict has none of its own.
    pub(super) fn data_length(self, family: Family) -> u32 {
        match self.shape().maps {
            Maps::Nothing | Maps::Verdict => 0,
            Maps::Endpoint => data_type(&ENDPOINT, family).1,
        }
    }

    /// The name of this set in one family.
    pub fn name(self, family: Family) -> &'static str {
        let shape = self.shape();
        match family {
            Family::V4 => shape.ipv4_name,
            Family::V6 => shape.ipv6_name,
        }
    }
}
