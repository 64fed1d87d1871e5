//! Reading a directory of manifests: which files count, which have changed, and their bytes. Never
//! waits for a FIFO or a device, never reads more than the limit. Decides nothing about contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::state::Content;
use crate::source::SourceProblem;

/// The largest file that is read.
pub const LARGEST_FILE: u64 = 16 * 1024 * 1024;
/// The most files that are read; the rest, by name, is left out and told.
pub const MOST_FILES: usize = 10_000;
/// How often a file is read again that changes while it is read.
const READ_ATTEMPTS: usize = 3;

/// The directory cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the manifest directory {}: {cause}", path.display())]
pub struct DirectoryError {
    /// The directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub cause: io::Error,
}

/// What tells one directory from another of the same name: device and inode.
pub type DirectoryId = (u64, u64);

/// What to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Every file whose stamp differs.
    pub all: bool,
    /// These files, whatever their stamps say: two writes within one tick of the clock look alike.
    pub names: BTreeSet<String>,
}

impl Look {
    /// A look at everything.
    pub fn everything() -> Self {
        Self {
            all: true,
            names: BTreeSet::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Device, inode, size, modification time in seconds and nanoseconds.
    Stamp(u64, u64, u64, i64, i64),
    Unreadable(String),
}

/// A directory, and what was last seen in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    seen: BTreeMap<String, Seen>,
    problems: Vec<SourceProblem>,
}

impl Directory {
    /// Nothing is read yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which directory stands at the path now.
    pub fn id(path: &Path) -> Result<DirectoryId, DirectoryError> {
        let failed = |cause| DirectoryError {
            path: path.to_owned(),
            cause,
        };
        let metadata = fs::metadata(path).map_err(failed)?;
        if metadata.is_dir() {
            Ok((metadata.dev(), metadata.ino()))
        } else {
            Err(failed(ErrorKind::NotADirectory.into()))
        }
    }

    /// Problems of the directory itself: names that cannot be used, too many files.
    pub fn problems(&self) -> &[SourceProblem] {
        &self.problems
    }

    /// The names to look at, sorted. Files that are being `written` are left alone.
    pub fn names(
        &mut self,
        look: &Look,
        written: &BTreeSet<String>,
    ) -> Result<Vec<String>, DirectoryError> {
        Self::id(&self.path)?;
        let mut names = look.names.clone();
        if look.all {
            let listed = self.list()?;
            names.extend(self.seen.keys().cloned());
            names.extend(listed);
        }
        Ok(names
            .into_iter()
            .filter(|name| is_manifest(name) && !written.contains(name))
            .collect())
    }

    fn list(&mut self) -> Result<BTreeSet<String>, DirectoryError> {
        let path = self.path.clone();
        let failed = |cause| DirectoryError {
            path: path.clone(),
            cause,
        };
        let mut names = BTreeSet::new();
        self.problems.clear();
        for entry in fs::read_dir(&path).map_err(failed)? {
            match entry.map_err(failed)?.file_name().into_string() {
                Ok(name) if is_manifest(&name) => {
                    names.insert(name);
                }
                Ok(_) => {}
                Err(name) => {
                    let shown = name.to_string_lossy().into_owned();
                    if is_manifest(&shown) {
                        self.problem(shown, "the file's name is not UTF-8: rename it".to_owned());
                    }
                }
            }
        }
        if names.len() > MOST_FILES {
            let message = format!(
                "{} files, of which the first {MOST_FILES} by name are read: put several objects into one file",
                names.len()
            );
            self.problem(path.display().to_string(), message);
            names = names.into_iter().take(MOST_FILES).collect();
        }
        Ok(names)
    }

    fn problem(&mut self, file: String, message: String) {
        self.problems.push(SourceProblem {
            file,
            line: None,
            field: None,
            message,
            keeps_last_good: false,
        });
    }

    /// Reads one file. `None`: it is as it was.
    pub fn read(&mut self, name: &str, look: &Look) -> Option<Content> {
        let known = self.seen.get(name);
        if known.is_none() && self.seen.len() >= MOST_FILES {
            return None;
        }
        let path = self.path.join(name);
        if let Err(error) = fs::symlink_metadata(&path)
            && error.kind() == ErrorKind::NotFound
        {
            return self.seen.remove(name).map(|_| Content::Gone);
        }
        let stamped = check(&path).map(|metadata| stamp(&metadata));
        let forced = look.names.contains(name);
        let (seen, content) = match stamped {
            Ok(stamp) if known == Some(&stamp) && !forced => return None,
            Ok(_) => match read_whole(&path) {
                Ok((stamp, bytes)) => (stamp, Content::Bytes(bytes)),
                Err(why) => (Seen::Unreadable(why.clone()), Content::Unreadable(why)),
            },
            Err(why) => (Seen::Unreadable(why.clone()), Content::Unreadable(why)),
        };
        if matches!(seen, Seen::Unreadable(_)) && known == Some(&seen) && !forced {
            return None;
        }
        self.seen.insert(name.to_owned(), seen);
        Some(content)
    }
}

/// Whether a file of this name counts: `*.yaml`, `*.yml`, `*.json`, and no leading dot (editors'
/// temporary files, and the `..data` of mounted `ConfigMaps`).
pub fn is_manifest(name: &str) -> bool {
    !name.starts_with('.')
        && name.rsplit_once('.').is_some_and(|(_, extension)| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known))
        })
}

fn stamp(metadata: &Metadata) -> Seen {
    Seen::Stamp(
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
}

/// Checked before opening, because opening a device can do things.
fn check(path: &Path) -> Result<Metadata, String> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => "a symbolic link whose file is not there".to_owned(),
        _ if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            "symbolic links that lead in a circle".to_owned()
        }
        _ => format!("cannot be read: {error}"),
    })?;
    check_metadata(&metadata)?;
    Ok(metadata)
}

fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    let kind = metadata.file_type();
    let found = if kind.is_file() {
        return match metadata.len() {
            size if size > LARGEST_FILE => Err(too_large(size)),
            _ => Ok(()),
        };
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(format!("{found}, not a file"))
}

fn too_large(size: u64) -> String {
    format!("{size} bytes: files up to {LARGEST_FILE} bytes are read, so split it")
}

fn read_whole(path: &Path) -> Result<(Seen, Vec<u8>), String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let mut attempt = 1;
    loop {
        let mut file = OpenOptions::new()
            .read(true)
            // What was a file a moment ago may be a FIFO now: that must not block.
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)
            .map_err(cannot)?;
        let before = file.metadata().map_err(cannot)?;
        check_metadata(&before)?;
        let bytes = read_limited(&mut file).map_err(cannot)?;
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > LARGEST_FILE {
            return Err(too_large(size));
        }
        let after = stamp(&file.metadata().map_err(cannot)?);
        if after == stamp(&before) || attempt == READ_ATTEMPTS {
            return Ok((after, bytes));
        }
        attempt += 1;
    }
}

fn read_limited(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
