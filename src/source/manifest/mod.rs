//! A directory of manifests as a source: `*.yaml`, `*.yml` and `*.json` with Service,
//! `EndpointSlice`, `Endpoints` and Node. What is broken in a file never takes down what worked.
//!
//! `scan` reads files, `text` and `parse` make objects of them, `state` and `merge` keep what is in
//! force, `watch` does all of it whenever the directory changes.

mod located;
mod merge;
pub mod parse;
mod pending;
pub mod scan;
pub mod state;
pub mod text;
pub mod watch;

#[cfg(test)]
mod parse_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use self::scan::{Directory, DirectoryError, Look};
use self::state::ManifestState;
use super::SourceProblem;
use crate::model::cluster::ClusterChange;

pub use self::watch::run;

/// A directory and the objects of its files.
#[derive(Debug)]
pub struct ManifestSource {
    directory: Directory,
    state: ManifestState,
}

impl ManifestSource {
    /// Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            directory: Directory::new(path),
            state: ManifestState::default(),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The objects, and what they do in time.
    pub fn state(&mut self) -> &mut ManifestState {
        &mut self.state
    }

    /// Reads what has changed and answers with what that changes. Files that are being `written`
    /// are left alone.
    ///
    /// # Errors
    /// The directory is not there or cannot be read. Everything stays as it is then.
    pub fn look(
        &mut self,
        look: &Look,
        written: &BTreeSet<String>,
        now: Instant,
    ) -> Result<Vec<ClusterChange>, DirectoryError> {
        let names = self.directory.names(look, written)?;
        let directory = &mut self.directory;
        let contents = names.into_iter().filter_map(|name| {
            let content = directory.read(&name, look)?;
            Some((name, content))
        });
        Ok(self.state.update(contents, now))
    }

    /// The problems that stand, sorted.
    pub fn problems(&self) -> Vec<SourceProblem> {
        let mut problems = self.state.problems();
        problems.extend_from_slice(self.directory.problems());
        problems.sort();
        problems
    }

    /// What was left out on purpose.
    pub fn ignored(&self) -> Vec<String> {
        self.state.ignored()
    }
}

/// Reads a directory once: everything in it as changes to an empty cluster, and the problems. A
/// directory that cannot be read is a problem too.
pub fn read_directory(path: &Path) -> (Vec<ClusterChange>, Vec<SourceProblem>) {
    let (changes, problems, _) = read_all(path);
    (changes, problems)
}

/// The same, and what was left out on purpose.
pub fn read_all(path: &Path) -> (Vec<ClusterChange>, Vec<SourceProblem>, Vec<String>) {
    let mut source = ManifestSource::new(path.to_owned());
    match source.look(&Look::everything(), &BTreeSet::new(), Instant::now()) {
        Ok(_) => (
            source.state.everything(),
            source.problems(),
            source.ignored(),
        ),
        Err(error) => (
            Vec::new(),
            vec![directory_problem(&error, false)],
            Vec::new(),
        ),
    }
}

fn directory_problem(error: &DirectoryError, keeps_last_good: bool) -> SourceProblem {
    SourceProblem {
        file: error.path.display().to_string(),
        line: None,
        field: None,
        message: error.to_string(),
        keeps_last_good,
    }
}
