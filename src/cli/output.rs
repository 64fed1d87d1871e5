//! Results on stdout, in the form that was asked for.

use std::io::{self, ErrorKind, IsTerminal, Write};

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

/// Whether stdout may be coloured: it is a terminal, and nobody asked for none (<https://no-color.org>).
pub fn colour() -> bool {
    let asked = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !asked && !dumb
}

/// Writes text to stdout; a reader that has gone away has seen enough.
pub fn write_text(text: &str) -> io::Result<()> {
    ended_by_reader(write_all(text.as_bytes()))
}

/// Writes text to stdout; false where its reader has gone away.
pub fn write_on(text: &str) -> io::Result<bool> {
    match write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

/// Writes a line to stdout; as [`write_on`].
pub fn write_line(line: &str) -> io::Result<bool> {
    write_on(&format!("{line}\n"))
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
