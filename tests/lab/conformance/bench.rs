//! The rig of the conformance cases.
//!
//! ```text
//!  C 192.0.2.50 ──┐             ┌── N1 192.0.2.11, the daemon under test ── A, A2, P (10.244.1.2-4)
//!                 ├── the LAN ──┤
//!  B 192.0.2.99 ──┘             └── N2 192.0.2.12, a plain router ───────── R (10.244.2.2)
//! ```
//!
//! A, A2 and R may be endpoints, P is a client alone. C and B reach the VIP, the external address and
//! the `ClusterIP`s by way of N1 whoever announces, and know no way to a pod: a reply that left the
//! node by another way than it came is lost. N1 answers every packet that it refuses (the kernel's
//! limit on ICMP errors is off), so that silence is never a refusal in disguise. Nothing is looked at
//! anew by the clock: a change that only a resync would bring fails its case.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use edgelb::lab::client::{Protocol, RequestOptions, request_with};
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::manifests::ManifestDirectory;
use edgelb::lab::{DualStack, Lab, Namespace, Node, Workload};
use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::network;
use super::objects::{self, Endpoint, list, slices};
use crate::authority::Secure;
use crate::rig::{PROGRAM, START, datapath, eventually, ipvs, socket};
use crate::script::Script;

/// The addresses of the Service `web`, which is in every case.
pub const CLUSTER_IP: DualStack = DualStack {
    ipv4: Ipv4Addr::new(10, 96, 0, 10),
    ipv6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10),
};
pub const VIP: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 210),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x210),
};
/// On no node, in no pool.
pub const EXTERNAL: DualStack = DualStack {
    ipv4: Ipv4Addr::new(203, 0, 113, 250),
    ipv6: Ipv6Addr::new(0xfd00, 0x113, 0, 0, 0, 0, 0, 0x250),
};
/// The node port of a Service port, TCP or UDP.
pub const NODE_PORT: u16 = 30_080;
/// B's address, outside of `192.0.2.48/28` and `fd00:2::40/122`, in which C is.
pub const B: DualStack = DualStack {
    ipv4: Ipv4Addr::new(192, 0, 2, 99),
    ipv6: Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x99),
};

/// How fast a change of the cluster must be in force: the specification's bar of 2 s; an emulated
/// machine is some ten times slower.
pub fn bar() -> Duration {
    Duration::from_secs(if ipvs() { 15 } else { 2 })
}

/// Where the objects come from.
enum Objects {
    Manifests(ManifestDirectory),
    Server { secure: Secure, _runtime: Runtime },
}

/// What a case wants to be otherwise.
#[derive(Default)]
pub struct Setup {
    /// Keys over the bench's configuration, as TOML.
    pub configuration: &'static str,
    /// Objects come from the scripted API server instead of manifests.
    pub api_server: bool,
    /// The Nodes have no pod ranges, and the configuration names none.
    pub pods_unknown: bool,
    /// A daemon runs on N2 as well.
    pub both_nodes: bool,
}

pub struct Bench {
    // Daemons first: they go before the network that they are in.
    pub daemons: Vec<Daemon>,
    objects: Objects,
    pub lab: Lab,
    options: DaemonOptions,
    /// Numbers the markers of `settle`.
    settled: Cell<u8>,
}

impl Bench {
    pub fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub fn configured(configuration: &'static str) -> Self {
        Self::with(&Setup {
            configuration,
            ..Setup::default()
        })
    }

    pub fn with(setup: &Setup) -> Self {
        let lab = network::lab();
        let mut configuration: toml::Table =
            "[proxy]\nexternal_ip_ranges = [\"203.0.113.0/24\", \"fd00:113::/64\"]\n\
            resync_interval = \"10m\"\n"
                .parse()
                .unwrap();
        let objects = if setup.api_server {
            let (objects, kubeconfig) = api_server(&lab);
            let source: toml::Table = format!(
                "kind = \"kubernetes\"\nkubernetes = {{ kubeconfig = \"{kubeconfig}\" }}\n"
            )
            .parse()
            .unwrap();
            configuration.insert("source".to_owned(), source.into());
            objects
        } else {
            Objects::Manifests(
                ManifestDirectory::create(&lab.directory().join("manifests")).unwrap(),
            )
        };
        for (section, keys) in setup.configuration.parse::<toml::Table>().unwrap() {
            let table = configuration
                .entry(section)
                .or_insert_with(|| toml::Table::new().into());
            let keys = keys.as_table().unwrap().clone();
            table.as_table_mut().unwrap().extend(keys);
        }
        let options = DaemonOptions {
            datapath: datapath(),
            configuration,
            ..DaemonOptions::new(PROGRAM, lab.directory().join("manifests"))
        };
        let mut bench = Self {
            daemons: Vec::new(),
            objects,
            lab,
            options,
            settled: Cell::new(0),
        };
        for node in bench.lab.nodes() {
            let mut node = objects::node(node);
            if setup.pods_unknown {
                node["spec"] = json!({});
            }
            bench.put(&node);
        }
        for node in 0..if setup.both_nodes { 2 } else { 1 } {
            let daemon = Daemon::start(&bench.lab, node, &bench.options).unwrap();
            bench.daemons.push(daemon);
        }
        for daemon in &mut bench.daemons {
            daemon.wait_ready(START).unwrap();
        }
        bench
    }

    pub fn n1(&self) -> &Namespace {
        &self.lab.nodes()[0].namespace
    }

    pub fn node(&self) -> &Node {
        &self.lab.nodes()[0]
    }

    pub fn c(&self) -> &Namespace {
        &self.lab.clients()[0].namespace
    }

    pub fn b(&self) -> &Namespace {
        &self.lab.clients()[1].namespace
    }

    /// C's addresses.
    pub fn client(&self) -> DualStack {
        self.lab.clients()[0].address
    }

    pub fn a(&self) -> &Workload {
        &self.lab.workloads()[0]
    }

    pub fn a2(&self) -> &Workload {
        &self.lab.workloads()[1]
    }

    pub fn p(&self) -> &Workload {
        &self.lab.workloads()[2]
    }

    pub fn r(&self) -> &Workload {
        &self.lab.workloads()[3]
    }

    /// A workload as an endpoint that is ready.
    pub fn endpoint(&self, workload: &Workload) -> Endpoint {
        Endpoint::ready(workload, &self.lab.nodes()[workload.node].name)
    }

    /// Every one of N1's own addresses.
    pub fn is_n1(&self, address: IpAddr) -> bool {
        let towards_pods = [
            IpAddr::from([10, 244, 1, 1]),
            "fd00:244:1::1".parse().unwrap(),
        ];
        let on_lan = self.node().address.both();
        on_lan.contains(&address) || towards_pods.contains(&address)
    }

    /// Creates or replaces an object.
    pub fn put(&self, object: &Value) {
        match &self.objects {
            Objects::Manifests(directory) => {
                directory.write(&file(object), &object.to_string()).unwrap();
            }
            Objects::Server { secure, .. } => {
                secure.server.with(|script| put(script, object));
            }
        }
    }

    /// Several at once: one file, or events that come together.
    pub fn put_all(&self, objects: &[Value]) {
        match &self.objects {
            Objects::Manifests(directory) => {
                let file = file(&objects[0]);
                directory.write(&file, &list(objects).to_string()).unwrap();
            }
            Objects::Server { secure, .. } => secure.server.with(|script| {
                for object in objects {
                    put(script, object);
                }
            }),
        }
    }

    /// Deletes an object: the same one that was put. A manifest that goes may come back at once under
    /// another name, so that its object is kept for two seconds: this waits for its end, by what the
    /// daemon lists, which is Services alone.
    pub fn delete(&self, object: &Value) {
        match &self.objects {
            Objects::Manifests(directory) => {
                assert_eq!(object["kind"], "Service");
                directory.remove(&file(object)).unwrap();
                eventually(Duration::from_secs(20), || {
                    let services = self.ask("services");
                    let mut services = services["services"].as_array().unwrap().iter();
                    let name = &object["metadata"]["name"];
                    services.all(|it| it["name"] != *name).then_some(())
                });
            }
            Objects::Server { secure, .. } => secure.server.with(|script| {
                let version = script.next_version();
                let collection = script.collection(watched(object));
                collection.change_at(version, "DELETED", object.clone());
            }),
        }
    }

    /// The scripted API server.
    pub fn script<T>(&self, edit: impl FnOnce(&mut Script) -> T) -> T {
        match &self.objects {
            Objects::Manifests(_) => panic!("this bench has no API server"),
            Objects::Server { secure, .. } => secure.server.with(edit),
        }
    }

    /// A Service with the endpoints of each family in one slice, whose ports are the Service's; in
    /// force when this returns.
    pub fn serve(&self, service: &Value, endpoints: &[Endpoint]) {
        self.put_all(&slices(service, endpoints));
        self.put(service);
        self.settle();
    }

    /// Other endpoints for a Service; in force when this returns.
    pub fn endpoints(&self, service: &Value, endpoints: &[Endpoint]) {
        self.put_all(&slices(service, endpoints));
        self.settle();
    }

    /// Waits until everything that was put is in force, within the bar: a Service of its own, put
    /// last, is served, and the daemon tells of the pass that served it, which it does when that
    /// pass is at its end (routes and conntrack entries included). The listeners of health checks
    /// follow on their own: ask them with `eventually`.
    pub fn settle(&self) {
        self.settled.set(self.settled.get() + 1);
        let number = self.settled.get();
        let address = Ipv4Addr::new(10, 96, 99, number);
        // The last one also in a list.
        let name = format!("zz-marker-{number}");
        let mut marker = objects::single(&name, address.into());
        marker["spec"]["ports"] =
            json!([{"name": "mark", "protocol": "TCP", "port": 1, "targetPort": 8080}]);
        let endpoint = self.endpoint(self.p());
        let [slice, _] = slices(&marker, &[endpoint]);
        self.put_all(&[slice, marker]);
        let options = RequestOptions {
            timeout: bar() / 10,
            ..RequestOptions::default()
        };
        eventually(bar(), || {
            request_with(self.n1(), socket(address, 1), Protocol::Tcp, &options).ok()
        });
        // Endpoints are counted by the plan, which only a pass that ended replaces.
        eventually(bar(), || {
            let services = self.ask("services");
            let mut services = services["services"].as_array().unwrap().iter();
            services
                .any(|it| it["name"] == *name && it["endpoints"] == 1)
                .then_some(())
        });
    }

    /// Waits until the API server is heard again after it was down; tries come less often with time.
    pub fn heard(&self) {
        eventually(Duration::from_secs(60), || {
            let source = &self.ask("status")["source"];
            (source["connected"] == true && source["from_snapshot"] == false).then_some(())
        });
    }

    /// Starts the daemon of N1 anew, after its end.
    pub fn start_again(&mut self) {
        self.daemons[0] = Daemon::start(&self.lab, 0, &self.options).unwrap();
        self.daemons[0].wait_ready(START).unwrap();
    }

    /// The same without waiting, where it cannot become ready.
    pub fn start_unready(&mut self) {
        self.daemons[0] = Daemon::start(&self.lab, 0, &self.options).unwrap();
        self.daemons[0]
            .wait_until("answering", START, |daemon| {
                daemon.ask(&["status"]).is_ok_and(|it| it.status.success())
            })
            .unwrap();
    }

    /// What `edgelb COMMAND -o json` of N1's daemon says.
    pub fn ask(&self, command: &str) -> Value {
        let output = self.daemons[0].ask(&[command, "-o", "json"]).unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The four ways to a Service port of one family: `ClusterIP`, VIP, external address, node port.
    pub fn frontends(&self, v6: bool, port: u16) -> [SocketAddr; 4] {
        let of = |address: DualStack| address.both()[usize::from(v6)];
        [
            socket(of(CLUSTER_IP), port),
            socket(of(VIP), port),
            socket(of(EXTERNAL), port),
            socket(of(self.node().address), NODE_PORT),
        ]
    }

    /// The same without the `ClusterIP`.
    pub fn external_frontends(&self, v6: bool, port: u16) -> [SocketAddr; 3] {
        let [_, rest @ ..] = self.frontends(v6, port);
        rest
    }
}

/// A scripted API server on B, and the path of the kubeconfig that leads to it.
fn api_server(lab: &Lab) -> (Objects, String) {
    let runtime = Runtime::new().unwrap();
    let host = &lab.clients()[1].namespace;
    let listener = host
        .run(|| TcpListener::bind((B.ipv4, 6443)).unwrap())
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut script = Script::recorded();
    for watched in Watched::ALL {
        let collection = script.collection(watched);
        collection.objects.clear();
        collection.script.clear();
    }
    let token = &lab.nodes()[0].name;
    script.let_in(token, &format!("system:node:{token}"), &[]);
    let secure = {
        let _entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        Secure::start_on(listener, script)
    };
    let kubeconfig = secure.kubeconfig(token).to_string_lossy().into_owned();
    let objects = Objects::Server {
        secure,
        _runtime: runtime,
    };
    (objects, kubeconfig)
}

fn file(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_lowercase();
    let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
    format!("{kind}-{name}.json")
}

fn watched(object: &Value) -> Watched {
    match object["kind"].as_str().unwrap() {
        "Service" => Watched::Services,
        "EndpointSlice" => Watched::EndpointSlices,
        "Node" => Watched::Nodes,
        other => panic!("{other}"),
    }
}

fn put(script: &mut Script, object: &Value) {
    let version = script.next_version();
    let collection = script.collection(watched(object));
    let known = collection.objects.contains_key(&crate::script::key(object));
    let event = if known { "MODIFIED" } else { "ADDED" };
    collection.change_at(version, event, object.clone());
}
