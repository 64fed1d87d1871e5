//! Carries sealed datagrams by UDP, by frames and, as the last way, in ARP frames. Knows sockets and interfaces, not members: whom a
//! datagram is for, and by which ways it goes, is decided by the machine.

mod arp;
pub mod lan;
pub mod resolve;
pub mod udp;

use std::collections::BTreeMap;
use std::io;
use std::task::{Context, Poll};

use tracing::{debug, info, warn};

use self::lan::{Frame, LanInterface, LanSocket, is_link_error};
use self::udp::{ListenError, UdpSocket};
use super::core::member::{LanPath, Route, Source};
use crate::config::ListenAddress;

/// Datagrams that are received before the clock is looked at again.
const BATCH: usize = 64;
/// Longer than any frame: a longer datagram is cut off and does not open.
const BUFFER: usize = 2048;

/// All sockets.
#[derive(Debug)]
pub struct Transport {
    udp: Vec<UdpSocket>,
    lan: BTreeMap<u32, LanSocket>,
    wanted: BTreeMap<u32, LanInterface>,
    /// Interfaces of which it was said that they do not work.
    failed: BTreeMap<u32, String>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
    turn: usize,
}

impl Transport {
    /// Opens the UDP sockets; interfaces follow.
    pub fn open(listen: &ListenAddress) -> Result<Self, ListenError> {
        Ok(Self {
            udp: udp::listen(listen)?,
            lan: BTreeMap::new(),
            wanted: BTreeMap::new(),
            failed: BTreeMap::new(),
            buffer: vec![0; BUFFER],
            frame: Vec::with_capacity(BUFFER),
            turn: 0,
        })
    }

    /// From now on these interfaces are used, and no others.
    pub fn use_interfaces(&mut self, interfaces: &[LanInterface]) {
        let wanted: BTreeMap<u32, LanInterface> = interfaces
            .iter()
            .map(|interface| (interface.index, interface.clone()))
            .collect();
        self.lan.retain(|index, _| {
            wanted.get(index).is_some_and(|interface| {
                self.wanted
                    .get(index)
                    .is_some_and(|before| before.mac == interface.mac)
            })
        });
        self.failed.retain(|index, _| wanted.contains_key(index));
        self.wanted = wanted;
        self.open_missing();
    }

    /// Tries again what did not work.
    pub fn open_missing(&mut self) {
        for (index, interface) in &self.wanted {
            if self.lan.contains_key(index) {
                continue;
            }
            match LanSocket::open(interface) {
                Ok(socket) => {
                    debug!(interface = %interface.name, "membership uses the interface");
                    if self.failed.remove(index).is_some() {
                        info!(interface = %interface.name, "membership uses the interface again");
                    }
                    self.lan.insert(*index, socket);
                }
                Err(error) => {
                    let error = error.to_string();
                    if self.failed.get(index) != Some(&error) {
                        warn!(interface = %interface.name, %error, "membership cannot use the interface; it is tried again");
                        self.failed.insert(*index, error);
                    }
                }
            }
        }
    }

    /// Hands the datagrams that came to `take`, at most [`BATCH`]; waits where there is none.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
        take: &mut dyn FnMut(Source, &[u8]),
    ) -> Poll<()> {
        let mut taken = 0;
        // Every socket begins once, so that none can starve the others.
        self.turn = self.turn.wrapping_add(1);
        let sockets = self.udp.len() + self.lan.len();
        for offset in 0..sockets {
            let socket = (self.turn + offset) % sockets.max(1);
            let most = (BATCH - taken).min(BATCH / sockets.max(1) + 1);
            taken += if socket < self.udp.len() {
                self.receive_udp(context, socket, most, take)
            } else {
                self.receive_lan(context, socket - self.udp.len(), most, take)
            };
            if taken >= BATCH {
                break;
            }
        }
        if taken > 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn receive_udp(
        &mut self,
        context: &mut Context<'_>,
        at: usize,
        most: usize,
        take: &mut dyn FnMut(Source, &[u8]),
    ) -> usize {
        let Some(socket) = self.udp.get_mut(at) else {
            return 0;
        };
        for taken in 0..most {
            let Poll::Ready((length, path)) = socket.poll_receive(context, &mut self.buffer) else {
                return taken;
            };
            take(
                Source::Udp(path),
                self.buffer.get(..length).unwrap_or_default(),
            );
        }
        most
    }

    fn receive_lan(
        &mut self,
        context: &mut Context<'_>,
        at: usize,
        most: usize,
        take: &mut dyn FnMut(Source, &[u8]),
    ) -> usize {
        let Some((index, socket)) = self.lan.iter_mut().nth(at) else {
            return 0;
        };
        let index = *index;
        for taken in 0..most {
            match socket.poll_receive(context, &mut self.buffer) {
                Poll::Pending => return taken,
                Poll::Ready(Ok((range, source))) => {
                    take(source, self.buffer.get(range).unwrap_or_default());
                }
                Poll::Ready(Err(error)) => {
                    debug!(interface = index, %error, "membership lost an interface");
                    self.lan.remove(&index);
                    // There is something to do: the next call sees one socket less.
                    return taken + 1;
                }
            }
        }
        most
    }

    /// Whether there is a socket for one of the ways at least.
    pub fn serves(&self, route: &Route) -> bool {
        route.udp.is_some() || !self.lan.is_empty()
    }

    /// Sends by all ways of the route. Whether it left by one of them at least.
    pub fn send(&mut self, route: &Route, octets: &[u8]) -> bool {
        let mut sent = false;
        if let Some(path) = &route.udp {
            let socket = self.udp.iter().find(|socket| socket.reaches(&path.peer));
            let result = socket.map_or_else(
                || Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
                |socket| socket.send(path, octets),
            );
            match result {
                Ok(()) => sent = true,
                Err(error) => {
                    tracing::trace!(peer = %path.peer, %error, "a datagram could not be sent");
                }
            }
        }
        let mut lost = None;
        let to_all = route.neighbours.then_some(None);
        let sends = self.lan.iter().flat_map(|(index, socket)| {
            let here = |path: &LanPath| path.interface == *index;
            let to = route.lan.filter(here).map(|path| Some(path.mac));
            let frame = to.or(to_all).map(Frame::Experimental);
            let arp = route.arp.filter(here).map(|path| Frame::Arp(path.mac));
            let frames = frame.into_iter().chain(arp);
            frames.map(move |frame| (*index, socket, frame))
        });
        for (index, socket, frame) in sends {
            match socket.send(frame, octets, &mut self.frame) {
                Ok(()) => sent = true,
                Err(error) if is_link_error(&error) => lost = Some(index),
                Err(error) => {
                    tracing::trace!(interface = index, %error, "a frame could not be sent");
                }
            }
        }
        if let Some(index) = lost {
            self.lan.remove(&index);
        }
        sent
    }
}
