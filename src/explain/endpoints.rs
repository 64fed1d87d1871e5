//! Each endpoint of a Service port: whether the planner uses it for who asks, and if not, why; and what
//! is wrong where there is none at all.

use super::report::{Cause, EndpointDetails};
use super::{Facts, differences, words};
use crate::model::endpoint::Endpoint;
use crate::model::family::Family;
use crate::model::frontend::RealServer;
use crate::model::observation::{Observation, ObservedFrontend};
use crate::model::service::{Service, ServicePort};
use crate::plan::endpoints::judged;

/// What is asked about.
pub struct Asked<'a> {
    pub service: &'a Service,
    pub port: &'a ServicePort,
    pub family: Family,
    /// The node whose kernel decides.
    pub node: &'a str,
    /// What the planner gives to who asks.
    pub list: &'a [RealServer],
    /// Only endpoints on the node are used, by a Local policy.
    pub local: bool,
    /// What is in this node's kernel, where it decides.
    pub observed: Option<&'a ObservedFrontend>,
}

/// Every endpoint that slices name for the port, and those that only the kernel still has.
pub fn details(
    facts: &Facts<'_>,
    asked: &Asked<'_>,
    observation: &Observation,
) -> Vec<EndpointDetails> {
    let (cluster, key) = (&facts.inputs.cluster, &asked.service.key);
    let here = asked.observed.is_some();
    let view = |real_server: RealServer, endpoint: Option<&Endpoint>| {
        let used = asked.list.contains(&real_server);
        let observed = asked
            .observed
            .and_then(|observed| observed.real_servers.get(&real_server))
            .copied()
            .unwrap_or_default();
        let conditions = endpoint.map(|endpoint| endpoint.conditions);
        let reason = match endpoint {
            None => Some((
                "draining",
                "no EndpointSlice names it any more: it keeps the connections that it has"
                    .to_owned(),
            )),
            Some(endpoint) => (!used).then(|| reason(asked, endpoint)),
        };
        EndpointDetails {
            address: real_server.address,
            port: real_server.port,
            node: endpoint.and_then(|endpoint| endpoint.node.as_deref().map(str::to_owned)),
            ready: conditions.is_some_and(|conditions| conditions.ready),
            serving: conditions.is_some_and(|conditions| conditions.serving),
            terminating: conditions.is_none_or(|conditions| conditions.terminating),
            used,
            reason: reason.map(|(label, text)| Cause {
                label: label.to_owned(),
                text,
            }),
            weight: observed.weight,
            active: observed.connections.map(|connections| connections.active),
            inactive: observed.connections.map(|connections| connections.inactive),
            unreachable: differences::unreachable(observation, real_server.address)
                .filter(|_| used && here),
        }
    };
    let mut all: Vec<EndpointDetails> = judged(cluster, key, asked.port, asked.family)
        .map(|(real_server, endpoint)| view(real_server, Some(endpoint)))
        .collect();
    let observed = asked.observed.map(|observed| &observed.real_servers);
    for (real_server, state) in observed.into_iter().flatten() {
        let known = all
            .iter()
            .any(|known| known.address == real_server.address && known.port == real_server.port);
        let connections = state.connections.unwrap_or_default();
        let has_some = connections.active + connections.inactive > 0;
        if !known && (has_some || state.weight.is_some()) {
            all.push(view(*real_server, None));
        }
    }
    all
}

/// Why the planner does not use an endpoint: it says which, the rest is by elimination (EP-9, POL-2,
/// TOPO-3).
fn reason(asked: &Asked<'_>, endpoint: &Endpoint) -> (&'static str, String) {
    let conditions = endpoint.conditions;
    let elsewhere = endpoint.node.as_deref() != Some(asked.node);
    if !conditions.ready && conditions.serving && conditions.terminating {
        let text = "it is terminating, and serves on only where no other is ready";
        ("terminating", text.to_owned())
    } else if !conditions.ready && conditions.terminating {
        (
            "terminating",
            "it is terminating and serves no more".to_owned(),
        )
    } else if !conditions.ready {
        let text = "it is not ready: its readiness probe fails, or it still starts";
        ("not_ready", text.to_owned())
    } else if asked.local && elsewhere {
        let node = endpoint.node.as_deref().unwrap_or("no node that is known");
        let text = format!(
            "the traffic policy is Local, and it is on {node}, not on {}",
            asked.node
        );
        ("other_node", text)
    } else {
        let hints = |names: &[String]| names.join(", ");
        let (nodes, zones) = (
            hints(endpoint.node_hints.names()),
            hints(endpoint.zone_hints.names()),
        );
        let meant = if nodes.is_empty() { zones } else { nodes };
        let text = format!(
            "its topology hints mean it for {meant}, and others for {}",
            asked.node
        );
        ("hinted_elsewhere", text)
    }
}

/// What is wrong with a port of which no endpoint can be used anywhere.
pub fn lack(facts: &Facts<'_>, service: &Service, port: &ServicePort, family: Family) -> String {
    let slices = facts.inputs.cluster.slices_of(&service.key);
    let slices: Vec<_> = slices.filter(|slice| slice.family == family).collect();
    let selector = if service.selector.is_empty() {
        "it has no selector, so somebody must write its EndpointSlices".to_owned()
    } else {
        format!(
            "its selector {} matches no pod, or the pods have no address",
            service.selector
        )
    };
    let other = facts.inputs.cluster.slices_of(&service.key).next();
    if let (true, Some(other)) = (slices.is_empty(), other) {
        let other = other.family;
        return format!(
            "its EndpointSlices are {other} (addressType), and none is {family}: let the pods have {family} \
             addresses, or give it the ipFamilies of its pods"
        );
    }
    if slices.is_empty() {
        return format!("no {family} EndpointSlice belongs to it: {selector}");
    }
    let endpoints: usize = slices.iter().map(|slice| slice.endpoints.len()).sum();
    if endpoints == 0 {
        return format!("its EndpointSlices are empty: {selector}");
    }
    let named = |name: &str| {
        if name.is_empty() {
            "without a name".to_owned()
        } else {
            format!("named {name}")
        }
    };
    let mut known: Vec<String> = slices
        .iter()
        .flat_map(|slice| &slice.ports)
        .map(|port| {
            format!(
                "{} ({}/{})",
                port.name,
                port.port,
                port.protocol.lowercase()
            )
        })
        .collect();
    known.sort();
    known.dedup();
    let all: Vec<_> = judged(&facts.inputs.cluster, &service.key, port, family).collect();
    if all.is_empty() {
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return format!(
            "its EndpointSlices have no {} port {}, only {known}: check targetPort and the container's ports",
            port.protocol.lowercase(),
            named(&port.name),
        );
    }
    let terminating = all
        .iter()
        .filter(|(_, endpoint)| endpoint.conditions.terminating);
    let terminating = terminating.count();
    let told = words::count(all.len(), "endpoint");
    if terminating == all.len() {
        format!("{told} of it, all terminating")
    } else if all.len() == 1 {
        "its only endpoint is not ready: its readiness probe fails, or it still starts".to_owned()
    } else {
        format!("none of its {told} is ready: their readiness probes fail, or they still start")
    }
}
