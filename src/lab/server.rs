//! A small server that says who it is and whom it sees, over TCP and UDP.
//!
//! To each line (TCP) or datagram (UDP) it answers one line: `NAME PEER TEXT`, where PEER is the
//! sender as `address:port` and TEXT is what was sent. A TCP connection stays open for more lines.
//! One thread with a runtime of its own, built inside the namespace; it keeps nothing of what it
//! served but a count.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc as requests};
use tokio::task::JoinHandle as Task;

use super::client::Protocol;
use super::{LabError, Namespace};

/// Longest line of a client, with its line feed; a longer one closes the connection.
const LONGEST_LINE: u64 = 1024;
/// Most connections at a time; more wait in the kernel's backlog.
const MOST_CONNECTIONS: usize = 4096;
/// After an error such as "too many open files", accepting waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A port to listen on, on all addresses of both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Listen {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port, not 0.
    pub port: u16,
}

impl Listen {
    /// A TCP port.
    pub const fn tcp(port: u16) -> Self {
        Self {
            protocol: Protocol::Tcp,
            port,
        }
    }

    /// A UDP port.
    pub const fn udp(port: u16) -> Self {
        Self {
            protocol: Protocol::Udp,
            port,
        }
    }
}

/// A running server. Dropping it closes its listeners and all its connections.
#[derive(Debug)]
pub struct Server {
    name: String,
    requests: Option<requests::UnboundedSender<Request>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    served: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Request {
    listen: Listen,
    open: bool,
    reply: mpsc::Sender<io::Result<()>>,
}

impl Server {
    /// Starts a server in the namespace; it listens on every port when this returns.
    pub fn start(namespace: &Namespace, name: &str, listen: &[Listen]) -> Result<Self, LabError> {
        let failed = |source| LabError::Server {
            name: name.to_owned(),
            what: "start its thread".to_owned(),
            source,
        };
        let (requests, received) = requests::unbounded_channel();
        let count = Arc::new(AtomicU64::new(0));
        let voice = Voice {
            name: Arc::from(name),
            served: Arc::clone(&count),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        };
        let thread = namespace
            .spawn_thread(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(serve(received, voice));
                // Dropping the runtime drops its tasks, and with them every connection.
                Ok(())
            })
            .map_err(failed)?;
        let server = Self {
            name: name.to_owned(),
            requests: Some(requests),
            thread: Some(thread),
            served: count,
        };
        listen.iter().try_for_each(|listen| server.open(*listen))?;
        Ok(server)
    }

    /// Starts to listen on one more port.
    pub fn open(&self, listen: Listen) -> Result<(), LabError> {
        self.ask(listen, true)
    }

    /// Stops listening on a port. Connections that were accepted go on.
    pub fn close(&self, listen: Listen) -> Result<(), LabError> {
        self.ask(listen, false)
    }

    /// How many lines and datagrams were answered since the start.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn ask(&self, listen: Listen, open: bool) -> Result<(), LabError> {
        let (reply, answer) = mpsc::channel();
        let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the server's thread has ended");
        let sent = self.requests.as_ref().is_some_and(|requests| {
            requests
                .send(Request {
                    listen,
                    open,
                    reply,
                })
                .is_ok()
        });
        let result = if sent {
            answer.recv().unwrap_or_else(|_| Err(gone()))
        } else {
            Err(gone())
        };
        result.map_err(|source| LabError::Server {
            name: self.name.clone(),
            what: format!(
                "{} {} {}",
                if open { "listen on" } else { "close" },
                listen.protocol,
                listen.port
            ),
            source,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && let Err(error) = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the server panicked")))
        {
            tracing::warn!(server = %self.name, %error, "lab server failed");
        }
    }
}

#[derive(Debug, Clone)]
struct Voice {
    name: Arc<str>,
    served: Arc<AtomicU64>,
    connections: Arc<Semaphore>,
}

async fn serve(mut requests: requests::UnboundedReceiver<Request>, voice: Voice) {
    let mut listeners: HashMap<Listen, Vec<Task<()>>> = HashMap::new();
    while let Some(Request {
        listen,
        open,
        reply,
    }) = requests.recv().await
    {
        let result = if open && listeners.contains_key(&listen) {
            Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "already listening",
            ))
        } else if open {
            start_listeners(listen, &voice).map(|tasks| {
                listeners.insert(listen, tasks);
            })
        } else {
            stop_listeners(listeners.remove(&listen)).await
        };
        // Whoever asked may have given up waiting; there is nobody else to tell.
        let _ = reply.send(result);
    }
}

async fn stop_listeners(tasks: Option<Vec<Task<()>>>) -> io::Result<()> {
    let tasks = tasks.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "not listening"))?;
    for task in tasks {
        task.abort();
        // The socket is closed when the task is gone, and "closed" must be true on return.
        let _ = task.await;
    }
    Ok(())
}

fn start_listeners(listen: Listen, voice: &Voice) -> io::Result<Vec<Task<()>>> {
    let mut tasks = Vec::new();
    for address in [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ] {
        let voice = voice.clone();
        let socket = match open_socket(listen.protocol, SocketAddr::new(address, listen.port)) {
            Ok(socket) => socket,
            // A kernel without IPv6 still serves IPv4.
            Err(error)
                if address.is_ipv6()
                    && error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        match listen.protocol {
            Protocol::Tcp => {
                let listener = TcpListener::from_std(socket.into())?;
                tasks.push(tokio::spawn(accept(listener, voice)));
            }
            Protocol::Udp => {
                let socket = UdpSocket::from_std(socket.into())?;
                tasks.push(tokio::spawn(answer_datagrams(socket, voice)));
            }
        }
    }
    Ok(tasks)
}

/// One socket a family: on a socket for both, IPv4 peers would look like IPv6 ones.
fn open_socket(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(1024)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, voice: Voice) {
    loop {
        let Ok(permit) = Arc::clone(&voice.connections).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let voice = voice.clone();
                tokio::spawn(async move {
                    // A connection that breaks is the client's to notice.
                    let _ = answer_lines(stream, peer, &voice).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(server = %voice.name, %error, "lab server cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_lines(mut stream: TcpStream, peer: SocketAddr, voice: &Voice) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut reader)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
            .await?;
        let Some(text) = line.strip_suffix(b"\n") else {
            return Ok(());
        };
        writer.write_all(&voice.answer(peer, text)).await?;
    }
}

async fn answer_datagrams(socket: UdpSocket, voice: Voice) {
    let mut buffer = [0; 2048];
    loop {
        // An error here is an ICMP message about an earlier answer, or passing memory shortage.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let text = buffer.get(..length).unwrap_or_default();
        let _ = socket
            .send_to(
                &voice.answer(peer, text.strip_suffix(b"\n").unwrap_or(text)),
                peer,
            )
            .await;
    }
}

impl Voice {
    fn answer(&self, peer: SocketAddr, text: &[u8]) -> Vec<u8> {
        self.served.fetch_add(1, Ordering::Relaxed);
        let mut answer = format!("{} {peer} ", self.name).into_bytes();
        answer.extend_from_slice(text);
        answer.push(b'\n');
        answer
    }
}
