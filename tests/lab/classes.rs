//! Who asks decides where a packet goes: outside clients, pods and this node on one address. The
//! same on both datapaths. Cases by their number in the specification of the service proxy.

use std::collections::BTreeSet;
use std::net::IpAddr;

use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::nftables::{Layout, Nftables};
use edgelb::lab::client::{Protocol, RequestError, request as ask};
use edgelb::lab::manifests::{ServiceManifest, ServicePort};
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::{Lab, LabOptions, Namespace, Route, tool};
use edgelb::model::family::Family;
use edgelb::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Verdict,
};
use edgelb::model::node_state::NodeState;
use edgelb::model::scheduler::Scheduler;
use edgelb::model::service::ServiceKey;

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, ipvs, request, socket, spread, web};

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

fn both_protocols(name: &str, number: u8) -> ServiceManifest {
    let mut service = web(name, number);
    service.ports.push(ServicePort {
        name: "dns".to_owned(),
        protocol: UDP,
        ..service.ports[0].clone()
    });
    service
}

/// All of these workloads answer, and they see one of these addresses.
#[track_caller]
fn reaches(from: &Namespace, to: (IpAddr, u16), workloads: &[&str], seen: &[IpAddr]) {
    for protocol in [TCP, UDP] {
        let (by_workload, saw) = spread(from, socket(to.0, to.1), protocol, 12 * workloads.len());
        let answered: BTreeSet<&str> = by_workload.keys().map(String::as_str).collect();
        let expected = workloads.iter().copied().collect();
        assert_eq!(answered, expected, "{} to {protocol} {to:?}", from.name());
        assert!(
            saw.iter().all(|saw| seen.contains(saw)),
            "{} to {protocol} {to:?} seen as {saw:?}",
            from.name()
        );
    }
}

#[track_caller]
fn silent(from: &Namespace, to: (IpAddr, u16)) {
    let result = request(from, socket(to.0, to.1), TCP);
    assert!(
        matches!(result, Err(RequestError::TimedOut)),
        "{} to {to:?}: {result:?}",
        from.name()
    );
}

/// The node's addresses, on the LAN and towards its pods.
fn of_node(rig: &Rig, index: usize) -> Vec<IpAddr> {
    let node = rig.lab.node(index).unwrap();
    let octet = u8::try_from(index + 1).unwrap();
    let mut addresses = node.address.both().to_vec();
    addresses.push([10, 244, octet, 1].into());
    let listed = tool(
        &node.namespace,
        "ip",
        &["-o", "-6", "addr", "show", "scope", "global"],
    );
    for line in listed.unwrap().lines() {
        let address = line.split_whitespace().nth(3).unwrap();
        addresses.push(address.split('/').next().unwrap().parse().unwrap());
    }
    addresses
}

/// Node 0 has the endpoint web-1 and the pod web-3, node 1 the endpoint web-2. Pods are told by
/// their addresses or by the interfaces that they come in by.
fn policy_local(interfaces: bool) {
    let mut configuration = toml::Table::new();
    if interfaces {
        let proxy = toml::toml! { cluster_interfaces = ["pod-*"] };
        configuration.insert("proxy".to_owned(), proxy.into());
    }
    let rig = Rig::with(2, 3, configuration);
    if interfaces {
        for node in rig.lab.nodes() {
            // The same Nodes without ranges of pods.
            let name = format!("node-{}.yaml", node.name);
            let text = std::fs::read_to_string(rig.manifests.path().join(&name)).unwrap();
            let without: Vec<&str> = text
                .lines()
                .filter(|line| {
                    let line = line.trim();
                    let range = node
                        .pod_ranges
                        .iter()
                        .any(|range| line.contains(&range.to_string()));
                    !range && !line.starts_with("podCIDR")
                })
                .map(|line| if line == "spec:" { "spec: {}" } else { line })
                .collect();
            rig.manifests.write(&name, &without.join("\n")).unwrap();
        }
        eventually(PATIENCE, || {
            let arguments = ["list", "set", "inet", "edgelb", "pod_ranges4"];
            let listed = tool(rig.node(0), "nft", &arguments).ok()?;
            (!listed.contains("elements")).then_some(())
        });
        let arguments = ["list", "set", "inet", "edgelb", "pod_interfaces4"];
        let listed = tool(rig.node(0), "nft", &arguments).unwrap();
        assert!(listed.contains("\"pod-*\""), "{listed}");
    }
    let mut service = both_protocols("local", 50);
    service.external_traffic_policy = "Local";
    let (here, there) = (rig.workload("web-1"), rig.workload("web-2"));
    let pod = rig.workload("web-3");
    rig.serve(&service, &[here, there]);
    let (vip, owner) = rig.vip("local");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let node = rig.lab.node(0).unwrap().address;
    let node_port = |address: IpAddr| (address, 30_050);
    let vip_port = (IpAddr::from(vip), 80);
    let client = rig.lab.client().unwrap().address.both();
    let (all, mut local) = (["web-1", "web-2"], ["web-1"]);
    eventually(PATIENCE, || {
        request(rig.client(), socket(node.ipv6, 30_050), UDP).ok()
    });
    // 44
    for to in node.both() {
        reaches(rig.client(), node_port(to), &local, &client);
    }
    if owner == 1 {
        local = ["web-2"];
    }
    reaches(rig.client(), vip_port, &local, &client);
    // 46: pods with their own address, this node with one of its own.
    for to in [
        vip_port,
        node_port(node.ipv4.into()),
        node_port(node.ipv6.into()),
    ] {
        reaches(&pod.namespace, to, &all, &pod.address.both());
        reaches(rig.node(0), to, &all, &of_node(&rig, 0));
    }
    // An endpoint reaches itself too, not as itself, and the other one as itself.
    let mut own = of_node(&rig, 0);
    own.extend(here.address.both());
    reaches(&here.namespace, vip_port, &all, &own);
    if ipvs() {
        let listed = tool(rig.node(0), "ipvsadm", &["-Sn"]).unwrap();
        let real_servers: Vec<&str> = listed
            .lines()
            .filter(|line| line.starts_with("-a"))
            .collect();
        let own = |line: &str| {
            here.address
                .both()
                .iter()
                .any(|own| line.contains(&own.to_string()))
        };
        let external = |line: &&&str| line.contains(":30050") || line.contains(&vip.to_string());
        assert!(real_servers.iter().filter(external).count() > 0, "{listed}");
        assert!(
            real_servers.iter().filter(external).all(|line| own(line)),
            "{listed}"
        );
    }
    // 45, 48: nothing here, something elsewhere.
    rig.endpoints(&service, &[there]);
    eventually(PATIENCE, || {
        let to = socket(node.ipv4, 30_050);
        matches!(request(rig.client(), to, TCP), Err(RequestError::TimedOut)).then_some(())
    });
    silent(rig.client(), node_port(node.ipv6.into()));
    for to in [vip_port, node_port(node.ipv4.into())] {
        reaches(&pod.namespace, to, &["web-2"], &pod.address.both());
        reaches(rig.node(0), to, &["web-2"], &of_node(&rig, 0));
    }
}

#[test]
fn external_policy_local_is_for_outside_clients() {
    policy_local(false);
}

#[test]
fn pods_are_told_by_their_interfaces() {
    policy_local(true);
}

/// Cases 35 to 37.
#[test]
fn internal_policy_local_is_for_everybody() {
    let rig = Rig::new(2, 3);
    let mut service = both_protocols("inner", 51);
    service.more = "  internalTrafficPolicy: Local\n".to_owned();
    let (here, there) = (rig.workload("web-1"), rig.workload("web-2"));
    let pod = rig.workload("web-3");
    rig.serve(&service, &[here, there]);
    let (vip, _) = rig.vip("inner");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let node = rig.lab.node(0).unwrap().address;
    for to in cluster_ips(51).both() {
        reaches(&pod.namespace, (to, 80), &["web-1"], &pod.address.both());
        reaches(rig.node(0), (to, 80), &["web-1"], &of_node(&rig, 0));
    }
    rig.endpoints(&service, &[there]);
    let cluster_ip = socket(cluster_ips(51).ipv4, 80);
    eventually(PATIENCE, || {
        let result = request(&pod.namespace, cluster_ip, TCP);
        matches!(result, Err(RequestError::TimedOut)).then_some(())
    });
    silent(rig.node(0), (cluster_ip.ip(), 80));
    reaches(
        rig.client(),
        (node.ipv4.into(), 30_051),
        &["web-2"],
        &of_node(&rig, 0),
    );
}

/// NOEP-7: whoever pings an address that does not answer is told so.
#[test]
fn an_echo_to_a_cluster_ip_is_refused() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 52), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let pod = &rig.workload("web-1").namespace;
    for address in cluster_ips(52).both() {
        let command = format!("ping -c 1 -W 3 {address} 2>&1; true");
        let said = tool(pod, "sh", &["-c", &command]).unwrap();
        assert!(
            said.to_lowercase().contains("port unreachable"),
            "{address}: {said}"
        );
    }
    tool(
        rig.client(),
        "ping",
        &["-c", "1", "-W", "3", &vip.to_string()],
    )
    .unwrap();
}

/// A node that forwarded nothing before forwards what belongs to frontends, and nothing else.
#[test]
fn restricted_forwarding_lets_only_frontends_through() {
    let options = LabOptions {
        nodes: 1,
        workloads: 1,
        clients: 2,
        listen: vec![Listen::tcp(8080)],
        ..LabOptions::default()
    };
    let lab = Lab::build(options).unwrap();
    let (client, beyond) = (&lab.clients()[0], &lab.clients()[1]);
    let node = lab.node(0).unwrap();
    let hidden: IpAddr = [203, 0, 113, 5].into();
    let host = format!("{hidden}/32").parse().unwrap();
    beyond.namespace.add_address("lo", host).unwrap();
    let _server = Server::start(&beyond.namespace, "beyond", &[Listen::tcp(8080)]).unwrap();
    let route = |namespace: &Namespace, gateway: IpAddr| {
        let route = Route {
            destination: host,
            gateway: Some(gateway),
            link: "eth0",
        };
        namespace.add_route(&route).unwrap();
    };
    route(&client.namespace, node.address.ipv4.into());
    route(&node.namespace, beyond.address.ipv4.into());
    // Redirects would show the client the way around the node.
    for setting in ["all", "eth0"] {
        let path = format!("net/ipv4/conf/{setting}/send_redirects");
        node.namespace.set_sysctl(&path, "0").unwrap();
    }
    let mut state = NodeState::default();
    state.node_addresses.insert(node.address.ipv4.into());
    state.pod_ranges = node.pod_ranges.into_iter().collect();
    let real_server = RealServer {
        address: hidden,
        port: 8080,
    };
    let treatment = Treatment {
        verdict: Verdict::Forward([real_server].into()),
        masquerade: true,
    };
    let frontend = Frontend {
        service: ServiceKey::new("default", "beyond"),
        treatments: std::array::from_fn(|_| treatment.clone()),
        session_affinity: None,
        allowed_sources: None,
        keeps: [].into(),
        forwarding_method: ForwardingMethod::Masquerade,
        scheduler: Scheduler::Rr,
    };
    let port = FrontendPort {
        address: FrontendAddress::NodePort(Family::V4),
        protocol: edgelb::model::family::Protocol::Tcp,
        port: 30_060,
    };
    state.frontends.insert(port, frontend.into());
    let repair = |layout: Layout| {
        let state = &state;
        let changes = node.namespace.run(move || {
            let mut nftables = Nftables::open(layout).unwrap();
            let rebuilt = nftables.repair(state).unwrap().rebuilt;
            (rebuilt, nftables.repair(state).unwrap())
        });
        let (rebuilt, again) = changes.unwrap();
        assert!(rebuilt && !again.rebuilt && again.added == 0, "{again:?}");
    };
    let pod = &lab.workload("web-1").unwrap().namespace;
    let through = || ask(&client.namespace, socket(hidden, 8080), TCP);
    let layout = Layout::new(Forwarder::Nftables);
    repair(layout);
    through().unwrap();
    repair(layout.restrict_forwarding(&Family::BOTH));
    let result = through();
    assert!(matches!(result, Err(RequestError::TimedOut)), "{result:?}");
    // A node port leads there, and pods go where they like.
    ask(&client.namespace, socket(node.address.ipv4, 30_060), TCP).unwrap();
    beyond
        .namespace
        .add_route(&Route {
            destination: node.pod_ranges[0],
            gateway: Some(node.address.ipv4.into()),
            link: "eth0",
        })
        .unwrap();
    ask(pod, socket(hidden, 8080), TCP).unwrap();
}

/// Where the kernel hands bridged frames to the IP firewall, the guests of a bridge keep each other.
#[test]
fn restricted_forwarding_leaves_bridges_alone() {
    let options = LabOptions {
        nodes: 1,
        workloads: 0,
        clients: 2,
        ..LabOptions::default()
    };
    let lab = Lab::build(options).unwrap();
    let (client, other) = (&lab.clients()[0], &lab.clients()[1]);
    let _server = Server::start(&other.namespace, "guest", &[Listen::tcp(8080)]).unwrap();
    for family in ["iptables", "ip6tables"] {
        let path = format!("net/bridge/bridge-nf-call-{family}");
        lab.switch().set_sysctl_if_present(&path, "1").unwrap();
    }
    let layout = Layout::new(Forwarder::Nftables).restrict_forwarding(&Family::BOTH);
    let state = NodeState::default();
    lab.switch()
        .run(|| Nftables::open(layout).unwrap().repair(&state).unwrap())
        .unwrap();
    for address in other.address.both() {
        ask(&client.namespace, socket(address, 8080), TCP).unwrap();
    }
}
