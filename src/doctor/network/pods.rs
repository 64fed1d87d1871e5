//! Whether pods can be told from other clients: by `proxy.cluster_cidrs`, the Nodes' `podCIDRs` and
//! `proxy.cluster_interfaces`. It decides whose address is kept and who may use `ClusterIP`s. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Facts, finding};
use crate::config::{Config, ProxyScope};
use crate::doctor::finding::{Depth, Finding, Level};
use crate::model::cluster::ClusterState;
use crate::model::family::Family;

/// Pods of which the way is asked.
pub(super) const MOST_ASKED: usize = 64;

/// A ready endpoint of a Service with a selector that is in no known pod range and no address of a Node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stranger {
    pub(super) address: IpAddr,
    /// NAMESPACE/NAME
    pub(super) service: String,
    /// The interface that leads to it.
    pub(super) interface: Option<String>,
}

/// What is known to be of pods.
fn ranges<'c>(config: &'c Config, cluster: &'c ClusterState) -> impl Iterator<Item = IpNet> + 'c {
    let nodes = cluster.nodes.values();
    let of_nodes = nodes.flat_map(|node| node.pod_cidrs.iter().copied());
    config.proxy.cluster_cidrs.iter().copied().chain(of_nodes)
}

/// Those of the cluster, without their interfaces.
pub(super) fn strangers(
    config: &Config,
    cluster: &ClusterState,
    own: &dyn Fn(IpAddr) -> bool,
) -> Vec<Stranger> {
    let ranges: BTreeSet<IpNet> = ranges(config, cluster).collect();
    let nodes: BTreeSet<IpAddr> = (cluster.nodes.values())
        .flat_map(|node| node.addresses.iter().copied())
        .collect();
    let known = |address: IpAddr| {
        nodes.contains(&address) || own(address) || ranges.iter().any(|it| it.contains(&address))
    };
    let mut found = BTreeSet::new();
    for slice in cluster.slices.values() {
        // Without a selector somebody wrote addresses, which may be anybody's.
        let service = cluster.services.get(&slice.service);
        if service.is_none_or(|it| it.selector.is_empty()) {
            continue;
        }
        for endpoint in slice.endpoints.iter().filter(|it| it.conditions.ready) {
            if found.len() < MOST_ASKED && !known(endpoint.address) {
                found.insert(Stranger {
                    address: endpoint.address,
                    service: slice.service.to_string(),
                    interface: None,
                });
            }
        }
    }
    found.into_iter().collect()
}

/// Pods that count as clients from outside.
pub(super) fn unknown(facts: &Facts) -> Vec<Finding> {
    let Some(cluster) = facts.cluster else {
        return Vec::new();
    };
    let patterns = &facts.config.proxy.cluster_interfaces;
    let by_interface = |it: &&Stranger| {
        let name = it.interface.as_deref();
        name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
    };
    let mut findings = Vec::new();
    for family in Family::BOTH {
        let of_family = |it: &&Stranger| Family::of(it.address) == family;
        let strangers: Vec<&Stranger> = (facts.strangers.iter())
            .filter(of_family)
            .filter(|it| !by_interface(it))
            .collect();
        let Some(first) = strangers.first() else {
            continue;
        };
        let known: BTreeSet<String> = ranges(facts.config, cluster)
            .filter(|range| Family::of(range.addr()) == family)
            .map(|range| range.to_string())
            .collect();
        let proxy = &facts.config.proxy;
        let refused = proxy.scope == ProxyScope::All
            && !proxy.cluster_ip_from_outside
            && !(known.is_empty() && patterns.is_empty());
        let count = strangers.len();
        let many = if count == MOST_ASKED {
            format!("{count} pods or more")
        } else {
            format!("{count} pods")
        };
        let (level, what) = if refused {
            (Level::Problem, "ClusterIPs refuse them")
        } else {
            (
                Level::Warning,
                "Services treat what they ask as if it came from there",
            )
        };
        let message = format!(
            "{many} are in no known pod range of {family}, so they count as clients from outside: {what}"
        );
        let known: Vec<String> = known.into_iter().take(super::MOST_NAMED).collect();
        let known = if known.is_empty() {
            "no range is known".to_owned()
        } else {
            format!("known are {}", known.join(", "))
        };
        findings.push(
            finding(level, message)
                .seen(format!("{} of {}; {known}", first.address, first.service))
                .at(Depth::Cluster)
                .mend(
                    "proxy.cluster_cidrs = [the ranges of the pod network (CNI)] on every node, then systemctl \
                     reload edgelb",
                ),
        );
    }
    findings
}

/// Patterns that no interface has: with pods on this node they were meant for something else.
pub(super) fn interfaces(facts: &Facts) -> Vec<Finding> {
    let has_pods = facts.cluster.is_some_and(|cluster| {
        let endpoints = cluster.slices.values().flat_map(|it| &it.endpoints);
        let nodes: Vec<IpAddr> = (cluster.nodes.values())
            .flat_map(|node| node.addresses.iter().copied())
            .collect();
        let mut here = endpoints
            .filter(|it| it.node.as_deref() == Some(facts.config.node.name.as_str()))
            .filter(|it| !nodes.contains(&it.address));
        here.next().is_some()
    });
    let patterns = &facts.config.proxy.cluster_interfaces;
    let unmatched = patterns.iter().filter(|pattern| {
        let mut links = facts.links.values();
        !links.any(|link| pattern.matches(&link.name))
    });
    let told = unmatched.map(|pattern| {
        let pattern = pattern.as_str();
        // Those of pods come with the first pod.
        let waits = pattern.contains(['*', '?']) && !has_pods;
        let level = if waits { Level::Info } else { Level::Warning };
        let names: Vec<&str> = (facts.links.values())
            .map(|link| link.name.as_str())
            .filter(|name| *name != "lo")
            .take(8)
            .collect();
        let message = format!(
            "proxy.cluster_interfaces names {pattern}, and no interface of this node is called so: pods are \
             not told by it from clients outside"
        );
        finding(level, message)
            .seen(format!("it has {}", names.join(", ")))
            .mend(
                "let it name the interfaces of pods (ip -br link; ip route get POD-ADDRESS), then systemctl \
                 reload edgelb",
            )
    });
    told.collect()
}
