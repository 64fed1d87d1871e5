//! Random clusters for property tests: few names, few addresses and every term that decides, so that
//! edits meet.

use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;

use super::{annotated, config, ips, key, namespace, node, pool, service, slice, with_status};
use crate::config::Config;
use crate::model::cluster::{ClusterChange, Namespace, Node};
use crate::model::endpoint::{EndpointSlice, SliceKey};
use crate::model::family::{Family, Protocol};
use crate::model::service::{AddressCondition, FamilyPolicy, Service, ServiceType, TrafficPolicy};
use crate::plan::ownership::EXCLUDE_LABEL;

/// Few names and few addresses, so that edits meet.
pub(super) const SERVICES: [&str; 5] = ["alpha", "beta", "gamma", "other/alpha", "other/delta"];
pub(super) const ADDRESSES: [&str; 7] = [
    "192.0.2.200",
    "192.0.2.201",
    "192.0.2.202",
    "198.51.100.8",
    "2001:db8::200",
    "203.0.113.9",
    "192.0.2.12",
];

pub(super) fn small() -> Config {
    let mut pinned = pool("pinned", "198.51.100.8/31 2001:db8:1::/127");
    pinned.namespaces = vec!["other".to_owned()];
    pinned.namespace_selector = vec!["team=web".parse().unwrap()];
    let mut lan = pool("lan", "192.0.2.200-192.0.2.202 2001:db8::200/127");
    lan.priority = 1;
    lan.share_across_namespaces = true;
    lan.prefer = vec!["rack=front".parse().unwrap()];
    let mut config = config(vec![pinned, lan]);
    config.proxy.external_ip_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    config
}

pub(super) fn any_address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(ADDRESSES.to_vec())
}

fn policy(local: bool) -> TrafficPolicy {
    if local {
        TrafficPolicy::Local
    } else {
        TrafficPolicy::Cluster
    }
}

fn any_service() -> impl Strategy<Value = Service> {
    let kinds = [
        ServiceType::LoadBalancer,
        ServiceType::LoadBalancer,
        ServiceType::LoadBalancer,
        ServiceType::ClusterIP,
        ServiceType::NodePort,
        ServiceType::ExternalName,
    ];
    let requests = [
        "",
        "",
        "",
        "192.0.2.201",
        "192.0.2.200,2001:db8::200",
        "198.51.100.8",
        "203.0.113.9",
        "no address",
    ];
    let families = [
        vec![],
        vec![Family::V4],
        vec![Family::V6],
        vec![Family::V4, Family::V6],
        vec![Family::V6, Family::V4],
    ];
    (
        prop::sample::select(SERVICES.to_vec()),
        prop::sample::select(kinds.to_vec()),
        prop::sample::select(requests.to_vec()),
        prop::sample::select(vec!["", "", "", "lan", "pinned", "nowhere"]),
        prop::sample::select(families.to_vec()),
        prop::collection::vec(any_address(), 0..2),
        prop::collection::vec(any_address(), 0..3),
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            prop::option::of(30080_u16..30082),
            prop::option::weighted(0.3, any::<bool>()),
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.1),
        ),
        any_terms(),
    )
        .prop_map(
            |(
                name,
                kind,
                request,
                pool,
                families,
                external,
                status,
                (outer, inner, ours, node_port, allocated, other_ingress, deleting),
                terms,
            )| {
                let mut service = with_status(service(name, kind), &status.join(" "));
                service = annotated(
                    service,
                    &[("edgelb.io/ips", request), ("edgelb.io/pool", pool)],
                );
                service.external_ips = ips(&external.join(" "));
                service.families = families;
                service.cluster_ips = ips("10.96.0.10");
                service.external_traffic_policy = policy(outer);
                service.internal_traffic_policy = policy(inner);
                service.ports[0].node_port = node_port;
                service.other_ingress = other_ingress;
                service.deleting = deleting;
                terms.apply(&mut service);
                service.condition = allocated.map(condition).map(Box::new);
                service.load_balancer_class = ours.then(|| "edgelb.io/edgelb".to_owned());
                service
            },
        )
}

/// Our own condition, as the allocator would have written it.
pub(super) fn condition(allocated: bool) -> AddressCondition {
    let (reason, message) = if allocated {
        (
            "IPAllocated",
            "203.0.113.9 is from the pool old; 198.51.100.9 is kept",
        )
    } else {
        ("PoolExhausted", "every address of lan is taken")
    };
    AddressCondition {
        allocated,
        reason: reason.to_owned(),
        message: message.to_owned(),
    }
}

/// What decides sharing, families and age.
#[derive(Debug, Clone)]
struct Terms {
    sharing_key: &'static str,
    protocol: Protocol,
    port: u16,
    selector: &'static str,
    family_policy: Option<FamilyPolicy>,
    created: Option<i64>,
    source_ranges: Vec<IpNet>,
    session_affinity: Option<Duration>,
    health_check_node_port: Option<u16>,
}

impl Terms {
    fn apply(self, service: &mut Service) {
        let annotation = (
            "edgelb.io/sharing-key".to_owned(),
            self.sharing_key.to_owned(),
        );
        service.annotations.extend([annotation]);
        service.ports[0].protocol = self.protocol;
        service.ports[0].port = self.port;
        service.selector = self.selector.to_owned();
        service.family_policy = self.family_policy;
        service.created = self.created;
        service.source_ranges = self.source_ranges;
        service.session_affinity = self.session_affinity;
        service.health_check_node_port = self.health_check_node_port;
    }
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let policies = [
        None,
        None,
        Some(FamilyPolicy::SingleStack),
        Some(FamilyPolicy::PreferDualStack),
        Some(FamilyPolicy::RequireDualStack),
    ];
    (
        prop::sample::select(vec!["", "", "k", "k", "k", "other"]),
        prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]),
        80_u16..83,
        prop::sample::select(vec!["app=a", "app=a", "app=b"]),
        prop::sample::select(policies.to_vec()),
        prop::option::of(0_i64..3),
        prop::collection::vec(
            prop::sample::select(vec![
                "192.0.2.0/28",
                "198.51.100.0/24",
                "::/0",
                "2001:db8::/64",
            ]),
            0..3,
        ),
        prop::option::weighted(0.2, (1_u64..3).prop_map(Duration::from_secs)),
        prop::option::weighted(0.3, 32_000_u16..32_002),
    )
        .prop_map(
            |(
                sharing_key,
                protocol,
                port,
                selector,
                family_policy,
                created,
                ranges,
                session_affinity,
                health_check_node_port,
            )| Terms {
                sharing_key,
                protocol,
                port,
                selector,
                family_policy,
                created,
                source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
                session_affinity,
                health_check_node_port,
            },
        )
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (
        prop::sample::select(vec!["10.244.0.1", "10.244.0.2", "10.244.0.3"]),
        prop::sample::select(vec!["", "@edge-a", "@edge-b"]),
        prop::sample::select(vec!["rs", "rs", "st", "s", ""]),
    )
        .prop_map(|(address, node, marks)| format!("{address}{node}#{marks}"));
    let hints = || {
        let name = prop::sample::select(vec!["edge-a", "edge-b", "left", "right"]);
        prop::collection::vec(name.prop_map(str::to_owned), 0..3)
    };
    (
        prop::sample::select(SERVICES.to_vec()),
        prop::sample::select(vec!["one", "two"]),
        prop::collection::vec((endpoint, hints(), hints()), 0..4),
    )
        .prop_map(|(service, name, endpoints)| {
            let texts: Vec<&str> = endpoints.iter().map(|(text, ..)| text.as_str()).collect();
            let mut slice = slice(service, name, &texts.join(" "));
            for (endpoint, (_, zones, nodes)) in slice.endpoints.iter_mut().zip(&endpoints) {
                endpoint.zone_hints = zones.iter().cloned().collect();
                endpoint.node_hints = nodes.iter().cloned().collect();
            }
            let mut udp = slice.ports[0].clone();
            udp.protocol = Protocol::Udp;
            slice.ports.push(udp);
            slice
        })
}

fn any_node() -> impl Strategy<Value = Node> {
    (
        prop::sample::select(vec!["edge-a", "edge-b", "edge-c"]),
        prop::sample::select(vec!["192.0.2.12", "192.0.2.13", "192.0.2.201"]),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
        prop::option::of(prop::sample::select(vec!["left", "right"])),
    )
        .prop_map(|(name, address, excluded, deleting, front, silent, zone)| {
            let mut node = node(name, address);
            let label =
                zone.map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone.to_owned()));
            node.labels.extend(label);
            node.silent = silent;
            if front {
                node.labels.insert("rack".to_owned(), "front".to_owned());
            }
            node.deleting = deleting;
            if excluded {
                node.labels.insert(EXCLUDE_LABEL.to_owned(), String::new());
            }
            node
        })
}

fn any_namespace() -> impl Strategy<Value = Namespace> {
    (
        prop::sample::select(vec!["shop", "other", "empty"]),
        prop::option::of(prop::sample::select(vec!["web", "data"])),
    )
        .prop_map(|(name, team)| namespace(name, team))
}

pub(super) fn any_change() -> impl Strategy<Value = ClusterChange> {
    let slice_key = (
        prop::sample::select(vec!["shop", "other"]),
        prop::sample::select(vec!["one", "two"]),
    )
        .prop_map(|(namespace, name)| SliceKey::new(namespace, name));
    prop_oneof![
        8 => any_service().prop_map(|service| ClusterChange::Service(service.into())),
        4 => prop::sample::select(SERVICES.to_vec()).prop_map(|name| ClusterChange::ServiceGone(key(name))),
        4 => any_slice().prop_map(|slice| ClusterChange::Slice(slice.into())),
        1 => slice_key.prop_map(ClusterChange::SliceGone),
        1 => any_node().prop_map(|node| ClusterChange::Node(node.into())),
        1 => prop::sample::select(vec!["edge-a", "edge-b", "edge-c"])
            .prop_map(|name| ClusterChange::NodeGone(name.to_owned())),
        1 => any_namespace().prop_map(|namespace| ClusterChange::Namespace(namespace.into())),
        1 => prop::sample::select(vec!["shop", "other"])
            .prop_map(|name| ClusterChange::NamespaceGone(name.to_owned())),
    ]
}

/// Edits, and where a pass ends.
pub(super) fn any_passes() -> impl Strategy<Value = Vec<Vec<ClusterChange>>> {
    prop::collection::vec(prop::collection::vec(any_change(), 1..5), 1..12)
}
