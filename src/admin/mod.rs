//! What a person or a scraper sees of the running daemon: socket, metrics, health. Reads snapshots;
//! changes nothing.

pub mod applied;
pub mod client;
pub mod events;
pub mod health;
pub mod metrics;
pub mod protocol;
pub mod record;
pub mod snapshot;
pub mod socket;
pub mod view;

use tokio::sync::watch;

/// Waits until `stop` is true or nobody can make it true any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone: the daemon ends.
    let _ = stop.wait_for(|stop| *stop).await;
}
