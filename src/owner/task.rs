//! The task that decides about owners: takes in what changes, steps the engine, and puts what comes out
//! in force, in this order: what is given up falls silent, what is claimed may speak, then it is
//! announced, then the others are told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imbl::OrdSet;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::asking::Probed;
use super::engine::{Engine, Outcome, World};
use super::farewell::Awaited;
use super::guard::Guard;
use super::handover::{HandingOver, Scene};
use super::pause::PauseWatch;
use super::{announcing, asking, digest};
use crate::apply::monitor::ForeignEdits;
use crate::config::Config;
use crate::membership::transport::lan::LanInterface;
use crate::model::allocation::Allocations;
use crate::model::announcement::{AnnouncedInterface, AnnouncedSet};
use crate::model::foreign::ForeignHosts;
use crate::model::host::Host;
use crate::model::peer::{Claims, Owners, Peers, Publication};
use crate::plan::announcement::relevant;
use crate::plan::ownership::table::VipTable;

/// How often this node renews its permission to announce at least.
const RENEW_EVERY: Duration = Duration::from_millis(100);

/// Moves of one step that are logged one by one: writing them holds up this thread.
const MOST_LOGGED: usize = 10;

/// What the task listens to.
pub struct Ears {
    pub config: watch::Receiver<Arc<Config>>,
    pub table: watch::Receiver<Arc<VipTable>>,
    pub host: watch::Receiver<Host>,
    pub draining: watch::Receiver<bool>,
    /// Whether the machine goes down: nobody waits for it, whoever has connections there.
    pub leaves: watch::Receiver<bool>,
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

/// What an earlier run of this node left.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// What it claimed.
    pub claims: &'a Claims,
    /// The others wait for this node, because it told them that it restarts.
    pub awaited: Option<Awaited>,
}

/// The task.
pub struct OwnerTask {
    ears: Ears,
    mouths: Mouths,
    engine: Engine,
    /// Stands for the first table where this node is awaited: the kernel still holds what an earlier run
    /// put there.
    claimed: Option<Arc<VipTable>>,
    guard: Guard,
    handover: HandingOver,
    /// There is what it needs to be settled.
    hands_over: bool,
    /// Foreign edits of the fence and of the handover so far.
    fences: u64,
    pause: PauseWatch,
    /// How long the permission to announce lasts. Whoever was stopped for longer must hear the others
    /// first.
    lease: Duration,
    /// How long a node that was stopped is silent by itself: by then membership knows of the stop as well
    /// and is unsettled until the others were heard.
    hear_patience: Duration,
    renew_every: Duration,
    /// Until when nothing is announced because this node was stopped for a while.
    suspended: Option<Instant>,
    stage: BTreeMap<u32, AnnouncedInterface>,
    /// Where nobody may speak for what is not owned.
    fenced: BTreeMap<u32, String>,
    /// What the stage was made of.
    staged: Option<(u64, Host, Arc<Config>)>,
    /// All VIPs of the table.
    vips: OrdSet<IpAddr>,
    /// Those of which conntrack sees both sides, so that their connections can be handed over.
    translated: OrdSet<IpAddr>,
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
        start: Beginning<'_>,
        guard: Guard,
        handover: HandingOver,
    ) -> Self {
        let (node, membership) = {
            let config = ears.config.borrow();
            (config.node.name.clone(), config.membership.clone())
        };
        // These keys take effect after a restart only.
        let probe_interval = membership.probe_interval;
        let mut engine = Engine::new(node, start.claims);
        let mut claimed = None;
        if let Some(Awaited { until, vips }) = start.awaited {
            engine.resume(until, vips);
            claimed = Some(Arc::new(VipTable::of_claims(start.claims)));
        }
        Self {
            handover,
            hands_over: false,
            engine,
            claimed,
            ears,
            mouths,
            guard,
            fences: 0,
            pause: PauseWatch::start(),
            lease: membership.lease(),
            hear_patience: probe_interval * 3 / 2,
            renew_every: (probe_interval / 4).min(RENEW_EVERY),
            suspended: None,
            stage: BTreeMap::new(),
            fenced: BTreeMap::new(),
            staged: None,
            vips: OrdSet::new(),
            translated: OrdSet::new(),
            digests: (0, 0),
            wake: None,
            probed: mpsc::channel(8),
        }
    }

    /// Decides until `stopped`; returns whether this node owns something that it keeps while it restarts,
    /// and is sure of it.
    pub async fn run(mut self, mut stopped: watch::Receiver<bool>) -> bool {
        let mut lease = tokio::time::interval(self.renew_every);
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
                    }
                    continue;
                }
                () = self.guard.changed() => {}
                Some((asked, used, peers)) = self.probed.1.recv() => {
                    self.engine.probed(&asked, &used, &peers, Instant::now());
                }
                () = sleep_until(wake) => {}
            }
            self.step();
        }
        // Nobody waits for a drained node, also where nobody took what it owns, unless it still has
        // connections.
        let keeps = (!self.engine.claims().is_empty() && !*self.ears.draining.borrow())
            || (self.handover.is_passed_to() && !*self.ears.leaves.borrow());
        if keeps && !self.is_sure() {
            tracing::info!("stopped before the others were heard, the next run waits for them");
            return false;
        }
        keeps
    }

    /// Whether what this node claims is certainly its own: it was not stopped for longer than its lease
    /// lasts, and has heard the others since it last was. Else somebody may have followed it, and whoever
    /// said that it restarts would answer beside that one.
    fn is_sure(&mut self) -> bool {
        let stopped = self.pause.was_longer_than(self.lease);
        !stopped && self.suspended.is_none() && self.ears.peers.borrow().settled
    }

    /// Renews the permission to announce, unless this node was stopped for longer than that lasts: then
    /// another may have taken over, and nothing is said before the others were heard. False where the
    /// engine has to look again.
    fn hold_lease(&mut self) -> bool {
        if self.pause.was_longer_than(self.lease) {
            self.suspend();
            return false;
        }
        if self.suspended.is_none() && !self.engine.announced().is_empty() {
            self.guard.renew();
        }
        self.suspended.is_none() && !(self.hands_over && self.handover.is_due())
    }

    fn suspend(&mut self) {
        if self.engine.announced().is_empty() {
            // Nobody noticed; what is known of the others is of before all the same.
            tracing::debug!("this process was stopped for a while");
        } else {
            tracing::warn!("this process was stopped for a while, it asks who owns what");
        }
        let until = Instant::now() + self.hear_patience;
        self.suspended = Some(until);
        self.wake = Some(until);
    }

    fn step(&mut self) {
        let now = Instant::now();
        if self.suspended.is_some_and(|until| until <= now) {
            self.suspended = None;
        }
        let config = Arc::clone(&self.ears.config.borrow_and_update());
        let peers = Arc::clone(&self.ears.peers.borrow_and_update());
        let mut table = Arc::clone(&self.ears.table.borrow_and_update());
        if table.generation > 0 {
            self.claimed = None;
        } else if let Some(claimed) = self.claimed.as_ref().filter(|_| peers.enabled) {
            table = Arc::clone(claimed);
        }
        // A pod that comes or goes changes nothing here.
        let host = relevant(&config, &self.ears.host.borrow_and_update());
        let draining = *self.ears.draining.borrow_and_update();
        let world = World {
            config: &config,
            table: &table,
            peers: &peers,
            host: &host,
            ready: table.generation > 0 && !self.guard.is_slow(),
            draining,
            suspended: self.suspended.is_some(),
            unix_ms: unix_ms(),
        };
        let before = self.engine.announced().clone();
        let Outcome { ask, wake } = self.engine.step(now, &world);
        self.restage(&config, &table, &host);
        self.hand_over(table.generation, &host, &peers);
        let may_speak = self.put_in_force(table.generation, &host, &peers);
        self.tell(&world, &may_speak);
        let wakes = [wake, self.suspended, self.guard.slow_at()];
        self.wake = wakes.into_iter().flatten().min();
        self.log_moves(&before);
        if !ask.is_empty() {
            asking::ask(ask, &self.stage, &host, &peers, self.probed.0.clone());
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
            self.translated = self.vips.clone();
            let directly = table.groups.values().flat_map(|it| &it.answered_directly);
            for vip in directly {
                self.translated.remove(vip);
            }
            self.digests = (digest::configuration(config), digest::table(table));
            self.staged = Some((table.generation, host.clone(), Arc::clone(config)));
        }
    }

    /// Before anything is announced: the first packets may belong to the node that had it before.
    fn hand_over(&mut self, generation: u64, host: &Host, peers: &Arc<Peers>) {
        // Until then it stays due, and looking again would change nothing.
        self.hands_over = generation > 0 && (peers.settled || !peers.enabled);
        if generation > 0 {
            self.handover.settle(&Scene {
                owners: self.engine.owners(),
                peers,
                host,
                stage: &self.stage,
                vips: &self.vips,
                translated: &self.translated,
                passed: &self.guard.passed(),
            });
        }
    }

    /// Announces what the fence lets pass; returns that.
    fn put_in_force(&mut self, generation: u64, host: &Host, peers: &Peers) -> OrdSet<IpAddr> {
        let owned = self.engine.announced();
        // What an earlier run held back stays so until it is known what there is.
        if generation > 0 {
            let handed = self.handover.wanted();
            (self.guard).allow(&self.fenced, &self.vips, owned, host, handed);
        }
        let may_speak = self.guard.allowed(owned);
        let interfaces = if self.suspended.is_some() && !self.guard.silences() {
            // Nothing else silences this node.
            announcing::announce(&self.stage, &OrdSet::new())
        } else {
            announcing::announce(&self.stage, &may_speak)
        };
        // The first frames must not wait for the next turn.
        self.hold_lease();
        let macs = asking::hardware_addresses(peers);
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
        may_speak
    }

    /// Tells everybody else. Other nodes hear of a claim when this node may speak for the VIP: its owner
    /// until then goes on for so long.
    fn tell(&self, world: &World<'_>, may_speak: &OrdSet<IpAddr>) {
        let World { config, host, .. } = *world;
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
        let lans = digest::lans(config, host);
        (self.mouths.interfaces).send_if_modified(|told| {
            let other = **told != lans;
            if other {
                *told = Arc::new(lans);
            }
            other
        });
        let told = Arc::clone(&self.mouths.publication.borrow());
        let mut claims = claims.clone();
        let waiting = (self.engine.announced().iter())
            .filter(|vip| !may_speak.contains(*vip) && !told.claims.contains_key(*vip));
        for vip in waiting {
            claims.remove(vip);
        }
        let publication = Publication {
            state: digest::state(world, self.digests),
            claims,
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
