//! The usual causes of "cannot reach it", for one Service or in short for all: addresses, owner,
//! endpoints and whether they answer this node, who is let in, how connections are spread. Asks and
//! reads; changes nothing.

mod balance;
mod connections;
mod endpoints;
mod probe;
mod reach;
mod reasons;
mod short;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use self::connections::{spread, unanswered};
use self::endpoints::{Slices, pod_network};
use self::probe::{Seen, Target};
pub(super) use self::reasons::of_a_node;
pub(super) use self::short::examine_all;
use super::cluster::Sources;
use super::finding::{Depth, Finding, Level, Section};
use super::lan::Lan;
use super::machine::{Link, SourceRule, Way};
use super::running::Running;
use crate::admin::view::{ServiceView, VipView};
use crate::config::Config;
use crate::model::cluster::ClusterState;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::ForwardingMethod;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::plan::forwarding::METHOD_ANNOTATION;
use crate::plan::reason::Reason;

/// The most connections that are opened for one Service, and for all in short.
const MOST_PROBES: usize = 96;
/// Tunnels take up to this much of the MTU; what is missing beyond that somebody set.
const TUNNEL_OVERHEAD: u32 = 100;

/// What the Services are judged by.
pub(super) struct Scene<'s> {
    pub(super) config: &'s Config,
    pub(super) running: Option<&'s Running>,
    /// None where the sources cannot be read.
    pub(super) cluster: Option<&'s ClusterState>,
    pub(super) sources: &'s Sources,
    /// The networks that this node is in.
    pub(super) subnets: &'s [IpNet],
    pub(super) links: &'s BTreeMap<u32, Link>,
    /// The rules of policy routing by source.
    pub(super) rules: &'s [SourceRule],
}

/// The way to an address.
pub(super) type Ways<'w> = dyn FnMut(IpAddr) -> Option<Way> + 'w;

/// The findings for one Service.
pub(super) async fn examine_one(
    scene: &Scene<'_>,
    key: &ServiceKey,
    lan: &mut Lan<'_>,
    ways: &mut Ways<'_>,
) -> Vec<Finding> {
    let view = scene.running.and_then(|it| view(it, key));
    let service = scene.cluster.and_then(|it| it.services.get(key));
    if view.is_none() && service.is_none() {
        return vec![unknown(scene, key)];
    }
    let mut findings = Vec::new();
    if scene.running.is_none() {
        let message =
            "no daemon answers on this node: its addresses and their owner were not looked at";
        findings.push(of(key, Level::Info, message.to_owned()).mend("systemctl start edgelb"));
    }
    let vips: Vec<&VipView> = (scene.running.into_iter())
        .flat_map(|it| &it.vips.vips)
        .filter(|vip| vip.service == key.to_string())
        .collect();
    findings.extend(
        view.into_iter()
            .filter_map(|view| without_address(view, service.map(AsRef::as_ref))),
    );
    findings.extend(view.into_iter().flat_map(told));
    let policy = service.map(|it| it.external_traffic_policy);
    let owners = owners(scene, &vips).await;
    for vip in &vips {
        let owner = vip
            .owner
            .as_ref()
            .and_then(|name| owners.get(name).copied());
        let peers = scene.running.map_or(&[][..], |it| &it.peers.peers);
        findings.extend(reach::announced(vip, policy, peers, owner));
    }
    findings.extend(
        lan.answers(&vips, scene.running)
            .await
            .into_iter()
            .filter_map(|(vip, answer, owner)| reach::answered(vip, answer, owner)),
    );
    let inside = view.and_then(|it| match it.kind {
        ServiceType::ClusterIP => Some("ClusterIP"),
        ServiceType::NodePort => Some("NodePort"),
        ServiceType::LoadBalancer | ServiceType::ExternalName => None,
    });
    if let Some(kind) = inside {
        let message = format!("its type is {kind}, so it has no VIP");
        let patch = "'{\"spec\":{\"type\":\"LoadBalancer\"}}'";
        let remedy = format!(
            "kubectl -n {} patch service {} -p {patch}",
            key.namespace, key.name
        );
        findings.push(of(key, Level::Info, message).mend(remedy));
    }
    let (Some(service), Some(cluster)) = (service, scene.cluster) else {
        return findings;
    };
    if service.kind == ServiceType::ExternalName || service.ports.is_empty() {
        let message =
            "it is an ExternalName or has no ports: a DNS name, with nothing to forward".to_owned();
        findings.push(of(key, Level::Info, message));
        return findings;
    }
    let network = pod_network(scene.links.values().map(|link| link.name.as_str()));
    let slices = (Slices::new(cluster, service).on(network))
        .beside(scene.sources.without_service(&key.namespace))
        .under(scene.rules);
    let targets = slices.targets();
    let mut seen = probe::ask(targets.iter().copied().take(MOST_PROBES)).await;
    astray(&mut seen, ways);
    let found = slices.judge(&seen);
    // What the plan said of endpoints is said better by who looked at them.
    if found.iter().any(|it| it.level == Level::Problem) {
        findings.retain(|it| !it.message.starts_with(NO_ENDPOINTS));
    }
    findings.extend(found);
    findings.extend(unanswered(scene, service, &vips, &seen));
    findings.extend(narrow(scene, key, &targets, ways));
    findings.extend(reach::sources(service, scene.subnets));
    findings.extend(spread(scene, service, &vips, &targets));
    if findings.iter().all(|it| it.level <= Level::Info) {
        findings.push(of(key, Level::Fine, well(&seen, &vips)));
    }
    findings
}

/// What is sent to an endpoint by the default route has no way of its own: no pod network cares for it.
fn astray(seen: &mut BTreeMap<Target, Seen>, ways: &mut Ways<'_>) {
    let mut outside = BTreeMap::new();
    for ((_, socket), seen) in seen.iter_mut().filter(|(_, seen)| **seen == Seen::Silent) {
        let family = Family::of(socket.ip());
        let default = outside
            .entry(family)
            .or_insert_with(|| ways(super::network::outside(family))?.gateway);
        let gateway = ways(socket.ip()).and_then(|way| way.gateway);
        if gateway.is_some() && gateway == *default {
            *seen = Seen::Astray;
        }
    }
}

/// What was found to be well: only what was really asked.
fn well(seen: &BTreeMap<Target, Seen>, vips: &[&VipView]) -> String {
    let count = |wanted: Seen| seen.values().filter(|it| **it == wanted).count();
    let (open, unasked) = (count(Seen::Open), count(Seen::Unasked));
    let mut text = format!("{open} endpoints answer this node");
    if unasked > 0 {
        text = format!("{text}, {unasked} cannot be asked (UDP, SCTP)");
    }
    let announced = vips.iter().filter(|vip| vip.owner.is_some()).count();
    match (announced, vips.len()) {
        (_, 0) => text,
        (announced, all) => format!("{text}; {announced} of its {all} VIPs are announced"),
    }
}

/// How the text of that reason begins here.
const NO_ENDPOINTS: &str = "port ";

fn of(key: &ServiceKey, level: Level, message: String) -> Finding {
    Finding::new(Section::Service, level, message)
        .of(key.to_string())
        .at(Depth::Asked)
}

fn view<'r>(running: &'r Running, key: &ServiceKey) -> Option<&'r ServiceView> {
    let mut services = running.services.services.iter();
    services.find(|it| it.namespace == *key.namespace && it.name == *key.name)
}

/// A Service that the sources have and nobody serves: a headless one, an `ExternalName`, one that is
/// given to another proxy, or one that cannot be read.
fn left_out(scene: &Scene<'_>, key: &ServiceKey) -> Option<Finding> {
    if let Some(reason) = scene.sources.why_ignored(key) {
        let told = of(
            key,
            Level::Info,
            format!("edgelb has nothing to do with it: {reason}"),
        );
        return Some(told.mend(
            "nothing, if it is meant so; a VIP gets what is created anew with type LoadBalancer and \
             without clusterIP: None",
        ));
    }
    let file = format!("Service {key}");
    let of_daemon = (scene.running.into_iter())
        .flat_map(|it| &it.status.source.problems)
        .map(|it| (&it.file, &it.message));
    let own = (scene.sources.problems.iter()).map(|it| (&it.file, &it.message));
    let (_, message) = (of_daemon.chain(own))
        .find(|(place, message)| **place == file || message.contains(&format!("{file}:")))?;
    let told = of(
        key,
        Level::Problem,
        "it cannot be read, so it is not served".to_owned(),
    );
    let remedy = format!("kubectl -n {} edit service {}", key.namespace, key.name);
    Some(told.seen(message.clone()).mend(remedy))
}

fn unknown(scene: &Scene<'_>, key: &ServiceKey) -> Finding {
    if let Some(told) = left_out(scene, key) {
        return told;
    }
    let from_daemon = (scene.running.into_iter())
        .flat_map(|it| &it.services.services)
        .map(|it| format!("{}/{}", it.namespace, it.name));
    let from_cluster =
        (scene.cluster.into_iter()).flat_map(|it| it.services.keys().map(ToString::to_string));
    let known: BTreeSet<String> = from_daemon.chain(from_cluster).collect();
    let asked = key.to_string();
    let near = known
        .iter()
        .map(|name| (strsim::levenshtein(name, &asked), name))
        .min()
        .filter(|(distance, _)| *distance <= 4);
    let told = if known.is_empty() {
        let message = "there is no such Service: no Service is known on this node at all";
        of(key, Level::Problem, message.to_owned())
            .mend("edgelb status says what its source is and whether it is connected")
    } else {
        let message = format!(
            "there is no such Service among the {} that are known",
            known.len()
        );
        of(key, Level::Problem, message).mend("kubectl get services -A, or edgelb services")
    };
    match near {
        Some((_, name)) => told.seen(format!("{name} is there")),
        None => told,
    }
}

/// A `LoadBalancer` that has no address at all, where no reason says why.
fn without_address(view: &ServiceView, service: Option<&Service>) -> Option<Finding> {
    let wants = view.kind == ServiceType::LoadBalancer && view.vips.is_empty();
    let served_by_status = service.is_some_and(|it| !it.ingress.is_empty());
    (wants && !served_by_status && view.reasons.is_empty()).then(|| {
        let key = ServiceKey::new(view.namespace.as_str(), view.name.as_str());
        let told = of(
            &key,
            Level::Problem,
            "it has no address, and nothing says why".to_owned(),
        );
        told.mend("edgelb pools; edgelb status says whether an allocator leads")
            .at(Depth::Symptom)
    })
}

/// What the plan says is wrong with it.
fn told(view: &ServiceView) -> Vec<Finding> {
    let told = view.reasons.iter().map(|reason| {
        let meaning = reasons::meaning(&reason.reason, &view.namespace, &view.name);
        let key = ServiceKey::new(view.namespace.as_str(), view.name.as_str());
        let level = match reason.reason {
            // Only a LoadBalancer is worse off without an address.
            Reason::NoEndpoints { .. } if view.vips.is_empty() => Level::Warning,
            _ => meaning.level,
        };
        let text = match &reason.reason {
            Reason::NoEndpoints { .. } => reason.text.clone(),
            Reason::NoLocalEndpoints { .. } => format!("on this node, {}", reason.text),
            _ if view.vips.is_empty() && view.kind == ServiceType::LoadBalancer => {
                format!("no address is given to it: {}", reason.text)
            }
            _ => format!("it is not served as it asks: {}", reason.text),
        };
        of(&key, level, text).at(meaning.depth).mend(meaning.remedy)
    });
    told.collect()
}

/// Whether the nodes that own the VIPs answer at their health port.
async fn owners(scene: &Scene<'_>, vips: &[&VipView]) -> BTreeMap<String, Seen> {
    let listen = scene.config.observability.health_listen;
    if listen.ip().is_loopback() || listen.port() == 0 {
        return BTreeMap::new();
    }
    let names: BTreeSet<&String> = (vips.iter())
        .filter(|vip| !vip.owned_here)
        .filter_map(|vip| vip.owner.as_ref())
        .collect();
    let peers = scene.running.into_iter().flat_map(|it| &it.peers.peers);
    let mut at: BTreeMap<Target, String> = BTreeMap::new();
    for peer in peers.filter(|peer| names.contains(&peer.name)) {
        let reached = |address: &IpAddr| listen.ip().is_ipv6() || address.is_ipv4();
        if let Some(address) = peer.addresses.iter().copied().find(reached) {
            at.insert(
                (Protocol::Tcp, SocketAddr::new(address, listen.port())),
                peer.name.clone(),
            );
        }
    }
    let seen = probe::ask(at.keys().copied()).await;
    at.into_iter()
        .filter_map(|(target, name)| Some((name, *seen.get(&target)?)))
        .collect()
}

/// A way to the pods that is narrower than the LAN by more than a tunnel takes.
fn narrow(
    scene: &Scene<'_>,
    key: &ServiceKey,
    targets: &[Target],
    ways: &mut Ways<'_>,
) -> Option<Finding> {
    let lan = (scene.config.pools.iter())
        .flat_map(|pool| &pool.ranges)
        .find_map(|range| {
            scene
                .subnets
                .iter()
                .find(|subnet| subnet.contains(&range.first()))
        })?;
    let mut mtu = |address: IpAddr| {
        let way = ways(address)?;
        let link = scene.links.get(&way.link?)?;
        Some((way.mtu.unwrap_or(link.mtu).min(link.mtu), link.name.clone()))
    };
    // Its own address would be on the loopback: any other one of the subnet tells the link.
    let other = (lan.hosts()).find(|host| *host != lan.addr())?;
    let (wide, uplink) = mtu(other)?;
    let mut asked = BTreeSet::new();
    let overhead = tunnel_overhead(scene, key);
    let (small, link, address) = (targets.iter())
        .filter(|(_, socket)| asked.insert(socket.ip()))
        .take(MOST_PROBES)
        .filter_map(|(_, socket)| mtu(socket.ip()).map(|(mtu, link)| (mtu, link, socket.ip())))
        .map(|(mtu, link, ip)| (mtu.saturating_sub(overhead(ip)), link, ip))
        .min()?;
    let tunnelled = overhead(address);
    let (level, message) = match wide.checked_sub(small)? {
        0 => return None,
        1..=TUNNEL_OVERHEAD => (
            Level::Info,
            "the way to its pods has a smaller MTU than the LAN, as much as a tunnel takes",
        ),
        _ => (
            Level::Warning,
            "the way to its pods has a much smaller MTU than the LAN: long packets are lost where ICMP \
             \"fragmentation needed\" does not get back to the client",
        ),
    };
    Some(
        of(key, level, message.to_owned())
            .seen(match tunnelled {
                0 => format!("{small} to {address} by {link}, {wide} on {uplink}"),
                _ => format!(
                    "{small} to {address} by {link} less {tunnelled} of the forwarding method tunnel, {wide} on \
                     {uplink}"
                ),
            })
            .mend(format!(
                "ip link set {link} mtu {} (and in the pods, by the CNI's configuration), or let ICMP \
                 through",
                wide + tunnelled
            )),
    )
}

/// What the forwarding method adds to a packet: a header of IP of the endpoint's family, where it tunnels.
fn tunnel_overhead(scene: &Scene<'_>, key: &ServiceKey) -> impl Fn(IpAddr) -> u32 + use<> {
    let service = scene.cluster.and_then(|it| it.services.get(key));
    let method = service.and_then(|it| it.annotations.get(METHOD_ANNOTATION));
    let tunnels = method.is_some_and(|it| it.trim().parse() == Ok(ForwardingMethod::Tunnel));
    let ipvs = scene.running.is_some_and(|it| it.status.datapath == "ipvs");
    move |endpoint| match endpoint {
        _ if !(tunnels && ipvs) => 0,
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    }
}
