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

    /// Records an Event for each that is new; one that was opened meanwhile is new again. One whose
    /// Service is only known from an earlier run's record has no object yet, and its turn comes later.
    pub fn tell(&mut self, snapshot: &Snapshot) {
        let Some(recorder) = &self.recorder else {
            return;
        };
        // Those that this reads are still news to `changed`.
        let failures = self.failures.borrow();
        (self.told).retain(|told| failures.iter().any(|failure| failure.listener == *told));
        for failure in failures.iter() {
            if self.told.contains(&failure.listener) {
                continue;
            }
            let Listener {
                service, address, ..
            } = &failure.listener;
            let object = (snapshot.inputs.cluster.services.get(service))
                .and_then(|service| service.object.as_deref());
            if let Some(object) = object {
                let note = format!(
                    "node {} cannot listen on the healthCheckNodePort, at {address}: {}",
                    snapshot.inputs.node, failure.message
                );
                let reason = EventReason::FailedToStartServiceHealthcheck;
                recorder.record(service, object, reason, note);
                self.told.insert(failure.listener.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::admin::applied::Applied;
    use crate::admin::snapshot::PassSummary;
    use crate::config::Config;
    use crate::membership::counters::MembershipCounters;
    use crate::model::cluster::ClusterChange;
    use crate::model::family::Family;
    use crate::model::service::{ObjectIdentity, Service, ServiceKey, ServiceType};
    use crate::plan::{Inputs, Plan};
    use crate::source::SourceStatus;

    fn snapshot(object: Option<ObjectIdentity>) -> Snapshot {
        let key = ServiceKey::new("default", "web");
        let mut service = Service::new(key, ServiceType::LoadBalancer);
        service.object = object.map(Box::new);
        let mut inputs = Inputs::default();
        (inputs.cluster).apply(ClusterChange::Service(Arc::new(service)));
        Snapshot {
            config: Arc::new(Config::defaults("edge-a")),
            config_problem: None,
            datapath: "nftables",
            started: SystemTime::UNIX_EPOCH,
            inputs: Arc::new(inputs),
            plan: Arc::new(Plan::default()),
            source: SourceStatus::default(),
            allocator: None,
            pass: PassSummary::default(),
            applied: Applied::default(),
            ready: true,
            membership: MembershipCounters::default(),
        }
    }

    #[test]
    fn a_service_known_from_a_record_gets_its_event_when_it_has_an_object() {
        let failure = BindFailure {
            listener: Listener {
                service: ServiceKey::new("default", "web"),
                family: Family::V4,
                address: "0.0.0.0:31500".parse().unwrap(),
            },
            message: "the address is in use".to_owned(),
        };
        let (failures, receiver) = watch::channel(vec![failure]);
        let (recorder, _queue) = Recorder::with_queue();
        let mut unopened = Unopened::new(receiver, Some(recorder));
        unopened.tell(&snapshot(None));
        assert_eq!(unopened.told.len(), 0);
        let object = ObjectIdentity {
            uid: "1".to_owned(),
            version: "1".to_owned(),
        };
        unopened.tell(&snapshot(Some(object.clone())));
        assert_eq!(unopened.told.len(), 1);
        failures.send_replace(Vec::new());
        unopened.tell(&snapshot(Some(object)));
        assert_eq!(unopened.told.len(), 0, "opened meanwhile: new again");
    }
}
