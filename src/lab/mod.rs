//! A LAN of network namespaces with clients, edge nodes and workloads, for the demo and the tests.
//!
//! ```text
//!  client-1 … ──┐                  ┌── edge-a ──(10.244.1.0/24)── web-1, web-4 …
//!               ├── bridge lan0 ───┼── edge-b ──(10.244.2.0/24)── web-2 …
//!  (router) ────┘  192.0.2.0/24    └── edge-c ──(10.244.3.0/24)── web-3 …
//! ```
//!
//! Everything is made by netlink and held by this process: when it ends, in whatever way, the kernel
//! takes the namespaces down. A lab holds no load balancer; [`daemon::Daemon`] starts one in a node.
//! The lab does what the machines and the pod network of a cluster do (links, addresses, pod routes,
//! forwarding) and nothing that edgelb must do (VIPs, `ClusterIPs`, NAT, strict ARP).

pub mod address_plan;
pub mod api_server;
pub mod arp_probe;
pub mod client;
mod configuration;
pub mod daemon;
pub mod directory;
mod error;
pub mod fault;
pub mod keepalived;
pub mod link;
pub mod manifests;
pub mod membership;
pub mod namespace;
mod netlink;
pub mod prober;
pub mod sandbox;
pub mod server;
mod topology;
pub mod wire;

use std::path::Path;

use ipnet::IpNet;

pub use address_plan::DualStack;
pub use error::LabError;
pub use link::{MacAddress, Route};
pub use namespace::{Namespace, tool};

use directory::LabDirectory;
use server::{Listen, Server};

/// What to build.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Edge nodes, 1 to 26.
    pub nodes: usize,
    /// Workloads, attached to the nodes in turn; more can be added later.
    pub workloads: usize,
    /// Client hosts on the LAN, at least 1.
    pub clients: usize,
    /// What every workload listens on.
    pub listen: Vec<Listen>,
    /// Whether there is a router on the LAN with one more client behind it. It is the default route
    /// of nodes and clients; without it they have none.
    pub router: bool,
    /// Whether the nodes have a second network among themselves, on their link `eth1`.
    pub management: bool,
    /// Whether the clients have routes to the pods. Hosts of a real LAN have none.
    pub client_pod_routes: bool,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            workloads: 3,
            clients: 1,
            listen: vec![Listen::tcp(8080), Listen::udp(8080)],
            router: false,
            management: false,
            client_pod_routes: false,
        }
    }
}

/// A host on the LAN, reached through its link `eth0`.
#[derive(Debug)]
pub struct Host {
    /// Its name in messages.
    pub name: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its addresses on `eth0`.
    pub address: DualStack,
}

/// An edge node: a host that also routes for its pods.
#[derive(Debug)]
pub struct Node {
    /// `edge-a`, `edge-b` and so on.
    pub name: String,
    /// Its network namespace.
    pub namespace: Namespace,
    /// Its addresses on `eth0`.
    pub address: DualStack,
    /// The ranges of its pods.
    pub pod_ranges: [IpNet; 2],
    /// Pods ever attached; gives the next pod's address.
    pods: usize,
}

/// A pod with a server that says who it is.
#[derive(Debug)]
pub struct Workload {
    /// `web-1`, `web-2` and so on.
    pub name: String,
    /// The index of its node.
    pub node: usize,
    /// Its network namespace; its link is `eth0`.
    pub namespace: Namespace,
    /// Its addresses.
    pub address: DualStack,
    /// Its server.
    pub server: Server,
    /// The link on the node that leads to it.
    node_link: String,
}

/// The router between the LAN and a client elsewhere.
#[derive(Debug)]
pub struct Router {
    /// Its network namespace: `eth0` is the LAN, `eth1` the far side.
    pub namespace: Namespace,
    /// The client on the far side.
    pub remote_client: Host,
}

/// The LAN and everything on it. Dropping it takes everything down.
#[derive(Debug)]
pub struct Lab {
    workloads: Vec<Workload>,
    nodes: Vec<Node>,
    clients: Vec<Host>,
    router: Option<Router>,
    switch: Namespace,
    options: LabOptions,
    workloads_made: usize,
    /// Last, so that it is removed after everything that writes into it.
    directory: LabDirectory,
}

impl Lab {
    /// Builds the LAN. Needs the right to create network namespaces: root, or [`sandbox::enter`].
    pub fn build(options: LabOptions) -> Result<Self, LabError> {
        let directory = LabDirectory::create()?;
        Self::build_in(options, directory)
    }

    /// The hosts on the LAN that send requests.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// The first client, 192.0.2.50.
    pub fn client(&self) -> Result<&Host, LabError> {
        self.clients
            .first()
            .ok_or_else(|| LabError::Shape("the lab has no client".to_owned()))
    }

    /// The edge nodes in the order of their names.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node at `index`.
    pub fn node(&self, index: usize) -> Result<&Node, LabError> {
        self.nodes.get(index).ok_or_else(|| {
            LabError::Shape(format!(
                "the lab has no node {index}, only {}",
                self.nodes.len()
            ))
        })
    }

    /// The workloads in the order of their making.
    pub fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// The workload of that name.
    pub fn workload(&self, name: &str) -> Result<&Workload, LabError> {
        self.workloads
            .iter()
            .find(|workload| workload.name == name)
            .ok_or_else(|| LabError::Shape(format!("the lab has no workload {name}")))
    }

    /// The router, if the options asked for one.
    pub fn router(&self) -> Option<&Router> {
        self.router.as_ref()
    }

    /// The namespace of the bridge `lan0`; the port of a host is its name there.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// A directory for files of this lab, removed with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Takes a host's cable out: its port on the bridge goes down, and its `eth0` loses the carrier.
    pub fn unplug(&self, host: &str) -> Result<(), LabError> {
        self.switch.set_down(host)
    }

    /// Puts a host's cable back.
    pub fn plug(&self, host: &str) -> Result<(), LabError> {
        self.switch.set_up(host)
    }
}
