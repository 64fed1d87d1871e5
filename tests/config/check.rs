//! `edgelb check` as a process: exit codes, both forms of output, a reader that goes away.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs the program with the file on its standard input.
fn check(arguments: &[&str], text: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_edgelb"))
        .args(["check", "-c", "/dev/stdin"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_valid_file_ends_with_0_and_an_invalid_one_with_2() {
    let fine = check(&[], &format!("node.name = \"a\"\n{}", super::POOL));
    assert_eq!(fine.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(fine.stdout).unwrap(),
        "/dev/stdin: valid: 0 errors, 0 warnings\n"
    );

    let warned = check(&[], "node.name = \"a\"");
    assert_eq!(warned.status.code(), Some(0));
    assert_eq!(
        String::from_utf8(warned.stdout).unwrap(),
        "/dev/stdin: warning: pool: no pool: no LoadBalancer Service can get an address; \
         write: [[pool]] with name and addresses\n\
         /dev/stdin: valid: 0 errors, 1 warning\n"
    );

    let invalid = check(
        &[],
        &format!("node.name = \"a\"\nannounce.refresh = 60\n{}", super::POOL),
    );
    assert_eq!(invalid.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(invalid.stdout).unwrap(),
        "/dev/stdin:2: error: announce.refresh: wrong type: a duration in quotes is wanted, \
         this is a whole number; write: \"60s\"\n\
         /dev/stdin: invalid: 1 error, 0 warnings\n"
    );
    assert!(invalid.stderr.is_empty());
}

#[test]
fn json_holds_the_same() {
    let output = check(
        &["-o", "json"],
        &format!(
            "node.name = \"a\"\nproxy.scheduler = \"r\"\n{}",
            super::POOL
        ),
    );
    assert_eq!(output.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report,
        serde_json::json!({
            "file": "/dev/stdin",
            "valid": false,
            "problems": [{
                "level": "error",
                "key": "proxy.scheduler",
                "line": 2,
                "column": 19,
                "message": "unknown scheduler \"r\" (known: rr wrr lc wlc lblc lblcr dh sh sed nq fo ovf mh twos)",
                "suggestion": "\"rr\"",
            }],
        })
    );
    let fine = check(
        &["-o", "json"],
        &format!("node.name = \"a\"\n{}", super::POOL),
    );
    let report: Value = serde_json::from_slice(&fine.stdout).unwrap();
    assert_eq!(
        report,
        serde_json::json!({ "file": "/dev/stdin", "valid": true, "problems": [] })
    );
}

#[test]
fn wrong_usage_and_a_missing_file_end_with_2() {
    let program = env!("CARGO_BIN_EXE_edgelb");
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["check", "--no-such-option"],
        &["check", "-o", "xml"],
    ] {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}"
        );
    }
    let output = Command::new(program)
        .args(["check", "-c", "/nonexistent/edgelb.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = Command::new(env!("CARGO_BIN_EXE_edgelb"))
        .args([
            "check",
            "-c",
            concat!(env!("CARGO_MANIFEST_DIR"), "/config/edgelb.toml"),
        ])
        .stdout(writer)
        .stderr(Stdio::piped())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

/// The part of JSON Schema that the schema uses; an unknown keyword fails, so that none is ignored.
fn conforms(value: &Value, schema: &Value) {
    for (keyword, rule) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "title" | "description" => {}
            "type" => {
                let names = rule
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![rule.clone()]);
                let is = |name: &Value| match name.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "null" => value.is_null(),
                    other => panic!("type {other}"),
                };
                assert!(names.iter().any(is), "{value} is no {rule}");
            }
            "enum" => assert!(
                rule.as_array().unwrap().contains(value),
                "{value} is none of {rule}"
            ),
            "minimum" => assert!(
                value.is_null() || value.as_i64() >= rule.as_i64(),
                "{value} is below {rule}"
            ),
            "required" => {
                for name in rule.as_array().unwrap() {
                    assert!(
                        value.get(name.as_str().unwrap()).is_some(),
                        "{value} lacks {name}"
                    );
                }
            }
            "properties" => {
                for (name, member) in value.as_object().unwrap() {
                    conforms(
                        member,
                        rule.get(name)
                            .unwrap_or_else(|| panic!("the schema lacks {name}")),
                    );
                }
            }
            "items" => value
                .as_array()
                .unwrap()
                .iter()
                .for_each(|item| conforms(item, rule)),
            other => panic!("keyword {other}"),
        }
    }
}

#[test]
fn json_conforms_to_its_schema() {
    let schema: Value = serde_json::from_str(include_str!("../schemas/check.json")).unwrap();
    for text in [
        "",
        "node.name = 3",
        "[",
        "[[pool]]\ninterfaces = [\"nonexistent0\"]",
    ] {
        let report: Value = serde_json::from_slice(&check(&["-o", "json"], text).stdout).unwrap();
        assert!(!report["problems"].as_array().unwrap().is_empty(), "{text}");
        conforms(&report, &schema);
    }
}
