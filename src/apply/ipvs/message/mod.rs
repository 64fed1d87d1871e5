//! The `IPVS` generic netlink messages: requests out of types, types out of replies.
//!
//! Requests are the bytes that ipvsadm sends, attribute by attribute (the tests hold captures of
//! it). Numbers are in host byte order, but for ports and the IPv4 netmask; addresses are unions
//! of 16 bytes. Source: `include/uapi/linux/ip_vs.h`, `net/netfilter/ipvs/ip_vs_ctl.c`.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

pub use decode::{MalformedReply, capabilities, family, real_server, timeouts, virtual_server};
pub use encode::Encoder;
pub(crate) use encode::get_family;

/// `enum` of `IPVS_CMD_*`. There is no flush here: it would take what others own.
pub(super) mod command {
    pub const NEW_SERVICE: u8 = 1;
    pub const SET_SERVICE: u8 = 2;
    pub const DEL_SERVICE: u8 = 3;
    pub const GET_SERVICE: u8 = 4;
    pub const NEW_DEST: u8 = 5;
    pub const SET_DEST: u8 = 6;
    pub const DEL_DEST: u8 = 7;
    pub const GET_DEST: u8 = 8;
    pub const SET_CONFIG: u8 = 12;
    pub const GET_CONFIG: u8 = 13;
    pub const GET_INFO: u8 = 15;
    pub const ZERO: u8 = 16;
}

/// `IPVS_CMD_ATTR_*`.
mod top {
    pub const SERVICE: u16 = 1;
    pub const DEST: u16 = 2;
    pub const TIMEOUT_TCP: u16 = 4;
    pub const TIMEOUT_TCP_FIN: u16 = 5;
    pub const TIMEOUT_UDP: u16 = 6;
}

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub const AF: u16 = 1;
    pub const PROTOCOL: u16 = 2;
    pub const ADDR: u16 = 3;
    pub const PORT: u16 = 4;
    pub const FWMARK: u16 = 5;
    pub const SCHED_NAME: u16 = 6;
    pub const FLAGS: u16 = 7;
    pub const TIMEOUT: u16 = 8;
    pub const NETMASK: u16 = 9;
    pub const STATS: u16 = 10;
    pub const STATS64: u16 = 12;
}

/// `IPVS_DEST_ATTR_*`.
mod destination {
    pub const ADDR: u16 = 1;
    pub const PORT: u16 = 2;
    pub const FWD_METHOD: u16 = 3;
    pub const WEIGHT: u16 = 4;
    pub const U_THRESH: u16 = 5;
    pub const L_THRESH: u16 = 6;
    pub const ACTIVE_CONNS: u16 = 7;
    pub const INACT_CONNS: u16 = 8;
    pub const PERSIST_CONNS: u16 = 9;
    pub const STATS: u16 = 10;
    pub const ADDR_FAMILY: u16 = 11;
    pub const STATS64: u16 = 12;
    pub const TUN_TYPE: u16 = 13;
    pub const TUN_PORT: u16 = 14;
    pub const TUN_FLAGS: u16 = 15;
}

/// `IPVS_STATS_ATTR_*`.
mod statistics {
    pub const CONNS: u16 = 1;
    pub const INPKTS: u16 = 2;
    pub const OUTPKTS: u16 = 3;
    pub const INBYTES: u16 = 4;
    pub const OUTBYTES: u16 = 5;
    pub const CPS: u16 = 6;
    pub const INPPS: u16 = 7;
    pub const OUTPPS: u16 = 8;
    pub const INBPS: u16 = 9;
    pub const OUTBPS: u16 = 10;
}

/// `IPVS_INFO_ATTR_*`.
mod information {
    pub const VERSION: u16 = 1;
    pub const CONN_TAB_SIZE: u16 = 2;
}

/// `IP_VS_SVC_F_*`; `HASHED` (0x2) is the kernel's own and never asked for.
mod flag {
    pub const PERSISTENT: u32 = 0x1;
    pub const ONE_PACKET: u32 = 0x4;
}

/// `IP_VS_CONN_F_*` of the forwarding method, and the bits that hold it.
mod forwarding {
    pub const MASK: u32 = 0x7;
    pub const MASQUERADE: u32 = 0;
    pub const LOCAL: u32 = 1;
    pub const TUNNEL: u32 = 2;
    pub const DIRECT_ROUTING: u32 = 3;
    pub const BYPASS: u32 = 4;
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
