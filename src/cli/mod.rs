//! The command line: one module a command; results on stdout, errors on stderr, exit codes by contract.

pub mod demo;

use std::process::ExitCode;

/// Parses the arguments, runs the command and gives the exit code.
pub fn run() -> ExitCode {
    ExitCode::from(2)
}
