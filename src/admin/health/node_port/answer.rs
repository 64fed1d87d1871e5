//! What a health-check node port answers: the same to any method on any path (HC-3).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::map_response;
use axum::response::Response;
use serde::Serialize;

use super::super::Health;
use super::super::answer::{json_answer, last_answer};
use super::wanted::Listener;
use crate::admin::metrics::Metrics;

/// How much of the traffic this node should get, for load balancers that weigh (HC-6).
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

#[derive(Clone)]
struct Asked {
    health: Health,
    metrics: Arc<Metrics>,
    listener: Listener,
}

/// HC-7.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'b> {
    service: Named<'b>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct Named<'b> {
    namespace: &'b str,
    name: &'b str,
}

pub(super) fn router(health: Health, metrics: Arc<Metrics>, listener: Listener) -> Router {
    Router::new()
        .fallback(answer)
        .layer(map_response(last_answer))
        .with_state(Asked {
            health,
            metrics,
            listener,
        })
}

#[allow(clippy::unused_async, reason = "axum's handlers are async")]
async fn answer(State(asked): State<Asked>) -> Response {
    let Asked {
        health,
        metrics,
        listener,
    } = asked;
    let snapshot = health.snapshot();
    // A request may come in while its Service, or its port, goes away: then there is nothing here
    // (HC-9).
    let local_endpoints = (snapshot.applied.state.health_checks)
        .get(&listener.service)
        .filter(|check| check.port == listener.address.port())
        .and_then(|check| check.local_endpoints.get(&listener.family))
        .copied()
        .unwrap_or_default();
    let service_proxy_healthy = health.liveness().alive();
    let body = Body {
        service: Named {
            namespace: &listener.service.namespace,
            name: &listener.service.name,
        },
        local_endpoints,
        service_proxy_healthy,
    };
    let mut response = json_answer(local_endpoints > 0 && service_proxy_healthy, &body);
    let weight = HeaderValue::from(local_endpoints);
    response.headers_mut().insert(WEIGHT, weight);
    metrics.health_answered("node_port", response.status().as_u16());
    response
}
