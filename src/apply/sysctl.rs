//! Kernel settings below `/proc/sys`: written only where they differ, put back by `cleanup`.
//!
//! The value before ours is in the state directory before ours is in the kernel. Settings below
//! `net` are those of the calling thread's network namespace. Which settings are wanted is the
//! plan's business.
//!
//! Order: writing `net/ipv4/ip_forward` (or `forwarding` of `conf/all`) makes the kernel reset other
//! settings of every interface (Documentation/networking/ip-sysctl), so these go first, then what
//! holds for all interfaces, then the rest; all previous values are read before the first write. Only
//! `accept_ra` goes before `forwarding`, which makes the kernel drop routes that it learned.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::reach::{Operation, Reach};
use super::state_directory::{self, StateDirectory, SysctlRecord, SysctlRecords, Warning};
use crate::model::sysctl::{Rule, Sysctl};

/// Where the settings are.
const ROOT: &str = "/proc/sys";

/// One setting that does not have the value that it must have.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{path} is no path below /proc/sys: write it like net/ipv4/ip_forward")]
    Path { path: String },
    #[error("the kernel has no {path}: {}", remedy_for_missing(path))]
    Missing { path: String },
    #[error(
        "{path} cannot be written: run as root with a writable /proc/sys (no ProtectKernelTunables, no read-only container mount)"
    )]
    NotPermitted { path: String, source: io::Error },
    #[error("the kernel refuses {value:?} for {path}")]
    Refused {
        path: String,
        value: String,
        source: io::Error,
    },
    /// The kernel took the value and shows another one.
    #[error("{path} stays {observed:?} though {value:?} was written: something else sets it")]
    NotTaken {
        path: String,
        value: String,
        observed: String,
    },
    /// Only when previous values are put back.
    #[error(
        "{path} is {observed:?}, which is not ours, and was left alone; it was {previous:?} before"
    )]
    ChangedByOthers {
        path: String,
        observed: String,
        previous: String,
    },
}

impl Failure {
    /// The setting's path below `/proc/sys`.
    pub fn path(&self) -> &str {
        match self {
            Self::Path { path }
            | Self::Missing { path }
            | Self::NotPermitted { path, .. }
            | Self::Refused { path, .. }
            | Self::NotTaken { path, .. }
            | Self::ChangedByOthers { path, .. } => path,
        }
    }

    /// The failure as a metric label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Path { .. } => "sysctl_path",
            Self::Missing { .. } => "sysctl_missing",
            Self::NotPermitted { .. } => "sysctl_not_permitted",
            Self::Refused { .. } => "sysctl_refused",
            Self::NotTaken { .. } => "sysctl_not_taken",
            Self::ChangedByOthers { .. } => "sysctl_changed_by_others",
        }
    }
}

/// What one call changed, and what it could not.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Paths that were written, in this order.
    pub written: Vec<String>,
    /// Optional ones that are not there.
    pub absent: Vec<String>,
    pub failures: Vec<Failure>,
}

/// The settings that we care for, with what is recorded of them.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    records: SysctlRecords,
    reach: Reach,
}

impl Sysctls {
    /// Reads what is recorded; touches no setting.
    pub fn open(state: &StateDirectory) -> Result<(Self, Option<Warning>), state_directory::Error> {
        Self::open_for(state, Reach::Kernel)
    }

    /// The same for no more than this.
    pub fn open_for(
        state: &StateDirectory,
        reach: Reach,
    ) -> Result<(Self, Option<Warning>), state_directory::Error> {
        let (records, warning) = state.read_sysctls()?;
        let sysctls = Self {
            root: PathBuf::from(ROOT),
            records,
            reach,
        };
        Ok((sysctls, warning))
    }

    /// Reads every setting of `desired` and writes those that differ. An `Err` says that the
    /// previous values could not be recorded, hence nothing was written.
    pub fn repair(
        &mut self,
        state: &StateDirectory,
        desired: &BTreeMap<String, Sysctl>,
    ) -> Result<Outcome, state_directory::Error> {
        let mut outcome = Outcome::default();
        let mut observed: BTreeMap<&str, String> = BTreeMap::new();
        for (path, sysctl) in desired {
            match self.read(path) {
                Ok(value) => {
                    observed.insert(path, value);
                }
                Err(Failure::Missing { path }) if sysctl.optional => outcome.absent.push(path),
                Err(failure) => outcome.failures.push(failure),
            }
        }
        let mut records = self.records.clone();
        let mut present: Vec<(&str, String)> = Vec::new();
        for (path, found) in &observed {
            let Some(sysctl) = desired.get(*path) else {
                continue;
            };
            let record = self.records.get(*path);
            let changed = |because: &str| self.changes(because, desired, &observed);
            let Some(value) = wanted(&sysctl.rule, found, record, changed) else {
                continue;
            };
            // Recorded although it may fit: the write of another one can change it.
            let record = records
                .entry((*path).to_owned())
                .or_insert_with(|| SysctlRecord {
                    previous: found.clone(),
                    ..SysctlRecord::default()
                });
            record.ours.insert(value.clone());
            present.push((path, value));
        }
        if records != self.records {
            state.write_sysctls(&records)?;
            self.records = records;
        }
        present.sort_by_key(|(path, _)| order(path));
        for (path, value) in present {
            self.put(path, &value, &mut outcome);
        }
        // Where another network namespace has the say, or the kernel, it stays as it is.
        outcome.failures.retain(|failure| {
            let optional = desired
                .get(failure.path())
                .is_some_and(|sysctl| sysctl.optional);
            !(optional && matches!(failure, Failure::NotPermitted { .. }))
        });
        Ok(outcome)
    }

    /// What a setting was before us: as recorded, or else as it is now.
    pub fn previous(&self, path: &str) -> Option<String> {
        match self.records.get(path) {
            Some(record) => Some(record.previous.clone()),
            None => self.read(path).ok(),
        }
    }

    /// Whether a setting is to be other than it was before us.
    fn changes(
        &self,
        path: &str,
        desired: &BTreeMap<String, Sysctl>,
        observed: &BTreeMap<&str, String>,
    ) -> bool {
        let record = self.records.get(path).map(|record| &record.previous);
        let previous = record.or_else(|| observed.get(path));
        match (desired.get(path).map(|sysctl| &sysctl.rule), previous) {
            (Some(Rule::Exactly(value)), Some(previous)) => !same(previous, value),
            _ => false,
        }
    }

    /// Puts back the previous value of every setting that has a value of ours and is not in `keep`,
    /// and forgets it. One that somebody else has changed since is left alone and reported.
    pub fn restore(
        &mut self,
        state: &StateDirectory,
        keep: &BTreeMap<String, Sysctl>,
    ) -> Result<Outcome, state_directory::Error> {
        let mut outcome = Outcome::default();
        let mut put_back: Vec<(&String, &SysctlRecord)> = Vec::new();
        // Judged before the first write, which can change the others.
        for (path, record) in self
            .records
            .iter()
            .filter(|(path, _)| !keep.contains_key(*path))
        {
            match self.read(path) {
                Ok(observed)
                    if same(&observed, &record.previous)
                        || record.ours.iter().any(|ours| same(&observed, ours)) =>
                {
                    put_back.push((path, record));
                }
                Ok(observed) => outcome.failures.push(Failure::ChangedByOthers {
                    path: path.clone(),
                    observed,
                    previous: record.previous.clone(),
                }),
                // A setting that went with its module or interface has nothing to put back.
                Err(Failure::Missing { .. }) => {}
                Err(failure) => outcome.failures.push(failure),
            }
        }
        put_back.sort_by_key(|(path, _)| (path.ends_with("/accept_ra"), order(path)));
        for (path, record) in put_back {
            self.put(path, &record.previous, &mut outcome);
        }
        let mut records = self.records.clone();
        records.retain(|path, _| {
            keep.contains_key(path)
                || outcome
                    .failures
                    .iter()
                    .any(|failure| is_open(failure, path))
        });
        if records != self.records {
            state.write_sysctls(&records)?;
            self.records = records;
        }
        Ok(outcome)
    }

    /// Writes a value unless it is there, and looks whether it was taken.
    fn put(&self, path: &str, value: &str, outcome: &mut Outcome) {
        let result = self.read(path).and_then(|observed| {
            if same(&observed, value) {
                return Ok(false);
            }
            let file = self.file(path)?;
            if !self.reach.changes() {
                // To open it says whether it could be written, and writes nothing.
                if self.reach.looks() {
                    let opened = OpenOptions::new().write(true).open(&file);
                    opened.map_err(|source| failure(path, value, source))?;
                }
                self.reach
                    .note(Operation::Change, "sysctl", || words(path, value));
                return Ok(true);
            }
            std::fs::write(file, value).map_err(|source| failure(path, value, source))?;
            let observed = self.read(path)?;
            if same(&observed, value) {
                Ok(true)
            } else {
                Err(Failure::NotTaken {
                    path: path.to_owned(),
                    value: value.to_owned(),
                    observed,
                })
            }
        });
        match result {
            Ok(true) => outcome.written.push(path.to_owned()),
            Ok(false) => {}
            Err(failure) => outcome.failures.push(failure),
        }
    }

    fn read(&self, path: &str) -> Result<String, Failure> {
        if !self.reach.looks() {
            return Ok(String::new());
        }
        let text = std::fs::read_to_string(self.file(path)?)
            .map_err(|source| failure(path, "", source))?;
        Ok(text.trim().to_owned())
    }

    /// The file of a setting; nothing outside of the root.
    fn file(&self, path: &str) -> Result<PathBuf, Failure> {
        let normal = Path::new(path)
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
        if normal && !path.is_empty() {
            Ok(self.root.join(path))
        } else {
            Err(Failure::Path {
                path: path.to_owned(),
            })
        }
    }
}

/// An edit in the words of `sysctl`, which takes slashes where a name has dots of its own.
fn words(path: &str, value: &str) -> String {
    let name = if path.contains('.') {
        path.to_owned()
    } else {
        path.replace('/', ".")
    };
    if value.contains(char::is_whitespace) {
        format!("sysctl -w '{name}={value}'")
    } else {
        format!("sysctl -w {name}={value}")
    }
}

/// Whether a failure leaves something to be put back another time.
fn is_open(failure: &Failure, path: &str) -> bool {
    failure.path() == path
        && !matches!(
            failure,
            Failure::ChangedByOthers { .. } | Failure::Path { .. }
        )
}

/// Settings with several numbers are shown with tabs, however they were written.
fn same(left: &str, right: &str) -> bool {
    left.split_whitespace().eq(right.split_whitespace())
}

/// The value that a rule asks for where one is found; none where that is to be left alone.
fn wanted(
    rule: &Rule,
    found: &str,
    record: Option<&SysctlRecord>,
    changed: impl FnOnce(&str) -> bool,
) -> Option<String> {
    match rule {
        Rule::Exactly(value) => Some(value.clone()),
        Rule::AtLeast(least) => {
            let enough = found.trim().parse::<u64>().ok()? >= *least;
            (!enough).then(|| least.to_string())
        }
        Rule::Instead {
            found: replaced,
            value,
            because,
        } => {
            let ours = record.is_some() && same(found, value);
            (ours || (same(found, replaced) && changed(because))).then(|| value.clone())
        }
    }
}

/// Earlier settings must not undo later ones.
fn order(path: &str) -> u8 {
    let components: Vec<&str> = path.split('/').collect();
    match components.as_slice() {
        [.., "accept_ra"] => 0,
        [.., "ip_forward"] | [.., "conf", "all", "forwarding"] => 1,
        [.., "conf", "default", "forwarding"] => 2,
        [.., "conf", _, "forwarding"] => 3,
        [.., "all", _] => 4,
        [.., "default", _] => 5,
        _ => 6,
    }
}

fn failure(path: &str, value: &str, source: io::Error) -> Failure {
    let path = path.to_owned();
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => Failure::Missing { path },
        Some(Errno::EACCES | Errno::EPERM | Errno::EROFS) => Failure::NotPermitted { path, source },
        _ => Failure::Refused {
            path,
            value: value.to_owned(),
            source,
        },
    }
}

fn remedy_for_missing(path: &str) -> &'static str {
    const REMEDIES: &[(&str, &str)] = &[
        ("net/ipv4/vs/", "load IPVS with \"modprobe ip_vs\""),
        (
            "net/netfilter/nf_conntrack",
            "load connection tracking with \"modprobe nf_conntrack\"",
        ),
        (
            "net/bridge/",
            "load the bridge filter with \"modprobe br_netfilter\"",
        ),
        (
            "net/ipv6/",
            "IPv6 is switched off (ipv6.disable=1) or the interface is gone",
        ),
        ("net/ipv4/conf/", "the interface is gone"),
    ];
    REMEDIES
        .iter()
        .find(|(prefix, _)| path.starts_with(prefix))
        .map_or("use a kernel that has it", |(_, remedy)| remedy)
}
