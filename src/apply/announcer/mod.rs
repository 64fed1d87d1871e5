//! Makes the LAN send this node's VIPs to it: answers ARP requests and neighbor solicitations and
//! announces unasked. It does exactly what the published [`AnnouncedSet`] says and decides nothing about
//! ownership.
//!
//! ```text
//!                   AnnouncedSet (watch)
//!  publisher ──┬──────────────────────────┐
//!              ▼                          ▼
//!          Announcer ──starts, ends──► Responder, one task an interface ◄──► packet sockets
//!            ▲ │  ──link state──►         │
//!  kernel ───┘ │  ◄──generation──         │
//!              ▼                          ▼
//!      generation in force     counters, problems, claims   ──► AnnouncerView
//! ```
//!
//! Each responder reads the newest set while it answers, and holds it while sending: when the
//! publisher's `send` returns, no frame for a withdrawn VIP is sent any more. The generation in force
//! says more: filters, sockets and schedules have followed as well. The publisher may hang or plan for
//! as long as it likes; answering goes on, on a thread of its own ([`thread`]).

pub mod arp;
pub mod askers;
pub mod burst;
pub mod claims;
pub mod counters;
pub mod filter;
mod groups;
pub mod limit;
pub mod links;
pub mod ndp;
mod responder;
pub mod socket;
#[cfg(test)]
mod tests;
pub mod thread;
pub mod verdict;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::{debug, warn};

use crate::model::announcement::AnnouncedSet;
use crate::model::foreign::ForeignHosts;
use burst::BurstSettings;
use claims::{Rivals, Told};
use counters::AnnouncerCounters;
use links::{LinkListener, LinkNews};
use responder::{LinkState, Problems, Responder};

/// Why the announcer ended although there is still something to announce.
#[derive(Debug, Error)]
pub enum AnnouncerError {
    /// The task of an interface ended; only a defect of this program does that.
    #[error("the responder of the interface with index {index} ended unexpectedly")]
    ResponderEnded {
        /// The interface's index.
        index: u32,
    },
    /// A task could not be joined, for instance because it panicked.
    #[error("a responder failed")]
    Responder(#[source] JoinError),
}

/// The announcer is not there any more, so nothing is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the announcer has ended")]
pub struct AnnouncerEnded;

/// What keeps an interface from announcing now. It is tried again all the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceProblem {
    /// The interface's name.
    pub interface: String,
    /// The error with its remedy.
    pub error: String,
}

/// The task that follows the published set. It ends when the publisher is dropped.
pub struct Announcer {
    settings: BurstSettings,
    announced: watch::Receiver<Arc<AnnouncedSet>>,
    counters: AnnouncerCounters,
    problems: Problems,
    claims: Told,
    in_force: watch::Sender<Option<u64>>,
    responders: BTreeMap<u32, Running>,
    tasks: JoinSet<u32>,
}

/// A responder as the announcer knows it.
struct Running {
    /// The interface's name in the newest set.
    name: String,
    applied: watch::Receiver<Option<u64>>,
    link: watch::Sender<LinkState>,
    task: AbortHandle,
}

/// What others see of the announcer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnnouncerView {
    counters: AnnouncerCounters,
    problems: watch::Receiver<BTreeMap<u32, InterfaceProblem>>,
    in_force: watch::Receiver<Option<u64>>,
    foreign: watch::Receiver<Arc<ForeignHosts>>,
    rivals: watch::Receiver<Rivals>,
}

impl AnnouncerView {
    /// The counters since the start.
    pub const fn counters(&self) -> &AnnouncerCounters {
        &self.counters
    }

    /// What does not work now, by interface index; empty when all is well.
    pub fn errors(&self) -> BTreeMap<u32, InterfaceProblem> {
        self.problems.borrow().clone()
    }

    /// Hosts that are no nodes and claim VIPs which are announced here, until they have been silent for a
    /// minute or the VIP is withdrawn. The VIPs are defended meanwhile.
    pub fn foreign(&self) -> watch::Receiver<Arc<ForeignHosts>> {
        self.foreign.clone()
    }

    /// Other nodes that claim VIPs which are announced here, for as long. Who of them withdraws is not
    /// decided here.
    pub fn rivals(&self) -> watch::Receiver<Rivals> {
        self.rivals.clone()
    }

    /// The generation of the newest set that is in force on all interfaces; none before the first.
    pub fn in_force(&self) -> Option<u64> {
        *self.in_force.borrow()
    }

    /// Waits until the set of this generation or a later one is in force: withdrawn VIPs are neither
    /// answered nor announced, and new ones are answered wherever their interface works.
    pub async fn wait_in_force(&self, generation: u64) -> Result<(), AnnouncerEnded> {
        self.in_force
            .clone()
            .wait_for(|in_force| in_force.is_some_and(|in_force| in_force >= generation))
            .await
            .map(|_| ())
            .map_err(|_| AnnouncerEnded)
    }
}

impl Announcer {
    /// The same for nodes that need so long to decide which of two withdraws: after it this node announces
    /// a VIP again that another one announced as well. An owner that has been relieved and does not know
    /// it yet would else bring the clients back.
    #[must_use]
    pub fn with_rivals_settled_within(self, patience: Duration) -> Self {
        let claims = self.claims.settled_within(patience);
        Self { claims, ..self }
    }

    /// An announcer that follows `announced`, and the view of it.
    pub fn new(
        settings: BurstSettings,
        announced: watch::Receiver<Arc<AnnouncedSet>>,
    ) -> (Self, AnnouncerView) {
        let counters = AnnouncerCounters::default();
        let (problems, seen_problems) = watch::channel(BTreeMap::new());
        let (in_force, seen_in_force) = watch::channel(None);
        let claims = Told::new();
        let view = AnnouncerView {
            counters: counters.clone(),
            problems: seen_problems,
            in_force: seen_in_force,
            foreign: claims.foreign(),
            rivals: claims.rivals(),
        };
        let follower = Self {
            settings,
            announced,
            counters,
            problems: Arc::new(problems),
            claims,
            in_force,
            responders: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        (follower, view)
    }

    /// Announces until the publisher of the set is dropped. An error is a defect: the caller should
    /// end the daemon, so that it is started again.
    pub async fn run(mut self) -> Result<(), AnnouncerError> {
        let mut links = listen();
        loop {
            let set = Arc::clone(&self.announced.borrow_and_update());
            self.follow(&set).await?;
            self.in_force.send_replace(Some(set.generation));
            debug!(
                generation = set.generation,
                interfaces = set.interfaces.len(),
                "announced set is in force"
            );
            loop {
                tokio::select! {
                    changed = self.announced.changed() => match changed {
                        Ok(()) => break,
                        Err(_publisher_gone) => return Ok(()),
                    },
                    Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                    news = hear(&mut links) => self.tell(news),
                }
            }
        }
    }

    /// Ends the responders of interfaces that are not in the set, starts those of new ones and waits
    /// until all have followed. None of them ever waits for its interface, so this takes no time.
    async fn follow(&mut self, set: &AnnouncedSet) -> Result<(), AnnouncerError> {
        let gone: Vec<u32> = (self.responders.keys())
            .filter(|index| !set.interfaces.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            let Some(mut responder) = self.responders.remove(&index) else {
                continue;
            };
            responder.task.abort();
            // The channel closes when the task is dropped, and its socket with it.
            while responder.applied.changed().await.is_ok() {}
            self.problems
                .send_if_modified(|problems| problems.remove(&index).is_some());
        }
        for (index, interface) in &set.interfaces {
            if let Some(responder) = self.responders.get_mut(index) {
                responder.name.clone_from(&interface.name);
            } else {
                let responder = self.start(*index, interface.name.clone());
                self.responders.insert(*index, responder);
            }
        }
        for (index, responder) in &mut self.responders {
            let followed = responder
                .applied
                .wait_for(|applied| applied.is_some_and(|applied| applied >= set.generation))
                .await;
            // A responder ends by itself when the publisher is gone, as the announcer is about to.
            if followed.is_err() && self.announced.has_changed().is_ok() {
                return Err(AnnouncerError::ResponderEnded { index: *index });
            }
        }
        Ok(())
    }

    fn start(&mut self, index: u32, name: String) -> Running {
        let (applied, seen_applied) = watch::channel(None);
        let (link, seen_link) = watch::channel(LinkState::default());
        let responder = Responder::new(
            index,
            self.settings.clone(),
            self.announced.clone(),
            applied,
            seen_link,
            &self.counters,
            Arc::clone(&self.problems),
            self.claims.clone(),
        );
        let task = self.tasks.spawn(async move {
            responder.run().await;
            index
        });
        Running {
            name,
            applied: seen_applied,
            link,
            task,
        }
    }

    /// Tells the responders what the kernel says of their links; nothing said is that something may
    /// have been missed.
    fn tell(&self, news: Option<Vec<LinkNews>>) {
        let Some(news) = news else {
            for responder in self.responders.values() {
                responder.link.send_modify(|link| {
                    link.news = link.news.wrapping_add(1);
                    link.ways = link.ways.wrapping_add(1);
                });
            }
            return;
        };
        for link in news {
            let concerned = (self.responders.iter())
                .filter(|(index, running)| **index == link.index || running.name == link.name);
            for (_, responder) in concerned {
                responder.link.send_modify(|state| {
                    state.news = state.news.wrapping_add(1);
                    state.mac = link.mac;
                    state.up = Some(link.up);
                    state.carriers = link.carriers;
                    state.ways = state.ways.wrapping_add(u64::from(link.other_way));
                });
            }
        }
    }

    /// Judges the end of a responder: fine when it was told to.
    fn ended(&self, ended: Result<u32, JoinError>) -> Result<(), AnnouncerError> {
        match ended {
            Err(error) if error.is_cancelled() => Ok(()),
            Err(error) => Err(AnnouncerError::Responder(error)),
            // As above: the publisher is gone.
            Ok(_) if self.announced.has_changed().is_err() => Ok(()),
            Ok(index) => Err(AnnouncerError::ResponderEnded { index }),
        }
    }
}

/// Without news of links, interfaces are found again by trying.
fn listen() -> Option<LinkListener> {
    LinkListener::open()
        .inspect_err(|error| warn!(%error, "cannot listen for changes of links, they are polled"))
        .ok()
}

async fn hear(links: &mut Option<LinkListener>) -> Option<Vec<LinkNews>> {
    if let Some(listener) = links {
        match listener.receive().await {
            Ok(news) => return news,
            Err(error) => {
                warn!(%error, "cannot hear of changes of links any more, they are polled");
                *links = None;
            }
        }
    }
    std::future::pending().await
}
