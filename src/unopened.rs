//! Tells of health-check ports that could not be opened: among the failures that `status` and the
//! metrics show, and by an Event on the Service (HC-10). Decides nothing.

use std::collections::BTreeSet;

use tokio::sync::watch;

use crate::admin::health::{BindFailure, Listener};
use crate::admin::snapshot::{Failure, Snapshot};
use crate::apply::kubernetes::events::{EventReason, Recorder};

/// The kind of such a failure.
const KIND: &str = "health_check_port";

/// What could not be opened, as the listeners last said.
pub struct Unopened {
    failures: watch::Receiver<Vec<BindFailure>>,
    /// Absent where there is no API server.
    recorder: Option<Recorder>,
    /// Those that an Event was recorded for.
    told: BTreeSet<Listener>,
}

impl Unopened {
    pub fn new(failures: watch::Receiver<Vec<BindFailure>>, recorder: Option<Recorder>) -> Self {
        Self {
            failures,
            recorder,
            told: BTreeSet::new(),
        }
    }

    /// Waits for news.
    pub async fn changed(&mut self) {
        if self.failures.changed().await.is_err() {
            // A task that ended is noticed elsewhere.
            std::future::pending::<()>().await;
        }
    }

    /// Adds them to the failures of a picture.
    pub fn show(&self, snapshot: &mut Snapshot) {
        let failures = self.failures.borrow();
        let shown = failures.iter().map(|failure| {
            let object = failure.listener.to_string();
            Failure::told(KIND, object, &failure.message)
        });
        snapshot.pass.failures.extend(shown);
    }

    /// Records an Event for each that is new; one that was opened meanwhile is new again.
    pub fn tell(&mut self, snapshot: &Snapshot) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        let failures = self.failures.borrow_and_update();
        for failure in failures.iter() {
            let Listener {
                service, address, ..
            } = &failure.listener;
            let object = (snapshot.inputs.cluster.services.get(service))
                .and_then(|service| service.object.as_deref());
            if let Some(object) = object.filter(|_| !self.told.contains(&failure.listener)) {
                let note = format!(
                    "node {} cannot listen on the healthCheckNodePort, at {address}: {}",
                    snapshot.inputs.node, failure.message
                );
                let reason = EventReason::FailedToStartServiceHealthcheck;
                recorder.record(service, object, reason, note);
            }
        }
        self.told = (failures.iter())
            .map(|failure| failure.listener.clone())
            .collect();
    }
}
