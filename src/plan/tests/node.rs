//! Which sysctls a node needs, by configuration, host and Nodes.

use super::*;
use crate::model::sysctl::{Rule, Sysctl};

const FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// The sysctls of IPv6 on a host with these interfaces.
fn ipv6(config: &Config, interfaces: &[(&str, &str)]) -> Vec<String> {
    let mut world = inputs();
    world.host.interfaces = interfaces
        .iter()
        .zip(1..)
        .map(|((name, addresses), index)| (index, interface(index, name, addresses)))
        .collect();
    let plan = world.planned(config);
    let sysctls = plan.state.sysctls.iter();
    sysctls
        .filter(|(path, _)| path.starts_with("net/ipv6"))
        .map(|(path, sysctl)| {
            if path == FORWARDING {
                assert_eq!(*sysctl, Sysctl::exactly("1"));
            } else {
                assert!(sysctl.optional && matches!(sysctl.rule, Rule::Instead { .. }));
            }
            path.clone()
        })
        .collect()
}

const UPLINK: (&str, &str) = ("eth0", "192.0.2.11/24 2001:db8::11/64");

#[test]
fn a_node_becomes_an_ipv6_router_only_where_ipv6_is_used() {
    let four = config(vec![pool("four", "192.0.2.200/29")]);
    let six = config(vec![pool("six", "2001:db8::200/125")]);
    let expected = [FORWARDING, "net/ipv6/conf/eth0/accept_ra"];
    assert_eq!(ipv6(&six, &[UPLINK]), expected);
    assert!(ipv6(&four, &[UPLINK]).is_empty());
    // Without an address of its own there is nothing to forward from.
    let without = [("eth0", "192.0.2.11/24 fe80::1/64")];
    assert!(ipv6(&six, &without).is_empty());
    for set in [
        (|proxy, ranges| proxy.cluster_cidrs = ranges) as fn(&mut crate::config::Proxy, _),
        |proxy, ranges| proxy.service_cidrs = ranges,
        |proxy, ranges| proxy.node_port_addresses = ranges,
    ] {
        let mut config = four.clone();
        set(&mut config.proxy, vec!["2001:db8::/32".parse().unwrap()]);
        assert!(ipv6(&config, &[UPLINK]).contains(&FORWARDING.to_owned()));
        set(&mut config.proxy, vec!["192.0.2.0/24".parse().unwrap()]);
        assert!(ipv6(&config, &[UPLINK]).is_empty());
    }
}

#[test]
fn router_advertisements_are_taken_from_the_lan_and_not_from_pods() {
    let mut config = config(vec![pool("six", "2001:db8::200/125")]);
    config.proxy.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    config.proxy.cluster_interfaces = vec!["cali*".parse().unwrap()];
    let interfaces = [
        ("lo", "127.0.0.1/8"),
        UPLINK,
        ("eth1", "198.51.100.11/24"),
        ("kube-ipvs0", "10.96.0.1/32"),
        ("cali1", "198.51.100.12/32"),
        ("cni0", "10.244.1.1/24"),
    ];
    assert_eq!(
        ipv6(&config, &interfaces),
        [
            FORWARDING,
            "net/ipv6/conf/eth0/accept_ra",
            "net/ipv6/conf/eth1/accept_ra"
        ]
    );
}
