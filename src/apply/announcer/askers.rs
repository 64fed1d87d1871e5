//! Remembers who asked for which VIP, so that those neighbours are told by unicast when the VIP moves
//! here. Pure: the time comes from the caller. Bounded: the least recently heard goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::verdict::Neighbour;

/// The longest time that a router keeps a neighbour it does not hear from (four hours are the default
/// of some); who asked before that has forgotten the answer.
const LONGEST_MEMORY: Duration = Duration::from_secs(4 * 3600);
/// Who asks again within this time is not noted again, so that a flood costs nothing.
const RESOLUTION: Duration = Duration::from_secs(1);

/// A VIP, and the address of somebody who asked for it.
type Key = (IpAddr, IpAddr);

#[derive(Debug, Clone, Copy)]
struct Entry {
    mac: [u8; 6],
    heard: Instant,
    /// Counts what was noted, so that the order has no ties.
    number: u64,
}

/// Who asked for the VIPs of one interface.
#[derive(Debug)]
pub struct Askers {
    most: usize,
    entries: BTreeMap<Key, Entry>,
    /// The same, the least recently noted first.
    order: BTreeMap<u64, Key>,
    next: u64,
}

impl Askers {
    /// Room for so many.
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            next: 0,
        }
    }

    /// Somebody asked for the VIP.
    pub fn heard(&mut self, vip: IpAddr, asker: Neighbour, now: Instant) {
        let key = (vip, asker.address);
        if let Some(entry) = self.entries.get(&key) {
            if entry.mac == asker.mac && now.duration_since(entry.heard) < RESOLUTION {
                return;
            }
            self.order.remove(&entry.number);
        } else if self.entries.len() >= self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, key);
        self.entries.insert(
            key,
            Entry {
                mac: asker.mac,
                heard: now,
                number,
            },
        );
    }

    /// Who asked for the VIP and may still remember the answer.
    pub fn of(&self, vip: IpAddr, now: Instant) -> impl Iterator<Item = Neighbour> + '_ {
        let (first, last) = match vip {
            IpAddr::V4(_) => (
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V4(Ipv4Addr::BROADCAST),
            ),
            IpAddr::V6(_) => (
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::from(u128::MAX)),
            ),
        };
        self.entries
            .range((vip, first)..=(vip, last))
            .filter(move |(_, entry)| now.duration_since(entry.heard) < LONGEST_MEMORY)
            .map(|((_, address), entry)| Neighbour {
                address: *address,
                mac: entry.mac,
            })
    }

    /// Forgets who asked for other addresses than these.
    pub fn retain(&mut self, vips: &BTreeSet<IpAddr>) {
        self.entries.retain(|(vip, _), entry| {
            let stays = vips.contains(vip);
            if !stays {
                self.order.remove(&entry.number);
            }
            stays
        });
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
