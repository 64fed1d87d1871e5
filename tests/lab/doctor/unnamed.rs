//! Set-ups that operators produce and that no table of troubles names.

use edgelb::lab::client::Protocol;
use edgelb::lab::tool;

use super::super::rig::{Rig, ipvs, socket, web};
use super::{names, run};

/// A Service that works.
fn served() -> (Rig, std::net::Ipv4Addr) {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    (rig, vip)
}

#[test]
fn a_port_that_docker_publishes_does_not_take_a_vip_or_is_told() {
    let (rig, vip) = served();
    run(
        &rig,
        0,
        "nft 'add table ip nat; add chain ip nat DOCKER; \
         add chain ip nat PREROUTING { type nat hook prerouting priority -100; }; \
         add rule ip nat PREROUTING fib daddr type local jump DOCKER; \
         add rule ip nat DOCKER iifname != \"docker0\" tcp dport 80 dnat to 172.17.0.2:80'",
    );
    if ipvs() {
        let words = ["chain ip nat DOCKER gives somebody else", "docker run -p"];
        names(&rig, Some("default/web"), "problem", &words);
        names(&rig, None, "problem", &words);
    } else {
        for _ in 0..4 {
            rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
        }
    }
    run(&rig, 0, "nft delete table ip nat");
    // What comes first takes it on either datapath.
    run(
        &rig,
        0,
        "nft 'add table ip mesh; add chain ip mesh in { type nat hook prerouting priority -150; }; \
         add rule ip mesh in tcp dport 80 dnat to 172.17.0.2:15001'",
    );
    let words = ["chain ip mesh in gives somebody else", "nft delete rule"];
    names(&rig, Some("default/web"), "problem", &words);
}

#[test]
fn a_rate_above_which_packets_are_dropped_is_told() {
    let (rig, _) = served();
    run(
        &rig,
        0,
        "nft 'add table inet calm; add chain inet calm in { type filter hook prerouting priority -300; }; \
         add rule inet calm in meta l4proto tcp limit rate over 1000/second drop'",
    );
    let words = ["chain inet calm in may drop", "limit drop"];
    names(&rig, Some("default/web"), "warning", &words);
}

#[test]
fn hosts_that_are_taken_for_the_node_are_told() {
    let rig = Rig::new(1, 1);
    let own = "$(ip -4 -o address show dev eth0 | sed 's/.* inet \\([0-9.]*\\).*/\\1/' | head -1)";
    let text = tool(rig.node(0), "sh", &["-ec", &format!("echo {own}")]).unwrap();
    let own = text.trim().to_owned();
    let give = |what: &str| {
        let command = format!("ip address {what} {own}/32 dev eth0");
        tool(rig.client(), "sh", &["-ec", &command]).unwrap();
    };
    give("add");
    let words = [
        "another host on the LAN has",
        own.as_str(),
        "Ethernet address",
    ];
    names(&rig, None, "problem", &words);
    give("del");
}

#[test]
fn answers_that_another_table_takes_away_are_told() {
    let (rig, _) = served();
    run(
        &rig,
        0,
        "ip link add vpn0 type veth peer name vpn1; ip address add 198.51.100.2/24 dev vpn0; \
         ip link set vpn0 up; ip link set vpn1 up; ip route add default via 198.51.100.1 dev vpn0 table 100",
    );
    let pod = rig.workload("web-1").address.ipv4;
    run(
        &rig,
        0,
        &format!("ip rule add pref 500 from {pod} lookup 100"),
    );
    let words = ["ip rule 500 sends what comes from", "ip rule del pref 500"];
    names(&rig, Some("default/web"), "warning", &words);
}
