//! One other node: its session, where it is heard, when it was heard last, and what is held of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::arp::LastWay;
use super::presence::Shows;
use super::tables::{Assembly, Change, Tables};
use crate::membership::datagram::{Table, Versions};
use crate::membership::replay::{Way, Window};
use crate::model::foreign::MacAddress;
use crate::model::text::Text;

/// Addresses that are remembered of one node.
const ADDRESSES: usize = 8;
/// A way on which nothing was heard for so long is not said to be heard.
pub const WAY_HEARD: Duration = Duration::from_millis(500);

/// Where a datagram came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Udp(UdpPath),
    Lan(LanPath),
    /// In an ARP frame.
    Arp(LanPath),
}

/// A way by UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpPath {
    /// The other node's socket.
    pub peer: SocketAddr,
    /// This node's address that was asked, to answer from it; absent: the route chooses.
    pub local: Option<IpAddr>,
}

/// A way by frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanPath {
    /// This node's interface.
    pub interface: u32,
    /// The other node's address there.
    pub mac: MacAddress,
}

impl Source {
    pub const fn way(self) -> Way {
        match self {
            Self::Udp(_) => Way::Udp,
            // Nothing is sent by both.
            Self::Lan(_) | Self::Arp(_) => Way::Lan,
        }
    }
}

/// All ways that a datagram goes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Route {
    pub udp: Option<UdpPath>,
    pub lan: Option<LanPath>,
    /// In an ARP frame.
    pub arp: Option<LanPath>,
    /// To all neighbours on all LANs.
    pub neighbours: bool,
}

impl From<Source> for Route {
    fn from(source: Source) -> Self {
        match source {
            Source::Udp(path) => Self {
                udp: Some(path),
                ..Self::default()
            },
            Source::Lan(path) => Self {
                lan: Some(path),
                ..Self::default()
            },
            Source::Arp(path) => Self {
                arp: Some(path),
                ..Self::default()
            },
        }
    }
}

/// A path and when it was heard last.
#[derive(Debug, Clone, Copy)]
pub struct Heard<P> {
    pub path: P,
    pub at: Duration,
}

impl<P: Copy + PartialEq> Heard<P> {
    /// Notes the path. One that works is kept, so that two that work do not alternate.
    pub(super) fn note(slot: &mut Option<Self>, path: P, now: Duration) {
        let keep =
            slot.is_some_and(|held| held.path != path && now.saturating_sub(held.at) < WAY_HEARD);
        if !keep {
            *slot = Some(Self { path, at: now });
        }
    }

    fn is_heard(slot: Option<&Self>, now: Duration) -> bool {
        slot.is_some_and(|heard| now.saturating_sub(heard.at) < WAY_HEARD)
    }
}

/// One other node.
#[derive(Debug, Default)]
pub struct Member {
    /// Its run; absent: it has not proved yet that it is there.
    pub session: Option<u64>,
    /// A number that it was asked to give back, and when.
    pub challenge: Option<(u64, Duration)>,
    /// When a challenge of it was last answered.
    pub answered: Option<Duration>,
    /// When a greeting of it was last answered, by each way: they come by both at once, and the one by
    /// which no answer comes stays unknown to it.
    pub greeted_by_udp: Option<Duration>,
    pub greeted_by_frames: Option<Duration>,
    /// The last sequence number sent to it.
    pub sequence: u64,
    pub window: Window,
    pub udp: Option<Heard<UdpPath>>,
    pub lan: Option<Heard<LanPath>>,
    pub last_way: LastWay,
    /// Where it was heard or is said to be, the newest last.
    pub addresses: Vec<SocketAddr>,
    /// The last sign of life: heard directly, or by another node that hears it.
    pub sign: Option<Duration>,
    /// The last sign that was heard directly.
    pub direct: Option<Duration>,
    /// A heartbeat came after the answer that was asked for last.
    pub confirmed: bool,
    /// The run and the renewals of the identity that the SWIM machine was told of.
    pub met: Option<(u64, u16)>,
    /// The SWIM machine says that it is down.
    pub rumoured_down: bool,
    /// What was decided.
    pub alive: bool,
    /// What was shown of it.
    pub shown: Option<Shows>,
    pub tables: Tables,
    /// What it (or another node) says that there is.
    pub advertised: Versions,
    /// Who said so, if not the node itself.
    pub advertised_by: Option<Text>,
    pub assemblies: BTreeMap<Table, Assembly>,
    pub asked: BTreeMap<Table, Duration>,
    /// Deltas that came too early, by run and version.
    pub early: BTreeMap<(u64, u64), Arc<[Change]>>,
    /// The run that said it restarts, and until when it is waited for.
    pub restarting: Option<(u64, Duration)>,
    /// When digests of records were last compared with it.
    pub compared: Option<Duration>,
    /// When it was last sent records after a comparison.
    pub supplied: Option<Duration>,
}

impl Member {
    /// The usual ways.
    pub fn route(&self) -> Route {
        Route {
            udp: self.udp.map(|heard| heard.path),
            lan: self.lan.map(|heard| heard.path),
            ..Route::default()
        }
    }

    /// Notes by which way a datagram came that is certainly of now.
    pub fn note_way(&mut self, source: Source, now: Duration) {
        match source {
            Source::Udp(path) => {
                Heard::note(&mut self.udp, path, now);
                self.note_address(path.peer);
            }
            Source::Lan(path) => Heard::note(&mut self.lan, path, now),
            Source::Arp(_) => {}
        }
    }

    pub fn note_address(&mut self, address: SocketAddr) {
        if self.addresses.last() == Some(&address) {
            return;
        }
        self.addresses.retain(|known| *known != address);
        if self.addresses.len() >= ADDRESSES {
            self.addresses.remove(0);
        }
        self.addresses.push(address);
    }

    /// A sign of life of that moment.
    pub fn note_sign(&mut self, at: Duration) {
        self.sign = self.sign.max(Some(at));
    }

    pub fn hears_udp(&self, now: Duration) -> bool {
        Heard::is_heard(self.udp.as_ref(), now)
    }

    pub fn hears_lan(&self, now: Duration) -> bool {
        Heard::is_heard(self.lan.as_ref(), now)
    }

    /// Whether it is heard itself, not only by others.
    pub fn is_direct(&self, now: Duration, silence: Duration) -> bool {
        self.direct
            .is_some_and(|direct| now.saturating_sub(direct) < silence)
    }

    /// The tables that are older here than they are said to be.
    pub fn lacks(&self, table: Table) -> bool {
        let advertised = match table {
            Table::State => (self.advertised.epoch, self.advertised.state),
            Table::Claims => (self.advertised.epoch, self.advertised.claims),
        };
        advertised.1 > 0 && advertised > self.tables.version(table)
    }
}
