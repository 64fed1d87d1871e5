//! Verdicts with their causes, and what follows them.

use super::*;
use crate::explain::report::{Asker, Fate};
use crate::model::foreign::MacAddress;
use crate::model::observation::{Difference, Stuck};
use crate::model::service::TrafficPolicy;

const TWO: &str = "10.244.1.2@edge-a 10.244.2.2@edge-b";

/// The VIP 192.0.2.200 of default/web with these endpoints.
fn web(endpoints: &str, edit: impl FnOnce(&mut Service)) -> World {
    World::new().with(|world| {
        let mut service = service("web", 10);
        edit(&mut service);
        world.serve(service, endpoints);
    })
}

#[test]
fn verdicts_name_their_cause() {
    type Edit = fn(&mut Service);
    let plain: Edit = |_| {};
    let local: Edit = |service| service.external_traffic_policy = TrafficPolicy::Local;
    let inside: Edit = |service| service.internal_traffic_policy = TrafficPolicy::Local;
    let ranges: Edit = |service| service.source_ranges = vec!["203.0.113.0/24".parse().unwrap()];
    let nameless: Edit = |service| service.ports[0].name = "web".to_owned();
    for (endpoints, edit, target, from, verdict, works) in [
        (
            TWO,
            plain,
            "192.0.2.200:80",
            Some("203.0.113.9"),
            "A client at 203.0.113.9 that connects to 192.0.2.200:80/tcp is served by 10.244.1.2:8080 or 10.244.2.2:8080.",
            true,
        ),
        (
            TWO,
            ranges,
            "192.0.2.200:80",
            Some("203.0.113.9"),
            "A client at 203.0.113.9 that connects to 192.0.2.200:80/tcp is served by",
            true,
        ),
        (
            TWO,
            ranges,
            "192.0.2.200:80",
            Some("198.51.100.9"),
            "A client at 198.51.100.9 that connects to 192.0.2.200:80/tcp gets no answer: spec.loadBalancerSourceRanges of default/web does not hold 198.51.100.9 (it holds 203.0.113.0/24).",
            false,
        ),
        // NP-10
        (
            TWO,
            ranges,
            "192.0.2.11:30010",
            Some("198.51.100.9"),
            "A client at 198.51.100.9 that connects to 192.0.2.11:30010/tcp is served",
            true,
        ),
        (
            TWO,
            plain,
            "10.96.0.10:80",
            None,
            "A pod on edge-a that connects to 10.96.0.10:80/tcp is served by",
            true,
        ),
        (
            TWO,
            plain,
            "10.96.0.10:80",
            Some("203.0.113.9"),
            "A client at 203.0.113.9 that connects to 10.96.0.10:80/tcp is refused: a ClusterIP is for pods and nodes, and proxy.cluster_ip_from_outside is false.",
            false,
        ),
        (
            TWO,
            plain,
            "10.96.0.10:80",
            Some("192.0.2.11"),
            "Node edge-a (192.0.2.11) that connects to",
            true,
        ),
        (
            "10.244.2.2@edge-b",
            local,
            "192.0.2.11:30010",
            None,
            "A client outside the cluster that connects to 192.0.2.11:30010/tcp gets no answer: externalTrafficPolicy of default/web is Local, and no endpoint is ready on edge-a; there are some on edge-b.",
            false,
        ),
        (
            "10.244.2.2@edge-b",
            local,
            "192.0.2.12:30010",
            None,
            "A client outside the cluster that connects to 192.0.2.12:30010/tcp is served by 10.244.2.2:8080.",
            true,
        ),
        (
            "10.244.2.2@edge-b",
            local,
            "192.0.2.200:80",
            None,
            "A client outside the cluster that connects to 192.0.2.200:80/tcp is served by 10.244.2.2:8080.",
            true,
        ),
        // POL-6: a pod is not bound by the external policy.
        (
            "10.244.2.2@edge-b",
            local,
            "192.0.2.200:80",
            Some("10.244.1.9"),
            "The pod 10.244.1.9 that connects to 192.0.2.200:80/tcp is served by 10.244.2.2:8080.",
            true,
        ),
        (
            "10.244.2.2@edge-b",
            inside,
            "10.96.0.10:80",
            Some("10.244.1.9"),
            "The pod 10.244.1.9 that connects to 10.96.0.10:80/tcp gets no answer: internalTrafficPolicy of default/web is Local, and no endpoint is ready on edge-a; there are some on edge-b.",
            false,
        ),
        (
            "10.244.2.2@edge-b",
            inside,
            "10.96.0.10:80",
            Some("10.244.2.9"),
            "The pod 10.244.2.9 that connects to 10.96.0.10:80/tcp is served by",
            true,
        ),
        (
            "",
            plain,
            "192.0.2.200:80",
            None,
            "A client outside the cluster that connects to 192.0.2.200:80/tcp is refused: default/web has no endpoint for port 80: its EndpointSlices are empty: its selector app=web matches no pod",
            false,
        ),
        (
            "10.244.1.2@edge-a:not-ready 10.244.2.2@edge-b:not-ready",
            plain,
            "192.0.2.200:80",
            None,
            "A client outside the cluster that connects to 192.0.2.200:80/tcp is refused: default/web has no endpoint for port 80: none of its 2 endpoints is ready",
            false,
        ),
        (
            TWO,
            nameless,
            "192.0.2.200:80",
            None,
            "A client outside the cluster that connects to 192.0.2.200:80/tcp is refused: default/web has no endpoint for port 80: its EndpointSlices have no tcp port named web, only http (8080/tcp)",
            false,
        ),
        (
            TWO,
            plain,
            "default/web",
            None,
            "default/web is served at 192.0.2.200 port 80/tcp, 10.96.0.10 port 80/tcp and node port 30010/tcp (IPv4).",
            true,
        ),
        (
            "",
            plain,
            "default/web",
            None,
            "default/web is not served: a connection to 192.0.2.200 port 80/tcp, 10.96.0.10 port 80/tcp and node port 30010/tcp (IPv4) is refused: default/web has no endpoint",
            false,
        ),
    ] {
        let told = web(endpoints, edit).ask(target, from);
        assert!(
            told.answer[0].starts_with(verdict),
            "{target}: {}",
            told.answer[0]
        );
        assert_eq!(told.works, works, "{target}: {told:#?}");
        assert!(told.found, "{target}");
        // As long as a tired person reads.
        assert!((3..=9).contains(&told.answer.len()), "{:#?}", told.answer);
    }
}

#[test]
fn the_source_that_a_workload_sees_is_told() {
    type Edit = fn(&mut Service);
    let plain: Edit = |_| {};
    let local: Edit = |service| service.external_traffic_policy = TrafficPolicy::Local;
    for (edit, target, from, masquerade, seen) in [
        (
            plain,
            "192.0.2.11:30010",
            Some("203.0.113.9"),
            true,
            &["192.0.2.11"][..],
        ),
        (
            local,
            "192.0.2.11:30010",
            Some("203.0.113.9"),
            false,
            &["203.0.113.9"],
        ),
        (local, "192.0.2.11:30010", None, false, &[]),
        (
            plain,
            "10.96.0.10:80",
            Some("10.244.1.9"),
            false,
            &["10.244.1.9"],
        ),
        (
            plain,
            "10.96.0.10:80",
            Some("192.0.2.11"),
            true,
            &["192.0.2.11"],
        ),
        // MASQ-8: the endpoint that is its own client.
        (
            plain,
            "10.96.0.10:80",
            Some("10.244.1.2"),
            false,
            &["10.244.1.2", "192.0.2.11"],
        ),
        (plain, "192.0.2.12:30010", Some("203.0.113.9"), true, &[]),
    ] {
        let told = web(TWO, edit).ask(target, from);
        let frontend = frontend(&told);
        let addresses: Vec<IpAddr> = seen.iter().map(|it| ip(it)).collect();
        assert_eq!(
            (frontend.masquerade, &frontend.seen_as),
            (masquerade, &addresses),
            "{target} {from:?}"
        );
    }
}

#[test]
fn endpoints_that_are_not_used_have_a_reason() {
    let endpoints = "10.244.1.2@edge-a 10.244.1.3@edge-a:not-ready 10.244.1.4@edge-a:terminating 10.244.2.2@edge-b";
    let local = |service: &mut Service| service.external_traffic_policy = TrafficPolicy::Local;
    let told = web(endpoints, local).ask("192.0.2.11:30010", Some("203.0.113.9"));
    let labels: Vec<Option<&str>> = (frontend(&told).endpoints.iter())
        .map(|endpoint| {
            let reason = endpoint.reason.as_ref();
            assert_eq!(endpoint.used, reason.is_none());
            reason.map(|reason| reason.label.as_str())
        })
        .collect();
    assert_eq!(
        labels,
        [
            None,
            Some("not_ready"),
            Some("terminating"),
            Some("other_node")
        ]
    );
    let words = "1 of 4 endpoints used; 10.244.1.3:8080 is not, it is not ready";
    assert!(
        told.answer.iter().any(|line| line.starts_with(words)),
        "{:#?}",
        told.answer
    );

    // Hints for other zones.
    let mut world = web(TWO, |_| {});
    let slice = world.inputs.cluster.slices.values().next().unwrap();
    let mut slice = EndpointSlice::clone(slice);
    for endpoint in &mut slice.endpoints {
        let node = endpoint.node.as_deref().unwrap().to_owned();
        endpoint.node_hints = [node].into_iter().collect();
    }
    world.apply(ClusterChange::Slice(Arc::new(slice)));
    let told = world.ask("10.96.0.10:80", None);
    let reason = frontend(&told).endpoints[1].reason.as_ref().unwrap();
    assert_eq!(reason.label, "hinted_elsewhere");
    assert_eq!(
        reason.text,
        "its topology hints mean it for edge-b, and others for edge-a"
    );
}

#[test]
fn a_kernel_that_differs_comes_before_the_rest() {
    let world = web(TWO, |_| {}).with(|world| {
        world.kernel = |observation| {
            let object = "element inet edgelb frontends4 { 192.0.2.200 . tcp . 80 : goto pick4_2 }";
            let found = observation.frontends.values_mut().next().unwrap();
            found
                .differences
                .push(Difference::of_ours(object, "is missing"));
        };
    });
    let told = world.ask("192.0.2.200:80", Some("203.0.113.9"));
    assert!(!told.works);
    assert_eq!(
        told.differences[0].remedy,
        "the next resync repairs it, within 30 s; if it comes back, somebody else keeps changing it"
    );
    assert!(
        told.answer[0].contains("in this node's kernel, element inet edgelb frontends4"),
        "{:#?}",
        told.answer
    );
    let told = world.ask("default/web", None);
    assert!(
        told.answer[0]
            .starts_with("default/web is not served as it asks: in this node's kernel, element"),
        "{:#?}",
        told.answer
    );

    let world = web(TWO, |_| {}).with(|world| {
        world.kernel = |observation| {
            observation.paths.insert(ip("10.244.2.2"), Path::NoRoute);
        };
    });
    let told = world.ask("192.0.2.11:30010", None);
    assert!(
        told.answer[0]
            .ends_with("may not be served: 10.244.2.2:8080: this node has no route to it."),
        "{:#?}",
        told.answer
    );
    assert!(!told.works);
}

#[test]
fn what_could_not_be_applied_is_told_where_it_concerns() {
    let failure = |object: &str, whole| Unapplied {
        object: object.to_owned(),
        message: "no permission".to_owned(),
        whole,
    };
    for (failure, concerns) in [
        (failure("192.0.2.200/32", false), true),
        (failure("TCP 192.0.2.200:80", false), true),
        (failure("192.0.2.20/32", false), false),
        (failure("192.0.2.201/32 and 3 more", false), false),
        (failure("inet edgelb", true), true),
    ] {
        let object = failure.object.clone();
        let told = web(TWO, |_| {})
            .with(|world| world.failures = vec![failure])
            .ask("192.0.2.200:80", None);
        assert_eq!(told.works, !concerns, "{object}");
        let line = format!("This node could not apply {object}: no permission; it tries again.");
        assert_eq!(told.answer.contains(&line), concerns, "{:#?}", told.answer);
    }
}

#[test]
fn affinity_and_other_hosts_are_told() {
    let sticky =
        |service: &mut Service| service.session_affinity = Some(Duration::from_secs(10_800));
    let world = web(TWO, sticky);
    let told = world.ask("192.0.2.11:30010", Some("203.0.113.9"));
    assert!(told.answer.iter().any(|line| line == "Session affinity keeps each client with its endpoint until 3 h after its last new connection; 203.0.113.9 is kept nowhere now."), "{:#?}", told.answer);
    let world = world.with(|world| {
        world.kernel = |observation| {
            let found = observation.frontends.values_mut().next().unwrap();
            found.stuck = Some(Stuck {
                real_server: found.real_servers.keys().next().copied(),
                expires: Some(Duration::from_secs(120)),
            });
        };
    });
    let told = world.ask("192.0.2.11:30010", Some("203.0.113.9"));
    assert!(
        told.answer[0].ends_with("is served by 10.244.1.2:8080, where session affinity keeps it."),
        "{:#?}",
        told.answer
    );
    assert!(
        told.answer
            .iter()
            .any(|line| line.ends_with("is kept with 10.244.1.2:8080, for another 2 min.")),
        "{:#?}",
        told.answer
    );

    let world = web(TWO, |_| {}).with(|world| {
        world
            .inputs
            .foreign
            .insert(ip("192.0.2.200"), MacAddress([2, 0, 0, 0, 0, 9]));
        world.connected = false;
    });
    let told = world.ask("192.0.2.200:80", None);
    assert!(!told.works);
    assert!(
        told.answer[1]
            .starts_with("Another host on the LAN (02:00:00:00:00:09) answers for 192.0.2.200 too"),
        "{:#?}",
        told.answer
    );
    assert!(
        told.notes[0].starts_with("the source of Services has not been heard for 90 s"),
        "{:#?}",
        told.notes
    );
}

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
