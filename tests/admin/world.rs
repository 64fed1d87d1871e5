//! A small cluster, planned as the daemon would: one Service that is well and one of each kind of
//! trouble. This node is edge-a; edge-b is excluded by its label and edge-c is being deleted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgelb::admin::applied::Applied;
use edgelb::admin::snapshot::{Failure, PassSummary, Snapshot};
use edgelb::allocator::{AllocatorStatus, Role};
use edgelb::config::Config;
use edgelb::membership::counters::MembershipCounters;
use edgelb::model::cluster::{ClusterChange, Node};
use edgelb::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use edgelb::model::family::{Family, Protocol};
use edgelb::model::host::Interface;
use edgelb::model::pool::Pool;
use edgelb::model::service::{Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy};
use edgelb::plan::{Inputs, plan};
use edgelb::source::{SourceProblem, SourceStatus};

pub const NODE: &str = "edge-a";

/// When the daemon of this world started.
pub fn started() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub fn config() -> Config {
    let mut config = Config::defaults(NODE);
    config.pools = vec![
        Pool::new("lan", vec!["192.0.2.200-192.0.2.203".parse().unwrap()]),
        Pool::new("large", vec!["2001:db8::/64".parse().unwrap()]),
    ];
    config
}

pub fn node(name: &str, address: &str) -> Node {
    Node {
        name: name.to_owned(),
        addresses: vec![address.parse().unwrap()],
        ..Node::default()
    }
}

pub fn port(number: u16, node_port: Option<u16>) -> ServicePort {
    ServicePort {
        name: format!("port-{number}"),
        protocol: Protocol::Tcp,
        port: number,
        node_port,
    }
}

fn service(namespace: &str, name: &str, kind: ServiceType, cluster_ip: &str) -> Service {
    let mut service = Service::new(ServiceKey::new(namespace, name), kind);
    service.cluster_ips = vec![cluster_ip.parse().unwrap()];
    service.families = vec![Family::V4];
    service.ports = vec![port(80, None)];
    service
}

/// A slice with an endpoint for each address, all of them on one node.
fn slice(service: &Service, node: &str, addresses: &[&str]) -> EndpointSlice {
    EndpointSlice {
        key: SliceKey::new(&service.key.namespace, format!("{}-1", service.key.name)),
        service: service.key.clone(),
        family: Family::V4,
        ports: (service.ports.iter())
            .map(|port| SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: 8080,
            })
            .collect(),
        endpoints: (addresses.iter())
            .map(|address| Endpoint {
                address: address.parse().unwrap(),
                conditions: Conditions::default(),
                node: Some(node.into()),
                zone_hints: Hints::default(),
                node_hints: Hints::default(),
            })
            .collect(),
    }
}

pub fn inputs() -> Inputs {
    let mut web = service("default", "web", ServiceType::LoadBalancer, "10.96.0.10");
    web.ports = vec![port(80, Some(30080)), port(443, None)];
    let mut greedy = service("default", "zgreedy", ServiceType::NodePort, "10.96.0.11");
    greedy.ports = vec![port(80, Some(30080))];
    let mut lost = service("other", "lost", ServiceType::LoadBalancer, "10.96.0.12");
    let pool = "edgelb.io/pool".to_owned();
    lost.annotations = BTreeMap::from([(pool, "no\u{1b}[2Jwhere".to_owned())]);
    let mut far = service("other", "far", ServiceType::LoadBalancer, "10.96.0.13");
    far.external_traffic_policy = TrafficPolicy::Local;
    let mut foreign = service("other", "theirs", ServiceType::LoadBalancer, "10.96.0.14");
    foreign.load_balancer_class = Some("example.com/other".to_owned());

    let mut excluded = node("edge-b", "192.0.2.12");
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    excluded.labels.insert(label.to_owned(), String::new());
    let mut deleting = node("edge-c", "192.0.2.13");
    deleting.deleting = true;

    let mut inputs = Inputs {
        node: NODE.to_owned(),
        ..Inputs::default()
    };
    inputs.host.interfaces.insert(
        2,
        Interface {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            loopback: false,
            addresses: vec!["192.0.2.11/24".parse().unwrap()],
        },
    );
    let slices = [
        slice(&web, NODE, &["10.244.0.2", "10.244.0.3"]),
        slice(&far, "edge-b", &["10.244.1.2"]),
    ];
    let nodes = [node(NODE, "192.0.2.11"), excluded, deleting];
    let services = [web, greedy, lost, far, foreign];
    let changes = (services
        .map(|service| ClusterChange::Service(Arc::new(service)))
        .into_iter())
    .chain(slices.map(|slice| ClusterChange::Slice(Arc::new(slice))))
    .chain(nodes.map(|node| ClusterChange::Node(Arc::new(node))));
    for change in changes {
        inputs.cluster.apply(change);
    }
    inputs
}

/// The planned world in the middle of its life, with a problem of each kind.
pub fn snapshot() -> Snapshot {
    let (config, inputs) = (config(), inputs());
    let plan = plan(&config, &inputs);
    Snapshot {
        config: Arc::new(config),
        config_problem: Some("/etc/edgelb/edgelb.toml:3: error: pool: unknown key".to_owned()),
        datapath: "nftables",
        started: started(),
        inputs: Arc::new(inputs),
        plan: Arc::new(plan),
        source: SourceStatus {
            connected: true,
            blind_since: None,
            from_snapshot: false,
            last_event: Some(started() + Duration::from_millis(1_500)),
            problems: vec![SourceProblem {
                file: "web.yaml".to_owned(),
                line: Some(7),
                field: Some("spec.ports[0].port".to_owned()),
                message: "70000 is no port".to_owned(),
                keeps_last_good: true,
            }],
            ignored: vec!["ingress.yaml: Ingress is not read".to_owned()],
        },
        allocator: Some(AllocatorStatus {
            role: Role::Follower,
            leader: Some("edge-b_1".to_owned()),
            problem: None,
            waiting: 0,
            written: 7,
        }),
        pass: PassSummary {
            number: 42,
            finished: Some(started() + Duration::from_secs(2)),
            duration: Duration::from_micros(1_250),
            latency: Some(Duration::from_millis(3)),
            changes: BTreeMap::from([(("element", "add"), 3), (("route", "remove"), 1)]),
            failures: vec![Failure {
                kind: "route",
                object: "local 192.0.2.200 dev lo".to_owned(),
                message: "no permission".to_owned(),
            }],
        },
        applied: Applied {
            at: Some(started() + Duration::from_secs(2)),
            ..Applied::default()
        },
        ready: false,
        membership: MembershipCounters::default(),
    }
}

/// The world before its first pass, without any object.
pub fn empty() -> Snapshot {
    let config = Config::defaults(NODE);
    let inputs = Inputs {
        node: NODE.to_owned(),
        ..Inputs::default()
    };
    Snapshot {
        plan: Arc::new(plan(&config, &inputs)),
        config: Arc::new(config),
        config_problem: None,
        datapath: "ipvs",
        started: started(),
        inputs: Arc::new(inputs),
        source: SourceStatus::default(),
        allocator: None,
        pass: PassSummary::default(),
        applied: Applied::default(),
        ready: false,
        membership: MembershipCounters::default(),
    }
}

/// The world with other inputs, planned anew.
pub fn with_inputs(edit: impl FnOnce(&mut Inputs)) -> Snapshot {
    with(|_, inputs| edit(inputs))
}

/// The world with another configuration and other inputs, planned anew.
pub fn with(edit: impl FnOnce(&mut Config, &mut Inputs)) -> Snapshot {
    let mut snapshot = snapshot();
    let mut config = Config::clone(&snapshot.config);
    let mut inputs = Inputs::clone(&snapshot.inputs);
    inputs.allocations = snapshot.plan.addresses.allocations.clone();
    edit(&mut config, &mut inputs);
    snapshot.plan = Arc::new(plan(&config, &inputs));
    snapshot.config = Arc::new(config);
    snapshot.inputs = Arc::new(inputs);
    snapshot
}

/// The VIP of default/web.
pub fn web_vip() -> IpAddr {
    "192.0.2.200".parse().unwrap()
}
