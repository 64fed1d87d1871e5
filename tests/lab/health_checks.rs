//! Health-check node ports as an outside load balancer asks them, over the LAN. Cases by their number
//! in the specification of the service proxy.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edgelb::lab::Namespace;
use edgelb::lab::client::Protocol;
use edgelb::lab::manifests::ServiceManifest;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::rig::{PATIENCE, Rig, eventually, request, socket, web};
use crate::user::load_balancer;

const TCP: Protocol = Protocol::Tcp;
const PORT: u16 = 31_500;

/// A Service that only takes endpoints of the node that is asked.
pub fn local(name: &str, number: u8, health_check_port: u16) -> ServiceManifest {
    let mut service = web(name, number);
    service.external_traffic_policy = "Local";
    service.more = format!("  healthCheckNodePort: {health_check_port}\n");
    service
}

/// Status, weight and body.
type Answer = (u16, Option<String>, Value);

fn ask(from: &Namespace, to: SocketAddr, method: &str, path: &str) -> io::Result<Answer> {
    let text = from.try_run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let head = "Host: node\r\nContent-Length: 0\r\nConnection: close";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })?;
    let (head, body) = text.split_once("\r\n\r\n").expect(&text);
    let head = head.to_lowercase();
    for header in ["application/json", "x-content-type-options: nosniff"] {
        assert!(head.contains(header), "{head}");
    }
    let weight = head.lines().find_map(|line| {
        let weight = line.strip_prefix("x-load-balancing-endpoint-weight: ")?;
        Some(weight.to_owned())
    });
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, weight, serde_json::from_str(body).unwrap()))
}

/// Whether the answer tells of so many endpoints of default/web on a healthy node.
fn tells(answer: &Answer, count: usize) -> bool {
    let (status, weight, body) = answer;
    let body_wanted = json!({
        "service": { "namespace": "default", "name": "web" },
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    let status_wanted = if count > 0 { 200 } else { 503 };
    *status == status_wanted
        && weight.as_deref() == Some(count.to_string().as_str())
        && *body == body_wanted
}

#[track_caller]
pub fn wait_count(rig: &Rig, to: SocketAddr, count: usize) {
    eventually(PATIENCE, || {
        let answer = ask(rig.client(), to, "GET", "/").ok()?;
        tells(&answer, count).then_some(())
    });
}

#[track_caller]
fn wait_closed(rig: &Rig, to: SocketAddr) {
    eventually(PATIENCE, || {
        let error = ask(rig.client(), to, "GET", "/").err()?;
        (error.kind() == io::ErrorKind::ConnectionRefused).then_some(())
    });
}

/// The endpoint of this address is on its way out and still serves.
fn terminate(rig: &Rig, service: &ServiceManifest, addresses: &[IpAddr]) {
    let file = format!("endpoints-{}.yaml", service.name);
    let text = fs::read_to_string(rig.manifests.path().join(&file)).unwrap();
    let mut edited = text.clone();
    for address in addresses {
        let before = format!(
            "  - \"{address}\"\n  conditions:\n    ready: true\n    serving: true\n    terminating: false\n"
        );
        let after = format!(
            "  - \"{address}\"\n  conditions:\n    ready: false\n    serving: true\n    terminating: true\n"
        );
        assert!(edited.contains(&before), "{edited}");
        edited = edited.replace(&before, &after);
    }
    rig.manifests.write(&file, &edited).unwrap();
}

/// Cases 49, 65 and 66, by both families, and that no VIP has the port.
#[test]
fn the_port_tells_of_the_endpoints_of_its_node() {
    let rig = Rig::new(2, 3);
    let mut service = local("web", 60, PORT);
    rig.serve(&service, &rig.workloads());
    let on = |index: usize| -> Vec<_> {
        let workloads = rig.lab.workloads().iter();
        workloads.filter(|it| it.node == index).collect()
    };
    let node = |index: usize| rig.lab.node(index).unwrap().address;
    let ports = |index: usize| node(index).both().map(|address| socket(address, PORT));
    for index in 0..2 {
        for to in ports(index) {
            wait_count(&rig, to, on(index).len());
            // Case 65: any path, any method.
            for (method, path) in [("GET", "/x/y?z"), ("POST", "/"), ("DELETE", "/healthz")] {
                let answer = ask(rig.client(), to, method, path).unwrap();
                assert!(tells(&answer, on(index).len()), "{to}: {answer:?}");
            }
        }
    }
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    for from in [rig.client(), rig.node(owner), &on(0)[0].namespace] {
        let error = ask(from, socket(vip, PORT), "GET", "/").unwrap_err();
        assert_eq!(
            error.kind(),
            io::ErrorKind::ConnectionRefused,
            "{}",
            from.name()
        );
    }
    // Case 49: endpoints on their way out serve, and count no more.
    let ours: Vec<IpAddr> = on(0).iter().flat_map(|it| it.address.both()).collect();
    terminate(&rig, &service, &ours);
    for to in ports(0) {
        wait_count(&rig, to, 0);
    }
    let served = request(rig.client(), socket(node(0).ipv4, 30_060), TCP).unwrap();
    assert!(on(0).iter().any(|it| it.name == served.workload));
    wait_count(&rig, ports(1)[0], on(1).len());
    // Case 66: gone altogether, back again, and another policy.
    rig.endpoints(&service, &on(1));
    wait_count(&rig, ports(0)[0], 0);
    rig.endpoints(&service, &rig.workloads());
    wait_count(&rig, ports(0)[0], on(0).len());
    // HC-8: the old port closes, the new one opens.
    service.more = format!("  healthCheckNodePort: {}\n", PORT + 1);
    rig.manifests.write_service(&service).unwrap();
    wait_closed(&rig, ports(0)[0]);
    wait_count(&rig, socket(node(0).ipv4, PORT + 1), on(0).len());
    service.external_traffic_policy = "Cluster";
    service.more = String::new();
    rig.manifests.write_service(&service).unwrap();
    for address in node(0).both() {
        wait_closed(&rig, socket(address, PORT + 1));
    }
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
}

/// Keeps a table from everybody else for as long as it lives (`flags owner`); so blocks all writes of
/// the data plane.
struct Owner(Child);

impl Owner {
    fn of_our_table(namespace: &Namespace) -> Self {
        let mut command = Command::new("nft");
        command.arg("-i").stdin(Stdio::piped());
        command.stdout(Stdio::null());
        let mut child = namespace.spawn(&mut command).unwrap();
        // In one transaction: nobody makes it anew in between.
        let text = "delete table inet edgelb; add table inet edgelb { flags owner; }\n";
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        Self(child)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended by itself; the test has failed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Case 68, and HC-12: endpoints are told as they are applied; after a minute in which nothing could
/// be, the node is not healthy, and it recovers.
#[test]
fn a_blocked_data_plane_is_told_after_a_minute() {
    let rig = Rig::new(1, 2);
    let service = local("web", 63, PORT);
    rig.serve(&service, &rig.workloads());
    let own = rig.lab.node(0).unwrap().address.ipv4;
    let (port, health) = (socket(own, PORT), socket(own, 9756));
    wait_count(&rig, port, 2);
    let owner = Owner::of_our_table(rig.node(0));
    eventually(PATIENCE, || {
        (rig.ask(0, "status")["ready"] == false).then_some(())
    });
    let begin = Instant::now();
    rig.endpoints(&service, &rig.workloads()[..1]);
    let healthy = |path: &str| ask(rig.client(), health, "GET", path).unwrap();
    for path in ["/livez", "/healthz"] {
        assert_eq!(healthy(path).0, 200);
    }
    eventually(Duration::from_secs(90), || {
        let (status, _, body) = ask(rig.client(), port, "GET", "/").unwrap();
        assert_eq!(body["localEndpoints"], 2, "HC-12");
        let stuck = status == 503;
        assert_eq!(body["serviceProxyHealthy"], !stuck);
        std::thread::sleep(Duration::from_millis(500));
        stuck.then_some(())
    });
    let elapsed = begin.elapsed();
    assert!(elapsed > Duration::from_secs(50), "after {elapsed:?}");
    for path in ["/livez", "/healthz"] {
        let (status, _, body) = healthy(path);
        assert_eq!((status, &body["healthy"]), (503, &json!(false)));
        assert_eq!(body["status"]["IPv4"]["healthy"], false);
        assert_ne!(body["lastUpdated"], body["currentTime"]);
    }
    drop(owner);
    // The next try comes with the back-off.
    eventually(Duration::from_secs(45), || {
        (healthy("/healthz").0 == 200).then_some(())
    });
    wait_count(&rig, port, 1);
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
}

/// HC-10: a Warning Event on the Service, from the node that has the trouble alone, and once.
#[test]
fn a_taken_port_is_an_event_on_the_service() {
    let cluster = Cluster::new();
    let taken = cluster.lab.node(0).unwrap().namespace.clone();
    let taken = taken
        .try_run(|| TcpListener::bind(("0.0.0.0", PORT)))
        .unwrap();
    cluster.secure.server.with(|script| {
        let mut service = load_balancer("shop", "local");
        service["spec"]["externalTrafficPolicy"] = "Local".into();
        service["spec"]["healthCheckNodePort"] = PORT.into();
        script.create_service(service);
    });
    let client = &cluster.lab.clients()[0].namespace;
    let at = |node: usize| socket(cluster.lab.node(node).unwrap().address.ipv4, PORT);
    for node in [1, 2] {
        eventually(PATIENCE, || ask(client, at(node), "GET", "/").ok());
    }
    let events = || {
        let events = cluster.secure.server.with(|script| script.events());
        let wanted = events
            .into_iter()
            .filter(|event| event["reason"] == "FailedToStartServiceHealthcheck");
        wanted.collect::<Vec<Value>>()
    };
    let event = eventually(PATIENCE, || events().pop());
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["action"], "Listen");
    assert_eq!(event["regarding"]["name"], "local");
    assert_eq!(
        event["reportingInstance"],
        cluster.lab.node(0).unwrap().name
    );
    let note = event["note"].as_str().unwrap();
    assert!(
        note.contains("0.0.0.0:31500") && note.contains("in use"),
        "{note}"
    );
    drop(taken);
    let (status, weight, _) = eventually(PATIENCE, || ask(client, at(0), "GET", "/").ok());
    assert_eq!((status, weight.as_deref()), (503, Some("0")));
    assert_eq!(events().len(), 1, "it was tried again, and told once");
}

/// HC-10: what has the port is named in the status, the other Services are well, and the port opens
/// when it is free; HC-2: `proxy.node_port_addresses` is for these ports too.
#[test]
fn a_taken_port_is_told_and_addresses_are_followed() {
    let range = toml::toml! { node_port_addresses = ["192.0.2.0/24", "198.51.100.0/24"] };
    let configuration = toml::Table::from_iter([("proxy".to_owned(), range.into())]);
    let rig = Rig::with(1, 1, configuration);
    let own = rig.lab.node(0).unwrap().address.ipv4;
    let taken = rig
        .node(0)
        .try_run(|| TcpListener::bind(socket(own, PORT)))
        .unwrap();
    rig.serve(&local("web", 61, PORT), &rig.workloads());
    rig.serve(&local("other", 62, PORT + 1), &rig.workloads());
    let failures = || rig.ask(0, "status")["last_pass"]["failures"].clone();
    let failures_are = |count: usize| {
        eventually(PATIENCE, || {
            let failures = failures().as_array().unwrap().clone();
            (failures.len() == count).then_some(failures)
        })
    };
    let failure = &failures_are(1)[0];
    assert_eq!(failure["kind"], "health_check_port");
    assert_eq!(failure["object"], format!("default/web tcp {own}:{PORT}"));
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("Address already in use"), "{message}");
    eventually(PATIENCE, || {
        ask(rig.client(), socket(own, PORT + 1), "GET", "/").ok()
    });
    drop(taken);
    wait_count(&rig, socket(own, PORT), 1);
    failures_are(0);
    // No listener where no range matches; one more as soon as there is another address.
    let other = rig.lab.node(0).unwrap().address.ipv6;
    wait_closed(&rig, socket(other, PORT));
    let new: IpAddr = "198.51.100.9".parse().unwrap();
    let from_node = || ask(rig.node(0), socket(new, PORT), "GET", "/");
    assert!(from_node().is_err());
    edgelb::lab::tool(
        rig.node(0),
        "ip",
        &["address", "add", "198.51.100.9/24", "dev", "eth0"],
    )
    .unwrap();
    eventually(PATIENCE, || {
        from_node().ok().filter(|answer| tells(answer, 1))
    });
}
