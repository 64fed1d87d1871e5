//! Services that do not work as somebody expects, by their own making.

use std::net::Ipv4Addr;

use edgelb::lab::client::{RequestOptions, request_with};

use super::*;
use crate::rig::{cluster_ips, socket, web};

const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 199);

#[test]
fn a_source_that_may_not_ask_is_named() {
    let rig = Rig::new(2, 2);
    let stranger = format!("{STRANGER}/24").parse().unwrap();
    rig.client().add_address("eth0", stranger).unwrap();
    let client = rig.client_address();
    let mut service = web("web", 73);
    service.more = format!("  loadBalancerSourceRanges: [\"{client}/32\"]\n");
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    let to = socket(vip, 80);
    served(&rig, owner, rig.client(), client, to);
    let options = RequestOptions {
        source_address: Some(STRANGER.into()),
        timeout: std::time::Duration::from_secs(2),
        ..RequestOptions::default()
    };
    let told = explain(&rig, owner, &tcp(to), Some(STRANGER.into()));
    silent(&request_with(rig.client(), to, TCP, &options), &told);
    assert_eq!(
        told.verdict(),
        format!(
            "A client at {STRANGER} that connects to {vip}:80/tcp gets no answer: \
             spec.loadBalancerSourceRanges of default/web does not hold {STRANGER} (it holds {client}/32)."
        )
    );
    // Pods are sources like any other.
    let pod = rig.workload("web-1");
    let told = explain(&rig, pod.node, &tcp(to), Some(pod.address.ipv4.into()));
    silent(&request(&pod.namespace, to, TCP), &told);
    let told = explain(&rig, owner, &tcp(to), None);
    assert!(
        told.answer().contains("Only sources in"),
        "{}",
        told.answer()
    );
}

#[test]
fn a_local_policy_without_an_endpoint_here_says_where_there_are_some() {
    let rig = Rig::new(2, 3);
    let mut service = web("web", 74);
    service.external_traffic_policy = "Local";
    let there = rig.workload("web-2");
    rig.serve(&service, &[there]);
    let (vip, owner) = rig.vip("web");
    assert_eq!(owner, there.node, "the owner has an endpoint");
    let client = rig.client_address();
    let told = served(&rig, owner, rig.client(), client, socket(vip, 80));
    assert_eq!(told.frontend()["masquerade"], false);
    assert_eq!(told.seen_as(), BTreeSet::from([client]));
    let elsewhere = explain(&rig, 1 - owner, &tcp(socket(vip, 80)), Some(client));
    assert_eq!(elsewhere.fate(), "served", "the owner decides");

    let bare = 1 - owner;
    let node = rig.lab.node(bare).unwrap();
    let to = socket(node.address.ipv4, 30_074);
    let told = explain(&rig, bare, &tcp(to), Some(client));
    silent(&request(rig.client(), to, TCP), &told);
    let with = &rig.lab.node(owner).unwrap().name;
    assert_eq!(
        told.verdict(),
        format!(
            "A client at {client} that connects to {to}/tcp gets no answer: externalTrafficPolicy of default/web \
             is Local, and no endpoint is ready on {}; there are some on {with}.",
            node.name
        )
    );
    assert_eq!(told.reason(there.address.ipv4), "other_node");
    // Asked from there, the other node says the same.
    let told = explain(&rig, owner, &tcp(to), Some(client));
    assert_eq!(told.fate(), "dropped");
    // A pod of that node is served there all the same (POL-6).
    let pod = rig.workload(if bare == 0 { "web-1" } else { "web-2" });
    served(
        &rig,
        bare,
        &pod.namespace,
        pod.address.ipv4.into(),
        socket(vip, 80),
    );
    // The Service as a whole works: others serve what this node drops.
    let told = explain(&rig, bare, "default/web", None);
    assert_eq!(told.exit, 0, "{:#}", told.json);
}

/// A workload that is ready, serving, terminating.
type Conditions<'a> = (&'a str, bool, bool, bool);

/// The slice of a Service with conditions, as a person would write it.
fn slice(rig: &Rig, endpoints: &[Conditions], port: &str) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: web-ipv4\n  namespace: default\n  labels:\n    kubernetes.io/service-name: web\naddressType: IPv4\nports:\n- name: {port}\n  protocol: TCP\n  port: 8080\nendpoints:\n"
    );
    let endpoints = endpoints.iter().map(|(name, ready, serving, terminating)| {
        let workload = rig.workload(name);
        let node = &rig.lab.node(workload.node).unwrap().name;
        format!(
            "- addresses: [{}]\n  nodeName: {node}\n  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}\n",
            workload.address.ipv4
        )
    });
    text.extend(endpoints);
    text
}

#[test]
fn endpoints_that_are_not_used_say_why() {
    let rig = Rig::new(2, 3);
    let service = web("web", 75);
    let write = |endpoints: &[Conditions], port: &str| {
        let text = slice(&rig, endpoints, port);
        rig.manifests.write("endpoints-web.yaml", &text).unwrap();
    };
    write(
        &[
            ("web-1", true, true, false),
            ("web-2", false, false, false),
            ("web-3", false, true, true),
        ],
        "http",
    );
    rig.manifests.write_service(&service).unwrap();
    let (vip, owner) = rig.vip("web");
    let (to, client) = (socket(vip, 80), rig.client_address());
    let told = served(&rig, owner, rig.client(), client, to);
    assert_eq!(told.used().len(), 1);
    assert_eq!(told.reason(rig.workload("web-2").address.ipv4), "not_ready");
    assert_eq!(
        told.reason(rig.workload("web-3").address.ipv4),
        "terminating"
    );
    assert!(
        told.answer().contains("1 of 3 endpoints used"),
        "{}",
        told.answer()
    );

    // Only the terminating one is left, and serves.
    write(
        &[("web-2", false, false, false), ("web-3", false, true, true)],
        "http",
    );
    eventually(PATIENCE, || {
        let told = explain(&rig, owner, &tcp(to), Some(client));
        (told.used() == BTreeSet::from([rig.workload("web-3").address.ipv4.into()])).then_some(())
    });
    served(&rig, owner, rig.client(), client, to);

    let cases: [(&[Conditions], &str, &str); 3] = [
        (
            &[("web-2", false, false, false)],
            "http",
            "its only endpoint is not ready",
        ),
        (
            &[("web-1", true, true, false)],
            "other",
            "have no tcp port named http, only other (8080/tcp)",
        ),
        (&[], "http", "its selector app=web matches no pod"),
    ];
    for (endpoints, port, cause) in cases {
        write(endpoints, port);
        eventually(PATIENCE, || {
            explain(&rig, owner, &tcp(to), Some(client))
                .verdict()
                .contains(cause)
                .then_some(())
        });
        let told = refused(&rig, owner, rig.client(), client, to);
        assert_eq!(told.fate(), "refused");
        let beginning = format!(
            "A client at {client} that connects to {to}/tcp is refused: default/web has no endpoint for port 80:"
        );
        assert!(told.verdict().starts_with(&beginning), "{}", told.verdict());
        let whole = explain(&rig, owner, "default/web", None);
        assert_eq!(whole.exit, 1);
        assert!(
            whole.verdict().starts_with("default/web is not served"),
            "{}",
            whole.verdict()
        );
        assert!(whole.verdict().contains(cause), "{}", whole.verdict());
    }
    rig.manifests.remove("endpoints-web.yaml").unwrap();
    eventually(PATIENCE, || {
        let told = explain(&rig, owner, &tcp(to), Some(client));
        told.verdict()
            .contains("no IPv4 EndpointSlice belongs to it")
            .then_some(())
    });
    refused(&rig, owner, rig.client(), client, to);
}

/// A `ClusterIP` is closed to clients that have a route to it.
#[test]
fn a_cluster_ip_is_not_for_clients() {
    let rig = Rig::new(1, 1);
    rig.lab.route_cluster_ips(0).unwrap();
    rig.serve(&web("web", 76), &rig.workloads());
    rig.vip("web");
    let to = socket(cluster_ips(76).ipv4, 80);
    let client = rig.client_address();
    let told = refused(&rig, 0, rig.client(), client, to);
    assert_eq!(told.fate(), "refused");
    assert!(
        told.verdict()
            .contains("proxy.cluster_ip_from_outside is false"),
        "{}",
        told.verdict()
    );
}
