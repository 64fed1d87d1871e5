//! Real daemons on real nodes with the scripted API server on their LAN: an address is given out,
//! written into the status, announced by one node and served; and it goes on when the leader dies and
//! when the server is away. Over TLS, with the roles of config/kubernetes/rbac.yaml enforced.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use edgelb::lab::arp_probe::arp_probe;
use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::server::Listen;
use edgelb::lab::{Lab, LabOptions};
use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::rig::{PROGRAM, START, datapath, eventually, request, socket};
use crate::authority::Secure;
use crate::script::Script;
use crate::user::load_balancer;

/// A Lease of the dead is taken after its ten seconds; an emulated machine needs some more.
const SUCCESSION: Duration = Duration::from_secs(40);

pub struct Cluster {
    // Daemons first: they go before the network that they are in.
    pub daemons: Vec<Daemon>,
    pub secure: Secure,
    pub lab: Lab,
    _runtime: Runtime,
}

impl Cluster {
    pub fn new() -> Self {
        let lab = Lab::build(LabOptions {
            nodes: 3,
            workloads: 2,
            clients: 2,
            listen: vec![Listen::tcp(8080)],
            ..LabOptions::default()
        })
        .unwrap();
        let runtime = Runtime::new().unwrap();
        let host = &lab.clients()[1];
        let listener = host
            .namespace
            .run(|| TcpListener::bind((host.address.ipv4, 6443)).unwrap())
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut script = Script::recorded();
        for watched in Watched::ALL {
            script.collection(watched).objects.clear();
        }
        for node in lab.nodes() {
            let token = &node.name;
            let groups = ["edgelb:readers", "edgelb:allocators"];
            script.let_in(token, &format!("system:node:{token}"), &groups);
            let node = json!({
                "kind": "Node", "apiVersion": "v1",
                "metadata": {"name": node.name, "uid": format!("node-{}", node.name), "labels": {"kubernetes.io/hostname": node.name}},
                "spec": {"podCIDRs": node.pod_ranges},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": node.address.ipv4},
                    {"type": "InternalIP", "address": node.address.ipv6},
                ]},
            });
            let version = script.next_version();
            script
                .collection(Watched::Nodes)
                .change_at(version, "ADDED", node);
        }
        script.enforce_roles();
        let secure = {
            let _entered = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            Secure::start_on(listener, script)
        };
        let mut cluster = Self {
            daemons: Vec::new(),
            secure,
            lab,
            _runtime: runtime,
        };
        for node in 0..3 {
            cluster.daemons.push(cluster.start(node));
        }
        for daemon in &mut cluster.daemons {
            daemon.wait_ready(START).unwrap();
        }
        cluster
    }

    fn start(&self, node: usize) -> Daemon {
        let token = &self.lab.node(node).unwrap().name;
        let kubeconfig = self.secure.kubeconfig(token);
        let configuration = format!(
            "[source]\nkind = \"kubernetes\"\n[source.kubernetes]\nkubeconfig = \"{}\"\n",
            kubeconfig.display()
        );
        let options = DaemonOptions {
            datapath: datapath(),
            configuration: configuration.parse().unwrap(),
            ..DaemonOptions::new(PROGRAM, self.lab.directory())
        };
        Daemon::start(&self.lab, node, &options).unwrap()
    }

    /// A Service with every workload behind it, the endpoints first.
    pub fn serve(&self, name: &str) {
        let endpoints: Vec<Value> = (self.lab.workloads().iter())
            .map(|workload| {
                json!({
                    "addresses": [workload.address.ipv4],
                    "conditions": {"ready": true, "serving": true, "terminating": false},
                    "nodeName": self.lab.node(workload.node).unwrap().name,
                })
            })
            .collect();
        let slice = json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "namespace": "shop", "name": format!("{name}-abcde"),
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        });
        self.secure.server.with(|script| {
            let version = script.next_version();
            let slices = script.collection(Watched::EndpointSlices);
            slices.change_at(version, "ADDED", slice);
            script.create_service(load_balancer("shop", name));
        });
    }

    /// The address in a Service's status, once it is there.
    pub fn address(&self, name: &str, patience: Duration) -> IpAddr {
        let key = format!("shop/{name}");
        eventually(patience, || {
            let addresses = self.secure.server.with(|script| script.addresses(&key));
            addresses.first().copied()
        })
    }

    pub fn wait_served(&self, to: SocketAddr) {
        let client = &self.lab.client().unwrap().namespace;
        eventually(Duration::from_secs(10), || {
            request(client, to, Protocol::Tcp).ok()
        });
    }

    fn ask(&self, daemon: usize, command: &str) -> Value {
        let output = self.daemons[daemon].ask(&[command, "-o", "json"]).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The daemon that gives out addresses, once there is one and all others know it.
    fn leader(&self, among: &[usize]) -> usize {
        eventually(SUCCESSION, || {
            let views: Vec<Value> = (among.iter())
                .map(|daemon| self.ask(*daemon, "status")["allocator"].clone())
                .collect();
            let leads = |view: &Value| view["role"] == "leader";
            let leader = views.iter().position(leads)?;
            let known = views.iter().all(|view| {
                view["leader"] == views[leader]["leader"]
                    && (leads(view) || view["role"] == "follower")
            });
            known.then(|| among[leader])
        })
    }

    fn owner(&self, daemon: usize, vip: IpAddr) -> usize {
        eventually(Duration::from_secs(10), || {
            let vips = self.ask(daemon, "vips");
            let mut vips = vips["vips"].as_array().unwrap().iter();
            let vip = vips.find(|it| it["address"] == vip.to_string())?;
            let owner = vip["owner"].as_str()?;
            self.lab.nodes().iter().position(|node| node.name == owner)
        })
    }
}

#[test]
fn an_address_is_given_announced_and_served_and_the_next_leader_goes_on() {
    let mut cluster = Cluster::new();
    cluster.serve("web");
    let vip = cluster.address("web", Duration::from_secs(20));
    assert!(vip.to_string().starts_with("192.0.2.2"), "{vip}");
    cluster.wait_served(socket(vip, 80));

    let leader = cluster.leader(&[0, 1, 2]);
    let owner = cluster.owner(0, vip);
    let client = cluster.lab.client().unwrap();
    let IpAddr::V4(address) = vip else {
        panic!("{vip}")
    };
    let answers = arp_probe(
        &client.namespace,
        "eth0",
        client.address.ipv4,
        address,
        Duration::from_millis(300),
    );
    let mac = cluster
        .lab
        .node(owner)
        .unwrap()
        .namespace
        .mac_address("eth0");
    assert_eq!(answers.unwrap(), [mac.unwrap()]);
    let assigned = format!(
        "{vip} is announced by node {}",
        cluster.lab.node(owner).unwrap().name
    );
    eventually(Duration::from_secs(10), || {
        let events = cluster.secure.server.with(|script| script.events());
        let told = |event: &Value| event["reason"] == "NodeAssigned" && event["note"] == *assigned;
        events.iter().any(told).then_some(())
    });

    cluster.daemons[leader].kill().unwrap();
    cluster.serve("next");
    let next = cluster.address("next", SUCCESSION);
    assert_ne!(next, vip);
    let living: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    assert_ne!(cluster.leader(&living), leader);
    assert_eq!(cluster.address("web", Duration::ZERO), vip, "it stays");
    cluster.daemons[leader] = cluster.start(leader);
    cluster.daemons[leader].wait_ready(START).unwrap();
    cluster.wait_served(socket(vip, 80));
    cluster.wait_served(socket(next, 80));
    let forbidden = cluster.secure.server.with(|script| script.forbidden.len());
    assert_eq!(forbidden, 0, "the roles are enough");
}

/// A daemon that starts while the API server is away forwards and announces from what it recorded.
#[test]
fn a_node_starts_while_the_server_is_away() {
    let mut cluster = Cluster::new();
    cluster.serve("web");
    let vip = cluster.address("web", Duration::from_secs(20));
    cluster.wait_served(socket(vip, 80));
    let owner = cluster.owner(0, vip);

    cluster.secure.server.with(|script| script.down = true);
    cluster.daemons[owner]
        .terminate(Duration::from_secs(10))
        .unwrap();
    // Nothing of what the kernel held helps it.
    let namespace = cluster.lab.node(owner).unwrap().namespace.clone();
    edgelb::lab::tool(&namespace, "nft", &["flush", "ruleset"]).unwrap();
    cluster.daemons[owner] = cluster.start(owner);
    cluster.daemons[owner].wait_ready(START).unwrap();
    let status = eventually(START, || {
        let status = cluster.ask(owner, "status");
        (status["ready"] == true && status["source"]["from_snapshot"] == true).then_some(status)
    });
    assert_eq!(status["source"]["connected"], false);
    assert!(status["source"]["blind_since"].is_number(), "{status}");
    cluster.wait_served(socket(vip, 80));
    let others: Vec<usize> = (0..3).filter(|node| *node != owner).collect();
    for other in others {
        let status = cluster.ask(other, "status");
        assert_eq!(status["source"]["from_snapshot"], false);
        assert_eq!(status["services"]["total"], 1, "nothing is taken away");
    }

    cluster.secure.server.with(|script| script.down = false);
    eventually(START, || {
        let source = cluster.ask(owner, "status")["source"].clone();
        (source["connected"] == true && source["from_snapshot"] == false).then_some(())
    });
    cluster.serve("later");
    let later = cluster.address("later", SUCCESSION);
    cluster.wait_served(socket(later, 80));
}

/// A daemon that starts again while the API server is away leaves what it finds; what others take away
/// then, and what the host changes, it makes good from what it recorded (case 78, NP-7).
#[test]
fn what_others_take_away_is_put_back_while_the_server_is_away() {
    let mut cluster = Cluster::new();
    cluster.serve("web");
    let vip = cluster.address("web", Duration::from_secs(20));
    cluster.wait_served(socket(vip, 80));
    let owner = cluster.owner(0, vip);
    let namespace = cluster.lab.node(owner).unwrap().namespace.clone();
    let held = || {
        let words = ["route", "show", "table", "local", "proto", "225"];
        let routes = edgelb::lab::tool(&namespace, "ip", &words).unwrap();
        routes.contains(&vip.to_string())
    };
    let change = |words: &[&str]| edgelb::lab::tool(&namespace, "ip", words).unwrap();

    cluster.secure.server.with(|script| script.down = true);
    for (what, harm) in [
        (
            "a route",
            &["route", "flush", "table", "local", "proto", "225"][..],
        ),
        (
            "an address",
            &["address", "add", "192.0.2.99/32", "dev", "eth0"][..],
        ),
    ] {
        cluster.daemons[owner]
            .terminate(Duration::from_secs(10))
            .unwrap();
        cluster.daemons[owner] = cluster.start(owner);
        cluster.daemons[owner].wait_ready(START).unwrap();
        let status = cluster.ask(owner, "status");
        assert_eq!(status["source"]["from_snapshot"], true, "{what}");
        assert!(held(), "{what}: nothing is taken away");
        cluster.wait_served(socket(vip, 80));
        change(harm);
        if what == "a route" {
            eventually(START, || held().then_some(()));
        } else {
            eventually(START, || {
                let words = ["list", "set", "inet", "edgelb", "node_addresses4"];
                let set = edgelb::lab::tool(&namespace, "nft", &words).unwrap();
                set.contains("192.0.2.99").then_some(())
            });
        }
        cluster.wait_served(socket(vip, 80));
    }
}
