//! Requests: whole netlink messages without length, sequence number and request flags, which the
//! transport sets.

use std::net::IpAddr;

use netlink_packet_core::{Emitable, NLA_F_NESTED};
use netlink_packet_generic::GenlHeader;
use netlink_packet_generic::constants::GENL_ID_CTRL;

use super::super::types::{
    Change, Family, ForwardingMethod, Granularity, RealServer, RealServerKey, SCHEDULER_FLAGS,
    Timeouts, TunnelKind, VirtualServer, VirtualServerKey,
};
use super::{AF_INET, AF_INET6, command, destination, flag, forwarding, service, top};

/// Bytes of `struct nlmsghdr`.
const NETLINK_HEADER_LENGTH: usize = 16;
const TYPE_OFFSET: usize = 4;
/// `IPVS_GENL_VERSION`, and what the controller speaks with ipvsadm.
const VERSION: u8 = 1;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_NAME: u16 = 2;

/// Asks the generic netlink controller for the number of a family; the kernel loads its module.
pub(crate) fn get_family(name: &str) -> Vec<u8> {
    let mut bytes = message(GENL_ID_CTRL, CONTROL_GET_FAMILY);
    text(&mut bytes, CONTROL_FAMILY_NAME, name);
    bytes
}

/// Encodes requests for the family number that the kernel gave IPVS.
#[derive(Debug, Clone, Copy)]
pub struct Encoder {
    family: u16,
}

impl Encoder {
    pub fn new(family: u16) -> Self {
        Self { family }
    }

    pub fn change(self, change: &Change) -> Vec<u8> {
        match change {
            Change::NewVirtualServer(key, server) => {
                self.virtual_server(command::NEW_SERVICE, key, Some(server))
            }
            Change::SetVirtualServer(key, server) => {
                self.virtual_server(command::SET_SERVICE, key, Some(server))
            }
            Change::DeleteVirtualServer(key) => {
                self.virtual_server(command::DEL_SERVICE, key, None)
            }
            Change::NewRealServer(virtual_server, key, server) => {
                self.real_server(command::NEW_DEST, virtual_server, key, server)
            }
            Change::SetRealServer(virtual_server, key, server) => {
                self.real_server(command::SET_DEST, virtual_server, key, server)
            }
            Change::DeleteRealServer(virtual_server, key) => {
                // The kernel reads the key alone; the rest is what ipvsadm puts there.
                let server = RealServer::new(ForwardingMethod::DirectRouting, 1);
                self.real_server(command::DEL_DEST, virtual_server, key, &server)
            }
            Change::ZeroStatistics(Some(key)) => self.virtual_server(command::ZERO, key, None),
            Change::ZeroStatistics(None) => message(self.family, command::ZERO),
        }
    }

    /// Dump of all virtual servers.
    pub fn get_virtual_servers(self) -> Vec<u8> {
        message(self.family, command::GET_SERVICE)
    }

    pub fn get_virtual_server(self, key: &VirtualServerKey) -> Vec<u8> {
        let mut bytes = message(self.family, command::GET_SERVICE);
        nested(&mut bytes, top::SERVICE, |bytes| {
            virtual_server_key(bytes, key);
            virtual_server_settings(bytes, "", 0, 0, 0);
        });
        bytes
    }

    /// Dump of the real servers of one virtual server.
    pub fn get_real_servers(self, key: &VirtualServerKey) -> Vec<u8> {
        let mut bytes = message(self.family, command::GET_DEST);
        nested(&mut bytes, top::SERVICE, |bytes| {
            virtual_server_key(bytes, key);
        });
        bytes
    }

    pub fn get_capabilities(self) -> Vec<u8> {
        message(self.family, command::GET_INFO)
    }

    pub fn get_timeouts(self) -> Vec<u8> {
        message(self.family, command::GET_CONFIG)
    }

    pub fn set_timeouts(self, timeouts: Timeouts) -> Vec<u8> {
        let mut bytes = message(self.family, command::SET_CONFIG);
        number(&mut bytes, top::TIMEOUT_TCP, timeouts.tcp);
        number(&mut bytes, top::TIMEOUT_TCP_FIN, timeouts.tcp_fin);
        number(&mut bytes, top::TIMEOUT_UDP, timeouts.udp);
        bytes
    }

    fn virtual_server(
        self,
        command: u8,
        key: &VirtualServerKey,
        server: Option<&VirtualServer>,
    ) -> Vec<u8> {
        let mut bytes = message(self.family, command);
        virtual_server_whole(&mut bytes, key, server);
        bytes
    }

    fn real_server(
        self,
        command: u8,
        virtual_server: &VirtualServerKey,
        key: &RealServerKey,
        server: &RealServer,
    ) -> Vec<u8> {
        let mut bytes = message(self.family, command);
        virtual_server_whole(&mut bytes, virtual_server, None);
        nested(&mut bytes, top::DEST, |bytes| {
            real_server(bytes, key, server);
        });
        bytes
    }
}

/// Key and settings; without settings the blanks that ipvsadm sends with a bare key.
fn virtual_server_whole(
    bytes: &mut Vec<u8>,
    key: &VirtualServerKey,
    server: Option<&VirtualServer>,
) {
    let persistence = server.and_then(|server| server.persistence);
    let mut flags = 0;
    if let Some(server) = server {
        flags |= server.scheduler_flags & SCHEDULER_FLAGS;
        flags |= if server.one_packet {
            flag::ONE_PACKET
        } else {
            0
        };
        flags |= if persistence.is_some() {
            flag::PERSISTENT
        } else {
            0
        };
    }
    let granularity = persistence.map_or_else(
        || Granularity::host(key.family()),
        |persistence| persistence.granularity,
    );
    let netmask = match granularity {
        Granularity::Ipv4(mask) => u32::from_ne_bytes(mask.octets()),
        Granularity::Ipv6(prefix) => u32::from(prefix),
    };
    let timeout = persistence.map_or(0, |persistence| persistence.timeout);
    let scheduler = server.map_or("", |server| server.scheduler.as_str());
    nested(bytes, top::SERVICE, |bytes| {
        virtual_server_key(bytes, key);
        virtual_server_settings(bytes, scheduler, flags, timeout, netmask);
    });
}

fn virtual_server_key(bytes: &mut Vec<u8>, key: &VirtualServerKey) {
    attribute(
        bytes,
        service::AF,
        &family_number(key.family()).to_ne_bytes(),
    );
    match key {
        VirtualServerKey::Address {
            protocol,
            address,
            port,
        } => {
            attribute(bytes, service::PROTOCOL, &protocol.number().to_ne_bytes());
            attribute(bytes, service::ADDR, &address_bytes(*address));
            attribute(bytes, service::PORT, &port.to_be_bytes());
        }
        VirtualServerKey::FirewallMark { mark, .. } => number(bytes, service::FWMARK, *mark),
    }
}

fn virtual_server_settings(
    bytes: &mut Vec<u8>,
    scheduler: &str,
    flags: u32,
    timeout: u32,
    netmask: u32,
) {
    text(bytes, service::SCHED_NAME, scheduler);
    // `struct ip_vs_flags`: the flags, and which of them are meant.
    let mut flags_and_mask = flags.to_ne_bytes().to_vec();
    flags_and_mask.extend_from_slice(&u32::MAX.to_ne_bytes());
    attribute(bytes, service::FLAGS, &flags_and_mask);
    number(bytes, service::TIMEOUT, timeout);
    number(bytes, service::NETMASK, netmask);
}

fn real_server(bytes: &mut Vec<u8>, key: &RealServerKey, server: &RealServer) {
    let (method, tunnel) = match server.forwarding_method {
        ForwardingMethod::Masquerade => (forwarding::MASQUERADE, None),
        ForwardingMethod::Local => (forwarding::LOCAL, None),
        ForwardingMethod::Tunnel(tunnel) => (forwarding::TUNNEL, Some(tunnel)),
        ForwardingMethod::DirectRouting => (forwarding::DIRECT_ROUTING, None),
        ForwardingMethod::Bypass => (forwarding::BYPASS, None),
    };
    let tunnel_kind: u8 = match tunnel.map(|tunnel| tunnel.kind) {
        None | Some(TunnelKind::Ipip) => 0,
        Some(TunnelKind::Gue) => 1,
        Some(TunnelKind::Gre) => 2,
    };
    let (tunnel_port, tunnel_flags) = tunnel.map_or((0, 0), |tunnel| (tunnel.port, tunnel.flags));
    let family = family_number(Family::of(key.address));
    attribute(bytes, destination::ADDR_FAMILY, &family.to_ne_bytes());
    attribute(bytes, destination::ADDR, &address_bytes(key.address));
    attribute(bytes, destination::PORT, &key.port.to_be_bytes());
    number(bytes, destination::FWD_METHOD, method);
    number(bytes, destination::WEIGHT, server.weight);
    attribute(bytes, destination::TUN_TYPE, &[tunnel_kind]);
    attribute(bytes, destination::TUN_PORT, &tunnel_port.to_be_bytes());
    attribute(bytes, destination::TUN_FLAGS, &tunnel_flags.to_ne_bytes());
    number(bytes, destination::U_THRESH, server.upper_threshold);
    number(bytes, destination::L_THRESH, server.lower_threshold);
}

fn family_number(family: Family) -> u16 {
    match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    }
}

/// `union nf_inet_addr`: an IPv4 address is followed by zeros.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn message(message_type: u16, command: u8) -> Vec<u8> {
    let mut bytes = vec![0; TYPE_OFFSET];
    bytes.extend_from_slice(&message_type.to_ne_bytes());
    bytes.resize(NETLINK_HEADER_LENGTH, 0);
    let header = GenlHeader {
        cmd: command,
        version: VERSION,
    };
    let mut header_bytes = vec![0; header.buffer_len()];
    header.emit(&mut header_bytes);
    bytes.extend_from_slice(&header_bytes);
    bytes
}

fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_ne_bytes());
}

/// A string with its final zero. The kernel refuses one that is too long for its field with
/// `EINVAL`; one that no attribute can hold is cut to a length that is refused likewise.
fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value: Vec<u8> = value.bytes().take(LONGEST_TEXT).collect();
    value.push(0);
    attribute(bytes, kind, &value);
}

const LONGEST_TEXT: usize = 1024;

/// Appends one attribute. All callers pass a few bytes, a text at most [`LONGEST_TEXT`].
fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nested_as(bytes, kind, |bytes| bytes.extend_from_slice(value));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn nested(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    nested_as(bytes, kind | NLA_F_NESTED, fill);
}

fn nested_as(bytes: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    fill(bytes);
    let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    if let Some(field) = bytes.get_mut(start..start + 2) {
        field.copy_from_slice(&length.to_ne_bytes());
    }
}
