//! A LAN with edgelb on its edge nodes and one Service, and each fault done to the owner of its VIP.
//!
//! The workloads live on a node of their own, which owns nothing and never fails: what is measured
//! is the way to them, not their loss.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::cli::interrupt::Interrupt;
use crate::lab::api_server::ApiServer;
use crate::lab::client::Protocol;
use crate::lab::daemon::{Daemon, DaemonOptions};
use crate::lab::fault::Traffic;
use crate::lab::manifests::{ManifestDirectory, ServiceManifest, ServicePort};
use crate::lab::membership::{Membership, MembershipNetwork};
use crate::lab::{DualStack, Host, Lab, LabOptions};

use super::fault::Fault;
use super::observation::{CLIENTS, PATIENCE, PORT, Watcher};
use super::report::Run;

/// Edge nodes.
pub(super) const NODES: usize = 3;
/// The index of the node with the workloads.
const WORKER: usize = NODES;
/// Workloads behind the Service.
const WORKLOADS: usize = 2;
const TARGET_PORT: u16 = 8080;
const VIP: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 200),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x200),
};
const CLUSTER_IPS: DualStack = DualStack {
    ipv4: Ipv4Addr::new(10, 96, 0, 10),
    ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10),
};
const API_SERVER: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 9),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9),
};
/// The label of nodes that own no VIP (Kubernetes, well-known labels).
const EXCLUDED: (&str, &str) = (
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "",
);
/// How long a fault lasts in which nothing has to move: far longer than any detection takes.
const DURATION: Duration = Duration::from_secs(1);
/// How long is looked on after a fault was undone.
const AFTERMATH: Duration = Duration::from_millis(300);
/// How long a daemon may take to end.
const LONGEST_END: Duration = Duration::from_secs(10);

/// From where the daemons know the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Manifests,
    ApiServer,
}

/// The LAN, with everything running in it.
pub(super) struct Lan<'a> {
    interrupt: &'a Interrupt,
    // Daemons before the lab: they are dropped in this order, and live in its namespaces.
    daemons: Vec<Daemon>,
    watcher: Watcher,
    options: DaemonOptions,
    _api_server: Option<(Host, ApiServer)>,
    lab: Lab,
}

impl<'a> Lan<'a> {
    pub(super) fn build(
        source: Source,
        program: PathBuf,
        datapath: &str,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        let mut lab = Lab::build(LabOptions {
            nodes: NODES + 1,
            workloads: 0,
            clients: CLIENTS,
            management: true,
            ..LabOptions::default()
        })?;
        for _ in 0..WORKLOADS {
            lab.add_workload(WORKER)?;
        }
        let manifests = ManifestDirectory::create(&lab.directory().join("manifests"))?;
        write_manifests(&lab, &manifests)?;
        let mut options = DaemonOptions::new(program, manifests.path());
        datapath.clone_into(&mut options.datapath);
        let network = MembershipNetwork::Management;
        options.membership = Some(Membership::among(&lab, NODES, network)?);
        let api_server = match source {
            Source::Manifests => None,
            Source::ApiServer => {
                let host = lab.add_host("api", API_SERVER)?;
                let server = ApiServer::start(&host, &manifests)?;
                let kubeconfig = server.write_kubeconfig(lab.directory())?;
                let text = format!(
                    "[source]\nkind = \"kubernetes\"\n[source.kubernetes]\nkubeconfig = {:?}\n",
                    kubeconfig.to_string_lossy()
                );
                options.configuration = text.parse().context("the lab's configuration")?;
                Some((host, server))
            }
        };
        let mut daemons = Vec::new();
        for node in 0..NODES {
            daemons.push(Daemon::start(&lab, node, &options)?);
        }
        let watcher = Watcher::start(&lab, &VIP.both())?;
        let mut lan = Self {
            interrupt,
            daemons,
            watcher,
            options,
            _api_server: api_server,
            lab,
        };
        for node in 0..NODES {
            lan.wait_ready(node)?;
        }
        lan.watcher.wait_owner(interrupt)?;
        Ok(lan)
    }

    /// The datapath in use, from `edgelb status`.
    pub(super) fn datapath(&self) -> anyhow::Result<Option<String>> {
        let status = self.ask(0, "status")?;
        Ok(status
            .get("datapath")
            .and_then(Value::as_str)
            .map(str::to_owned))
    }

    /// Does it to the owner, undoes it, and gives what the clients saw of both.
    pub(super) fn measure(&mut self, fault: Fault) -> anyhow::Result<Run> {
        self.settle()?;
        let owner = self.watcher.wait_owner(self.interrupt)?;
        let protocols = [Protocol::Tcp, Protocol::Udp];
        let interrupt = self.interrupt;
        let name = self.lab.node(owner)?.name.clone();
        let observation = self.watcher.observe(&self.lab, &protocols, interrupt)?;
        let moved = || -> anyhow::Result<()> {
            self.watcher.wait_other(owner, interrupt)?;
            observation.steady(interrupt)
        };
        let daemon = self
            .daemons
            .get_mut(owner)
            .context("the owner has no daemon")?;
        match fault {
            Fault::DaemonKill => {
                daemon.kill()?;
                moved()?;
                *daemon = Daemon::start(&self.lab, owner, &self.options)?;
            }
            Fault::NodeOff => {
                let failure = self.lab.power_off(owner, Some(&mut *daemon))?;
                moved()?;
                failure.restore()?;
                *daemon = Daemon::start(&self.lab, owner, &self.options)?;
            }
            Fault::CablePull => {
                self.lab.unplug(&name)?;
                moved()?;
                self.lab.plug(&name)?;
            }
            Fault::MembershipCut => {
                let nodes: Vec<_> = (0..NODES).collect();
                let cut = self.lab.cut(&nodes, Traffic::MembershipDatagrams)?;
                hold(interrupt, DURATION)?;
                cut.mend()?;
            }
            Fault::ApiAway => {
                self.lab.unplug("api")?;
                hold(interrupt, DURATION)?;
                self.lab.plug("api")?;
            }
            Fault::Freeze => {
                daemon.freeze()?;
                let result = moved();
                daemon.thaw()?;
                result?;
            }
            Fault::Drain => {
                command(daemon, "drain")?;
                moved()?;
                command(daemon, "undrain")?;
            }
            Fault::Restart => {
                daemon.terminate(LONGEST_END)?;
                *daemon = Daemon::start(&self.lab, owner, &self.options)?;
            }
        }
        if matches!(fault, Fault::DaemonKill | Fault::NodeOff | Fault::Restart) {
            wait_ready(daemon, interrupt)?;
        }
        hold(interrupt, AFTERMATH)?;
        observation.steady(interrupt)?;
        observation.end()
    }

    /// The last lines of each daemon's log.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for daemon in &self.daemons {
            let log = daemon.log().unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(5)) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {}: {line}", daemon.node());
            }
        }
        text
    }

    /// Waits until every node sees every other one.
    fn settle(&self) -> anyhow::Result<()> {
        self.interrupt
            .wait_for("the nodes did not find each other", PATIENCE, || {
                for node in 0..self.daemons.len() {
                    if self.others_alive(node)? != NODES - 1 {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            })
    }

    fn others_alive(&self, node: usize) -> anyhow::Result<usize> {
        let answer = self.ask(node, "peers")?;
        let peers = answer.get("peers").and_then(Value::as_array);
        Ok(peers
            .into_iter()
            .flatten()
            .filter(|peer| peer.get("state").and_then(Value::as_str) == Some("alive"))
            .count())
    }

    fn ask(&self, node: usize, what: &str) -> anyhow::Result<Value> {
        let daemon = self.daemons.get(node).context("no such node")?;
        let output = daemon.ask(&[what, "-o", "json"])?;
        // What is wrong just now, exit code 1, is said on stdout as well.
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "edgelb {what} -o json on {}: {}",
                daemon.node(),
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    fn wait_ready(&mut self, node: usize) -> anyhow::Result<()> {
        let daemon = self.daemons.get_mut(node).context("no such node")?;
        wait_ready(daemon, self.interrupt)
    }
}

fn wait_ready(daemon: &mut Daemon, interrupt: &Interrupt) -> anyhow::Result<()> {
    let what = format!("edgelb on {} was not ready", daemon.node());
    interrupt.wait_for(&what, PATIENCE, || Ok(daemon.hears_ready()?.then_some(())))
}

fn command(daemon: &Daemon, what: &str) -> anyhow::Result<()> {
    let output = daemon.ask(&[what])?;
    ensure!(
        output.status.success(),
        "edgelb {what} on {}: {}",
        daemon.node(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Lets time pass, unless somebody asks the program to end.
pub(super) fn hold(interrupt: &Interrupt, time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    interrupt.wait_for("time did not pass", time + PATIENCE, || {
        Ok((Instant::now() >= end).then_some(()))
    })
}

fn write_manifests(lab: &Lab, manifests: &ManifestDirectory) -> anyhow::Result<()> {
    let port = |name: &str, protocol| ServicePort {
        name: name.to_owned(),
        protocol,
        port: PORT,
        target_port: TARGET_PORT,
        node_port: None,
    };
    let ports = vec![
        port("http", Protocol::Tcp),
        port("datagrams", Protocol::Udp),
    ];
    let mut service = ServiceManifest::load_balancer("web", CLUSTER_IPS, ports);
    let [ipv4, ipv6] = VIP.both();
    let ips = format!("{ipv4},{ipv6}");
    service.annotations.insert("edgelb.io/ips".to_owned(), ips);
    // A daemon that may not write to the API server finds there what a leader would have written.
    service.more = format!(
        "status:\n  loadBalancer:\n    ingress:\n    - ip: {ipv4}\n    - ip: {}\n",
        quoted(ipv6)
    );
    let workloads: Vec<_> = lab.workloads().iter().collect();
    for (index, node) in lab.nodes().iter().enumerate() {
        match index {
            WORKER => manifests.write_labelled_node(node, &[EXCLUDED])?,
            _ => manifests.write_node(node)?,
        }
    }
    manifests.write_endpoints(&service, &workloads, lab.nodes())?;
    manifests.write_service(&service)?;
    if workloads.len() != WORKLOADS {
        bail!("the LAN has {} workloads", workloads.len());
    }
    Ok(())
}

fn quoted(address: IpAddr) -> String {
    format!("\"{address}\"")
}
