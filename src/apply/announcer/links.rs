//! Hears from the kernel when a link changes, so that nobody waits for a retry: a link that is up again,
//! has another hardware address or another way to the LAN. Decides nothing; needs no privilege.

use std::io;

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::apply::netlink::message::Message;
use crate::netlink_listener::{NetlinkListener, Notification, filter};

/// `RTNLGRP_LINK`.
const LINK_GROUP: u32 = 1;
/// `RTM_NEWLINK`.
const NEW_LINK: u16 = 16;
/// `struct ifinfomsg`, and the attributes behind it (`linux/if_link.h`).
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_ADDRESS: u16 = 1;
const ATTRIBUTE_NAME: u16 = 3;
const ATTRIBUTE_EVENT: u16 = 44;
const ATTRIBUTE_CARRIER_UP_COUNT: u16 = 47;
/// `IFF_UP` and `IFF_LOWER_UP`: somebody set it up, and there is a carrier.
const FLAGS_UP: u32 = 1 | 1 << 16;
/// `IFLA_EVENT_BONDING_FAILOVER`, `_NOTIFY_PEERS` and `_IGMP_RESEND`: frames now take another port of a
/// switch. The kernel passes them on to the VLANs and macvlans of a bond, the last one to its bridge.
const OTHER_WAY: [u32; 3] = [3, 4, 5];

/// What the kernel says of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkNews {
    /// The link's index.
    pub index: u32,
    /// Its name now.
    pub name: String,
    /// Its Ethernet address now, where it has one.
    pub mac: Option<[u8; 6]>,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// How often it got a carrier. The kernel may tell of a short loss only after it is over.
    pub carriers: Option<u32>,
    /// Whether its frames take another way to the LAN, so that the neighbours are to be told.
    pub other_way: bool,
}

/// Listens in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct LinkListener(NetlinkListener);

impl LinkListener {
    /// Everything that happens after this returns is told. Must be called inside a tokio runtime.
    pub fn open() -> io::Result<Self> {
        let new_links = [
            filter::load_half(filter::TYPE),
            filter::half_is(NEW_LINK, 0, 1),
            filter::accept(),
            filter::ignore(),
        ];
        NetlinkListener::open(NETLINK_ROUTE, &[LINK_GROUP], &new_links).map(Self)
    }

    /// Waits for news; none of them says that some were lost, which may have been about any link.
    /// Loses nothing when it is cancelled.
    pub async fn receive(&mut self) -> io::Result<Option<Vec<LinkNews>>> {
        match self.0.receive().await? {
            Notification::Messages(datagram) => Ok(read(datagram)),
            Notification::Lost => Ok(None),
        }
    }
}

/// The news in a datagram; none where it cannot be read.
pub fn read(mut datagram: &[u8]) -> Option<Vec<LinkNews>> {
    let mut news = Vec::new();
    while !datagram.is_empty() {
        let (message, rest) = Message::split(datagram).ok()?;
        datagram = rest;
        // A bridge tells of its ports with a family of its own and half of the attributes.
        if message.message_type == NEW_LINK && message.payload.first() == Some(&0) {
            news.push(read_link(message.payload)?);
        }
    }
    Some(news)
}

fn read_link(payload: &[u8]) -> Option<LinkNews> {
    let header = payload.first_chunk::<HEADER_BYTES>()?;
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let mut news = LinkNews {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        name: String::new(),
        mac: None,
        up: flags & FLAGS_UP == FLAGS_UP,
        carriers: None,
        other_way: false,
    };
    for attribute in NlasIterator::new(payload.get(HEADER_BYTES..)?) {
        let attribute = attribute.ok()?;
        let value = attribute.value();
        match attribute.kind() {
            ATTRIBUTE_ADDRESS => news.mac = value.try_into().ok(),
            ATTRIBUTE_NAME => {
                let text = value.split(|octet| *octet == 0).next().unwrap_or_default();
                news.name = String::from_utf8_lossy(text).into_owned();
            }
            ATTRIBUTE_CARRIER_UP_COUNT => {
                news.carriers = value.try_into().ok().map(u32::from_ne_bytes);
            }
            ATTRIBUTE_EVENT => {
                let event = value.try_into().map(u32::from_ne_bytes);
                news.other_way = event.is_ok_and(|event| OTHER_WAY.contains(&event));
            }
            _ => {}
        }
    }
    Some(news)
}
