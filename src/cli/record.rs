//! `edgelb status --record FILE`: what the running daemon plans from, in a file for whoever is to find
//! out what went on here. `edgelb plan --inputs FILE` replays it. Asks and writes; decides nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use super::exit::Exit;
use super::output;
use super::tell;
use super::view::{ViewArguments, unanswered};
use crate::admin::client::order;
use crate::admin::protocol::Order;

/// Who reads it needs no more than this program's user: it tells of all that the cluster serves.
const MODE: u32 = 0o600;

/// Asks for the recording and writes it to `file`; `-` is stdout.
pub fn run(arguments: &ViewArguments, config: &Path, file: &Path) -> anyhow::Result<Exit> {
    let path = match arguments.socket(config) {
        Ok(path) => path,
        Err(exit) => return Ok(exit),
    };
    let record: Value = match order(&path, Order::Record) {
        Ok(record) => record,
        Err(error) => return Ok(unanswered(error)),
    };
    if file == Path::new("-") {
        output::write_json(&record).context("cannot write the result")?;
        return Ok(Exit::Fine);
    }
    let mut text = serde_json::to_vec_pretty(&record).context("cannot write the recording")?;
    text.push(b'\n');
    write(file, &text)?;
    tell(&format!(
        "recorded in {} ({} bytes): replay it with edgelb plan --inputs {}",
        file.display(),
        text.len(),
        file.display()
    ));
    Ok(Exit::Fine)
}

/// Puts a whole file in the place of whatever was there, readable by its owner alone.
fn write(file: &Path, text: &[u8]) -> anyhow::Result<()> {
    match fs::symlink_metadata(file) {
        // Renamed over, a device would be gone for everybody.
        Ok(there) if !there.is_file() => {
            bail!(
                "{} is there and is no file: name another one",
                file.display()
            )
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| cannot(file)),
    }
    let temporary = beside(file).with_context(|| {
        format!(
            "{} is no name of a file: name one with --record FILE",
            file.display()
        )
    })?;
    let written = write_new(&temporary, text).and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        // Nothing refers to it.
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| cannot(file))
}

fn cannot(file: &Path) -> String {
    format!("cannot write {}", file.display())
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// A name in the same directory that nobody else uses.
fn beside(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_string_lossy();
    Some(file.with_file_name(format!(".{name}.{}.tmp", std::process::id())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_kept_from_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("inputs.json");
        for text in ["{}", "{\"longer\":1}", "{}"] {
            write(&file, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
            let mode = fs::metadata(&file).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, MODE);
        }
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn what_is_no_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let error = |path: &Path| format!("{:#}", write(path, b"{}").unwrap_err());
        assert!(error(directory.path()).contains("is there and is no file"));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(error(&link).contains("is there and is no file"));
        let nowhere = directory.path().join("no/such/file");
        assert!(error(&nowhere).contains("cannot write"));
        assert!(error(Path::new("..")).contains("no file"));
    }
}
