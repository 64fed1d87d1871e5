//! What the walk over a document has found: wrong types, unknown keys, and which keys there are.

use std::collections::BTreeSet;

use super::problem::{Location, Problem, Refusal, nearest};

/// What the walk has found so far.
#[derive(Default)]
pub struct Findings {
    pub problems: Vec<Problem>,
    /// Every key that was asked for, without indices: `pool.name`.
    pub known: BTreeSet<String>,
    unknown: Vec<(Location, Vec<&'static str>)>,
}

impl Findings {
    /// A key that its table did not ask for, and those that it did.
    pub fn add_unknown(&mut self, at: Location, siblings: &[&'static str]) {
        self.unknown.push((at, siblings.to_vec()));
    }

    /// Turns the unknown keys into problems, each with the nearest known one.
    pub fn settle_unknown(&mut self, known: &BTreeSet<String>) {
        for (at, siblings) in std::mem::take(&mut self.unknown) {
            let name = last_segment(&at.key);
            let elsewhere = || {
                let same = |key: &&String| last_segment(key).eq_ignore_ascii_case(name);
                known.iter().find(same).map(String::as_str)
            };
            // At the top level a name that is no key is that of a table.
            let written = |name: &str| match name {
                "pool" if !at.key.contains('.') => "[[pool]]".to_owned(),
                name if !at.key.contains('.') => format!("[{name}]"),
                name => name.to_owned(),
            };
            let refusal = match nearest(name, siblings.iter().copied()) {
                Some(sibling) => Refusal::new("unknown key").write(written(sibling)),
                None => match elsewhere() {
                    Some(key) => Refusal::new("unknown key here").write(key),
                    None => {
                        Refusal::new(format!("unknown key (known here: {})", siblings.join(", ")))
                    }
                },
            };
            self.problems.push(Problem::error(&at, &refusal));
        }
    }
}

fn last_segment(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, last)| last)
}
