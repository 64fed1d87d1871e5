//! Replies: payloads after `nlmsghdr`, checked before anything is read; no bytes make it panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLA_HEADER_SIZE, NlaBuffer, NlasIterator};
use netlink_packet_generic::constants::GENL_HDRLEN;

use super::super::types::{
    Capabilities, Connections, Family, ForwardingMethod, Granularity, ObservedRealServer,
    ObservedVirtualServer, Persistence, Protocol, RealServer, RealServerKey, SCHEDULER_FLAGS,
    Statistics, Timeouts, Tunnel, TunnelKind, VirtualServer, VirtualServerKey,
};
use super::{
    AF_INET, AF_INET6, destination, flag, forwarding, information, service, statistics, top,
};

const CONTROL_FAMILY_ID: u16 = 1;

/// A reply that is not what the kernel's headers promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedReply {
    #[error("IPVS reply of {length} bytes has no whole header")]
    Header { length: usize },
    #[error("IPVS reply has attributes that do not fit their lengths")]
    Attributes,
    #[error("IPVS reply lacks its {attribute}")]
    Missing { attribute: &'static str },
    #[error("IPVS reply has a {attribute} of {length} bytes")]
    Length {
        attribute: &'static str,
        length: usize,
    },
    #[error("IPVS reply has the unknown {attribute} {value}")]
    Unknown { attribute: &'static str, value: u32 },
}

/// The number of a generic netlink family, out of the controller's reply.
pub fn family(payload: &[u8]) -> Result<u16, MalformedReply> {
    Attributes::of_message(payload)?.short(CONTROL_FAMILY_ID, "family number")
}

/// Out of the reply to the request for IPVS' version.
pub fn capabilities(payload: &[u8]) -> Result<Capabilities, MalformedReply> {
    let attributes = Attributes::of_message(payload)?;
    let [_, major, minor, patch] = attributes
        .number(information::VERSION, "version")?
        .to_be_bytes();
    Ok(Capabilities {
        version: (major, minor, patch),
        connection_table_size: attributes.number(information::CONN_TAB_SIZE, "table size")?,
    })
}

/// Out of the reply to the request for the configuration.
pub fn timeouts(payload: &[u8]) -> Result<Timeouts, MalformedReply> {
    let attributes = Attributes::of_message(payload)?;
    Ok(Timeouts {
        tcp: attributes.number(top::TIMEOUT_TCP, "TCP timeout")?,
        tcp_fin: attributes.number(top::TIMEOUT_TCP_FIN, "TCP FIN timeout")?,
        udp: attributes.number(top::TIMEOUT_UDP, "UDP timeout")?,
    })
}

/// One virtual server of a dump or of a single reply.
pub fn virtual_server(payload: &[u8]) -> Result<ObservedVirtualServer, MalformedReply> {
    let attributes = Attributes::of_message(payload)?.nest(top::SERVICE, "virtual server")?;
    let family = family_of(attributes.short(service::AF, "address family")?)?;
    let key = if attributes.find(service::FWMARK).is_some() {
        let mark = attributes.number(service::FWMARK, "firewall mark")?;
        VirtualServerKey::FirewallMark { mark, family }
    } else {
        let number = attributes.short(service::PROTOCOL, "protocol")?;
        let protocol = Protocol::from_number(number).ok_or(MalformedReply::Unknown {
            attribute: "protocol",
            value: number.into(),
        })?;
        let address = attributes.address(service::ADDR, family)?;
        let port = attributes.port(service::PORT)?;
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        }
    };
    let [f0, f1, f2, f3, ..] = attributes.array::<8>(service::FLAGS, "flags")?;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let persistence = if flags & flag::PERSISTENT == 0 {
        None
    } else {
        let timeout = attributes.number(service::TIMEOUT, "persistence timeout")?;
        let netmask = attributes.number(service::NETMASK, "netmask")?;
        let granularity = match family {
            Family::Ipv4 => Granularity::Ipv4(Ipv4Addr::from(netmask.to_ne_bytes())),
            Family::Ipv6 => {
                Granularity::Ipv6(u8::try_from(netmask).map_err(|_| MalformedReply::Unknown {
                    attribute: "prefix length",
                    value: netmask,
                })?)
            }
        };
        Some(Persistence {
            timeout,
            granularity,
        })
    };
    Ok(ObservedVirtualServer {
        key,
        virtual_server: VirtualServer {
            scheduler: attributes.text(service::SCHED_NAME, "scheduler")?,
            scheduler_flags: flags & SCHEDULER_FLAGS,
            one_packet: flags & flag::ONE_PACKET != 0,
            persistence,
        },
        statistics: attributes.statistics(service::STATS64, service::STATS)?,
    })
}

/// One real server of the dump for a virtual server of `family`.
pub fn real_server(payload: &[u8], family: Family) -> Result<ObservedRealServer, MalformedReply> {
    let attributes = Attributes::of_message(payload)?.nest(top::DEST, "real server")?;
    // Kernels before 3.18 knew no real servers of the other family and did not say.
    let family = match attributes.find(destination::ADDR_FAMILY) {
        Some(_) => family_of(attributes.short(destination::ADDR_FAMILY, "address family")?)?,
        None => family,
    };
    let method = attributes.number(destination::FWD_METHOD, "forwarding method")?;
    let forwarding_method = match method & forwarding::MASK {
        forwarding::MASQUERADE => ForwardingMethod::Masquerade,
        forwarding::LOCAL => ForwardingMethod::Local,
        forwarding::TUNNEL => ForwardingMethod::Tunnel(attributes.tunnel()?),
        forwarding::DIRECT_ROUTING => ForwardingMethod::DirectRouting,
        forwarding::BYPASS => ForwardingMethod::Bypass,
        value => {
            return Err(MalformedReply::Unknown {
                attribute: "forwarding method",
                value,
            });
        }
    };
    Ok(ObservedRealServer {
        key: RealServerKey {
            address: attributes.address(destination::ADDR, family)?,
            port: attributes.port(destination::PORT)?,
        },
        real_server: RealServer {
            forwarding_method,
            weight: attributes.number(destination::WEIGHT, "weight")?,
            upper_threshold: attributes.number(destination::U_THRESH, "upper threshold")?,
            lower_threshold: attributes.number(destination::L_THRESH, "lower threshold")?,
        },
        connections: Connections {
            active: attributes.number(destination::ACTIVE_CONNS, "active connections")?,
            inactive: attributes.number(destination::INACT_CONNS, "inactive connections")?,
            persistent: attributes.number(destination::PERSIST_CONNS, "persistent connections")?,
        },
        statistics: attributes.statistics(destination::STATS64, destination::STATS)?,
    })
}

fn family_of(number: u16) -> Result<Family, MalformedReply> {
    match number {
        AF_INET => Ok(Family::Ipv4),
        AF_INET6 => Ok(Family::Ipv6),
        _ => Err(MalformedReply::Unknown {
            attribute: "address family",
            value: number.into(),
        }),
    }
}

/// The attributes of a message or of a nest by kind, known to fit their lengths.
struct Attributes<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attributes<'a> {
    fn of_message(payload: &'a [u8]) -> Result<Self, MalformedReply> {
        let length = payload.len();
        Self::parse(
            payload
                .get(GENL_HDRLEN..)
                .ok_or(MalformedReply::Header { length })?,
        )
    }

    fn parse(bytes: &'a [u8]) -> Result<Self, MalformedReply> {
        let split = |attribute: Result<NlaBuffer<&'a [u8]>, _>| {
            let attribute = attribute.ok()?;
            let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
            Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
        };
        let attributes: Option<Vec<_>> = NlasIterator::new(bytes).map(split).collect();
        attributes.map(Self).ok_or(MalformedReply::Attributes)
    }

    fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.0
            .iter()
            .find(|(of_kind, _)| *of_kind == kind)
            .map(|(_, value)| *value)
    }

    fn value(&self, kind: u16, attribute: &'static str) -> Result<&'a [u8], MalformedReply> {
        self.find(kind).ok_or(MalformedReply::Missing { attribute })
    }

    fn nest(&self, kind: u16, attribute: &'static str) -> Result<Self, MalformedReply> {
        Self::parse(self.value(kind, attribute)?)
    }

    fn array<const N: usize>(
        &self,
        kind: u16,
        attribute: &'static str,
    ) -> Result<[u8; N], MalformedReply> {
        let value = self.value(kind, attribute)?;
        value.try_into().map_err(|_| MalformedReply::Length {
            attribute,
            length: value.len(),
        })
    }

    fn short(&self, kind: u16, attribute: &'static str) -> Result<u16, MalformedReply> {
        self.array(kind, attribute).map(u16::from_ne_bytes)
    }

    fn number(&self, kind: u16, attribute: &'static str) -> Result<u32, MalformedReply> {
        self.array(kind, attribute).map(u32::from_ne_bytes)
    }

    fn port(&self, kind: u16) -> Result<u16, MalformedReply> {
        self.array(kind, "port").map(u16::from_be_bytes)
    }

    fn address(&self, kind: u16, family: Family) -> Result<IpAddr, MalformedReply> {
        let bytes: [u8; 16] = self.array(kind, "address")?;
        let [a, b, c, d, ..] = bytes;
        Ok(match family {
            Family::Ipv4 => Ipv4Addr::new(a, b, c, d).into(),
            Family::Ipv6 => Ipv6Addr::from(bytes).into(),
        })
    }

    fn text(&self, kind: u16, attribute: &'static str) -> Result<String, MalformedReply> {
        let text = String::from_utf8_lossy(self.value(kind, attribute)?);
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// Kernels before 5.3 know IP in IP alone and say nothing.
    fn tunnel(&self) -> Result<Tunnel, MalformedReply> {
        if self.find(destination::TUN_TYPE).is_none() {
            return Ok(Tunnel::IPIP);
        }
        let [kind] = self.array(destination::TUN_TYPE, "tunnel type")?;
        let kind = match kind {
            0 => TunnelKind::Ipip,
            1 => TunnelKind::Gue,
            2 => TunnelKind::Gre,
            other => {
                let value = other.into();
                return Err(MalformedReply::Unknown {
                    attribute: "tunnel type",
                    value,
                });
            }
        };
        let port = self.port(destination::TUN_PORT)?;
        let flags = self.short(destination::TUN_FLAGS, "tunnel flags")?;
        Ok(Tunnel { kind, port, flags })
    }

    /// The 64-bit statistics, or before Linux 4.1 those of mixed width.
    fn statistics(&self, wide: u16, narrow: u16) -> Result<Statistics, MalformedReply> {
        let kind = if self.find(wide).is_some() {
            wide
        } else {
            narrow
        };
        let counters = self.nest(kind, "statistics")?;
        let counter = |kind| {
            let value = counters.value(kind, "counter")?;
            match value.len() {
                4 => counters.number(kind, "counter").map(u64::from),
                _ => counters.array(kind, "counter").map(u64::from_ne_bytes),
            }
        };
        Ok(Statistics {
            connections: counter(statistics::CONNS)?,
            packets_in: counter(statistics::INPKTS)?,
            packets_out: counter(statistics::OUTPKTS)?,
            bytes_in: counter(statistics::INBYTES)?,
            bytes_out: counter(statistics::OUTBYTES)?,
            connections_per_second: counter(statistics::CPS)?,
            packets_in_per_second: counter(statistics::INPPS)?,
            packets_out_per_second: counter(statistics::OUTPPS)?,
            bytes_in_per_second: counter(statistics::INBPS)?,
            bytes_out_per_second: counter(statistics::OUTBPS)?,
        })
    }
}
