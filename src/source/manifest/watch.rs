//! The task that keeps an eye on the directory: waits for the kernel's notifications, lets a burst
//! of them end, and sends what has changed. Decides when to look, not what the files mean.
//!
//! ```text
//! inotify ─► notify's thread ─► Hint ─► run() ─► look (on a blocking thread) ─► SourceEvent
//!                                         └────────────────────────────────────► SourceStatus
//! ```
//!
//! The directory itself is watched, not its parents and not where symbolic links lead: files that
//! a link names elsewhere are noticed by the slow look. The swap of a mounted `ConfigMap` happens in
//! the directory itself (`..data`) and is noticed at once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use super::pending::{Hint, Pending, hints};
use super::scan::{Directory, DirectoryError, DirectoryId, Look};
use super::{ManifestSource, directory_problem};
use crate::model::cluster::ClusterChange;
use crate::source::{SourceEvent, SourceProblem, SourceStatus};

/// How long until a directory is tried again that cannot be read.
const RETRY: Duration = Duration::from_millis(200);
/// How often everything is looked at, whatever the notifications say.
const SLOW_LOOK: Duration = Duration::from_secs(30);
/// Hints that may wait; when there are more, everything is looked at.
const MOST_HINTS: usize = 1024;

/// Follows the directory until `stop` says `true` (or its sender or the events' receiver is gone).
/// Sends all that is there, then [`SourceEvent::Complete`], then what changes.
pub async fn run(
    directory: PathBuf,
    events: mpsc::Sender<SourceEvent>,
    status: watch::Sender<SourceStatus>,
    mut stop: watch::Receiver<bool>,
) {
    let follower = Follower {
        path: directory.clone(),
        source: Some(ManifestSource::new(directory)),
        events,
        status,
        complete: false,
        last_event: None,
        problems: Vec::new(),
    };
    tokio::select! {
        () = follower.follow() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Why the following of one directory ended.
enum End {
    /// It cannot be read, or is not the one that is watched any more: begin again.
    Directory(Option<DirectoryProblem>),
    /// Nobody listens any more.
    Deaf,
}

/// What is told of a directory that cannot be followed.
struct DirectoryProblem(SourceProblem);

struct Follower {
    path: PathBuf,
    /// Absent only while a blocking thread has it.
    source: Option<ManifestSource>,
    events: mpsc::Sender<SourceEvent>,
    status: watch::Sender<SourceStatus>,
    /// The first complete list has been sent.
    complete: bool,
    last_event: Option<SystemTime>,
    /// The problems that were logged last.
    problems: Vec<SourceProblem>,
}

impl Follower {
    async fn follow(mut self) {
        loop {
            match self.follow_directory().await {
                End::Deaf => return,
                End::Directory(None) => {}
                End::Directory(Some(DirectoryProblem(problem))) => {
                    self.publish(false, Some(problem));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Follows the directory that stands at the path now. Subscribes first, then lists.
    async fn follow_directory(&mut self) -> End {
        let mut watched = match Watched::new(&self.path) {
            Ok(watched) => watched,
            Err(problem) => return self.away(problem),
        };
        if let Some(source) = &mut self.source {
            source.state().restart_grace(Instant::now());
        }
        let mut pending = Pending::default();
        pending.note(Hint::Everything, Instant::now());
        let mut next_slow_look = Instant::now() + SLOW_LOOK;
        loop {
            let expiry = self
                .source
                .as_mut()
                .and_then(|source| source.state().next_expiry(&pending.written()));
            let wake = [pending.due(), expiry]
                .into_iter()
                .flatten()
                .fold(next_slow_look, Instant::min);
            tokio::select! {
                hint = watched.hints.recv() => match hint {
                    Some(Hint::Directory) | None => return End::Directory(None),
                    Some(hint) => pending.note(hint, Instant::now()),
                },
                () = sleep_until(wake.into()) => {
                    let now = Instant::now();
                    if watched.overflowed.swap(false, Ordering::Relaxed) || now >= next_slow_look {
                        pending.note(Hint::Everything, now);
                    }
                    let look = pending.take(now);
                    if look.all {
                        next_slow_look = now + SLOW_LOOK;
                    }
                    if let Err(end) = self.look(look, pending.written(), watched.id).await {
                        return end;
                    }
                }
            }
        }
    }

    fn away(&self, mut problem: SourceProblem) -> End {
        problem.keeps_last_good = self.complete;
        End::Directory(Some(DirectoryProblem(problem)))
    }

    async fn look(
        &mut self,
        look: Look,
        written: BTreeSet<String>,
        watched: DirectoryId,
    ) -> Result<(), End> {
        let Some(source) = self.source.take() else {
            return Err(End::Deaf);
        };
        let first = look.all && !self.complete;
        let task = tokio::task::spawn_blocking(move || {
            let mut source = source;
            let changes = look_and_expire(&mut source, &look, &written);
            (source, changes)
        });
        let (source, changes) = match task.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => return Err(End::Deaf),
            },
        };
        self.source = Some(source);
        let (changes, id) = changes.map_err(|error| self.away(directory_problem(&error, true)))?;
        if first || !changes.is_empty() {
            self.last_event = Some(SystemTime::now());
        }
        self.publish(true, None);
        if !changes.is_empty() {
            self.send(SourceEvent::Changes(changes)).await?;
        }
        if first {
            self.complete = true;
            self.send(SourceEvent::Complete).await?;
        }
        if id == watched {
            Ok(())
        } else {
            Err(End::Directory(None))
        }
    }

    async fn send(&self, event: SourceEvent) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Deaf)
    }

    /// Publishes the status, and logs the problems that have come and gone since the last time.
    fn publish(&mut self, connected: bool, directory: Option<SourceProblem>) {
        let Some(source) = &self.source else { return };
        let mut problems = source.problems();
        problems.extend(directory);
        problems.sort();
        for problem in &problems {
            if self.problems.binary_search(problem).is_err() {
                tracing::warn!(
                    file = problem.file,
                    line = problem.line,
                    field = problem.field,
                    error = problem.message,
                    keeps_last_good = problem.keeps_last_good,
                    "manifest problem"
                );
            }
        }
        for problem in &self.problems {
            if problems.binary_search(problem).is_err() {
                tracing::info!(
                    file = problem.file,
                    error = problem.message,
                    "manifest problem gone"
                );
            }
        }
        self.problems.clone_from(&problems);
        let blind_since = (!connected).then(|| {
            let known = self.status.borrow().blind_since;
            known.unwrap_or_else(SystemTime::now)
        });
        let new = SourceStatus {
            connected,
            blind_since,
            from_snapshot: false,
            last_event: self.last_event,
            problems,
            ignored: source.ignored(),
        };
        self.status.send_if_modified(|status| {
            let differs = *status != new;
            *status = new;
            differs
        });
    }
}

fn look_and_expire(
    source: &mut ManifestSource,
    look: &Look,
    written: &BTreeSet<String>,
) -> Result<(Vec<ClusterChange>, DirectoryId), DirectoryError> {
    // Asked first: if the directory is replaced while it is read, the next round sees that.
    let id = Directory::id(source.path())?;
    let now = Instant::now();
    let mut changes = source.look(look, written, now)?;
    changes.extend(source.state().expire(now, written));
    Ok((changes, id))
}

/// A watch on a directory: dropped, it ends.
struct Watched {
    id: DirectoryId,
    hints: mpsc::Receiver<Hint>,
    overflowed: Arc<AtomicBool>,
    _watcher: RecommendedWatcher,
}

impl Watched {
    fn new(path: &Path) -> Result<Self, SourceProblem> {
        let id = Directory::id(path).map_err(|error| directory_problem(&error, true))?;
        let (sender, hints_received) = mpsc::channel(MOST_HINTS);
        let overflowed = Arc::new(AtomicBool::new(false));
        let directory = path.to_owned();
        let full = overflowed.clone();
        let cannot = |error: notify::Error| SourceProblem {
            file: path.display().to_string(),
            line: None,
            field: None,
            message: format!("cannot watch the manifest directory: {error}"),
            keeps_last_good: true,
        };
        let mut watcher = notify::recommended_watcher(move |event| {
            for hint in hints(&directory, event) {
                if sender.try_send(hint).is_err() {
                    full.store(true, Ordering::Relaxed);
                }
            }
        })
        .map_err(cannot)?;
        watcher
            .watch(path, RecursiveMode::NonRecursive)
            .map_err(cannot)?;
        Ok(Self {
            id,
            hints: hints_received,
            overflowed,
            _watcher: watcher,
        })
    }
}
