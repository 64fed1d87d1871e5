//! What the daemon on this node says of itself, if there is one. Asks, for a bounded time; judges
//! nothing.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use crate::admin::client::{AskError, ask};
use crate::admin::protocol::{Command, SOCKET_NAME};
use crate::admin::view::{Peers, Pools, Services, Status, Vips};
use crate::config::Config;

/// A daemon answers in milliseconds; a person at three in the morning waits no longer for one that hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// A daemon's own picture.
pub(super) struct Running {
    pub(super) status: Status,
    pub(super) services: Services,
    pub(super) vips: Vips,
    pub(super) pools: Pools,
    pub(super) peers: Peers,
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
    Ok(Running {
        status: ask(socket, Command::Status)?,
        services: ask(socket, Command::Services)?,
        vips: ask(socket, Command::Vips)?,
        pools: ask(socket, Command::Pools)?,
        peers: ask(socket, Command::Peers)?,
        process: process(socket),
    })
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
