//! Set-ups that are broken in ways that nobody expects.

use edgelb::lab::client::Protocol;

use super::super::rig::{Rig, ipvs, socket, web};
use super::{names, run};

#[test]
fn what_is_done_to_the_interface_of_vips_is_told() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    let web = Some("default/web");

    run(&rig, 0, "sysctl -qw net.ipv4.conf.eth0.forwarding=0");
    names(
        &rig,
        web,
        "problem",
        &[
            "what comes in on eth0 is not forwarded",
            "eth0.forwarding=1",
        ],
    );
    run(&rig, 0, "sysctl -qw net.ipv4.conf.eth0.forwarding=1");

    run(&rig, 0, "sysctl -qw net.ipv4.conf.eth0.arp_ignore=8");
    names(
        &rig,
        web,
        "problem",
        &["does not answer ARP", "net.ipv4.conf.eth0.arp_ignore=1"],
    );
    run(&rig, 0, "sysctl -qw net.ipv4.conf.eth0.arp_ignore=0");

    run(&rig, 0, "ip link set dev eth0 arp off");
    names(
        &rig,
        web,
        "problem",
        &["ARP is switched off on eth0", "arp on"],
    );
    run(&rig, 0, "ip link set dev eth0 arp on");

    // As for direct routing, by a tool that is long gone.
    run(&rig, 0, "ip address add 192.0.2.205/32 dev lo");
    names(
        &rig,
        web,
        "problem",
        &[
            "interface lo of this node has 192.0.2.205",
            "ip address del",
        ],
    );
    run(&rig, 0, "ip address del 192.0.2.205/32 dev lo");

    // The route of VIPs is asked for too late.
    run(
        &rig,
        0,
        &format!(
            "ip rule add pref 0 to {vip} blackhole; ip rule add pref 1 lookup local; ip rule del pref 0 lookup local"
        ),
    );
    names(&rig, web, "problem", &["local route of", "ip rule"]);
    run(
        &rig,
        0,
        &format!(
            "ip rule add pref 0 lookup local; ip rule del pref 0 to {vip} blackhole; ip rule del pref 1"
        ),
    );

    // What sees a frame before any chain of IP.
    for (hook, rule) in [
        ("ingress", "ip daddr"),
        ("ingress", "udp dport 53 drop; ip daddr"),
    ] {
        let text = format!(
            "nft 'add table netdev wire; add chain netdev wire in {{ type filter hook {hook} device eth0 priority 0; }}; \
             add rule netdev wire in {rule} {vip} drop'"
        );
        run(
            &rig,
            0,
            &text.replace("drop; ip", "drop; add rule netdev wire in ip"),
        );
        names(
            &rig,
            web,
            "problem",
            &[
                "chain netdev wire in drops",
                &vip.to_string(),
                "default/web",
            ],
        );
        run(&rig, 0, "nft delete table netdev wire");
    }
    if ipvs() {
        run(&rig, 0, "tc qdisc add dev eth0 root netem delay 1ms");
        names(
            &rig,
            web,
            "warning",
            &["netem", "tc qdisc del dev eth0 root"],
        );
        run(&rig, 0, "tc qdisc del dev eth0 root");
        run(
            &rig,
            0,
            "tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress matchall action pass",
        );
        names(
            &rig,
            web,
            "warning",
            &["traffic control has filters on what comes in on eth0"],
        );
        run(&rig, 0, "tc qdisc del dev eth0 clsact");
    }
}

/// Pods that nobody told edgelb of, and patterns for nothing.
#[test]
fn pods_that_are_not_known_as_pods_are_told() {
    let configuration = "[proxy]\ncluster_interfaces = [\"cni0\"]\n";
    let rig = Rig::with(1, 1, configuration.parse().unwrap());
    rig.serve(&web("web", 81), &rig.workloads());
    names(
        &rig,
        None,
        "warning",
        &["names cni0, and no interface of this node is called so"],
    );
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-2\n  namespace: default\n  \
                 labels:\n    kubernetes.io/service-name: web\naddressType: IPv4\nendpoints:\n- addresses:\n  - 10.99.0.7\n  \
                 conditions:\n    ready: true\n    serving: true\nports:\n- name: http\n  protocol: TCP\n  port: 8080\n";
    rig.manifests.write("web-2.yaml", slice).unwrap();
    let words = [
        "in no known pod range of IPv4",
        "ClusterIPs refuse them",
        "10.99.0.7",
        "proxy.cluster_cidrs",
    ];
    names(&rig, None, "problem", &words);
}
