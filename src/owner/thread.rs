//! Starts membership and the owner task on a thread of their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::guard::Guard;
use super::task::{Ears, Mouths, OwnerTask};
use crate::apply::fence::Fence;
use crate::apply::monitor::ForeignEdits;
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::peer::{Claims, Owners, Peers, Publication};
use crate::plan::ownership::table::VipTable;
use crate::tasks::on_thread;

/// What the thread starts from.
pub struct Start {
    pub config: watch::Receiver<Arc<Config>>,
    pub host: watch::Receiver<Host>,
    pub draining: watch::Receiver<bool>,
    /// The addresses of the other Nodes, by name.
    pub node_addresses: watch::Receiver<Arc<BTreeMap<String, Vec<IpAddr>>>>,
    pub allocations: watch::Receiver<Arc<Allocations>>,
    pub foreign_edits: watch::Receiver<ForeignEdits>,
    pub fence: Fence,
    pub announced: watch::Sender<Arc<AnnouncedSet>>,
    /// What an earlier run of this node claimed.
    pub claims: Claims,
}

/// The way to the thread, and what it tells.
pub struct Ownership {
    pub table: watch::Sender<Arc<VipTable>>,
    pub in_force: watch::Receiver<u64>,
    pub owners: watch::Receiver<Owners>,
    pub claims: watch::Receiver<Claims>,
    pub peers: watch::Receiver<Arc<Peers>>,
    /// Addresses that are not claimed because another host uses them.
    pub foreign: watch::Receiver<Arc<ForeignHosts>>,
}

/// Starts the thread; what is given back ends with it, some milliseconds after `stopped`.
pub fn start(
    start: Start,
    stopped: watch::Receiver<bool>,
) -> std::io::Result<(
    Ownership,
    impl Future<Output = anyhow::Result<()>> + Send + 'static,
)> {
    let (table_sender, table) = watch::channel(Arc::new(VipTable::default()));
    let (owners, owners_receiver) = watch::channel(Owners::new());
    let (claims, claims_receiver) = watch::channel(start.claims.clone());
    let (publication, _publication_receiver) = watch::channel(Arc::new(Publication::default()));
    let (in_force, in_force_receiver) = watch::channel(0);
    let (foreign, foreign_receiver) = watch::channel(Arc::new(ForeignHosts::default()));
    let enabled = !start.config.borrow().membership.key_files.is_empty();
    let (_peers, peers_receiver) = watch::channel(Arc::new(Peers {
        enabled,
        settled: !enabled,
        ..Peers::default()
    }));
    let ownership = Ownership {
        table: table_sender,
        in_force: in_force_receiver,
        owners: owners_receiver,
        claims: claims_receiver,
        peers: peers_receiver.clone(),
        foreign: foreign_receiver,
    };
    let task = on_thread("membership", move || async move {
        let ears = Ears {
            config: start.config,
            table,
            host: start.host,
            draining: start.draining,
            peers: peers_receiver,
            allocations: start.allocations,
            foreign_edits: start.foreign_edits,
        };
        let mouths = Mouths {
            announced: start.announced,
            owners,
            claims,
            publication,
            in_force,
            foreign,
        };
        OwnerTask::new(ears, mouths, start.claims, Guard::new(start.fence))
            .run(stopped)
            .await;
        Ok(())
    })?;
    Ok((ownership, task))
}
