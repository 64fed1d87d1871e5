//! Asks the LAN, on behalf of the owner task, who has addresses that nobody is known to have owned.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::OrdSet;
use tokio::sync::mpsc;

use crate::apply::prober::once::ProbeOnce;
use crate::model::announcement::AnnouncedInterface;
use crate::model::foreign::{MacAddress, Wanted, WantedInterface};
use crate::model::host::Host;
use crate::model::peer::Peers;

/// Addresses that were asked for, which hosts answered, and for which ones other nodes did.
pub(super) type Probed = (Vec<IpAddr>, BTreeMap<IpAddr, MacAddress>, BTreeSet<IpAddr>);

/// Asks wherever these addresses may be announced; the answer comes by the channel.
pub(super) fn ask(
    vips: Vec<IpAddr>,
    stage: &BTreeMap<u32, AnnouncedInterface>,
    host: &Host,
    peers: &Peers,
    probed: mpsc::Sender<Probed>,
) {
    let mut wanted = Wanted {
        interfaces: BTreeMap::new(),
        own: (host.interfaces.values())
            .filter_map(|interface| interface.mac)
            .map(MacAddress)
            .collect(),
    };
    for (index, interface) in stage {
        let here = vips.iter().filter(|vip| interface.watched.contains(*vip));
        let asked = WantedInterface {
            name: interface.name.clone(),
            mac: MacAddress(interface.mac),
            addresses: here.copied().collect(),
        };
        if !asked.addresses.is_empty() {
            wanted.interfaces.insert(*index, asked);
        }
    }
    let macs = hardware_addresses(peers);
    tokio::spawn(async move {
        let answers = ProbeOnce::SHORT.ask(&wanted, &macs).await;
        for (interface, error) in &answers.unasked {
            tracing::warn!(interface, error, "could not ask who uses an address");
        }
        let used = answers.foreign.iter().collect();
        let peers = answers.peers.iter().map(|(vip, _)| vip).collect();
        // The task ends only with this runtime.
        let _ = probed.send((vips, used, peers)).await;
    });
}

/// The hardware addresses of all other nodes.
pub(super) fn hardware_addresses(peers: &Peers) -> OrdSet<MacAddress> {
    let interfaces = peers
        .members
        .values()
        .flat_map(|peer| &peer.state.interfaces);
    interfaces.map(|interface| interface.mac).collect()
}
