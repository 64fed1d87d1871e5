//! Addresses that a Service brings itself, conflicts between Services, and addresses that nobody may
//! take: XIP-1, XIP-4, LB-1, LB-4, SP-11.

use super::{
    annotated, config, inputs, ip, key, load_balancer, node, node_port, pool, reasons, service,
    slice, tcp, treatment, with_status,
};
use crate::config::{Config, ProxyScope};
use crate::model::cluster::ClusterChange;
use crate::model::family::Family;
use crate::model::frontend::SourceClass;
use crate::model::node_state::HeldFor;
use crate::model::service::{IngressAddress, IpMode, Service, ServiceType};
use crate::plan::reason::{Infrastructure, Reason};

fn allowed() -> Config {
    let mut config = config(vec![pool("lan", "192.0.2.0/24")]);
    config.proxy.external_ip_ranges = vec![
        "198.51.100.0/24".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ];
    config
}

fn with_external(name: &str, address: &str) -> Service {
    let mut service = service(name, ServiceType::ClusterIP);
    service.external_ips = vec![ip(address)];
    service
}

#[test]
fn external_addresses_are_served_inside_ranges_and_pools_only() {
    for (address, served) in [
        ("198.51.100.7", true),
        ("192.0.2.77", true),
        ("2001:db8::77", true),
        ("203.0.113.7", false),
        ("2001:db9::7", false),
        ("8.8.8.8", false),
    ] {
        let mut inputs = inputs();
        let plan = inputs
            .put(with_external("web", address))
            .planned(&allowed());
        assert_eq!(
            plan.state.frontends.contains_key(&tcp(address, 80)),
            served,
            "{address}"
        );
        assert_eq!(
            plan.state.held.contains_key(&ip(address)),
            served,
            "{address}"
        );
        let refusal = Reason::ExternalNotAllowed {
            address: ip(address),
        };
        assert_eq!(
            reasons(&plan, "web").contains(&refusal),
            !served,
            "{address}"
        );
        assert!(
            !plan.ownership.contains_key(&ip(address)),
            "an external address is not announced"
        );
    }
}

#[test]
fn addresses_of_nodes_gateways_and_resolvers_are_nobodys() {
    let mut inputs = inputs();
    inputs.put(node("edge-b", "192.0.2.12 2001:db8::12"));
    inputs.host.infrastructure = super::ips("192.0.2.1 192.0.2.53");
    for (address, what) in [
        ("192.0.2.11", Infrastructure::ThisNode),
        ("2001:db8::11", Infrastructure::ThisNode),
        ("192.0.2.12", Infrastructure::Node("edge-b".to_owned())),
        ("2001:db8::12", Infrastructure::Node("edge-b".to_owned())),
        ("192.0.2.1", Infrastructure::GatewayOrResolver),
        ("192.0.2.53", Infrastructure::GatewayOrResolver),
        ("192.0.2.0", Infrastructure::Special),
        ("192.0.2.255", Infrastructure::Special),
        ("127.0.0.1", Infrastructure::Special),
        ("224.0.0.5", Infrastructure::Special),
        ("169.254.1.1", Infrastructure::Special),
        ("0.0.0.0", Infrastructure::Special),
        ("fe80::1", Infrastructure::Special),
        ("ff02::1", Infrastructure::Special),
        ("::1", Infrastructure::Special),
    ] {
        let refusal = Reason::AddressOfInfrastructure {
            address: ip(address),
            what,
        };
        let mut ways = vec![
            with_external("web", address),
            with_status(service("web", ServiceType::ClusterIP), address),
            annotated(load_balancer("web"), &[("edgelb.io/ips", address)]),
        ];
        // A ClusterIP may be the resolver: the cluster's own DNS.
        let here = ["192.0.2.1", "192.0.2.53", "192.0.2.0", "192.0.2.255"];
        if !here.contains(&address) {
            ways.push(Service {
                cluster_ips: vec![ip(address)],
                ..service("web", ServiceType::ClusterIP)
            });
        }
        for way in ways {
            let mut inputs = inputs.clone();
            let plan = inputs.put(way.clone()).planned(&allowed());
            assert!(
                !plan.state.held.contains_key(&ip(address)),
                "XIP-4: {way:?}"
            );
            assert!(plan.state.frontends.is_empty(), "{address}");
            assert!(
                reasons(&plan, "web").contains(&refusal),
                "{address}: {:?}",
                reasons(&plan, "web")
            );
        }
    }
}

/// kubespray's `host_resolvconf`: the node's resolver is the DNS Service's `ClusterIP`, or its VIP.
#[test]
fn a_resolver_that_is_a_service_stays_one() {
    let mut inputs = inputs();
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.219")]);
    let dns = Service {
        cluster_ips: vec![ip("10.96.0.10")],
        ..load_balancer("dns")
    };
    inputs.put(dns);
    assert_eq!(super::held(&inputs.planned(&config), "dns"), "192.0.2.200");
    inputs.host.infrastructure = super::ips("10.96.0.10 192.0.2.200");
    let plan = inputs.planned(&config);
    assert_eq!(super::held(&plan, "dns"), "192.0.2.200");
    for address in ["10.96.0.10", "192.0.2.200"] {
        assert!(plan.state.held.contains_key(&ip(address)), "{address}");
    }
}

/// Only what every node knows may take an address away, so that all nodes say the same.
#[test]
fn an_address_that_an_interface_gets_is_kept_and_not_served_here() {
    let mut inputs = inputs();
    let config = config(vec![pool("lan", "192.0.2.200-192.0.2.219")]);
    inputs.put(load_balancer("web"));
    assert_eq!(super::held(&inputs.planned(&config), "web"), "192.0.2.200");
    let interface = inputs.host.interfaces.get_mut(&2).unwrap();
    interface.addresses.push("192.0.2.200/24".parse().unwrap());
    let plan = inputs.planned(&config);
    assert_eq!(super::held(&plan, "web"), "192.0.2.200");
    assert!(plan.state.held.is_empty() && plan.ownership.is_empty());
    let refusal = Reason::AddressOfInfrastructure {
        address: ip("192.0.2.200"),
        what: Infrastructure::ThisNode,
    };
    assert!(reasons(&plan, "web").contains(&refusal));
    // A Node of the cluster has it: it goes.
    inputs.host.interfaces.get_mut(&2).unwrap().addresses.pop();
    inputs.put(node("edge-b", "192.0.2.200"));
    assert_eq!(super::held(&inputs.planned(&config), "web"), "192.0.2.201");
}

/// What kube-proxy in IPVS mode left behind are Service addresses, not this node's.
#[test]
fn the_interface_of_kube_proxy_is_no_host() {
    let mut inputs = inputs();
    let mut interface = inputs.host.interfaces.get(&2).unwrap().clone();
    interface.name = "kube-ipvs0".to_owned();
    interface.index = 9;
    interface.addresses = vec!["10.96.0.10/32".parse().unwrap()];
    inputs.host.interfaces.insert(9, interface);
    inputs.put(Service {
        cluster_ips: vec![ip("10.96.0.10")],
        ..service("web", ServiceType::ClusterIP)
    });
    let plan = inputs.planned(&allowed());
    assert!(plan.state.held.contains_key(&ip("10.96.0.10")));
    assert!(!plan.state.node_addresses.contains(&ip("10.96.0.10")));
}

#[test]
fn a_vip_of_another_service_is_refused_as_external_address() {
    let mut inputs = inputs();
    inputs
        .put(load_balancer("web"))
        .put(with_external("thief", "192.0.2.2"));
    let plan = inputs.planned(&allowed());
    assert_eq!(
        super::held(&plan, "web"),
        "192.0.2.2",
        "the lowest that is no gateway"
    );
    let taken = Reason::RequestTaken {
        address: ip("192.0.2.2"),
        holder: key("web"),
    };
    assert_eq!(reasons(&plan, "thief"), [taken]);
    assert_eq!(plan.state.held.get(&ip("192.0.2.2")), Some(&HeldFor::Vip));
}

#[test]
fn a_status_that_arrives_rewritten_is_not_captured() {
    // SP-11, case 52
    for (mode, served) in [(IpMode::Vip, true), (IpMode::Proxy, false)] {
        let mut service = service("web", ServiceType::LoadBalancer);
        service.ingress = vec![IngressAddress {
            address: ip("198.51.100.9"),
            mode,
        }];
        let plan = inputs().put(service).planned(&allowed());
        assert_eq!(
            plan.state.frontends.contains_key(&tcp("198.51.100.9", 80)),
            served,
            "{mode:?}"
        );
    }
}

#[test]
fn of_two_services_with_one_port_the_lower_key_wins() {
    let mut config = allowed();
    config.pools.clear();
    let shared = |name: &str, number: u16, node_port: u16| {
        let mut service = with_external(name, "198.51.100.7");
        service.ports[0].port = number;
        service.ports[0].node_port = Some(node_port);
        service
    };
    let mut inputs = inputs();
    inputs
        .put(shared("alpha", 80, 30080))
        .put(shared("beta", 80, 30080))
        .put(shared("gamma", 81, 30081))
        .put(slice("alpha", "alpha-1", "10.244.0.1"))
        .put(slice("beta", "beta-1", "10.244.0.2"));
    let plan = inputs.planned(&config);
    let answers = |port| treatment(&plan, &port, SourceClass::Node);
    assert_eq!(answers(tcp("198.51.100.7", 80)), "10.244.0.1:8080+");
    assert_eq!(answers(node_port(Family::V4, 30080)), "10.244.0.1:8080+");
    assert_eq!(
        answers(tcp("198.51.100.7", 81)),
        "refuse+",
        "LB-4: another port is free"
    );
    let taken = |frontend| Reason::FrontendTaken {
        frontend,
        holder: key("alpha"),
    };
    assert_eq!(
        reasons(&plan, "beta"),
        [
            taken(tcp("198.51.100.7", 80)),
            taken(node_port(Family::V4, 30080)),
            taken(node_port(Family::V6, 30080)),
        ]
    );
    assert_eq!(reasons(&plan, "alpha"), []);
    inputs
        .cluster
        .apply(crate::model::cluster::ClusterChange::ServiceGone(key(
            "alpha",
        )));
    let plan = inputs.planned(&config);
    assert_eq!(
        treatment(&plan, &tcp("198.51.100.7", 80), SourceClass::Node),
        "10.244.0.2:8080+"
    );
    assert_eq!(reasons(&plan, "beta"), []);
}

/// NOEP-7: what the cluster names counts where the configuration names nothing, but never with a
/// host in it.
#[test]
fn ranges_of_cluster_ips_are_found_from_the_cluster() {
    let ranges = |config: &Config, found: &str| -> Vec<String> {
        let mut inputs = inputs();
        inputs.put(node("edge-b", "198.51.100.12"));
        let found = found.split_whitespace().map(|range| range.parse().unwrap());
        let found = std::sync::Arc::new(found.collect());
        inputs
            .cluster
            .apply(ClusterChange::ServiceCidr("kubernetes".to_owned(), found));
        let plan = inputs.planned(config);
        let ranges = plan.state.service_ranges.iter();
        ranges.map(ToString::to_string).collect()
    };
    let mut config = config(vec![]);
    let both = ["10.96.0.0/16", "fd00:10:96::/112"];
    assert_eq!(ranges(&config, "10.96.0.0/16 fd00:10:96::/112"), both);
    for host in ["192.0.0.0/16", "198.51.100.0/24", "0.0.0.0/0", "::/0"] {
        assert_eq!(ranges(&config, host), [""; 0], "{host} holds a host");
    }
    config.proxy.scope = ProxyScope::External;
    assert_eq!(ranges(&config, "10.96.0.0/16"), [""; 0]);
    config.proxy.scope = ProxyScope::All;
    config.proxy.service_cidrs = vec!["10.97.0.0/16".parse().unwrap()];
    assert_eq!(ranges(&config, "10.96.0.0/16"), ["10.97.0.0/16"]);
}

/// SEL-9: a family without a `ClusterIP` is none of the Service's; where nobody fills them in, each is.
#[test]
fn external_addresses_of_a_family_that_the_service_lacks_are_not_served() {
    for (cluster_ips, expected) in [
        ("10.96.0.10", false),
        ("10.96.0.10 fd00::10", true),
        ("", true),
    ] {
        let mut service = with_external("web", "2001:db8::77");
        service.cluster_ips = super::ips(cluster_ips);
        let mut inputs = inputs();
        inputs.put(service);
        let plan = inputs.planned(&allowed());
        let served = plan.state.frontends.contains_key(&tcp("2001:db8::77", 80));
        assert_eq!(served, expected, "{cluster_ips:?}");
    }
}
