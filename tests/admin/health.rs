//! The HTTP listeners over real sockets on 127.0.0.1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgelb::admin::health::{Addresses, Health, Paths, serve, serve_on};
use edgelb::admin::metrics::Metrics;
use edgelb::admin::snapshot::Snapshot;
use edgelb::config::SourceKind;
use edgelb::model::family::Family;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::openmetrics::{parse, parse_text};
use crate::world;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("\r\ncontent-type: application/json\r\n"));
        assert!(
            self.head
                .contains("\r\nx-content-type-options: nosniff\r\n")
        );
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn get(address: SocketAddr, path: &str) -> Answer {
    // The server closes after one answer, and does not let it come to the connection's time limit.
    get_within(address, path, Duration::from_secs(4)).await
}

async fn get_within(address: SocketAddr, path: &str, longest: Duration) -> Answer {
    ask_within(address, "GET", path, longest).await
}

async fn ask_within(address: SocketAddr, method: &str, path: &str, longest: Duration) -> Answer {
    ask_for(address, method, path, "", longest).await
}

/// With further header lines.
async fn ask_for(
    address: SocketAddr,
    method: &str,
    path: &str,
    lines: &str,
    longest: Duration,
) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: edge-a\r\nContent-Length: 0\r\n{lines}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let read = stream.read_to_string(&mut text);
    let read = tokio::time::timeout(longest, read).await;
    assert!(read.is_ok(), "{path} has no end");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: format!("{head}\r\n").to_lowercase(),
        body: body.to_owned(),
    }
}

type Edit = fn(&mut edgelb::model::cluster::Node);

struct Served {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn served(paths: Paths, snapshot: Snapshot) -> Served {
    let (snapshots, seen) = watch::channel(Arc::new(snapshot));
    let (stop, stopping) = watch::channel(false);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = Health::new(seen);
    let metrics = Arc::new(Metrics::new(world::NODE));
    let task = tokio::spawn(async move {
        tokio::join!(
            health.follow(),
            serve_on(listener, paths, health.clone(), metrics, stopping)
        );
    });
    Served {
        address,
        snapshots,
        stop,
        task,
    }
}

#[tokio::test]
async fn a_live_daemon_on_an_eligible_node_is_healthy() {
    let served = served(Paths::Observability, world::snapshot()).await;
    for path in ["/livez", "/healthz"] {
        let answer = get(served.address, path).await;
        assert_eq!(answer.status, 200, "{path}");
        let body = answer.json();
        assert_eq!(body["healthy"], true);
        assert_eq!(body["lastUpdated"], body["currentTime"], "HZ-8");
        assert_eq!(body["status"]["IPv4"]["healthy"], true);
        assert_eq!(body["status"]["IPv6"]["healthy"], true);
        let eligible = (path == "/healthz").then_some(&Value::Bool(true));
        assert_eq!(body.get("nodeEligible"), eligible);
    }
    let not_ready = get(served.address, "/readyz").await;
    assert_eq!(not_ready.status, 503);
    assert_eq!(not_ready.json()["failures"][0], "no permission");
    let mut ready = world::snapshot();
    ready.ready = true;
    served.snapshots.send_replace(Arc::new(ready));
    assert_eq!(get(served.address, "/readyz").await.status, 200);
}

#[tokio::test]
async fn metrics_come_in_the_format_that_was_asked_for() {
    let served = served(Paths::Observability, world::snapshot()).await;
    let longest = Duration::from_secs(4);
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let text = "text/plain; version=0.0.4; charset=utf-8";
    for (lines, media_type) in [
        (
            "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3\r\n",
            open,
        ),
        (
            "Accept: text/html\r\nAccept: application/openmetrics-text\r\n",
            open,
        ),
        ("", text),
        ("Accept: */*\r\n", text),
        ("Accept: \u{ff}\r\n", text),
    ] {
        let answer = ask_for(served.address, "GET", "/metrics", lines, longest).await;
        assert_eq!(answer.status, 200);
        let wanted = format!("content-type: {media_type}\r\n");
        assert!(answer.head.contains(&wanted), "{lines} {}", answer.head);
        assert!(
            answer.head.contains("\r\nvary: accept\r\n"),
            "{}",
            answer.head
        );
        let samples = if media_type == open {
            parse(&answer.body)
        } else {
            parse_text(&answer.body)
        };
        assert_eq!(samples["edgelb_services"], 5.0);
    }
}

/// HZ-9, and any method as kube-proxy takes it.
#[tokio::test]
async fn health_answers_any_method_and_counts() {
    let served = served(Paths::Observability, world::snapshot()).await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        for path in ["/livez", "/healthz"] {
            let answer = ask_within(served.address, method, path, Duration::from_secs(4)).await;
            assert_eq!(answer.status, 200, "{method} {path}");
            assert_eq!(answer.body.is_empty(), method == "HEAD", "{method} {path}");
        }
    }
    let deleting = world::with_inputs(|inputs| {
        let mut node = world::node(world::NODE, "192.0.2.11");
        node.deleting = true;
        inputs.cluster.nodes.insert(node.name.clone(), node.into());
    });
    served.snapshots.send_replace(Arc::new(deleting));
    eventually(served.address, "/healthz", 503).await;
    let samples = parse_text(&get(served.address, "/metrics").await.body);
    let answers = |path, code| {
        let series = format!("edgelb_health_answers_total{{code=\"{code}\",path=\"{path}\"}}");
        samples.get(&series).copied().unwrap_or_default()
    };
    assert_eq!(answers("/livez", 200), 7.0);
    // Until the change is seen there may be more.
    assert!(answers("/healthz", 200) >= 7.0);
    assert_eq!(answers("/healthz", 503), 1.0);
    let changes = ask_within(served.address, "POST", "/readyz", Duration::from_secs(4)).await;
    assert_eq!(changes.status, 405);
}

#[tokio::test]
async fn outsiders_see_health_and_nothing_else() {
    let served = served(Paths::Health, world::snapshot()).await;
    for (path, status) in [
        ("/livez", 200),
        ("/healthz", 200),
        ("/metrics", 404),
        ("/readyz", 404),
        ("/", 404),
    ] {
        assert_eq!(get(served.address, path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn eligibility_is_told_by_healthz_alone() {
    let served = served(Paths::Health, world::snapshot()).await;
    let publish = |edit: Edit| {
        let snapshot = world::with_inputs(|inputs| {
            let mut node = world::node(world::NODE, "192.0.2.11");
            edit(&mut node);
            inputs.cluster.nodes.insert(node.name.clone(), node.into());
        });
        served.snapshots.send_replace(Arc::new(snapshot));
    };
    let edits: [(Edit, bool); 3] = [
        (|node| node.deleting = true, false),
        (
            |node| node.taints = vec!["ToBeDeletedByClusterAutoscaler".to_owned()],
            false,
        ),
        (
            |node| node.taints = vec!["node.kubernetes.io/unschedulable".to_owned()],
            true,
        ),
    ];
    for (edit, eligible) in edits {
        publish(edit);
        let answer = eventually(served.address, "/healthz", if eligible { 200 } else { 503 }).await;
        assert_eq!(answer.json()["nodeEligible"], eligible);
        assert_eq!(answer.json()["healthy"], true, "HZ-8");
        assert_eq!(get(served.address, "/livez").await.status, 200, "HZ-5");
    }
    // HZ-7: a Node object that is gone changes nothing by itself.
    let gone = world::with_inputs(|inputs| {
        inputs.cluster.nodes.remove(world::NODE);
    });
    served.snapshots.send_replace(Arc::new(gone));
    assert_eq!(get(served.address, "/healthz").await.status, 200);
}

/// Asks until the answer has this status: the follower runs beside the server.
async fn eventually(address: SocketAddr, path: &str, status: u16) -> Answer {
    let begin = Instant::now();
    loop {
        let answer = get(address, path).await;
        if answer.status == status {
            return answer;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{path} is {}",
            answer.status
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_node_that_the_cluster_never_knew_is_not_eligible() {
    let unknown = world::with_inputs(|inputs| {
        inputs.cluster.nodes.remove(world::NODE);
    });
    let unknown = served(Paths::Health, unknown).await;
    assert_eq!(get(unknown.address, "/healthz").await.status, 503);
    let early = served(Paths::Health, world::empty()).await;
    assert_eq!(get(early.address, "/healthz").await.status, 503);
    assert_eq!(get(early.address, "/livez").await.status, 200, "HZ-4");
    // Without any Node this node is alone and serves everything, where nobody knows of Nodes.
    let alone = world::with(|config, inputs| {
        config.source.kind = SourceKind::Manifests;
        inputs.cluster.nodes.clear();
    });
    let alone = served(Paths::Health, alone).await;
    assert_eq!(get(alone.address, "/healthz").await.status, 200);
}

#[tokio::test]
async fn a_loop_that_has_ended_is_not_alive() {
    let served = served(Paths::Health, world::snapshot()).await;
    drop(served.snapshots);
    let answer = get(served.address, "/livez").await;
    assert_eq!(answer.status, 503);
    let body = answer.json();
    assert_eq!(body["healthy"], false);
    assert_eq!(body["lastUpdated"], "2027-01-15T08:00:02Z", "the last pass");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_is_silent_for_two_resyncs_is_not_alive() {
    let (snapshots, seen) = watch::channel(Arc::new(world::snapshot()));
    let health = Health::new(seen);
    let follower = tokio::spawn({
        let health = health.clone();
        async move { health.follow().await }
    });
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(health.liveness().alive());
    snapshots.send_replace(Arc::new(world::snapshot()));
    tokio::task::yield_now().await;
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(health.liveness().alive(), "the last one came later");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!health.liveness().alive());
    drop(snapshots);
    follower.await.unwrap();
}

/// Case 68: what waits for more than a minute is told, with its family; and it recovers.
#[tokio::test]
async fn a_change_that_cannot_be_applied_is_told_by_family() {
    let served = served(Paths::Health, world::snapshot()).await;
    let ago = |seconds| {
        Instant::now()
            .checked_sub(Duration::from_secs(seconds))
            .unwrap()
    };
    let (v4, v6) = (Family::V4, Family::V6);
    let minute = Duration::from_secs(60);
    for (waiting, resync, stuck) in [
        (vec![(v4, 59)], minute / 2, vec![]),
        (vec![(v4, 61)], minute / 2, vec!["IPv4"]),
        (vec![(v4, 59), (v6, 61)], minute / 2, vec!["IPv6"]),
        (vec![(v4, 61), (v6, 61)], minute / 2, vec!["IPv4", "IPv6"]),
        (vec![(v4, 61)], minute / 60, vec!["IPv4"]),
        (vec![(v4, 61)], minute, vec![]),
        (vec![(v4, 121)], minute, vec!["IPv4"]),
        (vec![], minute / 2, vec![]),
    ] {
        let mut snapshot = world::with(|config, _| config.proxy.resync_interval = resync);
        snapshot.applied.waiting = (waiting.iter())
            .map(|(family, seconds)| (*family, ago(*seconds)))
            .collect();
        served.snapshots.send_replace(Arc::new(snapshot));
        for path in ["/livez", "/healthz"] {
            let answer = get(served.address, path).await;
            let good = stuck.is_empty();
            assert_eq!(
                answer.status,
                if good { 200 } else { 503 },
                "{path} {waiting:?}"
            );
            let body = answer.json();
            assert_eq!(body["healthy"], good);
            assert_eq!(body["lastUpdated"] == body["currentTime"], good, "HZ-8");
            for family in ["IPv4", "IPv6"] {
                let status = &body["status"][family];
                let healthy = !stuck.contains(&family);
                assert_eq!(status["healthy"], healthy, "{family} {waiting:?}");
                let updated = status["lastUpdated"].as_str().unwrap();
                assert_eq!(updated == "2027-01-15T08:00:02Z", !healthy, "{updated}");
            }
        }
    }
}

#[tokio::test]
async fn silent_connections_end_by_themselves_and_stop_waits_for_none() {
    let served = served(Paths::Health, world::snapshot()).await;
    let begin = Instant::now();
    let mut silent = TcpStream::connect(served.address).await.unwrap();
    silent.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    // Closed or reset, either way it ends.
    let _ = silent.read_to_end(&mut rest).await;
    assert!(begin.elapsed() >= Duration::from_secs(4));
    assert!(begin.elapsed() < Duration::from_secs(8));

    let _silent = TcpStream::connect(served.address).await.unwrap();
    assert_eq!(get(served.address, "/livez").await.status, 200);
    let begin = Instant::now();
    served.stop.send_replace(true);
    drop(served.snapshots);
    served.task.await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_silent_connections_than_places_do_not_keep_others_out_for_long() {
    let served = served(Paths::Health, world::snapshot()).await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let answer = get_within(served.address, "/livez", Duration::from_secs(8)).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_taken_address_is_tried_again_until_it_is_free() {
    let occupied = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = occupied.local_addr().unwrap();
    let (_snapshots, seen) = watch::channel(Arc::new(world::snapshot()));
    let (stop, stopping) = watch::channel(false);
    let metrics = Arc::new(Metrics::new(world::NODE));
    let addresses = Addresses {
        observability: "127.0.0.1:0".parse().unwrap(),
        health: address,
    };
    let task = tokio::spawn(serve(
        addresses,
        seen,
        metrics,
        watch::channel(Vec::new()).0,
        stopping,
    ));
    let waiting = TcpStream::connect(address).await.unwrap();
    drop(waiting);
    let _ = occupied.accept().await.unwrap();
    assert!(!task.is_finished(), "the daemon goes on");
    drop(occupied);
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(12), "HZ-10");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(address, "/livez").await.status, 200);
    stop.send_replace(true);
    task.await.unwrap();
}
