//! Questions about nothing that is served: what is told instead.

use edgelb::lab::client::Protocol;

use super::*;
use crate::rig::{cluster_ips, socket, web};

#[test]
fn what_is_not_there_is_told_with_what_is_near() {
    let rig = Rig::new(2, 2);
    let mut service = web("web", 77);
    service.external_traffic_policy = "Local";
    service.more = "  healthCheckNodePort: 31077\n".to_owned();
    rig.serve(&service, &rig.workloads());
    let (vip, owner) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    let client = rig.client_address();
    let node = rig.lab.node(owner).unwrap().address.ipv4;
    let pod = rig.workload("web-1").address.ipv4;
    for (target, parts) in [
        (
            format!("{vip}:81"),
            &[
                "is refused: default/web does not declare port 81/tcp",
                "is the VIP of default/web, whose ports are 80/tcp (http)",
            ][..],
        ),
        (
            format!("{vip}:80/udp"),
            &[
                "does not declare port 80/udp",
                "Port 80 is declared for tcp",
            ],
        ),
        (
            format!("{vip}:30077"),
            &[
                "does not declare port 30077/tcp",
                "30077 is the node port of port 80",
            ],
        ),
        (
            "192.0.2.219:80".to_owned(),
            &[
                "is in the pool lan, and no Service has it",
                "The pool lan has",
            ],
        ),
        (
            "10.96.9.9:80".to_owned(),
            &["is in the range of ClusterIPs, and no Service has it"],
        ),
        (
            "203.0.113.7:80".to_owned(),
            &[
                "is in no pool, no Service names it",
                "The pools hold 192.0.2.200-192.0.2.219 (lan)",
                &vip.to_string(),
            ],
        ),
        (
            format!("{pod}:8080"),
            &[
                "is an endpoint of default/web",
                "edgelb explain default/web",
            ],
        ),
        (
            format!("{node}:80"),
            &["no Service has the node port 80", "has the node port 30077"],
        ),
        (
            format!("{node}:30077/udp"),
            &["30077 is a node port of default/web for tcp"],
        ),
        (
            "127.0.0.1:30077".to_owned(),
            &["node ports are not open on loopback addresses"],
        ),
        (
            "default/wbe".to_owned(),
            &[
                "There is no Service default/wbe",
                "Close names: default/web",
            ],
        ),
        (
            "kube-system/web".to_owned(),
            &["That name is in another namespace: default/web"],
        ),
    ] {
        let told = explain(&rig, owner, &target, None);
        assert_eq!(
            (told.exit, &told.json["found"]),
            (1, &Value::Bool(false)),
            "{target}"
        );
        for part in parts {
            assert!(told.answer().contains(part), "{target}: {}", told.answer());
        }
    }
    // What is said of undeclared ports and free addresses is so.
    refused(&rig, owner, rig.client(), client, socket(vip, 81));
    let pod = &rig.workload("web-1").namespace;
    assert!(request(pod, socket([10, 96, 9, 9], 80), Protocol::Tcp).is_err());

    // The health-check node port tells as it answers.
    let told = explain(&rig, owner, &format!("{node}:31077"), None);
    assert_eq!(told.exit, 0);
    assert_eq!(told.json["health_check"]["status"], 200);
    assert_eq!(health_status(&rig, socket(node, 31_077)), 200);
    rig.endpoints(&service, &[]);
    eventually(PATIENCE, || {
        let told = explain(&rig, owner, &format!("{node}:31077"), None);
        (told.json["health_check"]["status"] == 503).then_some(())
    });
    assert_eq!(health_status(&rig, socket(node, 31_077)), 503);
}

/// The status that the port answers with.
fn health_status(rig: &Rig, to: SocketAddr) -> u16 {
    use std::io::{Read, Write};
    let answer = rig.client().try_run(|| {
        let mut stream = std::net::TcpStream::connect(to)?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    let answer = answer.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A pool that is full, another class, a port that another Service has, a DNS name.
#[test]
fn services_that_get_nothing_say_why() {
    let small = toml::toml! {
        [[pool]]
        name = "small"
        addresses = ["192.0.2.200/32", "fd00:2::200/128"]
    };
    let rig = Rig::with(1, 1, small);
    rig.serve(&web("first", 78), &rig.workloads());
    let (vip, _) = rig.vip("first");
    let second = web("second", 79);
    rig.serve(&second, &rig.workloads());
    let mut other = web("other", 80);
    other.more = "  loadBalancerClass: example.com/other\n".to_owned();
    rig.serve(&other, &rig.workloads());
    rig.manifests
        .write(
            "service-name.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: name, namespace: default}\nspec: {type: ExternalName, externalName: example.com}\n",
        )
        .unwrap();
    rig.manifests
        .write(
            "service-headless.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: headless, namespace: default}\nspec: {clusterIP: None, ports: [{port: 80}]}\n",
        )
        .unwrap();
    for (name, part) in [
        ("second", "it has no VIP, because no free address in small"),
        ("second", "The pool small has 0 of 1 IPv4 addresses free"),
        (
            "other",
            "loadBalancerClass example.com/other is another implementation's",
        ),
        ("name", "an ExternalName Service is a DNS name"),
        (
            "headless",
            "a headless Service has no address to forward from",
        ),
    ] {
        let target = format!("default/{name}");
        eventually(PATIENCE, || {
            let told = explain(&rig, 0, &target, None);
            told.verdict().contains(part).then_some(())
        });
        assert_eq!(explain(&rig, 0, &target, None).exit, 1, "{name}");
    }
    // Its ClusterIP works meanwhile, as it is told.
    let pod = rig.workload("web-1");
    let to = socket(cluster_ips(79).ipv4, 80);
    served(&rig, 0, &pod.namespace, pod.address.ipv4.into(), to);
    let told = explain(&rig, 0, &format!("{vip}:80"), None);
    assert_eq!(told.frontend()["service"], "default/first");
}

#[test]
fn exit_codes_are_those_of_the_contract() {
    let mut rig = Rig::new(1, 1);
    let ask = |rig: &Rig, arguments: &[&str]| {
        let output = rig.daemons[0].ask(arguments).unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    for (arguments, error) in [
        (&["explain", "192.0.2.200"][..], "lacks a port"),
        (&["explain", "web"], "lacks a namespace"),
        (
            &["explain", "192.0.2.200:80", "--from", "::1"],
            "of the same family",
        ),
        (&["explain"], "Usage"),
    ] {
        let (exit, told) = ask(&rig, arguments);
        assert_eq!(exit, 2, "{arguments:?}");
        assert!(told.contains(error), "{told}");
    }
    rig.daemons[0].kill().unwrap();
    let (exit, told) = ask(&rig, &["explain", "default/web"]);
    assert_eq!(exit, 3);
    assert!(told.contains("no daemon answers"), "{told}");
}
