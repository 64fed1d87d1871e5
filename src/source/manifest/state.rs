//! What the directory's files say together: which object of which file is in force, what changed,
//! and which problems stand. Pure: the time is given, and nothing is read here.
//!
//! The rules that keep working Services up:
//! - A file with a document that cannot be read keeps its last good objects, as a whole.
//! - A file that is gone, or empty, keeps them for [`GRACE`]: editors and tools take files away and
//!   put them back.
//! - An object that stands in several files stays with the file that it is in force from, so that no
//!   new file takes it over; else it is taken from the first file by name. A file that is gone comes
//!   after all that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::merge::Merged;
use super::parse::{Document, ManifestObject, ObjectKey, Parsed, Problem, parse};
use crate::model::cluster::ClusterChange;
use crate::source::SourceProblem;

/// How long the objects of a file stay that is gone or empty.
pub const GRACE: Duration = Duration::from_secs(2);
/// The most ignored objects that are told of in all.
const MOST_IGNORED: usize = 200;

/// What was found in place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its bytes.
    Bytes(Vec<u8>),
    /// It is there and cannot be read: why.
    Unreadable(String),
    /// It is not there.
    Gone,
}

#[derive(Debug, Default)]
struct FileObjects {
    /// In force, or would be if no earlier file had the same object.
    objects: BTreeMap<ObjectKey, Document>,
    problems: Vec<Problem>,
    ignored: Vec<String>,
    /// `objects` are those of an earlier reading.
    keeps_last_good: bool,
    /// Some document of this file has never been read, so `objects` never was all of it.
    partial: bool,
    /// When the file was first seen gone or empty.
    gone_since: Option<Instant>,
}

/// The objects of all files of a directory.
#[derive(Debug, Default)]
pub struct ManifestState {
    files: BTreeMap<String, FileObjects>,
    /// The files that have an object with this key.
    providers: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// The file that the object in force is from, where several have it.
    holders: BTreeMap<ObjectKey, String>,
    merged: Merged,
}

impl ManifestState {
    /// Takes in what was found in place of files and answers with what that changes. All of it is
    /// one edit: an object that moves from one file to another is never gone in between.
    pub fn update(
        &mut self,
        contents: impl IntoIterator<Item = (String, Content)>,
        now: Instant,
    ) -> Vec<ClusterChange> {
        let mut dirty = BTreeSet::new();
        for (file, content) in contents {
            match content {
                Content::Bytes(bytes) => {
                    let parsed = parse(&file, &bytes);
                    if parsed.is_empty() {
                        self.gone(&file, now, &mut dirty);
                    } else {
                        self.parsed(&file, parsed, &mut dirty);
                    }
                }
                Content::Unreadable(why) => self.unreadable(&file, why, &mut dirty),
                Content::Gone => self.gone(&file, now, &mut dirty),
            }
        }
        self.merge(&dirty)
    }

    /// Lets go of the files that have been gone for [`GRACE`], but not of those that are just being
    /// written again.
    pub fn expire(&mut self, now: Instant, written: &BTreeSet<String>) -> Vec<ClusterChange> {
        let over: Vec<String> = self
            .expiries(written)
            .filter(|(_, at)| *at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        let mut dirty = BTreeSet::new();
        for name in over {
            self.set_objects(&name, BTreeMap::new(), &mut dirty);
            self.files.remove(&name);
        }
        self.merge(&dirty)
    }

    /// When [`Self::expire`] will have something to do.
    pub fn next_expiry(&self, written: &BTreeSet<String>) -> Option<Instant> {
        self.expiries(written).map(|(_, at)| at).min()
    }

    fn expiries<'a>(
        &'a self,
        written: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a String, Instant)> {
        self.files
            .iter()
            .filter(|(name, _)| !written.contains(*name))
            .filter_map(|(name, known)| Some((name, known.gone_since? + GRACE)))
    }

    /// Counts the grace of all files that are gone from now on: the directory itself was away.
    pub fn restart_grace(&mut self, now: Instant) {
        for known in self.files.values_mut() {
            if let Some(since) = &mut known.gone_since {
                *since = now;
            }
        }
    }

    /// Whether any object is in force.
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// Everything in force, as changes to an empty cluster.
    pub fn everything(&self) -> Vec<ClusterChange> {
        self.merged.everything()
    }

    /// The problems that stand, sorted.
    pub fn problems(&self) -> Vec<SourceProblem> {
        let mut problems: Vec<SourceProblem> = self
            .files
            .iter()
            .flat_map(|(file, known)| {
                known.problems.iter().map(|problem| SourceProblem {
                    file: file.clone(),
                    line: problem.line,
                    field: problem.field.clone(),
                    message: problem.message.clone(),
                    keeps_last_good: known.keeps_last_good,
                })
            })
            .collect();
        for (key, files) in self.providers.iter().filter(|(_, files)| files.len() > 1) {
            problems.extend(self.duplicates(key, files));
        }
        problems.sort();
        problems
    }

    /// What was left out on purpose, a bounded list.
    pub fn ignored(&self) -> Vec<String> {
        let mut ignored: Vec<String> = self
            .files
            .iter()
            .flat_map(|(file, known)| {
                known
                    .ignored
                    .iter()
                    .map(move |what| format!("{file} {what}"))
            })
            .chain(self.merged.unused_endpoints().map(|key| {
                format!(
                    "{}: the Service has EndpointSlices of its own",
                    ObjectKey::Endpoints(key.clone())
                )
            }))
            .take(MOST_IGNORED + 1)
            .collect();
        if ignored.len() > MOST_IGNORED {
            ignored.truncate(MOST_IGNORED);
            ignored.push("and more".to_owned());
        }
        ignored
    }

    fn duplicates<'a>(
        &'a self,
        key: &'a ObjectKey,
        files: &'a BTreeSet<String>,
    ) -> impl Iterator<Item = SourceProblem> + 'a {
        let holder = self.holder(key);
        files
            .iter()
            .filter(move |name| Some(*name) != holder)
            .filter_map(move |name| {
                let holder = holder?;
                let known = self
                    .files
                    .get(name)
                    .filter(|known| known.gone_since.is_none())?;
                Some(SourceProblem {
                    file: name.clone(),
                    line: known.objects.get(key).map(|document| document.line),
                    field: None,
                    message: format!(
                        "{key} is in force from {holder}: take it out of {holder} or of {name}"
                    ),
                    keeps_last_good: known.keeps_last_good,
                })
            })
    }

    fn parsed(&mut self, file: &str, parsed: Parsed, dirty: &mut BTreeSet<ObjectKey>) {
        let known = self.files.entry(file.to_owned()).or_default();
        let returned = known.gone_since.take().is_some();
        known.problems = parsed.problems;
        known.ignored = parsed.ignored;
        known.keeps_last_good = parsed.broken && !known.objects.is_empty();
        if returned {
            dirty.extend(known.objects.keys().cloned());
        }
        let objects = match (parsed.broken, known.partial || known.objects.is_empty()) {
            (false, _) => {
                known.partial = false;
                parsed.objects
            }
            // Good once, broken now: its last good objects stay as they are.
            (true, false) => return,
            // Never good as a whole: what can be read is used, and what could be read stays.
            (true, true) => {
                known.partial = true;
                let mut objects = known.objects.clone();
                objects.extend(parsed.objects);
                objects
            }
        };
        self.set_objects(file, objects, dirty);
    }

    fn unreadable(&mut self, file: &str, why: String, dirty: &mut BTreeSet<ObjectKey>) {
        let known = self.files.entry(file.to_owned()).or_default();
        known.gone_since = None;
        known.keeps_last_good = !known.objects.is_empty();
        known.problems = vec![Problem {
            line: None,
            field: None,
            message: why,
        }];
        dirty.extend(known.objects.keys().cloned());
    }

    fn gone(&mut self, file: &str, now: Instant, dirty: &mut BTreeSet<ObjectKey>) {
        let Some(known) = self.files.get_mut(file) else {
            return;
        };
        if known.objects.is_empty() {
            self.files.remove(file);
            return;
        }
        if known.gone_since.is_none() {
            known.gone_since = Some(now);
            known.problems.clear();
            known.ignored.clear();
            known.keeps_last_good = false;
            // Another file that has the same object comes first from now on.
            dirty.extend(known.objects.keys().cloned());
        }
    }

    fn set_objects(
        &mut self,
        file: &str,
        objects: BTreeMap<ObjectKey, Document>,
        dirty: &mut BTreeSet<ObjectKey>,
    ) {
        let Some(known) = self.files.get_mut(file) else {
            return;
        };
        let old = std::mem::replace(&mut known.objects, objects);
        for key in old.keys().filter(|key| !known.objects.contains_key(key)) {
            if let Some(files) = self.providers.get_mut(key) {
                files.remove(file);
                if files.is_empty() {
                    self.providers.remove(key);
                }
            }
            dirty.insert(key.clone());
        }
        for (key, document) in &known.objects {
            match old.get(key) {
                Some(before) if before.object == document.object => {}
                Some(_) => {
                    dirty.insert(key.clone());
                }
                None => {
                    let files = self.providers.entry(key.clone()).or_default();
                    files.insert(file.to_owned());
                    dirty.insert(key.clone());
                }
            }
        }
    }

    /// The file that a key's object in force is from.
    fn holder(&self, key: &ObjectKey) -> Option<&String> {
        let holder = self.holders.get(key);
        self.providers
            .get(key)?
            .iter()
            .filter_map(|name| Some((name, self.files.get(name)?)))
            .min_by_key(|(name, known)| (known.gone_since.is_some(), Some(*name) != holder, *name))
            .map(|(name, _)| name)
    }

    fn merge(&mut self, dirty: &BTreeSet<ObjectKey>) -> Vec<ClusterChange> {
        let mut objects: Vec<(&ObjectKey, Option<ManifestObject>)> = Vec::new();
        for key in dirty {
            let Some(holder) = self.holder(key).cloned() else {
                self.holders.remove(key);
                objects.push((key, None));
                continue;
            };
            let object = self
                .files
                .get(&holder)
                .and_then(|known| known.objects.get(key))
                .map(|document| document.object.clone());
            objects.push((key, object));
            self.holders.insert(key.clone(), holder);
        }
        self.merged.apply(objects)
    }
}
