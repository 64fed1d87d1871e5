//! Moving in, step by step as the README tells it: a cluster whose VIPs another program announces and
//! whose packets another one forwards, under load all the time.
//!
//! The speaker is played by the kernel of a node that has the VIPs as addresses of its own, kube-proxy by
//! the chains that it would have: the program must get on with what they do, not with their names.

use std::collections::BTreeSet;
use std::time::Duration;

use edgelb::lab::{Namespace, tool};

use super::field::{Field, Setup, VIP};
use crate::rig::{PATIENCE, eventually};

/// From the speaker's end until edgelb looks at the address again and takes it.
const TAKE_OVER: Duration = Duration::from_secs(6);

/// Lets the node answer for the VIPs, or not any more.
fn speak(node: &Namespace, verb: &str) {
    for (vip, length) in VIP.both().into_iter().zip([32, 128]) {
        let address = format!("{vip}/{length}");
        let mut arguments = vec!["address", verb, &address, "dev", "eth0"];
        if vip.is_ipv6() && verb == "add" {
            arguments.push("nodad");
        }
        tool(node, "ip", &arguments).unwrap();
    }
}

/// Forwards the Service as kube-proxy would.
fn translate(field: &Field, node: &Namespace) {
    node.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    node.set_sysctl("net/ipv6/conf/all/forwarding", "1")
        .unwrap();
    let workloads = field.workloads();
    let pod = workloads[0].address;
    for (family, vip, to) in [
        ("ip", VIP.ipv4.to_string(), format!("{}:8080", pod.ipv4)),
        ("ip6", VIP.ipv6.to_string(), format!("[{}]:8080", pod.ipv6)),
    ] {
        let rules = format!(
            "table {family} kube-proxy {{
               chain nat-prerouting {{ type nat hook prerouting priority dstnat;
                 {family} daddr {vip} tcp dport 80 dnat to {to};
                 {family} daddr {vip} udp dport 80 dnat to {to}; }}
               chain nat-postrouting {{ type nat hook postrouting priority srcnat;
                 ct status dnat masquerade; }}
             }}"
        );
        tool(node, "nft", &[&rules]).unwrap();
    }
}

#[test]
fn moving_in_without_downtime() {
    let mut field = Field::with(&Setup {
        daemons: 0,
        api_server: true,
        candidates_differ: true,
        configuration: "[proxy]\nscope = \"external\"\n",
        ..Setup::default()
    });
    // A node without edgelb, and without endpoints of its own in the way of it.
    let speaker = field.lab.node(field.size()).unwrap().namespace.clone();
    for node in field.lab.nodes() {
        translate(&field, &node.namespace);
    }
    speak(&speaker, "add");
    let station = BTreeSet::from([speaker.mac_address("eth0").unwrap()]);
    let speaks = |field: &Field| {
        let answering = |vip| field.eye.answering(vip, Duration::from_millis(80));
        VIP.both().into_iter().all(|vip| answering(vip) == station)
    };
    eventually(PATIENCE, || speaks(&field).then_some(()));
    let load = field.load();

    // edgelb beside them: it knows the VIPs, and nobody else answers for them than before.
    for node in 0..field.size() {
        field.start(node);
    }
    for node in 0..field.size() {
        field.wait_ready(node);
    }
    field.eye.reset();
    std::thread::sleep(Duration::from_secs(2));
    let seen = field.eye.sightings();
    for vip in VIP.both() {
        assert_eq!(seen.answering(vip, None), station, "{vip}");
    }

    // The speaker goes. Who knows the way keeps it; who asks is answered again within seconds.
    speak(&speaker, "del");
    let owner = eventually(TAKE_OVER, || field.owner_seen_by(&field.eye));
    load.wait_steady();

    // kube-proxy goes from each node, after edgelb took over what it did.
    field.options.configuration.remove("proxy");
    for node in 0..field.size() {
        let options = field.options.clone();
        let daemon = field.daemon(node);
        daemon.reconfigure(&options).unwrap();
        daemon.reload().unwrap();
    }
    for node in 0..field.size() {
        eventually(PATIENCE, || {
            let rules = tool(
                field.node(node),
                "nft",
                &["list", "table", "inet", "edgelb"],
            )
            .ok()?;
            rules.contains("10.96.0.").then_some(())
        });
        for family in ["ip", "ip6"] {
            tool(
                field.node(node),
                "nft",
                &["delete", "table", family, "kube-proxy"],
            )
            .unwrap();
        }
    }
    load.wait_steady();
    field.keeps_owner(owner, Duration::from_secs(1));
    load.end().assert_nothing_lost();
}
