//! What could not be used of the objects of the API server, as the problems that stand now. Bounded:
//! a cluster full of mistakes must not fill this node's memory.

use std::collections::BTreeMap;

use super::address::shorten;
use super::convert::Ignored;
use super::kind::{ObjectKey, Read, Watched};
use crate::source::SourceProblem;

/// Objects whose problems are kept.
const MOST_OBJECTS: usize = 500;
/// Problems kept of one object.
const MOST_OF_ONE: usize = 10;
/// Services left out on purpose that are told.
const MOST_IGNORED: usize = 250;

/// The problems by object.
#[derive(Debug, Default)]
pub(super) struct Problems {
    objects: BTreeMap<(Watched, ObjectKey), Vec<SourceProblem>>,
    /// Whether some were left out because there are too many.
    more: bool,
    /// Services left out on purpose, and why.
    ignored: BTreeMap<ObjectKey, Ignored>,
}

impl Problems {
    /// Takes in what an object says now, in place of what it said before. `kept`: an older state of
    /// it stays in force.
    pub(super) fn object(&mut self, watched: Watched, read: &Read, kept: bool) {
        let place = place(watched, &read.key);
        let problem = |field: Option<String>, message: String, kept: bool| SourceProblem {
            file: place.clone(),
            line: None,
            field,
            message,
            keeps_last_good: kept,
        };
        let mut problems: Vec<SourceProblem> = read
            .notes
            .iter()
            .take(MOST_OF_ONE)
            .map(|note| problem(Some(note.field.clone()), note.message.clone(), false))
            .collect();
        if let Err(error) = &read.change {
            problems.push(problem(
                None,
                format!("it cannot be read: {}", shorten(error)),
                kept,
            ));
        }
        self.replace(watched, &read.key, problems);
        match &read.ignored {
            Some(reason) => {
                self.ignored.insert(read.key.clone(), reason.clone());
            }
            None => self.include(watched, &read.key),
        }
    }

    /// An object without a readable name.
    pub(super) fn nameless(&mut self, watched: Watched, error: &str) {
        let key = ObjectKey {
            namespace: String::new(),
            name: String::new(),
        };
        let problem = SourceProblem {
            file: watched.to_string(),
            line: None,
            field: None,
            message: format!(
                "an object without a readable name is left out: {}",
                shorten(error)
            ),
            keeps_last_good: true,
        };
        self.replace(watched, &key, vec![problem]);
    }

    /// The object is gone.
    pub(super) fn forget(&mut self, watched: Watched, key: &ObjectKey) {
        self.replace(watched, key, Vec::new());
        self.include(watched, key);
    }

    fn include(&mut self, watched: Watched, key: &ObjectKey) {
        if watched == Watched::Services {
            self.ignored.remove(key);
        }
    }

    /// Services that were left out on purpose, with the reason: a bounded list.
    pub(super) fn ignored(&self) -> Vec<String> {
        let told = (self.ignored.iter()).map(|(key, reason)| format!("Service {key}: {reason}"));
        let mut told: Vec<String> = told.take(MOST_IGNORED).collect();
        if self.ignored.len() > MOST_IGNORED {
            told.push("and more".to_owned());
        }
        told
    }

    /// Keeps those of a kind for which this holds.
    pub(super) fn retain(&mut self, watched: Watched, mut holds: impl FnMut(&ObjectKey) -> bool) {
        self.objects
            .retain(|(of, key), _| *of != watched || holds(key));
        if watched == Watched::Services {
            self.ignored.retain(|key, _| holds(key));
        }
    }

    fn replace(&mut self, watched: Watched, key: &ObjectKey, problems: Vec<SourceProblem>) {
        let key = (watched, key.clone());
        if problems.is_empty() {
            if self.objects.remove(&key).is_some() && self.objects.is_empty() {
                self.more = false;
            }
        } else if self.objects.len() < MOST_OBJECTS || self.objects.contains_key(&key) {
            for problem in &problems {
                tracing::debug!(
                    object = problem.file,
                    field = problem.field,
                    error = problem.message,
                    "object has a problem"
                );
            }
            self.objects.insert(key, problems);
        } else {
            self.more = true;
        }
    }

    /// All of them.
    pub(super) fn list(&self) -> Vec<SourceProblem> {
        let mut list: Vec<SourceProblem> = self.objects.values().flatten().cloned().collect();
        if self.more {
            list.push(SourceProblem {
                file: "cluster".to_owned(),
                line: None,
                field: None,
                message: format!(
                    "more than {MOST_OBJECTS} objects have problems; those of the others are not listed"
                ),
                keeps_last_good: false,
            });
        }
        list
    }
}

fn place(watched: Watched, key: &ObjectKey) -> String {
    let kind = match watched {
        Watched::Services => "Service",
        Watched::EndpointSlices => "EndpointSlice",
        Watched::Nodes => "Node",
        Watched::Namespaces => "Namespace",
        Watched::ServiceCidrs => "ServiceCIDR",
    };
    format!("{kind} {key}")
}
