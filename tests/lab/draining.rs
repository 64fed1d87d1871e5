//! Connections to endpoints that take no new ones: as long as their node lives they go on, on a node
//! that is gone they end at once. The same on both datapaths.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgelb::lab::client::{Protocol, RequestError, RequestOptions, Stream, open_stream_with};
use edgelb::lab::manifests::ServiceManifest;
use edgelb::lab::{Namespace, tool};

use super::rig::{PATIENCE, Rig, cluster_ips, eventually, ipvs, socket, web};

/// The slices with the first workload ready and the second one gone from every list.
fn second_unready(rig: &Rig, service: &ServiceManifest) {
    let (first, second) = (rig.workload("web-1"), rig.workload("web-2"));
    let text = [("IPv4", 0), ("IPv6", 1)]
        .map(|(family, index)| {
            let [first, second] = [first, second].map(|it| it.address.both()[index]);
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{suffix}\n  \
                 namespace: default\n  labels:\n    kubernetes.io/service-name: {name}\naddressType: {family}\n\
                 endpoints:\n- addresses: [\"{first}\"]\n  conditions: {{ready: true, serving: true}}\n  nodeName: edge-a\n\
                 - addresses: [\"{second}\"]\n  conditions: {{ready: false, serving: false}}\n  nodeName: edge-b\n\
                 ports:\n- {{name: http, protocol: TCP, port: 8080}}\n",
                name = service.name,
                suffix = family.to_lowercase(),
            )
        })
        .join("---\n");
    let file = format!("endpoints-{}.yaml", service.name);
    rig.manifests.write(&file, &text).unwrap();
}

/// A Node that nobody has heard of for a while.
fn silence(rig: &Rig, index: usize) {
    let node = rig.lab.node(index).unwrap();
    let [v4, v6] = node.pod_ranges;
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\nspec:\n  podCIDR: {v4}\n  podCIDRs: [\"{v4}\", \"{v6}\"]\n\
         status:\n  addresses:\n  - {{type: InternalIP, address: {address}}}\n  conditions:\n  - {{type: Ready, status: Unknown}}\n",
        name = node.name,
        address = node.address.ipv4,
    );
    let file = format!("node-{}.yaml", node.name);
    rig.manifests.write(&file, &text).unwrap();
}

/// #77903, D-5: a drained endpoint keeps its connections until its node is gone; then nothing is
/// waited for, and the client learns at once. Connections to others do not notice.
#[test]
fn connections_to_a_node_that_is_gone_end() {
    let rig = Rig::new(2, 2);
    let service = web("web", 30);
    rig.serve(&service, &rig.workloads());
    let node = rig.lab.node(0).unwrap().address;
    let ways = [
        socket(node.ipv4, 30_030),
        socket(node.ipv6, 30_030),
        socket(cluster_ips(30).ipv4, 80),
    ];
    rig.wait_served(rig.client(), ways[0], Protocol::Tcp);
    let options = RequestOptions::default();
    let mut port = 51_000;
    let mut open = |name: &str, to| -> (Stream, u16) {
        eventually(PATIENCE, || {
            port += 1;
            let from = if to == ways[2] {
                rig.node(0)
            } else {
                rig.client()
            };
            let options = RequestOptions {
                source_port: port,
                ..options.clone()
            };
            let mut stream = open_stream_with(from, to, &options).ok()?;
            let answer = stream.send("hello").ok()?;
            (answer.workload == name).then_some((stream, port))
        })
    };
    let mut doomed: Vec<_> = ways.iter().map(|to| open("web-2", *to)).collect();
    let mut staying: Vec<_> = ways.iter().map(|to| open("web-1", *to)).collect();
    let entries = |port: u16| -> usize {
        ["ipv4", "ipv6"]
            .map(|family| {
                let list = ["-L", "-p", "tcp", "-f", family];
                let all = tool(rig.node(0), "conntrack", &list).unwrap();
                let established = all.lines().filter(|line| {
                    line.contains("ESTABLISHED") && line.contains(&format!(" sport={port} "))
                });
                established.count()
            })
            .iter()
            .sum()
    };
    let addresses = rig.workload("web-2").address.both();
    let virtual_servers = || tool(rig.node(0), "ipvsadm", &["-Ln"]).unwrap();
    let listed = || {
        let text = virtual_servers();
        addresses
            .iter()
            .any(|address| text.contains(&socket(*address, 8080).to_string()))
    };

    // Its readiness is lost, its node lives: everything goes on.
    second_unready(&rig, &service);
    for to in &ways[..2] {
        eventually(PATIENCE, || {
            let new = (0..6).map(|_| super::rig::request(rig.client(), *to, Protocol::Tcp));
            let by: Vec<_> = new.filter_map(Result::ok).map(|it| it.workload).collect();
            (by == ["web-1"; 6]).then_some(())
        });
    }
    for (stream, port) in doomed.iter_mut().chain(&mut staying) {
        stream.send("still here").unwrap();
        assert_eq!(entries(*port), 1);
    }
    if ipvs() {
        assert!(listed(), "{}", virtual_servers());
    }

    silence(&rig, 1);
    for (stream, port) in &mut doomed {
        eventually(PATIENCE, || (entries(*port) == 0).then_some(()));
        // The first packet may be lost in the change; its repetition is answered.
        let told = eventually(PATIENCE, || match stream.send("anybody?") {
            Ok(answer) => panic!("{answer:?}"),
            Err(RequestError::TimedOut) => None,
            Err(error) => Some(error),
        });
        assert!(
            matches!(told, RequestError::Reset | RequestError::Closed),
            "{told}"
        );
    }
    if ipvs() {
        assert!(!listed(), "{}", virtual_servers());
    }
    for (stream, port) in &mut staying {
        assert_eq!(stream.send("still here").unwrap().workload, "web-1");
        assert_eq!(entries(*port), 1);
    }
    let status = rig.ask(0, "status");
    let failures = &status["last_pass"]["failures"];
    assert_eq!(failures.as_array().unwrap().len(), 0, "{failures}");
}

/// D-5: an endpoint that left keeps its connections for as long as `proxy.drain_deadline` says; then
/// the client learns at once. A connection to an endpoint that stays does not notice.
#[test]
fn connections_to_an_endpoint_that_left_end_with_the_deadline() {
    // Long enough to see connections go on, also on an emulated machine.
    let deadline = Duration::from_secs(if ipvs() { 6 } else { 2 });
    let proxy = [(
        "drain_deadline".to_owned(),
        format!("{}s", deadline.as_secs()).into(),
    )];
    let proxy = toml::Table::from_iter(proxy);
    let configuration = toml::Table::from_iter([("proxy".to_owned(), proxy.into())]);
    let rig = Rig::with(1, 2, configuration);
    let service = web("web", 31);
    rig.serve(&service, &rig.workloads());
    let ways = [
        (
            rig.client(),
            socket(rig.lab.node(0).unwrap().address.ipv4, 30_031),
        ),
        (rig.client(), socket(rig.vip("web").0, 80)),
        (rig.node(0), socket(cluster_ips(31).ipv4, 80)),
    ];
    rig.wait_served(rig.client(), ways[1].1, Protocol::Tcp);
    let open = |from, to, name: &str| -> Stream {
        eventually(PATIENCE, || {
            let mut stream = open_stream_with(from, to, &RequestOptions::default()).ok()?;
            let answer = stream.send("hello").ok()?;
            (answer.workload == name).then_some(stream)
        })
    };
    let mut doomed: Vec<_> = ways
        .iter()
        .map(|(from, to)| open(*from, *to, "web-2"))
        .collect();
    let mut staying: Vec<_> = ways
        .iter()
        .map(|(from, to)| open(*from, *to, "web-1"))
        .collect();
    let left = Instant::now();
    rig.endpoints(&service, &[rig.workload("web-1")]);
    for (from, to) in &ways {
        eventually(PATIENCE, || {
            let new = (0..6).map(|_| super::rig::request(from, *to, Protocol::Tcp));
            let by: Vec<_> = new.filter_map(Result::ok).map(|it| it.workload).collect();
            (by == ["web-1"; 6]).then_some(())
        });
    }
    let mut went_on = 0;
    for stream in &mut doomed {
        let answer = stream.send("still here");
        if left.elapsed() < deadline {
            assert_eq!(answer.unwrap().workload, "web-2");
            went_on += 1;
        }
    }
    assert!(went_on > 0, "this machine is too slow to see one go on");
    for stream in &mut doomed {
        let told = eventually(PATIENCE, || stream.send("anybody?").err());
        assert!(
            matches!(
                told,
                RequestError::Reset | RequestError::Closed | RequestError::TimedOut
            ),
            "{told}"
        );
    }
    assert!(left.elapsed() >= deadline);
    for stream in &mut staying {
        assert_eq!(stream.send("still here").unwrap().workload, "web-1");
    }
    let status = rig.ask(0, "status");
    let failures = &status["last_pass"]["failures"];
    assert_eq!(failures.as_array().unwrap().len(), 0, "{failures}");
}

/// POL-13: a policy that takes new connections away from an endpoint that still serves cuts none of
/// those that it has, whatever the deadline; that begins when the endpoint serves no more.
#[test]
fn connections_go_on_when_only_a_policy_moves_new_ones_away() {
    let deadline = Duration::from_secs(if ipvs() { 6 } else { 2 });
    let proxy = [(
        "drain_deadline".to_owned(),
        format!("{}s", deadline.as_secs()).into(),
    )];
    let proxy = toml::Table::from_iter(proxy);
    let configuration = toml::Table::from_iter([("proxy".to_owned(), proxy.into())]);
    let rig = Rig::with(2, 2, configuration);
    let mut service = web("web", 32);
    rig.serve(&service, &rig.workloads());
    let ways = [
        (
            rig.client(),
            socket(rig.lab.node(0).unwrap().address.ipv4, 30_032),
        ),
        (
            rig.client(),
            socket(rig.lab.node(0).unwrap().address.ipv6, 30_032),
        ),
        (rig.node(0), socket(cluster_ips(32).ipv4, 80)),
    ];
    let mut streams: Vec<Stream> = ways
        .iter()
        .map(|(from, to)| {
            eventually(PATIENCE, || {
                let mut stream = open_stream_with(from, *to, &RequestOptions::default()).ok()?;
                let answer = stream.send("hello").ok()?;
                (answer.workload == "web-2").then_some(stream)
            })
        })
        .collect();
    let only_first = |(from, to): &(&Namespace, SocketAddr)| {
        eventually(PATIENCE, || {
            let new = (0..6).map(|_| super::rig::request(from, *to, Protocol::Tcp));
            let by: Vec<_> = new.filter_map(Result::ok).map(|it| it.workload).collect();
            (by == ["web-1"; 6]).then_some(())
        });
    };

    service.external_traffic_policy = "Local";
    "  internalTrafficPolicy: Local\n".clone_into(&mut service.more);
    rig.manifests.write_service(&service).unwrap();
    ways.iter().for_each(only_first);
    let moved = Instant::now();
    while moved.elapsed() < 2 * deadline {
        for stream in &mut streams {
            assert_eq!(stream.send("still here").unwrap().workload, "web-2");
        }
        std::thread::sleep(Duration::from_millis(100));
    }

    let left = Instant::now();
    second_unready(&rig, &service);
    for stream in &mut streams {
        let told = eventually(PATIENCE + deadline, || stream.send("anybody?").err());
        assert!(
            matches!(
                told,
                RequestError::Reset | RequestError::Closed | RequestError::TimedOut
            ),
            "{told}"
        );
    }
    assert!(left.elapsed() >= deadline);
    let status = rig.ask(0, "status");
    let failures = &status["last_pass"]["failures"];
    assert_eq!(failures.as_array().unwrap().len(), 0, "{failures}");
}
