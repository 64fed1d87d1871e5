//! What is used up on this node: the connection tracking and neighbour tables of the kernel, the disk
//! below the state directory; and files and clock as they should be. Reads; writes nothing, not even to
//! see whether it could.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::statvfs::{Statvfs, statvfs};
use nix::unistd::{AccessFlags, access, geteuid};

use super::finding::{Finding, Level, Section};
use super::processes::{Process, named};
use crate::config::Config;
use crate::membership::keys;

/// Less than this, and the journal of virtual servers or the next snapshot may not fit.
const LEAST_SPACE: u64 = 16 << 20;
/// A clock is set in small steps while it runs right.
const LARGEST_STEP: Duration = Duration::from_secs(60);
/// Who keeps a clock, by the name of the process.
const CLOCK_KEEPERS: [&str; 7] = [
    "chronyd",
    "systemd-timesyn",
    "ntpd",
    "ntpd-rs",
    "openntpd",
    "ptp4l",
    "phc2sys",
];

/// The findings of this section.
pub(super) fn examine(config: &Config, processes: &[Process]) -> Vec<Finding> {
    let mut findings = tables();
    findings.extend(state_directory(&config.node.state_dir));
    for path in &config.membership.key_files {
        findings.extend(key_file(path));
    }
    findings.extend(clock(&config.node.state_dir, processes));
    if findings.iter().all(|it| it.level <= Level::Info) {
        let message = "tables of the kernel, disk and key files leave room";
        findings.push(finding(Level::Fine, message));
    }
    findings
}

fn finding(level: Level, message: impl Into<String>) -> Finding {
    Finding::new(Section::Limits, level, message)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn tables() -> Vec<Finding> {
    let mut findings = Vec::new();
    let conntrack = |name: &str| number(&format!("/proc/sys/net/netfilter/nf_conntrack_{name}"));
    if let (Some(count), Some(most)) = (conntrack("count"), conntrack("max")) {
        findings.extend(full_conntrack(count, most));
    }
    for (family, table) in [("ipv4", "arp_cache"), ("ipv6", "ndisc_cache")] {
        let text = fs::read_to_string(format!("/proc/self/net/stat/{table}")).unwrap_or_default();
        let most = number(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"));
        if let (Some(count), Some(most)) = (entries(&text), most) {
            findings.extend(full_neighbours(family, count, most));
        }
    }
    findings
}

/// Nine tenths of the table: new connections are dropped soon.
fn full_conntrack(count: u64, most: u64) -> Option<Finding> {
    let level = level_of(count, most)?;
    let told = finding(
        level,
        format!(
            "the connection tracking table is {}: new connections {} dropped",
            fullness(count, most),
            if count >= most { "are" } else { "will soon be" }
        ),
    );
    let wanted = most.saturating_mul(2);
    Some(
        told.seen(format!(
            "nf_conntrack_count {count} of nf_conntrack_max {most}; `dmesg | grep conntrack` shows drops"
        ))
        .mend(format!(
            "sysctl -w net.netfilter.nf_conntrack_max={wanted}, and the same in /etc/sysctl.d"
        )),
    )
}

/// The first number of the second line, hexadecimal: `entries` of `/proc/net/stat/arp_cache`.
fn entries(text: &str) -> Option<u64> {
    let first = text.lines().nth(1)?.split_whitespace().next()?;
    u64::from_str_radix(first, 16).ok()
}

fn full_neighbours(family: &str, count: u64, most: u64) -> Option<Finding> {
    let level = level_of(count, most)?;
    let told = finding(
        level,
        format!(
            "the neighbour table of {family} is {}: hosts and pods that are not in it are not reached",
            fullness(count, most)
        ),
    );
    let sysctl = format!("net.{family}.neigh.default");
    Some(told.seen(format!("{count} entries, gc_thresh3 {most}")).mend(format!(
        "sysctl -w {sysctl}.gc_thresh3={} {sysctl}.gc_thresh2={} {sysctl}.gc_thresh1={}, and the same in \
         /etc/sysctl.d",
        most.saturating_mul(4),
        most.saturating_mul(2),
        most
    )))
}

fn level_of(count: u64, most: u64) -> Option<Level> {
    let tenths = count.saturating_mul(10).checked_div(most)?;
    match tenths {
        0..=7 => None,
        8 => Some(Level::Warning),
        _ => Some(Level::Problem),
    }
}

fn fullness(count: u64, most: u64) -> String {
    let percent = count.saturating_mul(100).checked_div(most).unwrap_or(100);
    format!("{percent} % full")
}

fn state_directory(path: &Path) -> Option<Finding> {
    let space = match statvfs(path) {
        Ok(space) => space,
        // The daemon makes it at its first start.
        Err(Errno::ENOENT) => return None,
        Err(error) => {
            let message = format!("the state directory {} cannot be looked at", path.display());
            let remedy = format!("stat {}", path.display());
            return Some(
                finding(Level::Warning, message)
                    .seen(error.to_string())
                    .mend(remedy),
            );
        }
    };
    let writable = match access(path, AccessFlags::W_OK) {
        // What this user may not write, the daemon may, which is root.
        Err(Errno::EACCES) if !geteuid().is_root() => Ok(()),
        writable => writable,
    };
    judge_directory(path, room(&space), writable)
}

/// Octets and files that still fit; none where a file system does not count files.
fn room(space: &Statvfs) -> (u64, Option<u64>) {
    let octets = space
        .blocks_available()
        .saturating_mul(space.fragment_size());
    let counts = space.files() > 0;
    (octets, counts.then(|| space.files_available()))
}

fn judge_directory(
    path: &Path,
    (octets, files): (u64, Option<u64>),
    writable: Result<(), Errno>,
) -> Option<Finding> {
    let shown = path.display();
    let lost = "allocations and what is ours in the kernel can not be recorded";
    if let Err(error) = writable {
        let (message, remedy) = match error {
            Errno::EROFS => (
                format!("the state directory {shown} is on a read-only file system: {lost}"),
                format!("mount -o remount,rw $(findmnt -no TARGET -T {shown})"),
            ),
            _ => (
                format!("the state directory {shown} cannot be written: {lost}"),
                format!("chown root: {shown} && chmod 700 {shown}, or run doctor as root"),
            ),
        };
        return Some(
            finding(Level::Problem, message)
                .seen(error.to_string())
                .mend(remedy),
        );
    }
    let (message, seen) = if octets < LEAST_SPACE {
        (
            format!("the disk of the state directory {shown} is full: {lost}"),
            format!("{} KiB are free", octets >> 10),
        )
    } else if files == Some(0) {
        (
            format!("the disk of the state directory {shown} has no inode left: {lost}"),
            "0 inodes are free".to_owned(),
        )
    } else {
        return None;
    };
    let remedy = format!("df -h {shown}; df -i {shown}; remove what fills it");
    Some(finding(Level::Problem, message).seen(seen).mend(remedy))
}

fn key_file(path: &Path) -> Option<Finding> {
    let shown = path.display();
    // What this user may not read, the daemon may, which is root.
    if !geteuid().is_root() && access(path, AccessFlags::R_OK) == Err(Errno::EACCES) {
        return None;
    }
    if let Err(error) = keys::read(&[path.to_owned()]) {
        let cause = std::error::Error::source(&error);
        let seen = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        let message =
            format!("the membership key {shown} cannot be used: peers do not hear this node");
        let remedy = format!(
            "copy the key of another edge node to {shown} (or make one: head -c 32 /dev/urandom | base64 \
             > {shown}), chmod 600 {shown}"
        );
        return Some(finding(Level::Problem, message).seen(seen).mend(remedy));
    }
    let mode = fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        let message = format!("others on this node can read the membership key {shown}");
        let told = finding(Level::Warning, message).seen(format!("mode {:o}", mode & 0o777));
        told.mend(format!(
            "chmod 600 {shown}; whoever read it can speak as a node: make a new one"
        ))
    })
}

fn clock(state: &Path, processes: &[Process]) -> Vec<Finding> {
    let written = ["boot_id", "allocations.json", "cluster.json"].into_iter();
    let newest = written
        .filter_map(|name| fs::metadata(state.join(name)).ok()?.modified().ok())
        .max();
    let mut findings: Vec<Finding> = newest
        .and_then(|newest| set_back(newest, SystemTime::now()))
        .into_iter()
        .collect();
    let kept = CLOCK_KEEPERS
        .into_iter()
        .find(|name| !named(processes, name).is_empty());
    let timesync = Path::new("/run/systemd/timesync");
    let synchronized = timesync.join("synchronized").exists();
    findings.extend(kept_clock(kept, timesync.exists() && !synchronized));
    findings
}

fn set_back(newest: SystemTime, now: SystemTime) -> Option<Finding> {
    let ahead = newest
        .duration_since(now)
        .ok()
        .filter(|it| *it > LARGEST_STEP)?;
    let message = "this node's clock is wrong: it stands before the time at which the daemon wrote its \
                   state";
    Some(
        finding(Level::Warning, message)
            .seen(format!("{} s behind", ahead.as_secs()))
            .mend("timedatectl set-ntp true (or chronyc makestep)"),
    )
}

/// edgelb itself compares no clocks of nodes; certificates, tokens and logs do.
fn kept_clock(keeper: Option<&str>, unsynchronized: bool) -> Option<Finding> {
    match keeper {
        Some("systemd-timesyn") if unsynchronized => Some(
            finding(
                Level::Warning,
                "this node's clock is not synchronised: certificates and tokens may be refused",
            )
            .seen("systemd-timesyncd has not reached a server since the boot")
            .mend("timedatectl timesync-status, and let UDP 123 out"),
        ),
        Some(_) => None,
        None => Some(
            finding(
                Level::Info,
                "no program on this node is seen to keep its clock (chronyd, systemd-timesyncd, ntpd)",
            )
            .mend("apt install chrony"),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn tables_that_are_nearly_full_are_named() {
        for (count, most, level) in [
            (0, 0, None),
            (10, 262_144, None),
            (79, 100, None),
            (80, 100, Some(Level::Warning)),
            (95, 100, Some(Level::Problem)),
            (100, 100, Some(Level::Problem)),
        ] {
            assert_eq!(full_conntrack(count, most).map(|it| it.level), level);
            assert_eq!(
                full_neighbours("ipv4", count, most).map(|it| it.level),
                level
            );
        }
        let found = full_conntrack(250_000, 262_144).unwrap();
        assert!(
            found
                .remedy
                .unwrap()
                .starts_with("sysctl -w net.netfilter.nf_conntrack_max=524288")
        );
        assert_eq!(entries("entries  allocs\n000003ff  0000\n"), Some(1023));
        assert_eq!(entries("entries\n"), None);
    }

    #[test]
    fn a_directory_is_judged_by_what_fits_in_it() {
        let path = Path::new("/var/lib/edgelb");
        let judge = |room, writable| judge_directory(path, room, writable).map(|it| it.message);
        assert_eq!(judge((1 << 30, Some(5)), Ok(())), None);
        assert_eq!(judge((1 << 30, None), Ok(())), None);
        for (room, writable, word) in [
            ((4096, Some(5)), Ok(()), "is full"),
            ((1 << 30, Some(0)), Ok(()), "no inode"),
            ((1 << 30, Some(5)), Err(Errno::EROFS), "read-only"),
            ((1 << 30, Some(5)), Err(Errno::EACCES), "cannot be written"),
        ] {
            assert!(judge(room, writable).unwrap().contains(word));
        }
    }

    #[test]
    fn a_key_is_read_as_the_daemon_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let set = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            key_file(&path).map(|it| it.level)
        };
        assert_eq!(key_file(&path).map(|it| it.level), Some(Level::Problem));
        let key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n";
        assert_eq!(set(key, 0o600), None);
        assert_eq!(set(key, 0o644), Some(Level::Warning));
        assert_eq!(set("short", 0o600), Some(Level::Problem));
    }

    #[test]
    fn a_clock_is_judged() {
        let now = SystemTime::now();
        assert_eq!(set_back(now, now + Duration::from_secs(5)), None);
        assert!(set_back(now + Duration::from_secs(3600), now).is_some());
        assert_eq!(kept_clock(Some("chronyd"), true), None);
        let level = |keeper, unsynchronized| kept_clock(keeper, unsynchronized).map(|it| it.level);
        assert_eq!(level(Some("systemd-timesyn"), true), Some(Level::Warning));
        assert_eq!(level(None, false), Some(Level::Info));
    }
}
