//! A network namespace without a name, held by an open file descriptor.
//!
//! Nothing is mounted and nothing is written to `/run/netns`: when the last descriptor closes, also
//! by `kill -9`, the kernel takes the namespace down with every link in it. This module never
//! changes the namespace of the calling thread: whatever must happen inside happens on a thread of
//! its own, so it works beside a running tokio runtime. A tokio runtime that shall serve a namespace
//! is built inside of [`Namespace::run`] or on a thread started by [`Namespace::spawn_thread`].

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use netlink_packet_route::RouteNetlinkMessage;
use nix::sched::{CloneFlags, setns, unshare};

use super::LabError;
use super::netlink::RouteSocket;

/// A network namespace; clones share it, and it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    /// `/proc/thread-self/ns/net` of a thread that lived in the namespace.
    descriptor: File,
    /// A netlink socket belongs for ever to the namespace in which it was opened.
    route_socket: Mutex<RouteSocket>,
}

/// Settings of a new namespace that would otherwise be inherited from the machine
/// (`net.core.devconf_inherit_init_net`), so that a lab behaves the same everywhere. The IPv6 ones
/// make an address usable at once: duplicate address detection would hold it back for a second.
const INITIAL_SETTINGS: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/arp_ignore", "0"),
    ("net/ipv4/conf/default/arp_ignore", "0"),
    ("net/ipv4/conf/all/arp_announce", "0"),
    ("net/ipv4/conf/default/arp_announce", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];

impl Namespace {
    /// Creates an empty namespace whose loopback interface is up. `name` is for messages only.
    pub fn create(name: &str) -> Result<Self, LabError> {
        let failed = |source| LabError::Namespace {
            name: name.to_owned(),
            source,
        };
        let (descriptor, route_socket) = thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name(format!("new {name}"))
                .spawn_scoped(scope, || {
                    unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                    Ok::<_, io::Error>((
                        File::open("/proc/thread-self/ns/net")?,
                        RouteSocket::open()?,
                    ))
                });
            worker.and_then(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the worker thread panicked")))
            })
        })
        .map_err(failed)?;
        let namespace = Self(Arc::new(Inner {
            name: name.to_owned(),
            descriptor,
            route_socket: Mutex::new(route_socket),
        }));
        for (setting, value) in INITIAL_SETTINGS {
            namespace.set_sysctl_if_present(setting, value)?;
        }
        namespace.set_up("lo")?;
        Ok(namespace)
    }

    /// The name given at creation.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The descriptor number by which netlink and `nsenter --net=/proc/PID/fd/N` find the namespace.
    pub fn descriptor(&self) -> RawFd {
        self.0.descriptor.as_raw_fd()
    }

    /// Runs `work` on a new thread inside the namespace and waits for it. A panic in `work` goes on
    /// in the caller. Sockets opened by `work` stay in the namespace wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let entered = thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name(self.0.name.clone())
                .spawn_scoped(scope, || self.enter().map(|()| work()))?;
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        entered.map_err(|source| LabError::Namespace {
            name: self.0.name.clone(),
            source,
        })
    }

    /// Like [`Self::run`] for work that can fail: both failures come back as the work's error.
    pub fn try_run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        self.run(work).map_err(io::Error::other)?
    }

    /// Starts a thread inside the namespace that outlives this call. The thread holds the namespace
    /// open for as long as it runs.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let namespace = self.clone();
        thread::Builder::new()
            .name(self.0.name.clone())
            .spawn(move || namespace.enter().and_then(|()| work()))
    }

    /// Starts a child process inside the namespace: a child inherits the namespaces of the thread
    /// that starts it.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        self.try_run(|| command.spawn())
    }

    /// Writes a kernel setting, named by its path under `/proc/sys`, for example
    /// `net/ipv4/ip_forward`. Settings below `net/` act on the writing thread's namespace.
    pub fn set_sysctl(&self, setting: &str, value: &str) -> Result<(), LabError> {
        let path = Path::new("/proc/sys").join(setting);
        self.run(|| std::fs::write(&path, value))?
            .map_err(|source| self.sysctl_error(setting, source))
    }

    /// Like [`Self::set_sysctl`], but a kernel that does not have the setting at all is fine.
    pub fn set_sysctl_if_present(&self, setting: &str, value: &str) -> Result<(), LabError> {
        match self.set_sysctl(setting, value) {
            Err(LabError::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            result => result,
        }
    }

    /// Reads a kernel setting, without the line feed at its end.
    pub fn sysctl(&self, setting: &str) -> Result<String, LabError> {
        let path = Path::new("/proc/sys").join(setting);
        let text = self
            .run(|| std::fs::read_to_string(&path))?
            .map_err(|source| self.sysctl_error(setting, source))?;
        Ok(text.trim_end().to_owned())
    }

    /// Sends one rtnetlink request and gives its replies; `what` names it in the error.
    pub(super) fn request(
        &self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, LabError> {
        // A panic elsewhere leaves the socket usable: replies are told apart by sequence number.
        let mut socket = self
            .0
            .route_socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        socket
            .request(message, flags)
            .map_err(|source| LabError::Netlink {
                what: what.to_owned(),
                namespace: self.0.name.clone(),
                source,
            })
    }

    fn enter(&self) -> io::Result<()> {
        setns(&self.0.descriptor, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
    }

    fn sysctl_error(&self, setting: &str, source: io::Error) -> LabError {
        LabError::Sysctl {
            setting: setting.to_owned(),
            namespace: self.0.name.clone(),
            source,
        }
    }
}

/// Runs an independent program in the namespace and gives what it printed on stdout: for checks by
/// another eye, such as `ipvsadm -Ln`. A program that is missing or fails is an error that holds
/// what it said on stderr.
pub fn tool(namespace: &Namespace, program: &str, arguments: &[&str]) -> Result<String, LabError> {
    let failed = |reason: String| LabError::Tool {
        program: program.to_owned(),
        namespace: namespace.name().to_owned(),
        reason,
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = namespace
        .try_run(|| command.output())
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}
