//! The connections that the kernel holds of one Service: which of them to ask for, and what is said of them.
//! Counts nothing and judges nothing itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::probe::{Seen, Target};
use super::{Scene, balance, endpoints};
use crate::admin::view::VipView;
use crate::doctor::finding::Finding;
use crate::model::service::Service;

/// Where clients ask for it, by protocol.
fn frontends(
    scene: &Scene<'_>,
    service: &Service,
    vips: &[&VipView],
) -> BTreeSet<(u8, SocketAddr)> {
    let addresses: BTreeSet<IpAddr> = (vips.iter().map(|vip| vip.address))
        .chain(service.cluster_ips.iter().copied())
        .chain(service.external_ips.iter().copied())
        .chain(scene.subnets.iter().map(IpNet::addr))
        .collect();
    let mut frontends = BTreeSet::new();
    for port in &service.ports {
        for address in &addresses {
            let numbers = std::iter::once(port.port).chain(port.node_port);
            frontends
                .extend(numbers.map(|it| (port.protocol.number(), SocketAddr::new(*address, it))));
        }
    }
    frontends
}

/// Connections of clients whose answers do not come back, though the endpoint answers this node.
pub(super) fn unanswered(
    scene: &Scene<'_>,
    service: &Service,
    vips: &[&VipView],
    seen: &BTreeMap<Target, Seen>,
) -> Option<Finding> {
    scene.running?;
    let open: BTreeSet<SocketAddr> = (seen.iter())
        .filter(|(_, seen)| **seen == Seen::Open)
        .map(|((_, socket), _)| *socket)
        .collect();
    let lost = balance::lost(&frontends(scene, service, vips), &open)?;
    let rule = endpoints::rule_for(scene.rules, lost.endpoint.ip());
    Some(balance::judge_lost(service, &lost, rule))
}

/// How its connections are spread.
pub(super) fn spread(
    scene: &Scene<'_>,
    service: &Service,
    vips: &[&VipView],
    targets: &[Target],
) -> Option<Finding> {
    let ipvs = scene.running.is_some_and(|it| it.status.datapath == "ipvs");
    let frontends = frontends(scene, service, vips);
    let counts = scene.running.and_then(|_| balance::count(ipvs, &frontends));
    // Each family has a spread of its own; the one with the most connections tells most.
    let both = [true, false].map(|v4| {
        let endpoints: BTreeSet<SocketAddr> = (targets.iter())
            .map(|(_, socket)| *socket)
            .filter(|socket| socket.is_ipv4() == v4)
            .collect();
        balance::judge(service, &endpoints, counts.as_ref())
    });
    both.into_iter()
        .flatten()
        .max_by_key(|finding| (finding.level, finding.evidence.is_some()))
}
