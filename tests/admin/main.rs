//! What the daemon tells: its views, its admin socket with the commands that ask it, its metrics and
//! its health. No root, no kernel: a planned world stands behind it all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    // Counts in samples are exact.
    clippy::float_cmp,
    clippy::cast_precision_loss
)]

mod cli;
mod drain;
mod explain;
mod health;
mod metrics;
mod node_port;
mod openmetrics;
mod plan;
mod record;
#[path = "../schemas/validator.rs"]
mod schema_validator;
mod socket;
mod views;
mod watch;
mod world;

/// The program where everybody can run it: the place where it was built may be closed to others. Copied
/// by another process, for a file that is open for writing anywhere in this one cannot be run.
fn program_for_all(directory: &std::path::Path) -> std::path::PathBuf {
    let program = directory.join("edgelb");
    let copied = std::process::Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_edgelb"))
        .arg(&program)
        .status()
        .unwrap();
    assert!(copied.success());
    program
}

/// Runs as a user who may nothing, where this one may say so.
fn as_nobody(process: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt;
    if nix::unistd::geteuid().is_root() {
        process.uid(65_534).gid(65_534);
    }
    process
}
