//! Cases 132 to 135: endpoints that are the node itself, echo, Services of IPv6 alone, and connections
//! to endpoints that leave the list while they serve.

use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use edgelb::lab::client::open_stream;
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::{Namespace, Node, tool};
use serde_json::json;

use super::bench::{Bench, CLUSTER_IP, EXTERNAL, NODE_PORT, VIP};
use super::objects::{Endpoint, load_balancer, local_load_balancer};
use super::observe::{FAMILIES, PROTOCOLS, TCP, answered, reaches, refused};
use crate::rig::{eventually, request, socket};

/// Answers datagrams as the lab's servers do, but from the address at which it is asked: a server on
/// all addresses would answer a pod from the one that is nearest to it. Until nobody asks any more.
fn serve_datagrams(node: &Node) {
    for address in node.address.both() {
        let server = (node.namespace)
            .try_run(|| UdpSocket::bind((address, 8080)))
            .unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = server.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let answer = format!("n1-itself {peer} {}\n", text.trim_end());
                // A client that has gone learns nothing.
                let _ = server.send_to(answer.as_bytes(), peer);
            }
        });
    }
}

/// A pod in the node's network: its address is the node's own.
#[test]
fn case_132_the_node_itself_is_the_endpoint() {
    let bench = Bench::new();
    let _host = Server::start(bench.n1(), "n1-itself", &[Listen::tcp(8080)]).unwrap();
    serve_datagrams(bench.node());
    let endpoint = Endpoint::of_node(bench.node());
    bench.serve(&load_balancer(), &[endpoint]);
    for v6 in FAMILIES {
        for from in [bench.c(), &bench.p().namespace, bench.n1()] {
            let outside = from.name() == bench.c().name();
            for to in &bench.frontends(v6, 80)[usize::from(outside)..] {
                for protocol in PROTOCOLS {
                    let answer = answered(from, *to, protocol);
                    assert_eq!(answer.workload, "n1-itself", "{protocol} {to}");
                }
            }
        }
    }
}

/// What ping says of one echo request.
fn ping(from: &Namespace, to: IpAddr) -> String {
    let command = format!("ping -c 1 -W 3 {to} 2>&1; true");
    tool(from, "sh", &["-c", &command]).unwrap().to_lowercase()
}

/// NOEP-7, and the same of a VIP that another node owns: whoever asks here is told that it is not
/// here. The owner answers.
#[test]
fn case_133_echo_is_for_owned_vips() {
    let bench = Bench::new();
    let service = local_load_balancer();
    let owned = |here: bool| {
        // Under Local a node without an endpoint is no candidate.
        let workload = if here { bench.a() } else { bench.r() };
        bench.serve(&service, &[bench.endpoint(workload)]);
        let vips = bench.ask("vips");
        let vips = vips["vips"].as_array().unwrap();
        assert_eq!(vips.len(), 2, "{vips:?}");
        for vip in vips {
            let owner = &bench.lab.nodes()[usize::from(!here)].name;
            assert_eq!(vip["owner"], owner.as_str(), "{vip}");
        }
    };
    for here in [true, false, true] {
        owned(here);
        for address in VIP.both() {
            let said = ping(bench.c(), address);
            let expected = if here {
                " 0% packet loss"
            } else {
                "port unreachable"
            };
            assert!(said.contains(expected), "owned {here}, {address}: {said}");
        }
        for address in CLUSTER_IP.both() {
            let said = ping(&bench.p().namespace, address);
            assert!(said.contains("port unreachable"), "{address}: {said}");
        }
    }
}

/// DS-1, DS-4: nothing of it is served by IPv4, whatever slices there are.
#[test]
fn case_134_a_service_of_ipv6_alone() {
    let bench = Bench::new();
    let mut service = load_balancer();
    let spec = &mut service["spec"];
    spec["clusterIP"] = json!(CLUSTER_IP.ipv6);
    spec["clusterIPs"] = json!([CLUSTER_IP.ipv6]);
    spec["ipFamilies"] = json!(["IPv6"]);
    spec["ipFamilyPolicy"] = json!("SingleStack");
    spec["externalIPs"] = json!([EXTERNAL.ipv6]);
    service["metadata"]["annotations"]["edgelb.io/ips"] = json!(VIP.ipv6);
    let workloads = [bench.a(), bench.r()];
    bench.serve(&service, &workloads.map(|it| bench.endpoint(it)));
    for from in [bench.c(), &bench.p().namespace, bench.n1()] {
        let outside = from.name() == bench.c().name();
        for to in &bench.frontends(true, 80)[usize::from(outside)..] {
            for protocol in PROTOCOLS {
                reaches(from, *to, protocol, &workloads);
            }
        }
        for to in &bench.frontends(false, 80)[..3] {
            let result = request(from, *to, TCP);
            assert!(result.is_err(), "{to}: {result:?}");
        }
        refused(from, socket(bench.node().address.ipv4, NODE_PORT), TCP);
    }
}

/// POL-13 beyond the deadline of draining: an endpoint that leaves the list because of hints, and
/// still serves, keeps its connections.
#[test]
fn case_135_connections_to_a_serving_endpoint_have_no_deadline() {
    let bench = Bench::configured("[proxy]\ndrain_deadline = \"2s\"");
    let service = load_balancer();
    let far = bench.endpoint(bench.r()).zone("b");
    bench.serve(&service, std::slice::from_ref(&far));
    let ways = [
        (&bench.p().namespace, socket(CLUSTER_IP.ipv4, 80)),
        (&bench.p().namespace, socket(CLUSTER_IP.ipv6, 80)),
        (bench.n1(), socket(CLUSTER_IP.ipv4, 80)),
        (bench.c(), socket(VIP.ipv4, 80)),
        (bench.c(), bench.frontends(false, 80)[3]),
    ];
    let mut streams = ways.map(|(from, to)| open_stream(from, to).unwrap());
    for stream in &mut streams {
        assert_eq!(stream.send("before").unwrap().workload, bench.r().name);
    }
    bench.endpoints(&service, &[bench.endpoint(bench.a()).zone("a"), far]);
    for (from, to) in ways {
        reaches(from, to, TCP, &[bench.a()]);
    }
    // Twice the deadline, and the second in which draining is looked at.
    let end = Instant::now() + Duration::from_secs(5);
    eventually(Duration::from_secs(60), || {
        for ((from, to), stream) in ways.iter().zip(&mut streams) {
            let answer = stream.send("after").unwrap_or_else(|error| {
                panic!("{} to {to}: the stream ended: {error}", from.name())
            });
            assert_eq!(answer.workload, bench.r().name);
        }
        (Instant::now() > end).then_some(())
    });
}
