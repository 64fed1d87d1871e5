//! The demo's result as `-o json` prints it; `tests/schemas/demo.json` describes it. Fields are only
//! ever added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use serde::Serialize;

use crate::lab::client::{Answer, RequestError};

/// A longer list is for programs.
const LONGEST_LIST: usize = 8;

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
    pub drain: Option<DrainReport>,
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

/// One owner that gave its VIP up on purpose, and who took it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DrainReport {
    pub from: String,
    pub to: String,
    /// The longest time between two answers.
    pub blackout_ms: u64,
    /// New connections meanwhile.
    pub requests: u64,
    pub succeeded: u64,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
}

/// A number of requests and what became of them.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Requests {
    #[serde(rename = "requests")]
    pub sent: u64,
    pub succeeded: u64,
    /// Answers by the name of the workload.
    pub by_workload: BTreeMap<String, u64>,
    /// The client addresses that each workload saw.
    pub client_seen_as: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
}

impl Requests {
    pub(super) fn record(&mut self, result: Result<Answer, RequestError>) {
        self.sent += 1;
        match result {
            Ok(answer) => {
                self.succeeded += 1;
                self.client_seen_as
                    .entry(answer.workload.clone())
                    .or_default()
                    .insert(answer.seen.ip());
                *self.by_workload.entry(answer.workload).or_default() += 1;
            }
            Err(error) => *self.failed.entry(error.to_string()).or_default() += 1,
        }
    }

    /// In one line: who answered how many, and whom they saw.
    pub(super) fn summary(&self) -> String {
        let by_workload = self.by_workload.iter().map(|(name, count)| {
            let seen = self
                .client_seen_as
                .get(name)
                .into_iter()
                .flatten()
                .map(ToString::to_string);
            format!("{name} {count} (saw {})", list(seen))
        });
        let failed = self
            .failed
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        let details = list(failed.chain(by_workload));
        let separator = if details.is_empty() { "" } else { ": " };
        format!(
            "{} of {} answered{separator}{details}",
            self.succeeded, self.sent
        )
    }
}

/// Words with commas between them; of many words only the first.
pub(super) fn list(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<_> = words.into_iter().collect();
    let more = words.len().saturating_sub(LONGEST_LIST);
    if more > 1 {
        words.truncate(LONGEST_LIST);
        words.push(format!("{more} more"));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::validator;
    use std::time::Duration;

    fn requests() -> Requests {
        let mut requests = Requests::default();
        let seen = "192.0.2.50:4711".parse().unwrap();
        requests.record(Ok(Answer {
            workload: "web-1".to_owned(),
            seen,
            text: "hello".to_owned(),
            elapsed: Duration::ZERO,
        }));
        requests.record(Err(RequestError::TimedOut));
        requests
    }

    fn problems(report: &DemoReport) -> Vec<String> {
        let schema =
            serde_json::from_str(include_str!("../../../tests/schemas/demo.json")).unwrap();
        validator::problems(&schema, &serde_json::to_value(report).unwrap())
    }

    #[test]
    fn the_report_is_as_its_schema_says_whole_and_empty() {
        let address = Ipv4Addr::new(192, 0, 2, 200);
        let from = |from: &str| FromReport {
            from: from.to_owned(),
            requests: requests(),
        };
        let mut report = DemoReport {
            result: Outcome::Failed,
            datapath: "auto".to_owned(),
            nodes: Vec::new(),
            services: Vec::new(),
            node_port: None,
            cluster_ip: None,
            takeover: None,
            drain: None,
            error: Some("interrupted".to_owned()),
            elapsed_ms: 0,
        };
        assert_eq!(problems(&report), Vec::<String>::new());
        report.nodes.push(NodeReport {
            name: "edge-a".to_owned(),
            address,
            mac: "02:00:00:00:00:01".to_owned(),
        });
        report.services.push(ServiceReport {
            name: "default/web".to_owned(),
            vip: address,
            owner: "edge-a".to_owned(),
            owner_mac: "02:00:00:00:00:01".to_owned(),
            external_traffic_policy: "Local",
            requests: requests(),
        });
        report.node_port = Some(NodePortReport {
            node: "edge-a".to_owned(),
            address,
            port: 30_080,
            requests: requests(),
        });
        report.cluster_ip = Some(ClusterIpReport {
            address,
            port: 80,
            from_workload: from("web-1"),
            from_node: from("edge-a"),
        });
        report.takeover = Some(TakeoverReport {
            from: "edge-a".to_owned(),
            to: "edge-b".to_owned(),
            blackout_ms: 9,
            takeover_ms: 150,
            requests: requests(),
        });
        report.drain = Some(DrainReport {
            from: "edge-b".to_owned(),
            to: "edge-c".to_owned(),
            blackout_ms: 7,
            requests: 100,
            succeeded: 99,
            failed: BTreeMap::from([("reset".to_owned(), 1)]),
        });
        assert_eq!(problems(&report), Vec::<String>::new());
        report.datapath = "ebpf".to_owned();
        assert_eq!(
            problems(&report),
            ["$.datapath: \"ebpf\" is not one of [\"auto\",\"ipvs\",\"nftables\"]"]
        );
    }

    #[test]
    fn a_summary_is_short_for_people() {
        assert_eq!(
            requests().summary(),
            "1 of 2 answered: 1 timed out, web-1 1 (saw 192.0.2.50)"
        );
        assert_eq!(Requests::default().summary(), "0 of 0 answered");
        assert_eq!(
            list((1..=9).map(|number| number.to_string())),
            "1, 2, 3, 4, 5, 6, 7, 8, 9"
        );
        assert_eq!(
            list((1..=11).map(|number| number.to_string())),
            "1, 2, 3, 4, 5, 6, 7, 8, 3 more"
        );
    }
}
