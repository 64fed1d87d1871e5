//! Runs this program once more as the first process of a PID namespace and a network namespace of
//! its own; for an ordinary user also of a user namespace, in which it is root.
//!
//! When the inner process ends, in whatever way, the kernel ends every process that it started: that
//! is what a PID namespace promises (`pid_namespaces(7)`). When the outer process ends, the inner one
//! does so at once. So no daemon of a lab survives it, not even `kill -9` of either process, and
//! nothing inside can reach the machine's network.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, getegid, geteuid, getpid};
use thiserror::Error;

use super::LabError;
use super::directory::LabDirectory;

/// Tells the inner process that it is one, and which process of the machine started it.
const VARIABLE: &str = "EDGELB_SANDBOX";
/// Ends the sandbox in an orderly way when the outer process gets one.
const FORWARDED: [Signal; 4] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// The exit code of a process that was killed, as a shell shows it.
const KILLED: i32 = 137;

/// On which side of the sandbox this process is.
#[derive(Debug)]
pub enum Entered {
    /// Inside: go on with the work.
    Inside,
    /// Outside, and the inner process has ended: end with its exit code.
    Finished(u8),
}

/// Why there is no sandbox.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The kernel or its configuration forbids it.
    #[error(
        "this user may not create {what}: {source}\n\
         run the command as root, or allow user namespaces to ordinary users:\n  \
         sysctl user.max_user_namespaces=10000\n  \
         sysctl kernel.unprivileged_userns_clone=1               (where the kernel has it)\n  \
         sysctl kernel.apparmor_restrict_unprivileged_userns=0   (where the kernel has it)\n\
         inside a container, the container must be started with these rights"
    )]
    Forbidden {
        /// What was refused, for example "a user namespace".
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// The directory for the sandbox's files cannot be made.
    #[error(transparent)]
    Directory(#[from] LabError),
    /// Something else went wrong around the inner process.
    #[error("cannot {what} the inner process: {source}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// Call it first in the program's main thread, before any other thread exists: a process with
/// threads cannot enter a user namespace. It returns [`Entered::Inside`] in the inner process, and
/// in the outer one only when the inner one has ended.
pub fn enter() -> Result<Entered, SandboxError> {
    if env::var_os(VARIABLE).is_some() && getpid() == Pid::from_raw(1) {
        settle_inside().map_err(|source| SandboxError::Process {
            what: "settle",
            source,
        })?;
        return Ok(Entered::Inside);
    }
    let directory = LabDirectory::create()?;
    isolate()?;
    supervise(&directory).map(Entered::Finished)
}

/// The process to name in `/proc/PID/…` for people outside who want to look in: under the machine's
/// own numbers where this process is in a sandbox.
pub fn outside_pid() -> u32 {
    // /proc was mounted by the machine and shows its numbers.
    fs::read_link("/proc/self")
        .ok()
        .and_then(|link| link.to_str().and_then(|text| text.parse().ok()))
        .unwrap_or_else(std::process::id)
}

/// Whether this user could not have done it without a user namespace, so that people need to enter
/// that as well to look in.
pub fn in_user_namespace() -> bool {
    // In the machine's own user namespace every user maps to itself.
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// The file of this program, to start it once more.
pub fn own_program() -> PathBuf {
    // A file that was replaced or removed meanwhile still exists under the second name.
    env::current_exe()
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

fn settle_inside() -> io::Result<()> {
    // The outer process blocks signals to read them; a child inherits that.
    SigSet::all().thread_unblock()?;
    let directory = LabDirectory::given_by_parent().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "the outer process gave no directory",
        )
    })?;
    // The pipe hangs up when the outer process ends, even if that was before this line. A parent death
    // signal would leave no time to remove the directory.
    thread::Builder::new()
        .name("lifeline".to_owned())
        .spawn(move || {
            // Nothing is ever written: whatever this returns, the outer process has gone.
            let _ = io::stdin().lock().read(&mut [0]);
            // All processes of this PID namespace but this one, so that none still writes files.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
            let _ = fs::remove_dir_all(&directory);
            std::process::exit(KILLED)
        })?;
    Ok(())
}

/// The namespaces that the next child process will live in.
fn isolate() -> Result<(), SandboxError> {
    let own = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    let forbidden = |what| {
        move |errno: Errno| SandboxError::Forbidden {
            what,
            source: errno.into(),
        }
    };
    if geteuid().is_root() {
        match unshare(own) {
            // Root of a container may lack the capability; it has the chance of an ordinary user.
            Err(Errno::EPERM) => {}
            result => return result.map_err(forbidden("process and network namespaces")),
        }
    }
    let (user, group) = (geteuid(), getegid());
    unshare(own | CloneFlags::CLONE_NEWUSER).map_err(forbidden("a user namespace"))?;
    // Groups can be mapped only after setgroups(2) is given up (`user_namespaces(7)`).
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/gid_map", format!("0 {group} 1")),
        ("/proc/self/uid_map", format!("0 {user} 1")),
    ];
    for (path, text) in maps {
        fs::write(path, text).map_err(|source| SandboxError::Forbidden {
            what: "a user namespace with a root user",
            source,
        })?;
    }
    Ok(())
}

/// Starts the inner process, passes signals on and waits for its end.
fn supervise(directory: &LabDirectory) -> Result<u8, SandboxError> {
    let failed = |what| move |source: io::Error| SandboxError::Process { what, source };
    let mut mask: SigSet = FORWARDED.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    // Blocked before the start, so that no signal comes between.
    mask.thread_block()
        .map_err(|errno| failed("watch")(errno.into()))?;
    let signals = SignalFd::new(&mask).map_err(|errno| failed("watch")(errno.into()))?;

    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_else(|| "edgelb".into());
    let (variable, path) = directory.variable_for_child();
    let mut child = Command::new(own_program())
        .arg0(name)
        .args(arguments)
        .env(VARIABLE, std::process::id().to_string())
        .env(variable, path)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(failed("start"))?;
    let pid = i32::try_from(child.id())
        .map(Pid::from_raw)
        .map_err(|error| failed("start")(io::Error::other(error)))?;
    loop {
        let signal = match signals.read_signal() {
            Ok(Some(information)) => i32::try_from(information.ssi_signo)
                .ok()
                .and_then(|number| Signal::try_from(number).ok()),
            Ok(None) | Err(Errno::EINTR) => None,
            Err(errno) => return Err(failed("watch")(errno.into())),
        };
        if let Some(status) = child.try_wait().map_err(failed("wait for"))? {
            return Ok(exit_code(status));
        }
        if let Some(signal) = signal.filter(|signal| FORWARDED.contains(signal)) {
            // The only failure is that the process has just ended, which the next round sees.
            let _ = kill(pid, signal);
        }
    }
}

/// A process killed by signal N ends as a shell shows it: 128 + N.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
