//! The lab without any load balancer: does it do what tests and the demo rely on?

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use edgelb::lab::arp_probe::arp_probe;
use edgelb::lab::client::{
    Protocol, RequestError, RequestOptions, open_stream, request, request_with,
};
use edgelb::lab::prober::{Prober, ProberOptions};
use edgelb::lab::server::Listen;
use edgelb::lab::{DualStack, Lab, LabOptions, Namespace, tool};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const WINDOW: Duration = Duration::from_millis(200);

fn routed_lab() -> Lab {
    Lab::build(LabOptions {
        client_pod_routes: true,
        ..LabOptions::default()
    })
    .unwrap()
}

fn sockets(address: DualStack, port: u16) -> [SocketAddr; 2] {
    address.both().map(|address| SocketAddr::new(address, port))
}

fn source(address: DualStack, to: SocketAddr) -> IpAddr {
    if to.is_ipv4() {
        IpAddr::V4(address.ipv4)
    } else {
        IpAddr::V6(address.ipv6)
    }
}

#[test]
fn everyone_reaches_every_workload_in_both_families() {
    let lab = routed_lab();
    let client = lab.client().unwrap();
    let mut senders = vec![(&client.namespace, client.address)];
    senders.extend(
        lab.nodes()
            .iter()
            .map(|node| (&node.namespace, node.address)),
    );
    senders.extend(
        lab.workloads()
            .iter()
            .map(|workload| (&workload.namespace, workload.address)),
    );
    for workload in lab.workloads() {
        for to in sockets(workload.address, 8080) {
            for protocol in BOTH {
                for (from, address) in &senders {
                    let answer = request(from, to, protocol).unwrap_or_else(|error| {
                        panic!("{} to {to}/{protocol}: {error}", from.name())
                    });
                    assert_eq!(answer.workload, workload.name);
                    // A node speaks to its own pods from its address on their side.
                    let own_pod = lab.nodes().iter().any(|node| {
                        node.namespace.name() == from.name()
                            && node.name == lab.nodes()[workload.node].name
                    });
                    if !own_pod {
                        assert_eq!(
                            answer.seen.ip(),
                            source(*address, to),
                            "{} to {to}/{protocol}",
                            from.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn failures_are_told_apart() {
    let lab = Lab::build(LabOptions {
        nodes: 1,
        workloads: 1,
        client_pod_routes: true,
        ..LabOptions::default()
    })
    .unwrap();
    let client = &lab.client().unwrap().namespace;
    let options = RequestOptions {
        timeout: Duration::from_millis(150),
        ..RequestOptions::default()
    };
    for protocol in BOTH {
        for closed in sockets(lab.workloads()[0].address, 9999) {
            let error = request(client, closed, protocol).unwrap_err();
            assert!(
                matches!(error, RequestError::Refused),
                "{closed}/{protocol}: {error}"
            );
        }
        for nowhere in ["203.0.113.1:80", "[2001:db8::1]:80"] {
            let error = request(client, nowhere.parse().unwrap(), protocol).unwrap_err();
            assert!(
                matches!(error, RequestError::Unreachable),
                "{nowhere}/{protocol}: {error}"
            );
        }
        let error = request_with(
            client,
            "192.0.2.200:80".parse().unwrap(),
            protocol,
            &options,
        )
        .unwrap_err();
        assert!(
            matches!(error, RequestError::TimedOut),
            "{protocol}: {error}"
        );
    }
}

#[test]
fn a_connection_outlives_its_listener_but_not_its_server() {
    let mut lab = routed_lab();
    let client = lab.client().unwrap().namespace.clone();
    let workload = lab.workload("web-2").unwrap();
    let to = SocketAddr::from((workload.address.ipv4, 8080));
    let mut stream = open_stream(&client, to).unwrap();
    let first = stream.send("one").unwrap();
    assert_eq!(
        (first.workload.as_str(), first.seen, first.text.as_str()),
        ("web-2", stream.local_address(), "one")
    );

    workload.server.close(Listen::tcp(8080)).unwrap();
    assert!(matches!(
        request(&client, to, Protocol::Tcp),
        Err(RequestError::Refused)
    ));
    assert_eq!(stream.send("two").unwrap().text, "two");
    workload.server.open(Listen::tcp(8080)).unwrap();
    assert_eq!(
        request(&client, to, Protocol::Tcp).unwrap().workload,
        "web-2"
    );
    assert_eq!(workload.server.served(), 3);

    lab.remove_workload("web-2").unwrap();
    assert!(stream.send("three").is_err());
    assert!(lab.workload("web-2").is_err());
    let added = lab.add_workload(1).unwrap();
    assert_eq!(added.name, "web-4");
    assert_eq!(
        request(&client, (added.address.ipv4, 8080).into(), Protocol::Tcp)
            .unwrap()
            .workload,
        "web-4"
    );
}

#[test]
fn a_request_can_choose_its_source() {
    let lab = routed_lab();
    let client = lab.client().unwrap();
    client
        .namespace
        .add_address("eth0", "192.0.2.60/24".parse().unwrap())
        .unwrap();
    for protocol in BOTH {
        let options = RequestOptions {
            source_address: Some("192.0.2.60".parse().unwrap()),
            source_port: 40_000,
            ..RequestOptions::default()
        };
        let to = SocketAddr::from((lab.workloads()[0].address.ipv4, 8080));
        let answer = request_with(&client.namespace, to, protocol, &options).unwrap();
        assert_eq!(answer.seen, "192.0.2.60:40000".parse().unwrap());
    }
}

#[test]
fn an_arp_probe_finds_every_holder_of_an_address() {
    let lab = Lab::build(LabOptions::default()).unwrap();
    let client = lab.client().unwrap();
    let probe = |address: &str| {
        arp_probe(
            &client.namespace,
            "eth0",
            client.address.ipv4,
            address.parse().unwrap(),
            WINDOW,
        )
        .unwrap()
    };
    let macs: Vec<_> = lab
        .nodes()
        .iter()
        .map(|node| node.namespace.mac_address("eth0").unwrap())
        .collect();
    for (node, mac) in lab.nodes().iter().zip(&macs) {
        assert_eq!(probe(&node.address.ipv4.to_string()), [*mac]);
    }
    assert_eq!(probe("192.0.2.200"), []);
    for node in &lab.nodes()[..2] {
        node.namespace
            .add_address("eth0", "192.0.2.200/32".parse().unwrap())
            .unwrap();
    }
    let holders: BTreeSet<_> = probe("192.0.2.200").into_iter().collect();
    assert_eq!(holders, macs[..2].iter().copied().collect());
}

#[test]
fn a_prober_measures_an_outage() {
    let lab = routed_lab();
    let workload = &lab.workloads()[0];
    let to = SocketAddr::from((workload.address.ipv4, 8080));
    for protocol in BOTH {
        let prober = Prober::start(
            &lab.client().unwrap().namespace,
            to,
            protocol,
            ProberOptions::default(),
        )
        .unwrap();
        wait_for(|| prober.report().answered >= 20);
        assert!(
            prober.report().longest_gap < Duration::from_millis(200),
            "{:?}",
            prober.report()
        );
        prober.reset();
        let start = Instant::now();
        lab.unplug("edge-a").unwrap();
        wait_for(|| start.elapsed() >= Duration::from_millis(300));
        lab.plug("edge-a").unwrap();
        let before = prober.report().answered;
        wait_for(|| prober.report().answered > before + 20);
        let outage = start.elapsed();
        let report = prober.stop().unwrap();
        assert!(
            report.longest_gap >= Duration::from_millis(290) && report.longest_gap <= outage,
            "{report:?} within {outage:?}"
        );
        assert!(
            report
                .failed
                .get("timed_out")
                .is_some_and(|count| *count > 0),
            "{report:?}"
        );
        assert_eq!(report.by_workload.keys().collect::<Vec<_>>(), ["web-1"]);
    }
}

#[test]
fn a_client_behind_the_router_reaches_the_nodes() {
    let lab = Lab::build(LabOptions {
        router: true,
        nodes: 1,
        ..LabOptions::default()
    })
    .unwrap();
    let remote = &lab.router().unwrap().remote_client;
    let node = &lab.nodes()[0];
    let _server =
        edgelb::lab::server::Server::start(&node.namespace, "on-edge-a", &[Listen::tcp(7000)])
            .unwrap();
    for to in sockets(node.address, 7000) {
        let answer = request(&remote.namespace, to, Protocol::Tcp).unwrap();
        assert_eq!(
            (answer.workload.as_str(), answer.seen.ip()),
            ("on-edge-a", source(remote.address, to))
        );
    }
}

#[test]
fn an_independent_tool_sees_the_links() {
    let lab = Lab::build(LabOptions {
        nodes: 1,
        ..LabOptions::default()
    })
    .unwrap();
    let shown = tool(
        lab.switch(),
        "ip",
        &["-o", "link", "show", "master", "lan0"],
    )
    .unwrap();
    assert_eq!(shown.lines().count(), 2, "{shown}");
    assert!(
        shown.contains("edge-a@") && shown.contains("client-1@"),
        "{shown}"
    );
    assert!(lab.nodes()[0].namespace.carrier("eth0").unwrap());
    lab.unplug("edge-a").unwrap();
    assert!(!lab.nodes()[0].namespace.carrier("eth0").unwrap());
    let addresses = tool(
        &lab.nodes()[0].namespace,
        "ip",
        &["-o", "address", "show", "dev", "eth0"],
    )
    .unwrap();
    assert!(
        addresses.contains("192.0.2.11/24 brd 192.0.2.255") && addresses.contains("fd00:2::11/64"),
        "{addresses}"
    );
    assert!(!addresses.contains("tentative"), "{addresses}");
    let error = tool(lab.switch(), "ip", &["link", "show", "nothing"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nothing") && error.contains("switch"),
        "{error}"
    );
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let lab = routed_lab();
    let directory = lab.directory().to_owned();
    assert!(directory.is_dir());
    let inode = |namespace: &Namespace| {
        namespace
            .run(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap())
            .unwrap()
    };
    let mine: BTreeSet<_> = [
        lab.switch(),
        &lab.nodes()[0].namespace,
        &lab.workloads()[0].namespace,
    ]
    .map(inode)
    .into();
    assert_eq!(mine.len(), 3);
    drop(lab);
    assert!(!directory.exists());
    // No thread and no descriptor of this process refers to any of the namespaces.
    for folder in ["/proc/self/fd", "/proc/self/task"] {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = if folder.ends_with("fd") {
                entry.path()
            } else {
                entry.path().join("ns/net")
            };
            // Descriptors and threads of other tests come and go meanwhile.
            let Ok(link) = std::fs::read_link(path) else {
                continue;
            };
            assert!(
                !mine.contains(&link),
                "{} is still {}",
                entry.path().display(),
                link.display()
            );
        }
    }
}

#[test]
fn a_lab_of_impossible_size_is_refused_before_it_is_built() {
    for options in [
        LabOptions {
            nodes: 0,
            ..LabOptions::default()
        },
        LabOptions {
            nodes: 27,
            ..LabOptions::default()
        },
        LabOptions {
            clients: 51,
            ..LabOptions::default()
        },
    ] {
        assert!(
            Lab::build(options)
                .unwrap_err()
                .to_string()
                .contains("a lab has 1 to")
        );
    }
}

#[test]
fn labs_live_beside_a_runtime_with_many_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let labs: Vec<_> = (0..3)
        .map(|_| {
            runtime.spawn_blocking(|| {
                Lab::build(LabOptions {
                    client_pod_routes: true,
                    ..LabOptions::default()
                })
                .unwrap()
            })
        })
        .collect();
    for lab in labs {
        let lab = runtime.block_on(lab).unwrap();
        let to = SocketAddr::from((lab.workloads()[2].address.ipv4, 8080));
        assert_eq!(
            request(&lab.client().unwrap().namespace, to, Protocol::Tcp)
                .unwrap()
                .workload,
            "web-3"
        );
    }
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "the condition did not come true in 10 s"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}
