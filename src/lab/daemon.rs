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
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use toml::Table;

use super::configuration::{configuration, configuration_path, write_configuration};
use super::membership::Membership;
use super::{Lab, LabError, Namespace};

/// How often a state that can only be polled is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How long a command to a daemon may take.
pub const LONGEST_COMMAND: Duration = Duration::from_secs(15);
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
    /// The other nodes; without it each daemon decides alone.
    pub membership: Option<Membership>,
}

impl DaemonOptions {
    /// The lab's configuration as it is, with the datapath chosen by the daemon, and no membership.
    pub fn new(program: impl Into<PathBuf>, manifests: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            manifests: manifests.into(),
            datapath: "auto".to_owned(),
            configuration: Table::new(),
            membership: None,
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
            // Meant for this process, if a service manager started it (sd_watchdog_enabled(3)).
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
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
                exit_code: None,
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

    /// Runs `edgelb COMMAND… -c FILE` for this daemon, in its node. A command that takes longer than
    /// [`LONGEST_COMMAND`] is killed, and that is an error.
    pub fn ask(&self, arguments: &[&str]) -> Result<Output, LabError> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .arg("-c")
            .arg(self.configuration_path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let failed =
            |reason: &str| self.error(&format!("edgelb {}: {reason}", arguments.join(" ")));
        let child = self
            .namespace
            .spawn(&mut command)
            .map_err(|error| failed(&error.to_string()))?;
        let pid = i32::try_from(child.id()).map_err(|error| failed(&error.to_string()))?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(child.wait_with_output()));
        if let Ok(output) = receiver.recv_timeout(LONGEST_COMMAND) {
            return output.map_err(|error| failed(&error.to_string()));
        }
        // It may end by itself just now; then there is nothing to kill.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        Err(failed(&format!(
            "no answer within {} s",
            LONGEST_COMMAND.as_secs()
        )))
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the daemon says that it is ready (`READY=1`, `sd_notify(3)`), or it ends, or the
    /// time is up.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + timeout;
        while !self.hears_ready()? {
            self.check_waiting("ready", deadline)?;
        }
        Ok(())
    }

    /// Whether the daemon has said that it is ready since this was last asked; waits some
    /// milliseconds for it. An error when the daemon has ended.
    pub fn hears_ready(&mut self) -> Result<bool, LabError> {
        let mut buffer = [0; 4096];
        match self.notifications.recv(&mut buffer) {
            Ok(length) => {
                let message = buffer.get(..length).unwrap_or_default();
                Ok(message
                    .split(|byte| *byte == b'\n')
                    .any(|line| line == b"READY=1"))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock
                        | io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                ) =>
            {
                self.check_running("ready").map(|()| false)
            }
            Err(error) => Err(self.error(&format!("cannot listen for its readiness: {error}"))),
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

    /// Stops the process where it stands (SIGSTOP): it does nothing more, and nobody is told.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a stopped process go on (SIGCONT).
    pub fn thaw(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGCONT)
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
        self.check_running(what)?;
        if Instant::now() >= deadline {
            return Err(self.error(&format!("not {what} in time")));
        }
        Ok(())
    }

    fn check_running(&mut self, what: &str) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let mut error = self.error(&format!("ended ({status}) before it was {what}"));
                if let LabError::Daemon { exit_code, .. } = &mut error {
                    *exit_code = status.code();
                }
                Err(error)
            }
            Ok(None) => Ok(()),
            Err(error) => Err(self.error(&format!("cannot see whether it runs: {error}"))),
        }
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
            exit_code: None,
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

fn log_path(directory: &Path) -> PathBuf {
    directory.join("edgelb.log")
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
