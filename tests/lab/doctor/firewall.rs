//! Rules and programs of others in the way.

use edgelb::lab::server::{Listen, Server};

use super::super::rig::{Rig, web};
use super::{names, run};

#[test]
fn rules_of_others_are_told_with_their_place() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    let web = Some("default/web");
    let nft = |command: &str| run(&rig, 0, &format!("nft '{command}'"));

    // What Docker leaves.
    nft(
        "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; \
         add chain ip filter DOCKER-USER; add rule ip filter FORWARD jump DOCKER-USER",
    );
    names(
        &rig,
        web,
        "warning",
        &["chain ip filter FORWARD", "drops", "iptables -I"],
    );
    nft("delete table ip filter");

    nft(
        "add table inet early; add chain inet early pre { type filter hook prerouting priority -300; }; \
         add rule inet early pre notrack",
    );
    names(
        &rig,
        web,
        "problem",
        &["inet early pre", "NOTRACK", "nft delete rule"],
    );
    nft("flush chain inet early pre");

    nft(&format!("add rule inet early pre ip daddr {vip} drop"));
    names(
        &rig,
        web,
        "problem",
        &["inet early pre", &vip.to_string(), "a VIP of default/web"],
    );
    nft("flush chain inet early pre");

    // Behind the translation packets have the port of the pod.
    nft("add rule inet early pre meta l4proto tcp th dport 8000-8100 drop");
    names(
        &rig,
        web,
        "problem",
        &["tcp ports 8000-8100", "endpoints of default/web"],
    );
    nft("delete table inet early");

    nft(
        "add table arp quiet; add chain arp quiet out { type filter hook output priority 0; policy drop; }",
    );
    names(
        &rig,
        web,
        "problem",
        &["chain arp quiet out", "ARP", "VIPs cannot be announced"],
    );
    nft("delete table arp quiet");

    // What edgelb itself and harmless rules have is not told.
    nft(
        "add table inet fine; add chain inet fine in { type filter hook input priority 0; }; \
         add rule inet fine in tcp dport 25 drop; add rule inet fine in ip daddr 203.0.113.9 drop",
    );
    let found = super::findings(&rig, 0, web);
    let bad = found
        .iter()
        .filter(|it| it["section"] == "firewall" && it["level"] != "fine");
    assert_eq!(bad.count(), 0, "{found:#?}");
}

#[test]
fn other_load_balancers_on_the_node_are_told() {
    let rig = Rig::with(1, 1, "[proxy]\nscope = \"external\"\n".parse().unwrap());
    run(&rig, 0, "ip link add kube-ipvs0 type veth peer name other");
    names(
        &rig,
        None,
        "problem",
        &[
            "kube-proxy in IPVS mode",
            "interface kube-ipvs0",
            "mode: iptables",
        ],
    );
    run(&rig, 0, "ip link del kube-ipvs0");

    let listen = [Listen::tcp(7946), Listen::udp(7946)];
    let speaker = Server::start(rig.node(0), "speaker", &listen).unwrap();
    names(
        &rig,
        None,
        "warning",
        &[
            "MetalLB's speaker",
            "memberlist on port 7946",
            "delete daemonset speaker",
        ],
    );
    drop(speaker);
}
