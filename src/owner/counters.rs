//! What is counted of the fence and the handover. Every clone counts into the same metrics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters since the start, and how it is now.
#[derive(Debug, Clone, Default)]
pub struct GuardCounters {
    in_force: Gauge,
    failures: Counter,
    repairs: Counter,
    renewal_failures: Counter,
    handed_over: Gauge,
    handover_failures: Counter,
    handover_repairs: Counter,
}

/// A look that found what was asked for, one that had to make it so again, or one that could not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Found,
    Repaired,
    Failed,
}

impl GuardCounters {
    /// Adds the metrics to the registry, which prefixes their names.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "fence_in_force",
                "Whether the kernel holds back what speaks for a VIP of other nodes; 0 where it cannot",
                &self.in_force,
            ),
            (
                "handover_vips",
                "VIPs whose connections are passed on to the node that had them before, by interface",
                &self.handed_over,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help, counter) in [
            (
                "fence_failures",
                "Changes to the fence, and looks at it, that the kernel refused",
                &self.failures,
            ),
            (
                "fence_repairs",
                "Times that the fence was not as it should be and was made anew",
                &self.repairs,
            ),
            (
                "fence_renewal_failures",
                "Times that the leave to speak for what this node owns could not be renewed",
                &self.renewal_failures,
            ),
            (
                "handover_failures",
                "Changes to what is passed on, and looks at it, that the kernel refused",
                &self.handover_failures,
            ),
            (
                "handover_repairs",
                "Times that what is passed on was not as it should be and was made anew",
                &self.handover_repairs,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    pub(super) fn fence(&self, held: Held, in_force: bool) {
        count(held, &self.repairs, &self.failures);
        self.in_force.set(i64::from(in_force));
    }

    pub(super) fn handover(&self, held: Held, vips: usize) {
        count(held, &self.handover_repairs, &self.handover_failures);
        let vips = i64::try_from(vips).unwrap_or(i64::MAX);
        self.handed_over.set(vips);
    }

    pub(super) fn renewal_failed(&self) {
        self.renewal_failures.inc();
    }
}

fn count(held: Held, repairs: &Counter<u64, AtomicU64>, failures: &Counter<u64, AtomicU64>) {
    match held {
        Held::Found => {}
        Held::Repaired => {
            repairs.inc();
        }
        Held::Failed => {
            failures.inc();
        }
    }
}
