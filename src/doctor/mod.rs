//! What keeps this node from working, and how to mend it: sections of findings, a line each. Looks
//! and asks; changes nothing.
//!
//! A section is a file with one function that gives its findings; `examine` is the list of them.

mod api_access;

use serde::Serialize;

use crate::config::Config;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Whether the API server answers, and what this node may do there.
    ApiAccess,
}

impl Section {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiAccess => "api-access",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Worth knowing, and nothing to mend.
    Info,
    /// Works, but not as it should.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub section: Section,
    pub level: Level,
    /// One line.
    pub message: String,
    /// What to do about it, one line; never `None` with a problem.
    pub remedy: Option<String>,
}

/// Looks at everything there is to look at with this configuration.
pub async fn examine(config: &Config) -> Vec<Finding> {
    api_access::examine(config).await
}
