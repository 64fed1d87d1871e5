//! What the daemon on this node says of itself, if there is one. Asks; judges nothing.

use crate::admin::client::{AskError, ask};
use crate::admin::protocol::{Command, SOCKET_NAME};
use crate::admin::view::{Peers, Services, Status};
use crate::config::Config;

/// A daemon's own picture.
pub(super) struct Running {
    pub(super) status: Status,
    pub(super) services: Services,
    pub(super) peers: Peers,
}

/// Asks the daemon of this configuration.
pub(super) fn running(config: &Config) -> Result<Running, AskError> {
    let socket = config.node.runtime_dir.join(SOCKET_NAME);
    Ok(Running {
        status: ask(&socket, Command::Status)?,
        services: ask(&socket, Command::Services)?,
        peers: ask(&socket, Command::Peers)?,
    })
}
