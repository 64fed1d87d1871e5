//! Keeps a Lease, or waits for it: says whether this node leads, and until when at the latest. The
//! rules are in `decision`; this asks, waits, and tells.
//!
//! A Lease fences nothing: a holder whose clock stopped may write after it lost it. What is written
//! has to be safe without it; the Lease only keeps the writers from getting in each other's way.

mod decision;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::sleep_until;

use self::decision::{Action, Observed, decide, held, refused_pause, released};
use crate::api_server::jitter;
use crate::api_server::server::{Call, CallError, Server, Verb, body, encoded};

const RESOURCE: &str = "leases.coordination.k8s.io";
/// A server that asks for more patience is not obeyed longer than this.
const LONGEST_OBEDIENCE: Duration = Duration::from_secs(60);
/// How long the polite end may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Which Lease, as whom, and how fast.
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// The Lease's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// As whom; no two daemons have the same.
    pub identity: String,
    /// How long the others wait for a holder that is silent. Whole seconds.
    pub duration: Duration,
    /// How long a holder acts after its last renewal; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Between two tries or two renewals.
    pub retry: Duration,
    /// Between two tries where the role lacks a verb, at the longest: the first ones are made sooner.
    pub refused_retry: Duration,
}

impl LeaseSettings {
    /// What a daemon uses: after the death of its holder a Lease is taken within 11 s.
    pub fn new(namespace: &str, name: &str, node: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: format!("{node}_{:016x}", jitter::number()),
            duration: Duration::from_secs(10),
            renew_deadline: Duration::from_secs(7),
            retry: Duration::from_secs(2),
            refused_retry: Duration::from_secs(60),
        }
    }
}

/// Whether this node leads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Leadership {
    /// Nobody has asked yet, or nobody asks any more.
    #[default]
    Unknown,
    /// It does.
    Leading {
        /// Until then at the latest, whatever is heard; each renewal moves it.
        until: Instant,
    },
    /// Another one does.
    Following {
        /// The identity in the Lease; empty while it changes hands.
        holder: String,
    },
    /// The role lacks a verb: this node only reads.
    Refused {
        /// The verb.
        verb: Verb,
        /// On what.
        resource: &'static str,
        /// In the server's words.
        message: String,
    },
    /// The API server cannot be asked.
    Unreachable {
        /// Why.
        message: String,
    },
}

impl Leadership {
    /// Whether this node may write at this time. To be asked before every write: the task that keeps
    /// the Lease may hang.
    pub fn leads_at(&self, now: Instant) -> bool {
        matches!(self, Self::Leading { until } if now < *until)
    }
}

/// Runs until `stop` says `true` or its sender is gone; then gives the Lease back. Whoever writes on
/// the strength of it has to have ended by then.
pub async fn run(
    settings: LeaseSettings,
    server: Arc<Server>,
    leadership: watch::Sender<Leadership>,
    mut stop: watch::Receiver<bool>,
) {
    let mut elector = Elector {
        settings,
        server,
        lease: None,
        observed: None,
        leading_until: None,
        may_hold: false,
        refusals: 0,
    };
    loop {
        let round = tokio::select! {
            round = elector.round() => round,
            () = stopped(&mut stop) => break,
        };
        elector.count(&round);
        let next = now() + elector.pause(&round);
        elector.tell(round, &leadership);
        if elector.sleep(next, &leadership, &mut stop).await {
            break;
        }
    }
    leadership.send_replace(Leadership::Unknown);
    if elector.may_hold {
        let released = tokio::time::timeout(RELEASE_TIMEOUT, elector.release()).await;
        if let Ok(Err(error)) = released {
            let error = error.describe();
            tracing::warn!(error, "lease cannot be given back, it runs out by itself");
        }
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error: the sender is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a round found out.
#[derive(Debug)]
enum Found {
    /// The Lease is ours.
    Held,
    /// Another one's, until this time at least.
    Other { holder: String, until: Instant },
}

struct Elector {
    settings: LeaseSettings,
    server: Arc<Server>,
    /// As it was read or written last; `None`: read it first.
    lease: Option<Lease>,
    observed: Option<Observed>,
    leading_until: Option<Instant>,
    /// A write may have put us in.
    may_hold: bool,
    /// In a row, until now.
    refusals: u32,
}

impl Elector {
    fn path(&self, object: bool) -> String {
        let namespace = encoded(&self.settings.namespace);
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        if object {
            format!("{path}/{}", encoded(&self.settings.name))
        } else {
            path
        }
    }

    /// Half of the deadline, so that a second try fits; a leader does not wait beyond its end.
    fn patience(&self) -> Duration {
        let half = self.settings.renew_deadline / 2;
        let left = (self.leading_until).map(|until| until.saturating_duration_since(now()));
        let left = left.filter(|left| !left.is_zero());
        left.map_or(half, |left| left.min(half))
    }

    fn leads(&self) -> bool {
        self.leading_until.is_some_and(|until| now() < until)
    }

    async fn round(&mut self) -> Result<Found, CallError> {
        if self.leads() && self.lease.is_some() {
            match self.write().await {
                // Somebody edited it, took it or deleted it: look.
                Err(CallError::Conflict { .. } | CallError::NotFound { .. }) => {}
                result => return result,
            }
        }
        self.read().await?;
        let (identity, default) = (&self.settings.identity, self.settings.duration);
        match decide(self.observed.as_ref(), identity, default, now()) {
            Action::Create | Action::Take | Action::Renew => self.write().await,
            Action::Wait { holder, until } => {
                self.leading_until = None;
                self.may_hold = false;
                Ok(Found::Other { holder, until })
            }
        }
    }

    async fn read(&mut self) -> Result<(), CallError> {
        let call = Call::get(RESOURCE, self.path(true)).within(self.patience());
        match self.server.call::<Lease>(&call).await {
            Ok(lease) => {
                self.take_in(lease);
                Ok(())
            }
            Err(CallError::NotFound { .. }) => {
                self.lease = None;
                self.observed = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn take_in(&mut self, lease: Lease) {
        let spec = lease.spec.clone().unwrap_or_default();
        self.observed = Some(Observed::next(self.observed.take(), spec, now()));
        self.lease = Some(lease);
    }

    /// Puts us in, or says again that we are in. One write of all that are made from the same version
    /// succeeds.
    async fn write(&mut self) -> Result<Found, CallError> {
        let spec = |before: &LeaseSpec| {
            let (identity, lasts) = (&self.settings.identity, self.settings.duration);
            Some(held(before, identity, lasts, Timestamp::now()))
        };
        let call = if let Some(before) = &self.lease {
            let mut lease = before.clone();
            lease.spec = spec(lease.spec.as_ref().unwrap_or(&LeaseSpec::default()));
            Call::update(RESOURCE, self.path(true), body(RESOURCE, &lease)?)
        } else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.settings.name.clone()),
                    namespace: Some(self.settings.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: spec(&LeaseSpec::default()),
            };
            Call::create(RESOURCE, self.path(false), body(RESOURCE, &lease)?)
        };
        self.may_hold = true;
        // Others count from when they see the change, which is not before this.
        let begun = now();
        let call = call.within(self.patience());
        match self.server.call::<Lease>(&call).await {
            Ok(lease) => {
                self.take_in(lease);
                self.leading_until = Some(begun + self.settings.renew_deadline);
                Ok(Found::Held)
            }
            Err(error) => {
                // Whatever is there now, it is not what was read.
                self.lease = None;
                if !error.leaves_outcome_unknown() && !self.leads() {
                    self.may_hold = false;
                }
                Err(error)
            }
        }
    }

    fn count(&mut self, round: &Result<Found, CallError>) {
        self.refusals = match round {
            Err(CallError::Forbidden { .. }) => self.refusals.saturating_add(1),
            _ => 0,
        };
    }

    /// Until the next round.
    fn pause(&self, round: &Result<Found, CallError>) -> Duration {
        let pause = jitter::about(self.settings.retry);
        match round {
            Ok(Found::Held) => pause,
            Ok(Found::Other { until, .. }) => {
                // Not all of those who wait at the same moment.
                let spread = (self.settings.retry / 4).mul_f64(jitter::random());
                pause.min(until.saturating_duration_since(now()) + spread)
            }
            // Whoever was faster is seen in a moment.
            Err(CallError::Conflict { .. }) => pause / 4,
            Err(CallError::Forbidden { .. }) if !self.leads() => {
                let LeaseSettings {
                    retry,
                    refused_retry,
                    ..
                } = self.settings;
                jitter::about(refused_pause(self.refusals, retry, refused_retry))
            }
            Err(error) => {
                let asked = error.retry_after().unwrap_or_default();
                pause + asked.min(LONGEST_OBEDIENCE)
            }
        }
    }

    fn tell(&self, round: Result<Found, CallError>, leadership: &watch::Sender<Leadership>) {
        let told = match (self.leading_until.filter(|_| self.leads()), round) {
            (Some(until), Ok(_)) => Leadership::Leading { until },
            (Some(until), Err(error)) => {
                tracing::warn!(error = error.describe(), "lease is not renewed");
                Leadership::Leading { until }
            }
            (None, Ok(Found::Held) | Err(CallError::Conflict { .. })) => Leadership::Following {
                holder: String::new(),
            },
            (None, Ok(Found::Other { holder, .. })) => Leadership::Following { holder },
            (
                None,
                Err(CallError::Forbidden {
                    verb,
                    resource,
                    message,
                }),
            ) => Leadership::Refused {
                verb,
                resource,
                message,
            },
            (None, Err(error)) => Leadership::Unreachable {
                message: error.describe(),
            },
        };
        let before = leadership.send_replace(told.clone());
        log_change(&before, &told);
    }

    /// Waits for the next round; a leadership that ends meanwhile is told. `true`: stop.
    async fn sleep(
        &mut self,
        next: Instant,
        leadership: &watch::Sender<Leadership>,
        stop: &mut watch::Receiver<bool>,
    ) -> bool {
        loop {
            let ends = self.leading_until.filter(|until| *until < next);
            tokio::select! {
                () = stopped(stop) => return true,
                () = sleep_until(ends.unwrap_or(next).into()) => {}
            }
            if ends.is_none() {
                return false;
            }
            self.leading_until = None;
            let message = "the Lease could not be renewed in time".to_owned();
            let told = Leadership::Unreachable { message };
            let before = leadership.send_replace(told.clone());
            log_change(&before, &told);
        }
    }

    /// Gives the Lease back, if it is ours. A renewal that was cut short may have changed it: then
    /// it is read again.
    async fn release(&mut self) -> Result<(), CallError> {
        for _ in 0..2 {
            if self.lease.is_none() {
                self.read().await?;
            }
            let Some(mut lease) = self.lease.take() else {
                return Ok(());
            };
            let spec = lease.spec.take().unwrap_or_default();
            if spec.holder_identity.as_ref() != Some(&self.settings.identity) {
                return Ok(());
            }
            lease.spec = Some(released(&spec, Timestamp::now()));
            let call = Call::update(RESOURCE, self.path(true), body(RESOURCE, &lease)?);
            match self.server.answer(&call).await {
                Err(CallError::Conflict { .. }) => {}
                Err(CallError::NotFound { .. }) => return Ok(()),
                Err(error) => return Err(error),
                Ok(_) => {
                    tracing::info!("lease given back");
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Tells changes, not renewals.
fn log_change(before: &Leadership, after: &Leadership) {
    match (before, after) {
        (Leadership::Leading { .. }, Leadership::Leading { .. }) => {}
        (_, Leadership::Leading { .. }) => tracing::info!("lease acquired, this node allocates"),
        (before, after) if before == after => {}
        (Leadership::Leading { .. }, other) => {
            tracing::warn!(now = ?other, "lease lost, this node no longer allocates");
        }
        (_, Leadership::Following { holder }) => {
            tracing::info!(holder, "another node allocates");
        }
        (
            _,
            Leadership::Refused {
                verb,
                resource,
                message,
            },
        ) => {
            tracing::info!(%verb, resource, message, "this node may not allocate, it only reads");
        }
        (_, Leadership::Unreachable { message }) => {
            tracing::warn!(error = message, "lease cannot be asked for");
        }
        (_, Leadership::Unknown) => {}
    }
}
