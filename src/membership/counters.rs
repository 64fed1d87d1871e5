//! What membership counts. Every clone counts into the same metrics; labels are bounded by the states
//! and results, never by what a datagram says.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::core::{Accepted, Refusal};
use super::seal::OpenError;
use crate::model::peer::{Peers, Presence};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// The counters since the start.
#[derive(Debug, Clone, Default)]
pub struct MembershipCounters {
    received: Family<ResultLabels, Counter>,
    sent: Family<ResultLabels, Counter>,
    sent_octets: Counter,
    peers: Family<StateLabels, Gauge>,
}

/// What became of a datagram that was received.
pub const RECEIVED: [&str; 10] = [
    "accepted",
    "second_copy",
    "foreign",
    "unknown_key",
    "forged",
    "malformed",
    "replayed",
    "other_run",
    "own_name",
    "own",
];

impl MembershipCounters {
    /// Adds the metrics to the registry, which prefixes their names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "membership_datagrams_received",
            "Datagrams of membership that came, by what was done with them",
            self.received.clone(),
        );
        registry.register(
            "membership_datagrams_sent",
            "Datagrams of membership by whether they could be sent",
            self.sent.clone(),
        );
        registry.register(
            "membership_sent_bytes",
            "Octets of the datagrams that were sent, each counted once",
            self.sent_octets.clone(),
        );
        registry.register("peers", "Other nodes by state", self.peers.clone());
    }

    /// Datagrams received that ended with this one of [`RECEIVED`].
    pub fn received(&self, result: &'static str) -> u64 {
        self.received.get_or_create(&ResultLabels { result }).get()
    }

    /// Datagrams that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
            .get_or_create(&ResultLabels { result: "sent" })
            .get()
    }

    /// Octets that were sent.
    pub fn sent_octets(&self) -> u64 {
        self.sent_octets.get()
    }

    pub(super) fn count_unopened(&self, error: OpenError) {
        self.count(match error {
            OpenError::Foreign => "foreign",
            OpenError::UnknownKey => "unknown_key",
            OpenError::Forged => "forged",
            OpenError::Malformed(_) => "malformed",
        });
    }

    pub(super) fn count_opened(&self, result: Result<Accepted, Refusal>) {
        self.count(match result {
            Ok(Accepted::Fresh | Accepted::Handshake) => "accepted",
            Ok(Accepted::OtherWay) => "second_copy",
            Err(Refusal::Replayed) => "replayed",
            Err(Refusal::OtherRun | Refusal::TooMany) => "other_run",
            Err(Refusal::OwnName) => "own_name",
            Err(Refusal::Own) => "own",
        });
    }

    fn count(&self, result: &'static str) {
        self.received.get_or_create(&ResultLabels { result }).inc();
    }

    pub(super) fn count_sent(&self, sent: bool, octets: usize) {
        let result = if sent { "sent" } else { "failed" };
        self.sent.get_or_create(&ResultLabels { result }).inc();
        if sent {
            self.sent_octets.inc_by(octets as u64);
        }
    }

    pub(super) fn show(&self, peers: &Peers) {
        for (state, presence) in [
            ("alive", Presence::Alive),
            ("restarting", Presence::Restarting),
            ("down", Presence::Down),
        ] {
            let count = peers
                .members
                .values()
                .filter(|peer| peer.presence == presence)
                .count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.peers.get_or_create(&StateLabels { state }).set(count);
        }
    }
}
