//! Another load balancer's objects into the configuration that does the same: pools, interfaces, the
//! class that is answered to. What has no equivalent is named, never dropped in silence.
//!
//! Pure: reads no file and no cluster.

mod draft;
mod kube_vip;
mod metallb;
mod objects;
mod services;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use self::draft::Draft;
use self::objects::Object;
use crate::config::{self, Environment};

/// What is moved away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `IPAddressPool`, `L2Advertisement` and what else belongs to it, also its old `ConfigMap`.
    MetalLb,
    /// The `ConfigMap` of its cloud provider, and the environment of its pods.
    KubeVip,
}

/// A file of objects.
#[derive(Debug, Clone)]
pub struct Input {
    /// Its name in messages; `.json` at its end means JSON.
    pub name: String,
    /// What it holds: YAML or JSON, `List`s of objects too.
    pub bytes: Vec<u8>,
}

/// How much a note matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// It is not done, or done otherwise: to be decided by a person.
    Lost,
    /// It is as it was, for a reason that is worth knowing.
    Kept,
}

/// Something to know about one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// How much it matters.
    pub weight: Weight,
    /// `IPAddressPool metallb-system/main (pools.yaml:3)`.
    pub object: String,
    /// What, and what to do.
    pub text: String,
}

/// The configuration and what is to be known about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Migration {
    /// A file for `edgelb check`, with the notes as comments at its top.
    pub toml: String,
    /// How many pools it has.
    pub pools: usize,
    /// What has no equivalent first.
    pub notes: Vec<Note>,
}

/// Why a file cannot be read at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {message}")]
pub struct UnreadableError {
    /// Its name.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// Reads the objects and writes the configuration.
///
/// # Errors
/// Where a file is not YAML or JSON: a part of what there was would be lost.
pub fn migrate(origin: Origin, inputs: &[Input]) -> Result<Migration, UnreadableError> {
    let mut objects = Vec::new();
    for input in inputs {
        objects.extend(objects::read(input)?);
    }
    let mut draft = Draft::default();
    match origin {
        Origin::MetalLb => metallb::read(&objects, &mut draft),
        Origin::KubeVip => kube_vip::read(&objects, &mut draft),
    }
    services::read(&objects, origin, &mut draft);
    Ok(finish(draft))
}

/// Writes the file, and lets it be judged as `edgelb check` would.
fn finish(mut draft: Draft) -> Migration {
    let problems = match config::parse(&draft.write(), &Environment::default()) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    };
    // The host's name is not known here, and a file without a pool is the command's to tell of.
    let expected = |key: &str| matches!(key, "node.name" | "pool");
    for problem in problems.iter().filter(|problem| !expected(&problem.key)) {
        let remedy = problem.suggestion.as_deref();
        let remedy = remedy.map_or(String::new(), |text| format!("; write {text}"));
        draft.notes.insert(Note {
            weight: Weight::Lost,
            object: problem.key.clone(),
            text: format!("{}{remedy}", problem.message),
        });
    }
    let body = draft.write();
    Migration {
        toml: format!("{}{body}", comments(&draft.notes)),
        pools: draft.pools.len(),
        notes: draft.notes.into_iter().collect(),
    }
}

fn comments(notes: &BTreeSet<Note>) -> String {
    let mut text = String::new();
    let parts = [
        (Weight::Lost, "To be decided: this has no equivalent."),
        (Weight::Kept, "Good to know."),
    ];
    for (weight, title) in parts {
        let mut those = notes.iter().filter(|note| note.weight == weight).peekable();
        if those.peek().is_none() {
            continue;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {title}");
        for note in those {
            let _ = writeln!(text, "# - {}: {}", note.object, note.text);
        }
        text.push_str("#\n");
    }
    text
}

/// What is to be said about an object.
fn note(object: &Object, weight: Weight, text: impl Into<String>) -> Note {
    Note {
        weight,
        object: object.to_string(),
        text: printable(&text.into()),
    }
}

/// On one line, and nothing that a terminal would obey.
fn printable(text: &str) -> String {
    let shown = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text.chars().map(shown).collect()
}
