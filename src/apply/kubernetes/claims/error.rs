//! Why claims could not be read or written, and what that means for whoever wants to write them.

use std::net::IpAddr;
use std::time::Duration;

use super::LARGEST;
use super::shard::Unreadable;
use crate::api_server::server::CallError;

/// Claims cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the ConfigMap {config_map}")]
pub struct ReadError {
    /// Which of them.
    pub config_map: String,
    /// Why.
    pub source: CallError,
}

/// Not all claims were written. Whatever it is, plan again from what is known to be held.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else wrote there; what they wrote is known now. Try again at once.
    #[error("somebody else wrote the ConfigMaps {}", config_maps.join(", "))]
    Conflict {
        /// Which of them.
        config_maps: Vec<String>,
    },
    /// One that has to be read first cannot be.
    #[error(transparent)]
    Read(ReadError),
    /// One could not be written.
    #[error("cannot write the ConfigMap {config_map}")]
    Write {
        /// Which of them.
        config_map: String,
        /// Why.
        source: CallError,
    },
    /// One would be larger than the API server takes.
    #[error(
        "the ConfigMap {config_map} would hold {bytes} bytes, and {LARGEST} are the most: give a part of the pools to daemons with a Lease of their own"
    )]
    TooLarge {
        /// Which of them.
        config_map: String,
        /// Keys and values.
        bytes: usize,
    },
    /// An address whose entry cannot be read is not to be given: nothing was written.
    #[error(
        "the ConfigMap {config_map} says of {address} what cannot be read ({reason}): correct the entry or take it away"
    )]
    Unreadable {
        /// Which of them.
        config_map: String,
        /// The address.
        address: IpAddr,
        /// Why it cannot be read.
        reason: Unreadable,
    },
}

impl CommitError {
    /// What the API server said, where it is about a request.
    pub fn call(&self) -> Option<&CallError> {
        match self {
            Self::Read(ReadError { source, .. }) | Self::Write { source, .. } => Some(source),
            Self::Conflict { .. } | Self::TooLarge { .. } | Self::Unreadable { .. } => None,
        }
    }

    /// How long the server asked to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.call().and_then(CallError::retry_after)
    }
}
