//! Tests of the planner: tables with the number of the statement they hold it to. Here is what they
//! start from: a small cluster written in one line an object.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod addresses;
mod by_status;
mod capacity;
mod cases;
mod endpoints;
mod exchange;
mod externals;
mod family_policy;
mod foreign;
mod forwarding;
mod generate;
mod incremental;
mod ipam;
mod ipam_requests;
mod methods;
mod namespaces;
mod node;
mod ownership;
mod policies;
mod probing;
mod recorded;
mod sharing;
mod source_ranges;
mod standing;
mod status;
mod topology;
mod trust;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::model::cluster::{ClusterChange, Namespace, Node};
use crate::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SliceKey, SlicePort};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendAddress, FrontendPort, SourceClass, Verdict};
use crate::model::host::Interface;
use crate::model::pool::Pool;
use crate::model::service::{
    IngressAddress, IpMode, Service, ServiceKey, ServicePort, ServiceType,
};
use crate::model::text::Text;
use crate::plan::reason::Reason;
use crate::plan::{Inputs, Plan, plan};

/// The node that plans.
pub(super) const HERE: &str = "edge-a";
/// The pods of every test.
pub(super) const PODS: &str = "10.244.0.0/16";

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

/// A key in the namespace `shop`, or in the one before the slash.
pub(super) fn key(name: &str) -> ServiceKey {
    match name.split_once('/') {
        Some((namespace, name)) => ServiceKey::new(namespace, name),
        None => ServiceKey::new("shop", name),
    }
}

pub(super) fn pool(name: &str, ranges: &str) -> Pool {
    let ranges = ranges
        .split_whitespace()
        .map(|range| range.parse().unwrap());
    Pool::new(name, ranges.collect())
}

/// The defaults with these pools and with pods that can be told by their address.
pub(super) fn config(pools: Vec<Pool>) -> Config {
    let mut config = Config::defaults(HERE);
    config.pools = pools;
    config.proxy.cluster_cidrs = vec![PODS.parse().unwrap()];
    config
}

pub(super) fn interface(index: u32, name: &str, addresses: &str) -> Interface {
    Interface {
        index,
        name: name.to_owned(),
        mac: Some([2, 0, 0, 0, 0, u8::try_from(index).unwrap()]),
        running: true,
        loopback: name == "lo",
        addresses: addresses
            .split_whitespace()
            .map(|net| net.parse().unwrap())
            .collect(),
    }
}

/// A host on the LAN 192.0.2.0/24 and `2001:db8::/64`, with the router .1; the cluster is empty.
pub(super) fn inputs() -> Inputs {
    let mut inputs = Inputs {
        node: HERE.to_owned(),
        ..Inputs::default()
    };
    let interfaces = [
        interface(1, "lo", "127.0.0.1/8 ::1/128"),
        interface(2, "eth0", "192.0.2.11/24 2001:db8::11/64 fe80::11/64"),
    ];
    inputs.host.interfaces = interfaces
        .into_iter()
        .map(|interface| (interface.index, interface))
        .collect();
    inputs.host.infrastructure = ips("192.0.2.1");
    inputs
}

pub(super) fn node(name: &str, address: &str) -> Node {
    Node {
        name: name.to_owned(),
        addresses: ips(address),
        ..Node::default()
    }
}

/// A Namespace, of a team where one is named.
pub(super) fn namespace(name: &str, team: Option<&str>) -> Namespace {
    let label = team.map(|team| ("team".to_owned(), team.to_owned()));
    Namespace {
        name: name.to_owned(),
        labels: label.into_iter().collect(),
    }
}

pub(super) fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port,
        node_port: None,
    }
}

/// A Service with one TCP port 80.
pub(super) fn service(name: &str, kind: ServiceType) -> Service {
    let mut service = Service::new(key(name), kind);
    service.ports = vec![port("", Protocol::Tcp, 80)];
    service
}

pub(super) fn load_balancer(name: &str) -> Service {
    service(name, ServiceType::LoadBalancer)
}

pub(super) fn with_status(mut service: Service, addresses: &str) -> Service {
    service.ingress = ips(addresses)
        .into_iter()
        .map(|address| IngressAddress {
            address,
            mode: IpMode::Vip,
        })
        .collect();
    service
}

pub(super) fn annotated(mut service: Service, annotations: &[(&str, &str)]) -> Service {
    for (name, value) in annotations {
        service
            .annotations
            .insert((*name).to_owned(), (*value).to_owned());
    }
    service
}

/// `address[@node][#marks]`; marks: `r` ready, `s` serving, `t` terminating, absent: `rs`.
pub(super) fn endpoint(text: &str) -> Endpoint {
    let (rest, marks) = text.split_once('#').unwrap_or((text, "rs"));
    let (address, node) = match rest.split_once('@') {
        Some((address, node)) => (address, Some(Text::from(node))),
        None => (rest, None),
    };
    Endpoint {
        address: ip(address),
        conditions: Conditions {
            ready: marks.contains('r'),
            serving: marks.contains('s'),
            terminating: marks.contains('t'),
        },
        node,
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    }
}

/// A slice of `service` that feeds its unnamed TCP port on 8080.
pub(super) fn slice(service: &str, name: &str, endpoints: &str) -> EndpointSlice {
    let service = key(service);
    let endpoints: Vec<Endpoint> = endpoints.split_whitespace().map(endpoint).collect();
    let family = endpoints
        .first()
        .map_or(Family::V4, |endpoint| Family::of(endpoint.address));
    EndpointSlice {
        key: SliceKey::new(&service.namespace, name),
        service,
        family,
        ports: vec![SlicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints,
    }
}

pub(super) trait Put {
    fn change(self) -> ClusterChange;
}

impl Put for Service {
    fn change(self) -> ClusterChange {
        ClusterChange::Service(Arc::new(self))
    }
}

impl Put for EndpointSlice {
    fn change(self) -> ClusterChange {
        ClusterChange::Slice(Arc::new(self))
    }
}

impl Put for Node {
    fn change(self) -> ClusterChange {
        ClusterChange::Node(Arc::new(self))
    }
}

impl Put for Namespace {
    fn change(self) -> ClusterChange {
        ClusterChange::Namespace(Arc::new(self))
    }
}

impl Inputs {
    pub(super) fn put(&mut self, object: impl Put) -> &mut Self {
        self.cluster.apply(object.change());
        self
    }

    /// Plans from nothing and keeps what was given out, as the daemon does.
    pub(super) fn planned(&mut self, config: &Config) -> Plan {
        let plan = plan(config, self);
        self.allocations = plan.addresses.allocations.clone();
        plan
    }
}

pub(super) fn tcp(address: &str, port: u16) -> FrontendPort {
    FrontendPort {
        address: FrontendAddress::Address(ip(address)),
        protocol: Protocol::Tcp,
        port,
    }
}

pub(super) fn node_port(family: Family, port: u16) -> FrontendPort {
    FrontendPort {
        address: FrontendAddress::NodePort(family),
        protocol: Protocol::Tcp,
        port,
    }
}

/// What a class gets, in short: `refuse`, `drop` or the real servers; `+` where it is masqueraded.
pub(super) fn treatment(plan: &Plan, port: &FrontendPort, class: SourceClass) -> String {
    let Some(frontend) = plan.state.frontends.get(port) else {
        return "absent".to_owned();
    };
    let treatment = frontend.treatment(class);
    let verdict = match &treatment.verdict {
        Verdict::Refuse => "refuse".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Forward(real_servers) => real_servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    };
    let mark = if treatment.masquerade { "+" } else { "" };
    format!("{verdict}{mark}")
}

/// What a Service holds, in short.
pub(super) fn held(plan: &Plan, name: &str) -> String {
    let addresses = plan.addresses.allocations.addresses(&key(name));
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(" ")
}

pub(super) fn reasons(plan: &Plan, name: &str) -> Vec<Reason> {
    plan.reasons(&key(name))
}

/// What address management could not do.
pub(super) fn pending(plan: &Plan, name: &str) -> Vec<Reason> {
    let pending = &plan.addresses.pending;
    pending.get(&key(name)).cloned().unwrap_or_default()
}

/// Its labels, in order.
pub(super) fn labels(plan: &Plan, name: &str) -> String {
    let pending = pending(plan, name);
    let labels: Vec<&str> = pending.iter().map(Reason::label).collect();
    labels.join(" ")
}

/// The labels of all reasons that are told of a Service, in order.
pub(super) fn labels_of(plan: &Plan, name: &str) -> String {
    let reasons = reasons(plan, name);
    let labels: Vec<&str> = reasons.iter().map(Reason::label).collect();
    labels.join(" ")
}
