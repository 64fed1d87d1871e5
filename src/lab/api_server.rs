//! The least API server from which a daemon can read a cluster: it lists and watches what lies in a
//! directory of manifests, and lets nobody write. What it serves is read once, at its start.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::manifests::ManifestDirectory;
use super::{Host, LabError};

/// Its port.
const PORT: u16 = 6443;
/// A watch says that it lives this often.
const BOOKMARKS: Duration = Duration::from_secs(1);
/// Longest head of a request, in octets.
const LONGEST_HEAD: u64 = 64 * 1024;
/// The version of everything: nothing ever changes.
const VERSION: &str = "1";

/// A running API server; dropping it ends it and every watch on it.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// The objects by the last word of their collection's path.
type Objects = BTreeMap<&'static str, Vec<Value>>;

impl ApiServer {
    /// Starts on that host with what lies in the directory now.
    pub fn start(host: &Host, manifests: &ManifestDirectory) -> Result<Self, LabError> {
        let objects = Arc::new(read(manifests.path())?);
        let failed = |source| LabError::Server {
            name: host.name.clone(),
            what: format!("listen on tcp {PORT}"),
            source,
        };
        let address = SocketAddr::from((host.address.ipv4, PORT));
        let listener = host
            .namespace
            .try_run(|| std::net::TcpListener::bind(address))
            .map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = host
            .namespace
            .spawn_thread(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(async {
                    let listener = TcpListener::from_std(listener)?;
                    tokio::select! {
                        ended = accept(listener, objects) => ended,
                        // An error says that the handle is gone, which means the same.
                        _ = stopped => Ok(()),
                    }
                })
            })
            .map_err(failed)?;
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Writes a kubeconfig that leads to it.
    pub fn write_kubeconfig(&self, directory: &Path) -> Result<PathBuf, LabError> {
        let path = directory.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\nclusters:\n- name: lab\n  \
             cluster: {{server: \"http://{}\"}}\nusers:\n- name: lab\n  user: {{}}\ncontexts:\n\
             - name: lab\n  context: {{cluster: lab, user: lab}}\n",
            self.address
        );
        match fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(LabError::File {
                what: "write",
                path,
                source,
            }),
        }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && let Err(error) = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the API server panicked")))
        {
            tracing::warn!(%error, "the lab's API server failed");
        }
    }
}

fn read(directory: &Path) -> Result<Objects, LabError> {
    let failed = |source| LabError::File {
        what: "read",
        path: directory.to_owned(),
        source,
    };
    let mut objects = Objects::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).map_err(failed)?;
        for document in text.split("---\n") {
            let mut object: Value = serde_saphyr::from_str(document)
                .map_err(|error| failed(io::Error::other(error.to_string())))?;
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("resourceVersion".to_owned(), VERSION.into());
                let uid = format!(
                    "{:x}",
                    0x1000 + objects.values().map(Vec::len).sum::<usize>()
                );
                metadata.insert("uid".to_owned(), uid.into());
            }
            let collection = match object.get("kind").and_then(Value::as_str) {
                Some("Service") => "services",
                Some("EndpointSlice") => "endpointslices",
                Some("Node") => "nodes",
                _ => continue,
            };
            objects.entry(collection).or_default().push(object);
        }
    }
    Ok(objects)
}

async fn accept(listener: TcpListener, objects: Arc<Objects>) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let objects = Arc::clone(&objects);
        tokio::spawn(async move {
            // A client that goes away is no error of the server.
            let _ = answer(stream, &objects).await;
        });
    }
}

/// One request; the end of the connection is the end of the answer (RFC 9112, section 6.3).
async fn answer(mut stream: TcpStream, objects: &Objects) -> io::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader.take(LONGEST_HEAD)).lines();
    let Some(request) = lines.next_line().await? else {
        return Ok(());
    };
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let mut words = request.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let collection = path.rsplit('/').next().unwrap_or_default();
    if method != Some("GET") {
        return refuse(&mut writer, 403, "Forbidden").await;
    }
    if path == "/version" {
        let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"});
        return head(&mut writer, "200 OK", Some(&version)).await;
    }
    if !["services", "endpointslices", "nodes"].contains(&collection) {
        return refuse(&mut writer, 404, "NotFound").await;
    }
    let items = objects
        .get(collection)
        .map(Vec::as_slice)
        .unwrap_or_default();
    if !query.split('&').any(|pair| pair == "watch=true") {
        let list = json!({
            "kind": "List",
            "metadata": {"resourceVersion": VERSION},
            "items": items,
        });
        return head(&mut writer, "200 OK", Some(&list)).await;
    }
    head(&mut writer, "200 OK", None).await?;
    let mut first = String::new();
    if query.contains("sendInitialEvents=true") {
        for object in items {
            // Writing to a String cannot fail.
            let _ = writeln!(first, "{}", json!({"type": "ADDED", "object": object}));
        }
        first += &bookmark(true);
    }
    writer.write_all(first.as_bytes()).await?;
    loop {
        tokio::time::sleep(BOOKMARKS).await;
        writer.write_all(bookmark(false).as_bytes()).await?;
    }
}

fn bookmark(ends_list: bool) -> String {
    let mut metadata = json!({"resourceVersion": VERSION, "creationTimestamp": null});
    if ends_list && let Some(metadata) = metadata.as_object_mut() {
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        metadata.insert("annotations".to_owned(), annotations);
    }
    format!(
        "{}\n",
        json!({"type": "BOOKMARK", "object": {"metadata": metadata}})
    )
}

async fn refuse(
    writer: &mut (impl AsyncWriteExt + Unpin),
    code: u16,
    reason: &str,
) -> io::Result<()> {
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "this server only reads",
        "reason": reason,
        "code": code,
    });
    head(writer, &format!("{code} {reason}"), Some(&status)).await
}

async fn head(
    writer: &mut (impl AsyncWriteExt + Unpin),
    status: &str,
    body: Option<&Value>,
) -> io::Result<()> {
    let body = body.map(ToString::to_string).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{body}"
    );
    writer.write_all(text.as_bytes()).await
}
