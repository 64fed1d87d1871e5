//! `edgelb doctor` on nodes that are healthy, and on nodes that were broken on purpose: the cause is among
//! the first three lines, with a remedy.
//!
//! | broken on purpose | test in |
//! | --- | --- |
//! | selector without pods, unready, misnamed port, target port not listening, pods without route, silent pods | `service` |
//! | pool full, class not ours, unknown pool, address taken or in no pool, no such Service | `service` |
//! | source ranges, affinity, forwarding method, node port of another Service | `service` |
//! | Local policy without endpoints, dead owner, another host with the VIP, host inside a pool | `reach` |
//! | membership port blocked, another key, a node that is no Node | `reach` |
//! | VIP on an interface, strict `rp_filter`, IPv6 off, link down, excluded interface, ageing, MTU | `network` |
//! | Docker's FORWARD, NOTRACK, a VIP and ports dropped by rules, ARP dropped | `firewall` |
//! | kube-proxy in IPVS mode, the speaker of `MetalLB` | `firewall` |
//! | daemon frozen, dead, twice, drained, without descriptors, its port taken, a broken manifest | `daemon` |
//! | key file open to others or useless, disk full, disk read-only | `daemon` |
//! | Docker's published port, masquerade before a Local Service, rate limits, rules of routing | `unnamed` |
//! | twins by address and by hardware address, no default route, pods without a way back | `unnamed` |
//! | forwarding, ARP or netem of one interface, a VIP on lo, rules of routing, netdev chains, unknown pods | `uncommon` |
//! | chains that drop, processes on node ports, kube-proxy, foreign virtual servers, sysctls | `node` |
//!
//! What this machine cannot be brought to (full tables of the whole kernel, clocks, bonds) is judged case by
//! case beside the code.

mod daemon;
mod firewall;
mod healthy;
mod network;
mod node;
mod reach;
mod service;
mod uncommon;
mod unnamed;

use std::process::Output;
use std::time::{Duration, Instant};

use edgelb::lab::tool;
use serde_json::Value;

use super::rig::{PATIENCE, Rig, eventually};
use crate::demo::validator;

/// The lines of doctor on a node, for a Service where one is named, and its exit code.
fn lines(rig: &Rig, node: usize, service: Option<&str>) -> (Option<i32>, Vec<String>) {
    let mut arguments = vec!["doctor"];
    arguments.extend(service);
    let output = ask(rig, node, &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    (
        output.status.code(),
        text.lines().map(str::to_owned).collect(),
    )
}

/// Asks again where a loaded machine took longer than [`edgelb::lab::daemon::LONGEST_COMMAND`].
fn ask(rig: &Rig, node: usize, arguments: &[&str]) -> Output {
    eventually(2 * PATIENCE, || rig.daemons[node].ask(arguments).ok())
}

/// Whether a line is the finding that is looked for: of this level, with all the words, and a remedy.
fn is_it(line: &str, level: &str, words: &[&str]) -> bool {
    line.starts_with(&format!("{level}: "))
        && words.iter().all(|word| line.contains(word))
        && (level == "info" || line.contains("; remedy: "))
}

/// The cause is among the first three lines; it is looked for until it is, since the daemon needs its
/// time to see what happened. Gives the exit code.
#[track_caller]
fn names_on(rig: &Rig, node: usize, service: Option<&str>, level: &str, words: &[&str]) {
    let begun = Instant::now();
    loop {
        let (code, lines) = lines(rig, node, service);
        if lines.iter().take(3).any(|line| is_it(line, level, words)) {
            let problem = lines.iter().any(|line| line.starts_with("problem: "));
            assert_eq!(code, Some(i32::from(problem)), "{lines:#?}");
            return;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{level} {words:?} is not in the first three lines:\n{}",
            lines.join("\n")
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The same on the first node.
#[track_caller]
fn names(rig: &Rig, service: Option<&str>, level: &str, words: &[&str]) {
    names_on(rig, 0, service, level, words);
}

/// The findings as an object of its schema.
fn findings(rig: &Rig, node: usize, service: Option<&str>) -> Vec<Value> {
    let mut arguments = vec!["doctor", "-o", "json"];
    arguments.extend(service);
    let output = ask(rig, node, &arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../../schemas/doctor.json")).unwrap();
    assert_eq!(validator::problems(&schema, &report), Vec::<String>::new());
    report["findings"].as_array().unwrap().clone()
}

/// A shell command in a node.
fn run(rig: &Rig, node: usize, command: &str) {
    tool(rig.node(node), "sh", &["-ec", command]).unwrap();
}
