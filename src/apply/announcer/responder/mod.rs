//! Answers and announces on one interface: owns its sockets, its groups and its schedule. What may be
//! answered is read from the published set while it is answered; this file decides only when to open,
//! close and try again. An interface that goes down, away or comes back never ends it.

mod announce;
mod hear;
mod trouble;

use std::collections::BTreeSet;
use std::hash::RandomState;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info};

use super::burst::{BurstSettings, Schedule};
use super::claims::Told;
use super::counters::AnnouncerCounters;
use super::groups::Groups;
use super::ndp;
use super::socket::{Descriptor, PacketSocket, Protocol, SocketError};
use super::verdict::AnnouncingInterface;
use crate::apply::jitter::jitter;
use crate::model::announcement::AnnouncedSet;
use announce::Refreshes;
use hear::Hearing;
pub(super) use trouble::Problems;
use trouble::{Kind, Troubles};

/// First wait before a failed interface is tried again; doubled up to [`LONGEST_RETRY`]. Short enough
/// that a recreated interface answers again within half a second, also where the kernel's news of it
/// was missed.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LONGEST_RETRY: Duration = Duration::from_millis(200);
/// The same while no VIP waits for it.
const LONGEST_IDLE_RETRY: Duration = Duration::from_secs(2);
/// Wait before groups that could not be joined are tried again.
const GROUP_RETRY: Duration = Duration::from_secs(2);
/// Groups joined or left in one go, some 20 µs each, so that requests are answered in between.
const GROUP_BATCH: usize = 8;

/// VIPs that have log lines of their own when they change at a time.
const MOST_LOGGED: usize = 16;

/// What the kernel said last of the responder's link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LinkState {
    /// Its hardware address.
    pub(super) mac: Option<[u8; 6]>,
    /// Whether it is up with a carrier; unknown before the first change.
    pub(super) up: Option<bool>,
    /// How often it got a carrier; unknown before the first change.
    pub(super) carriers: Option<u32>,
    /// How often its frames took another way to the LAN.
    pub(super) ways: u64,
    /// How often there were news.
    pub(super) news: u64,
}

/// The sockets of the interface, while it works.
struct Open {
    arp: Arc<PacketSocket>,
    ndp: Arc<PacketSocket>,
    groups: Groups,
}

/// The task of one interface.
pub(super) struct Responder {
    announced: watch::Receiver<Arc<AnnouncedSet>>,
    /// The generation that is in force here.
    applied: watch::Sender<Option<u64>>,
    troubles: Troubles,
    interface: AnnouncingInterface,
    /// The hardware address that the newest set names; the socket's own may be newer.
    told_mac: [u8; 6],
    link: watch::Receiver<LinkState>,
    seen_link: LinkState,
    /// What is announced here, ascending.
    vips: Vec<IpAddr>,
    /// What any node announces on this LAN, the VIPs among them, ascending: what the filters let in.
    watched: Arc<[IpAddr]>,
    schedule: Schedule,
    refreshes: Refreshes,
    hearing: Hearing,
    open: Option<Open>,
    /// When to try again to open the sockets; only without them.
    retry: Option<Instant>,
    retry_interval: Duration,
    group_retry: Option<Instant>,
    random: RandomState,
}

impl Responder {
    #[allow(
        clippy::too_many_arguments,
        reason = "called once, with what others share"
    )]
    pub(super) fn new(
        index: u32,
        settings: BurstSettings,
        announced: watch::Receiver<Arc<AnnouncedSet>>,
        applied: watch::Sender<Option<u64>>,
        link: watch::Receiver<LinkState>,
        counters: &AnnouncerCounters,
        problems: Problems,
        told: Told,
    ) -> Self {
        let set = announced.borrow().clone();
        let name = (set.interfaces.get(&index)).map_or_else(String::new, |on| on.name.clone());
        Self {
            announced,
            applied,
            troubles: Troubles::new(index, problems),
            hearing: Hearing::new(counters, &name, told),
            interface: AnnouncingInterface {
                index,
                name,
                mac: [0; 6],
            },
            told_mac: [0; 6],
            link,
            seen_link: LinkState::default(),
            vips: Vec::new(),
            watched: Arc::from([]),
            schedule: Schedule::new(settings),
            refreshes: Refreshes::default(),
            open: None,
            retry: None,
            retry_interval: FIRST_RETRY,
            group_retry: None,
            random: RandomState::new(),
        }
    }

    /// Runs until the publisher of the set is gone.
    pub(super) async fn run(mut self) {
        // More than any frame, so that one that does not fit is known by its length.
        let mut buffer = [0; ndp::LONGEST_FRAME + 2];
        self.adopt().await;
        loop {
            let wake = self.next_wake();
            let arp = self.open.as_ref().map(|open| Arc::clone(&open.arp));
            let ndp = self.open.as_ref().map(|open| Arc::clone(&open.ndp));
            // Not biased: neither a flood of frames nor a long burst may starve the other.
            let more = tokio::select! {
                changed = self.announced.changed() => match changed {
                    Ok(()) => {
                        self.adopt().await;
                        false
                    }
                    Err(_publisher_gone) => return,
                },
                Ok(()) = self.link.changed() => {
                    self.follow_link().await;
                    false
                }
                () = sleep_until(wake) => {
                    self.act().await;
                    false
                }
                ready = ready(arp.as_deref()) => self.drain(Protocol::Arp, ready, &mut buffer),
                ready = ready(ndp.as_deref()) => {
                    self.drain(Protocol::NeighborDiscovery, ready, &mut buffer)
                }
            };
            if more {
                // The other interfaces have their turn, and the kernel is asked for their frames.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Makes the newest set this interface's own and says so.
    async fn adopt(&mut self) {
        let set = Arc::clone(&self.announced.borrow_and_update());
        let index = self.interface.index;
        let wanted = set.interfaces.get(&index);
        let vips: Vec<IpAddr> = wanted
            .into_iter()
            .flat_map(|wanted| wanted.addresses.iter().copied())
            .collect();
        let gone = without(&self.vips, &vips);
        for vip in &gone {
            self.schedule.withdraw(*vip);
            self.hearing.claims.withdraw(*vip);
        }
        self.log(&gone, "withdrew address");
        let before = std::mem::replace(&mut self.vips, vips);
        if let Some(wanted) = wanted {
            let watched = self.watch(&wanted.watched);
            if self.interface.name != wanted.name {
                self.interface.name.clone_from(&wanted.name);
                self.hearing.rename(&wanted.name);
            }
            // The kernel has the last word on the hardware address: a set with another one only
            // makes this task look again, once.
            let told = std::mem::replace(&mut self.told_mac, wanted.mac);
            match &self.open {
                Some(open) if wanted.mac == told || wanted.mac == open.arp.mac() => {
                    if watched {
                        self.refilter();
                    }
                    self.take_over(&before);
                }
                // Also without VIPs: opening takes some 20 ms, which a take-over should not wait for.
                _ => self.open().await,
            }
        } else {
            self.open = None;
            self.retry = None;
            self.troubles.solve_all();
        }
        self.applied.send_replace(Some(set.generation));
    }

    /// Takes in what is announced on this LAN; false where that is the same as before.
    fn watch(&mut self, others: &imbl::OrdSet<IpAddr>) -> bool {
        let all: BTreeSet<IpAddr> = others.iter().chain(&self.vips).copied().collect();
        if all.iter().eq(self.watched.iter()) {
            return false;
        }
        self.watched = all.iter().copied().collect();
        self.hearing.askers.retain(&all);
        true
    }

    /// Puts changed addresses into the filters and groups of the open sockets.
    fn refilter(&mut self) {
        let Some(open) = &mut self.open else { return };
        let filtered =
            (open.arp.set_vips(&self.watched)).and_then(|()| open.ndp.set_vips(&self.watched));
        open.groups.want(self.watched.iter());
        self.group_retry = None;
        if let Err(error) = filtered {
            self.fail(&error);
        }
    }

    /// Starts the bursts of the VIPs that were not there before.
    fn take_over(&mut self, before: &[IpAddr]) {
        if self.open.is_none() {
            return;
        }
        let now = Instant::now();
        let new = without(&self.vips, before);
        for vip in &new {
            let jitter = jitter(&self.random);
            self.schedule.take_over(*vip, now, jitter);
        }
        self.log(&new, "announced address");
    }

    /// Thousands of lines would delay the first frames.
    fn log(&self, vips: &[IpAddr], what: &'static str) {
        let interface = &self.interface.name;
        match vips {
            [first, .., last] if vips.len() > MOST_LOGGED => {
                info!(%first, %last, vips = vips.len(), interface, "{what}");
            }
            _ => {
                for vip in vips {
                    info!(%vip, interface, "{what}");
                }
            }
        }
    }

    async fn open(&mut self) {
        self.open = None;
        self.retry = None;
        let (index, name) = (self.interface.index, self.interface.name.clone());
        let open = |protocol| {
            PacketSocket::open_in_background(protocol, index, &name, Arc::clone(&self.watched))
        };
        let (arp, ndp) = tokio::join!(open(Protocol::Arp), open(Protocol::NeighborDiscovery));
        match arp.and_then(|arp| Ok((arp, ndp?))) {
            Ok((arp, ndp)) => {
                debug!(
                    interface = self.interface.name,
                    index = arp.index(),
                    vips = self.vips.len(),
                    "opened packet sockets"
                );
                self.interface.mac = arp.mac();
                let mut groups = Groups::new(arp.index());
                groups.want(self.watched.iter());
                self.open = Some(Open {
                    arp: Arc::new(arp),
                    ndp: Arc::new(ndp),
                    groups,
                });
                self.group_retry = None;
                self.retry_interval = FIRST_RETRY;
                self.troubles.solve(Kind::Socket);
                // Whatever the neighbours learnt meanwhile: they are told again.
                self.take_over(&[]);
            }
            Err(error) => self.fail(&error),
        }
    }

    fn lose_sockets(&mut self, error: &io::Error) {
        debug!(interface = self.interface.name, %error, "lost packet socket");
        self.open = None;
        self.retry = Some(Instant::now() + FIRST_RETRY);
    }

    /// Notes why there are no sockets, and when to try again.
    fn fail(&mut self, error: &SocketError) {
        self.open = None;
        self.retry = Some(Instant::now() + self.retry_interval);
        let longest = if self.vips.is_empty() {
            LONGEST_IDLE_RETRY
        } else {
            LONGEST_RETRY
        };
        self.retry_interval = (self.retry_interval * 2).min(longest);
        let name = &self.interface.name;
        self.troubles.report(Kind::Socket, name, &error.to_string());
    }

    /// Follows what the kernel says of the link.
    async fn follow_link(&mut self) {
        let link = *self.link.borrow_and_update();
        let before = std::mem::replace(&mut self.seen_link, link);
        let Some(open) = &self.open else {
            if self.retry.is_some() && link.up != Some(false) {
                self.open().await;
            }
            return;
        };
        if link.mac.is_some_and(|mac| mac != open.arp.mac()) {
            self.open().await;
        } else if link.up != Some(false)
            && (link.ways != before.ways || link.carriers != before.carriers)
        {
            debug!(
                interface = self.interface.name,
                "frames take another way to the LAN, neighbours are told again"
            );
            self.take_over(&[]);
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let own = [self.hearing.claims.next_due(), self.retry];
        let mut next = own.into_iter().flatten().min();
        if let Some(open) = &self.open {
            let groups =
                (open.groups.is_pending()).then(|| self.group_retry.unwrap_or_else(Instant::now));
            let sending = [groups, self.schedule.next_due(), self.refreshes.next_due()];
            next = sending.into_iter().flatten().chain(next).min();
        }
        next
    }

    /// Does what is due: opens the sockets again, joins groups, sends unasked.
    async fn act(&mut self) {
        let now = Instant::now();
        if self.retry.is_some_and(|retry| retry <= now) {
            self.open().await;
        }
        self.join_groups(now);
        self.announce_due(now);
    }

    fn join_groups(&mut self, now: Instant) {
        let Some(open) = &mut self.open else { return };
        if !open.groups.is_pending() || self.group_retry.is_some_and(|retry| retry > now) {
            return;
        }
        match open.groups.step(GROUP_BATCH) {
            Ok(()) => {
                self.group_retry = None;
                self.troubles.solve(Kind::Groups);
            }
            Err(error) => {
                self.group_retry = Some(now + GROUP_RETRY);
                let name = &self.interface.name;
                let error = format!(
                    "cannot join the solicited-node multicast groups of the IPv6 VIPs on interface \
                     {name}: {error}; switches may keep solicitations from it; is IPv6 off there?"
                );
                self.troubles.report(Kind::Groups, name, &error);
            }
        }
    }
}

/// The VIPs that are not among the others, both ascending.
fn without(vips: &[IpAddr], others: &[IpAddr]) -> Vec<IpAddr> {
    let missing = |vip: &&IpAddr| others.binary_search(vip).is_err();
    vips.iter().filter(missing).copied().collect()
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// What a socket that is ready gives to [`Responder::drain`].
type Ready<'a> = io::Result<(
    &'a PacketSocket,
    tokio::io::unix::AsyncFdReadyGuard<'a, Descriptor>,
)>;

async fn ready(socket: Option<&PacketSocket>) -> Ready<'_> {
    match socket {
        Some(socket) => socket.ready().await.map(|guard| (socket, guard)),
        None => std::future::pending().await,
    }
}
