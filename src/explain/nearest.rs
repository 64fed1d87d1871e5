//! Where a question is about nothing that is served: what is there instead, what it is nearest to, and
//! what to do. The first line is what a client gets, with the cause.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Facts;
use super::words::list;
use crate::config::ProxyScope;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::FrontendAddress;
use crate::model::node_state::HeldFor;
use crate::model::service::{Service, ServiceKey, ServicePort, ServiceType};
use crate::plan::ipam::usage;

/// The most names that are suggested.
const MOST_SUGGESTED: usize = 5;

/// A Service that nobody knows.
pub fn unknown_service(key: &ServiceKey, facts: &Facts<'_>) -> Vec<String> {
    let services = &facts.inputs.cluster.services;
    let mut lines = Vec::new();
    let name = key.to_string();
    let named = |line: &&String| {
        let mut words = line.split(|character: char| character.is_whitespace() || character == ':');
        words.any(|word| word == name)
    };
    let ignored: Vec<&String> = facts.source.ignored.iter().filter(named).collect();
    let broken: Vec<&String> = facts.source.problems.iter().filter(named).collect();
    if let Some(line) = ignored.first() {
        lines.push(format!("{key} is not served: {line}."));
        return lines;
    }
    if let Some(line) = broken.first() {
        lines.push(format!("{key} is not served: it cannot be read: {line}."));
        return lines;
    }
    let elsewhere: Vec<String> = services
        .keys()
        .filter(|known| known.name == key.name)
        .map(ToString::to_string)
        .take(MOST_SUGGESTED)
        .collect();
    lines.push(format!(
        "There is no Service {key} that could be served, of {} that are known.",
        services.len()
    ));
    if elsewhere.is_empty() {
        let close = close_names(&name, services.keys());
        if !close.is_empty() {
            lines.push(format!("Close names: {}.", close.join(", ")));
        }
    } else {
        lines.push(format!(
            "That name is in another namespace: {}.",
            list(&elsewhere)
        ));
    }
    lines.push(
        "A headless Service (clusterIP: None), one of type ExternalName, and one with the label service.kubernetes.io/service-proxy-name have nothing to forward: those are not known here."
            .to_owned(),
    );
    if !facts.source.connected {
        lines.push("The source of Services is not heard now: edgelb status tells why.".to_owned());
    }
    lines
}

/// A Service that has nothing to forward.
pub fn not_forwarded(service: &Service) -> Vec<String> {
    let key = &service.key;
    vec![match service.kind {
        ServiceType::ExternalName => {
            format!(
                "{key} is not served: it is an ExternalName Service, a DNS name and nothing else."
            )
        }
        _ => format!("{key} is not served: it declares no port that can be used."),
    }]
}

/// An address that is no node's, and has no frontend of that port and protocol.
pub fn address(address: IpAddr, port: u16, protocol: Protocol, facts: &Facts<'_>) -> Vec<String> {
    let state = &facts.plan.state;
    let at = format!(
        "{}/{}",
        SocketAddr::new(address, port),
        protocol.lowercase()
    );
    if let Some(held) = state.held.get(&address) {
        return undeclared(address, port, protocol, *held, facts);
    }
    let mut lines = Vec::new();
    let holders = named_by(address, facts);
    if !holders.is_empty() {
        let names = list(&holders);
        lines.push(format!("{at} is not served here: {names} names {address}, and this node does not take packets for it."));
        for holder in &holders {
            let reasons = facts.plan.reasons(holder);
            lines.extend(reasons.iter().map(|reason| format!("{holder}: {reason}.")));
            let service = facts.service(holder);
            let is_cluster_ip = service.is_some_and(|it| it.cluster_ips.contains(&address));
            if is_cluster_ip && facts.config.proxy.scope == ProxyScope::External {
                lines.push(format!(
                    "{address} is a ClusterIP of {holder}, and proxy.scope is \"external\": kube-proxy serves ClusterIPs."
                ));
            }
        }
        return lines;
    }
    if let Some(holder) = endpoint_of(address, facts) {
        lines.push(format!(
            "{at} is no address of a Service: {address} is an endpoint of {holder}, and packets go to it without edgelb."
        ));
        lines.push(format!("Ask for its Service: edgelb explain {holder}"));
        return lines;
    }
    if let Some(pool) = facts.pool_of(address) {
        lines.push(format!(
            "{at} is not served: {address} is in the pool {pool}, and no Service has it."
        ));
        lines.push(in_pool(pool, Family::of(address), facts));
    } else if state
        .service_ranges
        .iter()
        .any(|range| range.contains(&address))
    {
        lines.push(format!(
            "{at} is not served: {address} is in the range of ClusterIPs, and no Service has it: packets are dropped."
        ));
    } else if state
        .pod_ranges
        .iter()
        .any(|range| range.contains(&address))
    {
        lines.push(format!(
            "{at} is no address of a Service: {address} is a pod's, and no Service has it as an endpoint."
        ));
    } else {
        lines.push(format!(
            "{at} is not served: {address} is in no pool, no Service names it, and no node has it."
        ));
        let family = Family::of(address);
        let pools = facts.config.pools.iter();
        let ranges = pools.flat_map(|pool| {
            let ranges = pool
                .ranges
                .iter()
                .filter(move |range| range.family() == family);
            ranges.map(move |range| format!("{range} ({})", pool.name))
        });
        let ranges: Vec<String> = ranges.take(MOST_SUGGESTED).collect();
        if !ranges.is_empty() {
            lines.push(format!("The pools hold {}.", list(&ranges)));
        }
    }
    let same_port = same_port(port, protocol, Family::of(address), facts);
    if !same_port.is_empty() {
        lines.push(format!(
            "Port {port}/{} is served at {}.",
            protocol.lowercase(),
            list(&same_port)
        ));
    }
    lines
}

/// A held address without that port.
fn undeclared(
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    held: HeldFor,
    facts: &Facts<'_>,
) -> Vec<String> {
    let holders = held_by(address, facts);
    let what = match held {
        HeldFor::ClusterIp => "the ClusterIP",
        HeldFor::Vip => "the VIP",
        HeldFor::External => "an external address",
    };
    let at = SocketAddr::new(address, port);
    let wanted = format!("{port}/{}", protocol.lowercase());
    let owners = list(&holders);
    let mut lines = vec![format!(
        "A client that connects to {at}/{} is refused: {owners} does not declare port {wanted}.",
        protocol.lowercase()
    )];
    for holder in &holders {
        let Some(service) = facts.service(holder) else {
            continue;
        };
        let ports: Vec<String> = service.ports.iter().map(declared).collect();
        lines.push(format!(
            "{address} is {what} of {holder}, whose ports are {}.",
            list(&ports)
        ));
        if let Some(same) = service.ports.iter().find(|it| it.port == port) {
            let protocol = same.protocol.lowercase();
            lines.push(format!(
                "Port {port} is declared for {protocol}: edgelb explain {at}/{protocol}"
            ));
        }
        if let Some(by_node) = service.ports.iter().find(|it| it.node_port == Some(port)) {
            lines.push(format!(
                "{port} is the node port of port {}: it is open at the nodes' own addresses.",
                by_node.port
            ));
        }
    }
    lines
}

/// A node's own address, without a node port of that number.
pub fn node_port(
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    node: &str,
    closed: Option<ServiceKey>,
    facts: &Facts<'_>,
) -> Vec<String> {
    let at = SocketAddr::new(address, port);
    if let Some(service) = closed {
        let why = if address.is_loopback() {
            "node ports are not open on loopback addresses".to_owned()
        } else if facts.config.proxy.node_port_addresses.is_empty() {
            "node ports are not open on that address".to_owned()
        } else {
            format!("proxy.node_port_addresses does not hold {address}")
        };
        let open = facts.plan.state.node_addresses.iter();
        let open: Vec<String> = open.map(ToString::to_string).take(MOST_SUGGESTED).collect();
        return vec![
            format!("edgelb does not serve {at}: {port} is a node port of {service}, and {why}."),
            format!("Node ports are open on {}.", list(&open)),
        ];
    }
    let mut lines = vec![format!(
        "edgelb does not serve {at}/{}: {address} is {node}'s own address, and no Service has the node port {port}; a program of the node may listen there.",
        protocol.lowercase()
    )];
    let services = facts.inputs.cluster.services.values();
    for service in services {
        for declared_port in &service.ports {
            let number = declared_port.node_port;
            if number == Some(port) && declared_port.protocol != protocol {
                let protocol = declared_port.protocol.lowercase();
                lines.push(format!(
                    "{port} is a node port of {} for {protocol}: edgelb explain {at}/{protocol}",
                    service.key
                ));
            } else if number == Some(port) {
                let reasons = facts.plan.reasons(&service.key);
                lines.extend(
                    reasons
                        .iter()
                        .map(|reason| format!("{}: {reason}.", service.key)),
                );
            } else if declared_port.port == port && declared_port.protocol == protocol {
                let Some(number) = number.filter(|_| lines.len() <= MOST_SUGGESTED) else {
                    continue;
                };
                lines.push(format!(
                    "Port {port} of {} has the node port {number}: edgelb explain {}",
                    service.key,
                    SocketAddr::new(address, number)
                ));
            }
        }
    }
    lines
}

fn declared(port: &ServicePort) -> String {
    let name = if port.name.is_empty() {
        String::new()
    } else {
        format!(" ({})", port.name)
    };
    format!("{}/{}{name}", port.port, port.protocol.lowercase())
}

/// How full a pool is in a family.
pub fn in_pool(pool: &str, family: Family, facts: &Facts<'_>) -> String {
    let book = facts.inputs.address_book();
    let usage = usage(facts.config, &book, &facts.plan.addresses.allocations);
    let mut usage = usage.iter();
    let usage = usage.find(|usage| usage.pool == pool && usage.family == family);
    let (free, total) = usage.map_or((0, 0), |usage| (usage.free, usage.total));
    format!("The pool {pool} has {free} of {total} {family} addresses free.")
}

/// The Services that hold an address here.
pub fn held_by(address: IpAddr, facts: &Facts<'_>) -> Vec<ServiceKey> {
    let plans = facts.plan.services.iter();
    let holding = plans.filter(|(_, plan)| plan.held.iter().any(|(held, _)| *held == address));
    holding.map(|(key, _)| key.clone()).collect()
}

/// The Services that name an address in any way.
fn named_by(address: IpAddr, facts: &Facts<'_>) -> Vec<ServiceKey> {
    let allocated = facts.plan.addresses.allocations.holders_of(address).iter();
    let mut naming: BTreeSet<ServiceKey> = allocated.cloned().collect();
    let services = facts.inputs.cluster.services.values();
    let names = services.filter(|service| {
        let mut ingress = service.ingress.iter();
        service.cluster_ips.contains(&address)
            || service.external_ips.contains(&address)
            || ingress.any(|ingress| ingress.address == address)
    });
    naming.extend(names.map(|service| service.key.clone()));
    naming.into_iter().take(MOST_SUGGESTED).collect()
}

fn endpoint_of(address: IpAddr, facts: &Facts<'_>) -> Option<ServiceKey> {
    let mut slices = facts.inputs.cluster.slices.values();
    let slice = slices.find(|slice| {
        let mut endpoints = slice.endpoints.iter();
        endpoints.any(|endpoint| endpoint.address == address)
    });
    slice.map(|slice| slice.service.clone())
}

/// The VIPs that have this port.
fn same_port(port: u16, protocol: Protocol, family: Family, facts: &Facts<'_>) -> Vec<String> {
    let frontends = facts.plan.state.frontends.iter();
    let found = frontends.filter_map(|(at, frontend)| {
        let FrontendAddress::Address(address) = at.address else {
            return None;
        };
        let is_vip = facts.plan.state.held.get(&address) == Some(&HeldFor::Vip);
        let same = (at.port, at.protocol, at.address.family()) == (port, protocol, family);
        (is_vip && same).then(|| format!("{address} ({})", frontend.service))
    });
    found.take(MOST_SUGGESTED).collect()
}

/// Names that differ in a few letters, the closest first.
fn close_names<'a>(name: &str, known: impl Iterator<Item = &'a ServiceKey>) -> Vec<String> {
    let most = 1 + name.len() / 4;
    let distances = known.filter_map(|known| {
        let known = known.to_string();
        // The lengths alone tell that most are far off.
        let far = known.len().abs_diff(name.len()) > most;
        let distance = if far {
            usize::MAX
        } else {
            distance(name, &known)
        };
        (distance <= most).then_some((distance, known))
    });
    let mut close: Vec<(usize, String)> = distances.collect();
    close.sort();
    close
        .into_iter()
        .map(|(_, name)| name)
        .take(MOST_SUGGESTED)
        .collect()
}

/// The number of letters to insert, remove or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (letter_of_other, above) in other.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(letter != *letter_of_other);
            left = replaced.min(above + 1).min(left + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
