//! What each source class gets: the truth table of §8, POL-4 to POL-9, MASQ-2 to MASQ-8, NOEP-1 to
//! NOEP-3, and which Services are forwarded at all (SEL-3, SEL-4, SEL-8, SEL-10).

use super::{
    config, inputs, ip, labels, load_balancer, node_port, pool, reasons, service, slice, tcp,
    treatment, with_status,
};
use crate::config::{Config, ProxyScope};
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{FrontendPort, SourceClass};
use crate::model::node_state::HeldFor;
use crate::model::scheduler::Scheduler;
use crate::model::service::{Service, ServiceType, TrafficPolicy};
use crate::plan::Plan;
use crate::plan::reason::Reason;

const LOCAL: &str = "10.244.1.2:8080";
const REMOTE: &str = "10.244.2.2:8080";
const BOTH: &str = "10.244.1.2:8080 10.244.2.2:8080";

/// A Service on every kind of frontend.
fn everywhere(external: TrafficPolicy, internal: TrafficPolicy) -> Service {
    let mut service = load_balancer("web");
    service.cluster_ips = vec![ip("10.96.0.10")];
    service.external_ips = vec![ip("203.0.113.5")];
    service.ports[0].node_port = Some(30080);
    service.external_traffic_policy = external;
    service.internal_traffic_policy = internal;
    service
}

pub(super) fn lan() -> Config {
    let mut config = config(vec![pool("lan", "192.0.2.200-192.0.2.219")]);
    config.proxy.external_ip_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    config
}

pub(super) fn planned(config: &Config, service: Service, endpoints: &str) -> Plan {
    let mut inputs = inputs();
    inputs.put(service).put(slice("web", "web-1", endpoints));
    inputs.planned(config)
}

pub(super) const CLUSTER_IP: &str = "10.96.0.10";

fn externals() -> [FrontendPort; 3] {
    [
        tcp("192.0.2.200", 80),
        tcp("203.0.113.5", 80),
        node_port(Family::V4, 30080),
    ]
}

/// A row of the table: external policy, internal policy, and what outside, pod, node and peer get
/// at the `ClusterIP` and at each external destination.
type Row<'a> = (TrafficPolicy, TrafficPolicy, [&'a str; 4], [&'a str; 4]);

fn assert_rows(config: &Config, endpoints: &str, rows: &[Row<'_>]) {
    for (external, internal, at_cluster_ip, at_external) in rows {
        let plan = planned(config, everywhere(*external, *internal), endpoints);
        for (class, expected) in SourceClass::ALL.into_iter().zip(at_cluster_ip) {
            let found = treatment(&plan, &tcp(CLUSTER_IP, 80), class);
            assert_eq!(&found, expected, "{class:?} to ClusterIP, iTP {internal:?}");
        }
        for frontend in externals() {
            for (class, expected) in SourceClass::ALL.into_iter().zip(at_external) {
                let found = treatment(&plan, &frontend, class);
                assert_eq!(
                    &found, expected,
                    "{class:?} to {frontend}, eTP {external:?}"
                );
            }
        }
    }
}

fn plus(text: &str) -> String {
    format!("{text}+")
}

#[test]
fn the_truth_table_with_pods_known() {
    use TrafficPolicy::{Cluster, Local};
    let mut config = lan();
    config.proxy.cluster_ip_from_outside = true;
    let (all, local) = (plus(BOTH), plus(LOCAL));
    let rows: [Row<'_>; 4] = [
        // POL-4, MASQ-3; POL-5, MASQ-6
        (
            Cluster,
            Cluster,
            [&all, BOTH, &all, "refuse+"],
            [&all, &all, &all, &all],
        ),
        // POL-6, MASQ-7
        (
            Local,
            Cluster,
            [&all, BOTH, &all, "refuse+"],
            [LOCAL, BOTH, &all, LOCAL],
        ),
        // POL-4; POL-9: the internal policy changes nothing outside
        (
            Cluster,
            Local,
            [&local, LOCAL, &local, "refuse+"],
            [&all, &all, &all, &all],
        ),
        (
            Local,
            Local,
            [&local, LOCAL, &local, "refuse+"],
            [LOCAL, BOTH, &all, LOCAL],
        ),
    ];
    assert_rows(&config, "10.244.1.2@edge-a 10.244.2.2@edge-b", &rows);
}

#[test]
fn outsiders_are_refused_at_cluster_ips_unless_wanted() {
    let plan = planned(
        &lan(),
        everywhere(TrafficPolicy::Cluster, TrafficPolicy::Cluster),
        "10.244.1.2",
    );
    let at = |class| treatment(&plan, &tcp(CLUSTER_IP, 80), class);
    assert_eq!(at(SourceClass::Outside), "refuse+");
    assert_eq!(at(SourceClass::Pod), LOCAL);
}

#[test]
fn without_a_pod_range_nobody_is_masqueraded_at_cluster_ips() {
    use TrafficPolicy::{Cluster, Local};
    let mut config = lan();
    config.proxy.cluster_cidrs.clear();
    let all = plus(BOTH);
    // MASQ-4; POL-7 is the datapath's: no packet is of class pod then.
    let rows: [Row<'_>; 2] = [
        (
            Cluster,
            Cluster,
            [BOTH, BOTH, BOTH, "refuse"],
            [&all, &all, &all, &all],
        ),
        (
            Local,
            Local,
            [LOCAL, LOCAL, LOCAL, "refuse"],
            [LOCAL, BOTH, &all, LOCAL],
        ),
    ];
    assert_rows(&config, "10.244.1.2@edge-a 10.244.2.2@edge-b", &rows);
}

#[test]
fn a_pod_range_of_the_other_family_tells_no_pods() {
    let mut config = lan();
    config.proxy.cluster_cidrs = vec!["fd00::/48".parse().unwrap()];
    let plan = planned(
        &config,
        everywhere(TrafficPolicy::Cluster, TrafficPolicy::Cluster),
        "10.244.1.2",
    );
    assert_eq!(
        treatment(&plan, &tcp(CLUSTER_IP, 80), SourceClass::Outside),
        LOCAL,
        "MASQ-4"
    );
}

#[test]
fn masquerade_all_changes_cluster_ips_alone() {
    use TrafficPolicy::{Cluster, Local};
    let mut config = lan();
    config.proxy.masquerade_all = true;
    config.proxy.cluster_ip_from_outside = true;
    let all = plus(BOTH);
    // MASQ-2
    let rows: [Row<'_>; 2] = [
        (
            Cluster,
            Cluster,
            [&all, &all, &all, "refuse+"],
            [&all, &all, &all, &all],
        ),
        (
            Local,
            Cluster,
            [&all, &all, &all, "refuse+"],
            [LOCAL, BOTH, &all, LOCAL],
        ),
    ];
    assert_rows(&config, "10.244.1.2@edge-a 10.244.2.2@edge-b", &rows);
}

#[test]
fn nothing_here_is_dropped_and_nothing_anywhere_is_refused() {
    use TrafficPolicy::{Cluster, Local};
    let mut config = lan();
    config.proxy.cluster_ip_from_outside = true;
    let remote = plus(REMOTE);
    // NOEP-2, POL-8, cases 36, 37, 45, 48
    let only_remote: [Row<'_>; 2] = [
        (
            Local,
            Local,
            ["drop+", "drop", "drop+", "refuse+"],
            ["drop", REMOTE, &remote, "drop"],
        ),
        (
            Cluster,
            Local,
            ["drop+", "drop", "drop+", "refuse+"],
            [&remote, &remote, &remote, &remote],
        ),
    ];
    assert_rows(&config, "10.244.2.2@edge-b", &only_remote);
    // NOEP-3, case 50: a remote one that only terminates still exists.
    assert_rows(&config, "10.244.2.2@edge-b#st", &only_remote);
    // NOEP-1, case 12
    let nowhere: [Row<'_>; 2] = [
        (
            Cluster,
            Cluster,
            ["refuse+", "refuse", "refuse+", "refuse+"],
            ["refuse+"; 4],
        ),
        (
            Local,
            Local,
            ["refuse+", "refuse", "refuse+", "refuse+"],
            ["refuse", "refuse", "refuse+", "refuse"],
        ),
    ];
    assert_rows(&config, "10.244.1.2@edge-a#s", &nowhere);
}

#[test]
fn the_reason_names_what_is_missing() {
    let mut both = everywhere(TrafficPolicy::Local, TrafficPolicy::Cluster);
    let plan = planned(&lan(), both.clone(), "10.244.2.2@edge-b");
    assert_eq!(
        reasons(&plan, "web"),
        [Reason::NoLocalEndpoints { port: 80 }]
    );
    let plan = planned(&lan(), both.clone(), "10.244.2.2@edge-b#s");
    assert_eq!(reasons(&plan, "web"), [Reason::NoEndpoints { port: 80 }]);
    // Nothing is served: whether there are endpoints is not the question.
    both = load_balancer("web");
    let plan = planned(&config(Vec::new()), both, "10.244.1.2@edge-a");
    assert_eq!(reasons(&plan, "web"), [Reason::NoPool]);
    assert_eq!(labels(&plan, "web"), "no_pool");
}

#[test]
fn the_type_alone_forwards_nothing_and_forbids_little() {
    for (statement, service, frontends) in [
        (
            "SEL-3: no ClusterIP, no frontend",
            service("web", ServiceType::ClusterIP),
            0,
        ),
        ("SEL-4", everywhere_as(ServiceType::ExternalName), 0),
        (
            "SEL-8: fields count, not the type",
            everywhere_as(ServiceType::ClusterIP),
            3,
        ),
        (
            "SEL-8",
            with_status(everywhere_as(ServiceType::NodePort), "203.0.113.9"),
            4,
        ),
        (
            "SEL-10: no ports",
            Service {
                ports: Vec::new(),
                ..everywhere_as(ServiceType::ClusterIP)
            },
            0,
        ),
    ] {
        let plan = planned(&lan(), service, "10.244.1.2@edge-a");
        assert_eq!(plan.state.frontends.len(), frontends, "{statement}");
    }
}

pub(super) fn everywhere_as(kind: ServiceType) -> Service {
    Service {
        kind,
        ..everywhere(TrafficPolicy::Cluster, TrafficPolicy::Cluster)
    }
}

#[test]
fn the_scope_external_leaves_cluster_ips_to_another_proxy() {
    let mut config = lan();
    config.proxy.scope = ProxyScope::External;
    let plan = planned(
        &config,
        everywhere_as(ServiceType::LoadBalancer),
        "10.244.1.2",
    );
    assert!(!plan.state.frontends.contains_key(&tcp(CLUSTER_IP, 80)));
    assert_eq!(plan.state.frontends.len(), 3);
    assert!(!plan.state.held.contains_key(&ip(CLUSTER_IP)));
}

#[test]
fn every_address_that_is_served_is_held_for_its_use() {
    let plan = planned(
        &lan(),
        everywhere_as(ServiceType::LoadBalancer),
        "10.244.1.2@edge-a",
    );
    let held: Vec<_> = plan
        .state
        .held
        .iter()
        .map(|(address, held)| (*address, *held))
        .collect();
    assert_eq!(
        held,
        [
            (ip(CLUSTER_IP), HeldFor::ClusterIp),
            (ip("192.0.2.200"), HeldFor::Vip),
            (ip("203.0.113.5"), HeldFor::External),
        ]
    );
    assert!(plan.state.hairpin.contains(&ip("10.244.1.2")), "MASQ-8");
}

#[test]
fn ports_protocols_schedulers_and_affinity_reach_the_frontend() {
    let mut service = everywhere_as(ServiceType::LoadBalancer);
    service.ports = vec![
        super::port("dns", Protocol::Tcp, 53),
        super::port("dns-udp", Protocol::Udp, 53),
    ];
    service.session_affinity = Some(std::time::Duration::from_secs(10_800));
    let service = super::annotated(service, &[("edgelb.io/scheduler", " mh ")]);
    let plan = planned(&lan(), service.clone(), "10.244.1.2");
    assert_eq!(
        plan.state.frontends.len(),
        6,
        "CIP-1: the same number in two protocols"
    );
    for frontend in plan.state.frontends.values() {
        assert_eq!(frontend.scheduler, Scheduler::Mh);
        let affinity = frontend.session_affinity.unwrap();
        assert_eq!(Some(affinity.timeout), service.session_affinity);
    }
    let service = super::annotated(service, &[("edgelb.io/scheduler", "fastest")]);
    let plan = planned(&lan(), service, "10.244.1.2");
    assert!(
        plan.state
            .frontends
            .values()
            .all(|frontend| frontend.scheduler == Scheduler::Rr)
    );
}

#[test]
fn node_ports_are_open_in_the_families_of_the_service() {
    let mut config = lan();
    for (statement, families, cluster_ips, expected) in [
        ("declared", vec![Family::V6], "", vec![Family::V6]),
        ("by ClusterIP", vec![], "10.96.0.10", vec![Family::V4]),
        ("neither: both", vec![], "", vec![Family::V4, Family::V6]),
        (
            "dual",
            vec![Family::V4, Family::V6],
            "10.96.0.10 fd00::10",
            vec![Family::V4, Family::V6],
        ),
    ] {
        let mut service = service("web", ServiceType::NodePort);
        service.families = families;
        service.cluster_ips = super::ips(cluster_ips);
        service.ports[0].node_port = Some(30080);
        let plan = planned(&config, service, "10.244.1.2");
        for family in Family::BOTH {
            let open = plan.state.frontends.contains_key(&node_port(family, 30080));
            assert_eq!(open, expected.contains(&family), "{statement}: {family}");
        }
    }
    let mut outside = service("web", ServiceType::NodePort);
    outside.ports[0].node_port = Some(8080);
    let plan = planned(&config, outside.clone(), "10.244.1.2");
    assert_eq!(plan.state.frontends.len(), 0);
    assert_eq!(
        reasons(&plan, "web"),
        [Reason::NodePortOutOfRange { port: 8080 }]
    );
    config.proxy.node_port_range = "8000-8999".parse().unwrap();
    assert_eq!(
        planned(&config, outside, "10.244.1.2")
            .state
            .frontends
            .len(),
        2
    );
}

#[test]
fn node_ports_listen_on_the_addresses_of_interfaces() {
    let mut config = lan();
    let addresses = |config: &Config| -> Vec<String> {
        let plan = planned(config, everywhere_as(ServiceType::NodePort), "10.244.1.2");
        plan.state
            .node_addresses
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    // NP-7: neither loopback nor link-local, nor any VIP.
    assert_eq!(addresses(&config), ["192.0.2.11", "2001:db8::11"]);
    config.proxy.node_port_addresses = vec!["192.0.2.0/24".parse().unwrap()];
    assert_eq!(addresses(&config), ["192.0.2.11"]);
}
