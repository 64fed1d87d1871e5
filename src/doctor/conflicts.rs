//! Who else translates Services on this node: kube-proxy, and virtual servers in IPVS that are not
//! ours. What is foreign is named and never changed.

use std::collections::BTreeSet;
use std::fs;

use super::sockets::processes;
use super::{Finding, Level, Section};
use crate::apply::ipvs::Ipvs;
use crate::apply::nftables::others::Others;
use crate::apply::state_directory::peek;
use crate::config::{Config, ProxyScope};

/// The findings that name a virtual server each; more are counted.
const MOST_NAMED: usize = 10;

/// The findings of this section.
pub(super) fn examine(config: &Config, others: Option<&Others>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = kube_proxy(config, &traces(others)).into_iter().collect();
    findings.extend(virtual_servers(config));
    if findings.is_empty() {
        let message = "nobody else translates Services on this node";
        findings.push(finding(Level::Fine, message.to_owned(), None));
    }
    findings
}

fn finding(level: Level, message: String, remedy: Option<String>) -> Finding {
    Finding {
        section: Section::Conflicts,
        level,
        message,
        remedy,
    }
}

/// What there is of kube-proxy, running or not.
fn traces(others: Option<&Others>) -> Vec<String> {
    let mut traces = Vec::new();
    if let Some((number, _)) = processes().iter().find(|(_, name)| name == "kube-proxy") {
        traces.push(format!("process {number}"));
    }
    let interfaces = fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let kube_ipvs0 = |line: &str| line.trim_start().starts_with("kube-ipvs0:");
    if interfaces.lines().any(kube_ipvs0) {
        traces.push("interface kube-ipvs0".to_owned());
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
    Some(match config.proxy.scope {
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
    let mut foreign: Vec<String> = (found.iter())
        .map(|server| server.key.to_string())
        .filter(|name| !ours.contains(name))
        .collect();
    foreign.sort();
    let remedy = "remove it with ipvsadm -D if nobody needs it; edgelb leaves it alone";
    let mut findings: Vec<Finding> = (foreign.iter().take(MOST_NAMED))
        .map(|name| {
            let message = format!("virtual server {name} of IPVS is not edgelb's");
            finding(Level::Warning, message, Some(remedy.to_owned()))
        })
        .collect();
    if let Some(more @ 1..) = foreign.len().checked_sub(MOST_NAMED) {
        let message = format!("{more} more virtual servers of IPVS are not edgelb's");
        let remedy = Some("see ipvsadm -Ln".to_owned());
        findings.push(finding(Level::Warning, message, remedy));
    }
    findings
}
