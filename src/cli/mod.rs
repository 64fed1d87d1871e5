//! The command line: one module a command; results on stdout, errors on stderr, exit codes by contract.

mod check;
mod cleanup;
pub mod demo;
pub mod exit;
pub mod output;
mod run;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;
use output::Format;

/// Edge load balancer for bare-metal Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "edgelb", version)]
struct Arguments {
    /// The configuration file.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        default_value = "/etc/edgelb/edgelb.toml"
    )]
    config: PathBuf,
    /// The form of the result.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the node daemon in the foreground.
    Run,
    /// Validates the configuration file and prints every problem with the corrected form.
    Check,
    /// Shows the whole thing on this machine, in a LAN of network namespaces, without a cluster.
    Demo(demo::DemoArguments),
    /// Removes everything that edgelb ever put into this kernel, and nothing else.
    Cleanup,
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match arguments.command {
        Command::Run => run::run(&arguments.config),
        Command::Cleanup => cleanup::run(&arguments.config, arguments.output),
        Command::Check => check::run(&arguments.config, arguments.output),
        // The only one with exit codes from another process.
        Command::Demo(demo) => return demo::run(&demo, arguments.output),
    };
    ended
        .unwrap_or_else(|error| {
            tell(&format!("{error:#}"));
            Exit::Problem
        })
        .into()
}

/// Says something to the person at the terminal, on stderr.
fn tell(text: &str) {
    // Nobody is left to tell when stderr is closed too; the exit code still speaks.
    let _ = writeln!(std::io::stderr(), "edgelb: {}", text.trim_end());
}
