//! The node daemon: starts the tasks, joins them, and stops them.
//!
//! ```text
//! manifests, API server ► source ─ SourceEvent ┐
//! interfaces, routes ─► host ──── Host ───────┤          ┌─► kernel
//! foreign edits ──────► monitor ─ Foreign ────┼► reconcile ─ Snapshot ─► socket, metrics, health, probing
//! other hosts ─► probing ─ ForeignHosts ──────┤   │  ▲   └─ View ─► allocator ─► API server
//! health ─ ports that cannot be opened ───────┤   │  │
//! SIGHUP, timers ─────────────────────────────┘   │  └─ Owners, Peers, Allocations ┐
//!                                        VipTable ▼                                │
//!                 owning:  membership + owner (thread) ─ AnnouncedSet ─► announcer (thread) ─► LAN
//!                                 └─ Order ─► fence (thread) ─► nf_tables
//! ```
//!
//! The reconciler is the only owner of mutable state; everybody else sees `watch` snapshots. A task
//! that ends although nobody stopped it ends the daemon, and systemd starts it again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::health::{self, Addresses};
use crate::admin::metrics::Metrics;
use crate::admin::snapshot::Snapshot;
use crate::admin::socket::AdminSocket;
use crate::apply::fence::{self, Fence, FenceSupport};
use crate::apply::handover::Handover;
use crate::apply::kernel::Kernel;
use crate::apply::monitor::Monitor;
use crate::apply::prober::ProbeSettings;
use crate::apply::state_directory::StateDirectory;
use crate::config::{self, Config, Environment, SourceKind};
use crate::drain_flag::DrainFlag;
use crate::owning::{Follows, Owning};
use crate::probing;
use crate::reconcile::Reconciler;
use crate::source::host::HostSource;
use crate::sources::{self, Sources};
use crate::stopping;
use crate::tasks::Tasks;
use crate::unopened::Unopened;
use crate::watchdog::Watchdog;

/// How long tasks may take to stop.
const STOP_PATIENCE: Duration = Duration::from_millis(1500);
/// After this long without a first complete list the daemon counts as started all the same: systemd
/// must not end it because the directory is not there yet.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT. Forwarding stays in the kernel when it ends.
pub async fn run(
    config_file: &Path,
    mut config: Config,
    (kernel, fence): (Kernel, Fence),
    state: Arc<StateDirectory>,
) -> anyhow::Result<()> {
    let support = fence.support();
    hold_strict_arp(&mut config, support);
    let config = Arc::new(config);
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Tasks::default();

    let (allocations, warning) = state
        .read_allocations()
        .context("cannot read the allocations")?;
    if let Some(warning) = warning {
        tracing::warn!(error = %warning, "allocations could not be read, addresses are given out anew");
    }
    let mut ports = kernel.ports();
    let handover = Handover::open().context("cannot find out what can be handed over")?;
    ports.extend([fence.port(), handover.port()]);
    let (monitor, mut foreign_edits) = Monitor::open(&ports)?;
    tasks.spawn_until("monitor", stopped.clone(), async move {
        Ok(monitor.run().await?)
    });

    let (host_source, mut host) = HostSource::open().context("cannot list the interfaces")?;
    tasks.spawn_until("host", stopped.clone(), async move {
        Ok(host_source.run().await?)
    });

    let drain = DrainFlag::open(Arc::clone(&state)).context("cannot read whether to drain")?;
    let leaving = drain.leaving();
    let going = watch::Sender::new(false);
    stopping::forget(&config.node.runtime_dir);
    let follows = Follows {
        host: host.clone(),
        draining: drain.watch(),
        leaves: going.subscribe(),
        fence,
        handover,
        foreign_edits: foreign_edits.clone(),
    };
    let mut owning = Owning::start(&config, follows, &state, &mut tasks, &stopped)?;
    let Sources {
        events: mut source_events,
        status: mut source,
        mut allocator,
        recorder,
    } = sources::start(&config, &state, &mut tasks, &stopped);

    let first_host = host.borrow_and_update().clone();
    let mut reconciler = Reconciler::new(
        Arc::clone(&config),
        first_host,
        kernel,
        state,
        allocations,
        owning.publisher(),
    );
    let counters = owning.announcer().counters().clone();
    let membership = owning.membership().counters.clone();
    let metrics = Metrics::new(&config.node.name)
        .with(|registry| counters.register(registry))
        .with(|registry| membership.register(registry));
    let metrics = Arc::new(metrics);
    let (snapshots, snapshot) = watch::channel(Arc::new(reconciler.snapshot()));
    let admin = AdminSocket::bind(&config.node.runtime_dir.join("admin.sock"))
        .context("cannot open the admin socket")?;
    let (probing, foreign_hosts) = probing::start(ProbeSettings::default(), snapshot.clone());
    tasks.spawn_until("probing", stopped.clone(), probing);
    owning.hear(foreign_hosts);
    let (admin_snapshot, admin_stopped) = (snapshot.clone(), stopped.clone());
    tasks.spawn("admin", async move {
        admin
            .serve(admin_snapshot, Arc::new(drain), admin_stopped)
            .await;
        Ok(())
    });
    let addresses = Addresses {
        observability: config.observability.listen,
        health: config.observability.health_listen,
    };
    let health_metrics = Arc::clone(&metrics);
    let (bind_failures, failures) = watch::channel(Vec::new());
    let mut unopened = Unopened::new(failures, recorder);
    tasks.spawn("health", async move {
        health::serve(addresses, snapshot, health_metrics, bind_failures, stopped).await;
        Ok(())
    });

    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut resync = resync_timer(&config);
    let mut loop_state = LoopState::new(config_file.to_owned(), support);
    let mut watchdog = Watchdog::start();
    let mut source_gone = false;
    let mut seen_edits = (0, 0);
    owning.tell(&mut reconciler);
    tracing::info!(node = config.node.name, "started");

    let ended = loop {
        let now = Instant::now();
        if loop_state
            .due(&reconciler, now)
            .is_some_and(|due| due <= now)
        {
            let before = Arc::clone(&snapshots.borrow());
            reconciler.run(now).await;
            loop_state.pass_ended(Instant::now());
            publish(&reconciler, &unopened, &snapshots, &metrics, &before);
            // A Service that was known from a record may have its object now.
            unopened.tell(&snapshots.borrow());
            allocator.show(&reconciler);
            owning.show(&reconciler);
        }
        loop_state.tell_ready(&reconciler);
        let due = loop_state.due(&reconciler, Instant::now());
        tokio::select! {
            biased;
            _ = terminate.recv() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                if stopping::is_leave(&config.node.runtime_dir).await {
                    tracing::info!("the machine goes down, vips are given up");
                    going.send_replace(true);
                    leaving.send_replace(true);
                    owning.leave().await;
                }
                break Ok(());
            }
            _ = interrupt.recv() => break Ok(()),
            ended = tasks.ended() => break Err(ended),
            _ = hangup.recv() => {
                loop_state.reload(&mut reconciler);
                owning.show(&reconciler);
                resync = resync_timer(reconciler.config());
                publish_only(&reconciler, &unopened, &snapshots);
            }
            event = source_events.recv(), if !source_gone => match event {
                Some(event) => {
                    let now = Instant::now();
                    // Whether the cluster is a recorded one is known before the cluster is.
                    reconciler.source_status(source.borrow().clone());
                    reconciler.source(event, now);
                    while let Ok(event) = source_events.try_recv() {
                        reconciler.source(event, now);
                    }
                    // It need not wait for the kernel.
                    allocator.show(&reconciler);
                }
                None => source_gone = true,
            },
            changed = source.changed() => {
                if changed.is_ok() {
                    reconciler.source_status(source.borrow_and_update().clone());
                    allocator.show(&reconciler);
                    publish_only(&reconciler, &unopened, &snapshots);
                } else {
                    break Err(anyhow::anyhow!("the source ended"));
                }
            }
            status = allocator.status() => {
                reconciler.allocator_status(status);
                publish_only(&reconciler, &unopened, &snapshots);
            }
            changed = host.changed() => {
                if changed.is_ok() {
                    let new = host.borrow_and_update().clone();
                    reconciler.host(new, Instant::now());
                }
            }
            () = owning.changed() => {
                owning.tell(&mut reconciler);
                allocator.show(&reconciler);
                publish_only(&reconciler, &unopened, &snapshots);
            }
            changed = foreign_edits.changed() => {
                if changed.is_ok() {
                    let edits = *foreign_edits.borrow_and_update();
                    if (edits.tables, edits.routes) == seen_edits {
                        continue;
                    }
                    seen_edits = (edits.tables, edits.routes);
                    tracing::info!(tables = edits.tables, routes = edits.routes, "somebody changed what is ours, it is repaired");
                    reconciler.distrust_kernel();
                }
            }
            () = unopened.changed() => {
                unopened.tell(&snapshots.borrow());
                publish_only(&reconciler, &unopened, &snapshots);
            }
            _ = resync.tick() => {
                reconciler.distrust_kernel();
                // Also where no pass can be made yet: health hears that this loop lives.
                publish_only(&reconciler, &unopened, &snapshots);
            }
            () = watchdog.tick() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            () = sleep_until(due) => {}
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = stop.send(true);
    // What announces ends with what owns.
    drop(reconciler);
    if tokio::time::timeout(STOP_PATIENCE, tasks.join())
        .await
        .is_err()
    {
        tracing::warn!("a task was slow to stop and is ended");
    }
    tracing::info!("stopped, forwarding stays in the kernel");
    ended
}

/// What the loop remembers between two turns.
struct LoopState {
    config_file: PathBuf,
    fence: FenceSupport,
    started: Instant,
    /// When the last pass ended: the next one starts `min_sync_interval` later at the earliest.
    pass_ended: Option<Instant>,
    told_ready: bool,
}

impl LoopState {
    fn new(config_file: PathBuf, fence: FenceSupport) -> Self {
        Self {
            config_file,
            fence,
            started: Instant::now(),
            pass_ended: None,
            told_ready: false,
        }
    }

    fn pass_ended(&mut self, now: Instant) {
        self.pass_ended = Some(now);
    }

    /// When the reconciler is to run next.
    fn due(&self, reconciler: &Reconciler, now: Instant) -> Option<Instant> {
        let earliest = self
            .pass_ended
            .map(|ended| ended + reconciler.config().proxy.min_sync_interval);
        let due = reconciler
            .due(now)
            .map(|due| earliest.map_or(due, |earliest| due.max(earliest)));
        // Also where no pass is due: the source has not delivered yet.
        let ready = (!self.told_ready).then(|| self.started + START_PATIENCE);
        [due, ready].into_iter().flatten().min()
    }

    fn tell_ready(&mut self, reconciler: &Reconciler) {
        let ready = reconciler.is_ready();
        if self.told_ready || !(ready || self.started.elapsed() >= START_PATIENCE) {
            return;
        }
        self.told_ready = true;
        let status = if ready {
            "serving"
        } else {
            "waiting for the source"
        };
        // Without systemd there is nobody to tell.
        let _ = sd_notify::notify(&[
            sd_notify::NotifyState::Ready,
            sd_notify::NotifyState::Status(status),
        ]);
    }

    /// Reads the configuration again; one that is not valid changes nothing.
    fn reload(&self, reconciler: &mut Reconciler) {
        match config::load(&self.config_file, &Environment::detect()) {
            Ok(loaded) => {
                let old = Arc::clone(reconciler.config());
                let (mut config, kept) = keep_fixed(&old, loaded.config);
                hold_strict_arp(&mut config, self.fence);
                for key in kept {
                    tracing::warn!(key, "this key takes effect after a restart only");
                }
                tracing::info!("configuration reloaded");
                reconciler.configure(Arc::new(config), Instant::now());
            }
            Err(invalid) => {
                for problem in &invalid.problems {
                    tracing::error!(
                        problem = problem.describe(&self.config_file),
                        "configuration refused"
                    );
                }
                reconciler.refuse_configuration(invalid.to_string());
            }
        }
    }
}

/// Says so where the kernel cannot do without the sysctls of strict ARP.
fn hold_strict_arp(config: &mut Config, fence: FenceSupport) {
    if fence::hold_strict_arp(config, fence) {
        tracing::warn!(
            key = "proxy.strict_arp",
            "strict arp stays on, this kernel cannot hold the fence"
        );
    }
}

/// Keys that a running daemon cannot change keep their values; returns which of them were edited.
fn keep_fixed(old: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut kept = Vec::new();
    let mut keep = |name: &'static str, same: bool| {
        if !same {
            kept.push(name);
        }
    };
    keep("node", old.node == new.node);
    keep("source", old.source == new.source);
    keep(
        "pool.namespace_selector",
        // Which kinds are followed is settled at the start. Where Namespaces are not, none matches.
        old.selects_namespaces() == new.selects_namespaces()
            || old.source.kind == SourceKind::Manifests,
    );
    keep("membership", old.membership == new.membership);
    keep("observability", old.observability == new.observability);
    keep("proxy.datapath", old.proxy.datapath == new.proxy.datapath);
    keep(
        "announce.gratuitous_burst",
        old.announce.gratuitous_burst == new.announce.gratuitous_burst,
    );
    keep(
        "announce.refresh",
        old.announce.refresh == new.announce.refresh,
    );
    new.node = old.node.clone();
    new.source = old.source.clone();
    new.membership = old.membership.clone();
    new.observability = old.observability.clone();
    new.proxy.datapath = old.proxy.datapath;
    new.announce
        .gratuitous_burst
        .clone_from(&old.announce.gratuitous_burst);
    new.announce.refresh = old.announce.refresh;
    (new, kept)
}

fn publish(
    reconciler: &Reconciler,
    unopened: &Unopened,
    snapshots: &watch::Sender<Arc<Snapshot>>,
    metrics: &Metrics,
    before: &Arc<Snapshot>,
) {
    let snapshot = snapshot(reconciler, unopened);
    if snapshot.pass.number != before.pass.number {
        // Before the first pass there was no plan, and what it finds is no transition.
        let previous = (before.pass.number > 0).then_some(&*before.plan);
        metrics.observe(&snapshot.pass, previous, &snapshot.plan);
    }
    snapshots.send_replace(snapshot);
}

fn publish_only(
    reconciler: &Reconciler,
    unopened: &Unopened,
    snapshots: &watch::Sender<Arc<Snapshot>>,
) {
    snapshots.send_replace(snapshot(reconciler, unopened));
}

fn snapshot(reconciler: &Reconciler, unopened: &Unopened) -> Arc<Snapshot> {
    let mut snapshot = reconciler.snapshot();
    unopened.show(&mut snapshot);
    Arc::new(snapshot)
}

fn resync_timer(config: &Config) -> tokio::time::Interval {
    let period = config.proxy.resync_interval;
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    timer
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
