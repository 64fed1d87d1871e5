//! The result as `-o json` prints it; `tests/schemas/bench-failover.json` describes it. Fields are
//! only ever added. For people the same is a line for each fault.

use std::time::Duration;

use serde::Serialize;

use super::fault::Fault;

/// The whole result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FailoverReport {
    /// One for each fault that was asked for.
    pub faults: Vec<FaultReport>,
    /// Who was measured beside edgelb.
    pub peers: Vec<PeerReport>,
    /// Edge nodes that took part.
    pub nodes: usize,
    /// The datapath in use.
    pub datapath: String,
    /// Why not everything was measured.
    pub error: Option<String>,
    pub elapsed_ms: u64,
}

/// What a client saw of one fault, in all its runs.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FaultReport {
    pub fault: &'static str,
    pub planned: bool,
    /// How often it was measured; fewer than asked for when something went wrong.
    pub runs: usize,
    /// Of the longest time between two answered requests in each run. `null` without a run.
    pub p50_ms: Option<u64>,
    pub p99_ms: Option<u64>,
    pub max_ms: Option<u64>,
    /// Requests that failed, in all runs.
    pub lost: u64,
    /// Requests that were sent, in all runs.
    pub requests: u64,
    /// Of the longest time in each run in which the question who has the VIP got no answer, which is
    /// what a client waits that does not know it yet.
    pub unresolved_p50_ms: Option<u64>,
    pub unresolved_p99_ms: Option<u64>,
    pub unresolved_max_ms: Option<u64>,
    /// The longest time in which two nodes said that they have the VIP.
    pub contention_max_ms: Option<u64>,
    /// What was done.
    pub description: &'static str,
    /// Why there are fewer runs than asked for.
    pub error: Option<String>,
}

/// Another program in the same LAN.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PeerReport {
    pub name: &'static str,
    /// As it says itself; `null` where it is not installed.
    pub version: Option<String>,
    /// From one sign of life to the next.
    pub advertisement_ms: u64,
    pub faults: Vec<FaultReport>,
    /// Why it was not measured.
    pub error: Option<String>,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// The longest time between two answered requests, of the worst prober.
    pub blackout: Duration,
    /// The longest time without an answer to the question who has the VIP.
    pub unresolved: Duration,
    /// The longest time in which two nodes said that they have it.
    pub contention: Duration,
    pub lost: u64,
    pub requests: u64,
}

impl FaultReport {
    pub(super) fn of(
        fault: Fault,
        description: &'static str,
        runs: &[Run],
        error: Option<&anyhow::Error>,
    ) -> Self {
        let blackout = sorted(runs, |run| run.blackout);
        let unresolved = sorted(runs, |run| run.unresolved);
        Self {
            fault: fault.name(),
            planned: fault.planned(),
            runs: runs.len(),
            p50_ms: percentile(&blackout, 50),
            p99_ms: percentile(&blackout, 99),
            max_ms: percentile(&blackout, 100),
            lost: runs.iter().map(|run| run.lost).sum(),
            requests: runs.iter().map(|run| run.requests).sum(),
            unresolved_p50_ms: percentile(&unresolved, 50),
            unresolved_p99_ms: percentile(&unresolved, 99),
            unresolved_max_ms: percentile(&unresolved, 100),
            contention_max_ms: percentile(&sorted(runs, |run| run.contention), 100),
            description,
            error: error.map(|error| format!("{error:#}")),
        }
    }

    /// The heads of the columns of [`Self::line`].
    pub(super) fn heads() -> String {
        format!(
            "{:<12} {:<15} {:>5} {:>8} {:>8} {:>8} {:>6} {:>9} {:>17}",
            "", "FAULT", "RUNS", "P50", "P99", "MAX", "LOST", "REQUESTS", "UNRESOLVED P50/99"
        )
    }

    /// One line for people.
    pub(super) fn line(&self, who: &str) -> String {
        let time = |value: Option<u64>| value.map_or("-".to_owned(), |value| format!("{value} ms"));
        let unresolved = match (self.unresolved_p50_ms, self.unresolved_p99_ms) {
            (Some(p50), Some(p99)) => format!("{p50}/{p99} ms"),
            _ => "-".to_owned(),
        };
        format!(
            "{:<12} {:<15} {:>5} {:>8} {:>8} {:>8} {:>6} {:>9} {:>17}",
            who,
            self.fault,
            self.runs,
            time(self.p50_ms),
            time(self.p99_ms),
            time(self.max_ms),
            self.lost,
            self.requests,
            unresolved,
        )
    }
}

fn sorted(runs: &[Run], of: impl Fn(&Run) -> Duration) -> Vec<Duration> {
    let mut all: Vec<_> = runs.iter().map(of).collect();
    all.sort_unstable();
    all
}

/// The nearest rank: the least value that this share of the values does not exceed. In whole
/// milliseconds, rounded.
fn percentile(sorted: &[Duration], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    let value = sorted.get(rank - 1)?;
    u64::try_from((value.as_micros() + 500) / 1000).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cli::validator;

    fn run(milliseconds: u64) -> Run {
        Run {
            blackout: Duration::from_millis(milliseconds),
            unresolved: Duration::from_millis(2 * milliseconds),
            contention: Duration::ZERO,
            lost: 1,
            requests: 10,
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let of = |runs: &[u64]| {
            let runs: Vec<_> = runs.iter().copied().map(run).collect();
            let report = FaultReport::of(Fault::NodeOff, "", &runs, None);
            (report.p50_ms, report.p99_ms, report.max_ms, report.lost)
        };
        assert_eq!(of(&[]), (None, None, None, 0));
        assert_eq!(of(&[7]), (Some(7), Some(7), Some(7), 1));
        assert_eq!(of(&[4, 1, 3, 2]), (Some(2), Some(4), Some(4), 4));
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(of(&hundred), (Some(50), Some(99), Some(100), 100));
        assert_eq!(
            percentile(&[Duration::from_micros(1_499)], 50),
            Some(1),
            "rounded to the nearest"
        );
    }

    #[test]
    fn the_report_is_as_its_schema_says_whole_and_empty() {
        let schema = serde_json::from_str(include_str!(
            "../../../../tests/schemas/bench-failover.json"
        ))
        .unwrap();
        let problems = |report: &FailoverReport| {
            validator::problems(&schema, &serde_json::to_value(report).unwrap())
        };
        let mut report = FailoverReport {
            faults: Vec::new(),
            peers: Vec::new(),
            nodes: 3,
            datapath: "nftables".to_owned(),
            error: Some("interrupted".to_owned()),
            elapsed_ms: 0,
        };
        assert_eq!(problems(&report), Vec::<String>::new());
        let error = anyhow::anyhow!("no other node took over");
        report.faults = Fault::ALL
            .map(|fault| FaultReport::of(fault, fault.description(), &[run(3)], None))
            .to_vec();
        report
            .faults
            .push(FaultReport::of(Fault::Drain, "", &[], Some(&error)));
        report.peers = vec![PeerReport {
            name: "keepalived",
            version: Some("2.2.7".to_owned()),
            advertisement_ms: 100,
            faults: report.faults.clone(),
            error: None,
        }];
        report.error = None;
        assert_eq!(problems(&report), Vec::<String>::new());
        report.datapath = "ebpf".to_owned();
        assert_eq!(problems(&report).len(), 1);
    }
}
