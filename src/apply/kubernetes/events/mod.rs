//! Tells people what became of a Service, as Events on it. Best effort: whoever records one never
//! waits, and nothing is held up where the API server does not take them; what was dropped is counted.

mod limit;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as TokioInstant, sleep};

use self::limit::{Limiter, Verdict};
use crate::api_server::jitter;
use crate::api_server::server::{Call, CallError, Server, body, encoded};
use crate::model::service::{ObjectIdentity, ServiceKey};

const RESOURCE: &str = "events.events.k8s.io";
const CONTROLLER: &str = "edgelb.io/edgelb";
/// Events that may wait.
const WAITING: usize = 4096;
/// The API server refuses longer ones.
const LONGEST_NOTE: usize = 1024;
const LONGEST_INSTANCE: usize = 128;
const LONGEST_NAME: usize = 253;
/// Before the second try, which is the last one.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_OBEDIENCE: Duration = Duration::from_secs(60);
/// Where the role lacks the verb, events are dropped for this long.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// What happened, in the words that users know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventReason {
    /// The Service got an address.
    IPAllocated,
    /// It gave one back.
    IPReleased,
    /// It got none, or not all.
    AllocationFailed,
    /// Another Service or another host has its address.
    IPConflict,
    /// Its address is in no pool any more; it keeps it.
    PoolRemoved,
    /// Two of its requests contradict each other.
    RequestsDisagree,
    /// A request cannot be understood or met.
    RequestRefused,
    /// A node announces its address from now on.
    NodeAssigned,
    /// A node does so no longer.
    NodeUnassigned,
    /// A node cannot open the Service's `healthCheckNodePort` (HC-10).
    FailedToStartServiceHealthcheck,
}

impl EventReason {
    /// As it stands in the Event.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IPAllocated => "IPAllocated",
            Self::IPReleased => "IPReleased",
            Self::AllocationFailed => "AllocationFailed",
            Self::IPConflict => "IPConflict",
            Self::PoolRemoved => "PoolRemoved",
            Self::RequestsDisagree => "RequestsDisagree",
            Self::RequestRefused => "RequestRefused",
            Self::NodeAssigned => "NodeAssigned",
            Self::NodeUnassigned => "NodeUnassigned",
            Self::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
        }
    }

    /// Whether somebody should look.
    pub fn is_warning(self) -> bool {
        match self {
            Self::IPAllocated | Self::IPReleased | Self::NodeAssigned | Self::NodeUnassigned => {
                false
            }
            Self::AllocationFailed
            | Self::IPConflict
            | Self::PoolRemoved
            | Self::RequestsDisagree
            | Self::RequestRefused
            | Self::FailedToStartServiceHealthcheck => true,
        }
    }

    /// What was being done.
    fn action(self) -> &'static str {
        match self {
            Self::IPAllocated
            | Self::AllocationFailed
            | Self::IPConflict
            | Self::PoolRemoved
            | Self::RequestsDisagree
            | Self::RequestRefused => "Allocate",
            Self::IPReleased => "Release",
            Self::NodeAssigned => "Announce",
            Self::NodeUnassigned => "Withdraw",
            Self::FailedToStartServiceHealthcheck => "Listen",
        }
    }
}

impl fmt::Display for EventReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Notice {
    service: ServiceKey,
    object: ObjectIdentity,
    reason: EventReason,
    note: String,
    at: Timestamp,
}

impl Notice {
    fn new(
        service: &ServiceKey,
        object: &ObjectIdentity,
        reason: EventReason,
        note: impl Into<String>,
    ) -> Self {
        let mut note: String = note.into();
        cut(&mut note, LONGEST_NOTE);
        Self {
            service: service.clone(),
            object: object.clone(),
            reason,
            note,
            at: Timestamp::now(),
        }
    }

    fn event(&self, node: &str, number: u64) -> Event {
        let mut instance = node.to_owned();
        cut(&mut instance, LONGEST_INSTANCE);
        let kind = if self.reason.is_warning() {
            "Warning"
        } else {
            "Normal"
        };
        Event {
            metadata: ObjectMeta {
                name: Some(self.name(number)),
                namespace: Some(self.service.namespace.to_string()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(self.at)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(instance),
            action: Some(self.reason.action().to_owned()),
            reason: Some(self.reason.as_str().to_owned()),
            note: Some(self.note.clone()),
            type_: Some(kind.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Service".to_owned()),
                namespace: Some(self.service.namespace.to_string()),
                name: Some(self.service.name.to_string()),
                uid: Some(self.object.uid.clone()),
                resource_version: Some(self.object.version.clone()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }

    /// No two events of a Service have one: the time, and a number that no other one of the same
    /// moment has.
    fn name(&self, number: u64) -> String {
        let time = u64::try_from(self.at.as_nanosecond()).unwrap_or_default();
        let suffix = format!(".{:x}", time.wrapping_add(number));
        let mut name = self.service.name.to_string();
        cut(&mut name, LONGEST_NAME - suffix.len());
        name + &suffix
    }
}

/// Shortens a text to so many bytes, between two characters.
fn cut(text: &mut String, most: usize) {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// How many events there were since the start, by what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventCounts {
    /// The API server has them.
    pub sent: u64,
    /// They said nothing new, or there were too many of their Service.
    pub limited: u64,
    /// Too many waited.
    pub dropped: u64,
    /// The API server did not take them.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    limited: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Where events are recorded; clones share one queue.
#[derive(Debug, Clone)]
pub struct Recorder {
    waiting: mpsc::Sender<Notice>,
    counters: Arc<Counters>,
}

/// What the task takes them from.
#[derive(Debug)]
pub struct EventQueue {
    waiting: mpsc::Receiver<Notice>,
    counters: Arc<Counters>,
}

impl Recorder {
    /// A recorder, and what [`run`] needs to send what it records.
    pub fn with_queue() -> (Self, EventQueue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let counters = Arc::new(Counters::default());
        let queue = EventQueue {
            waiting: receiver,
            counters: Arc::clone(&counters),
        };
        let recorder = Self {
            waiting: sender,
            counters,
        };
        (recorder, queue)
    }

    /// Records an event. Never waits; where too many wait already it is dropped and counted.
    pub fn record(
        &self,
        service: &ServiceKey,
        object: &ObjectIdentity,
        reason: EventReason,
        note: impl Into<String>,
    ) {
        let notice = Notice::new(service, object, reason, note);
        if self.waiting.try_send(notice).is_err() {
            count(&self.counters.dropped);
        }
    }

    /// What became of them so far.
    pub fn counts(&self) -> EventCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EventCounts {
            sent: read(&self.counters.sent),
            limited: read(&self.counters.limited),
            dropped: read(&self.counters.dropped),
            failed: read(&self.counters.failed),
        }
    }
}

/// Sends what is recorded until `stop` says `true` (or its sender or all recorders are gone). What
/// waits then is dropped.
pub async fn run(
    node: String,
    server: Arc<Server>,
    queue: EventQueue,
    mut stop: watch::Receiver<bool>,
) {
    let EventQueue { waiting, counters } = queue;
    let sender = Sender {
        node,
        server,
        counters,
        limiter: Limiter::new(now()),
        number: jitter::number() & 0xffff,
        refused_until: None,
        told_refusal: false,
    };
    tokio::select! {
        () = sender.send_all(waiting) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn now() -> Instant {
    TokioInstant::now().into_std()
}

struct Sender {
    node: String,
    server: Arc<Server>,
    counters: Arc<Counters>,
    limiter: Limiter,
    /// Tells events of one moment apart.
    number: u64,
    refused_until: Option<Instant>,
    told_refusal: bool,
}

impl Sender {
    async fn send_all(mut self, mut waiting: mpsc::Receiver<Notice>) {
        while let Some(notice) = waiting.recv().await {
            if self.refused_until.is_some_and(|until| now() < until) {
                count(&self.counters.failed);
                continue;
            }
            if self.limiter.judge(&notice, now()) != Verdict::Send {
                count(&self.counters.limited);
                continue;
            }
            sleep(self.limiter.pace(now())).await;
            match self.send(&notice).await {
                Ok(()) => {
                    count(&self.counters.sent);
                    self.told_refusal = false;
                }
                Err(error) => self.failed(&notice, &error),
            }
        }
    }

    async fn send(&mut self, notice: &Notice) -> Result<(), CallError> {
        self.number = self.number.wrapping_add(1);
        let event = notice.event(&self.node, self.number);
        let namespace = encoded(&notice.service.namespace);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let call = Call::create(RESOURCE, path, body(RESOURCE, &event)?);
        let Err(error) = self.server.answer(&call).await else {
            return Ok(());
        };
        let worth_another_try = match &error {
            CallError::Busy { .. } | CallError::Connection(_) | CallError::TimedOut(_) => true,
            CallError::Client(_)
            | CallError::NotFound { .. }
            | CallError::Conflict { .. }
            | CallError::Unauthorized { .. }
            | CallError::Forbidden { .. }
            | CallError::Refused { .. }
            | CallError::Malformed { .. } => false,
        };
        if !worth_another_try {
            return Err(error);
        }
        let asked = error.retry_after().unwrap_or_default();
        sleep(asked.min(LONGEST_OBEDIENCE) + jitter::about(RETRY)).await;
        match self.server.answer(&call).await {
            // The first one has arrived.
            Ok(_) | Err(CallError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn failed(&mut self, notice: &Notice, error: &CallError) {
        count(&self.counters.failed);
        let (service, reason) = (&notice.service, notice.reason);
        let error_text = error.describe();
        let refuses_all = match error {
            // In a namespace that is on its way out nothing new may be made: no matter of roles.
            CallError::Forbidden { message, .. } => !message.contains("is being terminated"),
            _ => false,
        };
        if !refuses_all {
            tracing::debug!(%service, %reason, error = error_text, "event is not sent");
            return;
        }
        self.refused_until = Some(now() + REFUSED_PAUSE);
        if !self.told_refusal {
            self.told_refusal = true;
            tracing::warn!(error = error_text, "events are not sent");
        }
    }
}
