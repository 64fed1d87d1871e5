//! What `edgelb doctor` finds on a node, in a network namespace: each fault is made, seen to do harm,
//! found, and mended by the remedy that is told.

use std::fs;
use std::time::Duration;

use edgelb::lab::client::{Protocol, RequestError, RequestOptions, request_with};
use edgelb::lab::server::{Listen, Server};
use edgelb::lab::tool;
use serde_json::Value;

use super::super::health_checks;
use super::super::rig::{PROGRAM, Rig, ipvs, socket, web};

const TCP: Protocol = Protocol::Tcp;
const HEALTH_CHECK_PORT: u16 = 31_570;

/// Exit code, and the findings of a section that are no more than this bad or worse.
fn doctor(rig: &Rig, section: &str) -> (Option<i32>, Vec<Value>) {
    let output = rig.daemons[0].ask(&["doctor", "-o", "json"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
    let findings = report["findings"].as_array().unwrap().iter();
    let findings = findings.filter(|it| it["section"] == section).cloned();
    (output.status.code(), findings.collect())
}

/// The one finding that is no better than a warning.
#[track_caller]
fn one(findings: &[Value]) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bad: Vec<_> = findings
        .iter()
        .filter(|it| it["level"] == "problem" || it["level"] == "warning")
        .collect();
    assert_eq!(bad.len(), 1, "{findings:#?}");
    (
        text(&bad[0]["level"]),
        text(&bad[0]["message"]),
        text(&bad[0]["remedy"]),
    )
}

#[track_caller]
fn none(findings: &[Value]) {
    assert!(!findings.is_empty());
    let fine = |it: &Value| it["level"] == "fine" || it["level"] == "info";
    assert!(findings.iter().all(fine), "{findings:#?}");
}

fn nft(rig: &Rig, command: &str) {
    tool(rig.node(0), "nft", &[command]).unwrap();
}

fn is_dropped(rig: &Rig, to: std::net::SocketAddr) -> bool {
    let options = RequestOptions {
        timeout: Duration::from_millis(1200),
        ..RequestOptions::default()
    };
    let result = request_with(rig.client(), to, TCP, &options);
    matches!(result, Err(RequestError::TimedOut))
}

/// A drop of another chain is not overruled by an accept of ours, whichever comes first; the rule
/// that doctor names lets the traffic through where it has to stand.
#[test]
fn a_firewall_in_the_way_is_found_and_its_remedy_works() {
    let rig = Rig::new(1, 2);
    rig.serve(
        &health_checks::local("web", 70, HEALTH_CHECK_PORT),
        &rig.workloads(),
    );
    let (vip, _) = rig.vip("web");
    let to = socket(vip, 80);
    let node = rig.lab.node(0).unwrap().address.ipv4;
    let node_port = socket(node, 30_070);
    let health_check = socket(node, HEALTH_CHECK_PORT);
    rig.wait_served(rig.client(), to, TCP);
    let (code, findings) = doctor(&rig, "firewall");
    none(&findings);
    assert_eq!(code, Some(0));

    nft(&rig, "add table inet theirs");
    nft(&rig, "add table inet early");
    for hook in ["forward", "input"] {
        // As an accept of ours would be, before theirs.
        nft(
            &rig,
            &format!(
                "add chain inet early {hook} {{ type filter hook {hook} priority -200; policy accept; }}"
            ),
        );
        nft(&rig, &format!("add rule inet early {hook} accept"));
        nft(
            &rig,
            &format!(
                "add chain inet theirs {hook} {{ type filter hook {hook} priority 0; policy drop; }}"
            ),
        );
        let (code, findings) = doctor(&rig, "firewall");
        let (level, message, remedy) = one(&findings);
        assert_eq!((code, level.as_str()), (Some(1), "problem"));
        assert!(
            message.starts_with(&format!(
                "chain inet theirs {hook} (hook {hook}, priority 0) drops "
            )),
            "{message}"
        );
        let harmed = if hook == "forward" || ipvs() {
            to
        } else {
            health_check
        };
        assert!(
            is_dropped(&rig, harmed),
            "{hook}: an accept before it does not help"
        );
        let (commands, _) = remedy.split_once(", and the same").unwrap();
        tool(rig.node(0), "sh", &["-ec", commands]).unwrap();
        rig.wait_served(rig.client(), to, TCP);
        rig.wait_served(rig.client(), node_port, TCP);
        let (_, findings) = doctor(&rig, "firewall");
        let problems = findings.iter().filter(|it| it["level"] == "problem");
        assert_eq!(problems.count(), 0, "{findings:#?}");
        // What is still in the way is only possibly so: looked at, it is no more.
        if hook == "forward" && ipvs() {
            nft(&rig, "delete chain inet theirs forward");
        }
    }
    health_checks::wait_count(&rig, health_check, 2);
}

/// NP-11.
#[test]
fn a_process_on_a_node_port_is_found() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 71), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    none(&doctor(&rig, "node-ports").1);
    let listen = [
        Listen::tcp(30_071),
        Listen::udp(30_071),
        Listen::tcp(30_999),
    ];
    let server = Server::start(rig.node(0), "shadowed", &listen).unwrap();
    let node = rig.lab.node(0).unwrap().address.ipv4;
    let answer = rig.wait_served(rig.client(), socket(node, 30_071), TCP);
    assert_eq!(answer.workload, "web-1", "the process hears nothing");
    assert_eq!(server.served(), 0);
    let (code, findings) = doctor(&rig, "node-ports");
    assert_eq!(code, Some(1));
    let problems = findings.iter().filter(|it| it["level"] == "problem");
    for problem in problems {
        let message = problem["message"].as_str().unwrap();
        assert!(message.contains("default/web"), "{message}");
        assert!(
            message.contains("on tcp ") && message.contains(":30071"),
            "{message}"
        );
        assert!(message.contains("(process "), "{message}");
    }
    drop(server);
    none(&doctor(&rig, "node-ports").1);
}

/// kube-proxy by its interface and by its table, a virtual server of somebody else, a setting that
/// somebody else holds.
#[test]
fn conflicts_and_foreign_settings_are_found() {
    let rig = Rig::new(1, 1);
    rig.serve(&web("web", 72), &rig.workloads());
    let (vip, _) = rig.vip("web");
    rig.wait_served(rig.client(), socket(vip, 80), TCP);
    none(&doctor(&rig, "conflicts").1);
    none(&doctor(&rig, "kernel").1);
    let run = |command: &str| tool(rig.node(0), "sh", &["-ec", command]).unwrap();
    for (make, sign, unmake) in [
        (
            "ip link add kube-ipvs0 type veth peer name other",
            "interface kube-ipvs0",
            "ip link del kube-ipvs0",
        ),
        (
            "nft 'add table ip kube-proxy; add chain ip kube-proxy services'",
            "table ip kube-proxy",
            "nft delete table ip kube-proxy",
        ),
        (
            "nft 'add table ip nat; add chain ip nat KUBE-SERVICES'",
            "KUBE-SERVICES in table ip nat",
            "nft delete table ip nat",
        ),
    ] {
        run(make);
        let (code, findings) = doctor(&rig, "conflicts");
        let (level, message, _) = one(&findings);
        assert_eq!((code, level.as_str()), (Some(1), "problem"));
        assert!(message.contains(sign), "{message}");
        run(unmake);
        none(&doctor(&rig, "conflicts").1);
    }
    if ipvs() {
        run("ipvsadm -A -t 198.51.100.7:80 -s rr");
        let (code, findings) = doctor(&rig, "conflicts");
        let (level, message, _) = one(&findings);
        assert_eq!((code, level.as_str()), (Some(0), "warning"));
        assert_eq!(
            message,
            "virtual server TCP 198.51.100.7:80 of IPVS is not edgelb's"
        );
    }
    // The daemon looks again after 30 s.
    rig.node(0).set_sysctl("net/ipv4/ip_forward", "0").unwrap();
    let (code, findings) = doctor(&rig, "kernel");
    let (level, message, _) = one(&findings);
    assert_eq!((code, level.as_str()), (Some(1), "problem"));
    assert_eq!(
        message,
        "something else holds net.ipv4.ip_forward at 0, edgelb needs 1"
    );
}

/// Doctor has something to say where there is neither daemon nor state.
#[test]
fn a_node_without_a_daemon_is_looked_at() {
    let mut rig = Rig::new(1, 1);
    let directory = rig.lab.directory().join("nothing");
    fs::create_dir_all(&directory).unwrap();
    let text = format!(
        "node.name = \"edge-a\"\nnode.state_dir = \"{0}\"\nnode.runtime_dir = \"{0}\"\nsource.kind = \"manifests\"\n",
        directory.display()
    );
    let file = directory.join("edgelb.toml");
    fs::write(&file, text).unwrap();
    let _server = Server::start(rig.node(0), "early", &[Listen::tcp(30_073)]).unwrap();
    let say = |rig: &Rig| {
        let arguments = ["doctor", "-c", file.to_str().unwrap()];
        let command = format!("{PROGRAM} {} || true", arguments.join(" "));
        tool(rig.node(0), "sh", &["-c", &command]).unwrap()
    };
    let text = say(&rig);
    assert!(
        text.contains("a daemon runs on this node, and not with this configuration"),
        "{text}"
    );
    rig.daemons[0].kill().unwrap();
    let text = say(&rig);
    assert!(text.contains("listens in proxy.node_port_range"), "{text}");
    assert!(text.contains("no daemon runs on this node"), "{text}");
}
