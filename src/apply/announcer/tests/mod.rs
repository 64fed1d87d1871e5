//! Tests of the decisions; what touches the kernel is tested in the lab.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod arp;
mod askers;
mod burst;
mod claims;
mod corpus;
mod filter;
mod follow;
mod limit;
mod links;
mod ndp;
mod ndp_hidden;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::verdict::AnnouncingInterface;
use crate::model::announcement::{AnnouncedInterface, AnnouncedSet};

const INDEX: u32 = 7;
const OWN_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

fn interface() -> AnnouncingInterface {
    AnnouncingInterface {
        index: INDEX,
        name: "eth0".to_owned(),
        mac: OWN_MAC,
    }
}

fn announced_addresses(vips: &[IpAddr]) -> AnnouncedSet {
    let mut set = announced(&[]);
    for interface in set.interfaces.values_mut() {
        interface.addresses.extend(vips);
    }
    set
}

fn announced(vips: &[Ipv4Addr]) -> AnnouncedSet {
    let announcing = AnnouncedInterface {
        watched: imbl::OrdSet::new(),
        name: "eth0".to_owned(),
        mac: OWN_MAC,
        addresses: vips.iter().copied().map(IpAddr::V4).collect(),
    };
    AnnouncedSet {
        generation: 1,
        interfaces: BTreeMap::from([(INDEX, announcing)]),
        peers: imbl::OrdSet::new(),
    }
}
