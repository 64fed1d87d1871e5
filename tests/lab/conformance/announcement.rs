//! Cases 84 and 85: who answers ARP for a VIP, as the LAN sees it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use edgelb::lab::arp_probe::arp_probe;
use edgelb::lab::{MacAddress, tool};
use std::net::Ipv4Addr;

use super::observe::{TCP, answered};
use crate::rig::{PATIENCE, Rig, cluster_ips, eventually, ipvs, socket, web};

/// Who answers for an address within so long.
fn answerers(rig: &Rig, address: Ipv4Addr) -> Vec<MacAddress> {
    let client = rig.lab.client().unwrap();
    let window = Duration::from_millis(if ipvs() { 1_000 } else { 250 });
    let source = client.address.ipv4;
    arp_probe(&client.namespace, "eth0", source, address, window).unwrap()
}

/// Three nodes; requests that tcpdump sees on the LAN, and one answer to each.
#[test]
fn case_84_one_node_answers_for_a_vip() {
    let rig = Rig::new(3, 3);
    let service = web("web", 84);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let filter = format!("arp and arp[6:2] == 2 and src host {vip}");
    let mut command = Command::new("tcpdump");
    command
        .args(["-l", "-n", "-e", "-i", "lan0", "--immediate-mode", &filter])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut capture = rig.lab.switch().spawn(&mut command).unwrap();
    let mut told = BufReader::new(capture.stderr.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap().contains("listening on")));
    let mac = rig.node(owner).mac_address("eth0").unwrap();
    assert_eq!(answerers(&rig, vip), [mac]);
    let vip_text = vip.to_string();
    let arping = ["-c", "3", "-w", "6", "-I", "eth0", &vip_text];
    let text = tool(rig.client(), "arping", &arping).unwrap();
    assert_eq!(text.matches("reply from").count(), 3, "{text}");
    assert_eq!(answerers(&rig, cluster_ips(84).ipv4), []);
    capture.kill().unwrap();
    capture.wait().unwrap();
    let lines: Vec<String> = BufReader::new(capture.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .collect();
    assert!(!lines.is_empty());
    for line in &lines {
        assert!(line.contains(&mac.to_string()), "{line}");
    }
}

#[test]
fn case_85_a_vip_moves_with_its_announcement() {
    let rig = Rig::new(2, 2);
    let service = web("web", 85);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    rig.wait_served(rig.client(), to, TCP);
    let neighbor = || {
        let vip = vip.to_string();
        tool(rig.client(), "ip", &["neigh", "show", &vip]).unwrap()
    };
    let macs = [0, 1].map(|node| rig.node(node).mac_address("eth0").unwrap().to_string());
    assert!(neighbor().contains(&macs[owner]), "{}", neighbor());
    rig.manifests
        .remove_node(&rig.lab.nodes()[owner].name)
        .unwrap();
    // The client's own entry changes without a question of its own: the announcement did it.
    eventually(PATIENCE, || {
        neighbor().contains(&macs[1 - owner]).then_some(())
    });
    for _ in 0..10 {
        answered(rig.client(), to, TCP);
    }
    eventually(PATIENCE, || {
        let mac = rig.node(1 - owner).mac_address("eth0").unwrap();
        (answerers(&rig, vip) == [mac]).then_some(())
    });
}
