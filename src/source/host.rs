//! This host's interfaces, addresses, gateways and resolvers, and when they change. Subscribes
//! first, then lists, so that nothing falls between; decides nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rtnetlink::{Handle, RouteMessageBuilder};
use socket2::SockRef;
use tokio::sync::watch;

use crate::model::host::{Host, Interface};

/// `RTMGRP_*` by number: links, IPv4 and IPv6 addresses, IPv4 and IPv6 routes.
const GROUPS: [u32; 5] = [1, 5, 9, 7, 11];
/// The protocol number of our own held routes, which say nothing about the host.
const OUR_PROTOCOL: u32 = 225;
/// How long to wait for more of the same after a notification.
const SETTLE: Duration = Duration::from_millis(5);
/// How long until a failed list is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The main routing table.
const MAIN_TABLE: u32 = 254;
const RESOLVERS: &str = "/etc/resolv.conf";

/// Why the host could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot open a route socket")]
    Open(#[source] io::Error),
    #[error("cannot list {what}")]
    List {
        what: &'static str,
        source: rtnetlink::Error,
    },
}

/// Reads everything once.
pub async fn list() -> Result<Host, HostError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(HostError::Open)?;
    let connection = tokio::spawn(connection);
    let host = list_with(&handle).await;
    connection.abort();
    host
}

/// Publishes the host whenever it changes, until `stop` is true or its sender is gone.
pub async fn run(
    hosts: watch::Sender<Host>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), HostError> {
    let mut notices = subscribe().map_err(HostError::Open)?;
    let mut buffer = Vec::with_capacity(8192);
    // What changed between the caller's list and the subscription.
    let mut wait = Duration::ZERO;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        match list().await {
            Ok(host) => {
                hosts.send_if_modified(|current| {
                    let differs = *current != host;
                    if differs {
                        *current = host;
                    }
                    differs
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the interfaces could not be listed, it is tried again");
                wait = RETRY;
                continue;
            }
        }
        tokio::select! {
            // An error is an overrun: something was missed, so everything is listed again.
            _ = next(&mut notices, &mut buffer) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
        wait = SETTLE;
    }
}

async fn next(notices: &mut TokioSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    notices.recv(buffer).await
}

/// A socket that hears of links, addresses and routes, but not of the routes that we hold: ten
/// thousand of them must not cost ten thousand looks.
fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    SockRef::from(socket.socket_ref()).attach_filter(&filter())?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        socket.socket_mut().add_membership(group)?;
    }
    Ok(socket)
}

/// Drops `RTM_NEWROUTE` (24) and `RTM_DELROUTE` (25) whose `rtm_protocol` is ours. Offsets: the type
/// is at byte 4 of `nlmsghdr`, in host order; `rtmsg` begins at 16 with the protocol at its byte 5.
fn filter() -> [socket2::SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let type_byte = if cfg!(target_endian = "little") { 4 } else { 5 };
    [
        socket2::SockFilter::new(LOAD_BYTE, 0, 0, type_byte),
        socket2::SockFilter::new(JUMP_EQUAL, 1, 0, 24),
        socket2::SockFilter::new(JUMP_EQUAL, 0, 2, 25),
        socket2::SockFilter::new(LOAD_BYTE, 0, 0, 21),
        socket2::SockFilter::new(JUMP_EQUAL, 1, 0, OUR_PROTOCOL),
        socket2::SockFilter::new(RETURN, 0, 0, u32::MAX),
        socket2::SockFilter::new(RETURN, 0, 0, 0),
    ]
}

async fn list_with(handle: &Handle) -> Result<Host, HostError> {
    let failed = |what| move |source| HostError::List { what, source };
    let links: Vec<LinkMessage> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(failed("the interfaces"))?;
    let addresses: Vec<AddressMessage> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(failed("the addresses"))?;
    let mut routes: Vec<RouteMessage> = Vec::new();
    for request in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let some: Vec<RouteMessage> = handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(failed("the routes"))?;
        routes.extend(some);
    }
    let mut infrastructure: Vec<IpAddr> = routes.iter().flat_map(gateways).collect();
    // A host without a resolver is fine.
    infrastructure.extend(resolvers(
        &std::fs::read_to_string(RESOLVERS).unwrap_or_default(),
    ));
    infrastructure.sort_unstable();
    infrastructure.dedup();
    Ok(Host {
        interfaces: interfaces(&links, &addresses),
        infrastructure,
    })
}

fn interfaces(links: &[LinkMessage], addresses: &[AddressMessage]) -> BTreeMap<u32, Interface> {
    let mut interfaces: BTreeMap<u32, Interface> = links.iter().filter_map(interface).collect();
    for message in addresses {
        // An IPv6 address that is not sure to be ours yet, or known not to be.
        if flags(message).intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
            continue;
        }
        let Some(interface) = interfaces.get_mut(&message.header.index) else {
            continue;
        };
        let Some(address) = address(message) else {
            continue;
        };
        if let Ok(net) = IpNet::new(address, message.header.prefix_len) {
            interface.addresses.push(net);
        }
    }
    for interface in interfaces.values_mut() {
        interface.addresses.sort_unstable();
    }
    interfaces
}

fn interface(message: &LinkMessage) -> Option<(u32, Interface)> {
    let index = message.header.index;
    let flags = message.header.flags;
    let mut name = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Address(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    let loopback = flags.contains(LinkFlags::Loopback);
    let interface = Interface {
        index,
        name: name?,
        mac: mac.filter(|mac| !loopback && *mac != [0; 6]),
        running: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        loopback,
        addresses: Vec::new(),
    };
    Some((index, interface))
}

/// The attribute has all flags; the header only the first eight.
fn flags(message: &AddressMessage) -> AddressFlags {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or_else(AddressFlags::empty)
}

/// `IFA_LOCAL` is this host's address; on point-to-point links `IFA_ADDRESS` is the other end's.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}

fn gateways(message: &RouteMessage) -> Vec<IpAddr> {
    let mut table = u32::from(message.header.table);
    let mut found = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Gateway(gateway) => found.extend(route_address(gateway)),
            RouteAttribute::MultiPath(hops) => {
                for attribute in hops.iter().flat_map(|hop| &hop.attributes) {
                    if let RouteAttribute::Gateway(gateway) = attribute {
                        found.extend(route_address(gateway));
                    }
                }
            }
            _ => {}
        }
    }
    let known = matches!(
        message.header.address_family,
        AddressFamily::Inet | AddressFamily::Inet6
    );
    if known && table == MAIN_TABLE {
        found
    } else {
        Vec::new()
    }
}

fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The name servers of a resolv.conf, without this host's own.
fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| {
            rest.split_whitespace()
                .next()?
                .split('%')
                .next()?
                .parse()
                .ok()
        })
        .filter(|address: &IpAddr| !address.is_loopback())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_resolver_reads_them() {
        let text = "# nameserver 192.0.2.9\nnameserver 192.0.2.1\n  nameserver\tfe80::1%eth0 \nnameserver 127.0.0.53\nsearch example.net\nnameserver rubbish\n";
        let expected: Vec<IpAddr> = ["192.0.2.1", "fe80::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(resolvers(text), expected);
    }
}
