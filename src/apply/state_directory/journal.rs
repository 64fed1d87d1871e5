//! The list of the virtual servers that are ours: written before they are created, so that no
//! virtual server of ours is ever taken for somebody else's, nor the other way round.
//!
//! One line each, appended and synced: `TCP 192.0.2.1:80` records, `forget TCP 192.0.2.1:80`
//! forgets. A last line without its line feed was never acknowledged and counts for nothing.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Error, StateDirectory, Warning, atomic_file};
use crate::model::family::{Protocol, UnknownProtocol};

/// The file's name in the state directory.
pub(super) const FILE: &str = "ipvs.journal";

const FORGET: &str = "forget ";
/// The file is rewritten when it has this many lines for each virtual server that it lists …
const LINES_PER_ENTRY: usize = 4;
/// … but not below this number of lines.
const MINIMUM_LINES: usize = 256;

/// What identifies a virtual server: `TCP 192.0.2.1:80`, `UDP [2001:db8::1]:53`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServerName {
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for VirtualServerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let socket = SocketAddr::new(self.address, self.port);
        write!(formatter, "{} {socket}", self.protocol)
    }
}

/// Why a text names no virtual server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVirtualServerName {
    #[error("{0:?} is not of the form \"TCP 192.0.2.1:80\"")]
    Form(String),
    #[error(transparent)]
    Protocol(#[from] UnknownProtocol),
    #[error("{text:?} is not an address with a port")]
    Address {
        text: String,
        source: AddrParseError,
    },
}

impl FromStr for VirtualServerName {
    type Err = InvalidVirtualServerName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, socket) = text
            .split_once(' ')
            .ok_or_else(|| InvalidVirtualServerName::Form(text.to_owned()))?;
        let socket: SocketAddr =
            socket
                .parse()
                .map_err(|source| InvalidVirtualServerName::Address {
                    text: socket.to_owned(),
                    source,
                })?;
        Ok(Self {
            protocol: protocol.parse()?,
            address: socket.ip(),
            port: socket.port(),
        })
    }
}

/// The journal of one state directory, open for appending.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    /// `None` after a rewrite that failed: which file has the name now must be looked up.
    file: Option<File>,
    /// Bytes that are known to be whole lines.
    length: u64,
    lines: usize,
    entries: BTreeSet<VirtualServerName>,
    /// Whether the file is written: beside the daemon whose it is, it is not.
    writes: bool,
}

impl Journal {
    /// Reads the journal; a missing one is empty. Lines that cannot be read are reported, kept in
    /// `ipvs.journal.damaged` and left out.
    pub fn open(state: &StateDirectory) -> Result<(Self, Vec<Warning>), Error> {
        let directory = state.path().to_owned();
        let failed = |source| Error::Read {
            file: directory.join(FILE),
            source,
        };
        let mut journal = Self {
            directory: directory.clone(),
            file: None,
            length: 0,
            lines: 0,
            entries: BTreeSet::new(),
            writes: state.writes(),
        };
        if !state.of_this_boot {
            return Ok((journal, Vec::new()));
        }
        let content = atomic_file::read(&directory, FILE).map_err(failed)?;
        let Content {
            entries, damaged, ..
        } = parse(&content.unwrap_or_default());
        journal.entries = entries;
        let mut warnings = Vec::new();
        if !journal.writes {
            return Ok((journal, warnings));
        }
        if let Some((line, reason)) = damaged {
            let aside = atomic_file::copy_aside(&directory, FILE).map_err(failed)?;
            journal.compact()?;
            warnings.push(Warning {
                file: directory.join(FILE),
                set_aside: Some(aside),
                reason: format!("line {line}: {reason}"),
            });
        } else {
            let cut = journal.cut().map(drop);
            cut.and_then(|()| atomic_file::sync_directory(&directory))
                .map_err(|source| journal.write_error(source))?;
        }
        Ok((journal, warnings))
    }

    /// Whether a virtual server is ours.
    pub fn contains(&self, name: &VirtualServerName) -> bool {
        self.entries.contains(name)
    }

    /// All virtual servers that are ours, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &VirtualServerName> {
        self.entries.iter()
    }

    /// How many virtual servers are ours.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no virtual server is ours.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records virtual servers that are about to be created, in one write. When this returns `Ok`,
    /// they are on the disk; on an error none of them is recorded.
    pub fn record(&mut self, names: &[VirtualServerName]) -> Result<(), Error> {
        let new: BTreeSet<VirtualServerName> = names
            .iter()
            .filter(|name| !self.contains(name))
            .copied()
            .collect();
        self.append(&new, "")?;
        self.entries.extend(new);
        self.compact_if_grown();
        Ok(())
    }

    /// Forgets virtual servers that were deleted.
    pub fn forget(&mut self, names: &[VirtualServerName]) -> Result<(), Error> {
        let old: BTreeSet<VirtualServerName> = names
            .iter()
            .filter(|name| self.contains(name))
            .copied()
            .collect();
        self.append(&old, FORGET)?;
        self.entries.retain(|name| !old.contains(name));
        self.compact_if_grown();
        Ok(())
    }

    fn append(&mut self, names: &BTreeSet<VirtualServerName>, prefix: &str) -> Result<(), Error> {
        if names.is_empty() || !self.writes {
            return Ok(());
        }
        let text = lines(names, prefix);
        let written = self.cut().and_then(|file| {
            file.write_all(text.as_bytes())?;
            file.sync_data()
        });
        if let Err(source) = written {
            // What was written of it must not count; should that fail too, the next append tries
            // again before it writes.
            if let Err(error) = self.cut() {
                tracing::warn!(%error, "cannot take back a failed append to the journal");
            }
            return Err(self.write_error(source));
        }
        self.length = self.length.saturating_add(text.len() as u64);
        self.lines = self.lines.saturating_add(names.len());
        Ok(())
    }

    /// The file, without what follows the last line that is known to be whole.
    fn cut(&mut self) -> io::Result<&mut File> {
        let file = if let Some(file) = self.file.take() {
            file
        } else {
            let content = atomic_file::read(&self.directory, FILE)?.unwrap_or_default();
            let parsed = parse(&content);
            self.length = parsed.length;
            self.lines = parsed.lines;
            open_for_appending(&self.directory.join(FILE))?
        };
        let file = self.file.insert(file);
        if file.seek(SeekFrom::End(0))? != self.length {
            file.set_len(self.length)?;
        }
        Ok(file)
    }

    fn compact_if_grown(&mut self) {
        let limit = self.entries.len().saturating_mul(LINES_PER_ENTRY);
        if self.lines <= limit.max(MINIMUM_LINES) {
            return;
        }
        // The long file is as true as the short one.
        if let Err(error) = self.compact() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot compact the journal"
            );
        }
    }

    /// Rewrites the file with nothing but what is ours.
    fn compact(&mut self) -> Result<(), Error> {
        let text = lines(&self.entries, "");
        let written = atomic_file::write(&self.directory, FILE, text.as_bytes());
        // The rename may have taken place although the write failed, in the sync after it.
        self.file = None;
        let opened = self.cut().map(drop);
        written
            .and(opened)
            .map_err(|source| self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> Error {
        Error::Write {
            file: self.directory.join(FILE),
            source,
        }
    }
}

fn lines(names: &BTreeSet<VirtualServerName>, prefix: &str) -> String {
    names.iter().fold(String::new(), |mut text, name| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{prefix}{name}");
        text
    })
}

fn open_for_appending(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

struct Content {
    entries: BTreeSet<VirtualServerName>,
    lines: usize,
    /// Bytes up to and with the last line feed.
    length: u64,
    /// The first line that cannot be read, from 1, and why.
    damaged: Option<(usize, String)>,
}

/// What a journal with this content lists, as far as it can be read.
pub(super) fn entries(content: &[u8]) -> BTreeSet<VirtualServerName> {
    parse(content).entries
}

fn parse(content: &[u8]) -> Content {
    let whole = content
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |position| position.saturating_add(1));
    let mut parsed = Content {
        entries: BTreeSet::new(),
        lines: 0,
        length: whole as u64,
        damaged: None,
    };
    let lines = content.get(..whole).unwrap_or_default();
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        parsed.lines = parsed.lines.saturating_add(1);
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\n');
        let (forget, name) = match text.strip_prefix(FORGET) {
            Some(name) => (true, name),
            None => (false, text),
        };
        match (forget, name.parse::<VirtualServerName>()) {
            (false, Ok(name)) => {
                parsed.entries.insert(name);
            }
            (true, Ok(name)) => {
                parsed.entries.remove(&name);
            }
            (_, Err(error)) => {
                parsed
                    .damaged
                    .get_or_insert_with(|| (parsed.lines, error.to_string()));
            }
        }
    }
    parsed
}
