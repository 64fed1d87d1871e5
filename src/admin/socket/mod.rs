//! The admin socket: tells root and the group `edgelb` what the daemon knows, and takes their orders.
//! It reads snapshots and sets flags, so that no request, however many or hostile, holds up a pass.
//!
//! ```text
//! client ──line──► task (at most MOST_CLIENTS) ──► newest Snapshot ──► view ──line──► client
//!                                           ├──► events, views ──line, line…──► client that watches
//!                                           └──► DrainFlag ──► whoever decides about ownership
//! ```

mod bind;
mod credentials;
mod watch_client;

pub use bind::{ADMIN_GROUP, AdminSocket, BindError};

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::protocol::{
    Arguments, Asked, Command, LARGEST_REQUEST, Order, Request, RequestError, data_line,
    denied_line, error_line, parse_request,
};
use super::record::Record;
use super::snapshot::Snapshot;
use super::stopped;
use super::view::{Drained, View, explain};
use crate::drain_flag::DrainFlag;

/// Clients that are served at once; more wait in the socket's queue.
pub const MOST_CLIENTS: usize = 32;

/// Of them those that keep their connection: the others are always served.
pub const MOST_WATCHERS: usize = 16;

/// The time that a client has to send its line.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that a client has to take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests that read the kernel at once.
static EXPLAINING: Semaphore = Semaphore::const_new(2);

/// The pause after an accept that failed, for instance because no file descriptor was left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds the socket and serves it; see [`AdminSocket`].
pub async fn serve(
    path: &Path,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    drain: Arc<DrainFlag>,
    stop: watch::Receiver<bool>,
) -> Result<(), BindError> {
    AdminSocket::bind(path)?.serve(snapshots, drain, stop).await;
    Ok(())
}

impl AdminSocket {
    /// Answers until `stop` is true or its sender is gone; then the socket is taken away.
    pub async fn serve(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        drain: Arc<DrainFlag>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut clients = JoinSet::new();
        let watchers = Arc::new(Semaphore::new(MOST_WATCHERS));
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(ended) = clients.join_next() => {
                    if let Err(error) = ended {
                        error!(%error, "admin request failed");
                    }
                }
                accepted = self.listener().accept(), if clients.len() < MOST_CLIENTS => match accepted {
                    Ok((stream, _)) => {
                        let (drain, watchers) = (Arc::clone(&drain), Arc::clone(&watchers));
                        clients.spawn(serve_client(stream, snapshots.clone(), drain, watchers));
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept on the admin socket");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        // The requests that are under way end with the set: their clients see a closed connection.
    }
}

/// Answers the one request of a connection.
async fn serve_client(
    mut stream: UnixStream,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    drain: Arc<DrainFlag>,
    watchers: Arc<Semaphore>,
) {
    let request = match timeout(REQUEST_TIMEOUT, read_line(&mut stream)).await {
        Ok(Ok(Some(line))) => parse_request(&line),
        Ok(Ok(None)) => Err(RequestError::TooLarge),
        Ok(Err(error)) => {
            debug!(%error, "admin client went away");
            return;
        }
        Err(_elapsed) => Err(RequestError::TimedOut),
    };
    log(&stream, &request);
    let answer = match request {
        Ok(Request { asked, arguments }) => match asked {
            Asked::See(command) => {
                let snapshot = Arc::clone(&snapshots.borrow());
                answer(command, snapshot).await
            }
            Asked::Do(order) => {
                let snapshot = Arc::clone(&snapshots.borrow());
                carry_out(order, &stream, snapshot, drain).await
            }
            Asked::Explain => explained(arguments, snapshots).await,
            Asked::Watch => {
                watch_client::serve(stream, snapshots, &arguments, &watchers).await;
                return;
            }
        },
        Err(refusal) => error_line(&refusal),
    };
    let line = match answer {
        Ok(line) => line,
        Err(error) => {
            error!(%error, "cannot write an admin answer");
            return;
        }
    };
    let sent = timeout(ANSWER_TIMEOUT, async {
        stream.write_all(&line).await?;
        stream.shutdown().await
    })
    .await;
    match sent {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin client went away"),
        Err(_elapsed) => debug!("admin client does not take its answer"),
    }
}

/// Ten thousand Services take some time to write: not on a thread that answers ARP requests.
async fn answer(command: Command, snapshot: Arc<Snapshot>) -> Result<Vec<u8>, serde_json::Error> {
    let written = tokio::task::spawn_blocking(move || {
        data_line(&View::of(command, &snapshot, SystemTime::now()))
    });
    match written.await {
        Ok(line) => line,
        Err(error) => {
            error!(%error, "admin request failed");
            error_line(&"the daemon could not write the answer; its log says why")
        }
    }
}

/// Reads the kernel, a few of these requests at a time: each opens sockets and may take some time.
async fn explained(
    arguments: Arguments,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) -> Result<Vec<u8>, serde_json::Error> {
    let turn = EXPLAINING.acquire().await;
    let written =
        tokio::task::spawn_blocking(move || match explain::answer(&arguments, &snapshots) {
            Ok(explanation) => data_line(&explanation),
            Err(error) => error_line(&error),
        });
    let written = written.await;
    drop(turn);
    match written {
        Ok(line) => line,
        Err(error) => {
            error!(%error, "admin request failed");
            error_line(&"the daemon could not explain it; its log says why")
        }
    }
}

/// Does it, for those who may; a lookup of users and the disk may take their time.
async fn carry_out(
    order: Order,
    stream: &UnixStream,
    snapshot: Arc<Snapshot>,
    drain: Arc<DrainFlag>,
) -> Result<Vec<u8>, serde_json::Error> {
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => {
            warn!(%error, "cannot tell who gives an order");
            return denied_line(order);
        }
    };
    let carried_out = tokio::task::spawn_blocking(move || {
        if !credentials::may_order(&peer) {
            warn!(
                uid = peer.uid(),
                gid = peer.gid(),
                order = order.as_str(),
                "admin order refused"
            );
            return denied_line(order);
        }
        info!(
            uid = peer.uid(),
            pid = peer.pid(),
            order = order.as_str(),
            "admin order"
        );
        match order {
            Order::Drain => set_drain(true, &snapshot, &drain),
            Order::Undrain => set_drain(false, &snapshot, &drain),
            Order::Record => data_line(&Record::of(&snapshot, SystemTime::now())),
        }
    });
    match carried_out.await {
        Ok(line) => line,
        Err(error) => {
            error!(%error, "admin order failed");
            error_line(&"the daemon could not carry it out; its log says why")
        }
    }
}

fn set_drain(
    draining: bool,
    snapshot: &Snapshot,
    drain: &DrainFlag,
) -> Result<Vec<u8>, serde_json::Error> {
    match drain.set(draining) {
        Ok(changed) => data_line(&Drained {
            node: snapshot.inputs.node.clone(),
            draining,
            changed,
        }),
        Err(error) => {
            let error = anyhow::Error::from(error);
            error!(error = format!("{error:#}"), "drain cannot be kept");
            error_line(&format!("{error:#}"))
        }
    }
}

/// The bytes up to a newline or the end, or nothing where they are too many.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).await?;
        let part = buffer.get(..read).unwrap_or_default();
        let newline = part.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(part.get(..newline.unwrap_or(read)).unwrap_or_default());
        if line.len() > LARGEST_REQUEST {
            return Ok(None);
        }
        if newline.is_some() || (read == 0 && !line.is_empty()) {
            return Ok(Some(line));
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Who asked what. To read needs no more than the mode of the socket.
fn log(stream: &UnixStream, request: &Result<Request, RequestError>) {
    let who = stream.peer_cred().ok();
    let uid = who.map(|who| who.uid());
    let gid = who.map(|who| who.gid());
    let pid = who.and_then(|who| who.pid());
    match request {
        Ok(request) => {
            let command = request.asked.as_str();
            debug!(uid, gid, pid, command, "admin request");
        }
        Err(error) => debug!(uid, gid, pid, %error, "admin request refused"),
    }
}
