//! Who may own a VIP, and what moves together.

use std::net::IpAddr;

use edgelb::lab::arp_probe::arp_probe;
use edgelb::lab::client::Protocol;

use super::field::{Field, Setup, VIP, bound, service, vip};
use crate::rig::{PATIENCE, eventually, request, socket};

/// Two Services at one VIP, and its two families, are always with the same node.
#[test]
fn services_that_share_a_vip_and_its_families_move_together() {
    let mut field = Field::with(&Setup {
        without_service: true,
        ..Setup::default()
    });
    let mut web = service("web", 0);
    let mut more = service("more", 1);
    more.more = web.more.clone();
    for port in &mut more.ports {
        port.port = 81;
    }
    for service in [&mut web, &mut more] {
        let [ipv4, ipv6] = VIP.both();
        for (key, value) in [
            ("edgelb.io/ips", format!("{ipv4},{ipv6}")),
            ("edgelb.io/sharing-key", "shared".to_owned()),
        ] {
            service.annotations.insert(key.to_owned(), value);
        }
        field.serve(service, &field.workloads());
    }
    for _ in 0..2 {
        // Seen at both families at once.
        let owner = field.owner();
        for address in VIP.both() {
            for (port, protocol) in [
                (80, Protocol::Tcp),
                (81, Protocol::Tcp),
                (80, Protocol::Udp),
                (81, Protocol::Udp),
            ] {
                eventually(PATIENCE, || {
                    request(field.client(), socket(address, port), protocol).ok()
                });
            }
        }
        let name = field.name(owner).to_owned();
        for node in (0..5).filter(|node| field.daemons[*node].is_some()) {
            let vips = eventually(PATIENCE, || {
                let vips = field.ask(node, "vips")["vips"].as_array().unwrap().clone();
                (!vips.is_empty() && vips.iter().all(|vip| vip["owner"] == name.as_str()))
                    .then_some(vips)
            });
            assert!(vips.len() >= 2, "{vips:?}");
        }
        field.daemon(owner).kill().unwrap();
        field.daemons[owner] = None;
        field.other_owner(owner);
    }
}

/// Case 32 and 33: with externalTrafficPolicy Local the owner has a ready endpoint, and follows it.
#[test]
fn a_local_service_follows_its_endpoints() {
    let field = Field::with(&Setup {
        workloads_on_the_edge: true,
        without_service: true,
        ..Setup::default()
    });
    let mut web = service("web", 0);
    web.external_traffic_policy = "Local";
    let workloads = field.workloads();
    let mut before = None;
    for node in [3, 1, 4, 0] {
        let here: Vec<_> = workloads
            .iter()
            .copied()
            .filter(|workload| workload.node == node)
            .collect();
        let load = before.map(|_| field.load());
        // The new endpoint is ready before the old one goes, as in a rollout.
        if let Some(before) = before {
            let both: Vec<_> = workloads
                .iter()
                .copied()
                .filter(|workload| workload.node == node || workload.node == before)
                .collect();
            field.serve(&web, &both);
            std::thread::sleep(bound(300));
        }
        field.serve(&web, &here);
        eventually(PATIENCE, || {
            field
                .owner_seen_by(&field.eye)
                .filter(|owner| *owner == node)
        });
        if let Some(load) = load {
            load.wait_steady();
            load.end().assert_blackout_below(bound(500));
        }
        let answer = eventually(PATIENCE, || {
            request(field.client(), socket(VIP.ipv4, 80), Protocol::Tcp).ok()
        });
        assert_eq!(answer.workload, here[0].name);
        let client = field.lab.clients()[0].address.ipv4;
        assert_eq!(answer.seen.ip(), IpAddr::V4(client));
        before = Some(node);
    }
    // Nobody answers where nobody has an endpoint, and somebody does as soon as there is one.
    field.serve(&web, &[]);
    eventually(PATIENCE, || {
        VIP.both()
            .into_iter()
            .all(|address| field.eye.answering(address, bound(300)).is_empty())
            .then_some(())
    });
    field.serve(&web, &[workloads[2]]);
    assert_eq!(field.owner(), 2);
}

/// Case 39: only nodes that the selector matches.
#[test]
fn a_selector_of_nodes() {
    let mut field = Field::with(&Setup {
        configuration: "[announce]\nnode_selector = [\"role=edge\"]\n",
        labels: |node| match node {
            1 | 3 => vec![("role", "edge")],
            _ => Vec::new(),
        },
        candidates_differ: true,
        ..Setup::default()
    });
    field.wait_candidates(2);
    let owner = field.owner();
    assert!([1, 3].contains(&owner));
    field.daemon(owner).kill().unwrap();
    field.daemons[owner] = None;
    let other = field.other_owner(owner);
    assert!([1, 3].contains(&other));
    field.daemon(other).kill().unwrap();
    field.daemons[other] = None;
    eventually(PATIENCE, || {
        field
            .eye
            .answering(VIP.ipv4.into(), bound(1500))
            .is_empty()
            .then_some(())
    });
    // A node that is given the label takes over.
    let node = &field.lab.nodes()[0];
    field
        .manifests
        .write_labelled_node(node, &[("role", "edge")])
        .unwrap();
    assert_eq!(field.owner(), 0);
}

/// Case 44: the pool's interface exists on one node alone.
#[test]
fn an_interface_that_one_node_has() {
    let field = Field::with(&Setup {
        configuration: "[[pool]]\nname = \"lan\"\ninterfaces = [\"uplink7\"]\n\
            addresses = [\"192.0.2.200-192.0.2.219\", \"fd00:2::200-fd00:2::219\"]\n",
        without_service: true,
        candidates_differ: true,
        ..Setup::default()
    });
    field.lab.add_uplink(2, "uplink7").unwrap();
    field.serve(&service("web", 0), &field.workloads());
    let mac = field.node(2).mac_address("uplink7").unwrap();
    for address in VIP.both() {
        eventually(PATIENCE, || {
            let answering = field.eye.answering(address, bound(100));
            (answering.len() == 1 && answering.contains(&mac)).then_some(())
        });
        eventually(PATIENCE, || {
            request(field.client(), socket(address, 80), Protocol::Tcp).ok()
        });
    }
    // It is used as soon as it is there, and no longer.
    field.lab.unplug("edge-c-uplink7").unwrap();
    eventually(PATIENCE, || {
        field
            .eye
            .answering(VIP.ipv4.into(), bound(300))
            .is_empty()
            .then_some(())
    });
    let peers = field.ask(0, "vips");
    assert!(
        peers["vips"]
            .as_array()
            .unwrap()
            .iter()
            .all(|vip| vip["owner"].is_null())
    );
    field.lab.plug("edge-c-uplink7").unwrap();
    eventually(PATIENCE, || {
        let answering = field.eye.answering(VIP.ipv4.into(), bound(100));
        (answering.len() == 1 && answering.contains(&mac)).then_some(())
    });
}

/// VIPs are spread over the nodes, and those of a dead node alone move.
#[test]
fn nothing_moves_that_need_not() {
    let mut field = Field::with(&Setup {
        without_service: true,
        ..Setup::default()
    });
    let workloads = field.workloads();
    for number in 0..15 {
        field.serve(&service(&format!("web-{number}"), number), &workloads);
    }
    let host = &field.lab.clients()[2];
    let stations = field.stations();
    let owners = |field: &Field| -> Vec<usize> {
        (0..15)
            .map(|number| {
                eventually(PATIENCE, || {
                    let answers = arp_probe(
                        &host.namespace,
                        "eth0",
                        host.address.ipv4,
                        vip(number).ipv4,
                        bound(50),
                    )
                    .unwrap();
                    let _ = field;
                    match answers.as_slice() {
                        [mac] => stations.iter().position(|station| station == mac),
                        _ => None,
                    }
                })
            })
            .collect()
    };
    let before = owners(&field);
    let nodes: std::collections::BTreeSet<_> = before.iter().copied().collect();
    assert!(nodes.len() >= 4, "15 VIPs lie on {nodes:?} alone");
    let dead = before[0];
    field.daemons[dead].as_mut().unwrap().kill().unwrap();
    eventually(PATIENCE, || {
        let now = owners(&field);
        (!now.contains(&dead)).then_some(())
    });
    let after = owners(&field);
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        if *before != dead {
            assert_eq!(before, after, "VIP {number} moved without a cause");
        }
    }
}
