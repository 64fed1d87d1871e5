//! `edgelb bench failover` as a user starts it: one run of each kind of LAN, and what it says.

use std::process::{Command, Output};

use serde_json::Value;

use crate::demo::validator;
use crate::rig::PROGRAM;

fn report(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let schema = include_str!("../../schemas/bench-failover.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    assert_eq!(validator::problems(&schema, &report), Vec::<String>::new());
    report
}

#[test]
fn it_prints_what_clients_saw_of_each_fault() {
    let output = Command::new(PROGRAM)
        .args(["bench", "failover", "--runs", "1", "-o", "json"])
        .output()
        .unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    let faults = report["faults"].as_array().unwrap();
    let names: Vec<_> = faults
        .iter()
        .map(|fault| fault["fault"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "daemon-kill",
            "node-off",
            "cable-pull",
            "membership-cut",
            "api-away",
            "freeze",
            "drain",
            "restart"
        ]
    );
    for fault in faults {
        assert_eq!(fault["runs"], 1, "{fault}");
        assert!(fault["p99_ms"].as_u64().unwrap() < 500, "{fault}");
        if fault["planned"] == true {
            assert_eq!(fault["lost"], 0, "{fault}");
        }
    }
    let peer = &report["peers"][0];
    assert!(peer["version"].is_string(), "{peer}");
    for fault in peer["faults"].as_array().unwrap() {
        assert_eq!(fault["runs"], 1, "{fault}");
    }
}

/// It says so and goes on.
#[test]
fn it_does_without_keepalived() {
    // In a mount namespace of its own, where the program is a file that cannot be run.
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount --bind /dev/null \"$(command -v keepalived || echo /usr/sbin/keepalived)\" && exec \"$@\"")
        .args(["sh", PROGRAM, "bench", "failover", "--runs", "1"])
        .args(["--faults", "restart", "-o", "json"])
        .output()
        .unwrap();
    let report = report(&output);
    assert!(output.status.success(), "{report:#}");
    assert_eq!(report["faults"][0]["lost"], 0);
    assert_eq!(report["peers"][0]["version"], Value::Null);
    assert!(report["peers"][0]["error"].is_string());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("keepalived is not installed"), "{stderr}");
}
