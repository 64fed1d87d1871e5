//! Cases 69 to 75: flows that go on while endpoints come and go.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgelb::lab::client::{
    Answer, Protocol, RequestError, RequestOptions, open_stream, open_stream_with, request_with,
};
use edgelb::lab::server::Listen;
use edgelb::lab::{Namespace, tool};
use serde_json::json;

use super::bench::{Bench, CLUSTER_IP, VIP};
use super::objects::{cluster_ip, load_balancer};
use super::observe::{FAMILIES, TCP, UDP, answered, is_refusal, reaches, refused};
use crate::rig::{PATIENCE, eventually, ipvs, request, socket};

/// The client's port in these cases.
const SOURCE_PORT: u16 = 40_001;

fn from_port(
    from: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    port: u16,
) -> Result<Answer, RequestError> {
    let options = RequestOptions {
        timeout: Duration::from_secs(2),
        source_port: port,
        ..RequestOptions::default()
    };
    request_with(from, to, protocol, &options)
}

/// Every way of P, C and the node to the UDP port, each from a port of its own.
fn ways(bench: &Bench) -> Vec<(&Namespace, SocketAddr, u16)> {
    let mut ways = Vec::new();
    for v6 in FAMILIES {
        let external = bench.external_frontends(v6, 80);
        let internal = socket(CLUSTER_IP.both()[usize::from(v6)], 80);
        for from in [&bench.p().namespace, bench.n1(), bench.c()] {
            ways.extend(external.map(|to| (from, to, 0)));
            if from.name() != bench.c().name() {
                ways.push((from, internal, 0));
            }
        }
    }
    for (index, way) in ways.iter_mut().enumerate() {
        way.2 = SOURCE_PORT + u16::try_from(index).unwrap();
    }
    ways
}

#[test]
fn case_69_udp_flows_leave_a_removed_endpoint() {
    let bench = Bench::new();
    let service = load_balancer();
    let ways = ways(&bench);
    for workload in [bench.a(), bench.a2(), bench.r()] {
        bench.serve(&service, &[bench.endpoint(workload)]);
        for (from, to, port) in &ways {
            let answer = from_port(from, *to, UDP, *port);
            let name = answer.as_ref().ok().map(|answer| answer.workload.as_str());
            assert_eq!(
                name,
                Some(workload.name.as_str()),
                "{}:{port} to {to}: {answer:?}",
                from.name()
            );
        }
    }
}

/// The same under the policy Local, where the client's own address is in the flow.
#[test]
fn case_69b_udp_flows_of_the_policy_local() {
    let bench = Bench::new();
    let mut service = load_balancer();
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    let ways = ways(&bench);
    for workload in [bench.a(), bench.a2(), bench.a()] {
        bench.serve(&service, &[bench.endpoint(workload)]);
        for (from, to, port) in &ways {
            let answer = from_port(from, *to, UDP, *port);
            let name = answer.as_ref().ok().map(|answer| answer.workload.as_str());
            assert_eq!(
                name,
                Some(workload.name.as_str()),
                "{}:{port} to {to}: {answer:?}",
                from.name()
            );
        }
    }
}

#[test]
fn case_71_udp_flows_follow_the_target_port() {
    let bench = Bench::new();
    let mut service = load_balancer();
    let ways = ways(&bench);
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for (from, to, port) in &ways {
        from_port(from, *to, UDP, *port).unwrap();
    }
    service["spec"]["ports"][1]["targetPort"] = json!(9090);
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    bench.a().server.close(Listen::udp(8080)).unwrap();
    for (from, to, port) in &ways {
        let answer = from_port(from, *to, UDP, *port);
        assert!(answer.is_ok(), "{}:{port} to {to}: {answer:?}", from.name());
    }
}

/// CT-6, which we do better: without any endpoint a flow ends too; and with one again it goes on.
#[test]
fn case_116_udp_flows_end_with_the_last_endpoint() {
    let bench = Bench::new();
    let service = load_balancer();
    let ways = ways(&bench);
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    for (from, to, port) in &ways {
        from_port(from, *to, UDP, *port).unwrap();
    }
    bench.endpoints(&service, &[]);
    for (from, to, port) in &ways {
        let result = from_port(from, *to, UDP, *port);
        assert!(
            is_refusal(&result),
            "{}:{port} to {to}: {result:?}",
            from.name()
        );
    }
    bench.endpoints(&service, &[bench.endpoint(bench.r())]);
    for (from, to, port) in &ways {
        let answer = from_port(from, *to, UDP, *port);
        let name = answer.map(|answer| answer.workload);
        assert_eq!(
            name.unwrap(),
            bench.r().name,
            "{}:{port} to {to}",
            from.name()
        );
    }
}

/// CT-3: a flow to an endpoint that still serves is not cut, whatever else changes.
#[test]
fn case_117_udp_flows_to_serving_endpoints_go_on() {
    let bench = Bench::new();
    let service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let ways = ways(&bench);
    for (from, to, port) in &ways {
        from_port(from, *to, UDP, *port).unwrap();
    }
    // Others come; then it terminates, and takes no new flow.
    let terminating = [
        bench.endpoint(bench.a()).terminating(),
        bench.endpoint(bench.r()),
    ];
    for endpoints in [
        [bench.endpoint(bench.a()), bench.endpoint(bench.r())],
        terminating,
    ] {
        bench.endpoints(&service, &endpoints);
        for (from, to, port) in &ways {
            let answer = from_port(from, *to, UDP, *port);
            let name = answer.map(|answer| answer.workload);
            assert_eq!(
                name.unwrap(),
                bench.a().name,
                "{}:{port} to {to}",
                from.name()
            );
        }
    }
    let to = socket(CLUSTER_IP.ipv4, 80);
    reaches(&bench.p().namespace, to, UDP, &[bench.r()]);
}

/// CT-4: a flow that began before there was a Service does not stay outside of it.
#[test]
fn case_118_udp_flows_from_before_the_service() {
    let bench = Bench::new();
    bench.settle();
    let ways = ways(&bench);
    // One packet each, answered by nobody, or not at all.
    for (from, to, port) in &ways {
        let options = RequestOptions {
            timeout: Duration::from_millis(20),
            source_port: *port,
            ..RequestOptions::default()
        };
        assert!(request_with(from, *to, UDP, &options).is_err());
    }
    bench.serve(&load_balancer(), &[bench.endpoint(bench.a())]);
    for (from, to, port) in &ways {
        let answer = from_port(from, *to, UDP, *port);
        assert!(answer.is_ok(), "{}:{port} to {to}: {answer:?}", from.name());
    }
}

#[test]
fn case_73_connections_of_a_removed_endpoint_go_on() {
    let bench = Bench::new();
    let service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let ways = [
        (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80)),
        (&bench.p().namespace, socket(CLUSTER_IP.ipv6, 80)),
        (bench.n1(), socket(CLUSTER_IP.ipv4, 80)),
        (bench.c(), socket(VIP.ipv4, 80)),
        (bench.c(), bench.frontends(false, 80)[3]),
    ];
    let mut streams = ways.map(|(from, to)| open_stream(from, to).unwrap());
    for stream in &mut streams {
        assert_eq!(stream.send("before").unwrap().workload, bench.a().name);
    }
    bench.endpoints(&service, &[bench.endpoint(bench.r())]);
    for (from, to) in ways {
        reaches(from, to, TCP, &[bench.r()]);
    }
    for stream in &mut streams {
        assert_eq!(stream.send("after").unwrap().workload, bench.a().name);
    }
    if !ipvs() {
        return;
    }
    let a = format!("-r {}:8080", bench.a().address.ipv4);
    let listed = || tool(bench.n1(), "ipvsadm", &["-Sn"]).unwrap();
    let drains: Vec<String> = (listed().lines())
        .filter(|line| line.contains(&a) && line.contains("-t "))
        .map(str::to_owned)
        .collect();
    assert!(!drains.is_empty());
    assert!(
        drains.iter().all(|line| line.contains("-w 0")),
        "{drains:?}"
    );
    // A connection that was reset is forgotten after 10 s, one that was closed after two minutes;
    // then its real server goes within one minute.
    for stream in streams {
        stream.reset().unwrap();
    }
    eventually(Duration::from_secs(90), || {
        (!listed().contains(&a)).then_some(())
    });
}

/// NOEP-4: established connections go on when no endpoint is left, and new ones are refused.
#[test]
fn case_119_connections_outlive_the_last_endpoint() {
    let bench = Bench::new();
    let service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let ways = [
        (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80)),
        (bench.c(), socket(VIP.ipv6, 80)),
        (bench.c(), bench.frontends(false, 80)[3]),
    ];
    let mut streams = ways.map(|(from, to)| open_stream(from, to).unwrap());
    for stream in &mut streams {
        stream.send("before").unwrap();
    }
    bench.endpoints(&service, &[]);
    for ((from, to), stream) in ways.into_iter().zip(&mut streams) {
        refused(from, to, TCP);
        assert_eq!(stream.send("after").unwrap().workload, bench.a().name);
    }
}

/// POL-13: a connection is never moved or cut by a change of policy.
#[test]
fn case_120_connections_outlive_a_change_of_policy() {
    let bench = Bench::new();
    let mut service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.r())]);
    let external = bench.external_frontends(false, 80);
    let mut streams = [
        open_stream(bench.c(), external[0]).unwrap(),
        open_stream(bench.c(), external[1]).unwrap(),
        open_stream(bench.c(), external[2]).unwrap(),
        open_stream(&bench.p().namespace, external[0]).unwrap(),
        open_stream(&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80)).unwrap(),
    ];
    let both = [bench.a(), bench.r()].map(|it| bench.endpoint(it));
    for policy in ["Cluster", "Local", "Cluster"] {
        service["spec"]["externalTrafficPolicy"] = json!(policy);
        service["spec"]["internalTrafficPolicy"] = json!(policy);
        bench.serve(&service, &both);
        for stream in &mut streams {
            let answer = stream.send(policy).unwrap();
            assert_eq!(answer.workload, bench.r().name);
        }
    }
}

/// A connection that begins under Local, on this node, goes on when the policy widens.
#[test]
fn case_120b_connections_of_local_outlive_it() {
    let bench = Bench::new();
    let mut service = super::objects::local_load_balancer();
    let both = [bench.a(), bench.r()].map(|it| bench.endpoint(it));
    bench.serve(&service, &both);
    let external = bench.external_frontends(false, 80);
    let mut streams = external.map(|to| open_stream(bench.c(), to).unwrap());
    let mut of_pod = open_stream(&bench.p().namespace, external[0]).unwrap();
    let first = of_pod.send("before").unwrap();
    for policy in ["Local", "Cluster", "Local"] {
        service["spec"]["externalTrafficPolicy"] = json!(policy);
        bench.serve(&service, &both);
        for stream in &mut streams {
            let answer = stream.send(policy).unwrap();
            assert_eq!(answer.workload, bench.a().name);
            assert_eq!(answer.seen.ip(), bench.client().ipv4);
        }
        assert_eq!(of_pod.send(policy).unwrap().seen, first.seen);
    }
}

/// The endpoint drains, held by a connection, when a client comes again from a port that it had.
#[test]
fn case_75_a_used_port_reaches_a_living_endpoint() {
    let bench = Bench::new();
    let service = load_balancer();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let ways = [
        (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80)),
        (bench.c(), socket(VIP.ipv4, 80)),
        (bench.c(), bench.frontends(false, 80)[3]),
    ];
    let mut held = open_stream(bench.c(), socket(VIP.ipv4, 80)).unwrap();
    held.send("held").unwrap();
    let options = RequestOptions {
        source_port: SOURCE_PORT,
        timeout: Duration::from_secs(3),
        ..RequestOptions::default()
    };
    for (from, to) in ways {
        // No socket of the client waits for stray packets: the port is free at once.
        from.set_sysctl("net/ipv4/tcp_max_tw_buckets", "0").unwrap();
        let mut stream = open_stream_with(from, to, &options).unwrap();
        assert_eq!(stream.send("first").unwrap().workload, bench.a().name);
        drop(stream);
        let port = format!("sport = :{SOURCE_PORT}");
        eventually(PATIENCE, || {
            let sockets = tool(from, "ss", &["-Htan", &port]).unwrap();
            sockets.is_empty().then_some(())
        });
    }
    bench.endpoints(&service, &[bench.endpoint(bench.a2())]);
    let living = bench.a2().name.as_str();
    for (from, to) in ways {
        let timed = |options: &RequestOptions| {
            let start = Instant::now();
            let mut stream = open_stream_with(from, to, options).unwrap();
            assert_eq!(stream.send("second").unwrap().workload, living);
            start.elapsed()
        };
        // From a port that was never used, at the same time: a lost packet would cost the other one
        // a second more than this one, on a machine of any speed.
        let (elapsed, control) = std::thread::scope(|scope| {
            let fresh = RequestOptions {
                source_port: 0,
                ..options.clone()
            };
            let control = scope.spawn(move || timed(&fresh));
            (timed(&options), control.join().unwrap())
        });
        let bound = Duration::from_secs(1) + if ipvs() { control } else { Duration::ZERO };
        assert!(
            elapsed < bound,
            "{to} after {elapsed:?}, not within {bound:?}"
        );
    }
    assert_eq!(held.send("still").unwrap().workload, bench.a().name);
}

/// GT-8, and its like for UDP: a Service that goes takes its frontends with it at once.
#[test]
fn case_121_a_deleted_service_serves_nobody() {
    let bench = Bench::new();
    let service = cluster_ip();
    bench.serve(&service, &[bench.endpoint(bench.a())]);
    let (p, to) = (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80));
    answered(p, to, TCP);
    from_port(p, to, UDP, SOURCE_PORT).unwrap();
    bench.delete(&service);
    bench.settle();
    assert!(request(p, to, TCP).is_err());
    let result = from_port(p, to, UDP, SOURCE_PORT);
    assert!(result.is_err(), "{result:?}");
}
