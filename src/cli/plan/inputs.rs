//! What `edgelb plan` plans from: this node's sources, read once, or a recording. Decides nothing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sched::{CloneFlags, unshare};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::admin::record;
use crate::api_server::client::Credentials;
use crate::apply::fence::{self, FenceSupport};
use crate::apply::state_directory::StateDirectory;
use crate::cli::{DEFAULT_CONFIG, tell};
use crate::cluster_record;
use crate::config::{self, Config, Environment, SourceKind};
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::model::peer::Peers;
use crate::plan::Inputs;
use crate::plan::announcement::relevant;
use crate::source::kubernetes::timing::Timing;
use crate::source::kubernetes::{self, Settings};
use crate::source::manifest::read_directory;
use crate::source::{SourceEvent, SourceProblem, SourceStatus, host};

/// The API server has this long to list everything.
const LONGEST_LISTING: Duration = Duration::from_secs(20);

/// Events that may wait.
const WAITING_EVENTS: usize = 256;

/// All that a plan is made from.
pub(super) struct Gathered {
    pub(super) config: Config,
    pub(super) inputs: Inputs,
    /// What the kernel can hold back.
    pub(super) fence: FenceSupport,
}

/// The configuration of a file, or of the file that the daemon reads.
pub(super) fn configuration(file: Option<&Path>) -> anyhow::Result<Config> {
    let file = file.unwrap_or(Path::new(DEFAULT_CONFIG));
    let loaded = config::load(file, &Environment::detect()).map_err(|error| anyhow!("{error}"))?;
    for warning in &loaded.warnings {
        tell(&warning.describe(file));
    }
    Ok(loaded.config)
}

/// What the daemon of this node would plan from if it started now.
pub(super) fn here(mut config: Config, state: &StateDirectory) -> anyhow::Result<Gathered> {
    let host = host::list().context("cannot list the interfaces")?;
    let fence = fence_support()?;
    if fence::hold_strict_arp(&mut config, fence) {
        tell(
            "strict ARP stays on whatever proxy.strict_arp says: this kernel cannot hold the fence",
        );
    }
    let (allocations, damaged) = state
        .read_allocations()
        .context("cannot read the allocations")?;
    let (draining, damaged_drain) = state
        .read_drain()
        .context("cannot read whether this node is drained")?;
    let (claims, damaged_claims) = state
        .read_claims()
        .context("cannot read what this node owns")?;
    for warning in [damaged, damaged_drain, damaged_claims]
        .into_iter()
        .flatten()
    {
        tell(&warning.to_string());
    }
    let cluster = match config.source.kind {
        SourceKind::Manifests => manifests(&config.source.manifests.dir)?,
        SourceKind::Kubernetes => api_server(&config)?,
    };
    let inputs = Inputs {
        node: config.node.name.clone(),
        host: relevant(&config, &host),
        nodes_known: !cluster.nodes.is_empty(),
        cluster,
        address_source: config.source.kind.into(),
        draining,
        allocations,
        // A start goes on with what this node owned; who owns the rest the nodes settle among themselves.
        peers: Arc::new(Peers {
            enabled: !config.membership.key_files.is_empty(),
            settled: true,
            ..Peers::default()
        }),
        owners: (claims.keys())
            .map(|vip| (*vip, config.node.name.clone()))
            .collect(),
        ..Inputs::default()
    };
    Ok(Gathered {
        config,
        inputs,
        fence,
    })
}

/// What the daemon finds out by a trial, found out in a network namespace of its own: a plan leaves no
/// trace in this one, also none that goes at once.
fn fence_support() -> anyhow::Result<FenceSupport> {
    let trial = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        fence::support().context("cannot try what this kernel can hold back")
    });
    trial
        .join()
        .map_err(|_| anyhow!("cannot try what this kernel can hold back"))?
}

/// What was recorded, with the datapath of that node. A configuration that is named is taken instead of
/// the recorded one, for the recorded node.
pub(super) fn recorded(file: &Path, config: Option<&Path>) -> anyhow::Result<(Gathered, String)> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let record = record::parse(&text).with_context(|| format!("cannot use {}", file.display()))?;
    let config = match config {
        None => record.config,
        Some(config) => {
            let mut named = configuration(Some(config))?;
            named.node.name.clone_from(&record.inputs.node);
            if record::digest(&named) != record.config_digest {
                tell(&format!(
                    "the values of {} are not those in force when {} was recorded; without -c the recorded ones are taken",
                    config.display(),
                    file.display()
                ));
            }
            named
        }
    };
    let inputs = record.inputs;
    let gathered = Gathered {
        config,
        inputs,
        fence: FenceSupport::Active,
    };
    Ok((gathered, record.datapath))
}

fn manifests(directory: &Path) -> anyhow::Result<ClusterState> {
    fs::read_dir(directory).with_context(|| {
        format!(
            "cannot read the manifests in {}: set source.manifests.dir",
            directory.display()
        )
    })?;
    let (changes, problems) = read_directory(directory);
    tell_of(&problems);
    let mut cluster = ClusterState::default();
    take(&mut cluster, changes);
    Ok(cluster)
}

fn take(cluster: &mut ClusterState, changes: Vec<ClusterChange>) {
    for change in changes {
        cluster.apply(change);
    }
}

fn tell_of(problems: &[SourceProblem]) {
    for problem in problems {
        let line = problem.line.map(|line| format!(":{line}"));
        let field = problem.field.as_ref().map(|field| format!(" {field}:"));
        tell(&format!(
            "{}{}:{} {}",
            problem.file,
            line.unwrap_or_default(),
            field.unwrap_or_default(),
            problem.message
        ));
    }
}

/// Lists what the daemon would follow, once, by the same code.
fn api_server(config: &Config) -> anyhow::Result<ClusterState> {
    let settings = Settings {
        credentials: Credentials::new(config.source.kubernetes.kubeconfig.clone()),
        timing: Timing::default(),
        kinds: cluster_record::kinds(config),
        record: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async move {
        let (events, mut received) = mpsc::channel(WAITING_EVENTS);
        let (status_sender, status) = watch::channel(SourceStatus::default());
        let (stop, stopped) = watch::channel(false);
        let source = tokio::spawn(kubernetes::run(settings, events, status_sender, stopped));
        let listed = timeout(LONGEST_LISTING, async {
            let mut cluster = ClusterState::default();
            while let Some(event) = received.recv().await {
                match event {
                    SourceEvent::Changes(changes) => take(&mut cluster, changes),
                    SourceEvent::Complete => return Some(cluster),
                }
            }
            None
        })
        .await;
        let problems = status.borrow().problems.clone();
        let _ = stop.send(true);
        source.abort();
        tell_of(&problems);
        match listed {
            Ok(Some(cluster)) => Ok(cluster),
            Ok(None) => bail!("the API server could not be followed"),
            Err(_elapsed) => bail!(
                "the API server did not list everything within {} s: edgelb doctor says what keeps it from that",
                LONGEST_LISTING.as_secs()
            ),
        }
    })
}
