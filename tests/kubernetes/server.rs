//! A small API server: speaks HTTP/1.1 as the real one does where the client can see it (pages,
//! streaming lists, watches, bookmarks, refusals), and fails as it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::http::{self, Answer, Stream, chunk, status};
use crate::objects;
use crate::roles::User;
use crate::script::{Fault, Request, Script, Streaming};
use crate::target::Target;
use crate::write_faults::{Moment, WriteFault};

/// With what new connections begin; it can be exchanged.
pub type Tls = Arc<Mutex<Option<TlsAcceptor>>>;

/// A running server; it ends when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    shared: Shared,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    changed: watch::Sender<u64>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        Self::start_with(Arc::new(Mutex::new(script)), Tls::default()).await
    }

    /// Serves a script that another server may serve too, with TLS where there is an acceptor.
    pub async fn start_with(script: Arc<Mutex<Script>>, tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::start_on(listener, script, tls)
    }

    /// Serves where somebody already listens, in another network namespace for example.
    pub fn start_on(listener: TcpListener, script: Arc<Mutex<Script>>, tls: Tls) -> Self {
        let address = listener.local_addr().expect("its address");
        let shared = Shared {
            script,
            changed: watch::Sender::new(0),
            connections: Arc::default(),
        };
        let mut task = JoinSet::new();
        task.spawn(accept(listener, shared.clone(), tls));
        Self {
            address,
            shared,
            _task: task,
        }
    }

    /// Looks at the script, or changes it; watches notice.
    pub fn with<T>(&self, edit: impl FnOnce(&mut Script) -> T) -> T {
        let result = edit(&mut self.shared.lock());
        self.shared.changed.send_modify(|count| *count += 1);
        result
    }

    /// How many connections there ever were.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn script(&self) -> Arc<Mutex<Script>> {
        Arc::clone(&self.shared.script)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("no test panicked with it")
    }
}

async fn accept(listener: TcpListener, shared: Shared, tls: Tls) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, tls) = (shared.clone(), tls.lock().expect("no panic").clone());
        connections.spawn(async move {
            // A client that goes away is no error of the server.
            let _ = connection(stream, shared, tls).await;
        });
    }
}

async fn connection(stream: TcpStream, shared: Shared, tls: Option<TlsAcceptor>) -> io::Result<()> {
    match tls {
        None => serve(stream, &shared).await,
        Some(tls) => serve(tls.accept(stream).await?, &shared).await,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    shared: &Shared,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = http::read(&mut stream).await? {
        if !answer(&mut stream, shared, request).await? {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

/// Answers one request. `false`: the connection ends here.
async fn answer(stream: &mut impl Stream, shared: &Shared, request: Request) -> io::Result<bool> {
    let watched = request.watched().filter(|_| request.method == "GET");
    let (fault, user) = {
        let mut script = shared.lock();
        script.requests.push(request.clone());
        if script.down || script.cuts.is_cut_off(&request.token) {
            return Ok(false);
        }
        let fault = watched.and_then(|kind| script.faults.entry(kind).or_default().pop_front());
        (fault, script.user(&request.token))
    };
    let Some(user) = user else {
        return refuse(stream, 401, None).await;
    };
    if request.path == "/version" {
        let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2"});
        Answer::of(200, &version).write(stream, false).await?;
        return Ok(true);
    }
    let Some(target) = Target::of(&request) else {
        return refuse(stream, 404, None).await;
    };
    let refusal = shared.lock().check_roles(&user, &target);
    if let Some(refusal) = refusal {
        refusal.write(stream, false).await?;
        return Ok(true);
    }
    let Some(kind) = watched else {
        return write_answer(stream, shared, &user, &target, &request).await;
    };
    match &fault {
        Some(Fault::Status(code, retry_after)) => {
            return refuse(stream, *code, *retry_after).await;
        }
        Some(Fault::Closed) => return Ok(false),
        Some(Fault::Unanswered) => return std::future::pending().await,
        _ => {}
    }
    if request.is_watch() {
        watch_answer(stream, shared, kind, &request, fault).await?;
    } else {
        list_answer(stream, shared, kind, &request).await?;
    }
    Ok(false)
}

/// Answers what is no list and no watch.
async fn write_answer(
    stream: &mut impl Stream,
    shared: &Shared,
    user: &User,
    target: &Target,
    request: &Request,
) -> io::Result<bool> {
    let (cut, fault, latency) = {
        let mut script = shared.lock();
        let cut = script.cuts.meet(&request.token, target);
        let latency = script.write_latency;
        (cut, script.write_faults.next(target), latency)
    };
    // Watches of a client that is cut off end too.
    let noticed = || shared.changed.send_modify(|count| *count += 1);
    if cut == Some(Moment::BeforeItIsApplied) {
        noticed();
        return Ok(false);
    }
    match &fault {
        Some(WriteFault::Status(code, retry_after)) => {
            Answer::scripted(*code, *retry_after)
                .write(stream, false)
                .await?;
            return Ok(true);
        }
        Some(WriteFault::ClosedBefore) => return Ok(false),
        Some(WriteFault::Unanswered { applied: false }) => return std::future::pending().await,
        Some(WriteFault::Delayed(delay)) => tokio::time::sleep(*delay).await,
        _ => {}
    }
    if target.is_write() && !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let answer = objects::answer(&mut shared.lock(), user, target, request);
    noticed();
    match fault {
        Some(WriteFault::ClosedAfter) => return Ok(false),
        Some(WriteFault::Unanswered { applied: true }) => return std::future::pending().await,
        _ => {}
    }
    if cut.is_some() {
        return Ok(false);
    }
    answer.write(stream, false).await?;
    Ok(true)
}

async fn refuse(stream: &mut impl Stream, code: u16, retry_after: Option<u64>) -> io::Result<bool> {
    Answer::scripted(code, retry_after)
        .write(stream, true)
        .await?;
    Ok(false)
}

async fn list_answer(
    stream: &mut impl Stream,
    shared: &Shared,
    kind: Watched,
    request: &Request,
) -> io::Result<()> {
    let limit: usize = request.get("limit").parse().unwrap_or(0);
    let body = {
        let mut script = shared.lock();
        let collection = script.collection(kind);
        let offset: usize = request.get("continue").parse().unwrap_or(0);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let items: Vec<&str> = (collection.shown().skip(offset))
            .take(limit)
            .map(String::as_str)
            .collect();
        let mut metadata = json!({"resourceVersion": collection.version.to_string()});
        let next = offset.saturating_add(limit);
        if next < collection.shown().count() {
            metadata["continue"] = json!(next.to_string());
        }
        format!(
            "{{\"kind\":\"List\",\"metadata\":{metadata},\"items\":[{}]}}",
            items.join(",")
        )
    };
    let answer = Answer {
        code: 200,
        body,
        retry_after: None,
    };
    answer.write(stream, true).await
}

/// A list's bookmark ends it; the others tell how far the server is.
fn bookmark(version: u64, ends_list: bool) -> String {
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": {"metadata": metadata}}).to_string()
}

async fn watch_answer(
    stream: &mut impl Stream,
    shared: &Shared,
    kind: Watched,
    request: &Request,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut changed = shared.changed.subscribe();
    let initial = request.get("sendInitialEvents") == "true";
    let streaming = shared.lock().streaming;
    if initial && streaming == Streaming::Refused {
        return Answer::scripted(422, None).write(stream, true).await;
    }
    let (mut lines, mut version, pause) = {
        let mut script = shared.lock();
        let pause = script.bookmarks;
        let collection = script.collection(kind);
        let mut lines = Vec::new();
        let from = request.get("resourceVersion").parse::<u64>().ok();
        let version = match from {
            Some(version) if version < collection.oldest => {
                lines.push(format!("{{\"type\":\"ERROR\",\"object\":{}}}", status(410)));
                u64::MAX
            }
            Some(version) => version,
            None => {
                lines.extend(
                    collection
                        .shown()
                        .map(|object| format!("{{\"type\":\"ADDED\",\"object\":{object}}}")),
                );
                if initial && streaming == Streaming::Served {
                    lines.push(bookmark(collection.version, true));
                }
                collection.version
            }
        };
        (lines, version, pause)
    };
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    match &fault {
        Some(Fault::Silent) => return std::future::pending().await,
        Some(Fault::Ended) => {
            return stream.write_all(b"0\r\n\r\n").await;
        }
        Some(Fault::Error(code)) => {
            lines = vec![format!(
                "{{\"type\":\"ERROR\",\"object\":{}}}",
                status(*code)
            )];
            version = u64::MAX;
        }
        Some(Fault::Garbage) => lines = vec!["<html>502 Bad Gateway</html>".to_owned()],
        _ => {}
    }
    let mut sent = 0;
    loop {
        for line in std::mem::take(&mut lines) {
            if let Some(Fault::Broken { lines, half }) = fault
                && sent == lines
            {
                if half {
                    chunk(stream, &line[..line.len() / 2]).await?;
                }
                return Ok(());
            }
            chunk(stream, &(line + "\n")).await?;
            sent += 1;
        }
        if version == u64::MAX {
            return stream.write_all(b"0\r\n\r\n").await;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(pause) => lines.push(bookmark(version, false)),
        }
        let mut script = shared.lock();
        if script.down || script.cuts.is_cut_off(&request.token) {
            return Ok(());
        }
        let collection = script.collection(kind);
        if collection.oldest > version {
            lines.push(format!("{{\"type\":\"ERROR\",\"object\":{}}}", status(410)));
            version = u64::MAX;
            continue;
        }
        let known = collection.log.partition_point(|(at, _)| *at <= version);
        let news = collection.log.iter().skip(known);
        lines.extend(news.map(|(_, line)| line.clone()));
        version = collection.version.max(version);
    }
}

/// Something of a Service that the API server would serve.
pub fn service(name: &str, address: &str) -> Value {
    json!({
        "kind": "Service", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "shop", "managedFields": [{"fieldsV1": {"f:spec": {}}}]},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80}], "newField": {"a": 1}},
    })
}
