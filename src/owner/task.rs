//! The task that decides about owners: takes in what changes, steps the engine, and puts what comes out
//! in force, in this order: what is given up falls silent, what is claimed may speak, then it is
//! announced, then the others are told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imbl::OrdSet;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::engine::{Engine, Outcome, World};
use super::guard::Guard;
use super::handover::{HandingOver, Scene};
use super::pause::PauseWatch;
use super::{announcing, digest};
use crate::apply::handover::Handover;
use crate::apply::monitor::ForeignEdits;
use crate::apply::prober::once::ProbeOnce;
use crate::config::Config;
use crate::membership::transport::lan::LanInterface;
use crate::model::allocation::Allocations;
use crate::model::announcement::{AnnouncedInterface, AnnouncedSet};
use crate::model::foreign::{ForeignHosts, MacAddress, Wanted, WantedInterface};
use crate::model::host::Host;
use crate::model::peer::{Claims, MemberState, Owners, Peers, Publication};
use crate::plan::announcement::relevant;
use crate::plan::ownership::table::VipTable;

/// How often this node renews its permission to announce (AN-3).
pub const LEASE_INTERVAL: Duration = Duration::from_millis(100);
/// How long a permission lasts. Whoever was stopped for longer must hear the others first.
pub const LEASE: Duration = Duration::from_millis(300);
/// How long a node that was stopped is silent by itself: by then membership knows of the stop as well and
/// is unsettled until the others were heard.
const HEAR_PATIENCE: Duration = Duration::from_millis(150);

/// Moves of one step that are logged one by one: writing them holds up this thread.
const MOST_LOGGED: usize = 10;

/// What the task listens to.
pub struct Ears {
    pub config: watch::Receiver<Arc<Config>>,
    pub table: watch::Receiver<Arc<VipTable>>,
    pub host: watch::Receiver<Host>,
    pub draining: watch::Receiver<bool>,
    pub peers: watch::Receiver<Arc<Peers>>,
    /// What somebody else changed in our tables.
    pub foreign_edits: watch::Receiver<ForeignEdits>,
    /// Who holds which address, where nodes agree on that among themselves.
    pub allocations: watch::Receiver<Arc<Allocations>>,
}

/// Whom the task tells.
pub struct Mouths {
    pub announced: watch::Sender<Arc<AnnouncedSet>>,
    pub owners: watch::Sender<Owners>,
    pub claims: watch::Sender<Claims>,
    pub publication: watch::Sender<Arc<Publication>>,
    /// The interfaces on whose LANs other nodes may be heard.
    pub interfaces: watch::Sender<Arc<Vec<LanInterface>>>,
    /// The newest table whose withdrawals are in force.
    pub in_force: watch::Sender<u64>,
    /// Addresses that are not claimed because another host uses them.
    pub foreign: watch::Sender<Arc<ForeignHosts>>,
}

/// Addresses that were asked for, which hosts answered, and for which ones other nodes did.
type Probed = (Vec<IpAddr>, BTreeMap<IpAddr, MacAddress>, BTreeSet<IpAddr>);

/// The task.
pub struct OwnerTask {
    ears: Ears,
    mouths: Mouths,
    engine: Engine,
    guard: Guard,
    handover: HandingOver,
    /// Foreign edits of the fence and of the handover so far.
    fences: u64,
    pause: PauseWatch,
    /// Until when nothing is announced because this node was stopped for a while.
    suspended: Option<Instant>,
    stage: BTreeMap<u32, AnnouncedInterface>,
    /// Where nobody may speak for what is not owned.
    fenced: BTreeMap<u32, String>,
    /// What the stage was made of.
    staged: Option<(u64, Host, Arc<Config>)>,
    /// All VIPs of the table.
    vips: OrdSet<IpAddr>,
    /// Of the configuration and of the table.
    digests: (u64, u64),
    wake: Option<Instant>,
    probed: (mpsc::Sender<Probed>, mpsc::Receiver<Probed>),
}

impl OwnerTask {
    /// Starts with what an earlier run of this node claimed.
    pub fn new(
        ears: Ears,
        mouths: Mouths,
        claims: &Claims,
        guard: Guard,
        handover: Handover,
    ) -> Self {
        let node = ears.config.borrow().node.name.clone();
        Self {
            handover: HandingOver::new(node.clone(), handover),
            engine: Engine::new(node, claims),
            ears,
            mouths,
            guard,
            fences: 0,
            pause: PauseWatch::start(),
            suspended: None,
            stage: BTreeMap::new(),
            fenced: BTreeMap::new(),
            staged: None,
            vips: OrdSet::new(),
            digests: (0, 0),
            wake: None,
            probed: mpsc::channel(8),
        }
    }

    /// Decides until `stopped`; returns whether this node owns something that it keeps while it restarts.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) -> bool {
        let mut lease = tokio::time::interval(LEASE_INTERVAL);
        lease.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.step();
        loop {
            let wake = self.wake;
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => break,
                _ = lease.tick() => {
                    if self.hold_lease() {
                        continue;
                    }
                }
                Ok(()) = self.ears.peers.changed() => {}
                Ok(()) = self.ears.host.changed() => {}
                Ok(()) = self.ears.draining.changed() => {}
                Ok(()) = self.ears.table.changed() => {}
                Ok(()) = self.ears.config.changed() => {}
                Ok(()) = self.ears.allocations.changed() => {}
                Ok(()) = self.ears.foreign_edits.changed() => {
                    let fences = self.ears.foreign_edits.borrow_and_update().fences;
                    if std::mem::replace(&mut self.fences, fences) != fences {
                        self.guard.distrust();
                        self.guard.repair();
                        self.handover.distrust();
                        self.handover.repair();
                    }
                    continue;
                }
                Some((asked, used, peers)) = self.probed.1.recv() => {
                    self.engine.probed(&asked, &used, &peers, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
            self.step();
        }
        // A drained node owns nothing, and nobody waits for it, unless it still has connections.
        !self.engine.claims().is_empty() || self.handover.is_passed_to()
    }

    /// Renews the permission to announce, unless this node was stopped for longer than that lasts: then
    /// another may have taken over, and nothing is said before the others were heard. False where the
    /// engine has to look again.
    fn hold_lease(&mut self) -> bool {
        if self.pause.was_longer_than(LEASE) {
            self.suspend();
            return false;
        }
        if self.suspended.is_none() && !self.engine.announced().is_empty() {
            self.guard.renew();
        }
        self.guard.repair();
        self.handover.repair();
        self.suspended.is_none() && !self.handover.is_due()
    }

    fn suspend(&mut self) {
        tracing::warn!("this process was stopped for a while, it asks who owns what");
        let until = Instant::now() + HEAR_PATIENCE;
        self.suspended = Some(until);
        self.wake = Some(until);
    }

    fn step(&mut self) {
        let now = Instant::now();
        if self.suspended.is_some_and(|until| until <= now) {
            self.suspended = None;
        }
        let config = Arc::clone(&self.ears.config.borrow_and_update());
        let table = Arc::clone(&self.ears.table.borrow_and_update());
        // A pod that comes or goes changes nothing here.
        let host = relevant(&config, &self.ears.host.borrow_and_update());
        let peers = Arc::clone(&self.ears.peers.borrow_and_update());
        let draining = *self.ears.draining.borrow_and_update();
        let world = World {
            config: &config,
            table: &table,
            peers: &peers,
            host: &host,
            ready: table.generation > 0,
            draining,
            suspended: self.suspended.is_some(),
            unix_ms: unix_ms(),
        };
        let before = self.engine.announced().clone();
        let Outcome { ask, wake } = self.engine.step(now, &world);
        self.wake = [wake, self.suspended].into_iter().flatten().min();
        self.restage(&config, &table, &host);
        self.hand_over(table.generation, &host, &peers);
        self.put_in_force(table.generation, &host, &peers);
        self.tell(&config, &table, &host, draining);
        self.log_moves(&before);
        if !ask.is_empty() {
            self.ask(ask, &host, &peers);
        }
        // Responders read the set at each frame: what was withdrawn is not answered any more.
        self.mouths.in_force.send_replace(table.generation);
    }

    fn log_moves(&self, before: &OrdSet<IpAddr>) {
        let now = self.engine.announced();
        if now.ptr_eq(before) {
            return;
        }
        let taken = now.clone().relative_complement(before.clone());
        for vip in taken.iter().take(MOST_LOGGED) {
            tracing::info!(%vip, "this node takes the vip");
        }
        let given_up = before.clone().relative_complement(now.clone());
        for vip in given_up.iter().take(MOST_LOGGED) {
            tracing::info!(%vip, "this node gives the vip up");
        }
        let more = |vips: &OrdSet<IpAddr>| vips.len().saturating_sub(MOST_LOGGED);
        if more(&taken) + more(&given_up) > 0 {
            let (taken, given_up) = (taken.len(), given_up.len());
            tracing::info!(taken, given_up, "more vips changed hands");
        }
    }

    fn restage(&mut self, config: &Arc<Config>, table: &VipTable, host: &Host) {
        let same = (self.staged.as_ref()).is_some_and(|(generation, staged, by)| {
            *generation == table.generation
                && staged.interfaces == host.interfaces
                && Arc::ptr_eq(by, config)
        });
        if !same {
            self.stage = announcing::stage(config, host, table);
            self.fenced = announcing::fenced(config, host);
            let groups = table.groups.values();
            self.vips = groups
                .flat_map(|group| group.vips.iter().copied())
                .collect();
            self.digests = (digest::configuration(config), digest::table(table));
            self.staged = Some((table.generation, host.clone(), Arc::clone(config)));
        }
    }

    /// Before anything is announced: the first packets may belong to the node that had it before.
    fn hand_over(&mut self, generation: u64, host: &Host, peers: &Arc<Peers>) {
        if generation > 0 {
            self.handover.settle(&Scene {
                owners: self.engine.owners(),
                peers,
                host,
                stage: &self.stage,
                vips: &self.vips,
            });
        }
    }

    fn put_in_force(&mut self, generation: u64, host: &Host, peers: &Peers) {
        let owned = self.engine.announced();
        let interfaces = announcing::announce(&self.stage, owned);
        let macs = hardware_addresses(peers);
        // What an earlier run held back stays so until it is known what there is.
        if generation > 0 {
            (self.guard).allow(&self.fenced, &self.vips, owned, host);
        }
        if self.pause.was_longer_than(LEASE) {
            // The kernel kept this thread waiting: what is owned may be another's by now.
            self.suspend();
        } else if !owned.is_empty() && self.suspended.is_none() {
            // The first frames must not wait for the next turn.
            self.guard.renew();
        }
        self.mouths.announced.send_if_modified(|current| {
            if current.interfaces == interfaces && current.peers == macs {
                return false;
            }
            *current = Arc::new(AnnouncedSet {
                generation: current.generation + 1,
                interfaces,
                peers: macs,
            });
            true
        });
    }

    fn tell(&self, config: &Config, table: &VipTable, host: &Host, draining: bool) {
        let owners = self.engine.owners();
        (self.mouths.owners).send_if_modified(|told| {
            let other = told != owners;
            if other {
                told.clone_from(owners);
            }
            other
        });
        let claims = self.engine.claims();
        (self.mouths.claims).send_if_modified(|told| {
            let other = told != claims;
            if other {
                told.clone_from(claims);
            }
            other
        });
        let foreign: ForeignHosts = self.engine.used_by_others().collect();
        (self.mouths.foreign).send_if_modified(|told| {
            let other = **told != foreign;
            if other {
                *told = Arc::new(foreign);
            }
            other
        });
        let interfaces = digest::published(config, host);
        let lans = digest::lans(config, host);
        (self.mouths.interfaces).send_if_modified(|told| {
            let other = **told != lans;
            if other {
                *told = Arc::new(lans);
            }
            other
        });
        let publication = Publication {
            state: MemberState {
                ready: table.generation > 0 && self.suspended.is_none(),
                draining,
                restarting: false,
                interfaces,
                exceptions: table.exceptions.clone(),
                configuration_digest: self.digests.0,
                snapshot_digest: self.digests.1,
            },
            claims: claims.clone(),
            allocations: (**self.ears.allocations.borrow()).clone(),
        };
        (self.mouths.publication).send_if_modified(|told| {
            let other = **told != publication;
            if other {
                *told = Arc::new(publication);
            }
            other
        });
    }
}

impl OwnerTask {
    /// Asks the LAN who has these addresses; the answer comes back to the task.
    fn ask(&self, vips: Vec<IpAddr>, host: &Host, peers: &Peers) {
        let mut wanted = Wanted {
            interfaces: BTreeMap::new(),
            own: (host.interfaces.values())
                .filter_map(|interface| interface.mac)
                .map(MacAddress)
                .collect(),
        };
        for (index, interface) in &self.stage {
            let here = vips.iter().filter(|vip| interface.watched.contains(*vip));
            let asked = WantedInterface {
                name: interface.name.clone(),
                mac: MacAddress(interface.mac),
                addresses: here.copied().collect(),
            };
            if !asked.addresses.is_empty() {
                wanted.interfaces.insert(*index, asked);
            }
        }
        let (probed, macs) = (self.probed.0.clone(), hardware_addresses(peers));
        tokio::spawn(async move {
            let answers = ProbeOnce::SHORT.ask(&wanted, &macs).await;
            for (interface, error) in &answers.unasked {
                tracing::warn!(interface, error, "could not ask who uses an address");
            }
            let used = answers.foreign.iter().collect();
            let peers = answers.peers.iter().map(|(vip, _)| vip).collect();
            // The task ends only with this runtime.
            let _ = probed.send((vips, used, peers)).await;
        });
    }
}

/// The hardware addresses of all other nodes.
fn hardware_addresses(peers: &Peers) -> OrdSet<MacAddress> {
    let interfaces = peers
        .members
        .values()
        .flat_map(|peer| &peer.state.interfaces);
    interfaces.map(|interface| interface.mac).collect()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}
