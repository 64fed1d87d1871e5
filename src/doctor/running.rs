//! What the daemon on this node says of itself, if there is one. Asks, for a bounded time; judges
//! nothing.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::admin::client::{AskError, ask};
use crate::admin::protocol::{Command, SOCKET_NAME};
use crate::admin::view::{Peers, Pools, Services, Status, Vips};
use crate::config::Config;

/// A daemon answers in milliseconds; a person at three in the morning waits no longer for one that hangs.
const PATIENCE: Duration = Duration::from_secs(2);
/// Nodes that do not hear one another ask for one another about every second.
const LISTENING: Duration = Duration::from_millis(1200);

/// A daemon's own picture.
pub(super) struct Running {
    pub(super) status: Status,
    pub(super) services: Services,
    pub(super) vips: Vips,
    pub(super) pools: Pools,
    pub(super) peers: Peers,
    /// Datagrams of membership that had no effect, by why: those that came while doctor waited for some.
    pub(super) unopened: BTreeMap<String, u64>,
    /// Its process, where this one sees it.
    pub(super) process: Option<u32>,
}

/// Asks the daemon of this configuration.
pub(super) fn running(config: &Config) -> Result<Running, AskError> {
    let socket = config.node.runtime_dir.join(SOCKET_NAME);
    let (sender, answer) = mpsc::channel();
    let path = socket.clone();
    // One that hangs is left behind with the thread, which ends with this process.
    thread::spawn(move || {
        // Nobody waits any more once the time is over.
        let _ = sender.send(ask_all(&path));
    });
    answer
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|_| Err(silent(socket)))
}

fn ask_all(socket: &Path) -> Result<Running, AskError> {
    let peers: Peers = ask(socket, Command::Peers)?;
    Ok(Running {
        unopened: unopened(socket, &peers),
        status: ask(socket, Command::Status)?,
        services: ask(socket, Command::Services)?,
        vips: ask(socket, Command::Vips)?,
        pools: ask(socket, Command::Pools)?,
        peers,
        process: process(socket),
    })
}

/// What was counted long ago says nothing: where there is something, it is asked for again until it
/// grows.
fn unopened(socket: &Path, peers: &Peers) -> BTreeMap<String, u64> {
    let begun = Instant::now();
    let mut grown = BTreeMap::new();
    while grown.is_empty()
        && peers.unopened.values().any(|it| *it > 0)
        && begun.elapsed() < LISTENING
    {
        thread::sleep(LISTENING / 10);
        let Ok(Peers { unopened, .. }) = ask(socket, Command::Peers) else {
            break;
        };
        let since = |reason: &String| peers.unopened.get(reason).copied().unwrap_or(0);
        grown = (unopened.into_iter())
            .map(|(reason, count)| {
                let count = count.saturating_sub(since(&reason));
                (reason, count)
            })
            .filter(|(_, count)| *count > 0)
            .collect();
    }
    grown
}

fn silent(path: PathBuf) -> AskError {
    AskError::Silent {
        path,
        cause: io::ErrorKind::TimedOut.into(),
    }
}

/// Who listens on the socket (`SO_PEERCRED`); 0 is somebody of another PID namespace.
fn process(socket: &Path) -> Option<u32> {
    let stream = UnixStream::connect(socket).ok()?;
    let credentials = getsockopt(&stream, PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|pid| *pid > 0)
}
