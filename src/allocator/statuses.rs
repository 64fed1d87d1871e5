//! The queue of statuses that are to be written: few at a time, each once for what was seen, and the
//! claims are always before them.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use tokio::task::JoinSet;

use super::tell::Note;
use crate::apply::kubernetes::status::{StatusError, Written};
use crate::model::service::ServiceKey;

/// Requests that are under way at once. The server shares itself out among its clients by their
/// number of requests; more than this would only wait there.
const MOST_RUNNING: usize = 16;

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
    /// Services that wait for another one's status.
    blocked: BTreeSet<ServiceKey>,
    running: BTreeSet<ServiceKey>,
    tasks: JoinSet<Done>,
    /// The version of the Service that the last write was made for: until the watch tells another
    /// one there is nothing to write.
    written_for: BTreeMap<ServiceKey, String>,
}

impl Statuses {
    /// Looks at these, and at all that waited for others.
    pub(super) fn look_at(&mut self, services: impl IntoIterator<Item = ServiceKey>) {
        self.todo.append(&mut self.blocked);
        self.todo.extend(services);
    }

    /// How many are to be looked at or being written.
    pub(super) fn waiting(&self) -> usize {
        self.todo.len() + self.blocked.len() + self.running.len()
    }

    /// The next Service to look at, while there is place for a write. One that is being written is
    /// looked at when that is over.
    pub(super) fn take(&mut self) -> Option<ServiceKey> {
        if self.running.len() >= MOST_RUNNING {
            return None;
        }
        let mut idle = self.todo.iter().filter(|key| !self.running.contains(*key));
        let next = idle.next()?.clone();
        self.todo.remove(&next);
        Some(next)
    }

    /// It waits until another Service's status names its address no more.
    pub(super) fn block(&mut self, service: ServiceKey) {
        self.blocked.insert(service);
    }

    /// Whether this version of the Service has been written for.
    pub(super) fn is_written_for(&self, service: &ServiceKey, version: &str) -> bool {
        (self.written_for.get(service)).is_some_and(|written| written == version)
    }

    /// Starts a write.
    pub(super) fn start(
        &mut self,
        service: &ServiceKey,
        version: &str,
        note: Option<Note>,
        write: impl Future<Output = Result<Written, StatusError>> + Send + 'static,
    ) {
        self.running.insert(service.clone());
        self.written_for.insert(service.clone(), version.to_owned());
        let service = service.clone();
        self.tasks.spawn(async move {
            Done {
                outcome: write.await,
                service,
                note,
            }
        });
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
            // A task that was ended or panicked: its Service is looked at anew with the rest.
            Some(Err(_)) => {
                let lost = std::mem::take(&mut self.running);
                self.todo.extend(lost);
                None
            }
        }
    }

    /// The server holds what was written. Where that changed nothing, the watch will tell nothing.
    pub(super) fn wrote(&mut self, service: &ServiceKey, version: &str) {
        if self.is_written_for(service, version) {
            self.written_for.remove(service);
        }
    }

    /// It is to be written again, whatever version the watch tells.
    pub(super) fn again(&mut self, service: ServiceKey) {
        self.written_for.remove(&service);
        self.todo.insert(service);
    }

    /// Forgets what the server is known to hold of a Service that is gone.
    pub(super) fn forget(&mut self, service: &ServiceKey) {
        self.written_for.remove(service);
    }
}
