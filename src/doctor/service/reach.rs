//! Whether packets get to a Service's VIPs at all: which node announces them, whether that node is
//! there, who else answers for them on the LAN, and whom the Service lets in. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::endpoints::named;
use super::probe::Seen;
use super::reasons::of_a_node;
use crate::admin::view::{Peer, VipView};
use crate::doctor::finding::{Depth, Finding, Level, Section};
use crate::model::family::Family;
use crate::model::foreign::MacAddress;
use crate::model::peer::Presence;
use crate::model::service::{Service, TrafficPolicy};
use crate::plan::reason::Reason;

fn finding(vip: &VipView, level: Level, message: String) -> Finding {
    Finding::new(Section::Service, level, message)
        .of(&vip.service)
        .at(Depth::Asked)
}

/// Whether somebody announces the VIP who is there. `owner` is what came of asking the owner's health
/// port, where another node is the owner and could be asked.
pub(super) fn announced(
    vip: &VipView,
    policy: Option<TrafficPolicy>,
    peers: &[Peer],
    owner: Option<Seen>,
) -> Vec<Finding> {
    let address = vip.address;
    let Some(name) = &vip.owner else {
        return vec![nobody(vip, policy)];
    };
    if vip.owned_here {
        return vip.reasons.first().map_or_else(Vec::new, |reason| {
            let message = format!(
                "this node owns {address} and cannot announce it: {}",
                reason.text
            );
            vec![finding(vip, Level::Problem, message).mend(of_a_node(&reason.reason))]
        });
    }
    let peer = peers.iter().find(|peer| peer.name == *name);
    let presence = peer.and_then(|peer| peer.presence);
    let gone = presence == Some(Presence::Down)
        || matches!(owner, Some(Seen::Silent | Seen::NoRoute | Seen::Refused));
    if !gone {
        return vec![
            finding(
                vip,
                Level::Info,
                format!("{name} announces {address}, not this node"),
            )
            .at(Depth::Symptom)
            .mend(format!("edgelb doctor {} on {name}", vip.service)),
        ];
    }
    let seen = match owner {
        Some(seen) => format!("its health port {}", seen.as_str()),
        None => "its membership is down".to_owned(),
    };
    // While peers talk, another one takes over within a second; without them nobody does.
    let talk = presence.is_some();
    let remedy = if talk {
        format!("systemctl status edgelb on {name}; look at the network between the nodes")
    } else {
        format!(
            "systemctl restart edgelb on {name}; if it is gone for good, kubectl delete node {name}; with \
             membership.key_files on every node others take over by themselves"
        )
    };
    vec![
        finding(
            vip,
            Level::Problem,
            format!("{name} owns {address} and does not answer"),
        )
        .seen(seen)
        .mend(remedy),
    ]
}

fn nobody(vip: &VipView, policy: Option<TrafficPolicy>) -> Finding {
    let address = vip.address;
    let local = (vip.excluded.iter())
        .filter(|node| node.reason.reason == Reason::NoLocalEndpoint)
        .count();
    let others: Vec<String> = (vip.excluded.iter())
        .map(|node| format!("{}: {}", node.node, node.reason.text))
        .collect();
    if policy == Some(TrafficPolicy::Local) && local > 0 {
        let told = finding(
            vip,
            Level::Problem,
            format!(
                "nobody announces {address}: externalTrafficPolicy is Local, and no node that may announce \
                 it has a ready endpoint"
            ),
        );
        let (namespace, name) = vip.service.split_once('/').unwrap_or(("", &vip.service));
        return told.seen(named(others)).mend(format!(
            "kubectl -n {namespace} patch service {name} -p \
             '{{\"spec\":{{\"externalTrafficPolicy\":\"Cluster\"}}}}', or run a pod on such a node"
        ));
    }
    let first = vip.excluded.first().map(|node| &node.reason.reason);
    let reasons: Vec<String> = vip
        .reasons
        .iter()
        .map(|reason| reason.text.clone())
        .collect();
    let seen = if others.is_empty() { reasons } else { others };
    let remedy = first.map_or("edgelb vips; edgelb peers", of_a_node);
    let told = finding(vip, Level::Problem, format!("nobody announces {address}"));
    told.seen(named(seen)).mend(remedy).at(Depth::Symptom)
}

/// Who answered for the VIP when the LAN was asked, beside this node itself. `owner` is the hardware
/// address of the node that owns it, where that is another one and known.
pub(super) fn answered(
    vip: &VipView,
    answers: Option<MacAddress>,
    owner: Option<MacAddress>,
) -> Option<Finding> {
    let address = vip.address;
    let (message, seen) = match (answers, vip.owned_here, &vip.owner) {
        (Some(mac), true, _) => (
            format!("another host on the LAN answers for {address}, which this node owns"),
            format!("its Ethernet address is {mac}"),
        ),
        (Some(mac), false, Some(name)) if owner.is_some_and(|owner| owner != mac) => (
            format!("another host on the LAN answers for {address}, which {name} owns"),
            format!("its Ethernet address is {mac}"),
        ),
        (Some(mac), false, None) => (
            format!("a host on the LAN answers for {address}, which no node announces"),
            format!("its Ethernet address is {mac}"),
        ),
        (None, false, Some(name)) => {
            let message = format!("{name} owns {address}, and nobody answers for it on the LAN");
            let remedy = format!("edgelb doctor {} on {name}", vip.service);
            let told = finding(vip, Level::Warning, message).at(Depth::Symptom);
            return Some(
                told.seen("two questions on the LAN stayed without answer")
                    .mend(remedy),
            );
        }
        _ => return None,
    };
    Some(
        finding(vip, Level::Problem, message).seen(seen).mend(
            "find that host by its Ethernet address (MetalLB speaker, kube-vip, keepalived, a static or \
             DHCP address) and take the address from it, or leave it out of the pool",
        ),
    )
}

/// Whom `loadBalancerSourceRanges` lets in, of which `subnets` are this node's own.
pub(super) fn sources(service: &Service, subnets: &[IpNet]) -> Option<Finding> {
    let ranges = &service.source_ranges;
    if ranges.is_empty() {
        return None;
    }
    let shown = named(ranges.iter().map(ToString::to_string).collect());
    let key = &service.key;
    let remedy = format!(
        "kubectl -n {} edit service {}: loadBalancerSourceRanges",
        key.namespace, key.name
    );
    let (level, message) = if ranges.iter().all(|range| names_nobody(*range)) {
        (
            Level::Problem,
            "loadBalancerSourceRanges lets no client in: its ranges hold no address that a client can \
             have",
        )
    } else if subnets
        .iter()
        .any(|subnet| ranges.iter().any(|it| meets(it, subnet)))
    {
        (
            Level::Info,
            "loadBalancerSourceRanges lets some clients in, and drops the packets of all others",
        )
    } else {
        (
            Level::Warning,
            "loadBalancerSourceRanges drops every client of this node's own networks",
        )
    };
    let told = Finding::new(Section::Service, level, message);
    Some(
        told.of(key.to_string())
            .at(Depth::Asked)
            .seen(shown)
            .mend(remedy),
    )
}

/// Loopback, "this network", multicast, link-local: nobody's address as a client of another host.
fn names_nobody(range: IpNet) -> bool {
    if range.prefix_len() == 0 {
        return false;
    }
    match range.network() {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first == 0 || first >= 224 || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_loopback() || address.is_multicast()
        }
    }
}

fn meets(one: &IpNet, other: &IpNet) -> bool {
    Family::of(one.addr()) == Family::of(other.addr())
        && (one.contains(other) || other.contains(one))
}
