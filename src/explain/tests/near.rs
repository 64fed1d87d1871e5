//! Questions about what is not served, about health checks, and who asks.

use super::*;
use crate::explain::report::{Asker, Fate};
use crate::model::service::TrafficPolicy;

#[test]
fn what_is_not_served_is_told_with_what_is_near() {
    let world = web(TWO, |_| {}).with(|world| {
        world.ignored = vec!["db.yaml: line 3: Service default/db: a headless Service has no address to forward from".to_owned()];
        let mut greedy = service("zgreedy", 11);
        greedy.kind = ServiceType::NodePort;
        greedy.ports[0].node_port = Some(30_010);
        world.serve(greedy, "");
        let mut zoutside = service("zoutside", 12);
        zoutside.external_ips = vec![ip("198.51.100.7")];
        world.serve(zoutside, "");
    });
    for (target, parts) in [
        (
            "192.0.2.200:81",
            &[
                "is refused: default/web does not declare port 81/tcp",
                "192.0.2.200 is the VIP of default/web, whose ports are 80/tcp (http)",
            ][..],
        ),
        (
            "192.0.2.200:80/udp",
            &["Port 80 is declared for tcp: edgelb explain 192.0.2.200:80/tcp"],
        ),
        (
            "192.0.2.203:80",
            &[
                "is in the pool lan, and no Service has it",
                "The pool lan has 2 of 4 IPv4 addresses free",
                "is served at 192.0.2.200 (default/web)",
            ],
        ),
        (
            "198.51.100.7:80",
            &[
                "default/zoutside names 198.51.100.7",
                "neither in a pool nor in proxy.external_ip_ranges",
            ],
        ),
        (
            "10.96.77.7:80",
            &["is in the range of ClusterIPs, and no Service has it: packets are dropped"],
        ),
        (
            "10.244.1.2:8080",
            &[
                "is an endpoint of default/web",
                "edgelb explain default/web",
            ],
        ),
        ("10.244.1.77:80", &["is a pod's"]),
        (
            "203.0.113.7:80",
            &["is in no pool", "The pools hold 192.0.2.200/30 (lan)"],
        ),
        (
            "192.0.2.11:80",
            &[
                "192.0.2.11 is edge-a's own address",
                "Port 80 of default/web has the node port 30010",
            ],
        ),
        (
            "127.0.0.1:30010",
            &[
                "node ports are not open on loopback addresses",
                "Node ports are open on 192.0.2.11",
            ],
        ),
        (
            "default/wep",
            &[
                "There is no Service default/wep",
                "Close names: default/web",
            ],
        ),
        (
            "other/web",
            &["That name is in another namespace: default/web"],
        ),
        ("default/db", &["default/db is not served: db.yaml: line 3"]),
    ] {
        let told = world.ask(target, None);
        assert!(!told.found && !told.works, "{target}: {told:#?}");
        let words = told.answer.join("\n");
        for part in parts {
            assert!(words.contains(part), "{target}: {words}");
        }
    }
    // The port that another Service has.
    let told = world.ask("default/zgreedy", None);
    assert!(
        told.answer
            .iter()
            .any(|line| line.contains("node port 30010 (IPv4) is served for default/web already")),
        "{:#?}",
        told.answer
    );
}

#[test]
fn the_health_check_node_port_tells_what_it_answers() {
    let checked = |service: &mut Service| {
        service.external_traffic_policy = TrafficPolicy::Local;
        service.health_check_node_port = Some(31_010);
    };
    for (endpoints, status) in [("10.244.1.2@edge-a", 200), ("10.244.2.2@edge-b", 503)] {
        let told = web(endpoints, checked).ask("192.0.2.11:31010", None);
        let check = told.health_check.as_ref().unwrap();
        assert_eq!(
            (check.status, check.service.as_str(), told.works),
            (status, "default/web", true)
        );
        let beginning =
            format!("192.0.2.11:31010 answers HTTP requests with {status}: default/web has");
        assert!(told.answer[0].starts_with(&beginning), "{:#?}", told.answer);
    }
    let told = web("10.244.1.2@edge-a", checked).ask("192.0.2.12:31010", None);
    assert!(
        told.answer[0].contains("is edge-b's: ask there"),
        "{:#?}",
        told.answer
    );
}

#[test]
fn who_asks_is_told_by_its_address() {
    for (from, target, asker, passes) in [
        ("203.0.113.9", "192.0.2.11:30010", Asker::Outside, "edge-a"),
        ("203.0.113.9", "192.0.2.12:30010", Asker::Outside, "edge-b"),
        ("10.244.1.9", "10.96.0.10:80", Asker::Pod, "edge-a"),
        ("10.244.2.9", "10.96.0.10:80", Asker::Pod, "edge-b"),
        ("10.244.2.9", "192.0.2.11:30010", Asker::Pod, "edge-a"),
        ("192.0.2.11", "192.0.2.200:80", Asker::Node, "edge-a"),
        ("192.0.2.12", "192.0.2.200:80", Asker::Node, "edge-b"),
        // For edge-a the other node is as good as outside.
        ("192.0.2.12", "192.0.2.11:30010", Asker::Outside, "edge-a"),
    ] {
        let told = web(TWO, |_| {}).ask(target, Some(from));
        let frontend = frontend(&told);
        assert_eq!(
            (frontend.asker, frontend.passes.as_str(), frontend.fate),
            (asker, passes, Fate::Served),
            "{from} {target}"
        );
        assert_eq!(frontend.passes_here, passes == "edge-a");
    }
    // By the interface that it comes in by.
    let world = web(TWO, |_| {}).with(|world| {
        world.config.proxy.cluster_interfaces = vec!["eth*".parse().unwrap()];
    });
    let told = world.ask("10.96.0.10:80", Some("172.16.0.9"));
    assert_eq!(frontend(&told).asker, Asker::Pod);
}
