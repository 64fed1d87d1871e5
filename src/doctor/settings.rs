//! Sysctls that somebody else holds at another value than edgelb wrote, and files that will do so at
//! the next boot; and what this node does not forward because edgelb made it a router. Reads what the
//! daemon recorded; writes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, Level, Section};
use crate::apply::conntrack;
use crate::apply::state_directory::{SysctlRecords, peek};
use crate::config::Config;
use crate::model::sysctl::Rule;

/// Where systemd-sysctl and procps look.
const DIRECTORIES: [&str; 4] = [
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
];
const FILE: &str = "/etc/sysctl.conf";

/// What makes a node a router, as [`crate::apply::kernel`] asks for it.
const FORWARDING: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];

/// The findings; without a daemon nothing holds the settings.
pub(super) fn examine(config: &Config, running: bool) -> Vec<Finding> {
    if !running {
        return Vec::new();
    }
    let records = peek::sysctls(&config.node.state_dir);
    let mut findings = held(&records);
    findings.extend(restricted(&records));
    for file in files() {
        let text = fs::read_to_string(&file).unwrap_or_default();
        findings.extend(set_by(&records, &file, &text));
    }
    findings
}

fn finding(level: Level, message: String, remedy: String) -> Finding {
    Finding::new(Section::Kernel, level, message).mend(remedy)
}

fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// Whether a value is one that edgelb wrote, or does as well.
fn fits(path: &str, ours: &BTreeSet<String>, value: &str) -> bool {
    let enough = || {
        let rules = conntrack::sysctls();
        let rule = rules.into_iter().find(|(other, _)| *other == path);
        match rule.map(|(_, sysctl)| sysctl.rule) {
            Some(Rule::AtLeast(least)) => value.trim().parse().is_ok_and(|it: u64| it >= least),
            _ => false,
        }
    };
    ours.iter().any(|ours| same(ours, value)) || enough()
}

fn joined(ours: &BTreeSet<String>) -> String {
    let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
    ours.join(" or ")
}

fn held(records: &SysctlRecords) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, record) in records {
        let Ok(value) = fs::read_to_string(Path::new("/proc/sys").join(path)) else {
            continue;
        };
        let value = value.trim();
        if !fits(path, &record.ours, value) {
            let name = path.replace('/', ".");
            let wanted = joined(&record.ours);
            let file = Path::new("/proc/sys").join(path);
            // Root may open it for all that; what counts is what the kernel means it to be.
            if fs::metadata(file).is_ok_and(|file| file.permissions().readonly()) {
                let message = format!(
                    "{name} is {value}, edgelb asks for {wanted}: another network namespace has the say"
                );
                let remedy = format!("set {name} = {wanted} on the host");
                findings.push(finding(Level::Info, message, remedy));
                continue;
            }
            findings.push(finding(
                Level::Problem,
                format!("something else holds {name} at {value}, edgelb needs {wanted}"),
                format!(
                    "sysctl -w {name}={}, and find who writes it (sysctl.d, other network programs)",
                    record.ours.first().map_or("", String::as_str)
                ),
            ));
        }
    }
    findings
}

/// Where edgelb made this node a router, its table has a chain that keeps it from being one for
/// anything else (`apply/nftables/rules/forward.rs`). It goes by the value before, which a record
/// keeps until the next boot, or until cleanup puts it back.
fn restricted(records: &SysctlRecords) -> Vec<Finding> {
    let ours = FORWARDING.into_iter().filter(|path| {
        let record = records.get(*path);
        record.is_some_and(|record| record.previous.trim() == "0")
    });
    let told = ours.map(|path| {
        let name = path.replace('/', ".");
        let short = name.rsplit('.').next().unwrap_or(&name);
        let family = if path.contains("ipv6") { "IPv6" } else { "IPv4" };
        let message = format!(
            "edgelb switched {short} on ({name}), so this node forwards only {family} that belongs to \
             Services and pods"
        );
        let remedy = format!(
            "to have a general router set {name}=1 in sysctl.d, and start edgelb again after a reboot, \
             or stop it, remove the record with edgelb cleanup, run sysctl --system and start it again"
        );
        finding(Level::Info, message, remedy)
    });
    told.collect()
}

/// Every file with settings; a name in an earlier directory hides the same in a later one.
fn files() -> Vec<PathBuf> {
    let mut names = BTreeSet::new();
    let mut files = vec![PathBuf::from(FILE)];
    for directory in DIRECTORIES {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "conf")
            })
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| names.insert(name.to_owned()))
            })
            .collect();
        found.sort();
        files.extend(found);
    }
    files
}

/// What a file sets to something else.
fn set_by(records: &SysctlRecords, file: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let Some((name, value)) = line
            .split_once('=')
            .filter(|_| !line.starts_with(['#', ';']))
        else {
            continue;
        };
        let name = name.trim().trim_start_matches('-');
        let record = records
            .iter()
            .find(|(path, _)| **path == name || path.replace('/', ".") == name);
        let Some((path, record)) = record.filter(|(path, record)| !fits(path, &record.ours, value))
        else {
            continue;
        };
        let (name, wanted) = (path.replace('/', "."), joined(&record.ours));
        let place = format!("{}:{}", file.display(), number + 1);
        findings.push(finding(
            Level::Warning,
            format!(
                "{place} sets {name} to {}, edgelb needs {wanted} and writes it back",
                value.trim()
            ),
            format!("take the line out, or set {wanted}"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::state_directory::SysctlRecord;

    #[test]
    fn a_node_that_edgelb_made_a_router_is_told_what_it_forwards() {
        let record = |previous: &str| SysctlRecord {
            previous: previous.to_owned(),
            ours: BTreeSet::from(["1".to_owned()]),
        };
        let records = SysctlRecords::from([
            ("net/ipv4/ip_forward".to_owned(), record("0\n")),
            ("net/ipv6/conf/all/forwarding".to_owned(), record("1")),
            ("net/ipv4/conf/all/rp_filter".to_owned(), record("0")),
        ]);
        let found = restricted(&records);
        let told: Vec<_> = (found.iter())
            .map(|it| (it.level, it.message.as_str()))
            .collect();
        let message = "edgelb switched ip_forward on (net.ipv4.ip_forward), so this node forwards only \
                       IPv4 that belongs to Services and pods";
        assert_eq!(told, [(Level::Info, message)]);
    }

    #[test]
    fn lines_that_set_another_value_are_named() {
        let record = SysctlRecord {
            previous: "0".to_owned(),
            ours: BTreeSet::from(["1".to_owned()]),
        };
        let records = SysctlRecords::from([("net/ipv4/ip_forward".to_owned(), record)]);
        let text = "# net.ipv4.ip_forward = 0\nnet.ipv4.ip_forward=1\n-net/ipv4/ip_forward = 0\n\
                    net.ipv4.tcp_syncookies = 0\nnonsense\nnet.ipv4.ip_forward = 0\n";
        let found = set_by(&records, Path::new("/etc/sysctl.d/99-x.conf"), text);
        let places: Vec<&str> = (found.iter())
            .filter_map(|found| found.message.split(' ').next())
            .collect();
        assert_eq!(
            places,
            ["/etc/sysctl.d/99-x.conf:3", "/etc/sysctl.d/99-x.conf:6"]
        );
    }
}
