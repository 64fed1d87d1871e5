//! A small API server: speaks HTTP/1.1 as the real one does where the client can see it (pages,
//! streaming lists, watches, bookmarks, refusals), and fails as it is told to.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::script::{Fault, Request, Script, Streaming, recorded};

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
}

impl Server {
    pub async fn start(script: Script) -> Self {
        Self::start_with(Arc::new(Mutex::new(script)), Tls::default()).await
    }

    /// Serves a script that another server may serve too, with TLS where there is an acceptor.
    pub async fn start_with(script: Arc<Mutex<Script>>, tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Shared {
            script,
            changed: watch::Sender::new(0),
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

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn serve(mut stream: impl Stream, shared: &Shared) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).expect("a request is text");
    let target = head.split(' ').nth(1).expect("a target");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decode(value)))
        .collect();
    let request = Request {
        path: path.to_owned(),
        query,
    };
    let Some(kind) = request.watched() else {
        return refuse(&mut stream, 404, None).await;
    };
    let (fault, down, allowed) = {
        let mut script = shared.lock();
        script.requests.push(request.clone());
        let allowed = format!("authorization: bearer {}", script.token);
        let allowed = head.to_lowercase().contains(&allowed);
        let fault = script.faults.entry(kind).or_default().pop_front();
        (fault, script.down, allowed)
    };
    if down {
        return Ok(());
    }
    if !allowed {
        return refuse(&mut stream, 401, None).await;
    }
    match &fault {
        Some(Fault::Status(code, retry_after)) => {
            return refuse(&mut stream, *code, *retry_after).await;
        }
        Some(Fault::Closed) => return Ok(()),
        Some(Fault::Unanswered) => return std::future::pending().await,
        _ => {}
    }
    if request.is_watch() {
        watch_answer(&mut stream, shared, kind, &request, fault).await
    } else {
        list_answer(&mut stream, shared, kind, &request).await
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits: Vec<u8> = rest.by_ref().take(2).collect();
            let digits = String::from_utf8(digits).expect("digits");
            bytes.push(u8::from_str_radix(&digits, 16).expect("a hexadecimal number"));
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).expect("text")
}

fn status(code: u16) -> String {
    if code == 403 {
        return recorded("forbidden.json");
    }
    let reason = match code {
        401 => "Unauthorized",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("scripted {reason}"), "reason": reason, "code": code,
    })
    .to_string()
}

async fn refuse(stream: &mut impl Stream, code: u16, retry_after: Option<u64>) -> io::Result<()> {
    let retry_after = retry_after
        .map(|seconds| format!("Retry-After: {seconds}\r\n"))
        .unwrap_or_default();
    let body = status(code);
    let head = format!(
        "HTTP/1.1 {code} Refused\r\n{retry_after}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
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
        let items: Vec<&str> = (collection.objects.values().skip(offset))
            .take(limit)
            .map(String::as_str)
            .collect();
        let mut metadata = json!({"resourceVersion": collection.version.to_string()});
        let next = offset.saturating_add(limit);
        if next < collection.objects.len() {
            metadata["continue"] = json!(next.to_string());
        }
        format!(
            "{{\"kind\":\"List\",\"metadata\":{metadata},\"items\":[{}]}}",
            items.join(",")
        )
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}

/// A list's bookmark ends it; the others tell how far the server is.
fn bookmark(version: u64, ends_list: bool) -> String {
    let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    json!({"type": "BOOKMARK", "object": {"metadata": metadata}}).to_string()
}

async fn chunk(stream: &mut impl Stream, text: &str) -> io::Result<()> {
    let framed = format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(framed.as_bytes()).await?;
    stream.flush().await
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
        return refuse(stream, 422, None).await;
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
                        .objects
                        .values()
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
            stream.write_all(b"0\r\n\r\n").await?;
            return stream.shutdown().await;
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
            stream.write_all(b"0\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(pause) => lines.push(bookmark(version, false)),
        }
        let mut script = shared.lock();
        if script.down {
            return Ok(());
        }
        let collection = script.collection(kind);
        if collection.oldest > version {
            lines.push(format!("{{\"type\":\"ERROR\",\"object\":{}}}", status(410)));
            version = u64::MAX;
            continue;
        }
        let news = collection.log.iter().filter(|(at, _)| *at > version);
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
