//! `edgelb demo`: the whole thing on this machine, without a cluster.
//!
//! This file has the arguments, the frame around the story (sandbox, Ctrl-C, exit code) and its two
//! renderings; `story` has what happens. The network, the daemons and the files go away with the
//! sandbox and the lab, whatever path leads out of here.

mod report;
mod scene;
mod story;
mod takeover;
mod view;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::exit::Exit;
use crate::cli::output::{Format, write_json};
use crate::lab::LabError;
use crate::lab::prober::ProberOptions;
use crate::lab::sandbox::{self, Entered, SandboxError};

use crate::cli::interrupt::Interrupt;
use story::Story;

/// What `edgelb demo` takes.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// Edge nodes in the LAN
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MOST_NODES))]
    pub nodes: u16,
    /// Workloads behind the Services
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=MOST_WORKLOADS))]
    pub workloads: u16,
    /// How the daemons shall forward
    #[arg(long, value_enum, default_value_t = Datapath::Auto)]
    pub datapath: Datapath,
    /// Leave everything up at the end, and print how to look around, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// How often the nodes ask one another, 100ms by default: a slow machine needs longer, and its client
    /// asks less often
    #[arg(long, value_name = "DURATION", value_parser = crate::config::duration::parse)]
    pub probe_interval: Option<Duration>,
    /// The edgelb program to run in the nodes; this one by default
    #[arg(long, hide = true)]
    pub program: Option<PathBuf>,
}

/// The kernel's way of forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Datapath {
    /// IPVS where the kernel has it, else nftables.
    Auto,
    /// IPVS.
    Ipvs,
    /// nftables.
    Nftables,
}

/// The lab has no more names and addresses.
const MOST_NODES: i64 = 26;
/// More would take longer to start than the demo may last.
const MOST_WORKLOADS: i64 = 100;
/// How long a step of the story may take on a machine that is not slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// The default of `membership.probe_interval`.
const USUAL_PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// Shorter than TCP's first retransmission (RFC 6298), which would hide a loss.
const LONGEST_REQUEST: Duration = Duration::from_millis(900);

impl Datapath {
    /// The value of `proxy.datapath`.
    pub(in crate::cli) fn key(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
        }
    }
}

impl DemoArguments {
    /// How many times slower than usual the nodes are asked to be.
    fn slower(&self) -> f64 {
        self.probe_interval.map_or(1.0, |interval| {
            (interval.as_secs_f64() / USUAL_PROBE_INTERVAL.as_secs_f64()).clamp(1.0, 20.0)
        })
    }

    /// The pace of the client: slower where the nodes are.
    fn pace(&self) -> ProberOptions {
        let usual = ProberOptions::default();
        ProberOptions {
            interval: usual.interval.mul_f64(self.slower()),
            timeout: (usual.timeout.mul_f64(self.slower())).min(LONGEST_REQUEST),
        }
    }

    /// How long a step may take.
    fn patience(&self) -> Duration {
        PATIENCE.mul_f64(self.slower().min(4.0))
    }
}

/// Runs the demo. It must be called before the program has any other thread: it starts the program
/// once more in a sandbox, for an ordinary user in a user namespace.
pub fn run(arguments: &DemoArguments, output: Format) -> ExitCode {
    match sandbox::enter() {
        Ok(Entered::Finished(code)) => ExitCode::from(code),
        Ok(Entered::Inside) => run_inside(arguments, output).into(),
        Err(error) => {
            let code = if matches!(error, SandboxError::Forbidden { .. }) {
                Exit::Privilege
            } else {
                Exit::Problem
            };
            complain(&anyhow::Error::new(error));
            code.into()
        }
    }
}

fn run_inside(arguments: &DemoArguments, output: Format) -> Exit {
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            complain(&anyhow::Error::new(error).context("cannot watch for signals"));
            return Exit::Problem;
        }
    };
    let mut nowhere = io::sink();
    let mut stdout = io::stdout().lock();
    let lines: &mut dyn Write = match output {
        Format::Table => &mut stdout,
        Format::Json => &mut nowhere,
    };
    let mut story = Story::new(arguments, &interrupt, lines);
    let mut result = story.tell();
    if let Err(error) = &result {
        complain(error);
        // The error of a daemon that failed has its log already.
        if !matches!(error.downcast_ref(), Some(LabError::Daemon { .. })) {
            // There is nowhere to tell that stderr is closed.
            let _ = io::stderr().write_all(story.log_tails().as_bytes());
        }
    }
    if arguments.keep {
        // People read this in either output, so it goes to stderr beside a JSON object.
        result = result.and(story.keep(&mut io::stderr()));
    }
    let (report, ended) = story.end(result.as_ref().err());
    if output == Format::Json
        && let Err(error) = write_json(&report)
    {
        complain(&anyhow::Error::new(error).context("cannot print"));
        return Exit::Problem;
    }
    match (result, ended) {
        (Ok(()), Ok(())) => Exit::Fine,
        (Err(error), _) => exit(&error),
        (Ok(()), Err(error)) => {
            complain(&error);
            Exit::Problem
        }
    }
}

/// A kernel that refuses network namespaces, or lacks what a daemon needs, is code 4 by contract;
/// everything else is a problem.
fn exit(error: &anyhow::Error) -> Exit {
    match error.downcast_ref::<LabError>() {
        Some(LabError::Namespace { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            Exit::Privilege
        }
        Some(LabError::Daemon {
            exit_code: Some(code),
            ..
        }) if *code == Exit::Privilege as i32 => Exit::Privilege,
        _ => Exit::Problem,
    }
}

fn complain(error: &anyhow::Error) {
    // There is nowhere to tell that stderr is closed.
    let _ = writeln!(io::stderr(), "edgelb demo: {error:#}");
}
