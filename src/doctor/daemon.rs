//! Whether the daemon of this node runs and answers, could do what it was told, and has what it needs:
//! privileges, descriptors, the ports it listens on, and nobody else who does the same. Asks and reads.

use std::fs;
use std::path::Path;

use super::finding::{Depth, Finding, Level, Section};
use super::processes::{Process, named};
use super::running::Running;
use super::sockets::Waiting;
use crate::admin::client::AskError;
use crate::admin::view::Status;
use crate::config::Config;
use crate::model::family::Protocol;

/// The program's name as the kernel keeps it.
const PROGRAM: &str = "edgelb";
/// Failures and problems that are named; more are counted.
const MOST_NAMED: usize = 4;
/// Health-check ports have findings of their own (`node_ports`).
const TOLD_ELSEWHERE: &str = "health_check_port";
/// `linux/capability.h`
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];
/// A daemon opens a socket for each interface, peer and watch, and a few files.
const FEWEST_DESCRIPTORS: u64 = 256;

/// The findings of this section.
pub(super) fn examine(
    config: &Config,
    running: Result<&Running, &AskError>,
    processes: &[Process],
    sockets: &[Waiting],
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = two(processes).into_iter().collect();
    match running {
        Ok(running) => {
            findings.extend(told(&running.status));
            findings.extend(running.process.into_iter().flat_map(needs));
            findings.extend(draining(running));
            findings.extend(full_pools(running));
        }
        Err(error) => {
            let other = !daemons(processes).is_empty();
            findings.push(absent(config, error, other));
            // Whom this user may not ask is there, and has its ports.
            if !matches!(error, AskError::Permission { .. } | AskError::Denied { .. }) {
                findings.extend(ports(config, sockets));
            }
        }
    }
    findings.extend(own_privileges());
    if findings.is_empty() {
        let message = match running {
            Ok(_) => "the daemon answers, and its last pass had no failure",
            Err(_) => "no daemon is in the way",
        };
        findings.push(Finding::new(Section::Daemon, Level::Fine, message));
    }
    findings
}

fn finding(level: Level, message: String, remedy: &str) -> Finding {
    Finding::new(Section::Daemon, level, message).mend(remedy)
}

/// Why nobody answered.
fn absent(config: &Config, error: &AskError, other: bool) -> Finding {
    let state = &config.node.state_dir;
    let boot = |path: &Path| fs::read_to_string(path).ok().map(|it| it.trim().to_owned());
    let recorded = boot(&state.join("boot_id"));
    let ran = recorded.is_some() && recorded == boot(Path::new("/proc/sys/kernel/random/boot_id"));
    judge_absence(error, ran, other)
}

fn judge_absence(error: &AskError, ran: bool, other: bool) -> Finding {
    match error {
        AskError::NoDaemon { cause, .. } if ran => finding(
            Level::Problem,
            "the daemon ran here since the last boot and does not run now: nothing follows changes, \
             and peers take its VIPs"
                .to_owned(),
            "systemctl restart edgelb; systemctl status edgelb and journalctl -u edgelb -n 50 say why it ended",
        )
        .seen(format!("{error} ({cause})")),
        AskError::NoDaemon { .. } if other => finding(
            Level::Warning,
            "a daemon runs on this node, and not with this configuration's node.runtime_dir".to_owned(),
            "name its configuration with -c FILE",
        )
        .seen(error.to_string()),
        AskError::NoDaemon { .. } => finding(
            Level::Problem,
            "no daemon runs on this node: it serves no Service and announces no VIP".to_owned(),
            "systemctl enable --now edgelb; systemctl status edgelb and journalctl -u edgelb -n 50 say why \
             it does not start",
        )
        .seen(error.to_string()),
        AskError::Silent { .. } => finding(
            Level::Problem,
            "the daemon is there and hangs: it does not answer at its socket within 2 s".to_owned(),
            "systemctl restart edgelb (forwarding goes on meanwhile); before that, keep \
             `cat /proc/$(pidof edgelb)/status` for a report",
        )
        .seen(error.to_string()),
        AskError::Permission { .. } | AskError::Denied { .. } => finding(
            Level::Problem,
            "this user may not ask the daemon: most of what matters could not be looked at".to_owned(),
            "sudo edgelb doctor; who is in the group edgelb (usermod -aG edgelb USER, then a new login) may \
             ask for all but the kernel's own",
        )
        .seen(error.to_string()),
        AskError::Refused { .. } | AskError::Answer { .. } => finding(
            Level::Warning,
            "the answer of the daemon is not understood".to_owned(),
            "systemctl restart edgelb, so that it runs the installed version",
        )
        .seen(error.to_string()),
    }
}

/// The processes that are daemons, not other commands of the program.
fn daemons(processes: &[Process]) -> Vec<String> {
    let runs = |process: &&Process| process.arguments.iter().any(|it| it == "run");
    (named(processes, PROGRAM).into_iter())
        .filter(runs)
        .map(|process| process.number.to_string())
        .collect()
}

/// More than one daemon in one network namespace undo one another's work.
fn two(processes: &[Process]) -> Option<Finding> {
    let found = daemons(processes);
    (found.len() > 1).then(|| {
        finding(
            Level::Problem,
            "two daemons run on this node and undo one another's work".to_owned(),
            "end the one that systemd does not know: systemctl status edgelb, then kill the other PID",
        )
        .seen(format!("processes {}", found.join(", ")))
    })
}

/// What the daemon says of itself.
fn told(status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    let own = env!("CARGO_PKG_VERSION");
    if status.version != own {
        let message = format!(
            "version {} runs and version {own} is installed",
            status.version
        );
        findings.push(finding(Level::Warning, message, "systemctl restart edgelb"));
    }
    if let Some(problem) = status.allocator.as_ref().and_then(|it| it.problem.as_ref()) {
        let message = "this node cannot give addresses out";
        let remedy = "see the findings about the API server and its rights";
        let told = finding(Level::Warning, message.to_owned(), remedy);
        findings.push(told.seen(one_line(problem)).at(Depth::Cluster));
    }
    let failures = (status.last_pass.failures.iter())
        .filter(|failure| failure.kind != TOLD_ELSEWHERE)
        .collect::<Vec<_>>();
    for failure in failures.iter().take(MOST_NAMED) {
        let message = format!("{} {} could not be applied", failure.kind, failure.object);
        let remedy =
            "it is tried again; what the message names is in the way: journalctl -u edgelb";
        findings.push(finding(Level::Problem, message, remedy).seen(one_line(&failure.message)));
    }
    if failures.is_empty() && !status.ready {
        let message = "the daemon has not finished its first pass";
        let remedy = "wait for its source; journalctl -u edgelb says for what it waits";
        findings.push(finding(Level::Warning, message.to_owned(), remedy).at(Depth::Symptom));
    }
    findings
}

pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

fn draining(running: &Running) -> Option<Finding> {
    let drained = (running.peers.peers.iter()).any(|peer| peer.this_node && peer.draining);
    drained.then(|| {
        let message = "this node is drained: it owns no VIPs while others can".to_owned();
        finding(Level::Warning, message, "edgelb undrain").at(Depth::Node)
    })
}

/// Pools from which nothing more can be given out.
fn full_pools(running: &Running) -> Vec<Finding> {
    let full = running
        .pools
        .pools
        .iter()
        .filter(|pool| pool.free == 0 && pool.total > 0);
    let waits = running.status.services.pending > 0;
    let told = full.map(|pool| {
        let level = if waits { Level::Warning } else { Level::Info };
        let message = format!("pool {} has no free {} address", pool.name, pool.family);
        let remedy = "widen it or add a [[pool]] on every node, then systemctl reload edgelb; edgelb vips \
                      says who holds what";
        let told = finding(level, message, remedy).at(Depth::Cluster);
        told.seen(format!("{} of {} are held", pool.allocated, pool.total))
    });
    told.collect()
}

/// Privileges and descriptors of the daemon's process.
fn needs(process: u32) -> Vec<Finding> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    let mut findings = Vec::new();
    if let Some(effective) = read("status").ok().as_deref().and_then(effective) {
        let missing = missing(effective);
        if !missing.is_empty() {
            let message = format!("the daemon lacks {}", missing.join(" and "));
            let remedy = "run it as root, or add them to AmbientCapabilities= and \
                          CapabilityBoundingSet= of edgelb.service (systemctl edit edgelb)";
            let seen = format!("CapEff of process {process} is {effective:016x}");
            findings.push(finding(Level::Problem, message, remedy).seen(seen));
        }
    }
    let open = fs::read_dir(format!("/proc/{process}/fd")).map(Iterator::count);
    let limit = read("limits").ok().as_deref().and_then(open_files);
    if let (Ok(open), Some(limit)) = (open, limit) {
        let open = u64::try_from(open).unwrap_or(u64::MAX);
        findings.extend(descriptors(process, open, limit));
    }
    findings
}

/// `CapEff` of `/proc/PID/status`
fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let missing = CAPABILITIES
        .into_iter()
        .filter(|(number, _)| effective & (1 << number) == 0);
    missing.map(|(_, name)| name).collect()
}

/// The soft limit of `/proc/PID/limits`
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn descriptors(process: u32, open: u64, limit: u64) -> Option<Finding> {
    let (level, what) = if open.saturating_mul(10) >= limit.saturating_mul(9) {
        (Level::Problem, "has hardly any file descriptors left")
    } else if limit < FEWEST_DESCRIPTORS {
        (Level::Warning, "may open only few file descriptors")
    } else {
        return None;
    };
    let remedy = format!(
        "prlimit --pid {process} --nofile=65536, and LimitNOFILE=65536 in edgelb.service (systemctl \
         edit edgelb)"
    );
    let told = finding(level, format!("the daemon {what}"), &remedy);
    Some(told.seen(format!("{open} of {limit} are open")))
}

/// What doctor itself may not see.
fn own_privileges() -> Option<Finding> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let missing = missing(effective(&status)?);
    (!missing.is_empty()).then(|| {
        let message = format!(
            "doctor itself lacks {}: firewalls, sockets of others and the LAN could not be looked at",
            missing.join(" and ")
        );
        finding(Level::Warning, message, "sudo edgelb doctor")
    })
}

/// Who sits on a port that a daemon needs, as long as there is none.
fn ports(config: &Config, sockets: &[Waiting]) -> Vec<Finding> {
    let needed = [
        (
            Protocol::Tcp,
            config.observability.listen.port(),
            "observability.listen",
        ),
        (
            Protocol::Tcp,
            config.observability.health_listen.port(),
            "observability.health_listen",
        ),
        (
            Protocol::Udp,
            config.membership.listen.port.get(),
            "membership.listen",
        ),
    ];
    let taken = needed.into_iter().filter_map(|(protocol, port, key)| {
        let socket = (sockets.iter())
            .find(|socket| (socket.protocol, socket.port) == (protocol, port))
            .filter(|_| port != 0)?;
        let process = socket.process.as_ref().map_or_else(
            || "another process".to_owned(),
            |(name, number)| format!("{name} (process {number})"),
        );
        let own = matches!(&socket.process, Some((name, _)) if name == PROGRAM);
        (!own).then(|| {
            let message = format!(
                "{process} listens on {} {port}, which {key} needs: the daemon cannot start",
                protocol.lowercase()
            );
            let remedy = format!("end that process, or give {key} another port");
            finding(Level::Problem, message, &remedy)
        })
    });
    taken.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_absent_daemon_is_bad_where_it_was_there() {
        let none = || AskError::NoDaemon {
            path: "/run/edgelb/admin.sock".into(),
            cause: std::io::ErrorKind::NotFound.into(),
        };
        let silent = AskError::Silent {
            path: "/run/edgelb/admin.sock".into(),
            cause: std::io::ErrorKind::TimedOut.into(),
        };
        for (error, ran, other, level, word) in [
            (none(), true, false, Level::Problem, "does not run now"),
            (none(), false, true, Level::Warning, "node.runtime_dir"),
            (none(), false, false, Level::Problem, "no daemon runs"),
            (silent, true, false, Level::Problem, "hangs"),
        ] {
            let found = judge_absence(&error, ran, other);
            assert_eq!(found.level, level, "{found:?}");
            assert!(found.message.contains(word), "{found:?}");
            assert!(found.remedy.is_some());
        }
    }

    #[test]
    fn two_daemons_are_found_and_other_commands_are_none() {
        let process = |number, command: &str| Process {
            number,
            name: PROGRAM.to_owned(),
            arguments: vec![PROGRAM.to_owned(), command.to_owned()],
        };
        assert_eq!(two(&[process(1, "run"), process(2, "doctor")]), None);
        let found = two(&[process(1, "run"), process(2, "run")]).unwrap();
        assert_eq!(found.evidence.as_deref(), Some("processes 1, 2"));
    }

    #[test]
    fn privileges_and_descriptors_are_judged() {
        let status = "Name:\tedgelb\nCapEff:\t0000000000002000\n";
        assert_eq!(missing(effective(status).unwrap()), ["CAP_NET_ADMIN"]);
        assert!(missing(u64::MAX).is_empty());
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(open_files(limits), Some(1024));
        for (open, limit, level) in [
            (20, 1024, None),
            (930, 1024, Some(Level::Problem)),
            (20, 64, Some(Level::Warning)),
            (60, 64, Some(Level::Problem)),
        ] {
            assert_eq!(descriptors(7, open, limit).map(|it| it.level), level);
        }
    }
}
