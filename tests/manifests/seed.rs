//! The examples of the document that the project was made from, as they stand there: whole objects
//! are read, fragments are told what they lack.

use std::path::Path;

use edgelb::model::service::{ServiceKey, ServiceType, TrafficPolicy};
use edgelb::source::manifest::parse::{ManifestObject, ObjectKey, Parsed, parse};

fn read(name: &str) -> Parsed {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/seed")
        .join(name);
    parse(name, &std::fs::read(path).expect(name))
}

fn all() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/seed");
    let mut names: Vec<String> = std::fs::read_dir(path)
        .expect("fixtures")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

fn service(name: &str, key: &str) -> edgelb::model::service::Service {
    let parsed = read(name);
    let key = ObjectKey::Service(ServiceKey::new("default", key));
    match &parsed.objects[&key].object {
        ManifestObject::Service(service) => service.as_ref().clone(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn every_example_is_read_or_told_what_it_lacks() {
    let names = all();
    assert_eq!(names.len(), 21);
    for name in names {
        let parsed = read(&name);
        if name.starts_with("fragment-") {
            assert!(parsed.broken, "{name}");
            assert_eq!(parsed.problems.len(), 1, "{name}: {:?}", parsed.problems);
            let problem = &parsed.problems[0];
            assert_eq!(problem.field.as_deref(), Some("kind"), "{name}");
            assert!(
                problem.message.contains("only a part of an object"),
                "{name}: {problem:?}"
            );
            let commented = ["fragment-naming.yaml", "fragment-selector.yaml"];
            let line = if commented.contains(&name.as_str()) {
                2
            } else {
                1
            };
            assert_eq!(problem.line, Some(line), "{name}");
        } else {
            assert_eq!(parsed.problems, [], "{name}");
            assert!(!parsed.broken, "{name}");
            assert!(
                !parsed.objects.is_empty() || !parsed.ignored.is_empty(),
                "{name}"
            );
        }
    }
}

#[test]
fn the_examples_say_what_they_mean() {
    let sticky = service("session-affinity.yaml", "session-affinity-service");
    assert_eq!(
        sticky.session_affinity.map(|time| time.as_secs()),
        Some(10_800)
    );
    let sticky = service("optimized-session-affinity.yaml", "optimized-service");
    assert_eq!(
        sticky.session_affinity.map(|time| time.as_secs()),
        Some(3600)
    );
    let ports = service("multi-port.yaml", "multi-port-service").ports;
    let numbers: Vec<u16> = ports.iter().map(|port| port.port).collect();
    assert_eq!(numbers, [80, 443, 9090]);
    assert_eq!(
        service("external-ips.yaml", "external-ip-service")
            .external_ips
            .len(),
        2
    );
    let local = service("local-traffic.yaml", "local-traffic-service");
    assert_eq!(local.external_traffic_policy, TrafficPolicy::Local);
    assert_eq!(local.internal_traffic_policy, TrafficPolicy::Local);
    let node_port = service("node-port.yaml", "my-nodeport-service");
    assert_eq!(node_port.kind, ServiceType::NodePort);
    assert_eq!(node_port.ports[0].node_port, Some(30080));
    let balancer = service("load-balancer.yaml", "my-loadbalancer-service");
    assert_eq!(balancer.kind, ServiceType::LoadBalancer);
    assert_eq!(
        service("cluster-ip.yaml", "my-service").kind,
        ServiceType::ClusterIP
    );
    assert_eq!(
        service("deployment-and-service.yaml", "my-service")
            .ports
            .len(),
        1
    );
}

#[test]
fn what_is_not_forwarded_is_told() {
    for (name, word) in [
        (
            "external-name.yaml",
            "line 1: Service default/my-external-service: an ExternalName",
        ),
        (
            "headless.yaml",
            "line 1: Service default/my-headless-service: a headless",
        ),
        (
            "headless-database.yaml",
            "line 1: Service default/my-db: a headless",
        ),
        (
            "kube-proxy-configuration.yaml",
            "line 2: KubeProxyConfiguration",
        ),
        (
            "deployment-and-service.yaml",
            "line 2: Deployment my-app: only",
        ),
    ] {
        let parsed = read(name);
        assert_eq!(parsed.ignored.len(), 1, "{name}");
        assert!(
            parsed.ignored[0].starts_with(word),
            "{name}: {:?}",
            parsed.ignored
        );
    }
}

#[test]
fn manual_endpoints_are_mirrored() {
    let parsed = read("external-service-endpoints.yaml");
    let key = ObjectKey::Endpoints(ServiceKey::new("default", "external-service"));
    let ManifestObject::Endpoints(slices) = &parsed.objects[&key].object else {
        panic!("{parsed:?}");
    };
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].key.name, "external-service-endpoints-0-IPv4");
    let addresses: Vec<String> = slices[0]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect();
    assert_eq!(addresses, ["192.168.1.100", "192.168.1.101"]);
    assert_eq!(
        slices[0].ports[0].name, "",
        "feeds the Service's unnamed port (EP-5)"
    );
}
