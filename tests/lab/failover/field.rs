//! What the failover tests share: a LAN of edge nodes with daemons that know one another, a node with
//! the workloads that owns nothing and never fails, clients under load, and an eye on the wire.
//!
//! Time is measured here, so these tests run one at a time: `tests/run failover`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::api_server::ApiServer;
use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::manifests::{ManifestDirectory, ServiceManifest, ServicePort};
use edgelb::lab::membership::{Membership, MembershipNetwork};
use edgelb::lab::prober::{ProbeReport, Prober, ProberOptions};
use edgelb::lab::server::Listen;
use edgelb::lab::wire::{Eye, Sightings};
use edgelb::lab::{DualStack, Host, Lab, LabOptions, MacAddress, Namespace, Workload};
use serde_json::Value;

use crate::rig::{PATIENCE, PROGRAM, START, cluster_ips, datapath, eventually, ipvs};

/// Clients: the one under load, the eye's host, and one for the other half of a parted LAN.
const CLIENTS: usize = 3;
/// The index of the eye's host among the clients.
const EYE: usize = 1;
/// Never may two nodes answer for longer.
pub const LONGEST_CONTENTION: Duration = Duration::from_secs(1);
/// Answers of each prober by which the way counts as open.
const STEADY: u64 = 20;

/// How many lines of each log are shown after a failure.
const LOG_TAIL: usize = 40;

/// The first VIPs of the pool.
pub const VIP: DualStack = vip(0);

/// The VIPs number so-and-so of the pool.
pub const fn vip(number: u8) -> DualStack {
    DualStack {
        ipv4: Ipv4Addr::new(192, 0, 2, 200 + number),
        ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x200 + number as u16),
    }
}

/// An emulated machine is some ten times slower, and its clocks tick late.
pub fn bound(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds * if ipvs() { 10 } else { 1 })
}

/// The bar of a failover that nobody planned.
pub fn longest_blackout() -> Duration {
    bound(500)
}

/// What a test wants to be otherwise.
#[allow(clippy::struct_excessive_bools)] // Each is a wish of its own.
pub struct Setup {
    /// Edge nodes.
    pub nodes: usize,
    /// How many of them have a daemon from the start.
    pub daemons: usize,
    /// The nodes have a second network, by which they talk with one another.
    pub management: bool,
    /// The cluster is read from an API server, the host `api`.
    pub api_server: bool,
    /// Keys over the lab's configuration, as TOML.
    pub configuration: &'static str,
    /// Labels of the edge nodes' Nodes.
    pub labels: fn(usize) -> Vec<(&'static str, &'static str)>,
    /// The Service has a workload on each edge node instead of two on the node that never fails.
    pub workloads_on_the_edge: bool,
    pub external_traffic_policy: &'static str,
    /// Writes no Service at first.
    pub without_service: bool,
    /// Does not wait until every daemon may own VIPs: not all may.
    pub candidates_differ: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            nodes: 5,
            daemons: usize::MAX,
            management: false,
            api_server: false,
            configuration: "",
            labels: |_| Vec::new(),
            workloads_on_the_edge: false,
            external_traffic_policy: "Cluster",
            without_service: false,
            candidates_differ: false,
        }
    }
}

pub struct Field {
    // Daemons first: they go before the network that they are in.
    pub daemons: Vec<Option<Daemon>>,
    pub eye: Eye,
    pub lab: Lab,
    pub manifests: ManifestDirectory,
    pub options: DaemonOptions,
    nodes: usize,
    _api_server: Option<(Host, ApiServer)>,
}

/// What clients saw under load.
pub struct Seen {
    reports: Vec<(String, ProbeReport)>,
}

/// Clients under load.
pub struct Load(Vec<(String, Prober)>);

impl Field {
    pub fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub fn with(setup: &Setup) -> Self {
        // On an emulated machine seconds are tenths of seconds, and there is room for fewer nodes.
        let nodes = setup.nodes.min(if ipvs() { 3 } else { usize::MAX });
        let mut lab = Lab::build(LabOptions {
            nodes: nodes + 1,
            workloads: 0,
            clients: CLIENTS,
            router: true,
            management: setup.management,
            listen: vec![Listen::tcp(8080), Listen::udp(8080)],
            ..LabOptions::default()
        })
        .unwrap();
        let hosts = if setup.workloads_on_the_edge {
            (0..nodes).collect()
        } else {
            vec![nodes; 2]
        };
        for node in hosts {
            lab.add_workload(node).unwrap();
        }
        let manifests = ManifestDirectory::create(&lab.directory().join("manifests")).unwrap();
        for (index, node) in lab.nodes().iter().enumerate() {
            let labels = if index < nodes {
                (setup.labels)(index)
            } else {
                vec![EXCLUDED]
            };
            manifests.write_labelled_node(node, &labels).unwrap();
        }
        if !setup.without_service {
            let mut service = service("web", 0);
            service.external_traffic_policy = setup.external_traffic_policy;
            let workloads: Vec<_> = lab.workloads().iter().collect();
            manifests
                .write_endpoints(&service, &workloads, lab.nodes())
                .unwrap();
            manifests.write_service(&service).unwrap();
        }
        let network = if setup.management {
            MembershipNetwork::Management
        } else {
            MembershipNetwork::Lan
        };
        let slow = "[membership]\nprobe_interval = \"1s\"\nrestart_grace = \"60s\"\n";
        let timing = if ipvs() { slow } else { "" };
        let mut options = DaemonOptions {
            datapath: datapath(),
            configuration: format!("{}{timing}", setup.configuration).parse().unwrap(),
            membership: Some(Membership::among(&lab, nodes, network).unwrap()),
            ..DaemonOptions::new(PROGRAM, manifests.path())
        };
        let api_server = setup.api_server.then(|| {
            let address = DualStack {
                ipv4: Ipv4Addr::new(192, 0, 2, 9),
                ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 9),
            };
            let host = lab.add_host("api", address).unwrap();
            let server = ApiServer::start(&host, &manifests).unwrap();
            let kubeconfig = server.write_kubeconfig(lab.directory()).unwrap();
            let source = format!(
                "kind = \"kubernetes\"\nkubernetes = {{ kubeconfig = {:?} }}\n",
                kubeconfig.to_str().unwrap()
            );
            let source: toml::Table = source.parse().unwrap();
            options
                .configuration
                .insert("source".to_owned(), source.into());
            (host, server)
        });
        let eye = Eye::open_with_pace(&lab.clients()[EYE], &VIP.both(), bound(10)).unwrap();
        let mut field = Self {
            daemons: (0..nodes).map(|_| None).collect(),
            eye,
            lab,
            manifests,
            options,
            nodes,
            _api_server: api_server,
        };
        let daemons = setup.daemons.min(nodes);
        for node in 0..daemons {
            field.start(node);
        }
        for node in 0..daemons {
            field.wait_ready(node);
        }
        if !setup.candidates_differ {
            field.wait_candidates(daemons);
        }
        field
    }

    /// Starts the daemon of a node, which is not ready yet on return.
    pub fn start(&mut self, node: usize) {
        self.daemons[node] = Some(Daemon::start(&self.lab, node, &self.options).unwrap());
    }

    pub fn wait_ready(&mut self, node: usize) {
        self.daemon(node).wait_ready(START).unwrap();
    }

    pub fn daemon(&mut self, node: usize) -> &mut Daemon {
        self.daemons[node].as_mut().expect("a daemon there")
    }

    /// Waits until every daemon that answers knows that many nodes that could own VIPs.
    #[track_caller]
    pub fn wait_candidates(&self, number: usize) {
        let start = Instant::now();
        loop {
            let wrong = (0..self.nodes)
                .filter(|node| self.daemons[*node].is_some())
                .map(|node| self.ask(node, "peers"))
                .find(|peers| {
                    let peers = peers["peers"].as_array().unwrap();
                    peers.iter().filter(|peer| peer["eligible"] == true).count() != number
                });
            let Some(wrong) = wrong else { return };
            assert!(
                start.elapsed() < bound(10_000),
                "not {number} candidates: {wrong:#}"
            );
        }
    }

    /// What `edgelb COMMAND -o json` of one daemon says.
    pub fn ask(&self, node: usize, command: &str) -> Value {
        let daemon = self.daemons[node].as_ref().expect("a daemon there");
        let output = daemon.ask(&[command, "-o", "json"]).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!(
                "{command}: {error}: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// Runs `edgelb COMMAND`, which must succeed.
    pub fn command(&self, node: usize, command: &str) {
        let daemon = self.daemons[node].as_ref().expect("a daemon there");
        let output = daemon.ask(&[command]).unwrap();
        // On an emulated machine a drain may take longer than the command waits for it, which it
        // says by exit code 1.
        assert!(
            output.status.success() || ipvs() && output.status.code() == Some(1),
            "{command}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Edge nodes.
    pub fn size(&self) -> usize {
        self.nodes
    }

    pub fn name(&self, node: usize) -> &str {
        &self.lab.nodes()[node].name
    }

    pub fn node(&self, node: usize) -> &Namespace {
        &self.lab.nodes()[node].namespace
    }

    pub fn client(&self) -> &Namespace {
        &self.lab.clients()[0].namespace
    }

    /// The client behind the router.
    pub fn remote(&self) -> &Namespace {
        &self.lab.router().unwrap().remote_client.namespace
    }

    pub fn workloads(&self) -> Vec<&Workload> {
        self.lab.workloads().iter().collect()
    }

    /// The Ethernet addresses of the edge nodes.
    pub fn stations(&self) -> Vec<MacAddress> {
        (0..self.nodes)
            .map(|node| self.node(node).mac_address("eth0").unwrap())
            .collect()
    }

    /// Writes a Service with endpoints.
    pub fn serve(&self, service: &ServiceManifest, workloads: &[&Workload]) {
        self.manifests
            .write_endpoints(service, workloads, self.lab.nodes())
            .unwrap();
        self.manifests.write_service(service).unwrap();
    }

    /// Who alone answers now for both VIPs, by an eye.
    pub fn owner_seen_by(&self, eye: &Eye) -> Option<usize> {
        let stations = self.stations();
        let owners: BTreeSet<_> = VIP
            .both()
            .into_iter()
            .map(|address| {
                let answering = eye.answering(address, bound(80));
                let mac = answering.first().filter(|_| answering.len() == 1)?;
                stations.iter().position(|station| station == mac)
            })
            .collect();
        owners
            .first()
            .copied()
            .flatten()
            .filter(|_| owners.len() == 1)
    }

    /// Waits until one node alone answers for both VIPs.
    #[track_caller]
    pub fn owner(&self) -> usize {
        eventually(PATIENCE, || {
            self.eye.check().unwrap();
            self.owner_seen_by(&self.eye)
        })
    }

    /// Waits until another node alone answers.
    #[track_caller]
    pub fn other_owner(&self, than: usize) -> usize {
        eventually(PATIENCE, || {
            self.eye.check().unwrap();
            self.owner_seen_by(&self.eye).filter(|owner| *owner != than)
        })
    }

    /// The same owner answers alone for all of that time.
    #[track_caller]
    pub fn keeps_owner(&self, owner: usize, time: Duration) {
        self.eye.reset();
        std::thread::sleep(time);
        let seen = self.eye.sightings();
        let station = BTreeSet::from([self.stations()[owner]]);
        for address in VIP.both() {
            assert_eq!(seen.answering(address, None), station, "{address}");
        }
        self.assert_one_owner(&seen);
    }

    /// Nodes that did not hear each other do so again just now, and the eye was reset: within a second
    /// this one alone answers, and goes on.
    #[track_caller]
    pub fn heals(&self, owner: usize) {
        let start = Instant::now();
        self.wait_candidates(self.daemons.iter().flatten().count());
        std::thread::sleep(LONGEST_CONTENTION.saturating_sub(start.elapsed()));
        let seen = self.eye.sightings();
        self.assert_one_owner(&seen);
        let nodes: BTreeSet<_> = self.stations().into_iter().collect();
        for address in VIP.both() {
            let contention = seen.longest_contention(address, &nodes);
            eprintln!("{address}: after the healing two answered for {contention:?}");
        }
        self.keeps_owner(owner, bound(1000));
    }

    /// Never two of the nodes at once for longer than the bar.
    #[track_caller]
    pub fn assert_one_owner(&self, seen: &Sightings) {
        let nodes: BTreeSet<_> = self.stations().into_iter().collect();
        for address in VIP.both() {
            let contention = seen.longest_contention(address, &nodes);
            assert!(
                contention < LONGEST_CONTENTION,
                "two nodes answered for {address} for {contention:?}"
            );
        }
    }

    /// For how long nobody at all told a new client where the VIPs are.
    pub fn longest_silence(&self, seen: &Sightings) -> Duration {
        let nodes: BTreeSet<_> = self.stations().into_iter().collect();
        let now = Instant::now();
        VIP.both()
            .into_iter()
            .map(|address| seen.longest_silence(address, &nodes, now))
            .max()
            .unwrap()
    }

    /// Requests each 5 ms to the VIPs, by TCP and UDP and in both families, from the client on the
    /// LAN; answered steadily when this returns.
    pub fn load(&self) -> Load {
        self.load_from(&[self.client()])
    }

    pub fn load_from(&self, clients: &[&Namespace]) -> Load {
        let mut probers = Vec::new();
        // The load must not be what starves an emulated machine.
        let (clients, kinds) = if ipvs() {
            (&clients[..1], 2)
        } else {
            (clients, 3)
        };
        for client in clients {
            for (protocol, address) in [
                (Protocol::Tcp, VIP.both()[0]),
                (Protocol::Udp, VIP.both()[0]),
                (Protocol::Tcp, VIP.both()[1]),
            ]
            .into_iter()
            .take(kinds)
            {
                let to = SocketAddr::new(address, 80);
                let options = ProberOptions {
                    interval: Duration::from_millis(if ipvs() { 100 } else { 5 }),
                    timeout: bound(250).min(Duration::from_millis(900)),
                };
                let prober = Prober::start(client, to, protocol, options).unwrap();
                probers.push((format!("{} to {to}/{protocol}", client.name()), prober));
            }
        }
        let load = Load(probers);
        load.wait_steady();
        for (_, prober) in &load.0 {
            prober.reset();
        }
        self.eye.reset();
        load
    }
}

impl Drop for Field {
    /// What the daemons said is the first thing to read after a failure.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for daemon in self.daemons.iter().flatten() {
            let log = daemon.log().unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
                eprintln!("{}: {line}", daemon.node());
            }
        }
    }
}

impl Load {
    /// Waits for answers to every prober.
    #[track_caller]
    pub fn wait_steady(&self) {
        for (name, prober) in &self.0 {
            let before = prober.report().answered;
            let start = Instant::now();
            while prober.report().answered < before + STEADY {
                assert!(
                    start.elapsed() < PATIENCE,
                    "{name} is not answered: {:?}",
                    prober.report()
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Ends it; everything that was sent has been answered or has failed.
    pub fn end(self) -> Seen {
        let reports = self.0.into_iter();
        Seen {
            reports: reports
                .map(|(name, prober)| (name, prober.finish().unwrap()))
                .collect(),
        }
    }
}

impl Seen {
    pub fn blackout(&self) -> Duration {
        let gaps = self.reports.iter().map(|(_, report)| report.longest_gap);
        gaps.max().unwrap()
    }

    #[track_caller]
    pub fn assert_blackout_below(&self, bar: Duration) {
        for (name, report) in &self.reports {
            assert!(
                report.longest_gap < bar,
                "{name}: no answer for {:?}: {report:?}",
                report.longest_gap
            );
        }
    }

    /// Not one request was lost.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        for (name, report) in &self.reports {
            assert!(
                report.failed.is_empty() && report.answered > 0,
                "{name}: {report:?}"
            );
        }
    }
}

/// The label of nodes that own no VIP (Kubernetes, well-known labels).
pub const EXCLUDED: (&str, &str) = (
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "",
);

/// A Service with TCP and UDP port 80 at the VIPs of that number.
pub fn service(name: &str, number: u8) -> ServiceManifest {
    let port = |name: &str, protocol| ServicePort {
        name: name.to_owned(),
        protocol,
        port: 80,
        target_port: 8080,
        node_port: None,
    };
    let ports = vec![
        port("http", Protocol::Tcp),
        port("datagrams", Protocol::Udp),
    ];
    let mut service = ServiceManifest::load_balancer(name, cluster_ips(10 + number), ports);
    let [ipv4, ipv6]: [IpAddr; 2] = vip(number).both();
    let ips = format!("{ipv4},{ipv6}");
    service.annotations.insert("edgelb.io/ips".to_owned(), ips);
    // Where an API server is read that nobody may write to, this is what a leader has written.
    service.more =
        format!("status:\n  loadBalancer:\n    ingress:\n    - ip: {ipv4}\n    - ip: \"{ipv6}\"\n");
    service
}
