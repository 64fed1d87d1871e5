//! Notices at once when somebody else changes our tables or takes our routes.
//!
//! It only says that something was changed; what, the repair finds out. Our own changes are known
//! by the port of the socket that made them, and never leave the kernel: a filter drops them before
//! they are queued. Must not change anything itself.

use std::io;

use netlink_packet_core::NLA_TYPE_MASK;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use socket2::SockFilter;
use tokio::sync::watch;

use super::netlink::message::Message;
use super::nftables::TABLE;
use super::route::PROTOCOL;
use crate::netlink_listener::{NetlinkListener, Notification, filter};

/// `NFNLGRP_NFTABLES`.
const TABLE_GROUPS: [u32; 1] = [7];
/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_ROUTE`.
const ROUTE_GROUPS: [u32; 4] = [1, 5, 7, 11];

/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES_SUBSYSTEM: u16 = 10;
/// `NFT_MSG_NEWGEN`, `_GETGEN` and `_TRACE`: the messages that are not about an object of a table.
const NOT_OBJECTS: std::ops::RangeInclusive<u16> = 15..=17;
/// `struct nfgenmsg`.
const NFGENMSG_BYTES: usize = 4;
/// `NFPROTO_ARP` and `NFPROTO_NETDEV`, as `nfgen_family` has them: the fence's tables; `NFPROTO_IPV4` and
/// `NFPROTO_IPV6`: those of the handover, which go with it.
const FENCE_FAMILIES: [u8; 4] = [3, 5, 2, 10];
/// The attribute that names the table, in the messages about every kind of object.
const TABLE_ATTRIBUTE: u16 = 1;

const NEW_LINK: u16 = 16;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const TABLE_LOCAL: u8 = 255;
const PROTOCOL_KERNEL: u8 = 2;
const LOOPBACK: u32 = 1;
const IFF_UP: u32 = 1;
/// `rtm_table` and `ifi_index`, counted from `struct nlmsghdr` on.
const ROUTE_TABLE_OFFSET: u32 = 20;
const LINK_INDEX_OFFSET: u32 = 20;

/// Why foreign edits go unnoticed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot subscribe to nf_tables notifications")]
    SubscribeTables(#[source] io::Error),
    #[error("cannot subscribe to route notifications")]
    SubscribeRoutes(#[source] io::Error),
    #[error("cannot read notifications from the kernel")]
    Receive(#[source] io::Error),
}

/// What somebody else may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Something in the table `inet edgelb`.
    Table,
    /// Something in one of the fence's tables, `netdev edgelb` and `arp edgelb`, or of the handover's,
    /// `ip edgelb` and `ip6 edgelb`.
    Fence,
    /// A route of ours, or what it depends on.
    Route,
}

impl Foreign {
    const ALL: [Self; 3] = [Self::Table, Self::Route, Self::Fence];
}

/// Counts the signs of foreign edits so far. A number that grew since the reader last looked says:
/// repair that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ForeignEdits {
    pub tables: u64,
    pub routes: u64,
    pub fences: u64,
}

impl ForeignEdits {
    fn count(&mut self, foreign: Foreign) {
        let counter = match foreign {
            Foreign::Table => &mut self.tables,
            Foreign::Route => &mut self.routes,
            Foreign::Fence => &mut self.fences,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Watches the tables and routes of one network namespace.
#[derive(Debug)]
pub struct Monitor {
    tables: NetlinkListener,
    routes: NetlinkListener,
    sender: watch::Sender<ForeignEdits>,
}

impl Monitor {
    /// Subscribes in the calling thread's network namespace, inside a tokio runtime. What the
    /// sockets with `own_ports` do is not told.
    pub fn open(own_ports: &[u32]) -> Result<(Self, watch::Receiver<ForeignEdits>), Error> {
        let tables =
            NetlinkListener::open(NETLINK_NETFILTER, &TABLE_GROUPS, &others_tables(own_ports))
                .map_err(Error::SubscribeTables)?;
        let routes = NetlinkListener::open(NETLINK_ROUTE, &ROUTE_GROUPS, &others_routes(own_ports))
            .map_err(Error::SubscribeRoutes)?;
        let (sender, receiver) = watch::channel(ForeignEdits::default());
        let monitor = Self {
            tables,
            routes,
            sender,
        };
        Ok((monitor, receiver))
    }

    /// Tells of foreign edits until nobody listens any more.
    pub async fn run(mut self) -> Result<(), Error> {
        loop {
            let notification = tokio::select! {
                () = self.sender.closed() => return Ok(()),
                result = self.tables.receive() => result.map_err(Error::Receive)?,
                result = self.routes.receive() => result.map_err(Error::Receive)?,
            };
            let found = match notification {
                Notification::Messages(datagram) => foreign(datagram),
                Notification::Lost => {
                    tracing::debug!("kernel notifications were lost");
                    Foreign::ALL.to_vec()
                }
            };
            if !found.is_empty() {
                self.sender.send_modify(|edits| {
                    for foreign in found {
                        edits.count(foreign);
                    }
                });
            }
        }
    }
}

/// What the messages of a datagram, none of them our own, say about our objects.
fn foreign(mut datagram: &[u8]) -> Vec<Foreign> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        // What cannot be read could have been about anything.
        let Ok((message, rest)) = Message::split(datagram) else {
            return Foreign::ALL.to_vec();
        };
        datagram = rest;
        found.extend(foreign_message(&message).filter(|foreign| !found.contains(foreign)));
    }
    found
}

fn foreign_message(message: &Message<'_>) -> Option<Foreign> {
    let payload = message.payload;
    let (subsystem, kind) = (message.message_type >> 8, message.message_type & 0xff);
    if subsystem == NFTABLES_SUBSYSTEM {
        let ours = !NOT_OBJECTS.contains(&kind) && table_name(payload) == Some(TABLE.as_bytes());
        let fence = (payload.first()).is_some_and(|family| FENCE_FAMILIES.contains(family));
        return ours.then_some(if fence {
            Foreign::Fence
        } else {
            Foreign::Table
        });
    }
    let route = || Some((*payload.get(4)?, *payload.get(5)?));
    let found = match message.message_type {
        DELETE_ROUTE => route()? == (TABLE_LOCAL, PROTOCOL),
        // Replaces one of ours, or makes one in our name; the kernel's own are for new addresses.
        NEW_ROUTE => matches!(route()?, (TABLE_LOCAL, protocol) if protocol != PROTOCOL_KERNEL),
        // Takes the routes along that have the address as their source; older kernels say nothing
        // of those.
        DELETE_ADDRESS => true,
        // Takes the IPv6 routes along.
        NEW_LINK => {
            let flags = payload.get(8..12)?.try_into().ok()?;
            u32::from_ne_bytes(flags) & IFF_UP == 0
        }
        _ => false,
    };
    found.then_some(Foreign::Route)
}

/// The value of the attribute that names the table, without its terminating zero.
fn table_name(payload: &[u8]) -> Option<&[u8]> {
    let mut attributes = payload.get(NFGENMSG_BYTES..)?;
    loop {
        let [l0, l1, k0, k1] = *attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([k0, k1]) & NLA_TYPE_MASK == TABLE_ATTRIBUTE {
            return Some(value.strip_suffix(b"\0").unwrap_or(value));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Drops what the sockets with these ports did.
fn not_from(own_ports: &[u32]) -> Vec<SockFilter> {
    let mut steps = vec![filter::load_word(filter::PORT)];
    for port in own_ports {
        steps.extend([filter::word_is(*port, 0, 1), filter::ignore()]);
    }
    steps
}

/// All `nf_tables` notifications of others. The messages of one transaction share a datagram, hence
/// the first tells whose it is.
fn others_tables(own_ports: &[u32]) -> Vec<SockFilter> {
    let mut steps = not_from(own_ports);
    steps.push(filter::accept());
    steps
}

/// Others' changes to the local table, addresses that go, and what happens to lo.
fn others_routes(own_ports: &[u32]) -> Vec<SockFilter> {
    let mut steps = not_from(own_ports);
    steps.extend([
        filter::load_half(filter::TYPE),
        filter::half_is(DELETE_ADDRESS, 7, 0),
        filter::half_is(NEW_LINK, 4, 0),
        filter::half_is(NEW_ROUTE, 1, 0),
        filter::half_is(DELETE_ROUTE, 0, 5),
        filter::load_byte(ROUTE_TABLE_OFFSET),
        filter::byte_is(TABLE_LOCAL, 2, 3),
        filter::load_word(LINK_INDEX_OFFSET),
        filter::word_is(LOOPBACK, 0, 1),
        filter::accept(),
        filter::ignore(),
    ]);
    steps
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]

    use proptest::prelude::*;

    use super::*;

    fn message(message_type: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn table(kind: u16, name: &str) -> Vec<u8> {
        table_of(1, kind, name)
    }

    fn table_of(family: u8, kind: u16, name: &str) -> Vec<u8> {
        let mut payload = vec![family, 0, 0, 0];
        // A flag in the kind, and another attribute first.
        payload.extend([8, 0, 2, 0x80, 0, 0, 0, 0]);
        payload.extend(u16::try_from(5 + name.len()).unwrap().to_ne_bytes());
        payload.extend([1, 0]);
        payload.extend(name.as_bytes());
        payload.push(0);
        message(10 << 8 | kind, &payload)
    }

    #[test]
    fn only_objects_of_our_table_count() {
        for kind in [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 18, 20, 22, 24] {
            assert_eq!(foreign(&table(kind, "edgelb")), [Foreign::Table], "{kind}");
            for family in [2, 3, 5, 10] {
                let found = foreign(&table_of(family, kind, "edgelb"));
                assert_eq!(found, [Foreign::Fence], "{kind}");
            }
            assert_eq!(foreign(&table(kind, "edgelb2")), [], "{kind}");
            assert_eq!(foreign(&table(kind, "edge")), [], "{kind}");
        }
        assert_eq!(foreign(&table(15, "edgelb")), []);
        let several = [table(2, "other"), table(2, "edgelb"), table(5, "edgelb")].concat();
        assert_eq!(foreign(&several), [Foreign::Table]);
    }

    #[test]
    fn only_what_can_touch_our_routes_counts() {
        let route = |table, protocol| [2, 32, 0, 0, table, protocol, 254, 2, 0, 0, 0, 0];
        for (kind, table, protocol, counts) in [
            (25, 255, 225, true),
            (25, 255, 2, false),
            (25, 254, 225, false),
            (24, 255, 225, true),
            (24, 255, 3, true),
            (24, 255, 2, false),
            (24, 254, 3, false),
        ] {
            let found = foreign(&message(kind, &route(table, protocol)));
            assert_eq!(!found.is_empty(), counts, "{kind} {table} {protocol}");
        }
        let mut link = [0; 16];
        assert_eq!(foreign(&message(16, &link)), [Foreign::Route]);
        link[8] = 1;
        assert_eq!(foreign(&message(16, &link)), []);
        assert_eq!(foreign(&message(21, &[0; 8])), [Foreign::Route]);
    }

    #[test]
    fn what_cannot_be_read_could_be_anything() {
        assert_eq!(foreign(&[1, 2, 3]), Foreign::ALL);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            kind in any::<u16>(), payload in prop::collection::vec(any::<u8>(), 0..80)
        ) {
            foreign(&payload);
            for kind in [kind, 10 << 8, 16, 21, 24, 25] {
                foreign(&message(kind, &payload));
            }
        }
    }
}
