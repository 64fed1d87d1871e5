//! Makes the kernel and the LAN equal to the plan; observes, compares, changes.

pub mod announcer;
pub mod forwarder;
pub mod ipvs;
mod jitter;
pub mod kernel;
pub mod kubernetes;
pub mod monitor;
pub mod netlink;
pub mod nftables;
pub mod prober;
pub mod route;
pub mod state_directory;
pub mod sysctl;
pub mod virtual_servers;

use std::error::Error;

use serde::Serialize;

/// Something that could not be applied; it is tried again with back-off and never stops the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What kind of object: `table`, `route`, `virtual_server`, `sysctl`, `state_directory`,
    /// `announcement`. The metric label.
    pub kind: &'static str,
    /// Which one, in the words of `nft`, `ip` or `ipvsadm`.
    pub object: String,
    /// Why, with the remedy where one is known.
    pub message: String,
}

impl Failure {
    /// From an error, with all its causes.
    pub fn new(kind: &'static str, object: &str, error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            message.push_str(": ");
            message.push_str(&error.to_string());
            cause = error.source();
        }
        Self {
            kind,
            object: object.to_owned(),
            message,
        }
    }

    /// From words.
    pub fn told(kind: &'static str, object: String, message: &str) -> Self {
        Self {
            kind,
            object,
            message: message.to_owned(),
        }
    }
}
