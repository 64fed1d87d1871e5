//! On which interfaces of this node an owned VIP is announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::Config;
use crate::model::announcement::AnnouncedInterface;
use crate::model::host::{Host, Interface};

/// The interfaces that announce `vip`: running, with a hardware address, not excluded; those that the
/// pool names, or else every one whose subnet holds the VIP (AN-9).
pub fn interfaces<'a>(
    config: &'a Config,
    host: &'a Host,
    vip: IpAddr,
) -> impl Iterator<Item = &'a Interface> {
    let named = config
        .pools
        .iter()
        .find(|pool| pool.contains(vip))
        .map_or(&[][..], |pool| pool.interfaces.as_slice());
    host.interfaces.values().filter(move |interface| {
        may_announce(config, interface)
            && if named.is_empty() {
                interface
                    .addresses
                    .iter()
                    .any(|subnet| subnet.contains(&vip))
            } else {
                named.iter().any(|pattern| pattern.matches(&interface.name))
            }
    })
}

/// Whether an interface is one on which this node may announce at all: up, with carrier and a hardware
/// address, and not excluded.
pub fn may_announce(config: &Config, interface: &Interface) -> bool {
    let mut excluded = config.announce.exclude_interfaces.iter();
    interface.running
        && interface.mac.is_some()
        && !interface.loopback
        && !excluded.any(|pattern| pattern.matches(&interface.name))
}

/// Makes `vip` announced on exactly these interfaces.
pub(super) fn announce(
    host: &Host,
    vip: IpAddr,
    interfaces: &[u32],
    announced: &mut BTreeMap<u32, AnnouncedInterface>,
) {
    for (index, interface) in announced.iter_mut() {
        if !interfaces.contains(index) {
            interface.addresses.remove(&vip);
        }
    }
    announced.retain(|_, interface| !interface.addresses.is_empty());
    for index in interfaces {
        let Some(interface) = host.interfaces.get(index) else {
            continue;
        };
        let Some(mac) = interface.mac else { continue };
        announced
            .entry(*index)
            .or_insert_with(|| AnnouncedInterface {
                name: interface.name.clone(),
                mac,
                addresses: BTreeSet::new(),
                watched: imbl::OrdSet::new(),
            })
            .addresses
            .insert(vip);
    }
}

/// What of the host decisions depend on: interfaces with an address that is more than link-local,
/// and those that a pool names.
pub fn relevant(config: &Config, host: &Host) -> Host {
    let mut host = host.clone();
    host.interfaces.retain(|_, interface| {
        interface.addresses.retain(|net| match net.addr() {
            IpAddr::V4(address) => !address.is_link_local(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        });
        let named = config.pools.iter().any(|pool| {
            pool.interfaces
                .iter()
                .any(|pattern| pattern.matches(&interface.name))
        });
        named || !interface.addresses.is_empty()
    });
    host
}
