//! Services that hold an address by the claims and that the source does not show. What the source shows
//! may be older than the claims, so the server itself is asked before one of them loses its address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::api_server::server::Server;
use crate::apply::kubernetes::status::{Existence, StatusError, examine};
use crate::model::service::ServiceKey;

/// Requests that are under way at once.
const MOST_RUNNING: usize = 16;
/// A Service that is there and is not shown is asked for again: it may go without ever being shown.
const AGAIN: Duration = Duration::from_secs(5);

type Examined = (ServiceKey, Result<Existence, StatusError>);

#[derive(Default)]
pub(super) struct Examiner {
    /// Not known to be gone; when to ask for it.
    unconfirmed: BTreeMap<ServiceKey, Option<Instant>>,
    /// The keys of those.
    kept: BTreeSet<ServiceKey>,
    /// Known to be gone, until they are shown again.
    gone: BTreeSet<ServiceKey>,
    running: BTreeSet<ServiceKey>,
    tasks: JoinSet<Examined>,
}

impl Examiner {
    /// A Service that has a record and is not shown.
    pub(super) fn missing(&mut self, service: &ServiceKey) {
        if !self.gone.contains(service) && !self.kept.contains(service) {
            self.kept.insert(service.clone());
            self.unconfirmed.insert(service.clone(), None);
        }
    }

    /// A Service that is shown, or has no record any more.
    pub(super) fn settled(&mut self, service: &ServiceKey) {
        self.gone.remove(service);
        self.kept.remove(service);
        self.unconfirmed.remove(service);
    }

    /// Those whose records stay until more is known.
    pub(super) fn kept(&self) -> &BTreeSet<ServiceKey> {
        &self.kept
    }

    /// Starts the requests that there is place for.
    pub(super) fn start(&mut self, server: &Arc<Server>) {
        let now = Instant::now();
        let due = (self.unconfirmed.iter())
            .filter(|(key, at)| at.is_none_or(|at| at <= now) && !self.running.contains(*key))
            .map(|(key, _)| key.clone())
            .take(MOST_RUNNING.saturating_sub(self.running.len()));
        for key in due.collect::<Vec<_>>() {
            self.running.insert(key.clone());
            let server = Arc::clone(server);
            self.tasks.spawn(async move {
                let existence = examine(&server, &key).await;
                (key, existence)
            });
        }
    }

    /// When [`Examiner::start`] has something to do again by itself.
    pub(super) fn wake(&self) -> Option<Instant> {
        let idle = self
            .unconfirmed
            .iter()
            .filter(|(key, _)| !self.running.contains(*key));
        idle.filter_map(|(_, at)| *at).min()
    }

    /// Waits for the next answer; for ever where nothing is asked. Nothing is lost when this is
    /// dropped half-way.
    pub(super) async fn next(&mut self) -> Result<ServiceKey, StatusError> {
        let Some(joined) = self.tasks.join_next().await else {
            return std::future::pending().await;
        };
        let Ok((key, existence)) = joined else {
            // A task that was ended or panicked: what it asked for is asked for again.
            self.running.clear();
            return Err(StatusError::Contended);
        };
        self.running.remove(&key);
        match existence {
            Ok(Existence::Gone) => {
                if self.unconfirmed.remove(&key).is_some() {
                    self.kept.remove(&key);
                    self.gone.insert(key.clone());
                }
            }
            Ok(Existence::Expected) => self.later(&key),
            Err(error) => {
                self.later(&key);
                return Err(error);
            }
        }
        Ok(key)
    }

    fn later(&mut self, key: &ServiceKey) {
        if let Some(at) = self.unconfirmed.get_mut(key) {
            *at = Some(Instant::now() + AGAIN);
        }
    }
}
