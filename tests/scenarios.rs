//! Golden scenarios: a directory of manifests, a configuration and a host in; what this node would
//! hold out, in the words that `ipvsadm`, `nft`, `ip` and `kubectl` users read.
//!
//! `UPDATE_EXPECTED=1 cargo test --test scenarios` writes the expected files anew; review the diff.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

#[path = "scenarios/difference.rs"]
mod difference;
#[path = "scenarios/render.rs"]
mod render;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use difference::difference;
use edgelb::apply::forwarder::Forwarder;
use edgelb::apply::nftables::{Layout, describe, describe_chains};
use edgelb::apply::route;
use edgelb::apply::virtual_servers::desired;
use edgelb::config::{Config, Environment, parse};
use edgelb::model::family::Family;
use edgelb::plan::{Inputs, plan};
use edgelb::source::manifest::read_directory;

/// A test for each case, so that they run and are filtered by name.
macro_rules! cases {
    ($($test:ident = $directory:literal,)*) => {
        $(
            #[test]
            fn $test() {
                check($directory);
            }
        )*

        const CASES: &[&str] = &[$($directory,)*];
    };
}

cases! {
    cluster_ip = "cluster-ip",
    node_port = "node-port",
    load_balancer_cluster = "load-balancer-cluster",
    load_balancer_local = "load-balancer-local",
    load_balancer_local_elsewhere = "load-balancer-local-elsewhere",
    multi_port = "multi-port",
    no_endpoints = "no-endpoints",
    shared_node_port_conflict = "shared-node-port-conflict",
    external_ip_refused = "external-ip-refused",
    two_nodes_owner = "two-nodes-owner",
    dual_stack = "dual-stack",
    session_affinity = "session-affinity",
    allocations_kept = "allocations-kept",
    pool_exhausted = "pool-exhausted",
    by_status = "by-status",
    by_status_one_address = "by-status-one-address",
    seed_document = "seed-document",
    kubernetes_1_36 = "kubernetes-1.36",
}

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn configuration(case: &Path) -> Config {
    let environment = Environment {
        host_name: "edge-a".to_owned(),
        interfaces: None,
    };
    let text = read(&case.join("edgelb.toml"));
    match parse(&text, &environment) {
        Ok(loaded) => {
            assert_eq!(loaded.warnings, [], "{}: no warnings", case.display());
            loaded.config
        }
        Err(problems) => panic!("{}: {problems:?}", case.display()),
    }
}

fn check(name: &str) {
    let case = scenarios().join(name);
    let readme = read(&case.join("README"));
    assert_eq!(readme.lines().count(), 1, "{name}: the README is one line");
    let config = configuration(&case);
    let mut inputs = Inputs {
        node: config.node.name.clone(),
        address_source: config.source.kind.into(),
        host: serde_json::from_str(&read(&case.join("host.json"))).expect("host.json"),
        ..Inputs::default()
    };
    let allocations = case.join("allocations.json");
    if allocations.exists() {
        inputs.allocations = serde_json::from_str(&read(&allocations)).expect("allocations.json");
    }
    let (changes, problems) = read_directory(&case.join("manifests"));
    assert!(!changes.is_empty(), "{name}: there are manifests");
    for change in changes {
        inputs.cluster.apply(change);
    }
    let plan = plan(&config, &inputs);
    let nftables = Layout::new(Forwarder::Nftables);
    let expected = [
        ("ipvs.save", desired::describe(&plan.state)),
        ("ruleset.nft", describe(&plan.state, nftables)),
        ("routes.txt", route::describe(&plan.state)),
        ("announcements.txt", render::announcements(&plan)),
        ("status.yaml", render::status(&inputs, &plan, &problems)),
    ];
    let wrong: Vec<String> = expected
        .into_iter()
        .filter_map(|(file, found)| compare(&case.join(file), &found))
        .collect();
    assert!(wrong.is_empty(), "{name}: {readme}\n{}", wrong.join("\n"));
}

/// The difference between a file and what was found, if there is one; none after an update.
fn compare(path: &Path, found: &str) -> Option<String> {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(path, found).expect("write");
        return None;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let file = path
        .strip_prefix(env!("CARGO_MANIFEST_DIR"))
        .unwrap_or(path);
    difference(&expected, found).map(|lines| {
        format!(
            "--- {} (UPDATE_EXPECTED=1 rewrites it)\n{lines}",
            file.display()
        )
    })
}

#[test]
fn every_directory_is_a_case() {
    let directories: BTreeSet<String> = fs::read_dir(scenarios())
        .expect("scenarios")
        .map(|entry| entry.expect("entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().expect("text"))
        .collect();
    let cases: BTreeSet<String> = CASES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(directories, cases);
}

#[test]
fn the_chains_are_the_same_for_every_case() {
    let layout = Layout::new(Forwarder::Nftables);
    let files = [
        ("chains.nft", describe_chains(layout)),
        (
            "chains-restricted-forwarding.nft",
            describe_chains(layout.restrict_forwarding(&Family::BOTH)),
        ),
    ];
    for (file, found) in files {
        if let Some(wrong) = compare(&scenarios().join(file), &found) {
            panic!("{wrong}");
        }
    }
}
