//! What happens in the demo, in order, told while it happens. Every step checks what it shows, and
//! the first one that is not as it must be ends the story.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::lab::address_plan::VIP_POOL;
use crate::lab::client::{Protocol, request};
use crate::lab::daemon::{Daemon, DaemonOptions};
use crate::lab::manifests::{self, ManifestDirectory, ServiceManifest};
use crate::lab::membership::{Membership, MembershipNetwork};
use crate::lab::{Lab, LabOptions, Namespace, sandbox};

use super::DemoArguments;
use super::report::{
    ClusterIpReport, DemoReport, FromReport, NodePortReport, NodeReport, Outcome, Requests,
    ServiceReport, list,
};
use super::scene::{
    PORT, agreed_vip, milliseconds, must_all_succeed, only_owner, services, write_manifests,
};
use super::view;
use crate::cli::interrupt::Interrupt;

/// Requests in a row to each VIP.
pub(super) const REQUESTS: usize = 60;
/// Requests in a row elsewhere.
const FEW_REQUESTS: usize = 12;
/// How many lines of each log are shown after a failure.
const LOG_TAIL: usize = 5;

/// The demo while it runs. What it built goes away with it.
pub(super) struct Story<'a> {
    pub(super) arguments: &'a DemoArguments,
    pub(super) interrupt: &'a Interrupt,
    lines: &'a mut dyn Write,
    start: Instant,
    // Daemons before the lab: they are dropped in this order, and live in its namespaces.
    pub(super) daemons: Vec<Daemon>,
    pub(super) lab: Option<Lab>,
    options: Option<DaemonOptions>,
    pub(super) report: DemoReport,
}

impl<'a> Story<'a> {
    pub(super) fn new(
        arguments: &'a DemoArguments,
        interrupt: &'a Interrupt,
        lines: &'a mut dyn Write,
    ) -> Self {
        let report = DemoReport {
            result: Outcome::Failed,
            datapath: arguments.datapath.key().to_owned(),
            nodes: Vec::new(),
            services: Vec::new(),
            node_port: None,
            cluster_ip: None,
            takeover: None,
            drain: None,
            error: None,
            elapsed_ms: 0,
        };
        Self {
            arguments,
            interrupt,
            lines,
            start: Instant::now(),
            daemons: Vec::new(),
            lab: None,
            options: None,
            report,
        }
    }

    /// The story from the first link to the take-over.
    pub(super) fn tell(&mut self) -> anyhow::Result<()> {
        let lab = self.build_lan()?;
        let lab = self.lab.insert(lab);
        let manifests = ManifestDirectory::create(&lab.directory().join("manifests"))?;
        let services = services();
        write_manifests(lab, &manifests, &services)?;
        self.start_daemons(&manifests)?;
        for service in &services {
            self.use_vip(service)?;
        }
        let [service, _] = &services;
        self.use_node_port(service)?;
        self.use_cluster_ip(service)?;
        self.lose_owners(&manifests, &services)
    }

    /// Prints how to look around and waits for Ctrl-C. Before there is a LAN there is nothing to see.
    pub(super) fn keep(&self, lines: &mut dyn Write) -> anyhow::Result<()> {
        let Some(lab) = &self.lab else { return Ok(()) };
        let pid = sandbox::outside_pid();
        let user = if sandbox::in_user_namespace() {
            format!("--preserve-credentials --user=/proc/{pid}/ns/user ")
        } else {
            String::new()
        };
        writeln!(
            lines,
            "\nEverything stays up until Ctrl-C. To look around, from another terminal:"
        )?;
        let hosts = lab
            .clients()
            .iter()
            .map(|host| (&host.name, &host.namespace));
        let nodes = lab.nodes().iter().map(|node| (&node.name, &node.namespace));
        let workloads = lab
            .workloads()
            .iter()
            .map(|workload| (&workload.name, &workload.namespace));
        for (name, namespace) in hosts.chain(nodes).chain(workloads) {
            writeln!(
                lines,
                "  {name:<10} nsenter {user}--net=/proc/{pid}/fd/{} bash",
                namespace.descriptor()
            )?;
        }
        for daemon in &self.daemons {
            writeln!(
                lines,
                "  {:<10} edgelb status -c {}",
                daemon.node(),
                daemon.configuration_path().display()
            )?;
        }
        writeln!(
            lines,
            "  manifests  {}",
            lab.directory().join("manifests").display()
        )?;
        self.interrupt.wait();
        Ok(())
    }

    /// The last lines of each daemon's log: about a failed request they say more than the step can.
    pub(super) fn log_tails(&self) -> String {
        let mut tails = String::new();
        for daemon in &self.daemons {
            let log = daemon.log().unwrap_or_default();
            let from = log.lines().count().saturating_sub(LOG_TAIL);
            tails.extend(
                log.lines()
                    .skip(from)
                    .map(|line| format!("{}: {line}\n", daemon.node())),
            );
        }
        tails
    }

    /// Takes everything down and gives the report.
    pub(super) fn end(mut self, error: Option<&anyhow::Error>) -> (DemoReport, anyhow::Result<()>) {
        self.daemons.clear();
        self.lab = None;
        let elapsed = self.start.elapsed();
        self.report.elapsed_ms = milliseconds(elapsed);
        self.report.error = error.map(|error| format!("{error:#}"));
        self.report.result = if error.is_none() {
            Outcome::Ok
        } else {
            Outcome::Failed
        };
        let said = self.say(
            "Down",
            &format!(
                "everything was taken down; {:.1} s in all",
                elapsed.as_secs_f32()
            ),
        );
        (self.report, said)
    }

    /// The LAN, once it is built.
    pub(super) fn lab(&self) -> anyhow::Result<&Lab> {
        self.lab.as_ref().context("the LAN is not built")
    }

    /// How the daemons were started.
    pub(super) fn options(&self) -> anyhow::Result<DaemonOptions> {
        self.options.clone().context("no daemon was started")
    }

    fn build_lan(&mut self) -> anyhow::Result<Lab> {
        self.interrupt.check()?;
        let options = LabOptions {
            nodes: self.arguments.nodes.into(),
            workloads: self.arguments.workloads.into(),
            ..LabOptions::default()
        };
        let start = Instant::now();
        let lab = Lab::build(options)?;
        self.say(
            "LAN",
            &format!("192.0.2.0/24 built in {} ms", milliseconds(start.elapsed())),
        )?;
        for client in lab.clients() {
            self.say("", &format!("{:<9} {}", client.name, client.address.ipv4))?;
        }
        for (index, node) in lab.nodes().iter().enumerate() {
            let mac = node.namespace.mac_address("eth0")?;
            let pods = lab
                .workloads()
                .iter()
                .filter(|workload| workload.node == index);
            let pods =
                list(pods.map(|workload| format!("{} {}", workload.name, workload.address.ipv4)));
            self.say(
                "",
                &format!("{:<9} {}  {mac}  {pods}", node.name, node.address.ipv4),
            )?;
            self.report.nodes.push(NodeReport {
                name: node.name.clone(),
                address: node.address.ipv4,
                mac: mac.to_string(),
            });
        }
        Ok(lab)
    }

    fn start_daemons(&mut self, manifests: &ManifestDirectory) -> anyhow::Result<()> {
        let program = self
            .arguments
            .program
            .clone()
            .unwrap_or_else(sandbox::own_program);
        let mut options = DaemonOptions::new(program, manifests.path());
        self.arguments
            .datapath
            .key()
            .clone_into(&mut options.datapath);
        let start = Instant::now();
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let nodes = lab.nodes().len();
        if nodes > 1 {
            let membership = Membership::among(lab, nodes, MembershipNetwork::Lan)?;
            options.membership = Some(membership);
            if let Some(interval) = self.arguments.probe_interval {
                let interval = toml::Value::String(format!("{}us", interval.as_micros()));
                let section = toml::Table::from_iter([("probe_interval".to_owned(), interval)]);
                let section = toml::Value::Table(section);
                (options.configuration).insert("membership".to_owned(), section);
            }
        }
        // All start at once, as they would after a power failure.
        for index in 0..lab.nodes().len() {
            self.daemons.push(Daemon::start(lab, index, &options)?);
        }
        self.options = Some(options);
        for daemon in &mut self.daemons {
            let what = format!("edgelb on {} was not ready", daemon.node());
            self.interrupt
                .wait_for(&what, self.arguments.patience(), || {
                    Ok(daemon.hears_ready()?.then_some(()))
                })?;
        }
        if let Some(datapath) = self
            .daemons
            .first()
            .map(view::datapath)
            .transpose()?
            .flatten()
        {
            self.report.datapath = datapath;
        }
        let names = list(self.daemons.iter().map(|daemon| daemon.node().to_owned()));
        let datapath = self.report.datapath.clone();
        self.say(
            "Daemons",
            &format!(
                "edgelb run is ready on {names}; datapath {datapath}; {} ms",
                milliseconds(start.elapsed())
            ),
        )
    }

    /// A Service gets its address, one node announces it, and requests to it are answered.
    fn use_vip(&mut self, service: &ServiceManifest) -> anyhow::Result<()> {
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let name = format!("{}/{}", manifests::NAMESPACE, service.name);
        let what = format!("the daemons did not give {name} the same address from the pool");
        let vip = self
            .interrupt
            .wait_for(&what, self.arguments.patience(), || {
                agreed_vip(&self.daemons, &service.name)
            })?;
        let client = lab.client()?;
        let (owner, mac) = self.interrupt.wait_for(
            &format!("not exactly one node answered ARP for {vip}"),
            self.arguments.patience(),
            || only_owner(lab.nodes(), client, vip),
        )?;
        let owner = owner.name.clone();
        let others: Vec<_> = lab
            .nodes()
            .iter()
            .filter(|node| node.name != owner)
            .map(|node| node.name.clone())
            .collect();
        let address = client.address.ipv4;
        let requests = self.send(&client.namespace, vip, PORT, REQUESTS)?;

        self.say(
            "Service",
            &format!("{name} got {vip} from the pool {}", VIP_POOL[0]),
        )?;
        let silent = match others.as_slice() {
            [] => String::new(),
            [other] => format!("; {other} does not"),
            _ => format!("; {} do not", list(others)),
        };
        self.say("ARP", &format!("{owner} ({mac}) answers for {vip}{silent}"))?;
        self.say(
            "Requests",
            &format!(
                "client-1 to {vip}:{PORT}, policy {}: {}",
                service.external_traffic_policy,
                requests.summary()
            ),
        )?;
        self.report.services.push(ServiceReport {
            name: name.clone(),
            vip,
            owner,
            owner_mac: mac.to_string(),
            external_traffic_policy: service.external_traffic_policy,
            requests: requests.clone(),
        });
        must_all_succeed(&format!("requests to {name}"), &requests)?;
        if service.external_traffic_policy == "Local" {
            ensure!(
                requests
                    .client_seen_as
                    .values()
                    .flatten()
                    .all(|seen| *seen == IpAddr::V4(address)),
                "{name} has externalTrafficPolicy Local, but its workloads did not see the client as {address}"
            );
        }
        Ok(())
    }

    /// A node that does not own the VIP serves the Service on its own address.
    fn use_node_port(&mut self, service: &ServiceManifest) -> anyhow::Result<()> {
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let port = service
            .ports
            .first()
            .and_then(|port| port.node_port)
            .context("the Service has no NodePort")?;
        let owner = self
            .report
            .services
            .first()
            .map(|service| service.owner.as_str());
        let other = lab
            .nodes()
            .iter()
            .find(|node| Some(node.name.as_str()) != owner);
        let node = other
            .or(lab.nodes().first())
            .context("the LAN has no node")?;
        let (name, address) = (node.name.clone(), node.address.ipv4);
        let requests = self.send(&lab.client()?.namespace, address, port, FEW_REQUESTS)?;
        self.say(
            "NodePort",
            &format!(
                "client-1 to {name} at {address}:{port}: {}",
                requests.summary()
            ),
        )?;
        self.report.node_port = Some(NodePortReport {
            node: name,
            address,
            port,
            requests: requests.clone(),
        });
        must_all_succeed("requests to the NodePort", &requests)
    }

    /// A pod and a node reach the Service at its `ClusterIP`.
    fn use_cluster_ip(&mut self, service: &ServiceManifest) -> anyhow::Result<()> {
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let address = service.cluster_ips.ipv4;
        let workload = lab.workloads().first().context("the LAN has no workload")?;
        let node = lab.nodes().first().context("the LAN has no node")?;
        let from_workload = FromReport {
            from: workload.name.clone(),
            requests: self.send(&workload.namespace, address, PORT, FEW_REQUESTS)?,
        };
        let from_node = FromReport {
            from: node.name.clone(),
            requests: self.send(&node.namespace, address, PORT, FEW_REQUESTS)?,
        };
        for place in [&from_workload, &from_node] {
            self.say(
                "ClusterIP",
                &format!(
                    "{} to {address}:{PORT}: {}",
                    place.from,
                    place.requests.summary()
                ),
            )?;
        }
        let checks = [&from_workload, &from_node].map(|place| {
            must_all_succeed(
                &format!("requests from {} to the ClusterIP", place.from),
                &place.requests,
            )
        });
        self.report.cluster_ip = Some(ClusterIpReport {
            address,
            port: PORT,
            from_workload,
            from_node,
        });
        checks.into_iter().collect()
    }

    pub(super) fn send(
        &self,
        from: &Namespace,
        to: Ipv4Addr,
        port: u16,
        number: usize,
    ) -> anyhow::Result<Requests> {
        let mut requests = Requests::default();
        for _ in 0..number {
            self.interrupt.check()?;
            requests.record(request(from, SocketAddr::from((to, port)), Protocol::Tcp));
            // When nothing answers, each request waits its whole time: a few are enough to say so.
            if requests.succeeded == 0 && requests.sent >= 3 {
                break;
            }
        }
        Ok(requests)
    }

    pub(super) fn say(&mut self, head: &str, text: &str) -> anyhow::Result<()> {
        writeln!(self.lines, "{head:<10} {text}")
            .and_then(|()| self.lines.flush())
            .context("cannot print")
    }
}
