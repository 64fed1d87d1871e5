//! Who else translates Services on this node, or announces their addresses: kube-proxy, virtual servers
//! in IPVS that are not ours, the speaker of `MetalLB`, kube-vip, keepalived; and who may flush our routes.
//! What is foreign is named and never changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::processes::{Process, named};
use super::sockets::Waiting;
use super::{Finding, Level, Section};
use crate::apply::ipvs::Ipvs;
use crate::apply::nftables::others::Others;
use crate::apply::state_directory::peek;
use crate::config::{Config, ProxyScope};

/// The findings that name a virtual server each; more are counted.
const MOST_NAMED: usize = 10;

/// The findings of this section.
pub(super) fn examine(
    config: &Config,
    others: Option<&Others>,
    processes: &[Process],
    sockets: &[Waiting],
) -> Vec<Finding> {
    let traces = traces(others, processes);
    let mut findings: Vec<Finding> = kube_proxy(config, &traces).into_iter().collect();
    findings.extend(virtual_servers(config));
    findings.extend(speakers(processes, sockets));
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

/// The interface on which kube-proxy in IPVS mode has every `ClusterIP` and VIP.
const IN_IPVS_MODE: &str = "interface kube-ipvs0";

/// What there is of kube-proxy, running or not.
fn traces(others: Option<&Others>, processes: &[Process]) -> Vec<String> {
    let mut traces = Vec::new();
    if let Some(process) = named(processes, "kube-proxy").first() {
        traces.push(format!("process {}", process.number));
    }
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let kube_ipvs0 = |line: &str| line.trim_start().starts_with("kube-ipvs0:");
    if interfaces.lines().any(kube_ipvs0) {
        traces.push(IN_IPVS_MODE.to_owned());
    }
    let chains = others.into_iter().flat_map(|others| &others.chains);
    let mut tables: Vec<String> = chains
        .filter_map(|chain| {
            let table = format!("table {} {}", chain.family, chain.table);
            if chain.table == "kube-proxy" {
                Some(table)
            } else if chain.chain == "KUBE-SERVICES" || chain.chain == "KUBE-NODEPORTS" {
                Some(format!("{} in {table}", chain.chain))
            } else {
                None
            }
        })
        .collect();
    tables.dedup();
    traces.extend(tables);
    traces
}

fn kube_proxy(config: &Config, traces: &[String]) -> Option<Finding> {
    if traces.is_empty() {
        return None;
    }
    let seen = traces.join(", ");
    let by_ipvs = traces.iter().any(|trace| trace == IN_IPVS_MODE);
    Some(match config.proxy.scope {
        ProxyScope::External if by_ipvs => finding(
            Level::Problem,
            format!(
                "kube-proxy in IPVS mode is on this node ({seen}): it takes VIPs too, whatever \
                 proxy.scope says"
            ),
            Some(
                "set mode: iptables (or nftables) in kube-proxy's ConfigMap and run kube-proxy --cleanup \
                 here, or keep kube-proxy off this node and set proxy.scope = \"all\""
                    .to_owned(),
            ),
        ),
        ProxyScope::External => finding(
            Level::Info,
            format!("kube-proxy serves ClusterIPs here ({seen}), as proxy.scope = \"external\" wants"),
            None,
        ),
        ProxyScope::All => finding(
            Level::Problem,
            format!("kube-proxy, or what it left, translates the same Services ({seen})"),
            Some(
                "keep kube-proxy off this node (a nodeSelector of its DaemonSet) and run kube-proxy \
                 --cleanup, or set proxy.scope = \"external\""
                    .to_owned(),
            ),
        ),
    })
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
/// The members of `MetalLB` talk by it (hashicorp/memberlist).
const MEMBERLIST_PORT: u16 = 7946;

/// Who else may answer for VIPs.
fn speakers(processes: &[Process], sockets: &[Waiting]) -> Vec<Finding> {
    let memberlist = sockets.iter().find(|socket| socket.port == MEMBERLIST_PORT);
    let mut findings = Vec::new();
    for (process, name, remedy) in SPEAKERS {
        let found = named(processes, process);
        let members = memberlist.filter(|_| process == "speaker");
        let seen = match (found.first(), members) {
            (Some(first), Some(_)) => {
                format!(
                    "process {}, memberlist on port {MEMBERLIST_PORT}",
                    first.number
                )
            }
            (Some(first), None) => format!("process {}", first.number),
            (None, Some(socket)) => {
                let who = socket.process.as_ref();
                let who = who.map_or_else(String::new, |(name, number)| {
                    format!(" of {name} (process {number})")
                });
                format!("memberlist on port {MEMBERLIST_PORT}{who}")
            }
            (None, None) => continue,
        };
        let message = format!(
            "{name} runs on this node too: where both have an address, both answer for it and clients \
             reach now the one, now the other"
        );
        let told = finding(Level::Warning, message, Some(remedy.to_owned()));
        findings.push(told.seen(seen));
    }
    findings
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
        let remedy = "see who cleared them (ipvsadm -C, kube-proxy --cleanup); systemctl restart edgelb puts \
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
    fn kube_proxy_is_let_be_where_it_is_wanted_and_not_in_ipvs_mode() {
        let mut config = Config::defaults("edge-a");
        let iptables = ["KUBE-SERVICES in table ip nat".to_owned()];
        let by_ipvs = [IN_IPVS_MODE.to_owned()];
        let level =
            |config: &Config, traces: &[String]| kube_proxy(config, traces).map(|it| it.level);
        assert_eq!(level(&config, &[]), None);
        assert_eq!(level(&config, &iptables), Some(Level::Problem));
        config.proxy.scope = ProxyScope::External;
        assert_eq!(level(&config, &iptables), Some(Level::Info));
        assert_eq!(level(&config, &by_ipvs), Some(Level::Problem));
    }

    #[test]
    fn other_speakers_are_found_by_process_and_by_port() {
        assert!(speakers(&[process("nginx")], &[]).is_empty());
        let memberlist = Waiting {
            protocol: Protocol::Tcp,
            port: 7946,
            address: [0, 0, 0, 0].into(),
            process: Some(("speaker".to_owned(), 9)),
        };
        for (processes, sockets, word, seen) in [
            (vec![process("speaker")], vec![], "MetalLB", "process 7"),
            (
                vec![],
                vec![memberlist.clone()],
                "MetalLB",
                "of speaker (process 9)",
            ),
            (vec![process("kube-vip")], vec![], "kube-vip", "process 7"),
            (
                vec![process("keepalived")],
                vec![],
                "keepalived",
                "process 7",
            ),
        ] {
            let found = speakers(&processes, &sockets);
            assert_eq!(found.len(), 1);
            for found in found {
                assert!(found.message.starts_with(word) && found.remedy.is_some());
                assert!(found.evidence.unwrap().contains(seen));
            }
        }
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
