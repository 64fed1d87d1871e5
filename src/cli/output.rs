//! Results on stdout, in the form that was asked for.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use serde::Serialize;

/// What `-o` names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For scripts.
    Json,
}

/// Writes text to stdout; a reader that has gone away has seen enough.
pub fn write_text(text: &str) -> io::Result<()> {
    ended_by_reader(write_all(text.as_bytes()))
}

/// Writes one JSON value and a newline to stdout; as [`write_text`].
pub fn write_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    ended_by_reader(write_all(&text))
}

fn write_all(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn ended_by_reader(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
