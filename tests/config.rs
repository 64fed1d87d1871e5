//! The configuration as an operator meets it: each problem's exact line, the reference file, `check`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeSet;
use std::path::Path;

use edgelb::config::file::known_keys;
use edgelb::config::{Config, Environment, Level, Loaded, Problem, duration, load, parse};

#[path = "config/check.rs"]
mod check;
#[path = "config/generate.rs"]
mod generate;
#[path = "config/migrate.rs"]
mod migrate;
#[path = "config/problems.rs"]
mod problems;
#[path = "config/properties.rs"]
mod properties;
#[path = "schemas/validator.rs"]
mod schema_validator;

const REFERENCE: &str = include_str!("../config/edgelb.toml");

/// A pool that is fine, so that a test's own problem is the only one.
const POOL: &str = "[[pool]]\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n";

fn environment() -> Environment {
    let interfaces = ["lo", "eth0", "eth1"].map(str::to_owned).to_vec();
    Environment {
        host_name: "Edge-1".to_owned(),
        interfaces: Some(interfaces),
    }
}

/// Every problem as `check` prints it, for a file called F.
fn lines(text: &str) -> Vec<String> {
    let problems = match parse(text, &environment()) {
        Ok(Loaded { warnings, .. }) => warnings,
        Err(problems) => problems,
    };
    problems
        .iter()
        .map(|problem| problem.describe(Path::new("F")))
        .collect()
}

fn config(text: &str) -> Config {
    match parse(text, &environment()) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems:#?}"),
    }
}

/// The reference file with its examples in force.
fn uncommented() -> String {
    let example = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
    REFERENCE
        .lines()
        .map(|line| if example(&line) { &line[1..] } else { line })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_reference_file_equals_the_defaults() {
    let loaded = parse(REFERENCE, &environment()).unwrap();
    assert_eq!(loaded.config, Config::defaults("edge-1"));
    assert_eq!(loaded.config, config(""));
    let warnings: Vec<&str> = loaded
        .warnings
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    assert_eq!(warnings, ["pool"], "only that there is no pool");
}

#[test]
fn the_commented_examples_are_valid() {
    let text = uncommented();
    let loaded = parse(&text, &environment()).unwrap();
    assert_eq!(loaded.warnings, []);
    let pool = &loaded.config.pools[0];
    assert_eq!(
        *pool,
        edgelb::model::pool::Pool::new("default", pool.ranges.clone()),
        "its values are the defaults"
    );
    assert_eq!(pool.ranges.len(), 3);
    assert_eq!(loaded.config.node.name, "edge-1");
    assert_eq!(
        loaded.config.source.kubernetes.kubeconfig.as_deref(),
        Some(Path::new("/etc/edgelb/kubeconfig"))
    );
}

#[test]
fn the_reference_file_names_every_key_and_no_other() {
    let table: toml::Table = uncommented().parse().unwrap();
    let mut written = BTreeSet::new();
    collect("", &toml::Value::Table(table), &mut written);
    assert_eq!(written, known_keys());
    assert!(
        known_keys().contains("pool.prefer") && known_keys().contains("source.kubernetes.lease")
    );
}

fn collect(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                collect(&path, value, keys);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for item in items {
                collect(path, item, keys);
            }
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

#[test]
fn each_key_of_the_reference_file_has_a_comment() {
    let mut before = "";
    for line in REFERENCE.lines() {
        let key = line
            .strip_prefix('#')
            .filter(|line| !line.starts_with([' ', '[']))
            .unwrap_or(line);
        if key.contains(" = ") && !line.starts_with("# ") {
            assert!(before.starts_with("# "), "no comment above: {line}");
        }
        before = line;
    }
}

#[test]
fn every_value_reaches_the_configuration() {
    let text = r#"
        [node]
        name = "edge-7"
        state_dir = "/srv/state"
        runtime_dir = "/srv/run"
        [source]
        kind = "manifests"
        [source.kubernetes]
        kubeconfig = "/srv/kubeconfig"
        lease = "net/lead"
        [source.manifests]
        dir = "/srv/manifests"
        [load_balancer]
        class = "example.com/edge"
        default = false
        [[pool]]
        name = "a"
        addresses = ["198.51.100.10-198.51.100.20", "2001:db8::/64"]
        auto_assign = false
        priority = 7
        avoid_buggy_ips = true
        namespaces = ["web"]
        namespace_selector = ["team in (a,b)"]
        service_selector = ["app=web,tier!=db", "!internal"]
        share_across_namespaces = true
        forwarding_methods = ["masquerade", "direct-routing"]
        interfaces = ["eth*"]
        prefer = ["zone in (a,b)"]
        [announce]
        gratuitous_burst = ["0s", "1s"]
        refresh = "0s"
        exclude_interfaces = ["eth1"]
        node_selector = ["edge"]
        ping = false
        [membership]
        listen = "[2001:db8:1::1]:99"
        peers = ["edge-2.example.net:9751", "[2001:db8:1::2]:9751", "192.0.2.2:1"]
        key_files = ["/srv/new", "/srv/old"]
        probe_interval = "250ms"
        restart_grace = "0s"
        preempt = true
        [proxy]
        datapath = "nftables"
        scope = "external"
        scheduler = "mh"
        strict_arp = false
        node_port_range = "20000-20100"
        node_port_addresses = ["192.0.2.0/24"]
        cluster_cidrs = ["10.244.0.0/16", "fd00:10:244::/56"]
        cluster_interfaces = ["eth*"]
        service_cidrs = ["10.96.0.0/12"]
        external_ip_ranges = ["203.0.113.0/24"]
        cluster_ip_from_outside = true
        masquerade_all = true
        mark_mask = 0xff000000
        min_sync_interval = "0s"
        resync_interval = "1m"
        drain_deadline = "0s"
        tcp_timeout = "1h30m"
        tcp_fin_timeout = "30s"
        udp_timeout = "1m"
        [observability]
        listen = "[::1]:1"
        health_listen = "0.0.0.0:2"
        log_format = "json"
        log_level = "trace"
    "#;
    assert_eq!(lines(text), [""; 0]);
    let config = config(text);
    let expected = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/config/every_value.json"
    ));
    let read = serde_json::to_string_pretty(&config).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(expected, read).unwrap();
    } else {
        assert_eq!(read, std::fs::read_to_string(expected).unwrap());
    }
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(
        serde_json::from_str::<Config>(&written).unwrap(),
        config,
        "recorded inputs read back"
    );
    let defaults = Config::defaults("edge-1");
    let (one, other) = (
        serde_json::to_value(&config).unwrap(),
        serde_json::to_value(&defaults).unwrap(),
    );
    let mut same = Vec::new();
    equal_leaves("", &one, &other, &mut same);
    assert_eq!(
        same, [""; 0],
        "a value that equals its default would prove nothing"
    );
}

fn equal_leaves(
    path: &str,
    one: &serde_json::Value,
    other: &serde_json::Value,
    same: &mut Vec<String>,
) {
    match (one.as_object(), other.as_object()) {
        (Some(one), Some(other)) if !one.contains_key("secs") => {
            for (key, value) in one {
                equal_leaves(&format!("{path}.{key}"), value, &other[key], same);
            }
        }
        _ if one == other => same.push(path.to_owned()),
        _ => {}
    }
}

#[test]
fn the_host_name_is_lower_cased_and_must_be_a_node_name() {
    assert_eq!(config(POOL).node.name, "edge-1");
    let environment = Environment {
        host_name: "edge_1".to_owned(),
        interfaces: None,
    };
    let problems = parse(POOL, &environment).unwrap_err();
    assert_eq!(
        problems[0].describe(Path::new("F")),
        "F: error: node.name: the host name \"edge_1\" is not a node name; write: name = \"NODE\""
    );
    assert!(parse(&format!("node.name = \"edge-1\"\n{POOL}"), &environment).is_ok());
}

#[test]
fn unknown_interfaces_bring_no_warnings() {
    let environment = Environment {
        interfaces: None,
        ..environment()
    };
    let text = format!("{POOL}interfaces = [\"wlan0\"]");
    assert_eq!(parse(&text, &environment).unwrap().warnings, []);
}

#[test]
fn duration_examples() {
    for (text, nanoseconds) in [
        ("0s", 0),
        ("2.2s", 2_200_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5ms", 1_500_000),
        ("1h1m1s1ms1us1ns", 3_661_001_001_001),
        ("0.000000001s", 1),
        ("1d", 86_400_000_000_000),
    ] {
        assert_eq!(
            duration::parse(text).unwrap().as_nanos(),
            nanoseconds,
            "{text}"
        );
    }
    for text in [
        "",
        "s",
        "1",
        "1.s",
        ".5s",
        "1..5s",
        "1 s",
        "-1s",
        "1x",
        "0.0000000001s",
        "99999999999999999999d",
        "1s2",
    ] {
        assert!(duration::parse(text).is_err(), "{text}");
    }
}

#[test]
fn files_that_cannot_be_read() {
    let directory = std::env::temp_dir().join(format!("edgelb-config-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let error = |path: &Path| load(path, &environment()).unwrap_err().to_string();
    let missing = directory.join("missing.toml");
    assert_eq!(
        error(&missing),
        format!(
            "{}: error: there is no such file: name the configuration with --config FILE",
            missing.display()
        )
    );
    assert_eq!(
        error(&directory),
        format!(
            "{}: error: this is a directory, not a file",
            directory.display()
        )
    );
    assert_eq!(
        error(Path::new("/dev/zero")),
        "/dev/zero: error: the file is larger than 1048576 bytes"
    );
    let file = directory.join("edgelb.toml");
    let shown = file.display();
    std::fs::write(&file, b"[node]\nname = \"\xff\"\n").unwrap();
    assert_eq!(
        error(&file),
        format!("{shown}:2:9: error: the file is not UTF-8 text")
    );
    std::fs::write(&file, b"[node]\n\0\n").unwrap();
    assert_eq!(
        error(&file),
        format!("{shown}:2:1: error: the file holds a NUL byte: it is not text")
    );
    std::fs::write(&file, POOL).unwrap();
    assert_eq!(load(&file, &environment()).unwrap().warnings, []);
    std::fs::write(&file, format!("\u{feff}{}", POOL.replace('\n', "\r\n"))).unwrap();
    assert_eq!(
        load(&file, &environment()).unwrap().warnings,
        [],
        "a byte order mark and CRLF are text"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
