//! The exit codes that scripts may rely on.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Warnings included.
    Fine = 0,
    /// The command did its work and found a problem, or a request failed.
    Problem = 1,
    /// Wrong usage or an invalid configuration.
    Usage = 2,
    /// No daemon answers.
    NoDaemon = 3,
    /// A privilege or a kernel feature is missing.
    Privilege = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
