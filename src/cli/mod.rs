//! The command line: one module a command; results on stdout, errors on stderr, exit codes by contract.

mod bench;
mod check;
mod cleanup;
pub mod demo;
mod doctor;
mod drain;
pub mod exit;
mod explain;
mod generate;
mod interrupt;
mod migrate;
pub mod output;
mod peers;
mod plan;
mod pools;
mod record;
mod run;
mod services;
mod status;
mod table;
mod view;
mod vips;
mod watch;

#[cfg(test)]
#[path = "../../tests/schemas/validator.rs"]
mod validator;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;
use output::Format;
use view::ViewArguments;
use watch::WatchedArguments;

/// Where the configuration is when no other file is named.
const DEFAULT_CONFIG: &str = "/etc/edgelb/edgelb.toml";

/// Edge load balancer for bare-metal Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "edgelb", version)]
struct Arguments {
    /// The configuration file [default: /etc/edgelb/edgelb.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// Shows whether the running daemon works, and everything that is wrong now.
    Status(status::StatusArguments),
    /// Shows every Service: where it is reached, who answers, and what it lacks.
    Services(WatchedArguments),
    /// Shows every VIP: who announces it where, and why not this node.
    Vips(WatchedArguments),
    /// Shows how full each pool is.
    Pools(WatchedArguments),
    /// Shows the nodes among which VIPs are shared out.
    Peers(WatchedArguments),
    /// Shows what a start of the daemon would change in this kernel, and changes nothing.
    Plan(plan::PlanArguments),
    /// Says what happens to a packet, and why: in words first, then in detail.
    Explain(explain::ExplainArguments),
    /// Gives this node's VIPs up, make-before-break, and waits until others announce them.
    Drain(drain::DrainArguments),
    /// Lets this node take VIPs again.
    Undrain(ViewArguments),
    /// Looks for what keeps this node from working, or a Service from being reached, and says how to
    /// mend it.
    Doctor(doctor::DoctorArguments),
    /// Shows the whole thing on this machine, in a LAN of network namespaces, without a cluster.
    Demo(demo::DemoArguments),
    /// Measures in the same kind of LAN as the demo's, with a peer beside it.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Writes the configuration that does what another load balancer's objects say.
    #[command(subcommand)]
    Migrate(migrate::MigrateCommand),
    /// Prints the script by which a shell completes edgelb's commands.
    Completions(generate::CompletionsArguments),
    /// Writes the man pages.
    Man(generate::ManArguments),
    /// Removes everything that edgelb ever put into this kernel, and nothing else.
    Cleanup,
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn run() -> ExitCode {
    let arguments = Arguments::parse();
    let named = arguments.config.as_deref();
    let config = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let format = arguments.output;
    let ended = match &arguments.command {
        Command::Run => run::run(config),
        Command::Cleanup => cleanup::run(config, format),
        // The only ones with exit codes from another process.
        Command::Demo(demo) => return demo::run(demo, format),
        Command::Bench(bench) => return bench::run(bench, format),
        Command::Check => check::run(config, format),
        Command::Completions(arguments) => generate::completions(arguments),
        Command::Man(arguments) => generate::man(arguments),
        Command::Migrate(command) => migrate::run(command, format),
        Command::Doctor(arguments) => doctor::run(arguments, config, format),
        Command::Status(view) => status::run(view, config, format),
        Command::Services(view) => services::run(view, config, format),
        Command::Vips(view) => vips::run(view, config, format),
        Command::Pools(view) => pools::run(view, config, format),
        Command::Peers(view) => peers::run(view, config, format),
        Command::Plan(arguments) => plan::run(arguments, named, format),
        Command::Explain(arguments) => explain::run(arguments, config, format),
        Command::Drain(arguments) => drain::drain(arguments, config, format),
        Command::Undrain(view) => drain::undrain(view, config, format),
    };
    ended
        .unwrap_or_else(|error| {
            tell(&format!("{error:#}"));
            if lacks_privilege(&error) {
                Exit::Privilege
            } else {
                Exit::Problem
            }
        })
        .into()
}

/// Says something to the person at the terminal, on stderr.
fn tell(text: &str) {
    // Nobody is left to tell when stderr is closed too; the exit code still speaks.
    let _ = writeln!(std::io::stderr(), "edgelb: {}", text.trim_end());
}

/// Whether the cause is a permission that the kernel did not give.
fn lacks_privilege(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}
