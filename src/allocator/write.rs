//! Writes the statuses that say something else than they should, and takes in what came of it. The
//! claims stand.

use std::sync::Arc;
use std::time::Instant;

use super::lead::Leader;
use super::statuses::Done;
use super::tell;
use crate::api_server::server::CallError;
use crate::apply::kubernetes::status::{self as wire, StatusError};
use crate::model::cluster::Dirty;
use crate::model::service::{Service, ServiceKey, ServiceType};
use crate::plan::ipam::not_ours;
use crate::plan::status::{StatusWrite, says, status};

/// Namespaces whose statuses the role may not write, before it is the role's fault and not that of
/// an admission policy in one of them.
const MOST_REFUSING: usize = 3;

impl Leader {
    /// Starts the requests that there is place for.
    pub(super) fn write(&mut self) {
        if self.barrier.is_some() {
            return;
        }
        self.examiner.start(&self.settings.server);
        let now = Instant::now();
        while let Some(key) = self.statuses.take(now) {
            let Some(service) = self.view.cluster.services.get(&key).cloned() else {
                self.statuses.forget(&key);
                continue;
            };
            let seen = wire::Seen::of(&service);
            let write = self.wanted(&service);
            let (Some(seen), Some(write)) = (seen, write) else {
                self.statuses.settled(&key);
                continue;
            };
            let version = seen.object.version.clone();
            if self.statuses.is_written_for(&key, &version) {
                self.statuses.settled(&key);
                continue;
            }
            if self.statuses.is_fought_over(&key, now) {
                self.trouble(format!("somebody else keeps writing the status of {key}"));
                continue;
            }
            let server = Arc::clone(&self.settings.server);
            let note = tell::written(&service, &write);
            let change = change(&service, write);
            if let wire::StatusChange::Set { addresses, .. } = &change {
                self.names(&key, &version, addresses.clone());
            }
            let write = wire::StatusWrite {
                service: key.clone(),
                seen,
                change,
            };
            self.statuses.start(&key, &version, note, async move {
                wire::write(&server, &write).await
            });
        }
    }

    fn wanted(&self, service: &Service) -> Option<StatusWrite> {
        let config = &self.view.config;
        let allocations = &self.plan.allocations;
        let not_ours = service.kind != ServiceType::LoadBalancer
            || not_ours(config, allocations, service).is_some();
        let reasons = self.plan.pending.get(&service.key);
        status(
            config,
            service,
            not_ours,
            allocations.addresses(&service.key),
            reasons.map_or(&[], Vec::as_slice),
        )
    }

    /// Waits for an answer, and takes in what came of it.
    pub(super) async fn answered(&mut self) {
        tokio::select! {
            done = self.statuses.next() => {
                if let Some(done) = done {
                    self.done(done);
                }
            }
            examined = self.examiner.next() => match examined {
                Ok(service) => self.scope.add(Dirty::Service(service)),
                Err(StatusError::Call(error)) if error.concerns_everything() => {
                    self.failed(error.describe(), error.retry_after());
                }
                // It is asked for again.
                Err(error) => self.trouble(error.to_string()),
            }
        }
    }

    fn done(&mut self, done: Done) {
        let Done {
            service,
            outcome,
            note,
        } = done;
        match outcome {
            Ok(written) => {
                self.succeeded();
                self.written += 1;
                self.refused_in.clear();
                self.statuses
                    .wrote(&service, &written.version, Instant::now());
                if let Some(note) = note {
                    note.tell(&self.recorder);
                }
            }
            // The watch tells what it is now, or that it is no more.
            Err(StatusError::Outdated | StatusError::Gone) => {
                self.names_not(&service);
                self.statuses.overtaken(&service);
            }
            Err(StatusError::Contended) => {
                self.names_not(&service);
                self.statuses.failed(service, Instant::now());
            }
            Err(StatusError::Call(error)) => self.refused(service, &error),
        }
    }

    fn refused(&mut self, service: ServiceKey, error: &CallError) {
        if !error.leaves_outcome_unknown() {
            self.names_not(&service);
        }
        if error.concerns_everything() {
            self.statuses.again(service);
            self.failed(error.describe(), error.retry_after());
            return;
        }
        self.trouble(format!("{service}: {}", error.describe()));
        if let CallError::Forbidden { verb, resource, .. } = error {
            self.refused_in.insert(service.namespace.to_string());
            if self.refused_in.len() >= MOST_REFUSING {
                let missing = format!("its role lacks the verb {verb} on {resource}");
                self.unfit = Some(missing);
            }
        }
        self.statuses.failed(service, Instant::now());
    }
}

/// What is to be sent: addresses that stand already are left out.
fn change(service: &Service, write: StatusWrite) -> wire::StatusChange {
    match write {
        StatusWrite::Set {
            addresses,
            condition,
        } => {
            if says(service, &addresses) {
                wire::StatusChange::Condition(condition)
            } else {
                wire::StatusChange::Set {
                    addresses,
                    condition,
                }
            }
        }
        StatusWrite::Clear => wire::StatusChange::Clear,
        StatusWrite::ClearCondition => wire::StatusChange::ClearCondition,
    }
}
