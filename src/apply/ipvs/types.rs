//! What IPVS knows: virtual servers, their real servers, counters and timeouts.
//!
//! Plain data in the kernel's terms (`linux/ip_vs.h`); identity is apart from what can be changed
//! in place, and what is only observed apart from both. Nothing here is encoded or sent.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// `IP_VS_SVC_F_SCHED1`: the fallback flag of `sh` and `mh` (another real server where the chosen
/// one has weight 0).
pub const SCHEDULER_FLAG_FALLBACK: u32 = 0x08;
/// `IP_VS_SVC_F_SCHED2`: the port flag of `sh` and `mh` (the source port is hashed too).
pub const SCHEDULER_FLAG_PORT: u32 = 0x10;
/// `IP_VS_SVC_F_SCHED3`: used by no scheduler of the kernel.
pub const SCHEDULER_FLAG_THIRD: u32 = 0x20;
/// All flags that belong to the scheduler.
pub const SCHEDULER_FLAGS: u32 =
    SCHEDULER_FLAG_FALLBACK | SCHEDULER_FLAG_PORT | SCHEDULER_FLAG_THIRD;

/// Transport protocols that IPVS forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The protocol number of the IP header.
    pub fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of an IP protocol number, if IPVS can forward it.
    pub fn from_number(number: u16) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == number)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

/// What makes a virtual server this one. A port of 0 takes all ports (with persistence only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualServerKey {
    Address {
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    },
    /// All packets with this mark, never 0.
    FirewallMark { mark: u32, family: Family },
}

impl VirtualServerKey {
    /// The family of the clients.
    pub fn family(&self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(*address),
            Self::FirewallMark { family, .. } => *family,
        }
    }
}

impl fmt::Display for VirtualServerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address {
                protocol,
                address: IpAddr::V4(address),
                port,
            } => {
                write!(formatter, "{protocol} {address}:{port}")
            }
            Self::Address {
                protocol,
                address: IpAddr::V6(address),
                port,
            } => {
                write!(formatter, "{protocol} [{address}]:{port}")
            }
            Self::FirewallMark {
                mark,
                family: Family::Ipv4,
            } => write!(formatter, "FWM {mark}"),
            Self::FirewallMark {
                mark,
                family: Family::Ipv6,
            } => {
                write!(formatter, "FWM {mark} IPv6")
            }
        }
    }
}

/// Connections of one client (or of all clients in one network) go to one real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// Seconds after the last connection; the kernel's limit is 31 days.
    pub timeout: u32,
    pub granularity: Granularity,
}

/// Which clients count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// A network mask; the kernel takes any bits.
    Ipv4(Ipv4Addr),
    /// A prefix length, 1 to 128.
    Ipv6(u8),
}

impl Granularity {
    /// Each client for itself.
    pub fn host(family: Family) -> Self {
        match family {
            Family::Ipv4 => Self::Ipv4(Ipv4Addr::BROADCAST),
            Family::Ipv6 => Self::Ipv6(128),
        }
    }
}

/// What can be changed of a virtual server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualServer {
    /// The kernel's name of the scheduler, at most 15 bytes; its module is loaded on demand.
    /// `none` asks for no scheduler at all: no connection finds a real server.
    pub scheduler: String,
    /// Bits of [`SCHEDULER_FLAGS`].
    pub scheduler_flags: u32,
    /// Each packet is scheduled for itself (UDP only).
    pub one_packet: bool,
    pub persistence: Option<Persistence>,
}

impl VirtualServer {
    /// A virtual server with nothing but a scheduler.
    pub fn new(scheduler: &str) -> Self {
        Self {
            scheduler: scheduler.to_owned(),
            scheduler_flags: 0,
            one_packet: false,
            persistence: None,
        }
    }
}

/// What makes a real server this one, within its virtual server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServerKey {
    /// Of the other family than the virtual server's only with [`ForwardingMethod::Tunnel`].
    pub address: IpAddr,
    /// Equal to the virtual server's where the forwarding method does not translate ports.
    pub port: u16,
}

impl fmt::Display for RealServerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(formatter)
    }
}

/// How packets reach a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForwardingMethod {
    /// Addresses and ports are translated.
    Masquerade,
    /// To a socket of this node, untranslated.
    Local,
    Tunnel(Tunnel),
    /// Unchanged to the real server's link-layer address.
    DirectRouting,
    /// To the packet's own destination (only the kernel's cache clusters make it).
    Bypass,
}

/// The encapsulation of [`ForwardingMethod::Tunnel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tunnel {
    pub kind: TunnelKind,
    /// UDP port of GUE, 0 otherwise.
    pub port: u16,
    /// 0, [`TUNNEL_CHECKSUM`] or [`TUNNEL_REMOTE_CHECKSUM`].
    pub flags: u16,
}

/// `IP_VS_TUNNEL_ENCAP_FLAG_CSUM`.
pub const TUNNEL_CHECKSUM: u16 = 1;
/// `IP_VS_TUNNEL_ENCAP_FLAG_REMCSUM` (GUE only).
pub const TUNNEL_REMOTE_CHECKSUM: u16 = 2;

impl Tunnel {
    /// IP in IP.
    pub const IPIP: Self = Self {
        kind: TunnelKind::Ipip,
        port: 0,
        flags: 0,
    };
}

/// Encapsulations that IPVS knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelKind {
    Ipip,
    Gue,
    Gre,
}

/// What can be changed of a real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RealServer {
    pub forwarding_method: ForwardingMethod,
    /// 0 for no new connections; at most `i32::MAX`.
    pub weight: u32,
    /// Connections above which no new ones are scheduled; 0 for no limit.
    pub upper_threshold: u32,
    /// Connections below which scheduling begins again; at most the upper threshold.
    pub lower_threshold: u32,
}

impl RealServer {
    /// A real server without thresholds.
    pub fn new(forwarding_method: ForwardingMethod, weight: u32) -> Self {
        Self {
            forwarding_method,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}

/// One edit of IPVS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `EEXIST` where it is there, `ENOENT` where the kernel lacks the scheduler.
    NewVirtualServer(VirtualServerKey, VirtualServer),
    /// Changes in place; connections go on. `ESRCH` where it is missing.
    SetVirtualServer(VirtualServerKey, VirtualServer),
    /// With all its real servers. `ESRCH` where it is missing.
    DeleteVirtualServer(VirtualServerKey),
    /// `EEXIST` where it is there. `EINVAL` for an IPv4 address that is no unicast address; a
    /// network namespace in which no interface was ever up has none.
    NewRealServer(VirtualServerKey, RealServerKey, RealServer),
    /// `ENOENT` where it is missing.
    SetRealServer(VirtualServerKey, RealServerKey, RealServer),
    /// Packets of its connections are dropped from then on: to drain, set the weight to 0 first.
    /// `ENOENT` where it is missing.
    DeleteRealServer(VirtualServerKey, RealServerKey),
    /// Sets statistics to zero: of one virtual server and its real servers, or of all.
    ZeroStatistics(Option<VirtualServerKey>),
}

/// Totals since creation (or the last zeroing), and the kernel's two-second averages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    pub connections: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub connections_per_second: u64,
    pub packets_in_per_second: u64,
    pub packets_out_per_second: u64,
    pub bytes_in_per_second: u64,
    pub bytes_out_per_second: u64,
}

/// Connections that a real server has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established.
    pub active: u32,
    /// In any other state.
    pub inactive: u32,
    /// Templates of persistence; always 0 in `/proc/net/ip_vs`, which does not tell.
    pub persistent: u32,
}

/// A virtual server as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedVirtualServer {
    pub key: VirtualServerKey,
    pub virtual_server: VirtualServer,
    pub statistics: Statistics,
}

/// A real server as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedRealServer {
    pub key: RealServerKey,
    pub real_server: RealServer,
    pub connections: Connections,
    pub statistics: Statistics,
}

/// What the kernel says of its IPVS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// Major, minor, patch: 1.2.1 for fifteen years.
    pub version: (u8, u8, u8),
    /// Buckets of the connection table.
    pub connection_table_size: u32,
}

/// Seconds after which an idle connection is forgotten; per network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Established TCP.
    pub tcp: u32,
    /// TCP after a FIN.
    pub tcp_fin: u32,
    pub udp: u32,
}
