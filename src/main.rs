//! The `edgelb` program: parses the command line and runs one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgelb::cli::run()
}
