//! One thing that is wrong with a configuration file, and where, and what to write instead.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Whether the file can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warning,
}

/// Where a value stands; a key that the file leaves out has its table's place or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Such as `pool[1].addresses[0]`.
    pub key: String,
    /// Counted from 1.
    pub line: Option<usize>,
    /// In characters, counted from 1.
    pub column: Option<usize>,
}

impl Location {
    /// A key that stands nowhere in the file.
    pub fn of_key(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            line: None,
            column: None,
        }
    }

    /// This place, for a key below it or beside it.
    #[must_use]
    pub fn with_key(&self, key: String) -> Self {
        Self { key, ..*self }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    pub at: Location,
}

/// One error or warning; its texts hold no control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub level: Level,
    /// Empty when the problem is not with one key.
    pub key: String,
    pub line: Option<usize>,
    pub column: Option<usize>,
    pub message: String,
    /// What to write instead, as it would stand in the file.
    pub suggestion: Option<String>,
}

impl Problem {
    pub fn new(level: Level, at: &Location, message: &str, suggestion: Option<&str>) -> Self {
        Self {
            level,
            key: shortened(&printable(&at.key)),
            line: at.line,
            column: at.column,
            message: shortened(&printable(message)),
            suggestion: suggestion
                .filter(|text| text.len() <= LONGEST_TEXT)
                .map(printable),
        }
    }

    pub fn error(at: &Location, refusal: &Refusal) -> Self {
        Self::new(
            Level::Error,
            at,
            &refusal.message,
            refusal.suggestion.as_deref(),
        )
    }

    pub fn warning(at: &Location, refusal: &Refusal) -> Self {
        Self::new(
            Level::Warning,
            at,
            &refusal.message,
            refusal.suggestion.as_deref(),
        )
    }

    /// `FILE:LINE: error: key: message; write: suggestion`, in which what is not known is left out.
    ///
    /// A syntax error has no key, so that its column is the finest that can be said: it follows the line.
    pub fn describe(&self, file: &Path) -> String {
        let file = file.display();
        let place = match (self.line, self.column) {
            (Some(line), Some(column)) if self.key.is_empty() => format!("{file}:{line}:{column}"),
            (Some(line), _) => format!("{file}:{line}"),
            (None, _) => file.to_string(),
        };
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
        };
        let key = if self.key.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.key)
        };
        let suggestion = self
            .suggestion
            .as_ref()
            .map(|text| format!("; write: {text}"))
            .unwrap_or_default();
        format!("{place}: {level}: {key}{}{suggestion}", self.message)
    }
}

/// What is wrong with a value, before it is known where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub message: String,
    pub suggestion: Option<String>,
}

impl Refusal {
    pub fn new(message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            suggestion: None,
        }
    }

    /// `text` as it would stand in the file, quotes included.
    #[must_use]
    pub fn write(mut self, text: impl fmt::Display) -> Self {
        self.suggestion = Some(text.to_string());
        self
    }

    #[must_use]
    pub fn write_maybe(mut self, text: Option<String>) -> Self {
        self.suggestion = text;
        self
    }
}

/// The file cannot be used. Holds its warnings too, in file order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Invalid {
    pub file: PathBuf,
    pub problems: Vec<Problem>,
}

impl Invalid {
    fn lines(&self) -> String {
        self.problems
            .iter()
            .map(|problem| problem.describe(&self.file))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// Longer texts are cut: a value may be as long as the file.
const LONGEST_TEXT: usize = 600;

fn shortened(text: &str) -> String {
    let kept: String = text.chars().take(LONGEST_TEXT).collect();
    if kept.len() < text.len() {
        kept + "…"
    } else {
        kept
    }
}

/// A TOML basic string.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    printable(&quoted)
}

/// Escapes what would move a terminal's cursor or hide text: the file is not trusted.
fn printable(text: &str) -> String {
    let escape = |character: char| {
        if is_deceptive(character) {
            format!("\\u{:04X}", u32::from(character))
        } else {
            character.to_string()
        }
    };
    text.chars().map(escape).collect()
}

/// Control characters, and those that reorder or hide the text around them.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The nearest of the candidates by edit distance, if it is near enough to be what was meant.
pub fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    /// No name that is longer was meant to be a known one; the distance costs the product of lengths.
    const LONGEST_NAME: usize = 64;
    if text.len() > LONGEST_NAME {
        return None;
    }
    let normal = |text: &str| text.to_lowercase().replace('-', "_");
    let text = normal(text);
    let near = |candidate: &'c str| {
        let known = normal(candidate);
        let length = known.len().max(text.len());
        let distance = strsim::osa_distance(&text, &known);
        // "warning" for "warn": the rest of the word does not make it another one.
        let begins = known.len() >= 4 && text.starts_with(&known);
        let near = begins || (distance < length && distance <= (length / 3).max(1));
        near.then_some((distance, candidate))
    };
    candidates
        .into_iter()
        .filter_map(near)
        .min()
        .map(|(_, candidate)| candidate)
}
