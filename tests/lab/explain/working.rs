//! Services that work, from everywhere.

use std::net::IpAddr;

use super::*;
use crate::rig::{cluster_ips, socket, web};

/// A client, a pod and a node, at VIP, `ClusterIP` and node port, in both families.
#[test]
fn whoever_asks_is_told_what_happens() {
    let rig = Rig::new(2, 3);
    let mut service = web("web", 70);
    service.more = "  loadBalancerSourceRanges: []\n".to_owned();
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let client = rig.lab.client().unwrap().address;
    let pod = rig.workload("web-1");
    let node = rig.lab.node(owner).unwrap().address;
    let frontends = [
        [
            IpAddr::V4(vip),
            cluster_ips(70).ipv4.into(),
            node.ipv4.into(),
        ],
        [vip6(&rig), cluster_ips(70).ipv6.into(), node.ipv6.into()],
    ];
    for ([vip, cluster_ip, node_address], family) in frontends.into_iter().zip(0..) {
        let client_address = client.both()[family];
        let told = served(&rig, owner, rig.client(), client_address, socket(vip, 80));
        assert_eq!(told.frontend()["kind"], "vip");
        assert_eq!(told.frontend()["passes_here"], true);
        assert_eq!(told.used().len(), 3);
        assert_eq!(told.frontend()["masquerade"], true);
        let name = format!("A client at {client_address} that connects to");
        assert!(told.verdict().starts_with(&name), "{}", told.verdict());
        assert!(
            told.verdict().contains("is served by"),
            "{}",
            told.verdict()
        );
        assert!(
            told.answer().contains("this node, announces it"),
            "{}",
            told.answer()
        );

        let told = served(
            &rig,
            owner,
            rig.client(),
            client_address,
            socket(node_address, 30_070),
        );
        assert_eq!(told.frontend()["kind"], "node");
        assert_eq!(told.frontend()["service_port"], 80);

        // A pod's packets are decided where it is, which the other node tells.
        let pod_address = pod.address.both()[family];
        for to in [socket(vip, 80), socket(cluster_ip, 80)] {
            let told = served(&rig, pod.node, &pod.namespace, pod_address, to);
            assert_eq!(told.frontend()["asker"], "pod", "{:#}", told.json);
            let elsewhere = explain(&rig, 1 - pod.node, &tcp(to), Some(pod_address));
            let passes = rig.lab.node(pod.node).unwrap().name.as_str();
            assert_eq!(elsewhere.frontend()["passes"], passes);
            assert_eq!(elsewhere.frontend()["passes_here"], false);
            assert_eq!(elsewhere.used(), told.used());
        }
        for to in [socket(vip, 80), socket(cluster_ip, 80)] {
            let own = rig.lab.node(0).unwrap().address.both()[family];
            let told = served(&rig, 0, rig.node(0), own, to);
            assert_eq!(told.frontend()["asker"], "node");
        }
    }

    // Without a source: whoever mostly asks there.
    let told = explain(&rig, owner, &tcp(socket(vip, 80)), None);
    assert_eq!(told.frontend()["asker"], "outside");
    let told = explain(&rig, 0, &tcp(socket(cluster_ips(70).ipv4, 80)), None);
    assert_eq!(told.frontend()["asker"], "pod");
    // The whole Service.
    let told = explain(&rig, owner, "default/web", None);
    assert_eq!(told.exit, 0, "{:#}", told.json);
    assert!(
        told.verdict()
            .starts_with("default/web is served at 192.0.2.2"),
        "{}",
        told.verdict()
    );
    assert_eq!(told.json["frontends"].as_array().unwrap().len(), 6);

    // Connections are counted where they are.
    let mut stream = edgelb::lab::client::open_stream(rig.client(), socket(vip, 80)).unwrap();
    let answer = stream.send("one").unwrap();
    let told = explain(&rig, owner, &tcp(socket(vip, 80)), Some(client.ipv4.into()));
    let address = rig.workload(&answer.workload).address.ipv4.to_string();
    let endpoints = told.frontend()["endpoints"].as_array().unwrap();
    for endpoint in endpoints {
        let active = endpoint["active"].as_u64().unwrap();
        let chosen = endpoint["address"] == address;
        assert_eq!(active, u64::from(chosen), "{:#}", told.json);
    }
}

fn vip6(rig: &Rig) -> IpAddr {
    let vips = rig.ask(0, "vips");
    let vips = vips["vips"].as_array().unwrap().iter();
    vips.filter_map(|vip| vip["address"].as_str().unwrap().parse().ok())
        .find(IpAddr::is_ipv6)
        .unwrap()
}

/// What the other node owns is explained by either, from the same reasons.
#[test]
fn a_vip_of_another_node_is_explained() {
    let rig = Rig::new(2, 2);
    let service = web("web", 71);
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    let client = rig.client_address();
    let here = served(&rig, owner, rig.client(), client, to);
    let there = explain(&rig, 1 - owner, &tcp(to), Some(client));
    assert_eq!((there.exit, there.fate()), (0, "served"));
    assert_eq!(there.used(), here.used());
    let name = rig.lab.node(owner).unwrap().name.as_str();
    assert_eq!(there.frontend()["passes"], name);
    for told in [&here, &there] {
        let address = &told.json["addresses"][0];
        assert_eq!(address["owner"], name);
        let order: Vec<&str> = (address["ranking"].as_array().unwrap().iter())
            .map(|node| node.as_str().unwrap())
            .collect();
        assert_eq!(order[0], name);
        assert_eq!(order.len(), 2);
        let words = format!(
            "{name}{} announces it: it is first in the order",
            if told.frontend()["passes_here"] == true {
                ", this node,"
            } else {
                ""
            }
        );
        assert!(told.answer().contains(&words), "{}", told.answer());
    }
    let other = rig.lab.node(1 - owner).unwrap().name.as_str();
    assert!(
        there
            .answer()
            .contains(&format!("{other} would be number 2")),
        "{}",
        there.answer()
    );
}

/// The client is told where it is kept, and gets there.
#[test]
fn affinity_tells_where_a_client_is_kept() {
    let rig = Rig::new(2, 4);
    let mut service = web("web", 72);
    service.more = "  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: 600\n".to_owned();
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    let client = rig.client_address();
    eventually(PATIENCE, || {
        let told = explain(&rig, owner, &tcp(to), Some(client));
        (told.json["found"] == true && told.exit == 0).then_some(())
    });
    let before = explain(&rig, owner, &tcp(to), Some(client));
    assert_eq!(before.frontend()["affinity_seconds"], 600);
    assert!(before.frontend()["stuck"].is_null(), "{:#}", before.json);
    let answer = rig.wait_served(rig.client(), to, TCP);
    let told = explain(&rig, owner, &tcp(to), Some(client));
    let address = rig.workload(&answer.workload).address.ipv4;
    assert_eq!(
        told.frontend()["stuck"]["endpoint"],
        format!("{address}:8080")
    );
    let left = told.frontend()["stuck"]["expires_seconds"]
        .as_u64()
        .unwrap();
    assert!((540..=600).contains(&left), "{left}");
    assert!(
        told.verdict().contains(&format!(
            "is served by {address}:8080, where session affinity keeps it"
        )),
        "{}",
        told.verdict()
    );
    for _ in 0..8 {
        assert_eq!(
            request(rig.client(), to, TCP).unwrap().workload,
            answer.workload
        );
    }
    // The endpoint goes: the client gets another, as it is told.
    let others: Vec<_> = rig
        .workloads()
        .into_iter()
        .filter(|it| it.name != answer.workload)
        .collect();
    rig.endpoints(&service, &others);
    eventually(PATIENCE, || {
        let told = explain(&rig, owner, &tcp(to), Some(client));
        (told.used().len() == 3 && told.exit == 0).then_some(())
    });
    let told = explain(&rig, owner, &tcp(to), Some(client));
    assert!(
        told.frontend()["stuck"]["endpoint"].is_null(),
        "{:#}",
        told.json
    );
    assert_ne!(
        request(rig.client(), to, TCP).unwrap().workload,
        answer.workload
    );
}
