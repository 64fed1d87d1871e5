//! Rules and programs of others in the way.

use edgelb::lab::server::{Listen, Server};

use edgelb::lab::client::Protocol;

use super::super::rig::{PATIENCE, Rig, ipvs, web};
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
        "problem",
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
        &[
            "inet early pre",
            &vip.to_string(),
            "a VIP of default/web",
            "handle",
        ],
    );
    nft("delete table inet early");

    // Behind the translation packets have the port of the pod.
    let hook = if ipvs() { "output" } else { "forward" };
    nft(&format!(
        "add table inet mid; add chain inet mid way {{ type filter hook {hook} priority 0; }}; \
         add rule inet mid way meta l4proto tcp th dport 8000-8100 drop"
    ));
    let words = [
        "inet mid way drops",
        "tcp port 8080",
        "an endpoint of default/web",
        "dport >= 8000",
    ];
    names(&rig, web, "problem", &words);
    nft("delete table inet mid");

    nft(
        "add table arp quiet; add chain arp quiet out { type filter hook output priority 0; policy drop; }",
    );
    names(
        &rig,
        web,
        "problem",
        &["chain arp quiet out", "ARP", "neighbours are not found"],
    );
    nft("delete table arp quiet");
}

/// Each of them is read as the kernel does it: what drops is told, and what does not is not.
#[test]
fn rules_are_told_by_what_they_do() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 81), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(
        rig.client(),
        super::super::rig::socket(vip, 80),
        Protocol::Tcp,
    );
    let (first, other) = if ipvs() {
        ("input", "forward")
    } else {
        ("prerouting", "input")
    };
    let dropping = [
        "tcp dport { 22, 80, 443 } drop".to_owned(),
        "tcp dport { 1-1023 } drop".to_owned(),
        format!("ip daddr {{ 198.51.100.0/24, {vip} }} drop"),
        format!("ip daddr . tcp dport {{ {vip} . 80 }} drop"),
        format!("ip daddr {vip}/28 tcp flags syn drop"),
        "tcp dport vmap { 22 : accept, 80 : drop }".to_owned(),
        "tcp dport 80 jump lost".to_owned(),
        "tcp dport @closed drop".to_owned(),
        "tcp dport != 22 ip daddr 192.0.2.0/24 reject".to_owned(),
        "iifname \"eth*\" tcp dport 80 drop".to_owned(),
    ];
    let perhaps = [
        "tcp dport 80 ip saddr 203.0.113.0/24 drop".to_owned(),
        "tcp dport 80 limit rate over 1/second drop".to_owned(),
    ];
    let harmless = [
        "tcp dport 25 drop".to_owned(),
        "ip daddr 203.0.113.9 drop".to_owned(),
        "iifname \"eth9\" tcp dport 80 drop".to_owned(),
        "ct state invalid drop".to_owned(),
        "tcp flags & (fin | syn) == fin | syn drop".to_owned(),
        "ip saddr 203.0.113.0/24 drop".to_owned(),
        "ct state vmap { established : accept, invalid : drop }".to_owned(),
        "tcp dport vmap { 22 : drop, 80 : accept }".to_owned(),
        "ip protocol icmp drop".to_owned(),
    ];
    let with = |hook: &str, rule: &str| {
        let file = rig.lab.directory().join("theirs.nft");
        let text = format!(
            "add table inet theirs\ndelete table inet theirs\ntable inet theirs {{\n\
             set closed {{ type inet_service; flags interval; elements = {{ 79-81, 9000 }}; }}\n\
             chain lost {{ log prefix \"lost \"; drop; }}\n\
             chain alone {{ tcp dport 80 drop; }}\n\
             chain way {{ type filter hook {hook} priority -150; {rule}; }}\n}}\n"
        );
        std::fs::write(&file, text).unwrap();
        run(&rig, 0, &format!("nft -f {}", file.display()));
        let found = super::findings(&rig, 0, None);
        let bad = found.into_iter().filter(|it| it["section"] == "firewall");
        let bad = bad.filter(|it| it["level"] == "problem" || it["level"] == "warning");
        bad.collect::<Vec<_>>()
    };
    for (rules, level) in [
        (&dropping[..], "problem"),
        (&perhaps, "warning"),
        (&harmless, ""),
    ] {
        for rule in rules {
            let mut found = with(first, rule);
            // A daemon of a loaded machine may not have said in time what it serves.
            let begun = std::time::Instant::now();
            while found.len() != usize::from(!level.is_empty()) && begun.elapsed() < 2 * PATIENCE {
                found = with(first, rule);
            }
            if level.is_empty() {
                assert_eq!(found.len(), 0, "{rule}: {found:#?}");
                continue;
            }
            assert_eq!(found.len(), 1, "{rule}: {found:#?}");
            assert_eq!(found[0]["level"], level, "{rule}: {found:#?}");
            let message = found[0]["message"].as_str().unwrap();
            assert!(
                message.contains("chain inet theirs way"),
                "{rule}: {message}"
            );
            assert!(message.contains("of default/web"), "{rule}: {message}");
        }
    }
    // On a hook that these packets do not pass.
    let found = with(other, &format!("ip daddr {vip} tcp dport 80 drop"));
    assert_eq!(found.len(), 0, "{found:#?}");
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

    run(&rig, 0, "true");
    names(
        &rig,
        None,
        "warning",
        &[
            "nobody serves ClusterIPs on this node",
            "proxy.scope = \"all\"",
        ],
    );
    let listen = [Listen::tcp(7946), Listen::udp(7946)];
    let swarm = Server::start(rig.node(0), "dockerd", &listen).unwrap();
    let found = super::findings(&rig, 0, None);
    let told = |it: &&serde_json::Value| {
        it["message"]
            .as_str()
            .unwrap()
            .contains("runs on this node too")
    };
    assert_eq!(found.iter().find(told), None);
    drop(swarm);
}
