//! keepalived in the lab's nodes: the peer that failovers are measured beside. One VRRP router
//! (RFC 9568) on each node, with one IPv4 VIP on `eth0`, and a server there that answers on it.

use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{Lab, LabError, Namespace};

/// Where Debian puts it, and then what `PATH` finds: an ordinary user's has no `sbin`.
const PROGRAMS: [&str; 3] = [
    "/usr/sbin/keepalived",
    "/usr/local/sbin/keepalived",
    "keepalived",
];
/// How long it may take to end by itself.
const LONGEST_END: Duration = Duration::from_secs(5);

/// How many lines of its log are given.
const LOG_TAIL: usize = 12;

/// What all routers of a lab are told.
#[derive(Debug, Clone)]
pub struct KeepalivedOptions {
    /// The program, from [`installed`].
    pub program: PathBuf,
    /// The address that they keep alive.
    pub vip: Ipv4Addr,
    /// From one advertisement to the next; whole hundredths of a second.
    pub advertisement: Duration,
}

/// A running keepalived; dropping it kills it.
#[derive(Debug)]
pub struct Keepalived {
    node: String,
    namespace: Namespace,
    vip: Ipv4Addr,
    child: Child,
    log_path: PathBuf,
}

/// The program on this machine, and the first line of what it says of its version.
pub fn installed() -> Option<(PathBuf, String)> {
    PROGRAMS.iter().map(PathBuf::from).find_map(|program| {
        let output = Command::new(&program).arg("--version").output().ok()?;
        // It speaks of its version on stderr.
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let version = said.lines().find(|line| !line.trim().is_empty())?;
        Some((program, version.trim().to_owned()))
    })
}

impl Keepalived {
    /// Starts it on a node. The lower the node's index, the higher its priority, but none takes the
    /// VIP from another that has it.
    pub fn start(lab: &Lab, index: usize, options: &KeepalivedOptions) -> Result<Self, LabError> {
        let node = lab.node(index)?;
        let directory = lab.directory().join(&node.name);
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| LabError::File { what, path, source }
        };
        fs::create_dir_all(&directory).map_err(file("create", &directory))?;
        let configuration = directory.join("keepalived.conf");
        fs::write(&configuration, text(index, options)).map_err(file("write", &configuration))?;
        let log_path = directory.join("keepalived.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(file("write", &log_path))?;
        // Those of one that was killed name processes that nobody may have waited for yet, which it
        // takes for running ones.
        let pids = ["keepalived.pid", "vrrp.pid"].map(|name| directory.join(name));
        for path in &pids {
            match fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(file("remove", path)(error));
                }
                _ => {}
            }
        }
        let [pid, vrrp_pid] = pids;
        let mut command = Command::new(&options.program);
        command
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(&configuration)
            .arg("--pid")
            .arg(pid)
            .arg("--vrrp_pid")
            .arg(vrrp_pid)
            .stdin(Stdio::null())
            .stdout(log.0)
            .stderr(log.1)
            // Its own child too is ended by a signal to the group.
            .process_group(0);
        let child = node
            .namespace
            .spawn(&mut command)
            .map_err(|error| failed(&node.name, format!("cannot be started: {error}")))?;
        Ok(Self {
            node: node.name.clone(),
            namespace: node.namespace.clone(),
            vip: options.vip,
            child,
            log_path,
        })
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The last lines of all that the node's keepalived said.
    pub fn log_tail(&self) -> String {
        let log = fs::read(&self.log_path).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_TAIL)..);
        tail.unwrap_or_default().join("\n")
    }

    /// Kills it and its child as a crash of both does (SIGKILL). Its VIP stays where it is.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.signal(Signal::SIGKILL)?;
        let node = self.node.clone();
        self.child
            .wait()
            .map(|_| ())
            .map_err(|error| failed(&node, format!("cannot be waited for: {error}")))
    }

    /// Asks it to end (SIGTERM), by which it gives the VIP up, and waits for its end.
    pub fn terminate(&mut self) -> Result<(), LabError> {
        let node = self.node.clone();
        let pid = group(&self.child);
        nix::sys::signal::kill(pid, Signal::SIGTERM)
            .map_err(|errno| failed(&node, format!("cannot be ended: {errno}")))?;
        let deadline = Instant::now() + LONGEST_END;
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(failed(&node, format!("cannot be waited for: {error}"))),
            }
        }
        Err(failed(&node, "does not end on SIGTERM".to_owned()))
    }

    /// Takes the VIP of a killed one from the node, as its next start would.
    pub fn remove_vip(&self) -> Result<(), LabError> {
        let result = self
            .namespace
            .remove_address("eth0", ipnet::IpNet::from(std::net::IpAddr::V4(self.vip)));
        match result {
            // Already gone: EADDRNOTAVAIL of rtnetlink(7).
            Err(LabError::Netlink { ref source, .. })
                if source.kind() == std::io::ErrorKind::AddrNotAvailable =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), LabError> {
        killpg(group(&self.child), signal)
            .map_err(|errno| failed(&self.node, format!("cannot send {signal}: {errno}")))
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to do.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

fn group(child: &Child) -> Pid {
    // The kernel's process numbers fit; the impossible one names no process.
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

fn failed(node: &str, reason: String) -> LabError {
    LabError::Tool {
        program: "keepalived".to_owned(),
        namespace: node.to_owned(),
        reason,
    }
}

/// Its configuration: as fast as the advertisements allow, and gratuitous ARP as often as by default.
fn text(index: usize, options: &KeepalivedOptions) -> String {
    format!(
        "global_defs {{\n    router_id node_{index}\n}}\n\
         vrrp_instance lab {{\n    state BACKUP\n    nopreempt\n    interface eth0\n    \
         virtual_router_id 51\n    priority {priority}\n    advert_int {interval}\n    version 3\n    \
         virtual_ipaddress {{\n        {vip}/32 dev eth0\n    }}\n}}\n",
        priority = 200_usize.saturating_sub(index * 10),
        interval = options.advertisement.as_secs_f64(),
        vip = options.vip,
    )
}
