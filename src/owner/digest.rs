//! What this node tells the others of itself, some of it in numbers: equal ones mean that nothing differs.

use std::net::IpAddr;

use super::engine::World;
use crate::config::Config;
use crate::membership::transport::lan::LanInterface;
use crate::model::foreign::MacAddress;
use crate::model::host::{Host, Interface};
use crate::model::peer::{MemberState, PublishedInterface};
use crate::plan::announcement::may_announce;
use crate::plan::ownership::table::VipTable;

/// The interfaces that lead to a LAN of VIPs: with an address of their own, or named by a pool. The links
/// of a bond or a bridge have none, and nothing may be sent there past it; nor have those of pods.
fn usable<'a>(config: &'a Config, host: &'a Host) -> impl Iterator<Item = &'a Interface> {
    host.interfaces.values().filter(|interface| {
        let mut addresses = interface.addresses.iter();
        let named = config.pools.iter().flat_map(|pool| &pool.interfaces);
        may_announce(config, interface)
            && (addresses.any(|net| !is_link_local(net.addr()))
                || named
                    .into_iter()
                    .any(|pattern| pattern.matches(&interface.name)))
    })
}

/// What this node tells the others of itself: what it decides by itself, and nothing else. `digests` are
/// those of [`configuration`] and of [`table`].
pub fn state(world: &World<'_>, digests: (u64, u64)) -> MemberState {
    let exceptions = &world.table.exceptions;
    MemberState {
        ready: world.ready && !world.suspended,
        draining: world.draining,
        restarting: false,
        interfaces: published(world.config, world.host),
        exceptions: exceptions.vips.clone(),
        more_exceptions: exceptions.more,
        configuration_digest: digests.0,
        snapshot_digest: digests.1,
    }
}

/// The interfaces on which this node could announce.
pub fn published(config: &Config, host: &Host) -> Vec<PublishedInterface> {
    usable(config, host)
        .filter_map(|interface| {
            let subnets = interface.addresses.iter().copied();
            Some(PublishedInterface {
                name: interface.name.clone(),
                mac: MacAddress(interface.mac?),
                subnets: subnets.filter(|net| !is_link_local(net.addr())).collect(),
            })
        })
        .collect()
}

/// The same interfaces, as the LANs where other nodes may be heard.
pub fn lans(config: &Config, host: &Host) -> Vec<LanInterface> {
    usable(config, host)
        .filter_map(|interface| {
            Some(LanInterface {
                index: interface.index,
                name: interface.name.clone(),
                mac: MacAddress(interface.mac?),
                subnets: interface.addresses.clone(),
            })
        })
        .collect()
}

/// Of the decisions that the configuration makes; a node's own name, files and sockets are none.
pub fn configuration(config: &Config) -> u64 {
    let decisions = (
        &config.pools,
        &config.announce,
        &config.load_balancer,
        &config.proxy,
    );
    serde_json::to_vec(&decisions).map_or(0, |text| fnv(&text))
}

/// Of the VIPs that are served here.
pub fn table(table: &VipTable) -> u64 {
    let vips = table.groups.values().flat_map(|group| &group.vips);
    // A sum: whatever the order, and cheap to compare.
    vips.fold(0, |sum: u64, vip| {
        sum.wrapping_add(fnv(vip.to_string().as_bytes()))
    })
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// FNV-1a: nodes of different versions must agree.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
