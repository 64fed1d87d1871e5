//! What the health-check node port of a Service tells load balancers that ask it.

use std::net::IpAddr;

use super::report::{Explanation, HealthCheckDetails};
use super::{Facts, details};
use crate::model::service::ServiceKey;

/// Explains the port; `address` is the node's that was asked for.
pub fn explain(
    facts: &Facts<'_>,
    service: &ServiceKey,
    address: IpAddr,
    explanation: &mut Explanation,
) {
    let Some(check) = facts.plan.state.health_checks.get(service) else {
        return;
    };
    let local_endpoints: usize = check.local_endpoints.values().sum();
    let status = if local_endpoints > 0 { 200 } else { 503 };
    let port = check.port;
    let node = facts.node_with(address).unwrap_or(facts.here());
    let here = node == facts.here();
    let answer = &mut explanation.answer;
    if here {
        answer.push(format!(
            "{address}:{port} answers HTTP requests with {status}: {service} has {} on {node}.",
            super::words::count(local_endpoints, "ready endpoint")
        ));
        answer.push(format!(
            "It is the health-check node port of {service} (externalTrafficPolicy Local): a load balancer in front asks it which nodes have an endpoint."
        ));
    } else {
        answer.push(format!(
            "{port} is the health-check node port of {service}, and {address} is {node}'s: ask there, with edgelb explain {address}:{port} on {node}."
        ));
        answer.push(format!("This node would answer with {status}."));
    }
    let mut failures = facts.failures.iter();
    let closed = failures.find(|failure| failure.names(&port.to_string()));
    if let Some(failure) = closed.filter(|_| here) {
        explanation.works = false;
        explanation.answer.insert(
            0,
            format!("Nobody answers on {address}:{port}: {}.", failure.message),
        );
    }
    explanation.service = facts
        .service(service)
        .map(|service| details(facts, service));
    explanation.health_check = Some(HealthCheckDetails {
        service: service.to_string(),
        port,
        local_endpoints,
        status,
    });
}
