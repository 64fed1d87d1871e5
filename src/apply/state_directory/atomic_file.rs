//! Files that are replaced whole or not at all, also when the process is killed half-way.
//!
//! A temporary file in the same directory is written and synced, then renamed over the old one;
//! then the directory is synced. What a file means is not decided here.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How the names of temporary files end; they begin with a dot.
const TEMPORARY_SUFFIX: &str = ".tmp";
/// What a file that cannot be understood is called afterwards.
const DAMAGED_SUFFIX: &str = ".damaged";

/// Tells the temporary files of one process apart.
static TEMPORARY_FILES: AtomicU64 = AtomicU64::new(0);

/// Replaces `directory/name` by `content`, or leaves it as it was.
pub(super) fn write(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    write_with(directory, name, |file| file.write_all(content))
}

/// The same with a content that is written piece by piece, because it is too large to be held whole.
pub(super) fn write_with(
    directory: &Path,
    name: &str,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let number = TEMPORARY_FILES.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!(".{name}.{number}{TEMPORARY_SUFFIX}"));
    let written = write_new(&temporary, content)
        .and_then(|()| std::fs::rename(&temporary, directory.join(name)));
    if written.is_err() {
        // Nothing refers to it; a leftover goes with the next start.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    sync_directory(directory)
}

fn write_new(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut writer = BufWriter::new(file);
    content(&mut writer)?;
    let file = writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.sync_all()
}

/// Reads `directory/name`; `None` where it is missing.
pub(super) fn read(directory: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(directory.join(name)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes `directory/name`; returns whether it was there.
pub(super) fn remove(directory: &Path, name: &str) -> io::Result<bool> {
    match std::fs::remove_file(directory.join(name)) {
        Ok(()) => sync_directory(directory).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves `directory/name` out of the way, over an earlier damaged one; returns its new path.
pub(super) fn set_aside(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let aside = directory.join(format!("{name}{DAMAGED_SUFFIX}"));
    std::fs::rename(directory.join(name), &aside)?;
    sync_directory(directory)?;
    Ok(aside)
}

/// Gives `directory/name` a second name as a damaged file, for a file whose good part goes on.
pub(super) fn copy_aside(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let aside = format!("{name}{DAMAGED_SUFFIX}");
    remove(directory, &aside)?;
    let aside = directory.join(aside);
    std::fs::hard_link(directory.join(name), &aside)?;
    sync_directory(directory)?;
    Ok(aside)
}

/// Removes what writers left behind that were killed before they could rename.
pub(super) fn remove_temporary_files(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let temporary = name
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(TEMPORARY_SUFFIX));
        if temporary {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Makes renames and removals in `directory` last.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
