//! Which addresses the LAN is asked for (RFC 5227, RFC 4862), so that none that another host uses is
//! given out: those that would be given out next, those that Services ask for, and those in conflict.
//! Pure; who asks, and how often, is not its business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::address::AddressBook;
use super::ipam::in_order;
use super::request::request;
use super::{Inputs, Plan, announcement};
use crate::config::Config;
use crate::model::family::Family;
use crate::model::foreign::{ForeignHosts, MacAddress, Wanted, WantedInterface};
use crate::model::pool::{AddressRange, Pool};

/// Free addresses of each family of a pool that are asked for ahead of need: whoever gets one need not wait.
pub const AHEAD: usize = 16;
/// Addresses of all pools together, each counted once an interface. Somebody who claims whatever is
/// asked for makes this many be asked for, and no more.
pub const MOST: usize = 1024;

/// What is to be asked, from what was decided and from what is known of other hosts by now.
///
/// An address that a Service holds is asked for only where this node announces it and another host is
/// known to use it, so that the conflict is seen to end: anywhere else its owner would answer. Free
/// ones are asked for by each node that is in their subnet; an address that Services hold is free
/// again as soon as nobody holds it.
pub fn wanted(config: &Config, inputs: &Inputs, plan: &Plan, foreign: &ForeignHosts) -> Wanted {
    let own = inputs.host.interfaces.values();
    let mut wanted = Wanted {
        interfaces: BTreeMap::new(),
        own: own
            .filter_map(|interface| interface.mac)
            .map(MacAddress)
            .collect(),
    };
    let mut room = MOST;
    let search = Search {
        config,
        inputs,
        plan,
        foreign,
        book: AddressBook::new(&inputs.cluster, &inputs.host),
    };
    for address in search.in_conflict().chain(search.asked_for()) {
        search.add(address, &mut wanted, &mut room);
    }
    let mut pools: Vec<&Pool> = config.pools.iter().collect();
    pools.sort_by_key(|pool| pool.rank());
    for pool in pools {
        for family in [Family::V4, Family::V6] {
            search.next_of(pool, family, &mut wanted, &mut room);
        }
    }
    wanted
}

/// What decides whether an address is asked for.
struct Search<'a> {
    config: &'a Config,
    inputs: &'a Inputs,
    plan: &'a Plan,
    foreign: &'a ForeignHosts,
    book: AddressBook,
}

impl Search<'_> {
    /// What this node announces and another host uses.
    fn in_conflict(&self) -> impl Iterator<Item = IpAddr> {
        let announced: BTreeSet<IpAddr> = (self.plan.state.announced.values())
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect();
        (self.foreign.iter().map(|(address, _)| address))
            .filter(move |address| announced.contains(address))
    }

    /// What Services ask for and do not have.
    fn asked_for(&self) -> impl Iterator<Item = IpAddr> {
        let waiting = self.plan.addresses.pending.keys();
        let services = waiting.filter_map(|key| self.inputs.cluster.services.get(key));
        let asked = services.flat_map(|service| request(service).unwrap_or_default().addresses);
        asked.filter(|address| {
            self.config.pools.iter().any(|pool| pool.contains(*address)) && self.is_free(*address)
        })
    }

    /// The addresses of one family of a pool that would be given out next, and those before them that other hosts
    /// use.
    fn next_of(&self, pool: &Pool, family: Family, wanted: &mut Wanted, room: &mut usize) {
        let mut ahead = AHEAD;
        let ranges = in_order(pool, family).into_iter();
        for address in ranges.flat_map(AddressRange::addresses) {
            if ahead == 0 || *room == 0 {
                return;
            }
            if pool.skips(address) || !self.is_free(address) {
                continue;
            }
            // A pool may be large and on no network of this node: what is out of reach counts.
            let reached = self.add(address, wanted, room);
            if !reached || self.foreign.get(address).is_none() {
                ahead -= 1;
            }
        }
    }

    /// Whether a Service could get it, if no other host uses it.
    fn is_free(&self, address: IpAddr) -> bool {
        let holders = self.plan.addresses.allocations.holders_of(address);
        holders.is_empty() && self.book.refusal_of_known(address).is_none()
    }

    /// Asks for an address on each interface that would announce it; false where there is none.
    fn add(&self, address: IpAddr, wanted: &mut Wanted, room: &mut usize) -> bool {
        let mut reached = false;
        for interface in announcement::interfaces(self.config, &self.inputs.host, address) {
            let Some(mac) = interface.mac else { continue };
            reached = true;
            if *room == 0 {
                break;
            }
            let entry = wanted.interfaces.entry(interface.index);
            let on = entry.or_insert_with(|| WantedInterface {
                name: interface.name.clone(),
                mac: MacAddress(mac),
                addresses: BTreeSet::new(),
            });
            if on.addresses.insert(address) {
                *room -= 1;
            }
        }
        reached
    }
}
