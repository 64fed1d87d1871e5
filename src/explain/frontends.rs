//! One frontend and one asker: what the planner decided for it, where, and what the workload sees.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoints::{self, Asked};
use super::located::At;
use super::passage::{Passage, asker, kind, passage};
use super::report::{
    AddressDetails, AddressKind, Asker, Fate, FrontendDetails, StuckDetails, TreatmentDetails,
};
use super::{Facts, owner};
use crate::model::family::Family;
use crate::model::frontend::{
    Frontend, FrontendAddress, RealServer, SourceClass, Treatment, Verdict,
};
use crate::model::observation::{Observation, Path};
use crate::model::service::{Service, ServiceKey, ServicePort, TrafficPolicy};
use crate::plan::{endpoints::ready_nodes, service_on};

/// The frontend; none where it is not this Service's.
pub fn details(
    facts: &Facts<'_>,
    key: &ServiceKey,
    at: &At,
    from: Option<IpAddr>,
    observation: &Observation,
) -> Option<FrontendDetails> {
    let family = at.port.address.family();
    let from = from.filter(|from| Family::of(*from) == family);
    let passage = passage(facts, *at, from, observation);
    let service = facts.service(key)?;
    let planned = facts.plan.state.frontends.get(&at.port);
    let planned = planned.filter(|frontend| frontend.service == *key)?;
    let frontend = if passage.here {
        Arc::clone(planned)
    } else {
        there(facts, key, at, &passage.node).unwrap_or_else(|| Arc::clone(planned))
    };
    let port = service_port(service, at)?;
    let kind = kind(facts, *at);
    let policy = match kind {
        AddressKind::ClusterIp => service.internal_traffic_policy,
        AddressKind::Vip | AddressKind::ExternalIp | AddressKind::Node => {
            service.external_traffic_policy
        }
    };
    let treatment = frontend.treatment(passage.class);
    let list = frontend.real_servers(passage.class);
    let observed = observation.frontends.get(&at.port).filter(|_| passage.here);
    let local = policy == TrafficPolicy::Local
        && (kind == AddressKind::ClusterIp || asker(passage.class) == Asker::Outside);
    let asked = Asked {
        service,
        port,
        family,
        node: &passage.node,
        list,
        local,
        observed,
    };
    let (fate, cause) = fate(facts, &asked, &frontend, &passage, at, from, kind);
    let stuck = observed.and_then(|observed| observed.stuck.as_ref());
    Some(FrontendDetails {
        name: at.port.to_string(),
        kind,
        address: at.destination(),
        protocol: at.port.protocol,
        port: at.port.port,
        service_port: port.port,
        node_port: port.node_port,
        service: key.to_string(),
        asker: asker(passage.class),
        fate,
        cause,
        policy,
        allowed_sources: frontend.allowed_sources.as_ref().map(|it| it.to_vec()),
        way: observed.and_then(|observed| observed.ways.get(&passage.class).cloned()),
        scheduler: frontend.scheduler.as_str().to_owned(),
        forwarding_method: frontend.forwarding_method,
        masquerade: treatment.masquerade,
        seen_as: seen_as(facts, treatment, list, &passage, from, family, observation),
        affinity_seconds: (frontend.session_affinity).map(|affinity| affinity.timeout.as_secs()),
        stuck: stuck.map(|stuck| StuckDetails {
            endpoint: stuck.real_server.map(|it| it.to_string()),
            expires_seconds: stuck.expires.map(|left| left.as_secs()),
        }),
        treatments: [SourceClass::Outside, SourceClass::Pod, SourceClass::Node]
            .map(|class| {
                let treatment = frontend.treatment(class);
                TreatmentDetails {
                    asker: asker(class),
                    fate: of_verdict(&treatment.verdict),
                    endpoints: frontend.real_servers(class).len(),
                    masquerade: treatment.masquerade,
                }
            })
            .to_vec(),
        endpoints: endpoints::details(facts, &asked, observation),
        more_endpoints: 0,
        passes: passage.node.clone(),
        passes_here: passage.here,
    })
}

/// The same frontend as another node plans it.
fn there(facts: &Facts<'_>, key: &ServiceKey, at: &At, node: &str) -> Option<Arc<Frontend>> {
    let plan = service_on(facts.config, facts.inputs, facts.plan, node, key)?;
    let mut frontends = plan.frontends.into_iter();
    frontends
        .find(|(port, _)| *port == at.port)
        .map(|(_, frontend)| frontend)
}

/// The port of the Service behind a frontend.
pub fn service_port<'a>(service: &'a Service, at: &At) -> Option<&'a ServicePort> {
    let mut ports = service.ports.iter();
    ports.find(|port| {
        port.protocol == at.port.protocol
            && match at.port.address {
                FrontendAddress::Address(_) => port.port == at.port.port,
                FrontendAddress::NodePort(_) => port.node_port == Some(at.port.port),
            }
    })
}

fn of_verdict(verdict: &Verdict) -> Fate {
    match verdict {
        Verdict::Forward(_) => Fate::Served,
        Verdict::Refuse => Fate::Refused,
        Verdict::Drop => Fate::Dropped,
    }
}

/// What becomes of the packet, and why if it is not served.
fn fate(
    facts: &Facts<'_>,
    asked: &Asked<'_>,
    frontend: &Frontend,
    passage: &Passage,
    at: &At,
    from: Option<IpAddr>,
    kind: AddressKind,
) -> (Fate, Option<String>) {
    let key = &asked.service.key;
    if passage.nobody {
        let cause = at.destination().map(|vip| {
            let why = owner::details(facts, vip).why.unwrap_or_default();
            format!("no node announces the VIP {vip}: {why}")
        });
        return (Fate::Lost, cause);
    }
    let announced = at.destination().map(|vip| owner::details(facts, vip));
    let nowhere = announced.filter(|vip| {
        let outside = asker(passage.class) == Asker::Outside;
        kind == AddressKind::Vip && outside && vip.owned_here && vip.interfaces.is_empty()
    });
    if let Some(vip) = nowhere {
        let node = facts.here();
        let mut excluded = vip.excluded.iter();
        let why = excluded.find(|excluded| excluded.node == node);
        let why = why.map_or("see edgelb vips", |excluded| excluded.cause.text.as_str());
        let address = vip.address;
        let cause = format!("{node} owns the VIP {address} and announces it nowhere: {why}");
        return (Fate::Lost, Some(cause));
    }
    // SR-3: before anything else is asked.
    if let (Some(from), Some(ranges)) = (from, frontend.allowed_sources.as_deref())
        && !ranges.iter().any(|range| range.contains(&from))
    {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let cause = format!(
            "spec.loadBalancerSourceRanges of {key} does not hold {from} (it holds {})",
            ranges.join(", ")
        );
        return (Fate::Dropped, Some(cause));
    }
    let fate = of_verdict(&frontend.treatment(passage.class).verdict);
    let port = asked.port.port;
    let cause = match fate {
        Fate::Served | Fate::Lost => None,
        Fate::Dropped => Some(no_local_endpoint(facts, asked, kind)),
        // Nobody else is refused where some asker has endpoints (SP-7).
        Fate::Refused
            if passage.class == SourceClass::Outside
                && kind == AddressKind::ClusterIp
                && frontend.treatment(SourceClass::Pod).verdict != Verdict::Refuse =>
        {
            Some(
                "a ClusterIP is for pods and nodes, and proxy.cluster_ip_from_outside is false"
                    .to_owned(),
            )
        }
        Fate::Refused => {
            let lack = endpoints::lack(facts, asked.service, asked.port, asked.family);
            Some(format!("{key} has no endpoint for port {port}: {lack}"))
        }
    };
    (fate, cause)
}

fn no_local_endpoint(facts: &Facts<'_>, asked: &Asked<'_>, kind: AddressKind) -> String {
    let field = match kind {
        AddressKind::ClusterIp => "internalTrafficPolicy",
        _ => "externalTrafficPolicy",
    };
    let (key, node) = (&asked.service.key, asked.node);
    let others: Vec<String> = ready_nodes(&facts.inputs.cluster, key)
        .into_iter()
        .collect();
    let others = if others.is_empty() {
        "no endpoint names its node".to_owned()
    } else {
        format!("there are some on {}", others.join(", "))
    };
    format!("{field} of {key} is Local, and no endpoint is ready on {node}; {others}")
}

/// The sources that workloads may see; none where nobody can say.
fn seen_as(
    facts: &Facts<'_>,
    treatment: &Treatment,
    list: &[RealServer],
    passage: &Passage,
    from: Option<IpAddr>,
    family: Family,
    observation: &Observation,
) -> Vec<IpAddr> {
    let of_node = |endpoints: &mut dyn Iterator<Item = IpAddr>| -> BTreeSet<IpAddr> {
        // Which of its addresses another node takes depends on its own routes.
        if !passage.here {
            return BTreeSet::new();
        }
        endpoints
            .filter_map(|endpoint| match observation.paths.get(&endpoint)? {
                Path::Interface { source, .. } => *source,
                Path::NoRoute => None,
            })
            .collect()
    };
    let mut seen = if treatment.masquerade {
        of_node(&mut list.iter().map(|real_server| real_server.address))
    } else {
        let own = match passage.class {
            SourceClass::Node if passage.here => {
                let preferred = facts.plan.state.preferred_source.get(&family).copied();
                from.or(preferred)
            }
            _ => from,
        };
        own.into_iter().collect()
    };
    // MASQ-8: an endpoint that is its own client.
    let itself = from.filter(|from| {
        let mut listed = list.iter();
        listed.any(|real_server| real_server.address == *from) && !treatment.masquerade
    });
    if let Some(itself) = itself {
        seen.extend(of_node(&mut std::iter::once(itself)));
    }
    seen.into_iter().collect()
}

/// The addresses behind frontends, each once.
pub fn addresses(facts: &Facts<'_>, at: &[At]) -> Vec<AddressDetails> {
    let mut known: Vec<AddressDetails> = Vec::new();
    for at in at {
        let Some(address) = at.destination() else {
            continue;
        };
        if known.iter().any(|known| known.address == address) {
            continue;
        }
        let kind = kind(facts, *at);
        known.push(match kind {
            AddressKind::Vip => owner::details(facts, address),
            kind => {
                let node = (kind == AddressKind::Node).then(|| facts.node_with(address));
                let owner = node.flatten().map(str::to_owned);
                AddressDetails {
                    address,
                    kind,
                    pool: facts.pool_of(address).map(str::to_owned),
                    owned_here: owner.as_deref() == Some(facts.here()),
                    owner,
                    why: None,
                    ranking: Vec::new(),
                    excluded: Vec::new(),
                    interfaces: Vec::new(),
                }
            }
        });
    }
    known
}
