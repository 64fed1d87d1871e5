//! Real `edgelb run` processes in the lab's nodes.
//!
//! Each node has a directory in the lab's: configuration, state, runtime files and log. Starting a
//! daemon again in the same node finds the state of the one before, as a restart does. Dropping a
//! [`Daemon`] kills it; nothing here asks it to clean up, since its namespace goes as well.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toml::{Table, Value};

use super::address_plan::{VIP_POOL, cluster_ip_ranges};
use super::{Lab, LabError, Namespace};

/// How often a state that can only be polled is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How many lines of the log an error repeats.
const LOG_TAIL: usize = 15;

/// How to start a daemon.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// The edgelb program.
    pub program: PathBuf,
    /// The directory of manifests.
    pub manifests: PathBuf,
    /// `auto`, `ipvs` or `nftables`.
    pub datapath: String,
    /// Keys that are added to the lab's configuration or take the place of its keys; tables are
    /// merged, everything else is replaced.
    pub configuration: Table,
}

impl DaemonOptions {
    /// The lab's configuration as it is, with the datapath chosen by the daemon.
    pub fn new(program: impl Into<PathBuf>, manifests: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            manifests: manifests.into(),
            datapath: "auto".to_owned(),
            configuration: Table::new(),
        }
    }
}

/// A running daemon, or one that has ended.
#[derive(Debug)]
pub struct Daemon {
    node: String,
    namespace: Namespace,
    program: PathBuf,
    directory: PathBuf,
    child: Child,
    notifications: UnixDatagram,
}

impl Daemon {
    /// Starts `edgelb run` in the node at that index. It is not ready yet on return.
    pub fn start(lab: &Lab, node: usize, options: &DaemonOptions) -> Result<Self, LabError> {
        let node = lab.node(node)?;
        let directory = lab.directory().join(&node.name);
        for path in [directory.join("state"), directory.join("run")] {
            fs::create_dir_all(&path).map_err(|source| LabError::File {
                what: "create",
                path,
                source,
            })?;
        }
        let configuration = configuration(&node.name, &directory, options);
        write_configuration(&directory, &configuration)?;
        let log_path = log_path(&directory);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|source| LabError::File {
                what: "write",
                path: log_path,
                source,
            })?;
        let (notifications, notify_path) = notification_socket(&directory)?;

        let mut command = Command::new(&options.program);
        command
            .args(["run", "-c"])
            .arg(configuration_path(&directory))
            .env("NOTIFY_SOCKET", notify_path)
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1)
            // Ctrl-C at the terminal is for whoever runs the lab.
            .process_group(0);
        let child = node
            .namespace
            .spawn(&mut command)
            .map_err(|error| LabError::Daemon {
                node: node.name.clone(),
                reason: format!("cannot start {}: {error}", options.program.display()),
            })?;
        Ok(Self {
            node: node.name.clone(),
            namespace: node.namespace.clone(),
            program: options.program.clone(),
            directory,
            child,
            notifications,
        })
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The process id, in this process's PID namespace.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The configuration file.
    pub fn configuration_path(&self) -> PathBuf {
        configuration_path(&self.directory)
    }

    /// The daemon's state directory.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The daemon's admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.directory.join("run/admin.sock")
    }

    /// Everything that the node's daemons have logged.
    pub fn log(&self) -> Result<String, LabError> {
        let path = log_path(&self.directory);
        let bytes = fs::read(&path).map_err(|source| LabError::File {
            what: "read",
            path,
            source,
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Runs `edgelb COMMAND… -c FILE` for this daemon, in its node.
    pub fn ask(&self, arguments: &[&str]) -> Result<Output, LabError> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("-c")
            .arg(self.configuration_path())
            .stdin(Stdio::null());
        self.namespace
            .try_run(|| command.output())
            .map_err(|error| {
                self.error(&format!(
                    "cannot run edgelb {}: {error}",
                    arguments.join(" ")
                ))
            })
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the daemon says that it is ready (`READY=1`, `sd_notify(3)`), or it ends, or the
    /// time is up.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 4096];
        loop {
            match self.notifications.recv(&mut buffer) {
                Ok(length) => {
                    let message = buffer.get(..length).unwrap_or_default();
                    if message
                        .split(|byte| *byte == b'\n')
                        .any(|line| line == b"READY=1")
                    {
                        return Ok(());
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    return Err(self.error(&format!("cannot listen for its readiness: {error}")));
                }
            }
            self.check_waiting("ready", deadline)?;
        }
    }

    /// Looks until `done` says yes, the daemon ends, or the time is up; `what` completes the error
    /// "not … in time".
    pub fn wait_until(
        &mut self,
        what: &str,
        timeout: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), LabError> {
        let deadline = Instant::now() + timeout;
        while !done(self) {
            self.check_waiting(what, deadline)?;
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Changes the configuration file and tells the daemon to read it again (SIGHUP).
    pub fn reconfigure(&self, options: &DaemonOptions) -> Result<(), LabError> {
        write_configuration(
            &self.directory,
            &configuration(&self.node, &self.directory, options),
        )?;
        self.reload()
    }

    /// Tells the daemon to read its configuration again (SIGHUP).
    pub fn reload(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGHUP)
    }

    /// Kills the daemon as a crash does (SIGKILL), and waits for its end.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|error| self.error(&format!("cannot kill it: {error}")))
    }

    /// Asks the daemon to end (SIGTERM) and waits for its end. One that does not end in time is
    /// killed, and that is an error.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + timeout;
        loop {
            let status = self
                .child
                .try_wait()
                .map_err(|error| self.error(&format!("cannot wait for it: {error}")))?;
            if let Some(status) = status {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill()?;
                return Err(self.error(&format!(
                    "did not end within {timeout:?} of SIGTERM, and was killed"
                )));
            }
            thread::sleep(LOOK);
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), LabError> {
        i32::try_from(self.child.id())
            .map_err(io::Error::other)
            .and_then(|pid| kill(Pid::from_raw(pid), signal).map_err(io::Error::from))
            .map_err(|error| self.error(&format!("cannot send {signal}: {error}")))
    }

    fn check_waiting(&mut self, what: &str, deadline: Instant) -> Result<(), LabError> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(self.error(&format!("ended ({status}) before it was {what}")));
        }
        if Instant::now() >= deadline {
            return Err(self.error(&format!("not {what} in time")));
        }
        Ok(())
    }

    /// An error with the end of the log.
    fn error(&self, reason: &str) -> LabError {
        let log = self.log().unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let mut reason = reason.to_owned();
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
            // Writing to a String cannot fail.
            let _ = write!(reason, "\n    {line}");
        }
        LabError::Daemon {
            node: self.node.clone(),
            reason,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration_path(directory: &Path) -> PathBuf {
    directory.join("edgelb.toml")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("edgelb.log")
}

/// The lab's configuration for one node, with the caller's keys over it.
fn configuration(node: &str, directory: &Path, options: &DaemonOptions) -> Table {
    let path = |path: &Path| Value::from(path.to_string_lossy().into_owned());
    let strings = |values: &[String]| Value::from(values.to_vec());
    let pool = Table::from_iter([
        ("name".to_owned(), Value::from("lan")),
        ("addresses".to_owned(), Value::from(VIP_POOL.to_vec())),
    ]);
    let mut table = Table::from_iter([
        (
            "node".to_owned(),
            Value::Table(Table::from_iter([
                ("name".to_owned(), Value::from(node)),
                ("state_dir".to_owned(), path(&directory.join("state"))),
                ("runtime_dir".to_owned(), path(&directory.join("run"))),
            ])),
        ),
        (
            "source".to_owned(),
            Value::Table(Table::from_iter([
                ("kind".to_owned(), Value::from("manifests")),
                (
                    "manifests".to_owned(),
                    Value::Table(Table::from_iter([(
                        "dir".to_owned(),
                        path(&options.manifests),
                    )])),
                ),
            ])),
        ),
        ("pool".to_owned(), Value::Array(vec![Value::Table(pool)])),
        (
            "proxy".to_owned(),
            Value::Table(Table::from_iter([
                (
                    "datapath".to_owned(),
                    Value::from(options.datapath.as_str()),
                ),
                (
                    "service_cidrs".to_owned(),
                    strings(&cluster_ip_ranges().map(|range| range.to_string())),
                ),
            ])),
        ),
    ]);
    merge(&mut table, &options.configuration);
    table
}

fn merge(table: &mut Table, over: &Table) {
    for (key, value) in over {
        match (table.get_mut(key), value) {
            (Some(Value::Table(inner)), Value::Table(over)) => merge(inner, over),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

fn write_configuration(directory: &Path, configuration: &Table) -> Result<(), LabError> {
    let path = configuration_path(directory);
    let draft = path.with_extension("draft");
    fs::write(&draft, configuration.to_string())
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| LabError::File {
            what: "write",
            path,
            source,
        })
}

/// Unix sockets with a path do not belong to a network namespace, so the daemon reaches this one.
fn notification_socket(directory: &Path) -> Result<(UnixDatagram, PathBuf), LabError> {
    let path = directory.join("notify");
    let failed = |source| LabError::File {
        what: "listen on",
        path: path.clone(),
        source,
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path).map_err(failed)?;
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .map_err(failed)?;
    Ok((socket, path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_callers_keys_win_and_leave_their_neighbors() {
        let mut options = DaemonOptions::new("/bin/edgelb", "/manifests");
        options.configuration =
            "[proxy]\nscheduler = \"mh\"\ndatapath = \"ipvs\"\n[announce]\nping = false\n"
                .parse()
                .unwrap();
        let table = configuration("edge-a", Path::new("/lab/edge-a"), &options);
        let expected: Table = r#"
            [node]
            name = "edge-a"
            state_dir = "/lab/edge-a/state"
            runtime_dir = "/lab/edge-a/run"
            [source]
            kind = "manifests"
            [source.manifests]
            dir = "/manifests"
            [[pool]]
            name = "lan"
            addresses = ["192.0.2.200-192.0.2.219", "fd00:2::200-fd00:2::219"]
            [proxy]
            datapath = "ipvs"
            service_cidrs = ["10.96.0.0/16", "fd00:96::/112"]
            scheduler = "mh"
            [announce]
            ping = false
        "#
        .parse()
        .unwrap();
        assert_eq!(table, expected);
        assert_eq!(table.to_string().parse::<Table>().unwrap(), expected);
    }
}
