//! Why requests failed: the transport's own errors, and those of a transaction.

use std::io;

use super::message::{MalformedMessage, RequestError};
use super::{DUMP_ATTEMPTS, RECEIVE_BYTES, REPLY_TIMEOUT};

/// Why nothing is known about the requests of a call, or the one request of it was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket of protocol {protocol}")]
    Open { protocol: isize, source: io::Error },
    /// Nothing of this send reached the kernel.
    #[error("cannot send {bytes} bytes of netlink requests")]
    Send { bytes: usize, source: io::Error },
    #[error("cannot receive netlink replies")]
    Receive { source: io::Error },
    #[error("no netlink reply within {} seconds", REPLY_TIMEOUT.as_secs())]
    Timeout,
    /// The kernel dropped replies (`ENOBUFS`): what it did is unknown, observe it again.
    #[error("netlink replies were lost: the kernel's state must be observed again")]
    RepliesLost,
    #[error("netlink reply of {bytes} bytes does not fit the buffer of {RECEIVE_BYTES}")]
    Truncated { bytes: usize },
    #[error("malformed netlink reply")]
    Malformed(#[from] MalformedMessage),
    #[error("netlink request {index} has no whole header")]
    NotARequest { index: usize },
    #[error("netlink requests of {bytes} bytes exceed the {limit} that one send can carry")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the dump was interrupted by changes {DUMP_ATTEMPTS} times")]
    DumpInterrupted,
    /// Only from [`NetlinkSocket::dump`] and [`NetlinkSocket::request`].
    #[error("the kernel refused the request")]
    Refused(#[source] RequestError),
}

/// Why a transaction did not take place, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// Rolled back whole. At least one entry; more than these when `complete` is false.
    #[error("the kernel refused the transaction: {}", failures.first().map_or_else(
        || "no reason given".to_owned(), ToString::to_string))]
    Refused {
        failures: Vec<Failure>,
        complete: bool,
    },
    /// With [`Error::RepliesLost`] and [`Error::Receive`] it is unknown whether it took place.
    #[error(transparent)]
    Transport(#[from] Error),
}

/// One error of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Index in the requests; `None` for the transaction as a whole (begin, end or commit).
    pub request: Option<usize>,
    pub error: RequestError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.request {
            Some(index) => write!(formatter, "request {index}: {}", self.error),
            None => write!(formatter, "as a whole: {}", self.error),
        }
    }
}
