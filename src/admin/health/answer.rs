//! What each path answers. Bodies are JSON with the keys that users of kube-proxy know (HZ-8).

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{any, get};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tracing::error;

use super::{Health, Paths};
use crate::admin::metrics::{Format, Metrics};
use crate::model::family::Family;

const JSON: &str = "application/json";
const LIVEZ: &str = "/livez";
const HEALTHZ: &str = "/healthz";

#[derive(Clone)]
struct Told {
    health: Health,
    metrics: Arc<Metrics>,
    /// One writes metrics at a time: however many ask, the other processors are the daemon's.
    writing: Arc<Mutex<()>>,
}

pub(super) fn router(paths: Paths, health: Health, metrics: Arc<Metrics>) -> Router {
    // Any method, as kube-proxy answers them.
    let both = Router::new()
        .route(LIVEZ, any(livez))
        .route(HEALTHZ, any(healthz));
    let router = match paths {
        Paths::Health => both,
        Paths::Observability => both
            .route("/metrics", get(metrics_text))
            .route("/readyz", get(readyz)),
    };
    router.layer(map_response(last_answer)).with_state(Told {
        health,
        metrics,
        writing: Arc::default(),
    })
}

/// One answer a connection, whatever the path, so that idle clients hold no place.
#[allow(clippy::unused_async, reason = "axum's middleware is async")]
pub(super) async fn last_answer(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// HZ-5: the daemon alone, whatever becomes of its node.
async fn livez(State(told): State<Told>) -> Response {
    health_answer(&told, LIVEZ, false)
}

/// HZ-6: and whether the node should get traffic from outside.
async fn healthz(State(told): State<Told>) -> Response {
    health_answer(&told, HEALTHZ, true)
}

fn health_answer(told: &Told, path: &'static str, with_node: bool) -> Response {
    let liveness = told.health.liveness();
    let healthy = liveness.alive();
    let good = healthy && (liveness.eligible || !with_node);
    let now = SystemTime::now();
    // HZ-8: a good answer is about now, a bad one tells since when there is nothing newer.
    let last_updated = |good| timestamp(if good { now } else { liveness.last_updated });
    let family = |family: Family| {
        let healthy = !liveness.stuck.contains(&family);
        let state = json!({ "lastUpdated": last_updated(good || healthy), "healthy": healthy });
        (family.as_str().to_owned(), state)
    };
    let mut body = json!({
        "lastUpdated": last_updated(good),
        "currentTime": timestamp(now),
        "healthy": healthy,
        "status": Family::BOTH.map(family)
            .into_iter()
            .collect::<serde_json::Map<String, Value>>(),
    });
    if let (true, Some(body)) = (with_node, body.as_object_mut()) {
        body.insert("nodeEligible".to_owned(), liveness.eligible.into());
    }
    let response = json_answer(good, &body);
    // HZ-9.
    (told.metrics).health_answered(path, response.status().as_u16());
    response
}

/// Whether this node holds everything that it must hold.
async fn readyz(State(told): State<Told>) -> Response {
    let snapshot = told.health.snapshot();
    let failures: Vec<&str> = (snapshot.pass.failures.iter())
        .map(|failure| failure.message.as_str())
        .collect();
    let body = json!({
        "currentTime": timestamp(SystemTime::now()),
        "ready": snapshot.ready,
        "pass": snapshot.pass.number,
        "failures": failures,
    });
    json_answer(snapshot.ready, &body)
}

async fn metrics_text(State(told): State<Told>, headers: HeaderMap) -> Response {
    let accept = headers.get_all(header::ACCEPT).into_iter();
    let accept: Vec<&str> = accept.filter_map(|it| it.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let _turn = told.writing.lock().await;
    // Ten thousand Services take some time to read and to write: not on a thread that others wait for.
    let rendered =
        spawn_blocking(move || told.metrics.render(&told.health.snapshot(), format)).await;
    let error = match rendered {
        Ok(Ok(text)) => {
            let mut response = answer(StatusCode::OK, format.media_type(), text);
            let vary = HeaderValue::from_static("accept");
            response.headers_mut().insert(header::VARY, vary);
            return response;
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    error!(error, "cannot write the metrics");
    failed()
}

fn failed() -> Response {
    json_answer_with(
        StatusCode::INTERNAL_SERVER_ERROR,
        &json!({ "error": "the metrics could not be written; the daemon's log says why" }),
    )
}

pub(super) fn json_answer(good: bool, body: &impl Serialize) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_answer_with(status, body)
}

fn json_answer_with(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string_pretty(body) {
        Ok(text) => answer(status, JSON, text),
        Err(error) => {
            error!(%error, "cannot write a health answer");
            answer(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{}".to_owned())
        }
    }
}

fn answer(status: StatusCode, media_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// RFC 3339; a clock beyond what that can write is shown as 1970.
fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time)
        .unwrap_or_default()
        .to_string()
}
