//! Verdicts with their causes, and what follows them.

use super::*;
use crate::model::foreign::MacAddress;
use crate::model::observation::{Difference, Stuck};
use crate::model::service::TrafficPolicy;

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
        "the next resync repairs it, within 30 s; if it comes back, somebody else keeps changing it: edgelb doctor looks for who"
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
