//! `edgelb plan`: what a start of the daemon would change in this kernel, as a diff in the words of
//! ipvsadm, nft, ip and sysctl. Changes nothing: the code that makes a pass runs with sockets that
//! send no change.

mod inputs;
mod output;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use imbl::OrdSet;

use super::exit::Exit;
use super::output::Format;
use super::{lacks_privilege, tell};
use crate::apply::fence::{self, Fenced};
use crate::apply::kernel::{Kernel, OpenError};
use crate::apply::reach::{Reach, Steps};
use crate::apply::state_directory::StateDirectory;
use crate::config::Datapath;
use crate::owner::announcing;
use crate::plan;
use inputs::Gathered;
use output::Report;

/// The options of `edgelb plan`.
#[derive(Debug, Args)]
pub struct PlanArguments {
    /// Plans from a recording (edgelb status --record FILE) instead of this node, without root and
    /// without the kernel: everything is shown as what would be made. Without -c the configuration is
    /// the recorded one.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
}

/// Why there is no plan.
enum Trouble {
    /// A privilege or a kernel feature is missing.
    Privilege(anyhow::Error),
    /// Anything else is what the plan would be made from.
    Input(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        if lacks_privilege(&error) {
            Self::Privilege(error)
        } else {
            Self::Input(error)
        }
    }
}

/// Plans, compares and prints; 0 says that there is nothing to change, 1 that there is.
pub fn run(
    arguments: &PlanArguments,
    config: Option<&Path>,
    format: Format,
) -> anyhow::Result<Exit> {
    let report = match &arguments.inputs {
        Some(file) => recorded(file, config),
        None => here(config),
    };
    let report = match report {
        Ok(report) => report,
        Err(trouble) => {
            let (error, exit) = match trouble {
                Trouble::Privilege(error) => (error, Exit::Privilege),
                Trouble::Input(error) => (error, Exit::Usage),
            };
            tell(&format!("{error:#}"));
            return Ok(exit);
        }
    };
    report.print(format).context("cannot write the result")?;
    Ok(if report.changes.is_empty() && report.failures.is_empty() {
        Exit::Fine
    } else {
        Exit::Problem
    })
}

/// From this node's sources, compared with its kernel.
fn here(config: Option<&Path>) -> Result<Report, Trouble> {
    let config = inputs::configuration(config)?;
    let state = Arc::new(StateDirectory::look(&config.node.state_dir));
    let mut gathered = inputs::here(config, &state)?;
    let steps = Steps::default();
    let reach = Reach::Look(steps.clone());
    let datapath = gathered.config.proxy.datapath;
    let mut kernel = open(datapath, state, &reach)?;
    gathered.inputs.masquerades_only = kernel.datapath() == "nftables";
    compare(&gathered, &mut kernel, &reach, &steps)
}

/// From a recording, compared with nothing.
fn recorded(file: &Path, config: Option<&Path>) -> Result<Report, Trouble> {
    let (mut gathered, recorded) = inputs::recorded(file, config)?;
    let datapath = match (gathered.config.proxy.datapath, recorded.as_str()) {
        (Datapath::Auto, "nftables") => Datapath::Nftables,
        (Datapath::Auto, _) => Datapath::Ipvs,
        (set, _) => set,
    };
    tell(
        "a recording says nothing of the kernel: everything is shown as it would be made in an empty one",
    );
    let steps = Steps::default();
    let reach = Reach::Nowhere(steps.clone());
    let mut kernel = open(datapath, Arc::new(StateDirectory::nowhere()), &reach)?;
    gathered.inputs.masquerades_only = kernel.datapath() == "nftables";
    compare(&gathered, &mut kernel, &reach, &steps)
}

fn open(datapath: Datapath, state: Arc<StateDirectory>, reach: &Reach) -> Result<Kernel, Trouble> {
    Kernel::open_for(datapath, state, reach).map_err(|error| match error {
        OpenError::State(_) => anyhow::Error::from(error).into(),
        _ => Trouble::Privilege(error.into()),
    })
}

/// What the daemon does from its start to the end of its first pass, noted.
fn compare(
    gathered: &Gathered,
    kernel: &mut Kernel,
    reach: &Reach,
    steps: &Steps,
) -> Result<Report, Trouble> {
    let Gathered {
        config,
        inputs,
        fence,
    } = gathered;
    let plan = plan::plan(config, inputs);
    kernel
        .set_timeouts(config)
        .context("cannot read the timeouts of IPVS")?;
    let report = kernel.repair(&plan.state, Instant::now());
    if let Some(failure) = report.failures.iter().find(|failure| is_denied(failure)) {
        let error = anyhow::anyhow!(
            "{}: {}: run as root, or plan from a recording with --inputs FILE",
            failure.object,
            failure.message
        );
        return Err(Trouble::Privilege(error));
    }
    let vips = plan.groups.values();
    let vips = vips.flat_map(|group| group.vips.iter().copied()).collect();
    let host = &inputs.host;
    let fenced = Fenced::new(announcing::fenced(config, host), &vips, OrdSet::new(), host);
    fence::rehearse(&fenced, (*fence, config.membership.lease()), reach)
        .context("cannot look at the fence")?;
    Ok(Report {
        node: inputs.node.clone(),
        datapath: kernel.datapath().to_owned(),
        compared: reach.looks(),
        changes: steps.take(),
        failures: report.failures,
    })
}

/// The kernel did not let us look.
fn is_denied(failure: &crate::apply::Failure) -> bool {
    let message = failure.message.to_lowercase();
    ["operation not permitted", "permission denied"]
        .iter()
        .any(|words| message.contains(words))
        && failure.kind != "sysctl"
}
