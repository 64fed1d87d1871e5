//! What this node remembers between two runs of the daemon: allocations, the previous values of
//! sysctls and the list of its virtual servers.
//!
//! Every file survives `kill -9` at any instruction; one that cannot be understood is set aside and
//! reported, never a reason to stop. After a reboot nothing in the kernel is ours, so records about
//! the kernel end with the boot that they were made in. Decides nothing about what is recorded.

mod atomic_file;
pub mod journal;
pub mod peek;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::allocation::Allocations;
use crate::model::cluster::ClusterState;
use crate::model::peer::Claims;
pub use journal::{Journal, VirtualServerName};

const ALLOCATIONS: &str = "allocations.json";
const CLAIMS: &str = "claims.json";
const FAREWELL: &str = "farewell.json";
const SYSCTLS: &str = "sysctls.json";
const TIMEOUTS: &str = "ipvs-timeouts.json";
const CLUSTER: &str = "cluster.json";
const DRAIN: &str = "drain.json";
const BOOT: &str = "boot_id";
const LOCK: &str = "lock";
/// What the kernel calls this boot.
const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// The format of the JSON files.
const VERSION: u32 = 1;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create the state directory {}: make it writable or set node.state_dir", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("the state directory {} can be written by others: chmod 0700 it", path.display())]
    Exposed { path: PathBuf },
    #[error(
        "the state directory {} is in use by {}: stop that process, or set another node.state_dir",
        path.display(),
        process.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
    )]
    InUse { path: PathBuf, process: Option<u32> },
    #[error("cannot lock the state directory with {}", file.display())]
    Lock { file: PathBuf, source: io::Error },
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("cannot write {}", file.display())]
    Write { file: PathBuf, source: io::Error },
    #[error("cannot encode {}", file.display())]
    Encode {
        file: PathBuf,
        source: serde_json::Error,
    },
}

/// A file that could not be understood; the daemon goes on without what it said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} is damaged ({reason}){}",
    file.display(),
    set_aside.as_ref().map_or_else(String::new, |path| format!("; it was kept as {}", path.display()))
)]
pub struct Warning {
    pub file: PathBuf,
    /// Where it is now, if it was kept.
    pub set_aside: Option<PathBuf>,
    pub reason: String,
}

/// One sysctl that we care for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SysctlRecord {
    /// The value before we cared for it.
    pub previous: String,
    /// Every value that we wrote, or were about to write.
    pub ours: BTreeSet<String>,
}

/// All others were told that this node restarts. Times are those of `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Farewell {
    /// When.
    pub at: Duration,
    /// Until when they wait.
    pub until: Duration,
    /// There was nobody to be told.
    pub alone: bool,
}

/// Records of sysctls by path below `/proc/sys`.
pub type SysctlRecords = BTreeMap<String, SysctlRecord>;

/// A JSON file with the version of its format.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    content: T,
}

/// The state directory, locked for this process until it is dropped, or only looked at.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// Absent where nothing is written.
    lock: Option<Flock<File>>,
    /// The records about the kernel are of this boot.
    of_this_boot: bool,
}

impl StateDirectory {
    /// Creates the directory where it is missing (mode 0700) and locks it. Records about the kernel
    /// from before a reboot are discarded.
    pub fn open(path: &Path) -> Result<(Self, Vec<Warning>), Error> {
        let boot = std::fs::read_to_string(KERNEL_BOOT_ID).map_err(|source| Error::Read {
            file: KERNEL_BOOT_ID.into(),
            source,
        })?;
        Self::open_in_boot(path, boot.trim())
    }

    fn open_in_boot(path: &Path, boot: &str) -> Result<(Self, Vec<Warning>), Error> {
        create(path)?;
        let lock = lock(path)?;
        let directory = Self {
            path: path.to_owned(),
            lock: Some(lock),
            of_this_boot: true,
        };
        atomic_file::remove_temporary_files(path).map_err(|source| Error::Read {
            file: path.to_owned(),
            source,
        })?;
        let warnings = directory.end_previous_boot(boot)?;
        Ok((directory, warnings))
    }

    /// Looks at a directory beside the daemon that has it locked, also at one that does not exist. What
    /// is to be written is taken as written and forgotten; nothing is set aside either.
    pub fn look(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
            of_this_boot: peek::of_this_boot(path),
        }
    }

    /// A directory that is not there.
    pub fn nowhere() -> Self {
        Self {
            path: PathBuf::from("/nonexistent"),
            lock: None,
            of_this_boot: false,
        }
    }

    /// Whether what is to be written is.
    pub fn writes(&self) -> bool {
        self.lock.is_some()
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who holds which address. A missing file is no allocations.
    pub fn read_allocations(&self) -> Result<(Allocations, Option<Warning>), Error> {
        self.read(ALLOCATIONS)
    }

    /// Replaces the recorded allocations.
    pub fn write_allocations(&self, allocations: &Allocations) -> Result<(), Error> {
        self.write(ALLOCATIONS, allocations)
    }

    /// What this node owned when it last ran. A missing file is nothing.
    pub fn read_claims(&self) -> Result<(Claims, Option<Warning>), Error> {
        self.read(CLAIMS)
    }

    /// Replaces the recorded claims.
    pub fn write_claims(&self, claims: &Claims) -> Result<(), Error> {
        self.write(CLAIMS, claims)
    }

    /// What the last run left when all others were told that it restarts; `None` where they were not, or
    /// before a reboot. It counts once: what this run does is not foretold by it.
    pub fn take_farewell(&self) -> Result<(Option<Farewell>, Option<Warning>), Error> {
        let taken = self.read(FAREWELL)?;
        atomic_file::remove(&self.path, FAREWELL).map_err(|source| Error::Write {
            file: self.path.join(FAREWELL),
            source,
        })?;
        Ok(taken)
    }

    /// Notes that all others were told that this node restarts.
    pub fn write_farewell(&self, farewell: &Farewell) -> Result<(), Error> {
        self.write(FAREWELL, farewell)
    }

    /// What is known about the sysctls that we care for, by path below `/proc/sys`.
    pub fn read_sysctls(&self) -> Result<(SysctlRecords, Option<Warning>), Error> {
        self.read(SYSCTLS)
    }

    /// Replaces the records of sysctls.
    pub fn write_sysctls(&self, records: &SysctlRecords) -> Result<(), Error> {
        self.write(SYSCTLS, records)
    }

    /// The timeouts of IPVS in seconds (TCP, TCP after FIN, UDP) as they were found, where they were
    /// changed.
    pub fn read_timeouts(&self) -> Result<(Option<[u32; 3]>, Option<Warning>), Error> {
        self.read(TIMEOUTS)
    }

    /// Replaces them; `None` says that they are as they were found.
    pub fn write_timeouts(&self, timeouts: Option<[u32; 3]>) -> Result<(), Error> {
        self.write(TIMEOUTS, timeouts)
    }

    /// Whether this node was asked to give its VIPs up. It outlives reboots: only `undrain` ends it.
    pub fn read_drain(&self) -> Result<(bool, Option<Warning>), Error> {
        self.read(DRAIN)
    }

    /// Replaces that.
    pub fn write_drain(&self, draining: bool) -> Result<(), Error> {
        self.write(DRAIN, draining)
    }

    /// The last complete cluster that a source saw; `None` where none was recorded.
    pub fn read_cluster(&self) -> Result<(Option<ClusterState>, Option<Warning>), Error> {
        self.read(CLUSTER)
    }

    /// Replaces the recorded cluster. It may be tens of megabytes large, so it is never held as text.
    pub fn write_cluster(&self, cluster: &ClusterState) -> Result<(), Error> {
        if !self.writes() {
            return Ok(());
        }
        let versioned = Versioned {
            version: VERSION,
            content: cluster,
        };
        atomic_file::write_with(&self.path, CLUSTER, |file| {
            serde_json::to_writer(file, &versioned).map_err(io::Error::from)
        })
        .map_err(|source| Error::Write {
            file: self.path.join(CLUSTER),
            source,
        })
    }

    /// Discards the records about the kernel, unless they are of this boot.
    fn end_previous_boot(&self, boot: &str) -> Result<Vec<Warning>, Error> {
        let stamp = atomic_file::read(&self.path, BOOT).map_err(|source| Error::Read {
            file: self.path.join(BOOT),
            source,
        })?;
        if stamp.as_deref() == Some(boot.as_bytes()) {
            return Ok(Vec::new());
        }
        // The stamp comes last: killed in between, this is done again.
        let mut warnings = Vec::new();
        for name in [journal::FILE, SYSCTLS, TIMEOUTS, FAREWELL] {
            let file = self.path.join(name);
            let removed = atomic_file::remove(&self.path, name).map_err(|source| Error::Write {
                file: file.clone(),
                source,
            })?;
            // Records without a stamp cannot be told from those of an earlier boot.
            if removed && stamp.is_none() {
                warnings.push(Warning {
                    file,
                    set_aside: None,
                    reason: format!("{BOOT} is missing, so it may be older than this boot"),
                });
            }
        }
        atomic_file::write(&self.path, BOOT, boot.as_bytes()).map_err(|source| Error::Write {
            file: self.path.join(BOOT),
            source,
        })?;
        Ok(warnings)
    }

    fn read<T: DeserializeOwned + Default>(
        &self,
        name: &str,
    ) -> Result<(T, Option<Warning>), Error> {
        let failed = |source| Error::Read {
            file: self.path.join(name),
            source,
        };
        let about_the_kernel = [journal::FILE, SYSCTLS, TIMEOUTS].contains(&name);
        if about_the_kernel && !self.of_this_boot {
            return Ok((T::default(), None));
        }
        let Some(content) = atomic_file::read(&self.path, name).map_err(failed)? else {
            return Ok((T::default(), None));
        };
        let reason = match decode(&content) {
            Ok(content) => return Ok((content, None)),
            Err(reason) => reason,
        };
        let set_aside = (self.writes())
            .then(|| atomic_file::set_aside(&self.path, name))
            .transpose()
            .map_err(failed)?;
        let warning = Warning {
            file: self.path.join(name),
            set_aside,
            reason,
        };
        Ok((T::default(), Some(warning)))
    }

    fn write<T: Serialize>(&self, name: &str, content: T) -> Result<(), Error> {
        if !self.writes() {
            return Ok(());
        }
        let file = self.path.join(name);
        let versioned = Versioned {
            version: VERSION,
            content,
        };
        let text = match serde_json::to_vec_pretty(&versioned) {
            Ok(text) => text,
            Err(source) => return Err(Error::Encode { file, source }),
        };
        atomic_file::write(&self.path, name, &text).map_err(|source| Error::Write { file, source })
    }
}

/// The content of a JSON file, or what is wrong with it. The version is read first, so that a file
/// of another format is told from a damaged one.
fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let Versioned { version, .. } =
        serde_json::from_slice::<Versioned<serde::de::IgnoredAny>>(text)
            .map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("its format is {version}, not {VERSION}"));
    }
    let Versioned { content, .. } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(content)
}

fn create(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Create {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_dir() {
        return Err(failed(io::ErrorKind::NotADirectory.into()));
    }
    // Whoever can write here could make us delete virtual servers and write sysctls.
    if metadata.mode() & 0o022 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Takes the lock, which ends with the process however it ends, and leaves our process number.
fn lock(path: &Path) -> Result<Flock<File>, Error> {
    let failed = |source| Error::Lock {
        file: path.join(LOCK),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0).map_err(failed)?;
            write!(&mut *lock, "{}", std::process::id()).map_err(failed)?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            // The other may have the lock and not have written its number yet.
            let process = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            Err(Error::InUse {
                path: path.to_owned(),
                process,
            })
        }
        Err((_, errno)) => Err(failed(errno.into())),
    }
}
