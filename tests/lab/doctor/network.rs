//! Interfaces, addresses and routes that were broken on purpose.

use super::super::rig::{Rig, socket, web};
use super::{names, run};
use edgelb::lab::client::Protocol;

#[test]
fn interfaces_that_cannot_carry_the_pools_are_told() {
    let rig = Rig::new(1, 1);
    run(&rig, 0, "ip address add 192.0.2.201/32 dev eth0");
    let words = [
        "eth0 of this node has 192.0.2.201",
        "pool lan",
        "ip address del 192.0.2.201/32 dev eth0",
    ];
    names(&rig, None, "problem", &words);
    run(&rig, 0, "ip address del 192.0.2.201/32 dev eth0");

    run(
        &rig,
        0,
        "ip link add eth9 type veth peer name eth9p && ip link set eth9 up && ip link set eth9p up && \
         ip address add 198.51.100.2/24 dev eth9 && ip route add default via 198.51.100.1 dev eth9",
    );
    rig.node(0)
        .set_sysctl("net/ipv4/conf/all/rp_filter", "1")
        .unwrap();
    let words = [
        "come in on eth0",
        "leave by eth9",
        "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
    ];
    names(&rig, None, "problem", &words);
    rig.node(0)
        .set_sysctl("net/ipv4/conf/all/rp_filter", "0")
        .unwrap();

    rig.node(0)
        .set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")
        .unwrap();
    names(
        &rig,
        None,
        "problem",
        &[
            "IPv6 is switched off",
            "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
        ],
    );
    rig.node(0)
        .set_sysctl("net/ipv6/conf/all/disable_ipv6", "0")
        .unwrap();

    run(&rig, 0, "ip link set eth0 down");
    names(
        &rig,
        None,
        "problem",
        &["interface eth0 is down", "ip link set eth0 up"],
    );
}

#[test]
fn a_pool_that_no_interface_is_for_is_told() {
    let configuration = "[announce]\nexclude_interfaces = [\"eth*\"]\nrefresh = \"0s\"\n";
    let rig = Rig::with(1, 1, configuration.parse().unwrap());
    names(
        &rig,
        None,
        "problem",
        &["announce.exclude_interfaces leaves out eth0"],
    );
    names(
        &rig,
        None,
        "warning",
        &["switches forget", "announce.refresh = \"60s\""],
    );
}

#[test]
fn a_narrow_way_to_the_pods_is_told() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
    let pod = rig.workload("web-1").address.ipv4;
    run(
        &rig,
        0,
        &format!(
            "link=$(ip -o route get {pod} | sed 's/.* dev \\([^ ]*\\) .*/\\1/'); ip link set $link mtu 1280"
        ),
    );
    let words = ["much smaller MTU than the LAN", "1280 to ", "1500 on eth0"];
    names(&rig, Some("default/web"), "warning", &words);
}
