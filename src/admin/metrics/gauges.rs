//! What is so at the moment of a snapshot, as a registry that lives for one scrape.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::admin::snapshot::Snapshot;
use crate::admin::view::{owned_here, seconds_since_epoch};
use crate::allocator::Role;
use crate::model::family::Family as IpFamily;
use crate::model::frontend::{RealServer, SourceClass};
use crate::plan::ipam::usage;
use crate::plan::pending::pending;

type Number = Gauge<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    datapath: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VipLabels {
    vip: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    effect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

pub(super) fn registry(snapshot: &Snapshot) -> Registry {
    let mut registry = Registry::with_prefix(super::PREFIX);
    registry.register(
        "build",
        "The program that runs, and the datapath in use",
        Info::new(BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            datapath: snapshot.datapath,
        }),
    );
    flag(
        &mut registry,
        "ready",
        "Whether a complete pass without failures has been made",
        snapshot.ready,
    );
    flag(
        &mut registry,
        "config_valid",
        "Whether the newest configuration file is the one in force",
        snapshot.config_problem.is_none(),
    );
    source(&mut registry, snapshot);
    allocator(&mut registry, snapshot);
    counts(&mut registry, snapshot);
    waiting(&mut registry, snapshot);
    vips(&mut registry, snapshot);
    pools(&mut registry, snapshot);
    registry
}

fn source(registry: &mut Registry, snapshot: &Snapshot) {
    let status = &snapshot.source;
    flag(
        registry,
        "source_connected",
        "Whether events of the source arrive",
        status.connected,
    );
    flag(
        registry,
        "source_from_snapshot",
        "Whether the cluster, or a part of it, is as an earlier run recorded it",
        status.from_snapshot,
    );
    if let Some(since) = status.blind_since {
        let gauge = Number::default();
        gauge.set(seconds_since_epoch(since));
        registry.register_with_unit(
            "source_blind_since_timestamp",
            "Since when events of the source are missed; absent while they arrive",
            Unit::Seconds,
            gauge,
        );
    }
    if let Some(last_event) = status.last_event {
        let gauge = Number::default();
        gauge.set(seconds_since_epoch(last_event));
        registry.register_with_unit(
            "source_last_event_timestamp",
            "When the last event of the source arrived",
            Unit::Seconds,
            gauge,
        );
    }
    let problems = Family::<ProblemLabels, Gauge>::default();
    for (effect, keeps_last_good) in [("left_out", false), ("last_good_kept", true)] {
        let count = (status.problems.iter())
            .filter(|problem| problem.keeps_last_good == keeps_last_good)
            .count();
        problems
            .get_or_create(&ProblemLabels { effect })
            .set(whole(count));
    }
    registry.register(
        "source_problems",
        "Objects of the source that cannot be used, by what became of them",
        problems,
    );
}

/// Absent where no allocator runs.
fn allocator(registry: &mut Registry, snapshot: &Snapshot) {
    let Some(allocator) = &snapshot.allocator else {
        return;
    };
    flag(
        registry,
        "allocator_leading",
        "Whether this node gives out addresses for its cluster",
        allocator.role == Role::Leader,
    );
    let waiting: Gauge = Gauge::default();
    waiting.set(whole(allocator.waiting));
    registry.register(
        "allocator_statuses_waiting",
        "Statuses of Services still to be written",
        waiting,
    );
    let written = ConstCounter::new(allocator.written);
    registry.register(
        "allocator_statuses_written",
        "Statuses of Services written since the start",
        written,
    );
}

fn counts(registry: &mut Registry, snapshot: &Snapshot) {
    let plan = &snapshot.plan;
    let frontends = &plan.state.frontends;
    let endpoints = plan.services.values().map(|plan| plan.endpoints).sum();
    let real_servers = frontends
        .values()
        .map(|frontend| {
            let all: BTreeSet<&RealServer> = (SourceClass::ALL.into_iter())
                .flat_map(|class| frontend.real_servers(class))
                .collect();
            all.len()
        })
        .sum();
    for (name, help, count) in [
        (
            "services",
            "Services of the cluster",
            snapshot.inputs.cluster.services.len(),
        ),
        (
            "endpoints",
            "Endpoints in use, counted for each Service port",
            endpoints,
        ),
        (
            "virtual_servers",
            "Addresses and ports that this node forwards",
            frontends.len(),
        ),
        (
            "real_servers",
            "Destinations of all virtual servers",
            real_servers,
        ),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(whole(count));
        registry.register(name, help, gauge);
    }
}

/// Services without an address, by reason.
fn waiting(registry: &mut Registry, snapshot: &Snapshot) {
    let waiting = Family::<ReasonLabels, Gauge>::default();
    for (reason, count) in pending(&snapshot.plan.addresses) {
        waiting
            .get_or_create(&ReasonLabels { reason })
            .set(whole(count));
    }
    registry.register(
        "services_pending",
        "Services that wait for an address, by what keeps it from them",
        waiting,
    );
}

fn vips(registry: &mut Registry, snapshot: &Snapshot) {
    let owned = Family::<VipLabels, Gauge>::default();
    for vip in snapshot.plan.ownership.keys() {
        let labels = VipLabels {
            vip: vip.to_string(),
        };
        owned
            .get_or_create(&labels)
            .set(i64::from(owned_here(snapshot, *vip)));
    }
    registry.register("vip_owned", "Whether this node announces the VIP", owned);
}

fn pools(registry: &mut Registry, snapshot: &Snapshot) {
    let total = Family::<PoolLabels, Number>::default();
    let allocated = Family::<PoolLabels, Gauge>::default();
    let book = snapshot.inputs.address_book();
    for usage in usage(
        &snapshot.config,
        &book,
        &snapshot.plan.addresses.allocations,
    ) {
        let labels = PoolLabels {
            pool: usage.pool,
            family: match usage.family {
                IpFamily::V4 => "ipv4",
                IpFamily::V6 => "ipv6",
            },
        };
        // A sample is a float; a pool that is too large to count exactly is large enough.
        #[allow(clippy::cast_precision_loss)]
        total.get_or_create(&labels).set(usage.total as f64);
        allocated.get_or_create(&labels).set(whole(usage.allocated));
    }
    registry.register("pool_addresses", "Addresses in the pool", total);
    registry.register(
        "pool_addresses_allocated",
        "Addresses of the pool that Services hold",
        allocated,
    );
}

fn flag(registry: &mut Registry, name: &str, help: &str, value: bool) {
    let gauge: Gauge = Gauge::default();
    gauge.set(i64::from(value));
    registry.register(name, help, gauge);
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
