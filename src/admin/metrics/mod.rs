//! The metrics of the daemon, registered in one place, as `OpenMetrics` text or Prometheus' own.
//!
//! What happens is counted after each pass by [`Metrics::observe`]; what is so now is read from the
//! snapshot at each scrape, so that a series goes with the VIP or pool that it is about. Labels are
//! bounded by the configuration and the Services, never by what a client sends.

mod exposition;
mod gauges;
pub mod traffic;
pub(super) mod transition;

use std::fmt;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{KINDS, PassSummary, Snapshot};
use crate::plan::Plan;
pub use exposition::Format;
use traffic::Traffic;

/// Every name begins with this.
const PREFIX: &str = "edgelb";

/// Seconds: from a pass over one change to a start with ten thousand Services.
const DURATIONS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    object: &'static str,
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    path: &'static str,
    /// Of HTTP.
    code: u32,
}

/// What the daemon counts since its start, and the registry of what its parts count.
#[derive(Debug)]
pub struct Metrics {
    node: String,
    registry: Registry,
    pass_duration: Histogram,
    pass_failures: Family<ReasonLabels, Counter>,
    programming_latency: Histogram,
    kernel_changes: Family<ChangeLabels, Counter>,
    transitions: Family<ReasonLabels, Counter>,
    health_answers: Family<AnswerLabels, Counter>,
    /// Absent where there is no kernel to read.
    traffic: Option<Traffic>,
}

impl Metrics {
    /// The metrics of the daemon on the node of this name, all at zero.
    pub fn new(node: &str) -> Self {
        let metrics = Self {
            node: node.to_owned(),
            registry: Registry::with_prefix(PREFIX),
            pass_duration: Histogram::new(DURATIONS),
            pass_failures: Family::default(),
            programming_latency: Histogram::new(DURATIONS),
            kernel_changes: Family::default(),
            transitions: Family::default(),
            health_answers: Family::default(),
            traffic: None,
        };
        metrics.zeroed().registered()
    }

    /// Where all values of a label are known, each series is there from the start on: so that the first
    /// one is a rise.
    fn zeroed(self) -> Self {
        for reason in KINDS {
            self.pass_failures
                .get_or_create(&ReasonLabels { reason })
                .inc_by(0);
        }
        for reason in transition::WORDS {
            self.transitions
                .get_or_create(&ReasonLabels { reason })
                .inc_by(0);
        }
        self
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "pass_duration",
            "How long a pass took",
            Unit::Seconds,
            self.pass_duration.clone(),
        );
        registry.register_with_unit(
            "programming_latency",
            "From the first event that a pass took in to the kernel holding it",
            Unit::Seconds,
            self.programming_latency.clone(),
        );
        registry.register(
            "pass_failures",
            "Items that a pass could not apply, by kind of object",
            self.pass_failures.clone(),
        );
        registry.register(
            "kernel_changes",
            "Edits to the kernel",
            self.kernel_changes.clone(),
        );
        registry.register(
            "vip_transitions",
            "VIPs that this node began or ceased to announce, by reason",
            self.transitions.clone(),
        );
        registry.register(
            "health_answers",
            "Answers of /healthz, /livez and health-check node ports (node_port), by HTTP status",
            self.health_answers.clone(),
        );
        self
    }

    /// Adds the metrics that a part of the daemon counts by itself; names get the prefix.
    #[must_use]
    pub fn with(mut self, register: impl FnOnce(&mut Registry)) -> Self {
        register(&mut self.registry);
        self
    }

    /// With the traffic of each Service, which this reads from the kernel at each scrape.
    #[must_use]
    pub fn with_traffic(self, read: traffic::Read) -> Self {
        Self {
            traffic: Some(Traffic::new(read)),
            ..self
        }
    }

    /// Counts one pass: what it did, and which VIPs this node gained and lost between the plans.
    /// Costs as much as what changed.
    pub fn observe(&self, pass: &PassSummary, previous: Option<&Plan>, now: &Plan) {
        self.pass_duration.observe(pass.duration.as_secs_f64());
        if let Some(latency) = pass.latency {
            self.programming_latency.observe(latency.as_secs_f64());
        }
        for ((object, operation), count) in &pass.changes {
            let labels = ChangeLabels { object, operation };
            self.kernel_changes
                .get_or_create(&labels)
                .inc_by(u64::try_from(*count).unwrap_or(u64::MAX));
        }
        for failure in &pass.failures {
            let labels = ReasonLabels {
                reason: failure.kind,
            };
            self.pass_failures.get_or_create(&labels).inc();
        }
        for transition in transition::transitions(&self.node, previous, now) {
            let reason = transition.reason;
            self.transitions
                .get_or_create(&ReasonLabels { reason })
                .inc();
        }
    }

    /// Counts an answer of a health check: of `/healthz`, `/livez` or `node_port`, with its HTTP
    /// status.
    pub fn health_answered(&self, path: &'static str, code: u16) {
        let labels = AnswerLabels {
            path,
            code: code.into(),
        };
        self.health_answers.get_or_create(&labels).inc();
    }

    /// Everything in one of the formats. Reads the kernel's counters, unless somebody just did: for
    /// threads that may wait.
    pub fn render(&self, snapshot: &Snapshot, format: Format) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &gauges::registry(snapshot))?;
        if let Some(traffic) = &self.traffic {
            let mut registry = Registry::with_prefix(PREFIX);
            traffic::register(&mut registry, traffic.totals(snapshot));
            encode_registry(&mut text, &registry)?;
        }
        encode_eof(&mut text)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Text => exposition::text(&text),
        })
    }
}
