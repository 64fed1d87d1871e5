//! Finds what a question is about in the plan: frontends of a Service, a health-check node port, or
//! nothing. What it is nearest to where it is nothing is `nearest`'s.

use std::net::IpAddr;

use super::located::{At, Located};
use super::question::{Question, Target};
use super::{Facts, nearest};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendAddress, FrontendPort};
use crate::model::service::ServiceKey;

/// What the question is about.
pub fn locate(question: &Question, facts: &Facts<'_>) -> Located {
    match &question.target {
        Target::Service(key) => of_service(key, facts),
        Target::Address {
            address,
            port,
            protocol,
        } => of_address(*address, *port, *protocol, facts),
    }
}

fn of_service(key: &ServiceKey, facts: &Facts<'_>) -> Located {
    let Some(service) = facts.service(key) else {
        return Located::Nothing(nearest::unknown_service(key, facts));
    };
    if !service.is_forwarded() {
        return Located::Nothing(nearest::not_forwarded(service));
    }
    let plan = facts.plan.services.get(key);
    let frontends = plan.into_iter().flat_map(|plan| &plan.frontends);
    let own = frontends.filter(|(port, _)| {
        let winner = facts.plan.state.frontends.get(port);
        winner.is_some_and(|winner| winner.service == *key)
    });
    let mut at: Vec<At> = own
        .map(|(port, _)| At {
            port: *port,
            address: None,
        })
        .collect();
    // What clients use first: VIPs, then the rest in the order of the plan.
    at.sort_by_key(|at| {
        let kind = super::passage::kind(facts, *at);
        (kind as u8, *at)
    });
    Located::Frontends {
        service: key.clone(),
        at,
    }
}

fn of_address(address: IpAddr, port: u16, protocol: Protocol, facts: &Facts<'_>) -> Located {
    let state = &facts.plan.state;
    let frontend = |address| FrontendPort {
        address,
        protocol,
        port,
    };
    let exact = frontend(FrontendAddress::Address(address));
    if let Some(found) = state.frontends.get(&exact) {
        let at = At {
            port: exact,
            address: None,
        };
        return Located::Frontends {
            service: found.service.clone(),
            at: vec![at],
        };
    }
    let Some(node) = facts.node_with(address) else {
        return Located::Nothing(nearest::address(address, port, protocol, facts));
    };
    let open = node != facts.here() || state.node_addresses.contains(&address);
    let checked = state.health_checks.iter();
    let mut checked = checked.filter(|(_, check)| check.port == port && protocol == Protocol::Tcp);
    if let Some((service, _)) = checked.next() {
        return Located::HealthCheck {
            service: service.clone(),
            address,
        };
    }
    let node_port = frontend(FrontendAddress::NodePort(Family::of(address)));
    match state.frontends.get(&node_port) {
        Some(found) if open => Located::Frontends {
            service: found.service.clone(),
            at: vec![At {
                port: node_port,
                address: Some(address),
            }],
        },
        found => {
            let closed = found.map(|found| found.service.clone());
            Located::Nothing(nearest::node_port(
                address, port, protocol, node, closed, facts,
            ))
        }
    }
}
