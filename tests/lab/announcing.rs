//! Who answers ARP on the LAN, seen by arping and tcpdump on the client.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use edgelb::lab::arp_probe::arp_probe;
use edgelb::lab::client::Protocol;
use edgelb::lab::tool;

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, socket, web};

/// Case 84: exactly one node answers for a VIP, with its own address; nobody for a `ClusterIP`.
#[test]
fn exactly_one_node_answers() {
    let rig = Rig::new(3, 3);
    let services: Vec<_> = (30..34)
        .map(|number| web(&format!("web-{number}"), number))
        .collect();
    for service in &services {
        rig.serve(service, &rig.workloads());
    }
    let mut owners = std::collections::BTreeSet::new();
    for service in &services {
        let (vip, owner) = rig.vip(&service.name);
        owners.insert(owner);
        rig.wait_served(rig.client(), socket(vip, 80), Protocol::Tcp);
        let mac = rig.node(owner).mac_address("eth0").unwrap();
        let client = rig.lab.client().unwrap();
        let answers = arp_probe(
            &client.namespace,
            "eth0",
            client.address.ipv4,
            vip,
            Duration::from_millis(300),
        )
        .unwrap();
        assert_eq!(answers, [mac], "{vip}");
        let text = tool(
            &client.namespace,
            "arping",
            &["-c", "3", "-w", "3", "-I", "eth0", &vip.to_string()],
        )
        .unwrap();
        let replies: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("reply from"))
            .collect();
        assert_eq!(replies.len(), 3, "{text}");
        assert!(
            replies
                .iter()
                .all(|line| line.to_lowercase().contains(&mac.to_string())),
            "{text} {mac}"
        );
    }
    assert!(owners.len() > 1, "VIPs are spread: {owners:?}");
    for number in 30..34 {
        let client = rig.lab.client().unwrap();
        let probe = |address| {
            arp_probe(
                &client.namespace,
                "eth0",
                client.address.ipv4,
                address,
                Duration::from_millis(200),
            )
        };
        assert_eq!(probe(cluster_ips(number).ipv4).unwrap(), []);
    }
}

/// A take-over: the new owner says so in both forms, the old one falls silent, the client follows.
#[test]
fn a_take_over_is_announced() {
    let rig = Rig::new(2, 2);
    let service = web("web", 35);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    rig.wait_served(rig.client(), to, Protocol::Tcp);
    let filter = format!("arp and ether broadcast and host {vip}");
    let mut command = Command::new("tcpdump");
    command
        .args(["-l", "-n", "-e", "-i", "eth0", "--immediate-mode", &filter])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut capture = rig.client().spawn(&mut command).unwrap();
    let mut told = BufReader::new(capture.stderr.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().contains("listening on")));
    let lines = BufReader::new(capture.stdout.take().unwrap()).lines();
    let (sender, captured) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });

    rig.manifests
        .remove_node(&rig.lab.nodes()[owner].name)
        .unwrap();
    let successor = 1 - owner;
    let mac = rig.node(successor).mac_address("eth0").unwrap().to_string();
    // RFC 5227's announcement, then the reply form: what Linux and others take at once.
    for form in ["Request who-has", "Reply"] {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let line = captured.recv_timeout(left).expect(form);
            if line.contains(&mac) && line.contains(form) {
                break;
            }
        }
    }
    capture.kill().unwrap();
    capture.wait().unwrap();
    reader.join().unwrap();

    eventually(PATIENCE, || {
        (rig.vip("web") == (vip, successor)).then_some(())
    });
    rig.wait_served(rig.client(), to, Protocol::Tcp);
    eventually(PATIENCE, || {
        let text = tool(rig.client(), "ip", &["neigh", "show", &vip.to_string()]).unwrap();
        text.contains(&mac).then_some(())
    });
    let client = rig.lab.client().unwrap();
    let answers = arp_probe(
        &client.namespace,
        "eth0",
        client.address.ipv4,
        vip,
        Duration::from_millis(300),
    )
    .unwrap();
    let answers: Vec<String> = answers.iter().map(ToString::to_string).collect();
    assert_eq!(answers, [mac]);
}
