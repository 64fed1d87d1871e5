//! What is announced on which interface, from the VIPs that this node owns. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdSet;

use crate::config::Config;
use crate::model::announcement::AnnouncedInterface;
use crate::model::host::{Host, Interface};
use crate::plan::announcement::{interfaces, may_announce};
use crate::plan::ownership::table::VipTable;

/// The announcing interfaces by index, each with all VIPs that may be announced there and none of them
/// announced yet. One with none is left out.
pub fn stage(config: &Config, host: &Host, table: &VipTable) -> BTreeMap<u32, AnnouncedInterface> {
    let mut stage: BTreeMap<u32, AnnouncedInterface> = (host.interfaces.values())
        .filter(|interface| may_announce(config, interface))
        .filter_map(|interface| Some((interface.index, empty(interface)?)))
        .collect();
    for vip in (table.groups.values()).flat_map(|group| &group.vips) {
        for interface in interfaces(config, host, *vip) {
            if let Some(staged) = stage.get_mut(&interface.index) {
                staged.watched.insert(*vip);
            }
        }
    }
    stage.retain(|_, interface| !interface.watched.is_empty());
    stage
}

/// The stage with these VIPs announced wherever they may be.
pub fn announce(
    stage: &BTreeMap<u32, AnnouncedInterface>,
    vips: &OrdSet<IpAddr>,
) -> BTreeMap<u32, AnnouncedInterface> {
    let mut announced = stage.clone();
    for interface in announced.values_mut() {
        let here = vips.iter().filter(|vip| interface.watched.contains(*vip));
        interface.addresses = here.copied().collect();
    }
    announced
}

/// Where nobody may speak for a VIP that is not owned: whatever could announce, also while it is down, so
/// that nobody speaks first when it comes up.
pub fn fenced(config: &Config, host: &Host) -> BTreeMap<u32, String> {
    let excluded = |interface: &Interface| {
        let mut patterns = config.announce.exclude_interfaces.iter();
        patterns.any(|pattern| pattern.matches(&interface.name))
    };
    let interfaces = host.interfaces.values();
    interfaces
        .filter(|interface| interface.mac.is_some() && !interface.loopback && !excluded(interface))
        .map(|interface| (interface.index, interface.name.clone()))
        .collect()
}

fn empty(interface: &Interface) -> Option<AnnouncedInterface> {
    Some(AnnouncedInterface {
        name: interface.name.clone(),
        mac: interface.mac?,
        addresses: std::collections::BTreeSet::new(),
        watched: OrdSet::new(),
    })
}
