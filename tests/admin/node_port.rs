//! Health-check node ports over real sockets: what they answer, and which of them are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgelb::admin::health::{BindFailure, Health, serve_node_ports};
use edgelb::admin::metrics::{Format, Metrics};
use edgelb::admin::snapshot::Snapshot;
use edgelb::model::family::Family;
use edgelb::model::node_state::HealthCheck;
use edgelb::model::service::ServiceKey;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::openmetrics::parse;
use crate::world;

const PATIENCE: Duration = Duration::from_secs(10);

struct Served {
    snapshots: watch::Sender<Arc<Snapshot>>,
    failures: watch::Receiver<Vec<BindFailure>>,
    metrics: Arc<Metrics>,
    /// Ends it all when it is dropped.
    _stop: watch::Sender<bool>,
}

fn serve(snapshot: Snapshot) -> Served {
    let (snapshots, seen) = watch::channel(Arc::new(snapshot));
    let (stop, stopping) = watch::channel(false);
    let (sender, failures) = watch::channel(Vec::new());
    let health = Health::new(seen);
    let metrics = Arc::new(Metrics::new(world::NODE));
    let counted = Arc::clone(&metrics);
    tokio::spawn(async move {
        tokio::join!(
            health.follow(),
            serve_node_ports(health.clone(), counted, sender, stopping)
        );
    });
    Served {
        snapshots,
        failures,
        metrics,
        _stop: stop,
    }
}

/// Name and port of a Service, and how many endpoints it has.
type Check<'c> = (&'c str, u16, &'c [(Family, usize)]);

/// A world in which these Services have these ports and counts.
fn with(checks: &[Check]) -> Snapshot {
    let mut snapshot = world::snapshot();
    for (name, port, counts) in checks {
        let check = HealthCheck {
            port: *port,
            local_endpoints: counts.iter().copied().collect(),
        };
        let service = ServiceKey::new("default", *name);
        (snapshot.applied.state.health_checks).insert(service, check);
    }
    snapshot
}

impl Served {
    fn publish(&self, edit: impl FnOnce(&mut Snapshot), checks: &[Check]) {
        let mut snapshot = with(checks);
        snapshot.pass.number = self.snapshots.borrow().pass.number + 1;
        edit(&mut snapshot);
        self.snapshots.send_replace(Arc::new(snapshot));
    }
}

/// A port that nobody has at the moment.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

fn v4(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn finish(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    tokio::time::timeout(Duration::from_secs(4), read)
        .await
        .expect("the server closes")
        .unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: format!("{head}\r\n").to_lowercase(),
        body: body.to_owned(),
    }
}

async fn ask(address: SocketAddr, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("{request} HTTP/1.1\r\nHost: edge-a\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    Some(finish(stream).await)
}

/// Asks until the port is open, then returns its answer.
async fn opened(address: SocketAddr) -> Answer {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask(address, "GET /").await {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "{address} is not opened");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn closed(address: SocketAddr) {
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "{address} is not closed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn check(answer: &Answer, status: u16, count: usize, healthy: bool) {
    assert_eq!(answer.status, status);
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        &format!("x-load-balancing-endpoint-weight: {count}"),
    ] {
        let line = format!("\r\n{header}\r\n");
        assert!(answer.head.contains(&line), "{header}: {}", answer.head);
    }
    if !answer.body.is_empty() {
        let wanted = json!({
            "service": { "namespace": "default", "name": "web" },
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        });
        assert_eq!(serde_json::from_str::<Value>(&answer.body).unwrap(), wanted);
        assert!(answer.body.lines().count() > 3, "HC-7: {}", answer.body);
    }
}

/// HC-3, HC-4, HC-6, HC-7.
#[tokio::test]
async fn every_path_and_method_answers_with_the_count() {
    let port = free_port().await;
    let served = serve(with(&[("web", port, &[(Family::V4, 2)])]));
    check(&opened(v4(port)).await, 200, 2, true);
    for request in [
        "GET /healthz",
        "GET /any/path?with=query",
        "POST /",
        "PUT /x",
        "DELETE /",
        "HEAD /",
        "OPTIONS *",
        "BREW /coffee",
    ] {
        let answer = ask(v4(port), request).await.unwrap();
        check(&answer, 200, 2, true);
        assert_eq!(answer.body.is_empty(), request.starts_with("HEAD"));
    }
    let text = (served.metrics)
        .render(&world::snapshot(), Format::OpenMetrics)
        .unwrap();
    let series = r#"edgelb_health_answers_total{code="200",path="node_port"}"#;
    assert_eq!(parse(&text).get(series), Some(&9.0), "{text}");
    for (count, status) in [(0, 503), (1, 200)] {
        served.publish(|_| {}, &[("web", port, &[(Family::V4, count)])]);
        let answer = ask(v4(port), "GET /").await.unwrap();
        check(&answer, status, count, true);
    }
}

/// HC-4 and HC-12: what a pass could not apply for too long counts against the node; its endpoints
/// are told as they were.
#[tokio::test]
async fn a_data_plane_that_is_stuck_is_told() {
    let port = free_port().await;
    let checks: &[Check] = &[("web", port, &[(Family::V4, 2)])];
    let served = serve(with(checks));
    opened(v4(port)).await;
    let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(61)) else {
        panic!("this machine has just been started");
    };
    let waiting = |since| {
        move |snapshot: &mut Snapshot| {
            snapshot.applied.waiting.insert(Family::V6, since);
        }
    };
    served.publish(waiting(long_ago), checks);
    let answer = ask(v4(port), "GET /").await.unwrap();
    check(&answer, 503, 2, false);
    served.publish(waiting(Instant::now()), checks);
    check(&ask(v4(port), "GET /").await.unwrap(), 200, 2, true);
}

/// HC-1: each family counts its own.
#[tokio::test]
async fn families_have_listeners_of_their_own() {
    let port = free_port().await;
    let both = [(Family::V4, 3), (Family::V6, 0)];
    let served = serve(with(&[("web", port, &both)]));
    let v6 = SocketAddr::new("::1".parse().unwrap(), port);
    check(&opened(v4(port)).await, 200, 3, true);
    check(&opened(v6).await, 503, 0, true);
    served.publish(|_| {}, &[("web", port, &[(Family::V6, 1)])]);
    closed(v4(port)).await;
    check(&opened(v6).await, 200, 1, true);
}

/// HC-2: with `proxy.node_port_addresses`, on the addresses of the node that match, as they come and
/// go.
#[tokio::test]
async fn listeners_follow_the_addresses_of_the_node() {
    let port = free_port().await;
    let checks: &[Check] = &[("web", port, &[(Family::V4, 1)])];
    let on = |addresses: &'static [&'static str]| {
        move |snapshot: &mut Snapshot| {
            let mut config = edgelb::config::Config::clone(&snapshot.config);
            config.proxy.node_port_addresses = vec!["127.0.0.0/8".parse().unwrap()];
            snapshot.config = Arc::new(config);
            snapshot.applied.state.node_addresses = (addresses.iter())
                .map(|address| address.parse::<std::net::IpAddr>().unwrap())
                .collect();
        }
    };
    let served = serve(world::snapshot());
    served.publish(on(&["127.0.0.2", "127.0.0.3"]), checks);
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], port));
    opened(at(2)).await;
    opened(at(3)).await;
    closed(at(1)).await;
    served.publish(on(&["127.0.0.3", "127.0.0.4"]), checks);
    opened(at(4)).await;
    closed(at(2)).await;
    opened(at(3)).await;
    served.publish(on(&[]), checks);
    closed(at(3)).await;
    closed(at(4)).await;
}

/// HC-8: the old port closes, the new one opens, also where two Services change places.
#[tokio::test]
async fn ports_can_change_places() {
    let (one, other) = (free_port().await, free_port().await);
    let count = [(Family::V4, 1)];
    let served = serve(with(&[("web", one, &count), ("other", other, &count)]));
    let named = async |port, name: &str| {
        let answer = opened(v4(port)).await;
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(body["service"]["name"], name);
    };
    named(one, "web").await;
    named(other, "other").await;
    served.publish(|_| {}, &[("web", other, &count), ("other", one, &count)]);
    let begin = Instant::now();
    loop {
        let answer = opened(v4(one)).await;
        if answer.body.contains("\"other\"") {
            assert_eq!(answer.status, 200);
            break;
        }
        assert_eq!(answer.status, 503, "HC-9: not its port any more");
        assert!(begin.elapsed() < PATIENCE);
    }
    named(other, "web").await;
    assert_eq!(*served.failures.borrow(), []);
    served.publish(|_| {}, &[]);
    closed(v4(one)).await;
    closed(v4(other)).await;
}

/// HC-9: a request that has begun when its Service goes is answered, with 503.
#[tokio::test]
async fn a_request_that_races_with_removal_is_unavailable() {
    let port = free_port().await;
    let served = serve(with(&[("web", port, &[(Family::V4, 2)])]));
    opened(v4(port)).await;
    let mut stream = TcpStream::connect(v4(port)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
    // The server has read that much once it has answered one that came later.
    opened(v4(port)).await;
    served.publish(|_| {}, &[]);
    closed(v4(port)).await;
    stream.write_all(b"st: edge-a\r\n\r\n").await.unwrap();
    check(&finish(stream).await, 503, 0, true);
}

/// HC-10: shown, and opened when it is free, without any pass.
#[tokio::test]
async fn a_taken_port_is_told_and_tried_again() {
    let taken = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = free_port().await;
    let count = [(Family::V4, 1)];
    let mut served = serve(with(&[("web", port, &count), ("other", free, &count)]));
    let one = |failures: &Vec<BindFailure>| failures.len() == 1;
    let failures = tokio::time::timeout(PATIENCE, served.failures.wait_for(one));
    let failure = failures.await.unwrap().unwrap()[0].clone();
    let named = failure.listener.to_string();
    assert_eq!(named, format!("default/web tcp 0.0.0.0:{port}"));
    assert!(failure.message.contains("healthCheckNodePort"));
    // The others are served.
    opened(v4(free)).await;
    drop(taken);
    check(&opened(v4(port)).await, 200, 1, true);
    let none = tokio::time::timeout(PATIENCE, served.failures.wait_for(Vec::is_empty));
    none.await.unwrap().unwrap();
}
