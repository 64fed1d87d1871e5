//! VIPs that packets do not get to: nobody announces them, their owner is gone, another host answers.

use std::net::{Ipv4Addr, Ipv6Addr};

use edgelb::lab::client::Protocol;
use edgelb::lab::daemon::{Daemon, DaemonOptions};
use edgelb::lab::membership::{Membership, MembershipNetwork, write_key};
use edgelb::lab::{DualStack, tool};

use super::super::rig::{Rig, START, socket, web};
use super::{healthy, names, names_on, run};

#[test]
fn a_local_policy_without_endpoints_where_it_may_be_announced_is_the_cause() {
    let rig = Rig::new(2, 2);
    let excluded = [(
        "node.kubernetes.io/exclude-from-external-load-balancers",
        "true",
    )];
    let second = rig.lab.node(1).unwrap();
    rig.manifests
        .write_labelled_node(second, &excluded)
        .unwrap();
    let mut service = web("web", 81);
    service.external_traffic_policy = "Local";
    rig.serve(&service, &[rig.workload("web-2")]);
    let words = [
        "externalTrafficPolicy is Local",
        "patch service web",
        "edge-b",
    ];
    names(&rig, Some("default/web"), "problem", &words);
    names(&rig, None, "problem", &["externalTrafficPolicy is Local"]);
}

/// Without a key nobody takes over.
#[test]
fn an_owner_that_is_dead_is_the_cause() {
    let mut rig = Rig::new(2, 2);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    rig.daemons[owner].kill().unwrap();
    let name = rig.lab.node(owner).unwrap().name.clone();
    let words = [
        &format!("{name} owns {vip} and does not answer"),
        "systemctl restart edgelb on",
    ];
    let words = words.map(|it: &str| it);
    names_on(&rig, 1 - owner, Some("default/web"), "problem", &words);
    names_on(
        &rig,
        owner,
        None,
        "problem",
        &["does not run now", "systemctl restart edgelb"],
    );
}

#[test]
fn another_host_that_answers_for_a_vip_is_the_cause() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    let ipv6 = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x77);
    let host = rig
        .lab
        .add_host("thief", DualStack { ipv4: vip, ipv6 })
        .unwrap();
    let mac = host.namespace.mac_address("eth0").unwrap().to_string();
    names(
        &rig,
        Some("default/web"),
        "problem",
        &[&vip.to_string(), &mac],
    );
    names(&rig, None, "problem", &[&vip.to_string(), &mac]);
}

#[test]
fn a_host_inside_a_pool_is_told() {
    let rig = Rig::new(1, 1);
    let address = Ipv4Addr::new(192, 0, 2, 210);
    let ipv6 = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x77);
    let _host = rig
        .lab
        .add_host(
            "lent",
            DualStack {
                ipv4: address,
                ipv6,
            },
        )
        .unwrap();
    // Whoever answers is in the neighbour table then.
    let ask =
        "import socket; s = socket.socket(); s.settimeout(2); s.connect_ex(('192.0.2.210', 9))";
    tool(rig.node(0), "python3", &["-c", ask]).unwrap();
    names(
        &rig,
        None,
        "warning",
        &["a host on the LAN uses 192.0.2.210", "DHCP", "pool lan"],
    );
}

#[test]
fn peers_that_cannot_be_heard_are_told_with_the_rule() {
    let rig = healthy::with_membership();
    let rule = "nft 'add table inet theirs; add chain inet theirs in { type filter hook input priority 0; \
                }; add rule inet theirs in udp dport 9751 drop'";
    run(&rig, 0, rule);
    let words = [
        "chain inet theirs in drops what goes to udp port 9751",
        "membership",
        "nft delete rule",
    ];
    names(&rig, None, "problem", &words);
    names(
        &rig,
        None,
        "warning",
        &["edge-b is heard by frames on the LAN only: UDP port 9751"],
    );
}

#[test]
fn peers_with_another_key_are_told() {
    let mut rig = healthy::with_membership();
    let membership = Membership::among(&rig.lab, 2, MembershipNetwork::Lan).unwrap();
    let key = write_key(&rig.lab, "another.key").unwrap();
    let options = DaemonOptions {
        membership: Some(membership.with_keys(vec![key])),
        ..rig.options(toml::Table::new())
    };
    rig.daemons.clear();
    for node in 0..2 {
        // The first one has the key of before.
        let mut options = options.clone();
        if node == 0 {
            let before = Membership::among(&rig.lab, 2, MembershipNetwork::Lan).unwrap();
            options.membership = Some(before);
        }
        rig.daemons
            .push(Daemon::start(&rig.lab, node, &options).unwrap());
    }
    for daemon in &mut rig.daemons {
        daemon.wait_ready(START).unwrap();
    }
    let words = [
        "with a membership key that this node does not have",
        "sha256sum",
    ];
    names(&rig, None, "problem", &words);
}

#[test]
fn two_nodes_of_one_name_are_told() {
    let mut rig = healthy::with_membership();
    let membership = Membership::among(&rig.lab, 2, MembershipNetwork::Lan).unwrap();
    rig.daemons.clear();
    // As after cloning a machine.
    let name: toml::Table = "[node]\nname = \"edge-a\"\n".parse().unwrap();
    for (node, configuration) in [toml::Table::new(), name].into_iter().enumerate() {
        let options = DaemonOptions {
            membership: Some(membership.clone()),
            ..rig.options(configuration)
        };
        let mut daemon = Daemon::start(&rig.lab, node, &options).unwrap();
        daemon.wait_ready(START).unwrap();
        rig.daemons.push(daemon);
    }
    let words = ["another node speaks under this node's name", "node.name"];
    names(&rig, None, "problem", &words);
}

#[test]
fn a_node_that_may_not_announce_is_told() {
    let rig = Rig::new(1, 1);
    rig.manifests.remove_node("edge-a").unwrap();
    names(
        &rig,
        None,
        "problem",
        &["this node may not announce", "set node.name"],
    );
}
