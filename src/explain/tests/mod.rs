//! Questions and answers, by tables: a planned cluster, and a kernel that is as planned or is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod cases;
mod near;
mod owners;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::question::Question;
use super::report::{Explanation, FrontendDetails};
use super::{Facts, Source, Unapplied, explain, locate};
use crate::config::Config;
use crate::model::cluster::{ClusterChange, Node};
use crate::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::SourceClass;
use crate::model::host::Interface;
use crate::model::observation::{Observation, ObservedFrontend, Path};
use crate::model::pool::Pool;
use crate::model::service::{Service, ServiceKey, ServicePort, ServiceType};
use crate::plan::{Inputs, plan};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A cluster of edge-a, where all is asked, and edge-b; the Services are the test's.
pub(super) struct World {
    pub config: Config,
    pub inputs: Inputs,
    pub failures: Vec<Unapplied>,
    pub ignored: Vec<String>,
    pub connected: bool,
    /// Edits what the kernel was found to hold.
    pub kernel: fn(&mut Observation),
}

impl World {
    pub fn new() -> Self {
        let mut config = Config::defaults("edge-a");
        config.pools = vec![Pool::new(
            "lan",
            vec!["192.0.2.200-192.0.2.203".parse().unwrap()],
        )];
        config.proxy.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
        config.proxy.resync_interval = Duration::from_secs(30);
        let mut inputs = Inputs {
            node: "edge-a".to_owned(),
            ..Inputs::default()
        };
        let interface = |index, name: &str, address: &str| Interface {
            index,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            running: true,
            loopback: name == "lo",
            addresses: vec![address.parse().unwrap()],
        };
        for interface in [
            interface(1, "lo", "127.0.0.1/8"),
            interface(2, "eth0", "192.0.2.11/24"),
        ] {
            inputs.host.interfaces.insert(interface.index, interface);
        }
        let mut world = Self {
            config,
            inputs,
            failures: Vec::new(),
            ignored: Vec::new(),
            connected: true,
            kernel: |_| {},
        };
        for (name, address, pods) in [
            ("edge-a", "192.0.2.11", "10.244.1.0/24"),
            ("edge-b", "192.0.2.12", "10.244.2.0/24"),
        ] {
            let node = Node {
                name: name.to_owned(),
                addresses: vec![ip(address)],
                pod_cidrs: vec![pods.parse().unwrap()],
                ..Node::default()
            };
            world.apply(ClusterChange::Node(Arc::new(node)));
        }
        world
    }

    pub fn apply(&mut self, change: ClusterChange) {
        self.inputs.cluster.apply(change);
    }

    /// Edits what a question of the test is about.
    pub fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    /// A Service, with a slice of endpoints such as `10.244.1.2@edge-a`, `10.244.2.2@edge-b:not-ready` or
    /// `:terminating`.
    pub fn serve(&mut self, service: Service, endpoints: &str) {
        let endpoints = endpoints.split_whitespace().map(|text| {
            let (at, condition) = text.split_once(':').unwrap_or((text, ""));
            let (address, node) = at.split_once('@').unwrap();
            let conditions = match condition {
                "" => Conditions::default(),
                "not-ready" => Conditions {
                    ready: false,
                    serving: false,
                    terminating: false,
                },
                "terminating" => Conditions {
                    ready: false,
                    serving: true,
                    terminating: true,
                },
                other => panic!("{other}"),
            };
            Endpoint {
                address: ip(address),
                conditions,
                node: Some(node.into()),
                zone_hints: Hints::default(),
                node_hints: Hints::default(),
            }
        });
        let slice = EndpointSlice {
            key: SliceKey::new(&service.key.namespace, format!("{}-1", service.key.name)),
            service: service.key.clone(),
            family: Family::V4,
            ports: vec![SlicePort {
                name: "http".to_owned(),
                protocol: Protocol::Tcp,
                port: 8080,
            }],
            endpoints: endpoints.collect(),
        };
        self.apply(ClusterChange::Slice(Arc::new(slice)));
        self.apply(ClusterChange::Service(Arc::new(service)));
    }

    /// The answer, where the kernel holds what is planned but for the edits of the test.
    pub fn ask(&self, target: &str, from: Option<&str>) -> Explanation {
        let question = Question::parse(target, from).unwrap();
        let plan = plan(&self.config, &self.inputs);
        let facts = Facts {
            config: &self.config,
            inputs: &self.inputs,
            plan: &plan,
            datapath: "nftables",
            ready: true,
            failures: &self.failures,
            source: Source {
                connected: self.connected,
                blind: (!self.connected).then_some(Duration::from_secs(90)),
                ignored: &self.ignored,
                problems: &[],
            },
        };
        let located = locate(&question, &facts);
        let mut observation = Observation::default();
        for (port, _) in located.frontends(&facts) {
            let frontend = plan.state.frontends.get(&port).unwrap();
            let mut observed = ObservedFrontend::default();
            for real_server in frontend.real_servers(SourceClass::Pod) {
                observed.real_servers.entry(*real_server).or_default();
            }
            observation.frontends.insert(port, observed);
        }
        for to in located.paths(&question, &facts) {
            let path = Path::Interface {
                name: "eth0".to_owned(),
                source: Some(ip("192.0.2.11")),
            };
            observation.paths.insert(to, path);
        }
        (self.kernel)(&mut observation);
        explain(&question, &facts, &located, &observation)
    }
}

/// A `LoadBalancer` Service default/NAME with port 80 and, where asked for, a node port.
pub(super) fn service(name: &str, number: u8) -> Service {
    let mut service = Service::new(ServiceKey::new("default", name), ServiceType::LoadBalancer);
    service.cluster_ips = vec![IpAddr::from([10, 96, 0, number])];
    service.families = vec![Family::V4];
    service.selector = format!("app={name}");
    service.ports = vec![ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(30_000 + u16::from(number)),
    }];
    service
}

pub(super) fn frontend(explanation: &Explanation) -> &FrontendDetails {
    assert_eq!(explanation.frontends.len(), 1, "{explanation:#?}");
    &explanation.frontends[0]
}

/// An endpoint on each node.
pub(super) const TWO: &str = "10.244.1.2@edge-a 10.244.2.2@edge-b";

/// The VIP 192.0.2.200 of default/web with these endpoints.
pub(super) fn web(endpoints: &str, edit: impl FnOnce(&mut Service)) -> World {
    World::new().with(|world| {
        let mut service = service("web", 10);
        edit(&mut service);
        world.serve(service, endpoints);
    })
}
