//! Hears when somebody else changes what is ours: the table `inet edgelb`, a route of our protocol.
//! Says that it happened, not what; the reconciler compares. IPVS tells nobody of changes.

use std::io;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use socket2::{SockFilter, SockRef};
use tokio::sync::{mpsc, watch};

use super::netlink::message::HEADER_LENGTH;
use super::nftables;
use super::route::PROTOCOL;

/// `NFNLGRP_NFTABLES`
const TABLES_GROUP: u32 = 7;
/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`
const ROUTE_GROUPS: [u32; 2] = [7, 11];
/// `RTM_DELROUTE`
const DELETE_ROUTE: u16 = 25;
/// The byte of `rtm_protocol` after `nlmsghdr`.
const ROUTE_PROTOCOL: usize = HEADER_LENGTH + 5;

/// What somebody else changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Our table.
    Table,
    /// One of our routes is gone.
    Route,
}

/// Reports until `stop` is true or its sender is gone. `ports` are the netlink ports of our own
/// sockets, whose changes are not foreign.
pub async fn run(
    ports: Vec<u32>,
    foreign: mpsc::Sender<Foreign>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), io::Error> {
    let tables = subscribe(NETLINK_NETFILTER, &[TABLES_GROUP], &ports)?;
    let routes = subscribe(NETLINK_ROUTE, &ROUTE_GROUPS, &ports)?;
    let (mut tables_buffer, mut routes_buffer) =
        (Vec::with_capacity(8192), Vec::with_capacity(8192));
    loop {
        tables_buffer.clear();
        routes_buffer.clear();
        // An error is an overrun: what was missed may be about us.
        let told = tokio::select! {
            received = tables.recv(&mut tables_buffer) => {
                (received.is_err() || messages(&tables_buffer).any(|message| is_our_table(&message)))
                    .then_some(Foreign::Table)
            }
            received = routes.recv(&mut routes_buffer) => {
                (received.is_err() || messages(&routes_buffer).any(|message| is_our_route(&message)))
                    .then_some(Foreign::Route)
            }
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        };
        if let Some(told) = told {
            // A full queue says the same already.
            if let Err(mpsc::error::TrySendError::Closed(_)) = foreign.try_send(told) {
                return Ok(());
            }
        }
    }
}

fn subscribe(protocol: isize, groups: &[u32], ports: &[u32]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(protocol)?;
    SockRef::from(socket.socket_ref()).attach_filter(&filter(ports))?;
    socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.socket_mut().add_membership(*group)?;
    }
    Ok(socket)
}

/// Drops what answers our own requests: `nlmsg_pid` is the port of who asked. It is compared as a
/// big-endian word, which is how classic BPF loads; the header has it in host order. All messages of
/// one datagram come from one request.
fn filter(ports: &[u32]) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, 12)];
    for (index, port) in ports.iter().enumerate() {
        let to_drop = u8::try_from(ports.len() - index).unwrap_or(u8::MAX);
        program.push(SockFilter::new(
            JUMP_EQUAL,
            to_drop,
            0,
            u32::from_be_bytes(port.to_ne_bytes()),
        ));
    }
    program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program
}

/// One notification: its type and the bytes from its header on.
struct Notice<'a> {
    kind: u16,
    bytes: &'a [u8],
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Notice<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*datagram.first_chunk::<4>()?) as usize;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let bytes = datagram
            .get(..length)
            .filter(|bytes| bytes.len() >= HEADER_LENGTH)?;
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Notice { kind, bytes })
    })
}

fn is_our_table(notice: &Notice<'_>) -> bool {
    notice
        .bytes
        .get(HEADER_LENGTH..)
        .is_some_and(|payload| nftables::is_about_our_table(notice.kind, payload))
}

fn is_our_route(notice: &Notice<'_>) -> bool {
    notice.kind == DELETE_ROUTE && notice.bytes.get(ROUTE_PROTOCOL) == Some(&PROTOCOL.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn truncated_datagrams_hold_no_messages() {
        for length in 0..HEADER_LENGTH {
            assert_eq!(messages(&vec![0xff; length]).count(), 0);
        }
        let mut datagram = vec![0; 28];
        datagram[0] = 28;
        datagram[4] = 25;
        datagram[ROUTE_PROTOCOL] = 225;
        assert!(messages(&datagram).all(|notice| is_our_route(&notice)));
        assert_eq!(messages(&datagram).count(), 1);
        datagram[ROUTE_PROTOCOL] = 3;
        assert!(!messages(&datagram).any(|notice| is_our_route(&notice)));
    }
}
