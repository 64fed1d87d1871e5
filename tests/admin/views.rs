//! The views as JSON: against their schemas, and against what the world is known to be.

use std::time::Duration;

use edgelb::admin::protocol::Command;
use edgelb::admin::record;
use edgelb::admin::snapshot::Snapshot;
use edgelb::admin::view::View;
use serde_json::{Value, json};

use crate::schema_validator::problems;
use crate::world;

fn view(command: Command, snapshot: &Snapshot) -> Value {
    let now = world::started() + Duration::from_secs(90);
    serde_json::to_value(View::of(command, snapshot, now)).unwrap()
}

pub fn schema(command: Command) -> Value {
    let text = match command {
        Command::Status => include_str!("../schemas/status.json"),
        Command::Services => include_str!("../schemas/services.json"),
        Command::Vips => include_str!("../schemas/vips.json"),
        Command::Pools => include_str!("../schemas/pools.json"),
        Command::Peers => include_str!("../schemas/peers.json"),
    };
    serde_json::from_str(text).unwrap()
}

#[test]
fn every_view_is_as_its_schema_says_full_and_empty() {
    for command in Command::ALL {
        for snapshot in [world::snapshot(), world::empty()] {
            let view = view(command, &snapshot);
            assert_eq!(problems(&schema(command), &view), [""; 0], "{command:?}");
        }
    }
}

#[test]
fn a_schema_refuses_a_missing_and_an_unknown_field() {
    let mut status = view(Command::Status, &world::snapshot());
    let removed = status["vips"].as_object_mut().unwrap().remove("owned");
    status["vips"]["stray"] = removed.unwrap();
    assert_eq!(
        problems(&schema(Command::Status), &status).len(),
        2,
        "{status}"
    );
}

#[test]
fn the_status_counts_and_names_every_trouble() {
    assert_eq!(
        view(Command::Status, &world::snapshot()),
        json!({
            "address_conflicts": [],
            "version": env!("CARGO_PKG_VERSION"),
            "node": "edge-a",
            "datapath": "nftables",
            "draining": false,
            "peers": {"membership": false, "alive": 0, "restarting": [], "down": []},
            "uptime_seconds": 90,
            "ready": false,
            "config": {
                "valid": false,
                "problem": "/etc/edgelb/edgelb.toml:3: error: pool: unknown key",
                "digest": record::digest(&world::snapshot().config),
            },
            "source": {
                "kind": "kubernetes",
                "connected": true,
                "blind_since": null,
                "from_snapshot": false,
                "last_event": 1_800_000_001.5,
                "problems": [{
                    "file": "web.yaml",
                    "line": 7,
                    "field": "spec.ports[0].port",
                    "message": "70000 is no port",
                    "keeps_last_good": true,
                }],
                "ignored": ["ingress.yaml: Ingress is not read"],
            },
            // theirs is of another class; lost is the one that waits.
            "allocator": {
                "role": "follower", "leader": "edge-b_1", "problem": null, "waiting": 0, "written": 7,
            },
            "services": { "total": 5, "load_balancer": 3, "pending": 1 },
            // Two for each of web's ports, one for far's.
            "endpoints": 5,
            "vips": { "held": 2, "owned": 1 },
            "last_pass": {
                "number": 42,
                "finished": 1_800_000_002.0,
                "duration_ms": 1.25,
                "latency_ms": 3.0,
                "failures": [{
                    "kind": "route",
                    "object": "local 192.0.2.200 dev lo",
                    "message": "no permission",
                }],
            },
            "conflicts": [{
                "frontend": "tcp node port 30080 (IPv4)",
                "holder": "default/web",
                "refused": "default/zgreedy",
            }],
            "passing": {
                "service_ranges": [],
                "held": ["10.96.0.10/31", "10.96.0.12/31", "10.96.0.14/32", "192.0.2.200/31"],
                "own_endpoints": [],
            },
        })
    );
}

#[test]
fn a_clock_that_was_set_back_gives_no_negative_uptime() {
    let before = world::started() - Duration::from_secs(10);
    let view = View::of(Command::Status, &world::snapshot(), before);
    assert_eq!(serde_json::to_value(view).unwrap()["uptime_seconds"], 0);
}

#[test]
fn a_service_shows_its_frontends_and_its_troubles() {
    let services = view(Command::Services, &world::snapshot());
    let services = services["services"].as_array().unwrap();
    let names: Vec<&str> = (services.iter())
        .map(|service| service["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["web", "zgreedy", "far", "lost", "theirs"]);
    assert_eq!(
        services[0],
        json!({
            "namespace": "default",
            "name": "web",
            "type": "LoadBalancer",
            "vips": [{ "address": "192.0.2.200", "owner": "edge-a", "owned_here": true }],
            "cluster_ips": ["10.96.0.10"],
            "external_ips": [],
            "node_ports": [30080],
            "health_check_node_port": null,
            "ports": [
                { "name": "port-80", "protocol": "TCP", "port": 80, "node_port": 30080 },
                { "name": "port-443", "protocol": "TCP", "port": 443, "node_port": null },
            ],
            "endpoints": 4,
            "reasons": [],
        })
    );
    let lost = &services[3];
    assert_eq!(lost["vips"], json!([]));
    let reason = &lost["reasons"][0];
    assert_eq!(
        reason["reason"],
        json!({ "reason": "unknown_pool", "pool": "no\u{1b}[2Jwhere" })
    );
    assert_eq!(reason["label"], "unknown_pool");
    assert!(reason["text"].as_str().unwrap().contains("does not exist"));
    assert_eq!(services[4]["reasons"][0]["label"], "other_class");
}

#[test]
fn a_vip_says_who_announces_it_and_why_nobody_else() {
    let vips = view(Command::Vips, &world::snapshot());
    let vips = vips["vips"].as_array().unwrap();
    let far = (vips.iter().find(|vip| vip["service"] == "other/far")).unwrap();
    let web = (vips.iter().find(|vip| vip["service"] == "default/web")).unwrap();
    assert_eq!(vips.len(), 2);
    assert_eq!(web["address"], "192.0.2.200");
    assert_eq!(web["pool"], "lan");
    assert_eq!(web["held"], true);
    assert_eq!(web["interfaces"], json!(["eth0"]));
    assert_eq!(web["reasons"], json!([]));
    let excluded: Vec<(&str, &str)> = (web["excluded"].as_array().unwrap().iter())
        .map(|node| {
            (
                node["node"].as_str().unwrap(),
                node["label"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        excluded,
        [("edge-b", "excluded_by_label"), ("edge-c", "node_deleting")]
    );
    assert_eq!(far["owner"], Value::Null, "its endpoint is on edge-b");
    let labels: Vec<&Value> = (far["reasons"].as_array().unwrap().iter())
        .map(|reason| &reason["label"])
        .collect();
    assert_eq!(labels, ["no_eligible_node", "no_local_endpoint"]);
}

#[test]
fn an_owned_vip_without_an_interface_says_so() {
    let snapshot = world::with_inputs(|inputs| inputs.host.interfaces.clear());
    let vips = view(Command::Vips, &snapshot);
    assert_eq!(vips["vips"][0]["owned_here"], true);
    assert_eq!(vips["vips"][0]["interfaces"], json!([]));
    assert_eq!(vips["vips"][0]["reasons"][0]["label"], "no_interface");
}

#[test]
fn a_pool_larger_than_a_json_number_is_still_a_number() {
    let most: u64 = (1 << 53) - 1;
    assert_eq!(
        view(Command::Pools, &world::snapshot()),
        json!({ "pools": [
            { "name": "lan", "family": "IPv4", "total": 4, "allocated": 2, "free": 2,
              "auto_assign": true, "priority": 100 },
            { "name": "large", "family": "IPv6", "total": most, "allocated": 0, "free": most,
              "auto_assign": true, "priority": 100 },
        ]})
    );
}

#[test]
fn peers_are_the_nodes_and_always_this_one() {
    let eligible = |snapshot: &Snapshot| -> Vec<(String, bool, bool, u64)> {
        let peers = view(Command::Peers, snapshot);
        (peers["peers"].as_array().unwrap().iter())
            .map(|peer| {
                (
                    peer["name"].as_str().unwrap().to_owned(),
                    peer["this_node"].as_bool().unwrap(),
                    peer["eligible"].as_bool().unwrap(),
                    peer["vips"].as_u64().unwrap(),
                )
            })
            .collect()
    };
    let peer = |name: &str, this, eligible, vips| (name.to_owned(), this, eligible, vips);
    assert_eq!(
        eligible(&world::snapshot()),
        [
            peer("edge-a", true, true, 1),
            peer("edge-b", false, false, 0),
            peer("edge-c", false, false, 0),
        ]
    );
    assert_eq!(eligible(&world::empty()), [peer("edge-a", true, true, 0)]);
    let unknown = world::with_inputs(|inputs| {
        inputs.cluster.nodes.remove("edge-a");
    });
    assert_eq!(eligible(&unknown)[0], peer("edge-a", true, false, 0));
    let peers = view(Command::Peers, &unknown);
    assert_eq!(peers["peers"][0]["reasons"][0]["label"], "node_unknown");
}
