//! Starts membership and the owner task on a thread of their own.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use super::counters::GuardCounters;
use super::engine::alone;
use super::farewell::{self, Awaited};
use super::guard::Guard;
use super::handover::HandingOver;
use super::record::ClaimsRecord;
use super::task::{Beginning, Ears, Mouths, OwnerTask};
use crate::apply::fence::Fence;
use crate::apply::handover::Handover;
use crate::apply::monitor::ForeignEdits;
use crate::apply::state_directory::StateDirectory;
use crate::config::{self, Config};
use crate::membership::{Inputs, Membership, MembershipView, Settings};
use crate::model::allocation::Allocations;
use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::peer::{Claims, Owners, Publication};
use crate::plan::ownership::table::VipTable;
use crate::tasks::on_thread;

/// How long it may take to tell the others that this node restarts: less than the lease, for which it goes
/// on answering. It is a matter of a few milliseconds, but who is not sure of it is silent after its start.
fn longest_farewell(lease: Duration) -> Duration {
    lease * 2 / 3
}

/// What the thread starts from.
pub struct Start {
    pub config: watch::Receiver<Arc<Config>>,
    pub host: watch::Receiver<Host>,
    pub draining: watch::Receiver<bool>,
    /// Whether the machine goes down.
    pub leaves: watch::Receiver<bool>,
    /// The addresses of all Nodes, by name.
    pub node_addresses: watch::Receiver<Arc<BTreeMap<String, Vec<IpAddr>>>>,
    pub allocations: watch::Receiver<Arc<Allocations>>,
    pub foreign_edits: watch::Receiver<ForeignEdits>,
    pub fence: Fence,
    pub handover: Handover,
    pub announced: watch::Sender<Arc<AnnouncedSet>>,
    /// What an earlier run of this node claimed.
    pub claims: Claims,
    /// The others wait for this node, because it told them that it restarts.
    pub awaited: Option<Awaited>,
    /// Where it is noted what this node claims, and that the others were told so again.
    pub state: Arc<StateDirectory>,
}

/// The way to the thread, and what it tells.
pub struct Ownership {
    pub table: watch::Sender<Arc<VipTable>>,
    pub in_force: watch::Receiver<u64>,
    pub owners: watch::Receiver<Owners>,
    pub claims: watch::Receiver<Claims>,
    /// Keeps the claims on the disk.
    pub record: ClaimsRecord,
    pub membership: MembershipView,
    pub counters: GuardCounters,
    /// Addresses that are not claimed because another host uses them.
    pub foreign: watch::Receiver<Arc<ForeignHosts>>,
}

/// Tells the others that this node restarts, and leaves to the next run that they know it.
async fn say_farewell(
    view: &MembershipView,
    most: Duration,
    membership: &config::Membership,
    state: &StateDirectory,
    record: &ClaimsRecord,
) {
    let Some(told) = view.announce_restart(most).await else {
        tracing::info!("the others may not know of this restart, the next run waits for them");
        return;
    };
    match farewell::leave(membership, state, record, told) {
        Ok(()) => tracing::debug!(?told, "this node restarts"),
        Err(error) => {
            let error = anyhow::Error::from(error);
            tracing::warn!(%error, "the restart could not be noted, the next run waits for the others");
        }
    }
}

/// Starts the thread; what is given back ends with it, some milliseconds after `stopped`. Waits until
/// membership is open, which takes milliseconds, or cannot be opened.
pub fn start(
    start: Start,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<(
    Ownership,
    impl Future<Output = anyhow::Result<()>> + Send + 'static,
)> {
    let (table_sender, table) = watch::channel(Arc::new(VipTable::default()));
    let (owners, owners_receiver) = watch::channel(Owners::new());
    let (claims, claims_receiver) = watch::channel(start.claims.clone());
    let first = Publication {
        // Whoever restarts owns what it owned.
        claims: alone(&start.claims),
        ..Publication::default()
    };
    let (publication, publication_receiver) = watch::channel(Arc::new(first));
    let (interfaces, interfaces_receiver) = watch::channel(Arc::default());
    let (in_force, in_force_receiver) = watch::channel(0);
    let (foreign, foreign_receiver) = watch::channel(Arc::new(ForeignHosts::default()));
    let (opened, open) = std::sync::mpsc::sync_channel(1);
    let settings = {
        let config = start.config.borrow();
        Settings {
            node: config.node.name.clone(),
            configuration: config.membership.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
        }
    };
    let inputs = Inputs {
        publication: publication_receiver,
        node_addresses: start.node_addresses,
        interfaces: interfaces_receiver,
    };
    let record = ClaimsRecord::new(claims_receiver.clone(), Arc::clone(&start.state));
    let (last, configuration) = (record.clone(), settings.configuration.clone());
    let mut handover = start.handover;
    let handing = HandingOver::new(settings.node.clone(), &mut handover);
    let counters = GuardCounters::default();
    let (guard, fencing) = Guard::start(start.fence, handover, counters.clone())?;
    let task = on_thread("membership", move || async move {
        let (membership, view) = match Membership::open(settings, inputs) {
            Ok(opened) => opened,
            Err(error) => {
                let _ = opened.send(Err(error));
                return Ok(());
            }
        };
        // Whoever started the thread waits for this.
        let _ = opened.send(Ok(view.clone()));
        let (stop_membership, membership_stopped) = watch::channel(false);
        let beginning = Beginning {
            claims: &start.claims,
            awaited: start.awaited,
        };
        let ears = Ears {
            config: start.config,
            table,
            host: start.host,
            draining: start.draining,
            leaves: start.leaves,
            peers: view.peers.clone(),
            allocations: start.allocations,
            foreign_edits: start.foreign_edits,
        };
        let mouths = Mouths {
            announced: start.announced,
            owners,
            claims,
            publication,
            interfaces,
            in_force,
            foreign,
        };
        let owner = OwnerTask::new(ears, mouths, beginning, guard, handing);
        let owning = async move {
            let restarts = owner.run(stopped).await;
            if restarts && view.peers.borrow().enabled {
                let most = longest_farewell(configuration.lease());
                say_farewell(&view, most, &configuration, &start.state, &last).await;
            }
            let _ = stop_membership.send(true);
        };
        tokio::join!(membership.run(membership_stopped), owning);
        Ok(())
    })
    .context("cannot start a thread")?;
    let membership = open
        .recv()
        .context("the thread of membership ended")?
        .context("membership cannot start")?;
    let ownership = Ownership {
        table: table_sender,
        in_force: in_force_receiver,
        owners: owners_receiver,
        claims: claims_receiver,
        record,
        membership,
        counters,
        foreign: foreign_receiver,
    };
    // The thread of the fence ends after the other one, which gives it orders.
    let both = async move { tokio::try_join!(task, fencing).map(|_| ()) };
    Ok((ownership, both))
}
