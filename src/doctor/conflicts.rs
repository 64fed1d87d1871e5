//! Virtual servers in IPVS that are not ours, who else announces addresses (the speaker of `MetalLB`,
//! kube-vip, keepalived), and who may flush our routes.
//! What is foreign is named and never changed.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::processes::{Process, named};
use super::sockets::Waiting;
use super::translators::{self, Traces};
use super::{Finding, Level, Section};
use crate::apply::ipvs::Ipvs;
use crate::apply::nftables::others::Others;
use crate::apply::state_directory::peek;
use crate::config::Config;
use crate::model::pool::Pool;

/// The findings that name a virtual server each; more are counted.
const MOST_NAMED: usize = 10;

/// The findings of this section.
pub(super) fn examine(
    config: &Config,
    others: Option<&Others>,
    processes: &[Process],
    sockets: &[Waiting],
) -> Vec<Finding> {
    let mut findings = translators::judge(config, &Traces::look(others, processes));
    findings.extend(virtual_servers(config));
    findings.extend(speakers(&config.pools, processes, sockets, &read_of));
    findings.extend(routes_of_others(processes, &networkd_files()));
    if findings.iter().all(|it| it.level <= Level::Info) {
        let message = "nobody else translates Services on this node";
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::Conflicts, level, message)
    }
}

/// Programs that announce addresses: name of the process, what people call it, how to get rid of it.
const SPEAKERS: [(&str, &str, &str); 3] = [
    (
        "speaker",
        "MetalLB's speaker",
        "kubectl -n metallb-system delete daemonset speaker once its Services are edgelb's, or keep it off \
         this node by a nodeSelector",
    ),
    (
        "kube-vip",
        "kube-vip",
        "switch its Services off (svc_enable=false), or keep it off this node",
    ),
    (
        "keepalived",
        "keepalived",
        "take the addresses of pools out of its virtual_ipaddress, or systemctl disable --now keepalived",
    ),
];
/// The members of `MetalLB` talk by it (hashicorp/memberlist); those of Docker's swarm do as well.
const MEMBERLIST_PORT: u16 = 7946;
const KEEPALIVED_FILE: &str = "/etc/keepalived/keepalived.conf";

/// Reads a file as a process sees it, below `/proc/PID`.
fn read_of(process: &Process, file: &str) -> Option<String> {
    fs::read(format!("/proc/{}/{file}", process.number))
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads a file of a process.
type ReadOf<'r> = dyn Fn(&Process, &str) -> Option<String> + 'r;

/// Who else may answer for VIPs. keepalived and kube-vip have addresses of their own as a rule, the API
/// server's for one: only what they share with a pool is worth a warning.
fn speakers(
    pools: &[Pool],
    processes: &[Process],
    sockets: &[Waiting],
    read: &ReadOf<'_>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (program, name, remedy) in SPEAKERS {
        let found = named(processes, program);
        let Some(first) = found.first() else { continue };
        let mut seen = format!("process {}", first.number);
        let shared = match program {
            "keepalived" => keepalived(pools, first, read),
            "kube-vip" => kube_vip(pools, first, read),
            _ => {
                let of_it = |socket: &&Waiting| {
                    let owner = socket.process.as_ref();
                    socket.port == MEMBERLIST_PORT
                        && owner.is_some_and(|(_, number)| *number == first.number)
                };
                if sockets.iter().any(|socket| of_it(&socket)) {
                    seen = format!("{seen}, memberlist on port {MEMBERLIST_PORT}");
                }
                Some(String::new())
            }
        };
        let told = if let Some(shared) = shared {
            if !shared.is_empty() {
                seen = format!("{seen}, {shared}");
            }
            let message = format!(
                "{name} runs on this node too: where both have an address, both answer for it and clients \
                 reach now the one, now the other"
            );
            finding(Level::Warning, message, Some(remedy.to_owned()))
        } else {
            let message = format!(
                "{name} runs on this node too, with no address of a pool as far as is seen"
            );
            finding(Level::Info, message, None)
        };
        findings.push(told.seen(seen));
    }
    findings
}

/// An address of a pool that its file names.
fn keepalived(pools: &[Pool], process: &Process, read: &ReadOf<'_>) -> Option<String> {
    let arguments = &process.arguments;
    let after = |flag: &str| {
        let at = arguments.iter().position(|it| it == flag)?;
        arguments.get(at + 1).cloned()
    };
    let joined = (arguments.iter()).find_map(|it| it.strip_prefix("--use-file="));
    let file = (joined.map(str::to_owned))
        .or_else(|| after("-f"))
        .or_else(|| after("--use-file"))
        .unwrap_or_else(|| KEEPALIVED_FILE.to_owned());
    let text = read(process, &format!("root{file}"))?;
    let lines = text
        .lines()
        .map(|line| line.split(['#', '!']).next().unwrap_or_default());
    let address = in_pools(pools, lines.flat_map(str::split_whitespace))?;
    Some(format!("{address} is in {file}"))
}

/// Whether it takes Services, or has an address of a pool.
fn kube_vip(pools: &[Pool], process: &Process, read: &ReadOf<'_>) -> Option<String> {
    let environment = read(process, "environ").unwrap_or_default();
    let value = |key: &str| {
        let mut all = environment.split('\0').filter_map(|it| it.split_once('='));
        all.find_map(|(name, value)| (name == key).then_some(value))
    };
    if value("svc_enable") == Some("true") || process.arguments.iter().any(|it| it == "--services")
    {
        return Some("svc_enable=true".to_owned());
    }
    let address = in_pools(pools, value("address").into_iter())?;
    Some(format!("address={address}"))
}

fn in_pools<'w>(pools: &[Pool], words: impl Iterator<Item = &'w str>) -> Option<IpAddr> {
    let mut addresses = words.filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok());
    addresses.find(|address| pools.iter().any(|pool| pool.contains(*address)))
}

/// The texts that systemd-networkd reads, main file first.
fn networkd_files() -> Vec<String> {
    let mut files = vec![Path::new("/etc/systemd/networkd.conf").to_owned()];
    for directory in ["/usr/lib", "/run", "/etc"] {
        let directory = format!("{directory}/systemd/networkd.conf.d");
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries.map(|entry| entry.path()).collect();
        found.sort();
        files.extend(found);
    }
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect()
}

/// systemd-networkd removes routes at its start that it did not make, unless it is told not to
/// (networkd.conf(5), `ManageForeignRoutes`). The daemon makes them anew.
fn routes_of_others(processes: &[Process], files: &[String]) -> Option<Finding> {
    // The kernel keeps 15 characters of a name.
    let process = *named(processes, "systemd-network").first()?;
    let last = files
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.trim().strip_prefix("ManageForeignRoutes="))
        .next_back();
    if matches!(last.map(str::trim), Some("no" | "false" | "0" | "off")) {
        return None;
    }
    let message = "systemd-networkd removes foreign routes, those of VIPs among them, whenever it starts: \
                   edgelb makes them anew, and connections in that moment are lost";
    let remedy = "mkdir -p /etc/systemd/networkd.conf.d && printf '[Network]\\nManageForeignRoutes=no\\n' \
                  > /etc/systemd/networkd.conf.d/edgelb.conf";
    let told = finding(Level::Info, message.to_owned(), Some(remedy.to_owned()));
    Some(told.seen(format!(
        "process {}, ManageForeignRoutes is not no",
        process.number
    )))
}

fn virtual_servers(config: &Config) -> Vec<Finding> {
    // Asking would load the module.
    if !super::has_ipvs() {
        return Vec::new();
    }
    let found = Ipvs::open().and_then(|mut ipvs| ipvs.virtual_servers());
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let message = format!("cannot list the virtual servers of IPVS: {error}");
            let remedy = "run doctor as root".to_owned();
            return vec![finding(Level::Warning, message, Some(remedy))];
        }
    };
    // The journal names them as IPVS shows them.
    let ours: BTreeSet<String> = (peek::virtual_servers(&config.node.state_dir).iter())
        .map(ToString::to_string)
        .collect();
    let found: BTreeSet<String> = found.iter().map(|it| it.key.to_string()).collect();
    let mut foreign: Vec<String> = found.difference(&ours).cloned().collect();
    foreign.sort();
    let remedy = "remove it with ipvsadm -D if nobody needs it; edgelb leaves it alone";
    let mut findings: Vec<Finding> = (foreign.iter().take(MOST_NAMED))
        .map(|name| {
            let message = format!("virtual server {name} of IPVS is not edgelb's");
            finding(Level::Warning, message, Some(remedy.to_owned()))
        })
        .collect();
    let gone: Vec<&String> = ours.difference(&found).collect();
    if let Some(first) = gone.first() {
        let message = format!(
            "{} virtual servers of edgelb are gone from IPVS",
            gone.len()
        );
        let remedy = "see who cleared them (somebody ran ipvsadm -C or kube-proxy's cleanup); systemctl restart edgelb puts \
                      them back at once, the daemon itself within proxy.resync_interval";
        let told = finding(Level::Problem, message, Some(remedy.to_owned()));
        findings.push(told.seen(format!("such as {first}")));
    }
    if let Some(more @ 1..) = foreign.len().checked_sub(MOST_NAMED) {
        let message = format!("{more} more virtual servers of IPVS are not edgelb's");
        let remedy = Some("see ipvsadm -Ln".to_owned());
        findings.push(finding(Level::Warning, message, remedy));
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::family::Protocol;

    fn process(name: &str) -> Process {
        Process {
            number: 7,
            name: name.to_owned(),
            arguments: Vec::new(),
        }
    }

    #[test]
    fn other_speakers_are_told_by_what_they_share() {
        let range = "192.0.2.200-192.0.2.219".parse().unwrap();
        let pools = [Pool::new("lan", vec![range])];
        let nothing = |_: &Process, _: &str| None;
        let of = |processes: &[Process], sockets: &[Waiting], read: &ReadOf<'_>| {
            let found = speakers(&pools, processes, sockets, read);
            found
                .first()
                .map(|it| (it.level, it.evidence.clone().unwrap_or_default()))
        };
        assert_eq!(of(&[process("nginx")], &[], &nothing), None);
        let memberlist = |name: &str, number| Waiting {
            protocol: Protocol::Tcp,
            port: 7946,
            address: [0, 0, 0, 0].into(),
            process: Some((name.to_owned(), number)),
        };
        // Docker's swarm has the same port.
        let docker = memberlist("dockerd", 9);
        assert_eq!(of(&[process("dockerd")], &[docker], &nothing), None);
        let (level, seen) =
            of(&[process("speaker")], &[memberlist("speaker", 7)], &nothing).unwrap();
        assert_eq!(level, Level::Warning);
        assert_eq!(seen, "process 7, memberlist on port 7946");

        let level = |name: &str, read: &ReadOf<'_>| of(&[process(name)], &[], read).unwrap().0;
        let text = |text: &'static str| move |_: &Process, _: &str| Some(text.to_owned());
        assert_eq!(level("keepalived", &nothing), Level::Info);
        let apart = "virtual_ipaddress {\n  192.0.2.5/24 dev eth0 # 192.0.2.201\n}\n";
        assert_eq!(level("keepalived", &text(apart)), Level::Info);
        let shared = "virtual_ipaddress {\n  192.0.2.201/24 dev eth0\n}\n";
        assert_eq!(level("keepalived", &text(shared)), Level::Warning);
        assert_eq!(
            level("kube-vip", &text("cp_enable=true\0address=192.0.2.5\0")),
            Level::Info
        );
        assert_eq!(
            level("kube-vip", &text("address=192.0.2.200\0")),
            Level::Warning
        );
        assert_eq!(
            level("kube-vip", &text("A=b\0svc_enable=true\0")),
            Level::Warning
        );
    }

    #[test]
    fn networkd_is_named_until_it_leaves_routes_alone() {
        let runs = [process("systemd-network")];
        let of = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(ToString::to_string).collect();
            routes_of_others(&runs, &files).is_some()
        };
        assert!(of(&[]));
        assert!(of(&["[Network]\n#ManageForeignRoutes=no\n"]));
        assert!(!of(&["[Network]\nManageForeignRoutes=no\n"]));
        assert!(of(&["ManageForeignRoutes=no", "ManageForeignRoutes=yes"]));
        assert_eq!(routes_of_others(&[], &[]), None);
    }
}
