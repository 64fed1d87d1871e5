//! UDP flows that never end follow their Service: real packets from one socket that stays open, with
//! the kernel's connection tracking as `conntrack` shows it. The same on both datapaths.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use edgelb::lab::client::Protocol;
use edgelb::lab::manifests::{ServiceManifest, ServicePort};
use edgelb::lab::server::Listen;
use edgelb::lab::{Namespace, tool};

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, socket};

/// A client that never closes its socket.
struct Flow {
    socket: UdpSocket,
    from: Namespace,
    port: u16,
}

impl Flow {
    fn open(from: &Namespace, port: u16, to: SocketAddr) -> Self {
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let any: IpAddr = any.parse().unwrap();
        let open = || -> std::io::Result<UdpSocket> {
            let socket = UdpSocket::bind((any, port))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(socket)
        };
        let socket = from.run(open).unwrap().unwrap();
        Self {
            socket,
            from: from.clone(),
            port,
        }
    }

    /// Who answers now; nobody where it is refused or lost.
    fn ask(&self) -> Option<String> {
        let mut buffer = [0; 512];
        // What came late for an earlier question is no answer to this one.
        self.socket.set_nonblocking(true).unwrap();
        while self.socket.recv(&mut buffer).is_ok() {}
        self.socket.set_nonblocking(false).unwrap();
        self.socket.send(b"who").ok()?;
        let length = self.socket.recv(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        Some(text.split(' ').next().unwrap().to_owned())
    }

    fn answered_by(&self, name: &str) {
        let mut last = None;
        let mut tries = 0;
        while last.as_deref() != Some(name) {
            tries += 1;
            assert!(
                tries < 40,
                "from {} port {}: {last:?} answers, not {name}",
                self.from.name(),
                self.port
            );
            last = self.ask();
            if last.as_deref() != Some(name) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// The entries of this flow at a node, with their numbers.
    fn entries(&self, node: &Namespace) -> Vec<String> {
        let family = match self.socket.local_addr().unwrap() {
            SocketAddr::V4(_) => "ipv4",
            SocketAddr::V6(_) => "ipv6",
        };
        let all = tool(
            node,
            "conntrack",
            &["-L", "-p", "udp", "-f", family, "-o", "id"],
        )
        .unwrap();
        let port = format!(" sport={} ", self.port);
        all.lines()
            .filter(|line| {
                line.split_once(&port)
                    .is_some_and(|(before, _)| !before.contains("sport="))
            })
            .map(str::to_owned)
            .collect()
    }

    /// The number of the only entry.
    fn id(&self, node: &Namespace) -> String {
        let entries = self.entries(node);
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries[0].rsplit("id=").next().unwrap().trim().to_owned()
    }
}

/// UDP 80 to a port of the workloads, with a node port.
fn dns(name: &str, number: u8, target_port: u16) -> ServiceManifest {
    ServiceManifest::load_balancer(
        name,
        cluster_ips(number),
        vec![ServicePort {
            name: "dns".to_owned(),
            protocol: Protocol::Udp,
            port: 80,
            target_port,
            node_port: Some(30_000 + u16::from(number)),
        }],
    )
}

/// The ways to a Service: VIP and node port from the LAN, `ClusterIP` from a pod, in both families,
/// with the node whose table has the entry.
fn ways<'a>(rig: &'a Rig, service: &str, number: u8) -> Vec<(&'a Namespace, SocketAddr, usize)> {
    let (vip, owner) = rig.vip(service);
    let node = rig.lab.node(0).unwrap().address;
    let cluster = cluster_ips(number);
    let node_port = 30_000 + u16::from(number);
    let pod = &rig.workload("web-3").namespace;
    vec![
        (rig.client(), socket(vip, 80), owner),
        (rig.client(), socket(node.ipv4, node_port), 0),
        (rig.client(), socket(node.ipv6, node_port), 0),
        (pod, socket(cluster.ipv4, 80), 0),
        (pod, socket(cluster.ipv6, 80), 0),
    ]
}

/// Opens one flow each way; source ports from `first` on.
fn flows(rig: &Rig, service: &str, number: u8, first: u16) -> Vec<(Flow, usize)> {
    let ways = ways(rig, service, number);
    let ports = first..;
    ways.into_iter()
        .zip(ports)
        .map(|((from, to, node), port)| (Flow::open(from, port, to), node))
        .collect()
}

/// Cases 69 and 71, #139628: an endpoint replaced, its port changed, all gone, one back, the Service
/// deleted; flows of another Service and to another machine's port keep their entries.
#[test]
fn a_flow_goes_where_its_service_goes() {
    let rig = Rig::new(2, 3);
    for name in ["web-1", "web-2"] {
        rig.workload(name).server.open(Listen::udp(9090)).unwrap();
    }
    let (first, second) = (rig.workload("web-1"), rig.workload("web-2"));
    let service = dns("dns", 20, 8080);
    rig.serve(&service, &[first]);
    rig.serve(&dns("other", 21, 8080), &[first]);
    let flows_of_it = flows(&rig, "dns", 20, 41_000);
    let others = flows(&rig, "other", 21, 42_000);
    // Another machine's port with the node port's number.
    second.server.open(Listen::udp(30_020)).unwrap();
    let pod = &rig.workload("web-3").namespace;
    let unrelated = Flow::open(pod, 43_000, socket(second.address.ipv4, 30_020));
    unrelated.answered_by("web-2");
    for (flow, _) in flows_of_it.iter().chain(&others) {
        flow.answered_by("web-1");
    }
    let untouched = |what: &str, before: &[String]| {
        let mut now: Vec<String> = others
            .iter()
            .map(|(flow, node)| flow.id(rig.node(*node)))
            .collect();
        now.push(unrelated.id(rig.node(0)));
        assert_eq!(now, before, "{what}");
    };
    let mut ids: Vec<String> = others
        .iter()
        .map(|(flow, node)| flow.id(rig.node(*node)))
        .collect();
    ids.push(unrelated.id(rig.node(0)));
    let all_by = |name: &str| {
        for (flow, _) in &flows_of_it {
            flow.answered_by(name);
        }
    };
    let ends = || {
        for (flow, node) in &flows_of_it {
            eventually(PATIENCE, || {
                flow.entries(rig.node(*node)).is_empty().then_some(())
            });
            assert_eq!(flow.ask(), None);
        }
    };

    rig.endpoints(&service, &[second]);
    all_by("web-2");
    untouched("endpoint replaced", &ids);

    // The old port still answers, so that only the entry can tell.
    rig.serve(&dns("dns", 20, 9090), &[second]);
    for (flow, node) in &flows_of_it {
        let there = || {
            flow.ask();
            let entries = flow.entries(rig.node(*node));
            entries
                .iter()
                .any(|entry| entry.contains(" sport=9090 "))
                .then_some(())
        };
        eventually(PATIENCE, there);
        flow.answered_by("web-2");
    }
    untouched("target port changed", &ids);

    rig.endpoints(&dns("dns", 20, 9090), &[]);
    ends();
    untouched("scaled to zero", &ids);

    rig.endpoints(&dns("dns", 20, 9090), &[first]);
    all_by("web-1");
    untouched("scaled up", &ids);

    rig.manifests.remove("service-dns.yaml").unwrap();
    for (flow, node) in &flows_of_it {
        let translated = |entry: &String| entry.contains(" sport=9090 ");
        eventually(PATIENCE, || {
            let entries = flow.entries(rig.node(*node));
            (!entries.iter().any(translated)).then_some(())
        });
        assert_eq!(flow.ask(), None);
    }
    untouched("Service deleted", &ids);
}

/// #45976 and CT-4: an endpoint that still serves keeps its flows, one that does not loses them, and
/// a flow that began before there was a Service finds it.
#[test]
fn a_flow_stays_as_long_as_its_endpoint_serves() {
    let rig = Rig::new(2, 3);
    let node = rig.lab.node(0).unwrap().address;
    let early: Vec<Flow> = [socket(node.ipv4, 30_022), socket(node.ipv6, 30_022)]
        .into_iter()
        .zip(44_000..)
        .map(|(to, port)| Flow::open(rig.client(), port, to))
        .collect();
    for flow in &early {
        // The node's own refusal leaves no entry; a packet that is only lost does.
        assert_eq!(flow.ask(), None);
    }
    let (first, second) = (rig.workload("web-1"), rig.workload("web-2"));
    let service = dns("dns", 22, 8080);
    rig.serve(&service, &[first]);
    for flow in &early {
        flow.answered_by("web-1");
    }
    let flows = flows(&rig, "dns", 22, 45_000);
    for (flow, _) in &flows {
        flow.answered_by("web-1");
    }
    // It terminates and still serves; the other one is ready.
    let slices = |ready: bool, serving: bool| {
        [("IPv4", 0), ("IPv6", 1)]
            .map(|(family, index)| {
                let [old, new] = [first, second].map(|it| it.address.both()[index]);
                format!(
                    "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: dns-{name}\n  \
                     namespace: default\n  labels:\n    kubernetes.io/service-name: dns\naddressType: {family}\n\
                     endpoints:\n- addresses: [\"{old}\"]\n  conditions: {{ready: {ready}, serving: {serving}, terminating: true}}\n  \
                     nodeName: edge-a\n- addresses: [\"{new}\"]\n  conditions: {{ready: true, serving: true}}\n  \
                     nodeName: edge-b\nports:\n- {{name: dns, protocol: UDP, port: 8080}}\n",
                    name = family.to_lowercase(),
                )
            })
            .join("---\n")
    };
    rig.manifests
        .write("endpoints-dns.yaml", &slices(false, true))
        .unwrap();
    // New flows go to the other one; these stay.
    let fresh: Vec<Flow> = ways(&rig, "dns", 22)
        .into_iter()
        .zip(46_000..)
        .map(|((from, to, _), port)| Flow::open(from, port, to))
        .collect();
    for (number, flow) in fresh.iter().enumerate() {
        // Until the change is there, a flow may still be made to the old one, which keeps it.
        let (from, port) = (
            flow.from.clone(),
            47_000 + u16::try_from(number).unwrap() * 100,
        );
        let to = flow.socket.peer_addr().unwrap();
        let mut ports = port..;
        eventually(PATIENCE, || {
            let another = Flow::open(&from, ports.next().unwrap(), to);
            (another.ask().as_deref() == Some("web-2")).then_some(())
        });
    }
    for (flow, _) in &flows {
        assert_eq!(flow.ask().as_deref(), Some("web-1"));
    }
    rig.manifests
        .write("endpoints-dns.yaml", &slices(false, false))
        .unwrap();
    for (flow, _) in &flows {
        flow.answered_by("web-2");
    }
}

/// What happened while no daemon ran is put right by the first pass of the next one.
#[test]
fn the_first_pass_looks_at_every_flow() {
    let mut rig = Rig::new(1, 3);
    let (first, second) = (rig.workload("web-1"), rig.workload("web-2"));
    let service = dns("dns", 23, 8080);
    rig.serve(&service, &[first]);
    let flows = flows(&rig, "dns", 23, 48_000);
    for (flow, _) in &flows {
        flow.answered_by("web-1");
    }
    let options = rig.options(toml::Table::new());
    rig.endpoints(&service, &[first, second]);
    rig.daemons[0].terminate(Duration::from_secs(5)).unwrap();
    rig.endpoints(&service, &[rig.workload("web-2")]);
    for (flow, _) in &flows {
        assert_eq!(flow.ask().as_deref(), Some("web-1"));
    }
    rig.daemons[0] = edgelb::lab::daemon::Daemon::start(&rig.lab, 0, &options).unwrap();
    rig.daemons[0].wait_ready(super::rig::START).unwrap();
    for (flow, _) in &flows {
        flow.answered_by("web-2");
    }
}
