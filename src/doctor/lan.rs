//! Asks the LAN who answers for some VIPs, by probes that change nobody's neighbour table (RFC 5227, RFC
//! 4862). Decides nothing about what the answers mean.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use imbl::OrdSet;
use ipnet::IpNet;

use super::machine::Neighbour;
use super::running::Running;
use crate::admin::view::VipView;
use crate::apply::prober::once::ProbeOnce;
use crate::config::Config;
use crate::model::foreign::{MacAddress, Wanted, WantedInterface};
use crate::model::host::Host;

/// VIPs that are asked for.
const MOST_ASKED: usize = 8;
/// A host that is there answers in a few milliseconds.
const ASKING: ProbeOnce = ProbeOnce {
    probes: 2,
    spacing: Duration::from_millis(100),
};

/// An own address of this node on an interface that may announce, and the other host that has it.
pub(super) type Twin = (String, IpAddr, MacAddress);

/// Asks for the addresses of this node itself, on the interfaces with the subnet of a pool.
pub(super) async fn twins(config: &Config, host: &Host) -> Vec<Twin> {
    let own = (host.interfaces.values()).filter_map(|it| it.mac.map(MacAddress));
    let mut wanted = Wanted {
        own: own.collect(),
        ..Wanted::default()
    };
    for interface in (host.interfaces.values()).filter(|it| it.running && !it.loopback) {
        let mut excluded = config.announce.exclude_interfaces.iter();
        let Some(mac) = (interface.mac).filter(|_| !excluded.any(|it| it.matches(&interface.name)))
        else {
            continue;
        };
        let has_pool = |subnet: &IpNet| {
            let mut ranges = config.pools.iter().flat_map(|pool| &pool.ranges);
            ranges.any(|range| subnet.contains(&range.first()))
        };
        let addresses: BTreeSet<IpAddr> = (interface.addresses.iter())
            .filter(|subnet| subnet.addr().is_ipv4() && has_pool(subnet))
            .map(IpNet::addr)
            .take(MOST_ASKED)
            .collect();
        if !addresses.is_empty() {
            let asked = WantedInterface {
                name: interface.name.clone(),
                mac: MacAddress(mac),
                addresses,
            };
            wanted.interfaces.insert(interface.index, asked);
        }
    }
    if wanted.interfaces.is_empty() {
        return Vec::new();
    }
    let heard = ASKING.ask(&wanted, &OrdSet::new()).await;
    (wanted.interfaces.values())
        .flat_map(|it| {
            it.addresses
                .iter()
                .map(|address| (it.name.clone(), *address))
        })
        .filter_map(|(name, address)| Some((name, address, heard.foreign.get(address)?)))
        .collect()
}

/// A VIP, who answered for it, and its owner's hardware address where that is another node's.
pub(super) type Answer<'v> = (&'v VipView, Option<MacAddress>, Option<MacAddress>);

/// The LAN of this node.
pub(super) struct Lan<'l> {
    pub(super) config: &'l Config,
    pub(super) host: &'l Host,
    /// Reads who answered this node lately.
    pub(super) neighbours: Box<dyn FnMut() -> Vec<Neighbour> + 'l>,
}

impl Lan<'_> {
    /// Asks for those VIPs that an interface of this node has the subnet of; none where nobody could be
    /// asked.
    pub(super) async fn answers<'v>(
        &mut self,
        vips: &[&'v VipView],
        running: Option<&Running>,
    ) -> Vec<Answer<'v>> {
        let wanted = self.wanted(vips);
        if wanted.interfaces.is_empty() {
            return Vec::new();
        }
        let heard = ASKING.ask(&wanted, &OrdSet::new()).await;
        let asked: BTreeSet<IpAddr> = (wanted.interfaces.values())
            .filter(|interface| !heard.unasked.contains_key(&interface.name))
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect();
        let neighbours = (self.neighbours)();
        let of_owner = |vip: &VipView| {
            let peers = running.into_iter().flat_map(|it| &it.peers.peers);
            let mut peers = peers.filter(|peer| Some(&peer.name) == vip.owner.as_ref());
            let owner = peers.next().filter(|peer| !peer.this_node)?;
            let mut known = neighbours.iter();
            known
                .find(|it| owner.addresses.contains(&it.address))
                .map(|it| it.mac)
        };
        (vips.iter())
            .filter(|vip| asked.contains(&vip.address))
            .map(|vip| (*vip, heard.foreign.get(vip.address), of_owner(vip)))
            .collect()
    }

    fn wanted(&self, vips: &[&VipView]) -> Wanted {
        let interfaces = || self.host.interfaces.values().filter(|it| !it.loopback);
        let mut wanted = Wanted {
            own: interfaces()
                .filter_map(|it| it.mac.map(MacAddress))
                .collect(),
            ..Wanted::default()
        };
        for interface in interfaces().filter(|it| it.running) {
            let mut patterns = self.config.announce.exclude_interfaces.iter();
            let Some(mac) = interface
                .mac
                .filter(|_| !patterns.any(|it| it.matches(&interface.name)))
            else {
                continue;
            };
            let inside =
                |address: &IpAddr| interface.addresses.iter().any(|it| it.contains(address));
            let addresses: BTreeSet<IpAddr> = vips
                .iter()
                .map(|vip| vip.address)
                .filter(inside)
                .take(MOST_ASKED)
                .collect();
            if !addresses.is_empty() {
                wanted.interfaces.insert(
                    interface.index,
                    WantedInterface {
                        name: interface.name.clone(),
                        mac: MacAddress(mac),
                        addresses,
                    },
                );
            }
        }
        wanted
    }
}
