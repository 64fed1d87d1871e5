//! What is judged of a Service, case by case.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ipnet::IpNet;

use super::endpoints::Slices;
use super::probe::{Seen, Target};
use super::{balance, reach};
use crate::admin::view::{ExcludedNode, Peer, ReasonView, VipView};
use crate::doctor::finding::{Finding, Level};
use crate::model::cluster::{ClusterChange, ClusterState};
use crate::model::endpoint::{Conditions, Endpoint, EndpointSlice, Hints, SlicePort};
use crate::model::family::{Family, Protocol};
use crate::model::foreign::MacAddress;
use crate::model::peer::{Heard, Presence};
use crate::model::service::{Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy};
use crate::plan::reason::Reason;

fn service() -> Service {
    let mut service = Service::new(ServiceKey::new("shop", "web"), ServiceType::LoadBalancer);
    service.selector = "app=web".to_owned();
    service.ports.push(ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: None,
    });
    service
}

/// The cluster with a slice of endpoints so ready, whose port has this name.
fn cluster(ready: &[bool], port: &str) -> ClusterState {
    let endpoints = ready.iter().zip(2_u8..).map(|(ready, host)| Endpoint {
        address: [10, 244, 0, host].into(),
        conditions: Conditions {
            ready: *ready,
            serving: *ready,
            terminating: false,
        },
        node: Some("edge-a".into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
    });
    let mut cluster = ClusterState::default();
    cluster.apply(ClusterChange::Slice(std::sync::Arc::new(EndpointSlice {
        key: crate::model::endpoint::SliceKey::new("shop", "web-1"),
        service: ServiceKey::new("shop", "web"),
        family: Family::V4,
        ports: vec![SlicePort {
            name: port.to_owned(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints.collect(),
    })));
    cluster
}

fn judge(service: &Service, cluster: &ClusterState, answers: &[Seen]) -> Vec<Finding> {
    let slices = Slices::new(cluster, service);
    let seen: BTreeMap<Target, Seen> = slices
        .targets()
        .into_iter()
        .zip(answers.iter().copied())
        .collect();
    slices.judge(&seen)
}

#[test]
fn endpoints_are_judged_by_what_is_there_and_what_answers() {
    use Seen::{Open, Refused, Silent};
    let problem = Some(Level::Problem);
    for (ready, port, answers, level, words) in [
        (
            &[][..],
            "http",
            &[][..],
            problem,
            "selector app=web matches no pod",
        ),
        (
            &[false, false],
            "http",
            &[],
            problem,
            "none of its 2 endpoints is ready",
        ),
        (
            &[true, true],
            "web",
            &[],
            problem,
            "no endpoint has a tcp port of that name",
        ),
        (
            &[true, true],
            "http",
            &[Refused, Refused],
            problem,
            "nothing listens on the target port of 2 of 2",
        ),
        (
            &[true, true],
            "http",
            &[Open, Refused],
            Some(Level::Warning),
            "1 of 2",
        ),
        (
            &[true, true],
            "http",
            &[Silent, Silent],
            problem,
            "2 of 2 endpoints do not answer this node",
        ),
        (
            &[true, true],
            "http",
            &[Seen::NoRoute, Open],
            Some(Level::Warning),
            "no route to the pods",
        ),
        (
            &[true, true],
            "http",
            &[Seen::Forbidden; 2],
            problem,
            "a firewall of this node forbids",
        ),
        (
            &[true, false],
            "http",
            &[Open],
            Some(Level::Info),
            "1 of 2 endpoints are ready",
        ),
        (&[true, true], "http", &[Open, Open], None, ""),
    ] {
        let found = judge(&service(), &cluster(ready, port), answers);
        assert_eq!(
            found.first().map(|it| it.level),
            level,
            "{words}: {found:#?}"
        );
        if let Some(found) = found.first() {
            assert!(found.message.contains(words), "{found:#?}");
            assert!(found.remedy.is_some());
        }
    }
    let mut without = service();
    without.selector.clear();
    let found = judge(&without, &ClusterState::default(), &[]);
    assert!(
        found[0].message.contains("it has no selector"),
        "{found:#?}"
    );
}

#[test]
fn a_cluster_without_the_slice_is_not_taken_for_ready() {
    let found = judge(&service(), &cluster(&[], "http"), &[]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].service.as_deref(), Some("shop/web"));
}

fn vip(owner: Option<&str>, here: bool, excluded: &[(&str, Reason)]) -> VipView {
    VipView {
        address: "192.0.2.200".parse().unwrap(),
        family: Family::V4,
        pool: Some("lan".to_owned()),
        service: "shop/web".to_owned(),
        owner: owner.map(str::to_owned),
        owned_here: here,
        held: true,
        interfaces: Vec::new(),
        excluded: (excluded.iter())
            .map(|(node, reason)| ExcludedNode {
                node: (*node).to_owned(),
                reason: ReasonView::from(reason),
            })
            .collect(),
        reasons: Vec::new(),
    }
}

fn peer(presence: Option<Presence>) -> Peer {
    Peer {
        name: "edge-b".to_owned(),
        this_node: false,
        addresses: vec!["192.0.2.12".parse().unwrap()],
        eligible: true,
        reasons: Vec::new(),
        vips: 1,
        presence,
        heard: Some(Heard::default()),
        draining: false,
        same_configuration: None,
    }
}

#[test]
fn an_owner_that_is_gone_is_told_and_one_that_answers_is_not_blamed() {
    let foreign = vip(Some("edge-b"), false, &[]);
    let local = [
        ("edge-a", Reason::NoLocalEndpoint),
        ("edge-b", Reason::NoLocalEndpoint),
    ];
    for (vip, policy, presence, owner, level, words) in [
        (
            &foreign,
            TrafficPolicy::Cluster,
            None,
            Some(Seen::Open),
            Level::Info,
            "edge-b announces",
        ),
        (
            &foreign,
            TrafficPolicy::Cluster,
            None,
            Some(Seen::Silent),
            Level::Problem,
            "does not answer",
        ),
        (
            &foreign,
            TrafficPolicy::Cluster,
            None,
            Some(Seen::Refused),
            Level::Problem,
            "does not answer",
        ),
        (
            &foreign,
            TrafficPolicy::Cluster,
            Some(Presence::Down),
            None,
            Level::Problem,
            "edge-b owns 192.0.2.200 and does not answer",
        ),
        (
            &vip(None, false, &local),
            TrafficPolicy::Local,
            None,
            None,
            Level::Problem,
            "externalTrafficPolicy is Local",
        ),
        (
            &vip(None, false, &[("edge-a", Reason::Draining)]),
            TrafficPolicy::Cluster,
            None,
            None,
            Level::Problem,
            "nobody announces 192.0.2.200",
        ),
    ] {
        let found = reach::announced(vip, Some(policy), &[peer(presence)], owner);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!(found[0].level, level, "{found:#?}");
        assert!(found[0].message.contains(words), "{found:#?}");
        assert!(found[0].remedy.is_some());
    }
    assert!(reach::announced(&vip(Some("edge-a"), true, &[]), None, &[], None).is_empty());
}

#[test]
fn who_answers_on_the_lan_is_compared_with_the_owner() {
    let (own, other) = (
        MacAddress([2, 0, 0, 0, 0, 1]),
        MacAddress([2, 0, 0, 0, 0, 2]),
    );
    let here = vip(Some("edge-a"), true, &[]);
    let there = vip(Some("edge-b"), false, &[]);
    let level = |vip: &VipView, answer, owner| {
        let found = reach::answered(vip, answer, owner);
        assert!(found.iter().all(|it| it.remedy.is_some()));
        found.map(|it| it.level)
    };
    assert_eq!(level(&here, None, None), None);
    assert_eq!(level(&here, Some(other), None), Some(Level::Problem));
    assert_eq!(level(&there, Some(own), Some(own)), None);
    assert_eq!(level(&there, Some(other), None), None);
    assert_eq!(level(&there, Some(other), Some(own)), Some(Level::Problem));
    assert_eq!(level(&there, None, Some(own)), Some(Level::Warning));
    assert_eq!(
        level(&vip(None, false, &[]), Some(other), None),
        Some(Level::Problem)
    );
}

#[test]
fn source_ranges_are_judged_by_whom_they_let_in() {
    let lan: Vec<IpNet> = vec!["192.0.2.11/24".parse().unwrap()];
    for (ranges, level) in [
        (&[][..], None),
        (&["192.0.2.0/25"], Some(Level::Info)),
        (&["0.0.0.0/0"], Some(Level::Info)),
        (&["203.0.113.0/24"], Some(Level::Warning)),
        (&["127.0.0.1/32"], Some(Level::Problem)),
        (&["0.0.0.0/32", "255.255.255.255/32"], Some(Level::Problem)),
        (&["::1/128"], Some(Level::Problem)),
    ] {
        let mut service = service();
        service.source_ranges = ranges.iter().map(|it| it.parse().unwrap()).collect();
        let found = reach::sources(&service, &lan);
        assert_eq!(found.map(|it| it.level), level, "{ranges:?}");
    }
}

#[test]
fn uneven_connections_are_put_down_to_affinity_only_where_it_is_on() {
    let sockets = ["10.244.0.2:8080", "10.244.0.3:8080", "10.244.0.4:8080"];
    let sockets: Vec<SocketAddr> = sockets.iter().map(|it| it.parse().unwrap()).collect();
    let endpoints: BTreeSet<SocketAddr> = sockets.iter().copied().collect();
    for (affinity, counts, level, word) in [
        (false, [10, 9, 11], None, ""),
        (false, [40, 0, 1], Some(Level::Info), "without affinity"),
        (false, [5, 0, 0], None, ""),
        (true, [10, 9, 11], Some(Level::Info), "keeps each client"),
        (true, [5, 0, 0], Some(Level::Info), "keeps each client"),
        (
            true,
            [40, 0, 1],
            Some(Level::Warning),
            "is why connections are uneven: 40 of 41",
        ),
    ] {
        let mut service = service();
        service.session_affinity = affinity.then(|| std::time::Duration::from_secs(10_800));
        let counts = sockets.iter().copied().zip(counts).collect();
        let found = balance::judge(&service, &endpoints, Some(&counts));
        assert_eq!(found.as_ref().map(|it| it.level), level);
        assert!(found.is_none_or(|it| it.message.contains(word)));
    }
}
