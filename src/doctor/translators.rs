//! Who else translates Services on this node: kube-proxy, or what it left, kube-router, Cilium. And whether
//! anybody does where `proxy.scope` leaves `ClusterIP`s to others. Judges what was seen; the commands that it
//! names leave IPVS alone where edgelb has its own virtual servers in it.

use std::collections::BTreeSet;
use std::fs;

use super::processes::{Process, named};
use super::{Finding, Level, Section};
use crate::apply::nftables::others::Others;
use crate::config::{Config, ProxyScope};

/// The interface on which kube-proxy in IPVS mode has every `ClusterIP` and VIP, and that of kube-router.
const IN_IPVS_MODE: [&str; 2] = ["kube-ipvs0", "kube-dummy-if"];
/// Agents of networks that can serve `ClusterIP`s by themselves, where nothing says whether they do.
const AGENTS: [&str; 4] = ["cilium-agent", "calico-node", "antrea-agent", "ovnkube"];

/// What was seen of others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Traces {
    /// Processes, as they are told.
    processes: Vec<String>,
    /// Those of [`IN_IPVS_MODE`].
    interfaces: Vec<&'static str>,
    /// Tables of kube-proxy in nftables mode: family and name.
    tables: BTreeSet<&'static str>,
    /// Chains of iptables.
    chains: BTreeSet<String>,
    /// Cilium or another that says it replaces kube-proxy, as it is told.
    replacement: Option<String>,
    /// One of [`AGENTS`] of which that is not known.
    agent: Option<String>,
}

impl Traces {
    /// Looks at what there is, running or not.
    pub(super) fn look(others: Option<&Others>, processes: &[Process]) -> Self {
        let links = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
        let names: BTreeSet<&str> = links
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0.trim()))
            .collect();
        let mut traces = Self {
            interfaces: (IN_IPVS_MODE.into_iter())
                .filter(|name| names.contains(name))
                .collect(),
            ..Self::default()
        };
        traces.see_processes(processes);
        for chain in others.into_iter().flat_map(|others| &others.chains) {
            if chain.table == "kube-proxy" {
                traces.tables.insert(chain.family);
            } else if chain.chain == "KUBE-SERVICES" || chain.chain == "KUBE-NODEPORTS" {
                let place = format!("{} in table {} {}", chain.chain, chain.family, chain.table);
                traces.chains.insert(place);
            }
        }
        traces
    }

    fn see_processes(&mut self, processes: &[Process]) {
        let told = |process: &Process| format!("process {}", process.number);
        self.processes
            .extend(named(processes, "kube-proxy").first().map(|it| told(it)));
        for process in named(processes, "kube-router") {
            let off = |it: &String| it == "--run-service-proxy=false";
            if !process.arguments.iter().any(off) {
                let number = process.number;
                self.processes
                    .push(format!("kube-router, process {number}"));
            }
        }
        for name in AGENTS {
            for process in named(processes, name) {
                let told = format!("{name}, process {}", process.number);
                match replaces(process) {
                    Some(true) => self.replacement = Some(told),
                    Some(false) => {}
                    None => self.agent = Some(told),
                }
            }
        }
    }

    fn told(&self) -> String {
        let interfaces = self.interfaces.iter().map(|it| format!("interface {it}"));
        let tables = (self.tables.iter()).map(|family| format!("table {family} kube-proxy"));
        let all: Vec<String> = (self.processes.iter().cloned())
            .chain(interfaces)
            .chain(tables)
            .chain(self.chains.iter().cloned())
            .collect();
        all.join(", ")
    }

    fn is_empty(&self) -> bool {
        self.told().is_empty()
    }

    /// The commands that take away what kube-proxy left, and nothing of IPVS that is edgelb's.
    fn removal(&self) -> String {
        let mut commands: Vec<String> = (self.tables.iter())
            .map(|family| format!("nft delete table {family} kube-proxy"))
            .collect();
        if !self.chains.is_empty() {
            commands.extend(
                ["iptables", "ip6tables"]
                    .map(|program| format!("{program}-save | grep -v KUBE- | {program}-restore")),
            );
        }
        commands.extend((self.interfaces.iter()).map(|name| format!("ip link delete {name}")));
        if !self.interfaces.is_empty() {
            commands.push(
                "ipvsadm -D for each virtual server that is told not to be edgelb's".to_owned(),
            );
        }
        commands.join(" && ")
    }
}

/// Whether an agent of Cilium says that it replaces kube-proxy: by its arguments, or by the directory of its
/// `ConfigMap`, which it names in them.
fn replaces(process: &Process) -> Option<bool> {
    const KEY: &str = "kube-proxy-replacement";
    let argument = |key: &str| {
        let mut arguments = process.arguments.iter();
        arguments.find_map(|it| it.strip_prefix("--")?.strip_prefix(key)?.strip_prefix('='))
    };
    let value = argument(KEY).map(str::to_owned).or_else(|| {
        let directory = argument("config-dir")?;
        let path = format!("/proc/{}/root{directory}/{KEY}", process.number);
        fs::read_to_string(path).ok()
    })?;
    Some(!matches!(
        value.trim(),
        "false" | "disabled" | "probe" | "partial"
    ))
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        remedy,
        ..Finding::new(Section::Conflicts, level, message)
    }
}

/// Whether that goes with `proxy.scope`.
pub(super) fn judge(config: &Config, traces: &Traces) -> Vec<Finding> {
    let mut findings = Vec::new();
    let scope = config.proxy.scope;
    let seen = traces.told();
    if let Some(told) = &traces.replacement {
        findings.push(match scope {
            ProxyScope::All => finding(
                Level::Problem,
                format!(
                    "Cilium translates the same Services in BPF ({told}), before edgelb sees a packet"
                ),
                Some(
                    "set kubeProxyReplacement=false in Cilium's values and run kube-proxy or edgelb for \
                     ClusterIPs, or keep edgelb off this node"
                        .to_owned(),
                ),
            ),
            ProxyScope::External => finding(
                Level::Info,
                format!("Cilium serves ClusterIPs here ({told}), as proxy.scope = \"external\" wants"),
                None,
            ),
        });
    }
    if traces.is_empty() {
        if scope == ProxyScope::External && traces.replacement.is_none() {
            findings.push(nobody(traces));
        }
        return findings;
    }
    let removal = traces.removal();
    let off = "keep kube-proxy off this node (a nodeSelector of its DaemonSet)";
    let never = "not kube-proxy --cleanup, which empties IPVS of edgelb's virtual servers too";
    let by_ipvs = !traces.interfaces.is_empty();
    let clear = if removal.is_empty() {
        String::new()
    } else {
        format!(", then {removal} ({never})")
    };
    findings.push(match scope {
        ProxyScope::External if by_ipvs => finding(
            Level::Problem,
            format!(
                "kube-proxy in IPVS mode is on this node ({seen}): it takes VIPs too, whatever \
                 proxy.scope says"
            ),
            Some(format!(
                "set mode: iptables (or nftables) in kube-proxy's ConfigMap, or {off} and set proxy.scope \
                 = \"all\"{clear}"
            )),
        ),
        ProxyScope::External => finding(
            Level::Info,
            format!("kube-proxy serves ClusterIPs here ({seen}), as proxy.scope = \"external\" wants"),
            None,
        ),
        ProxyScope::All => finding(
            Level::Problem,
            format!("kube-proxy, or what it left, translates the same Services ({seen})"),
            Some(format!("{off}{clear}; or set proxy.scope = \"external\"")),
        ),
    });
    findings
}

/// Where `ClusterIP`s are left to somebody who is not there.
fn nobody(traces: &Traces) -> Finding {
    if let Some(agent) = &traces.agent {
        let message = format!(
            "proxy.scope = \"external\" leaves ClusterIPs to {agent}, as far as that serves them"
        );
        return finding(Level::Info, message, None);
    }
    let message = "nobody serves ClusterIPs on this node: proxy.scope = \"external\" leaves them to \
                   kube-proxy, of which there is no process, table or interface";
    finding(
        Level::Warning,
        message.to_owned(),
        Some(
            "set proxy.scope = \"all\" and systemctl reload edgelb, or run kube-proxy on this node"
                .to_owned(),
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn process(name: &str, arguments: &[&str]) -> Process {
        Process {
            number: 7,
            name: name.to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
        }
    }

    fn of(processes: &[Process]) -> Traces {
        let mut traces = Traces::default();
        traces.see_processes(processes);
        traces
    }

    #[test]
    fn kube_proxy_is_let_be_where_it_is_wanted_and_not_in_ipvs_mode() {
        let mut config = Config::defaults("edge-a");
        let iptables = Traces {
            chains: BTreeSet::from(["KUBE-SERVICES in table ip nat".to_owned()]),
            ..Traces::default()
        };
        let by_ipvs = Traces {
            interfaces: vec!["kube-ipvs0"],
            ..Traces::default()
        };
        let nftables = Traces {
            tables: BTreeSet::from(["ip", "ip6"]),
            ..Traces::default()
        };
        let levels = |config: &Config, traces: &Traces| {
            let found = judge(config, traces);
            found.iter().map(|it| it.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&config, &Traces::default()), []);
        for (traces, command) in [
            (&iptables, "iptables-save | grep -v KUBE-"),
            (&by_ipvs, "ip link delete kube-ipvs0 && ipvsadm -D"),
            (
                &nftables,
                "nft delete table ip kube-proxy && nft delete table ip6 kube-proxy",
            ),
        ] {
            let found = judge(&config, traces);
            assert_eq!(found[0].level, Level::Problem);
            let remedy = found[0].remedy.as_ref().unwrap();
            assert!(remedy.contains(command), "{remedy}");
            // It would take edgelb's virtual servers away as well.
            assert!(
                !remedy
                    .replace("not kube-proxy --cleanup", "")
                    .contains("--cleanup")
            );
        }
        config.proxy.scope = ProxyScope::External;
        assert_eq!(levels(&config, &iptables), [Level::Info]);
        assert_eq!(levels(&config, &by_ipvs), [Level::Problem]);
        // Somebody has to serve ClusterIPs.
        assert_eq!(levels(&config, &Traces::default()), [Level::Warning]);
        assert_eq!(
            levels(&config, &of(&[process("kube-proxy", &[])])),
            [Level::Info]
        );
        assert_eq!(
            levels(&config, &of(&[process("calico-node", &[])])),
            [Level::Info]
        );
    }

    #[test]
    fn others_that_translate_are_known() {
        let config = Config::defaults("edge-a");
        let level = |name: &str, arguments: &[&str]| {
            let found = judge(&config, &of(&[process(name, arguments)]));
            found.first().map(|it| it.level)
        };
        assert_eq!(level("kube-router", &[]), Some(Level::Problem));
        assert_eq!(level("kube-router", &["--run-service-proxy=false"]), None);
        let replaces = "--kube-proxy-replacement=true";
        assert_eq!(level("cilium-agent", &[replaces]), Some(Level::Problem));
        assert_eq!(
            level("cilium-agent", &["--kube-proxy-replacement=false"]),
            None
        );
        assert_eq!(level("cilium-agent", &[]), None);
    }
}
