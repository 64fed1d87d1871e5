//! The lab's directory for configurations, manifests, state and logs: private, removed at the end.
//!
//! A process that is killed cannot remove its directory; so each directory holds a lock file, and the
//! next lab removes those that nobody has locked any more. It never touches any other name.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, io, process};

use super::LabError;

const PREFIX: &str = "edgelb-lab-";
const LOCK: &str = "lock";
/// Names an existing directory for a process whose parent looks after it.
const VARIABLE: &str = "EDGELB_LAB_DIRECTORY";
/// A directory this young may belong to a lab that has not yet locked it.
const SETTLING: Duration = Duration::from_secs(60);

/// A directory below the system's temporary one, or below its parent process's.
#[derive(Debug)]
pub struct LabDirectory {
    path: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

impl LabDirectory {
    /// Makes a new directory, readable by this user only, and removes those of dead labs.
    pub fn create() -> Result<Self, LabError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let base = Self::given_by_parent().unwrap_or_else(env::temp_dir);
        remove_abandoned(&base);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = base.join(format!("{PREFIX}{}-{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Self::lock(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(LabError::File {
                        what: "create",
                        path,
                        source,
                    });
                }
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory in which the parent process wants this one's labs, if it does.
    pub(super) fn given_by_parent() -> Option<PathBuf> {
        env::var_os(VARIABLE).map(PathBuf::from)
    }

    /// The variable that makes a child process build its labs inside of this directory.
    pub fn variable_for_child(&self) -> (&'static str, &Path) {
        (VARIABLE, &self.path)
    }

    fn lock(path: PathBuf) -> Result<Self, LabError> {
        let locked = File::create(path.join(LOCK)).and_then(|file| file.lock().map(|()| file));
        match locked {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err(source) => {
                let _ = fs::remove_dir_all(&path);
                Err(LabError::File {
                    what: "lock",
                    path,
                    source,
                })
            }
        }
    }
}

impl Drop for LabDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lab directory");
        }
    }
}

/// Best effort: what cannot be read or removed belongs to somebody else.
fn remove_abandoned(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_abandoned(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return false;
    };
    let settled = metadata
        .modified()
        .ok()
        .and_then(|time| time.elapsed().ok())
        .is_some_and(|age| age > SETTLING);
    metadata.is_dir()
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && settled
        && File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}
