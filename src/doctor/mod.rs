//! What keeps this node from working, or a Service from being reached, and how to mend it: findings, a
//! line each, the cause first. Looks and asks, for a bounded time; changes nothing.
//!
//! A section is a file with a function that gives its findings; [`examine`] is the list of them. What
//! people look for, and where it is:
//!
//! | question | file | how it is seen |
//! | --- | --- | --- |
//! | the selector matches nothing; endpoints not ready; ports misnamed | `service/endpoints` | slices |
//! | the target port does not listen; pods not reached from here | `service/probe` | TCP, 500 ms |
//! | no address, and why; node port or frontend taken; wrong forwarding method | `service/reasons` | plan |
//! | another node owns it and is gone; a Local policy without endpoints; source ranges | `service/reach` | views |
//! | uneven connections; affinity | `service/balance` | counters of IPVS, conntrack |
//! | another host answers for a VIP | `lan`, `service/reach`, `membership` | ARP and ND probes |
//! | no daemon, one that hangs, two of them, its failures, privileges, descriptors, ports | `daemon` | socket, /proc |
//! | a configuration that is not loaded, broken manifests, a source that is not heard | `source` | digest, files |
//! | modules, IPVS missing | `kernel` | modules.dep, kallsyms |
//! | sysctls, strictARP | `settings`, `fence` | /proc/sys against what was recorded |
//! | conntrack and neighbour tables, disk, key files, clock | `limits` | /proc, statvfs |
//! | firewalls, NOTRACK, flushed tables, membership port blocked | `firewall`, `paths` | `nf_tables` |
//! | VIP on an interface, no subnet, overlaps, IPv6 off, `rp_filter`, MTU, ageing, lost routes | `network` | rtnetlink |
//! | XDP, traffic control, ARP switched off, forwarding off for one interface | `uplinks` | rtnetlink, /proc/sys |
//! | pods in no known range; `cluster_interfaces` that match nothing | `network/pods` | slices, Nodes |
//! | bridges, bonds | `obstacles` | rtnetlink, /proc |
//! | kube-proxy, Cilium, kube-router; nobody who serves `ClusterIP`s | `translators` | processes, links, `nf_tables` |
//! | foreign virtual servers, `MetalLB`, kube-vip, keepalived, systemd-networkd | `conflicts` | processes, IPVS |
//! | processes on node ports | `node_ports` | /proc/net |
//! | peers: dead, blocked, configured otherwise | `membership` | views |
//! | the API server and rights | `api_access` | reviews |

mod api_access;
mod cluster;
mod conflicts;
mod daemon;
mod fence;
mod finding;
mod firewall;
mod handover;
mod kernel;
mod lan;
mod limits;
mod machine;
mod membership;
mod network;
mod node_ports;
mod obstacles;
mod passing;
mod paths;
mod processes;
mod running;
mod service;
mod settings;
mod sockets;
mod source;
mod translators;
mod uplinks;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;

use ipnet::IpNet;

use self::cluster::Sources;
pub use self::finding::{Finding, Level, Section};
use self::lan::Lan;
use self::machine::{Link, Machine};
use self::network::Facts;
use self::passing::Needs;
use self::paths::Roads;
use self::running::Running;
use self::service::Scene;
use self::uplinks::Uplinks;
use crate::apply::nftables::others;
use crate::config::{Config, SourceKind};
use crate::model::host::Host;
use crate::model::service::ServiceKey;
use crate::source::host;

/// Slices of which the way to an endpoint is asked.
const MOST_WAYS: usize = 32;

/// Looks at everything there is to look at with this configuration, at one Service closely where one is
/// asked for. The cause stands first.
pub async fn examine(config: &Config, asked: Option<&ServiceKey>) -> Vec<Finding> {
    // The API server is asked while the rest is looked at, on a thread of its own: how long it takes to
    // answer is measured, and much of the rest does not give way.
    let asking = {
        let config = config.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.map_or_else(
                |_| Vec::new(),
                |it| it.block_on(api_access::examine(&config)),
            )
        })
    };
    let looked = look(config, asked).await;
    let mut findings = asking.join().unwrap_or_default();
    findings.extend(looked);
    if config.source.kind == SourceKind::Manifests {
        let directory = config.source.manifests.dir.display();
        for remedy in findings.iter_mut().filter_map(|it| it.remedy.as_mut()) {
            if remedy.contains("kubectl ") {
                *remedy = format!("{remedy} (here that is in the files of {directory})");
            }
        }
    }
    finding::sort(&mut findings);
    findings
}

async fn look(config: &Config, asked: Option<&ServiceKey>) -> Vec<Finding> {
    let answer = running::running(config);
    let running = answer.as_ref();
    let others = others::others().map(|mut others| {
        firewall::add_legacy(&mut others);
        others
    });
    let processes = processes::here();
    let sockets = sockets::waiting();
    let listening = sockets.as_deref().unwrap_or_default();
    let sources = Sources::read(config, running.ok());
    let cluster = sources.cluster.as_ref();

    let mut findings = daemon::examine(config, running, &processes, listening);
    findings.extend(source::examine(config, running.ok(), &sources.problems));
    findings.extend(kernel::examine(config));
    findings.extend(settings::examine(config, running.is_ok()));
    findings.extend(fence::examine(config, running.is_ok()));
    findings.extend(handover::examine(config));
    findings.extend(limits::examine(config, &processes));
    let (firewalls, answering) = (others.as_ref().ok(), running.ok());
    let (mut machine, host) = (Machine::look(), host::list());
    let needs = Needs::of(config, answering);
    let paths = Roads {
        config,
        running: answering,
        cluster,
        host: host.as_ref().ok(),
        machine: machine.as_mut().ok(),
        needs: &needs,
        found: Vec::new(),
    };
    findings.extend(firewall::examine(&needs, &paths.all(), firewalls));
    findings.extend(firewalls.and_then(|others| obstacles::gone(others, answering)));
    findings.extend(membership::examine(config, answering));
    findings.extend(node_ports::examine(config, running, &sockets));
    findings.extend(conflicts::examine(config, firewalls, &processes, listening));
    match (machine, host) {
        (Ok(machine), Ok(host)) => {
            let network = Network {
                machine,
                host,
                config,
                running: answering,
                sources: &sources,
            };
            findings.extend(network.examine(asked).await);
        }
        (machine, host) => {
            let error = machine.err().map(|error| error.to_string());
            let error = error.or_else(|| host.err().map(|error| error.to_string()));
            let message = "the links and addresses of this node cannot be read";
            let told = Finding::new(Section::Network, Level::Warning, message);
            findings.push(
                told.seen(error.unwrap_or_default())
                    .mend("sudo edgelb doctor"),
            );
        }
    }
    findings
}

/// What is looked at by way of the links of this node.
struct Network<'n> {
    machine: Machine,
    host: Host,
    config: &'n Config,
    running: Option<&'n Running>,
    sources: &'n Sources,
}

impl Network<'_> {
    async fn examine(mut self, asked: Option<&ServiceKey>) -> Vec<Finding> {
        let links: BTreeMap<u32, Link> = self.machine.links.clone();
        let neighbours = self.machine.neighbours();
        let rules = self.machine.rules();
        let subnets: Vec<IpNet> = (self.host.interfaces.values())
            .filter(|interface| !interface.loopback)
            .flat_map(|interface| interface.addresses.iter().copied())
            .collect();
        let cluster = self.sources.cluster.as_ref();
        let scene = Scene {
            config: self.config,
            running: self.running,
            cluster,
            sources: self.sources,
            subnets: &subnets,
            links: &links,
            rules: &rules,
        };
        let machine = &mut self.machine;
        let mut ways = |to| machine.way(to);
        let twins = lan::twins(self.config, &self.host).await;
        let mut findings = if let Some(key) = asked {
            let mut lan = Lan {
                config: self.config,
                host: &self.host,
                neighbours: Box::new(|| {
                    Machine::look().map_or_else(|_| Vec::new(), |mut it| it.neighbours())
                }),
            };
            service::examine_one(&scene, key, &mut lan, &mut ways).await
        } else {
            service::examine_all(&scene, &mut ways).await
        };
        let facts = Facts::new(
            self.config,
            &self.host,
            &mut self.machine,
            (&links, &neighbours),
            cluster,
            self.running,
            &sysctl,
        );
        findings.extend(network::judge(&facts));
        findings.extend(network::twins(&twins, &self.host, &neighbours));
        let pods: Vec<IpNet> = (cluster.into_iter())
            .flat_map(|it| it.nodes.values())
            .flat_map(|node| node.pod_cidrs.iter().copied())
            .chain(self.config.proxy.cluster_cidrs.iter().copied())
            .collect();
        let has_pods = |link: &Link| {
            let interface = self.host.interfaces.get(&link.index);
            let mut addresses = interface.into_iter().flat_map(|it| &it.addresses);
            addresses.any(|it| pods.iter().any(|range| range.contains(&it.addr())))
        };
        findings.extend(obstacles::links(links.values(), &has_pods));
        let mut to_pods: BTreeSet<u32> = BTreeSet::new();
        let slices = cluster.into_iter().flat_map(|it| it.slices.values());
        for slice in slices.take(MOST_WAYS) {
            let first = slice.endpoints.first().map(|it| it.address);
            to_pods.extend(first.and_then(|it| self.machine.way(it)?.link));
        }
        let machine = RefCell::new(&mut self.machine);
        let uplinks = Uplinks {
            config: self.config,
            host: &self.host,
            links: links.values().collect(),
            to_pods,
            bpf_network: links.values().any(|link| link.name.starts_with("cilium")),
            control: &|link| machine.borrow_mut().control(link),
            sysctl: &sysctl,
        };
        findings.extend(uplinks.judge());
        let addresses = fs::read_to_string("/proc/self/net/if_inet6").unwrap_or_default();
        findings.extend(obstacles::duplicates(&addresses));
        findings
    }
}

/// A setting below `/proc/sys`.
fn sysctl(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path)).ok()
}

/// Whether IPVS is there now; the file shows it in each network namespace.
fn has_ipvs() -> bool {
    Path::new("/proc/self/net/ip_vs").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_shown_as_they_are_written() {
        for section in [Section::ApiAccess, Section::NodePorts, Section::Daemon] {
            let written = serde_json::to_value(section).unwrap_or_default();
            assert_eq!(written, section.as_str());
        }
    }
}
