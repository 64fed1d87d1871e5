//! The network of the bench: its hosts, what they listen on, and the ways between them.

use edgelb::lab::server::Listen;
use edgelb::lab::{Lab, LabOptions, Route};

use super::bench::{B, EXTERNAL, VIP};

/// Nodes N1 and N2, clients C and B, workloads A, A2 and P on N1 and R on N2, in this order.
pub fn lab() -> Lab {
    let mut lab = Lab::build(LabOptions {
        nodes: 2,
        workloads: 1,
        clients: 2,
        listen: vec![
            Listen::tcp(8080),
            Listen::udp(8080),
            Listen::tcp(9090),
            Listen::udp(9090),
        ],
        ..LabOptions::default()
    })
    .unwrap();
    for node in [0, 0, 1] {
        lab.add_workload(node).unwrap();
    }
    let n1 = &lab.nodes()[0];
    for setting in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
        n1.namespace.set_sysctl(setting, "0").unwrap();
    }
    let b = &lab.clients()[1];
    for (old, new) in b.address.in_lan().into_iter().zip(B.in_lan()) {
        b.namespace.remove_address("eth0", old).unwrap();
        b.namespace.add_address("eth0", new).unwrap();
    }
    lab.route_cluster_ips(0).unwrap();
    for client in lab.clients() {
        for addresses in [VIP, EXTERNAL] {
            for (destination, gateway) in addresses.hosts().into_iter().zip(n1.address.both()) {
                let route = Route {
                    destination,
                    gateway: Some(gateway),
                    link: "eth0",
                };
                client.namespace.add_route(&route).unwrap();
            }
        }
    }
    lab
}
