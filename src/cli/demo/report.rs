//! The demo's result as `-o json` prints it; `tests/schemas/demo.json` describes it. Fields are only
//! ever added.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::lab::client::{Answer, RequestError};

/// The whole result. What was not reached before a failure is `null` or empty.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DemoReport {
    pub result: Outcome,
    /// The datapath in use, or the one asked for while that is unknown.
    pub datapath: String,
    pub nodes: Vec<NodeReport>,
    pub services: Vec<ServiceReport>,
    pub node_port: Option<NodePortReport>,
    pub cluster_ip: Option<ClusterIpReport>,
    pub takeover: Option<TakeoverReport>,
    /// Why the result is "failed".
    pub error: Option<String>,
    pub elapsed_ms: u64,
}

/// Whether everything that was shown is as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Ok,
    Failed,
}

/// An edge node.
#[derive(Debug, Clone, Serialize)]
pub(super) struct NodeReport {
    pub name: String,
    pub address: Ipv4Addr,
    pub mac: String,
}

/// A Service reached by its VIP from the client.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ServiceReport {
    pub name: String,
    pub vip: Ipv4Addr,
    /// The only node that answers ARP for the VIP.
    pub owner: String,
    pub owner_mac: String,
    pub external_traffic_policy: &'static str,
    #[serde(flatten)]
    pub requests: Requests,
}

/// A Service reached by a node's address from the client.
#[derive(Debug, Clone, Serialize)]
pub(super) struct NodePortReport {
    pub node: String,
    pub address: Ipv4Addr,
    pub port: u16,
    #[serde(flatten)]
    pub requests: Requests,
}

/// A Service reached by its `ClusterIP` from inside the cluster.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ClusterIpReport {
    pub address: Ipv4Addr,
    pub port: u16,
    pub from_workload: FromReport,
    pub from_node: FromReport,
}

/// Requests from one place.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FromReport {
    pub from: String,
    #[serde(flatten)]
    pub requests: Requests,
}

/// One node's death, and who took its VIP over.
#[derive(Debug, Clone, Serialize)]
pub(super) struct TakeoverReport {
    pub from: String,
    pub to: String,
    /// The longest time in which no new connection to the VIP was answered.
    pub blackout_ms: u64,
    /// From the kill until only the new owner answered ARP.
    pub takeover_ms: u64,
    #[serde(flatten)]
    pub requests: Requests,
}

/// A number of requests and what became of them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Requests {
    pub requests: u64,
    pub succeeded: u64,
    /// Answers by the name of the workload.
    pub by_workload: BTreeMap<String, u64>,
    /// Answers by the client address that the workload saw.
    pub by_client_address: BTreeMap<IpAddr, u64>,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
}

impl Requests {
    pub(super) fn record(&mut self, result: Result<Answer, RequestError>) {
        self.requests += 1;
        match result {
            Ok(answer) => {
                self.succeeded += 1;
                *self.by_workload.entry(answer.workload).or_default() += 1;
                *self.by_client_address.entry(answer.seen.ip()).or_default() += 1;
            }
            Err(error) => *self.failed.entry(error.to_string()).or_default() += 1,
        }
    }

    /// In one line: who answered how many, and whom they saw.
    pub(super) fn summary(&self) -> String {
        let mut parts = vec![format!("{} of {} answered", self.succeeded, self.requests)];
        if !self.by_workload.is_empty() {
            parts.push(list(
                self.by_workload
                    .iter()
                    .map(|(name, count)| format!("{name} {count}")),
            ));
            parts.push(format!(
                "client seen as {}",
                list(self.by_client_address.keys().map(ToString::to_string))
            ));
        }
        if !self.failed.is_empty() {
            parts.push(list(
                self.failed
                    .iter()
                    .map(|(reason, count)| format!("{count} {reason}")),
            ));
        }
        parts.join("; ")
    }
}

/// Words with commas between them.
pub(super) fn list(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}
