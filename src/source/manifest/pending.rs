//! What the kernel's notifications ask to be looked at, and when. Pure but for one question to the
//! file system: whether a new name is a link, which nobody will write to.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind};

use super::scan::{Look, is_manifest};

/// A look begins when nothing has happened for this long,
const QUIET: Duration = Duration::from_millis(5);
/// or this long after the first thing that happened.
const LONGEST_BURST: Duration = Duration::from_millis(50);
/// A file that somebody has open and writes to is read once it is closed, or once nothing has been
/// written for this long.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(2);

/// What one notification says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// Anything may have changed.
    Everything,
    /// The directory itself has changed or is gone: the watch may see nothing any more.
    Directory,
    /// Another file stands there now, or none.
    Replaced(String),
    /// Something of the file has changed, such as who may read it.
    Touched(String),
    /// Somebody writes to the file and has not closed it.
    Writing(String),
    /// Somebody who could write to the file has closed it.
    Closed(String),
}

/// What a notification of this directory asks for.
pub fn hints(directory: &Path, event: notify::Result<Event>) -> Vec<Hint> {
    let Ok(event) = event else {
        return vec![Hint::Everything];
    };
    let make: fn(String) -> Hint = match event.kind {
        _ if event.need_rescan() || event.paths.is_empty() => return vec![Hint::Everything],
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint::Closed,
        EventKind::Access(_) => return Vec::new(),
        EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(CreateKind::File) => {
            Hint::Writing
        }
        EventKind::Modify(ModifyKind::Metadata(_)) => Hint::Touched,
        _ => Hint::Replaced,
    };
    let created = matches!(event.kind, EventKind::Create(_));
    let mut hints = Vec::new();
    for path in &event.paths {
        let Some(name) = path.file_name().filter(|_| path != directory) else {
            hints.push(Hint::Directory);
            continue;
        };
        match name.to_str() {
            Some(name) if is_manifest(name) => {
                // A new link to a file that is there already is never closed, as it is never opened.
                let linked = created
                    && fs::symlink_metadata(path)
                        .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1);
                let name = name.to_owned();
                hints.push(if linked {
                    Hint::Replaced(name)
                } else {
                    make(name)
                });
            }
            // The swap of a mounted `ConfigMap`, and names that are not text.
            Some(name) if !name.starts_with("..") => {}
            _ => hints.push(Hint::Everything),
        }
    }
    hints
}

/// What is to be looked at, and since when.
#[derive(Debug, Default)]
pub struct Pending {
    all: bool,
    names: BTreeSet<String>,
    /// Files that are being written, and when something was last written.
    writing: BTreeMap<String, Instant>,
    /// The first and the last time that something happened since the last look.
    burst: Option<(Instant, Instant)>,
}

impl Pending {
    /// Takes a hint in.
    pub fn note(&mut self, hint: Hint, now: Instant) {
        match hint {
            Hint::Everything | Hint::Directory => self.all = true,
            Hint::Writing(name) => {
                self.writing.insert(name.clone(), now);
                self.names.insert(name);
                return;
            }
            Hint::Closed(name) | Hint::Replaced(name) => {
                self.writing.remove(&name);
                self.names.insert(name);
            }
            Hint::Touched(name) => {
                self.names.insert(name);
            }
        }
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    /// When to look next.
    pub fn due(&self) -> Option<Instant> {
        let burst = self
            .burst
            .map(|(first, last)| (last + QUIET).min(first + LONGEST_BURST));
        let patience = self.writing.values().min().map(|at| *at + WRITE_PATIENCE);
        match (burst, patience) {
            (Some(burst), Some(patience)) => Some(burst.min(patience)),
            (burst, patience) => burst.or(patience),
        }
    }

    /// What to look at now. Files that are being written wait for a later look.
    pub fn take(&mut self, now: Instant) -> Look {
        self.writing.retain(|_, at| *at + WRITE_PATIENCE > now);
        self.burst = None;
        let names = std::mem::take(&mut self.names);
        let (later, names) = names
            .into_iter()
            .partition(|name| self.writing.contains_key(name));
        self.names = later;
        Look {
            all: std::mem::take(&mut self.all),
            names,
        }
    }

    /// The files that are being written.
    pub fn written(&self) -> BTreeSet<String> {
        self.writing.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn name() -> String {
        "web.yaml".to_owned()
    }

    #[test]
    fn a_burst_ends_after_quiet_or_when_it_gets_too_long() {
        let start = Instant::now();
        let mut pending = Pending::default();
        assert_eq!(pending.due(), None);
        for step in 0..200 {
            let now = start + MILLISECOND * step;
            pending.note(Hint::Replaced(name()), now);
            assert_eq!(
                pending.due(),
                Some((now + QUIET).min(start + LONGEST_BURST))
            );
        }
        let look = pending.take(start + MILLISECOND * 200);
        assert_eq!((look.all, look.names), (false, BTreeSet::from([name()])));
        assert_eq!(pending.due(), None);
        assert_eq!(pending.take(start), Look::default());
    }

    #[test]
    fn a_file_that_is_being_written_waits_for_its_end_or_for_patience() {
        let start = Instant::now();
        let mut pending = Pending::default();
        pending.note(Hint::Writing(name()), start);
        pending.note(Hint::Touched(name()), start + MILLISECOND);
        pending.note(Hint::Everything, start + MILLISECOND);
        let look = pending.take(start + MILLISECOND * 10);
        assert_eq!((look.all, look.names.len()), (true, 0));
        assert_eq!(pending.written(), BTreeSet::from([name()]));
        assert_eq!(pending.due(), Some(start + WRITE_PATIENCE));

        let mut closed = Pending::default();
        closed.note(Hint::Writing(name()), start);
        closed.note(Hint::Closed(name()), start + MILLISECOND);
        assert_eq!(closed.due(), Some(start + MILLISECOND + QUIET));
        assert_eq!(closed.take(start + QUIET * 2).names.len(), 1);

        let look = pending.take(start + WRITE_PATIENCE);
        assert_eq!((look.all, look.names.len()), (false, 1), "patience is over");
        assert_eq!(pending.written().len(), 0);
        assert_eq!(pending.due(), None);
    }

    #[test]
    fn reading_is_no_event_and_the_directory_is_one_of_its_own() {
        let directory = Path::new("/nonexistent/manifests");
        let of = |kind: EventKind, path: &str| {
            hints(
                directory,
                Ok(Event::new(kind).add_path(directory.join(path))),
            )
        };
        let read = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let replaced = EventKind::Modify(ModifyKind::Name(notify::event::RenameMode::To));
        assert_eq!(of(read, "web.yaml"), []);
        assert_eq!(of(replaced, "web.yaml"), [Hint::Replaced(name())]);
        assert_eq!(of(replaced, ".web.yaml.swp"), []);
        assert_eq!(of(replaced, "notes.txt"), []);
        assert_eq!(of(replaced, "..data"), [Hint::Everything]);
        let gone = Event::new(replaced).add_path(directory.to_owned());
        assert_eq!(hints(directory, Ok(gone)), [Hint::Directory]);
        let overflow = Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan);
        assert_eq!(hints(directory, Ok(overflow)), [Hint::Everything]);
        assert_eq!(
            hints(directory, Err(notify::Error::generic("no"))),
            [Hint::Everything]
        );
    }
}
