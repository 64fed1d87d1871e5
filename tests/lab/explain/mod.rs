//! What `edgelb explain` says, each time beside what a real connection gets in the same moment; the
//! same on both datapaths.

mod kernel;
mod nothing;
mod troubles;
mod working;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use edgelb::lab::Namespace;
use edgelb::lab::client::{Answer, Protocol, RequestError};
use serde_json::Value;

use super::rig::{PATIENCE, Rig, START, eventually, ipvs, request, spread};
use crate::demo::validator::problems;

const TCP: Protocol = Protocol::Tcp;

/// What the command says, and how it ends.
struct Told {
    exit: i32,
    json: Value,
}

impl Told {
    /// The first line: the verdict.
    fn verdict(&self) -> &str {
        self.json["answer"][0].as_str().unwrap()
    }

    fn answer(&self) -> String {
        let lines = self.json["answer"].as_array().unwrap().iter();
        let lines: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
        lines.join("\n")
    }

    /// The only frontend.
    fn frontend(&self) -> &Value {
        let frontends = self.json["frontends"].as_array().unwrap();
        assert_eq!(frontends.len(), 1, "{:#}", self.json);
        &frontends[0]
    }

    fn fate(&self) -> &str {
        self.frontend()["fate"].as_str().unwrap()
    }

    /// The addresses of the endpoints that are used.
    fn used(&self) -> BTreeSet<IpAddr> {
        let endpoints = self.frontend()["endpoints"].as_array().unwrap().iter();
        let used = endpoints.filter(|endpoint| endpoint["used"] == true);
        used.map(|endpoint| endpoint["address"].as_str().unwrap().parse().unwrap())
            .collect()
    }

    fn seen_as(&self) -> BTreeSet<IpAddr> {
        let seen = self.frontend()["seen_as"].as_array().unwrap().iter();
        seen.map(|seen| seen.as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// Why an endpoint is not used.
    fn reason(&self, address: impl Into<IpAddr>) -> &str {
        let address = address.into().to_string();
        let mut endpoints = self.frontend()["endpoints"].as_array().unwrap().iter();
        let endpoint = endpoints.find(|endpoint| endpoint["address"] == address);
        endpoint.unwrap()["reason"]["label"].as_str().unwrap()
    }
}

/// Asks one daemon; its answer is as the schema says, and the words of the table are the same.
fn explain(rig: &Rig, daemon: usize, target: &str, from: Option<IpAddr>) -> Told {
    let from = from.map(|from| from.to_string());
    let mut arguments = vec!["explain", target];
    if let Some(from) = &from {
        arguments.extend(["--from", from]);
    }
    arguments.extend(["-o", "json"]);
    // An emulated machine that others keep busy may need more than the lab lets a command take.
    let patience = if ipvs() { START } else { PATIENCE };
    let ask = || rig.daemons[daemon].ask(&arguments);
    let output = eventually(patience, || match ask() {
        Err(error) if !ipvs() => panic!("{target}: {error}"),
        output => output.ok(),
    });
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "{target}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = include_str!("../../schemas/explain.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    assert_eq!(problems(&schema, &json), [""; 0], "{target}");
    let exit = output.status.code().unwrap();
    assert_eq!(exit, i32::from(json["works"] == false), "{json:#}");
    Told { exit, json }
}

fn tcp(to: SocketAddr) -> String {
    format!("{to}/tcp")
}

/// What is told and what happens are one: the workloads that answer are those that are named, and they
/// see the source that is named.
#[track_caller]
fn served(rig: &Rig, daemon: usize, from: &Namespace, source: IpAddr, to: SocketAddr) -> Told {
    rig.wait_served(from, to, TCP);
    let told = explain(rig, daemon, &tcp(to), Some(source));
    assert_eq!((told.exit, told.fate()), (0, "served"), "{:#}", told.json);
    let used = told.used();
    let (answered, seen) = spread(from, to, TCP, 12 * used.len());
    let address = |name: &String| {
        let address = rig.workload(name).address;
        if to.is_ipv4() {
            IpAddr::V4(address.ipv4)
        } else {
            IpAddr::V6(address.ipv6)
        }
    };
    let answered: BTreeSet<IpAddr> = answered.keys().map(address).collect();
    assert_eq!(answered, used, "{:#}", told.json);
    let told_seen = told.seen_as();
    assert!(seen.is_subset(&told_seen), "seen {seen:?}: {:#}", told.json);
    told
}

/// A connection is dropped in silence, and so it is told.
#[track_caller]
fn silent(result: &Result<Answer, RequestError>, told: &Told) {
    assert!(
        matches!(result, Err(RequestError::TimedOut)),
        "{result:?}: {:#}",
        told.json
    );
    assert_eq!((told.exit, told.fate()), (1, "dropped"), "{:#}", told.json);
}

/// Waits until a connection is refused, as it is told then.
#[track_caller]
fn refused(rig: &Rig, daemon: usize, from: &Namespace, source: IpAddr, to: SocketAddr) -> Told {
    rig.wait_refused(from, to, TCP);
    let told = explain(rig, daemon, &tcp(to), Some(source));
    assert_eq!(told.exit, 1, "{:#}", told.json);
    told
}
