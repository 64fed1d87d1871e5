//! The sets and maps of the table: their names, keys and data. What is in them is `element`'s.

use crate::model::family::Family;

/// One of the sets, without its family. Their order is the one in which they are filled where one
/// transaction cannot carry all: first what keeps packets away from the node's own sockets, last what
/// sends them to endpoints that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Ranges whose addresses are pods.
    PodRanges,
    /// Names of interfaces by which only pods come in.
    PodInterfaces,
    /// Ranges of `ClusterIPs`.
    ServiceRanges,
    /// Addresses that this node takes packets for.
    Held,
    /// Frontend and range of sources that may open connections to it.
    Allowed,
    /// Frontends that only some sources may open connections to.
    Restricted,
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
    /// Frontends whose new connections are counted: of which nftables forwards some.
    Connections,
    /// Node ports whose new connections are counted.
    NodePortConnections,
    /// Frontend and index → endpoint.
    Endpoints,
    /// Node port and index → endpoint.
    NodePortEndpoints,
    /// Frontend and index → number of an endpoint, where clients stay with theirs.
    Choices,
    /// Node port and index → number of an endpoint, where clients stay with theirs.
    NodePortChoices,
    /// Frontend and number → endpoint, where clients stay with theirs.
    Members,
    /// The same for outside clients.
    OutsideMembers,
    /// Node port and number → endpoint, where clients stay with theirs.
    NodePortMembers,
    /// The same for outside clients.
    NodePortOutsideMembers,
    /// Frontend → Service port in which clients stay with their endpoint.
    Scopes,
    /// Node port → Service port in which clients stay with their endpoint.
    NodePortScopes,
    /// Client and Service port → number of its endpoint. The kernel fills it, with a timeout.
    Affinity,
    /// Address, protocol and port of a frontend → how it is translated.
    Frontends,
    /// Protocol and node port → how it is translated.
    NodePorts,
    /// The same for outside clients, where they are treated differently.
    Outside,
    /// The same for outside clients, where they are treated differently.
    NodePortsOutside,
    /// The same for pods and this node, where IPVS forwards for outside clients.
    Inside,
    /// The same for pods and this node, where IPVS forwards for outside clients.
    NodePortsInside,
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
    /// A number of 64 bits that stands for a Service port.
    Scope,
    /// A number of 32 bits that stands for an endpoint.
    Number,
}

/// `enum nft_datatypes` of the nft program: what `nft list` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Address,
    Protocol,
    Port,
    Index,
    Interface,
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
            (Self::Interface, _) => 41,
        }
    }

    /// The type's name.
    pub(super) fn word(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Address, Family::V4) => "ipv4_addr",
            (Self::Address, Family::V6) => "ipv6_addr",
            (Self::Protocol, _) => "inet_proto",
            (Self::Port, _) => "inet_service",
            (Self::Index, _) => "mark",
            (Self::Interface, _) => "ifname",
        }
    }

    fn length(self, family: Family) -> u32 {
        match (self, family) {
            (Self::Address, Family::V6) | (Self::Interface, _) => 16,
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

pub(super) const ENDPOINT: [Part; 2] = [Part::Address, Part::Port];
/// The first word is read by nobody, as `expression::sticky` explains.
pub(super) const SCOPE: [Part; 3] = [Part::Index, Part::Index, Part::Index];
/// The first word is the port of the frontend, for people.
pub(super) const NUMBER: [Part; 2] = [Part::Port, Part::Index];

/// The most clients that are remembered, in each family: 20 MB of the kernel's memory. Further ones
/// are served as if there were no affinity, until others are forgotten.
pub(super) const MOST_CLIENTS: u32 = 1 << 17;

/// `enum nft_set_flags`
mod flag {
    pub(super) const INTERVAL: u32 = 4;
    pub(super) const MAP: u32 = 8;
    pub(super) const TIMEOUT: u32 = 0x10;
    pub(super) const EVAL: u32 = 0x20;
    pub(super) const CONCAT: u32 = 0x80;
}

/// What the kernel knows of a set: `NFTA_SET_FLAGS`, `_KEY_TYPE`, `_KEY_LEN`, `_DATA_TYPE`, `_DESC_SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObservedSet {
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) data_type: Option<u32>,
    /// The most elements; none for any number.
    pub(super) size: Option<u32>,
    /// Whether each element counts the packets that it is found for (`NFTA_SET_EXPR`).
    pub(super) counts: bool,
}

/// How the keys of a set stand for packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Each for itself.
    Single,
    /// Two of them are the ends of a range; the set is replaced whole.
    Ranges,
    /// The last part of each is a range, and its end is the element's value.
    LastPartRanges,
    /// Each for itself, made and forgotten by the kernel.
    Dynamic,
}

/// What a set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) ipv4_name: &'static str,
    pub(super) ipv6_name: &'static str,
    pub(super) key: &'static [Part],
    pub(super) keys: Keys,
    pub(super) maps: Maps,
}

impl Table {
    /// Every set, in the order in which they are made.
    pub const ALL: [Self; 34] = [
        Self::PodRanges,
        Self::PodInterfaces,
        Self::ServiceRanges,
        Self::Held,
        Self::Allowed,
        Self::Restricted,
        Self::Closed,
        Self::OutsideClosed,
        Self::NodePortsClosed,
        Self::NodePortsOutsideClosed,
        Self::NodeAddresses,
        Self::Answering,
        Self::Hairpin,
        Self::Masquerade,
        Self::NodePortMasquerade,
        Self::Connections,
        Self::NodePortConnections,
        Self::Endpoints,
        Self::NodePortEndpoints,
        Self::Choices,
        Self::NodePortChoices,
        Self::Members,
        Self::OutsideMembers,
        Self::NodePortMembers,
        Self::NodePortOutsideMembers,
        Self::Scopes,
        Self::NodePortScopes,
        Self::Affinity,
        Self::Frontends,
        Self::NodePorts,
        Self::Outside,
        Self::NodePortsOutside,
        Self::Inside,
        Self::NodePortsInside,
    ];

    pub(super) fn shape(self) -> Shape {
        use Maps::{Endpoint, Nothing, Number, Scope, Verdict};
        use Part::{Address, Index, Interface, Port, Protocol};
        let of = |ipv4_name, ipv6_name, key, maps| Shape {
            ipv4_name,
            ipv6_name,
            key,
            keys: Keys::Single,
            maps,
        };
        let frontend = |four, six, maps| of(four, six, &[Address, Protocol, Port], maps);
        let node_port = |four, six, maps| of(four, six, &[Protocol, Port], maps);
        let addresses = |four, six| of(four, six, &[Address], Nothing);
        let index = |four, six, maps| of(four, six, &[Address, Protocol, Port, Index], maps);
        let node_port_index = |four, six, maps| of(four, six, &[Protocol, Port, Index], maps);
        let ranges = |shape| Shape {
            keys: Keys::Ranges,
            ..shape
        };
        match self {
            Self::Frontends => frontend("frontends4", "frontends6", Verdict),
            Self::Outside => frontend("outside4", "outside6", Verdict),
            Self::Inside => frontend("inside4", "inside6", Verdict),
            Self::NodePorts => node_port("node_ports4", "node_ports6", Verdict),
            Self::NodePortsOutside => {
                node_port("node_ports_outside4", "node_ports_outside6", Verdict)
            }
            Self::NodePortsInside => node_port("node_ports_inside4", "node_ports_inside6", Verdict),
            Self::Connections => frontend("connections4", "connections6", Nothing),
            Self::NodePortConnections => {
                node_port("node_port_connections4", "node_port_connections6", Nothing)
            }
            Self::Endpoints => index("endpoints4", "endpoints6", Endpoint),
            Self::NodePortEndpoints => {
                node_port_index("node_port_endpoints4", "node_port_endpoints6", Endpoint)
            }
            Self::Choices => index("choices4", "choices6", Number),
            Self::NodePortChoices => {
                node_port_index("node_port_choices4", "node_port_choices6", Number)
            }
            Self::Members => index("members4", "members6", Endpoint),
            Self::OutsideMembers => index("outside_members4", "outside_members6", Endpoint),
            Self::NodePortMembers => {
                node_port_index("node_port_members4", "node_port_members6", Endpoint)
            }
            Self::NodePortOutsideMembers => node_port_index(
                "node_port_outside_members4",
                "node_port_outside_members6",
                Endpoint,
            ),
            Self::Scopes => frontend("scopes4", "scopes6", Scope),
            Self::NodePortScopes => node_port("node_port_scopes4", "node_port_scopes6", Scope),
            Self::Affinity => Shape {
                keys: Keys::Dynamic,
                ..of("affinity4", "affinity6", &[Address, Index, Index], Number)
            },
            Self::Allowed => Shape {
                keys: Keys::LastPartRanges,
                ..of(
                    "allowed4",
                    "allowed6",
                    &[Address, Protocol, Port, Address],
                    Nothing,
                )
            },
            Self::Restricted => frontend("restricted4", "restricted6", Nothing),
            Self::Closed => frontend("closed4", "closed6", Verdict),
            Self::OutsideClosed => frontend("outside_closed4", "outside_closed6", Verdict),
            Self::NodePortsClosed => node_port("node_ports_closed4", "node_ports_closed6", Verdict),
            Self::NodePortsOutsideClosed => node_port(
                "node_ports_outside_closed4",
                "node_ports_outside_closed6",
                Verdict,
            ),
            Self::Masquerade => frontend("masquerade4", "masquerade6", Verdict),
            Self::NodePortMasquerade => {
                node_port("node_port_masquerade4", "node_port_masquerade6", Verdict)
            }
            Self::Hairpin => of("hairpin4", "hairpin6", &[Address, Address], Nothing),
            Self::Held => addresses("held4", "held6"),
            Self::Answering => addresses("answering4", "answering6"),
            Self::NodeAddresses => addresses("node_addresses4", "node_addresses6"),
            Self::PodRanges => ranges(addresses("pod_ranges4", "pod_ranges6")),
            // The same in both, so that every rule asks the sets of its own family.
            Self::PodInterfaces => ranges(of(
                "pod_interfaces4",
                "pod_interfaces6",
                &[Interface],
                Nothing,
            )),
            Self::ServiceRanges => ranges(addresses("service_ranges4", "service_ranges6")),
        }
    }

    /// What the kernel says of this set in one family.
    pub(super) fn as_observed(self, family: Family) -> ObservedSet {
        let shape = self.shape();
        let (key_type, key_length) = data_type(shape.key, family);
        let keys = match shape.keys {
            Keys::Single => 0,
            Keys::Ranges => flag::INTERVAL,
            Keys::LastPartRanges => flag::INTERVAL | flag::CONCAT,
            Keys::Dynamic => flag::TIMEOUT | flag::EVAL,
        };
        ObservedSet {
            flags: keys
                | if shape.maps == Maps::Nothing {
                    0
                } else {
                    flag::MAP
                },
            key_type,
            key_length,
            data_type: match shape.maps {
                Maps::Nothing => None,
                Maps::Verdict => Some(0xffff_ff00), // NFT_DATA_VERDICT
                Maps::Endpoint => Some(data_type(&ENDPOINT, family).0),
                Maps::Scope => Some(data_type(&SCOPE, family).0),
                Maps::Number => Some(data_type(&NUMBER, family).0),
            },
            size: (shape.keys == Keys::Dynamic).then_some(MOST_CLIENTS),
            counts: self.counts(),
        }
    }

    /// Bytes of what it maps to; a verdict has none of its own.
    pub(super) fn data_length(self, family: Family) -> u32 {
        match self.shape().maps {
            Maps::Nothing | Maps::Verdict => 0,
            Maps::Endpoint => data_type(&ENDPOINT, family).1,
            Maps::Scope => data_type(&SCOPE, family).1,
            Maps::Number => data_type(&NUMBER, family).1,
        }
    }

    /// Bytes of each part of a key that has a range: the kernel looks each up for itself.
    pub(super) fn fields(self, family: Family) -> Vec<u32> {
        let shape = self.shape();
        let parts = match shape.keys {
            Keys::LastPartRanges => shape.key,
            Keys::Single | Keys::Ranges | Keys::Dynamic => &[],
        };
        parts.iter().map(|part| part.length(family)).collect()
    }

    /// Whether what is in it is the kernel's own.
    pub(super) fn dynamic(self) -> bool {
        self.shape().keys == Keys::Dynamic
    }

    /// Bytes of a key that tell the frontend: protocol and port, and the address before them.
    pub(super) fn frontend_length(self, family: Family) -> usize {
        match (self.shape().key.first(), family) {
            (Some(Part::Protocol), _) => 8,
            (_, Family::V4) => 12,
            (_, Family::V6) => 24,
        }
    }

    /// Whether it tells where packets of a frontend go.
    pub(super) fn translates(self) -> bool {
        self >= Self::Endpoints && !self.dynamic()
    }

    /// Whether its elements count the packets that they are found for. The chains that look there see the
    /// first packet of a connection alone, and nothing else is edited when endpoints come and go.
    pub(super) fn counts(self) -> bool {
        matches!(self, Self::Connections | Self::NodePortConnections)
    }

    /// The sets whose elements count, by name and family, and whether their keys are node ports.
    pub(in crate::apply) fn counting() -> impl Iterator<Item = (&'static str, Family, bool)> {
        let tables = Self::ALL.into_iter().filter(|table| table.counts());
        tables.flat_map(|table| {
            let node_ports = table.shape().key.first() == Some(&Part::Protocol);
            Family::BOTH.map(|family| (table.name(family), family, node_ports))
        })
    }

    /// Whether it is replaced whole.
    pub(super) fn interval(self) -> bool {
        self.shape().keys == Keys::Ranges
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
