//! Makes the LAN send this node's VIPs to it: answers ARP requests and announces unasked. It does
//! exactly what the published [`AnnouncedSet`] says and decides nothing about ownership.
//!
//! ```text
//!                   AnnouncedSet (watch)
//!  publisher ──┬──────────────────────────┐
//!              ▼                          ▼
//!          Announcer ──starts, ends──► Responder, one task an interface ◄──► packet socket
//!              │      ◄──generation──     │
//!              ▼                          ▼
//!      generation in force         counters, problems   ──► AnnouncerView
//! ```
//!
//! Each responder reads the newest set at each frame, and holds it while sending: when the publisher's
//! `send` returns, no frame for a withdrawn VIP is sent any more. The generation in force says more:
//! filters, sockets and schedules have followed as well. The publisher may hang or plan for as long as
//! it likes; answering goes on.

pub mod arp;
pub mod burst;
pub mod counters;
pub mod filter;
mod responder;
pub mod socket;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tracing::debug;

use crate::model::announcement::AnnouncedSet;
use burst::BurstSettings;
use counters::AnnouncerCounters;
use responder::{Problems, Responder};

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
    in_force: watch::Sender<Option<u64>>,
    responders: BTreeMap<u32, Running>,
    tasks: JoinSet<u32>,
}

/// A responder as the announcer knows it.
struct Running {
    applied: watch::Receiver<Option<u64>>,
    task: AbortHandle,
}

/// What others see of the announcer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AnnouncerView {
    counters: AnnouncerCounters,
    problems: watch::Receiver<BTreeMap<u32, InterfaceProblem>>,
    in_force: watch::Receiver<Option<u64>>,
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
    /// An announcer that follows `announced`, and the view of it.
    pub fn new(
        settings: BurstSettings,
        announced: watch::Receiver<Arc<AnnouncedSet>>,
    ) -> (Self, AnnouncerView) {
        let counters = AnnouncerCounters::default();
        let (problems, seen_problems) = watch::channel(BTreeMap::new());
        let (in_force, seen_in_force) = watch::channel(None);
        let view = AnnouncerView {
            counters: counters.clone(),
            problems: seen_problems,
            in_force: seen_in_force,
        };
        let follower = Self {
            settings,
            announced,
            counters,
            problems: Arc::new(problems),
            in_force,
            responders: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        (follower, view)
    }

    /// Announces until the publisher of the set is dropped. An error is a defect: the caller should
    /// end the daemon, so that it is started again.
    pub async fn run(mut self) -> Result<(), AnnouncerError> {
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
        for index in set.interfaces.keys() {
            if !self.responders.contains_key(index) {
                let responder = self.start(*index);
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

    fn start(&mut self, index: u32) -> Running {
        let (applied, seen_applied) = watch::channel(None);
        let responder = Responder::new(
            index,
            self.settings.clone(),
            self.announced.clone(),
            applied,
            self.counters.clone(),
            Arc::clone(&self.problems),
        );
        let task = self.tasks.spawn(async move {
            responder.run().await;
            index
        });
        Running {
            applied: seen_applied,
            task,
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
