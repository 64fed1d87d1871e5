//! The queue of statuses that are to be written: few at a time, each once for what was seen, later
//! where a Service's write fails or somebody else keeps writing the same. One Service's trouble stops
//! no other. The claims are always before the statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::{Id, JoinSet};

use super::pause;
use super::tell::Note;
use crate::apply::kubernetes::status::{StatusError, Written};
use crate::model::service::ServiceKey;

/// Requests that are under way at once. The server shares itself out among its clients by their
/// number of requests; more than this would only wait there.
const MOST_RUNNING: usize = 16;
/// Writes of one Service within a [`ROW`], after which the next one waits: somebody else writes it too.
const MOST_IN_A_ROW: u32 = 6;
const ROW: Duration = Duration::from_secs(60);

/// What came of a write.
pub(super) struct Done {
    pub(super) service: ServiceKey,
    pub(super) outcome: Result<Written, StatusError>,
    /// What to tell people once it is written.
    pub(super) note: Option<Note>,
}

#[derive(Default)]
pub(super) struct Statuses {
    /// Services to look at.
    todo: BTreeSet<ServiceKey>,
    /// Services to look at later, by how often they failed in a row.
    later: BTreeMap<ServiceKey, (Instant, u32)>,
    running: BTreeMap<ServiceKey, Id>,
    tasks: JoinSet<Done>,
    /// The version of the Service that the last write was made for: until the watch tells another
    /// one there is nothing to write.
    written_for: BTreeMap<ServiceKey, String>,
    /// When a Service's row of writes began, and how many there were.
    rows: BTreeMap<ServiceKey, (Instant, u32)>,
}

impl Statuses {
    /// Looks at these; what failed keeps its pause.
    pub(super) fn look_at(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        let new = (services.into_iter()).filter(|key| !self.later.contains_key(key));
        self.todo.extend(new);
    }

    /// How many are to be looked at or being written.
    pub(super) fn waiting(&self) -> usize {
        self.todo.len() + self.later.len() + self.running.len()
    }

    /// The next Service to look at, while there is place for a write. One that is being written is
    /// looked at when that is over.
    pub(super) fn take(&mut self, now: Instant) -> Option<ServiceKey> {
        if self.running.len() >= MOST_RUNNING {
            return None;
        }
        let due = self.later.iter().find(|(_, (at, _))| *at <= now);
        if let Some(key) = due.map(|(key, _)| key.clone()) {
            // Its failures stay counted until a write is done.
            if let Some((at, _)) = self.later.get_mut(&key) {
                *at = now + ROW;
            }
            return Some(key);
        }
        let mut idle = (self.todo.iter()).filter(|key| !self.running.contains_key(*key));
        let next = idle.next()?.clone();
        self.todo.remove(&next);
        Some(next)
    }

    /// When a Service is due whose write failed.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.running.len() >= MOST_RUNNING {
            return None;
        }
        self.later.values().map(|(at, _)| *at).min()
    }

    /// Nothing is to be written for it.
    pub(super) fn settled(&mut self, service: &ServiceKey) {
        self.later.remove(service);
    }

    /// Whether this version of the Service has been written for.
    pub(super) fn is_written_for(&self, service: &ServiceKey, version: &str) -> bool {
        (self.written_for.get(service)).is_some_and(|written| written == version)
    }

    /// Whether somebody else writes the same status again and again: then the next write waits, so
    /// that two of them cannot keep the API server busy.
    pub(super) fn is_fought_over(&mut self, service: &ServiceKey, now: Instant) -> bool {
        let Some((begun, writes)) = self.rows.get(service) else {
            return false;
        };
        let end = *begun + ROW;
        if *writes < MOST_IN_A_ROW || now >= end {
            return false;
        }
        self.later.insert(service.clone(), (end, 0));
        true
    }

    /// Starts a write.
    pub(super) fn start(
        &mut self,
        service: &ServiceKey,
        version: &str,
        note: Option<Note>,
        write: impl Future<Output = Result<Written, StatusError>> + Send + 'static,
    ) {
        self.written_for.insert(service.clone(), version.to_owned());
        let key = service.clone();
        let task = self.tasks.spawn(async move {
            Done {
                outcome: write.await,
                service: key,
                note,
            }
        });
        self.running.insert(service.clone(), task.id());
    }

    /// Waits for the next write to end; for ever where none is under way. Nothing is lost when this
    /// is dropped half-way.
    pub(super) async fn next(&mut self) -> Option<Done> {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok(done)) => {
                self.running.remove(&done.service);
                Some(done)
            }
            // A task that was ended or panicked.
            Some(Err(error)) => {
                let lost = self.running.iter().find(|(_, id)| **id == error.id());
                if let Some(lost) = lost.map(|(key, _)| key.clone()) {
                    self.running.remove(&lost);
                    self.failed(lost, Instant::now());
                }
                None
            }
        }
    }

    /// The server holds what was written. Where that changed nothing, the watch will tell nothing.
    pub(super) fn wrote(&mut self, service: &ServiceKey, version: &str, now: Instant) {
        self.later.remove(service);
        let row = self.rows.entry(service.clone()).or_insert((now, 0));
        if now.saturating_duration_since(row.0) >= ROW {
            *row = (now, 0);
        }
        row.1 += 1;
        if self.is_written_for(service, version) {
            self.written_for.remove(service);
        }
    }

    /// The watch tells what it is now, or that it is no more.
    pub(super) fn overtaken(&mut self, service: &ServiceKey) {
        self.later.remove(service);
    }

    /// It is to be written again, whatever version the watch tells; later each time.
    pub(super) fn failed(&mut self, service: ServiceKey, now: Instant) {
        self.written_for.remove(&service);
        let failures = self
            .later
            .get(&service)
            .map_or(0, |(_, failures)| *failures);
        let at = now + pause(failures);
        self.later.insert(service, (at, failures.saturating_add(1)));
    }

    /// It is to be written again as soon as anything is.
    pub(super) fn again(&mut self, service: ServiceKey) {
        self.written_for.remove(&service);
        self.later.remove(&service);
        self.todo.insert(service);
    }

    /// Forgets what the server is known to hold of a Service that is gone.
    pub(super) fn forget(&mut self, service: &ServiceKey) {
        self.written_for.remove(service);
        self.later.remove(service);
        self.rows.remove(service);
    }
}
