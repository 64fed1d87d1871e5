//! Starts what owns and announces VIPs, each on a thread of its own, and carries news between it and the
//! reconciler. Wires; decides nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use crate::apply::announcer::thread::AnnouncerThread;
use crate::apply::announcer::{Announcer, AnnouncerView, burst::BurstSettings};
use crate::apply::fence::Fence;
use crate::apply::handover::Handover;
use crate::apply::monitor::ForeignEdits;
use crate::apply::state_directory::StateDirectory;
use crate::config::Config;
use crate::membership::MembershipView;
use crate::model::allocation::Allocations;
use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::peer::{Peers, Presence};
use crate::owner::counters::GuardCounters;
use crate::owner::farewell;
use crate::owner::thread::{self, Ownership, Start};
use crate::publisher::Publisher;
use crate::reconcile::Reconciler;
use crate::tasks::Tasks;

/// How long others may take to follow a node that leaves.
const LEAVE_PATIENCE: Duration = Duration::from_secs(2);
/// In how many probe intervals nodes that both announce a VIP have told one another who withdraws.
const PROBES_TO_SETTLE: u32 = 3;

/// The addresses of other nodes, by name.
type NodeAddresses = BTreeMap<String, Vec<IpAddr>>;

/// What owning follows.
pub struct Follows {
    pub host: watch::Receiver<Host>,
    pub draining: watch::Receiver<bool>,
    /// Whether the machine goes down.
    pub leaves: watch::Receiver<bool>,
    pub fence: Fence,
    pub handover: Handover,
    pub foreign_edits: watch::Receiver<ForeignEdits>,
}

/// What owns and announces VIPs, as the daemon sees it.
pub struct Owning {
    ownership: Ownership,
    announcer: AnnouncerView,
    config: watch::Sender<Arc<Config>>,
    draining: watch::Receiver<bool>,
    /// What each of those who listen knows of other hosts.
    foreign: [watch::Receiver<Arc<ForeignHosts>>; 3],
    node_addresses: watch::Sender<Arc<NodeAddresses>>,
    allocations: watch::Sender<Arc<Allocations>>,
}

impl Owning {
    /// Starts the threads and the task that keeps what this node claims on the disk.
    pub fn start(
        config: &Arc<Config>,
        follows: Follows,
        state: &Arc<StateDirectory>,
        tasks: &mut Tasks,
        stopped: &watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let (claims, warning) = state.read_claims().context("cannot read the claims")?;
        if let Some(warning) = warning {
            tracing::warn!(error = %warning, "claims could not be read, vips are claimed anew");
        }
        let awaited = farewell::take(&config.membership, state, &claims)
            .context("cannot read how the last run ended")?;
        let bursts = BurstSettings {
            burst: config.announce.gratuitous_burst.clone(),
            refresh: config.announce.refresh,
        };
        let (announced, published) = watch::channel(Arc::new(AnnouncedSet::default()));
        let (responders, view) = Announcer::new(bursts, published);
        let decides = config.membership.probe_interval * PROBES_TO_SETTLE;
        let responders = responders.with_rivals_settled_within(decides);
        let thread = AnnouncerThread::start(responders).context("cannot start the announcer")?;
        tasks.spawn("announcer", async move {
            thread.ended().await.map_err(anyhow::Error::from)
        });

        let (config_sender, config_receiver) = watch::channel(Arc::clone(config));
        let (node_addresses, node_addresses_receiver) =
            watch::channel(Arc::new(NodeAddresses::new()));
        let (allocations, allocations_receiver) = watch::channel(Arc::new(Allocations::default()));
        let (ownership, owning) = thread::start(
            Start {
                config: config_receiver,
                host: follows.host,
                draining: follows.draining.clone(),
                leaves: follows.leaves,
                node_addresses: node_addresses_receiver,
                allocations: allocations_receiver,
                foreign_edits: follows.foreign_edits,
                fence: follows.fence,
                handover: follows.handover,
                announced,
                claims,
                awaited,
                state: Arc::clone(state),
            },
            stopped.clone(),
        )?;
        tasks.spawn("membership", owning);
        tasks.spawn_until("claims", stopped.clone(), ownership.record.clone().follow());
        Ok(Self {
            foreign: [
                view.foreign(),
                ownership.foreign.clone(),
                watch::channel(Arc::default()).1,
            ],
            ownership,
            announcer: view,
            config: config_sender,
            draining: follows.draining,
            node_addresses,
            allocations,
        })
    }

    /// The reconciler's way to it.
    pub fn publisher(&self) -> Publisher {
        let in_force = self.ownership.in_force.clone();
        Publisher::new(self.ownership.table.clone(), in_force)
    }

    /// What others see of membership.
    pub fn membership(&self) -> &MembershipView {
        &self.ownership.membership
    }

    /// What is counted of the fence and the handover.
    pub fn counters(&self) -> &GuardCounters {
        &self.ownership.counters
    }

    /// What others see of the announcer.
    pub fn announcer(&self) -> &AnnouncerView {
        &self.announcer
    }

    /// Listens to the prober as well.
    pub fn hear(&mut self, prober: watch::Receiver<Arc<ForeignHosts>>) {
        self.foreign[2] = prober;
    }

    /// Waits until there is something to be told; for ever where its thread has ended, of which the
    /// daemon hears otherwise.
    pub async fn changed(&mut self) {
        let [announcer, owner, prober] = &mut self.foreign;
        tokio::select! {
            Ok(()) = self.ownership.owners.changed() => {}
            Ok(()) = self.ownership.membership.peers.changed() => {}
            Ok(()) = self.ownership.membership.allocations.changed() => {}
            Ok(()) = self.draining.changed() => {}
            Ok(()) = announcer.changed() => {}
            Ok(()) = owner.changed() => {}
            Ok(()) = prober.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Waits until other nodes took what this one owns, which was told to give it up; not where nobody
    /// could.
    pub async fn leave(&mut self) {
        let mut peers = self.ownership.membership.peers.clone();
        let mut claims = self.ownership.claims.clone();
        let followed = async {
            while !claims.borrow_and_update().is_empty() && has_heir(&peers.borrow_and_update()) {
                tokio::select! {
                    Ok(()) = peers.changed() => {}
                    Ok(()) = claims.changed() => {}
                    else => return,
                }
            }
        };
        let followed = tokio::time::timeout(LEAVE_PATIENCE, followed).await;
        if followed.is_err() || !claims.borrow().is_empty() {
            tracing::warn!("nobody took what this node owns");
        }
    }

    /// Tells the reconciler who owns what, and who may.
    pub fn tell(&mut self, reconciler: &mut Reconciler) {
        let now = std::time::Instant::now();
        let membership = &mut self.ownership.membership;
        let peers = Arc::clone(&membership.peers.borrow_and_update());
        let allocations = Arc::clone(&membership.allocations.borrow_and_update());
        reconciler.peers(&peers, *self.draining.borrow_and_update(), now);
        reconciler.allocations(&allocations, now);
        let known = self.foreign.iter_mut();
        let known: Vec<Arc<ForeignHosts>> = known
            .map(|foreign| Arc::clone(&foreign.borrow_and_update()))
            .collect();
        let foreign = known.iter().flat_map(|foreign| foreign.iter()).collect();
        reconciler.foreign_hosts(&foreign, now);
        reconciler.owners(&self.ownership.owners.borrow_and_update().clone(), now);
    }

    /// Shows it the configuration in force, the other Nodes, and who holds which address.
    pub fn show(&self, reconciler: &Reconciler) {
        self.config.send_if_modified(|shown| {
            let other = !Arc::ptr_eq(shown, reconciler.config());
            if other {
                *shown = Arc::clone(reconciler.config());
            }
            other
        });
        let addresses = reconciler.node_addresses();
        self.node_addresses.send_if_modified(|shown| {
            let other = **shown != addresses;
            if other {
                *shown = Arc::new(addresses);
            }
            other
        });
        if let Some(allocations) = reconciler.agreed_allocations() {
            self.allocations.send_if_modified(|shown| {
                let other = **shown != *allocations;
                if other {
                    *shown = Arc::new(allocations.clone());
                }
                other
            });
        }
    }
}

/// Whether another node could take what a node that leaves owns.
fn has_heir(peers: &Peers) -> bool {
    peers.members.values().any(|peer| {
        let state = &peer.state;
        peer.presence == Presence::Alive && state.ready && !state.draining
    })
}
