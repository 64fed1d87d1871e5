//! Makes the kernel and the LAN equal to the plan; observes, compares, changes.

pub mod announcer;
pub mod conntrack;
mod departures;
pub mod fence;
pub mod forwarder;
pub mod handover;
pub mod inspect;
pub mod ipvs;
mod jitter;
pub mod kernel;
mod kernel_error;
pub mod kubernetes;
mod module;
pub mod monitor;
pub mod netlink;
pub mod nftables;
pub mod prober;
pub mod reach;
mod report;
pub mod route;
pub mod state_directory;
pub mod sysctl;
pub mod traffic;
pub mod virtual_servers;

use std::collections::HashMap;
use std::error::Error;

use serde::Serialize;

/// The kinds of objects that cannot be applied, as failures name them.
pub const KINDS: [&str; 8] = [
    "table",
    "route",
    "virtual_server",
    "sysctl",
    "state_directory",
    "announcement",
    "conntrack",
    "health_check_port",
];

/// Something that could not be applied; it is tried again with back-off and never stops the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What kind of object, one of [`KINDS`]. The metric label.
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

/// Tells failures of the same cause once, with how many objects it concerns.
pub fn told_once(failures: Vec<Failure>) -> Vec<Failure> {
    let mut told: Vec<(Failure, usize)> = Vec::new();
    let mut known: HashMap<(&'static str, String), usize> = HashMap::new();
    for failure in failures {
        let cause = (failure.kind, failure.message.clone());
        if let Some((_, more)) = known.get(&cause).and_then(|at| told.get_mut(*at)) {
            *more += 1;
        } else {
            known.insert(cause, told.len());
            told.push((failure, 0));
        }
    }
    told.into_iter()
        .map(|(mut failure, more)| {
            if more > 0 {
                failure.object = format!("{} and {more} more", failure.object);
            }
            failure
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Failure, told_once};

    #[test]
    fn one_cause_is_told_once_with_a_count() {
        let failure = |kind, object: &str, message| Failure::told(kind, object.to_owned(), message);
        let failures = vec![
            failure("virtual_server", "-A a", "no scheduler"),
            failure("route", "a", "no scheduler"),
            failure("virtual_server", "-A b", "another"),
            failure("virtual_server", "-A c", "no scheduler"),
            failure("virtual_server", "-A d", "no scheduler"),
        ];
        assert_eq!(
            told_once(failures),
            [
                failure("virtual_server", "-A a and 2 more", "no scheduler"),
                failure("route", "a", "no scheduler"),
                failure("virtual_server", "-A b", "another"),
            ]
        );
    }
}
