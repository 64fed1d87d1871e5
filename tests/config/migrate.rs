//! `edgelb migrate` as an operator runs it: what it prints is a file that `edgelb check` accepts.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::schema_validator::problems;

const EXPORT: &str = r"
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: main, namespace: metallb-system}
spec: {addresses: [192.0.2.0/25]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router, namespace: metallb-system}
";

fn edgelb(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_edgelb"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

#[test]
fn the_file_is_accepted_by_check() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edgelb.toml");
    let output = edgelb(&["migrate", "metallb", "-"], EXPORT);
    assert_eq!(output.status.code(), Some(0));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("one thing has no equivalent"), "{told}");
    std::fs::write(&file, &output.stdout).unwrap();
    let checked = edgelb(&["check", "-c", file.to_str().unwrap()], "");
    assert_eq!(
        checked.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

#[test]
fn json_is_as_the_schema_says() {
    let output = edgelb(&["migrate", "metallb", "-", "-o", "json"], EXPORT);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../schemas/migrate.json")).unwrap();
    assert_eq!(problems(&schema, &value), [""; 0], "{value}");
    assert_eq!(value["pools"], 1);
    assert_eq!(value["notes"][0]["weight"], "lost");
}

#[test]
fn what_cannot_be_used_is_named() {
    for (arguments, input, code, text) in [
        (&["migrate", "metallb", "-"][..], "kind: [", 2, "stdin:1:"),
        (
            &["migrate", "metallb", "/nowhere.yaml"],
            "",
            2,
            "cannot open /nowhere.yaml",
        ),
        (
            &["migrate", "metallb", "-"],
            "kind: Service",
            1,
            "there is no pool",
        ),
        (&["migrate", "kube-vip", "-"], "kind: Service", 1, "kubevip"),
        (&["migrate", "metallb"], "", 2, "FILE"),
    ] {
        let output = edgelb(arguments, input);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(text), "{arguments:?}: {told}");
    }
}
