//! What the datapath tests share: a lab with a daemon in each node, and how to ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::client::{Answer, Protocol, RequestError, RequestOptions, request_with};
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::manifests::{ManifestDirectory, ServiceManifest, ServicePort};
use edgelb::lab::server::Listen;
use edgelb::lab::{DualStack, Lab, LabOptions, Namespace, Workload};
use serde_json::Value;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_edgelb");
/// How long a daemon may take to start, also on an emulated machine.
pub const START: Duration = Duration::from_secs(60);
/// How long a state may take to be reached that has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The datapath under test: `ipvs` in the machine that has it, `nftables` on this kernel.
pub fn datapath() -> String {
    std::env::var("EDGELB_LAB_DATAPATH").unwrap_or_else(|_| "nftables".to_owned())
}

/// Whether the IPVS datapath is under test.
pub fn ipvs() -> bool {
    datapath() == "ipvs"
}

/// The bound for changes to reach the kernel; an emulated machine is some ten times slower.
pub fn soon() -> Duration {
    Duration::from_millis(if ipvs() { 1000 } else { 100 })
}

pub struct Rig {
    pub lab: Lab,
    pub manifests: ManifestDirectory,
    pub daemons: Vec<Daemon>,
}

impl Rig {
    /// A lab whose Nodes are in the manifests and whose daemons are ready.
    pub fn new(nodes: usize, workloads: usize) -> Self {
        Self::with(nodes, workloads, toml::Table::new())
    }

    pub fn with(nodes: usize, workloads: usize, configuration: toml::Table) -> Self {
        Self::build(nodes, workloads, configuration, false)
    }

    /// The same with a router on the LAN, which is everybody's gateway.
    pub fn with_router(nodes: usize, workloads: usize, configuration: toml::Table) -> Self {
        Self::build(nodes, workloads, configuration, true)
    }

    fn build(nodes: usize, workloads: usize, configuration: toml::Table, router: bool) -> Self {
        let lab = Lab::build(LabOptions {
            nodes,
            workloads,
            router,
            clients: 1,
            listen: vec![Listen::tcp(8080), Listen::udp(8080), Listen::tcp(9090)],
            ..LabOptions::default()
        })
        .unwrap();
        let manifests = ManifestDirectory::create(&lab.directory().join("manifests")).unwrap();
        for node in lab.nodes() {
            manifests.write_node(node).unwrap();
        }
        let mut rig = Self {
            lab,
            manifests,
            daemons: Vec::new(),
        };
        let options = rig.options(configuration);
        for node in 0..nodes {
            rig.daemons
                .push(Daemon::start(&rig.lab, node, &options).unwrap());
        }
        for daemon in &mut rig.daemons {
            daemon.wait_ready(START).unwrap();
        }
        rig
    }

    pub fn options(&self, configuration: toml::Table) -> DaemonOptions {
        DaemonOptions {
            datapath: datapath(),
            configuration,
            ..DaemonOptions::new(PROGRAM, self.manifests.path())
        }
    }

    pub fn client(&self) -> &Namespace {
        &self.lab.client().unwrap().namespace
    }

    pub fn client_address(&self) -> IpAddr {
        self.lab.client().unwrap().address.ipv4.into()
    }

    pub fn node(&self, index: usize) -> &Namespace {
        &self.lab.node(index).unwrap().namespace
    }

    pub fn workload(&self, name: &str) -> &Workload {
        self.lab.workload(name).unwrap()
    }

    pub fn workloads(&self) -> Vec<&Workload> {
        self.lab.workloads().iter().collect()
    }

    /// Writes a Service with its endpoints, the endpoints first.
    pub fn serve(&self, service: &ServiceManifest, workloads: &[&Workload]) {
        self.manifests
            .write_endpoints(service, workloads, self.lab.nodes())
            .unwrap();
        self.manifests.write_service(service).unwrap();
    }

    pub fn endpoints(&self, service: &ServiceManifest, workloads: &[&Workload]) {
        self.manifests
            .write_endpoints(service, workloads, self.lab.nodes())
            .unwrap();
    }

    /// What `edgelb COMMAND -o json` of one daemon says.
    pub fn ask(&self, daemon: usize, command: &str) -> Value {
        let output = self.daemons[daemon].ask(&[command, "-o", "json"]).unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The IPv4 VIP of a Service and the index of its owner, once every daemon agrees on both.
    pub fn vip(&self, service: &str) -> (Ipv4Addr, usize) {
        eventually(PATIENCE, || {
            let mut seen = BTreeSet::new();
            for daemon in 0..self.daemons.len() {
                let vips = self.ask(daemon, "vips");
                let vip = vips["vips"].as_array().unwrap().iter().find(|vip| {
                    vip["service"] == format!("default/{service}")
                        && vip["address"].as_str().unwrap().parse::<Ipv4Addr>().is_ok()
                })?;
                let owner = vip["owner"].as_str()?;
                let owner = self
                    .lab
                    .nodes()
                    .iter()
                    .position(|node| node.name == owner)?;
                seen.insert((vip["address"].as_str().unwrap().parse().unwrap(), owner));
            }
            (seen.len() == 1).then(|| seen.pop_first().unwrap())
        })
    }

    /// Requests until one from there is answered by a workload.
    #[allow(clippy::unused_self)] // Reads as what it waits for: this rig.
    pub fn wait_served(&self, from: &Namespace, to: SocketAddr, protocol: Protocol) -> Answer {
        eventually(PATIENCE, || request(from, to, protocol).ok())
    }

    /// Requests until one is refused.
    #[allow(clippy::unused_self)]
    pub fn wait_refused(&self, from: &Namespace, to: SocketAddr, protocol: Protocol) {
        eventually(PATIENCE, || {
            matches!(request(from, to, protocol), Err(RequestError::Refused)).then_some(())
        });
    }
}

/// A Service with one TCP port 80 → 8080 and, where asked for, node port and UDP port 80.
pub fn web(name: &str, number: u8) -> ServiceManifest {
    ServiceManifest::load_balancer(
        name,
        cluster_ips(number),
        vec![ServicePort {
            name: "http".to_owned(),
            protocol: Protocol::Tcp,
            port: 80,
            target_port: 8080,
            node_port: Some(30_000 + u16::from(number)),
        }],
    )
}

/// The `ClusterIP`s number so-and-so of the lab's ranges.
pub fn cluster_ips(number: u8) -> DualStack {
    DualStack {
        ipv4: Ipv4Addr::new(10, 96, 0, number),
        ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()),
    }
}

pub fn request(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
) -> Result<Answer, RequestError> {
    let options = RequestOptions {
        timeout: Duration::from_secs(2),
        ..RequestOptions::default()
    };
    request_with(from, to, protocol, &options)
}

pub fn socket(address: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

/// How often each workload answered, and which addresses they saw.
pub fn spread(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    requests: usize,
) -> (BTreeMap<String, usize>, BTreeSet<IpAddr>) {
    let mut by_workload = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for number in 0..requests {
        let answer = request(from, to, protocol).unwrap_or_else(|error| {
            panic!(
                "request {number} from {} to {protocol} {to}: {error}",
                from.name()
            )
        });
        *by_workload.entry(answer.workload).or_default() += 1;
        seen.insert(answer.seen.ip());
    }
    (by_workload, seen)
}

/// Looks every few milliseconds until there is something; fails with what was waited for.
#[track_caller]
pub fn eventually<T>(patience: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < patience, "not within {patience:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
