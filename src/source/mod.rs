//! Where the cluster's objects and this host's facts come from. A source turns what it cannot use
//! into a problem that people can read, never into silence; it decides nothing.

pub mod host;
pub mod kubernetes;
pub mod manifest;

use std::time::SystemTime;

use serde::Serialize;

use crate::model::cluster::ClusterChange;

/// What a source sends to the reconciler, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceEvent {
    /// Edits to the cluster.
    Changes(Vec<ClusterChange>),
    /// The first complete list has been sent: until then nothing that exists may be removed (RUN-1).
    Complete,
}

/// One thing that a source could not use, for the log, the metric and `edgelb status`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SourceProblem {
    /// The file or object it is about.
    pub file: String,
    /// The line in the file, from 1, where it is known.
    pub line: Option<u64>,
    /// The path of the field (`spec.ports[0].port`), where it is known.
    pub field: Option<String>,
    /// What is wrong, and what to write instead where that is known.
    pub message: String,
    /// Whether objects that were good before are still in force because of it.
    pub keeps_last_good: bool,
}

/// A source's state, published through a `watch` channel.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct SourceStatus {
    /// Whether events arrive (the directory is watched, the API server answers).
    pub connected: bool,
    /// Since when what happens is not seen, where it is not.
    pub blind_since: Option<SystemTime>,
    /// The cluster, or a part of it, is as an earlier run recorded it.
    pub from_snapshot: bool,
    /// When the last event arrived.
    pub last_event: Option<SystemTime>,
    /// Problems that stand now, sorted.
    pub problems: Vec<SourceProblem>,
    /// Objects that were left out on purpose, with the reason: kinds that edgelb does not read.
    pub ignored: Vec<String>,
}
