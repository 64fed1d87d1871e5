//! What the kernel counted: connections and bytes by frontend, frames that the fence kept in, packets
//! that the handover passed on. Sockets of its own: reading waits for no pass, and no pass for it.
//!
//! ```text
//! IPVS       each virtual server: connections, bytes (64 bits), as its estimator added them up, which
//!            it does each two seconds
//! inet       sets of frontends that a new connection is looked up in: connections alone, for what
//!            belongs to one is never looked up there
//! netdev     the rules of the fence that drop
//! ip, ip6    the rules of the handover that pass on
//! ```
//!
//! The numbers are as the kernel has them and begin again with whatever holds them; adding up is the
//! caller's. Must not change anything.

mod elements;
mod rules;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::ipvs::types::{Protocol as IpvsProtocol, VirtualServerKey};
use super::ipvs::{self, Ipvs};
use super::netlink::{self, NetlinkSocket};
use super::nftables;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendAddress, FrontendPort};

/// Why the counters could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// This process lacks `CAP_NET_ADMIN`, or the kernel has no nfnetlink.
    #[error("nf_tables cannot be asked what it counted")]
    Open(#[source] netlink::Error),
    #[error("cannot read what nf_tables counted")]
    Nftables(#[from] nftables::Error),
    #[error("cannot read what IPVS counted")]
    Ipvs(#[from] ipvs::Error),
}

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CountedBy {
    /// The virtual server of that address and port.
    VirtualServer,
    /// The table `inet edgelb`: every connection, also of a frontend of which IPVS forwards a part.
    Nftables,
}

/// Since whatever counts was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// New connections; flows of UDP.
    pub connections: u64,
    /// From clients and to them, with IP headers; absent where nobody counts bytes.
    pub bytes: Option<Bytes>,
}

/// Bytes by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bytes {
    pub from_clients: u64,
    /// 0 where endpoints answer clients directly.
    pub to_clients: u64,
}

/// What a rule of another table counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Silent {
    /// A frame that speaks for a VIP which this node may not speak for, or no more.
    Fenced(Family),
    /// A packet that another node gets, which had its VIP before.
    HandedOver(Family),
}

/// One reading. A node port that IPVS serves stands here under each address of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    pub frontends: Vec<(FrontendPort, CountedBy, Counts)>,
    /// Packets by what becomes of them and by chain; of tables that are not there nothing is told.
    pub packets: Vec<(Silent, String, u64)>,
}

/// The sockets of whoever reads.
#[derive(Debug)]
pub struct TrafficReader {
    with_ipvs: bool,
    ipvs: Option<Ipvs>,
    nftables: Option<NetlinkSocket>,
}

impl TrafficReader {
    /// Opens nothing yet; `datapath` is `ipvs` or `nftables`.
    pub fn new(datapath: &str) -> Self {
        Self {
            with_ipvs: datapath == "ipvs",
            ipvs: None,
            nftables: None,
        }
    }

    /// Reads everything, in some milliseconds for a thousand Services. After an error the sockets are
    /// opened anew.
    pub fn read(&mut self) -> Result<Reading, TrafficError> {
        let reading = self.try_read();
        if reading.is_err() {
            self.ipvs = None;
            self.nftables = None;
        }
        reading
    }

    fn try_read(&mut self) -> Result<Reading, TrafficError> {
        let mut reading = Reading::default();
        if self.with_ipvs {
            let ipvs = match &mut self.ipvs {
                Some(ipvs) => ipvs,
                none => none.insert(Ipvs::open()?),
            };
            let servers = ipvs.statistics()?.into_iter();
            reading
                .frontends
                .extend(servers.filter_map(|(key, statistics)| {
                    let bytes = Bytes {
                        from_clients: statistics.bytes_in,
                        to_clients: statistics.bytes_out,
                    };
                    let counts = Counts {
                        connections: statistics.connections,
                        bytes: Some(bytes),
                    };
                    Some((frontend(&key)?, CountedBy::VirtualServer, counts))
                }));
        }
        let nftables = match &mut self.nftables {
            Some(nftables) => nftables,
            none => {
                none.insert(NetlinkSocket::open(NETLINK_NETFILTER).map_err(TrafficError::Open)?)
            }
        };
        elements::read(nftables, &mut reading.frontends)?;
        rules::read(nftables, &mut reading.packets)?;
        Ok(reading)
    }
}

/// A firewall mark is no frontend of ours.
fn frontend(key: &VirtualServerKey) -> Option<FrontendPort> {
    match key {
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => Some(FrontendPort {
            address: FrontendAddress::Address(*address),
            protocol: match protocol {
                IpvsProtocol::Tcp => Protocol::Tcp,
                IpvsProtocol::Udp => Protocol::Udp,
                IpvsProtocol::Sctp => Protocol::Sctp,
            },
            port: *port,
        }),
        VirtualServerKey::FirewallMark { .. } => None,
    }
}
