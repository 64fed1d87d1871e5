//! A recording: everything that the daemon plans from, as one object that can be kept, sent and
//! replayed (`edgelb status --record`, `edgelb plan --inputs`). Decides nothing.
//!
//! The configuration is in it, and no secret: keys of the membership and credentials of the API server
//! are named by their files. Readers take the version that they know and refuse any other.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use super::view::seconds_since_epoch;
use crate::config::Config;
use crate::plan::Inputs;

/// What the field `format` of every recording says.
pub const FORMAT: &str = "edgelb-inputs";

/// The version of the format; it grows with changes that an older reader would misread.
pub const VERSION: u32 = 1;

/// One recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// The program that made it.
    pub edgelb: String,
    /// When, in seconds since 1970, to the millisecond.
    pub recorded: f64,
    /// The last pass before it, counted from the daemon's start; 0: none has ended yet.
    pub pass: u64,
    /// `ipvs` or `nftables`.
    pub datapath: String,
    /// The [`digest`] of `config`.
    pub config_digest: String,
    /// The configuration in force.
    pub config: Config,
    /// What the daemon plans from besides: node, host, cluster, allocations, peers and owners.
    pub inputs: Inputs,
}

impl Record {
    /// The recording at `now`.
    pub fn of(snapshot: &Snapshot, now: SystemTime) -> Self {
        let config = (*snapshot.config).clone();
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            edgelb: env!("CARGO_PKG_VERSION").to_owned(),
            recorded: seconds_since_epoch(now),
            pass: snapshot.pass.number,
            datapath: snapshot.datapath.to_owned(),
            config_digest: digest(&config),
            config,
            inputs: (*snapshot.inputs).clone(),
        }
    }
}

/// Why a text is no recording that this program can replay.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it is no recording: make one with edgelb status --record FILE")]
    NoRecord(#[source] serde_json::Error),
    #[error(
        "it is a recording in format {format:?}, not {FORMAT:?}: make one with edgelb status --record FILE"
    )]
    Format { format: String },
    #[error(
        "its format has version {version}, this program reads version {VERSION}: replay it with edgelb {edgelb}"
    )]
    Version { version: u32, edgelb: String },
    #[error("it is damaged, or was edited into something that this program does not know")]
    Damaged(#[source] serde_json::Error),
}

/// What every version has.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
    #[serde(default)]
    edgelb: String,
}

/// Reads a recording.
pub fn parse(text: &[u8]) -> Result<Record, RecordError> {
    let head: Head = serde_json::from_slice(text).map_err(RecordError::NoRecord)?;
    if head.format != FORMAT {
        let format = head.format.chars().take(64).collect();
        return Err(RecordError::Format { format });
    }
    if head.version != VERSION {
        return Err(RecordError::Version {
            version: head.version,
            edgelb: head.edgelb.chars().take(64).collect(),
        });
    }
    serde_json::from_slice(text).map_err(RecordError::Damaged)
}

/// Tells two configurations apart, whatever their files look like: FNV-1a of 64 bits over the values
/// in force, in hexadecimal. No protection against somebody who forges one.
pub fn digest(config: &Config) -> String {
    // A configuration holds nothing that JSON cannot say.
    let text = serde_json::to_vec(config).unwrap_or_default();
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_cannot_be_replayed_is_told_with_the_way_out() {
        for (text, part) in [
            ("", "it is no recording: make one with"),
            ("{}", "it is no recording"),
            ("{\"kind\":\"List\"}", "it is no recording"),
            (
                "{\"format\":\"x\",\"version\":1}",
                "in format \"x\", not \"edgelb-inputs\"",
            ),
            (
                "{\"format\":\"edgelb-inputs\",\"version\":9,\"edgelb\":\"7.0\"}",
                "version 9, this program reads version 1: replay it with edgelb 7.0",
            ),
            (
                "{\"format\":\"edgelb-inputs\",\"version\":1}",
                "it is damaged",
            ),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_digest_tells_configurations_apart() {
        let config = Config::defaults("edge-a");
        let mut other = config.clone();
        other.proxy.strict_arp = !config.proxy.strict_arp;
        assert_eq!(digest(&config), digest(&config.clone()));
        assert_ne!(digest(&config), digest(&other));
        assert_eq!(digest(&config).len(), 16);
    }
}
