//! A small API server over TLS: streams the made-up cluster as a list, and then what changes in it.
//! Whatever else is asked for is refused as to a user without the right.

use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::objects::{self, Size};

/// A real server sends a bookmark about once a minute.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// The kinds that are served, by their paths.
const KINDS: [(&str, &str); 3] = [
    ("/api/v1/services", "Service"),
    ("/apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice"),
    ("/api/v1/nodes", "Node"),
];

/// What the server tells of one list.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    pub objects: usize,
    pub bytes: usize,
    /// When its last byte was written.
    pub at: Instant,
}

/// A running server; its threads end with the program.
pub struct Server {
    pub address: SocketAddr,
    /// The certificate, as PEM.
    pub certificate: String,
    pub lists: Receiver<Listed>,
    shared: Arc<Shared>,
}

struct Shared {
    size: Size,
    tls: Arc<ServerConfig>,
    lists: Mutex<Sender<Listed>>,
    /// Where the watch of the slices takes its events from.
    slices: Mutex<Option<Sender<String>>>,
}

type Stream = BufWriter<StreamOwned<ServerConnection, TcpStream>>;

impl Server {
    pub fn start(size: Size) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a TLS configuration");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (sender, lists) = mpsc::channel();
        let shared = Arc::new(Shared {
            size,
            tls: Arc::new(tls),
            lists: Mutex::new(sender),
            slices: Mutex::new(None),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                // A client that goes away is no error of the server.
                thread::spawn(move || shared.serve(stream).ok());
            }
        });
        Self {
            address,
            certificate: cert.pem(),
            lists,
            shared,
        }
    }

    /// An endpoint of one Service stops being ready, or is ready again.
    pub fn change(&self, service: u32, unready: Option<u32>) {
        let object = objects::slice(self.shared.size, service, 0, unready);
        let watch = self.shared.slices.lock().expect("no thread panicked");
        let watch = watch.as_ref().expect("the slices are watched");
        watch.send(event("MODIFIED", &object)).expect("it stands");
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let connection = ServerConnection::new(Arc::clone(&self.tls)).map_err(io::Error::other)?;
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        let mut request = String::new();
        stream.read_line(&mut request)?;
        let mut header = String::new();
        while stream.read_line(&mut header)? > 2 {
            header.clear();
        }
        let mut stream = BufWriter::with_capacity(16 << 10, stream.into_inner());
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let watched = KINDS.into_iter().find(|(known, _)| *known == path);
        match watched {
            Some((_, kind)) if query.contains("watch=true") => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                stream.write_all(head.as_bytes())?;
                if query.contains("sendInitialEvents=true") {
                    self.list(kind, &mut stream)?;
                }
                self.watch(kind, &mut stream)
            }
            _ => refuse(&mut stream),
        }
    }

    fn list(&self, kind: &str, stream: &mut Stream) -> io::Result<()> {
        let (mut count, mut bytes) = (0, 0);
        for object in self.objects(kind) {
            let line = event("ADDED", &object);
            count += 1;
            bytes += line.len();
            chunk(stream, &line)?;
        }
        chunk(stream, &bookmark(kind, true))?;
        stream.flush()?;
        let listed = Listed {
            objects: count,
            bytes,
            at: Instant::now(),
        };
        let lists = self.lists.lock().expect("no thread panicked");
        // Nobody waits for a list that is asked for again.
        let _ = lists.send(listed);
        Ok(())
    }

    fn objects<'a>(&'a self, kind: &str) -> Box<dyn Iterator<Item = Value> + 'a> {
        let size = self.size;
        match kind {
            "Service" => Box::new((0..size.services).map(move |it| objects::service(size, it))),
            "Node" => Box::new((0..size.nodes).map(objects::node)),
            _ => Box::new((0..size.services).flat_map(move |it| {
                (0..objects::slices(size)).map(move |part| objects::slice(size, it, part, None))
            })),
        }
    }

    fn watch(&self, kind: &str, stream: &mut Stream) -> io::Result<()> {
        let (sender, events) = mpsc::channel();
        let kept = sender.clone();
        if kind == "EndpointSlice" {
            *self.slices.lock().expect("no thread panicked") = Some(sender);
        }
        loop {
            match events.recv_timeout(BOOKMARKS) {
                Ok(line) => chunk(stream, &line)?,
                Err(RecvTimeoutError::Timeout) => chunk(stream, &bookmark(kind, false))?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            stream.flush()?;
            let _ = &kept;
        }
    }
}

fn event(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn bookmark(kind: &str, ends_list: bool) -> String {
    let mut metadata = json!({"resourceVersion": "9000000", "creationTimestamp": null});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    event("BOOKMARK", &json!({"kind": kind, "metadata": metadata}))
}

fn chunk(stream: &mut Stream, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}

fn refuse(stream: &mut Stream) -> io::Result<()> {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "forbidden: this server has no such object", "reason": "Forbidden", "code": 403,
    })
    .to_string();
    write!(
        stream,
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}
