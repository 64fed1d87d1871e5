//! `edgelb bench`: measurements in the lab, each with a peer or the raw kernel beside it in the same
//! run. This file has the commands and the frame around them: sandbox, Ctrl-C, exit code.

mod failover;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::exit::Exit;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::Format;
use crate::lab::sandbox::{self, Entered, SandboxError};

use failover::FailoverArguments;

/// What `edgelb bench` measures.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Measures for each fault how long a client had no answer, with keepalived beside it.
    Failover(FailoverArguments),
}

/// Runs a measurement. It must be called before the program has any other thread: it starts the
/// program once more in a sandbox, for an ordinary user in a user namespace.
pub fn run(command: &BenchCommand, output: Format) -> ExitCode {
    match sandbox::enter() {
        Ok(Entered::Finished(code)) => ExitCode::from(code),
        Ok(Entered::Inside) => run_inside(command, output).into(),
        Err(error) => {
            let code = match error {
                SandboxError::Forbidden { .. } => Exit::Privilege,
                _ => Exit::Problem,
            };
            complain(&anyhow::Error::new(error));
            code.into()
        }
    }
}

fn run_inside(command: &BenchCommand, output: Format) -> Exit {
    let interrupt = match Interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            complain(&anyhow::Error::new(error).context("cannot watch for signals"));
            return Exit::Problem;
        }
    };
    match command {
        BenchCommand::Failover(arguments) => failover::run(arguments, &interrupt, output),
    }
}

/// Says on stderr what went wrong.
fn complain(error: &anyhow::Error) {
    note(&format!("{error:#}"));
}

/// Says something on stderr.
fn note(text: &str) {
    // There is nowhere to tell that stderr is closed.
    let _ = writeln!(io::stderr(), "edgelb bench: {text}");
}
