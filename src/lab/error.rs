//! What can go wrong while a lab is built or used.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A failed step of the lab, with what was tried and where.
#[derive(Debug, Error)]
pub enum LabError {
    /// A namespace could not be created or entered.
    #[error("cannot create or enter the network namespace {name}: {source}")]
    Namespace {
        /// The namespace's name.
        name: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel refused an rtnetlink request.
    #[error("cannot {what} in {namespace}: {source}")]
    Netlink {
        /// The request in words, for example "create bridge lan0".
        what: String,
        /// The namespace's name.
        namespace: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot access the kernel setting {setting} in {namespace}: {source}")]
    Sysctl {
        /// The path below `/proc/sys`.
        setting: String,
        /// The namespace's name.
        namespace: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file of the lab's directory could not be written or read.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was tried: "write", "create", "remove".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A server's listener or thread could not be started or changed.
    #[error("server {name}: cannot {what}: {source}")]
    Server {
        /// The server's name.
        name: String,
        /// What was tried, for example "listen on tcp 8080".
        what: String,
        /// The system's error.
        source: io::Error,
    },
    /// A thread that sends requests could not be started or failed.
    #[error("client in {namespace}: {source}")]
    Client {
        /// The namespace's name.
        namespace: String,
        /// The system's error.
        source: io::Error,
    },
    /// An independent program is missing or failed.
    #[error("{program} in {namespace}: {reason}")]
    Tool {
        /// The program.
        program: String,
        /// The namespace's name.
        namespace: String,
        /// Why, with what it said.
        reason: String,
    },
    /// A daemon could not be started, or did not do what was waited for.
    #[error("edgelb on {node}: {reason}")]
    Daemon {
        /// The node's name.
        node: String,
        /// Why, with the end of its log where there is one.
        reason: String,
        /// The daemon's exit code, if it ended by itself when it should not have.
        exit_code: Option<i32>,
    },
    /// The lab cannot be as large, or has no such part.
    #[error("{0}")]
    Shape(String),
}
