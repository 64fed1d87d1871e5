//! Endpoints that a TCP frontend sent connections to and that serve it no more: since when. Pure.
//!
//! In nftables a connection keeps its endpoint as long as it lasts, with nothing that counts it. So
//! that the drain deadline holds there as it does in IPVS (D-5), this remembers who left; what is
//! done about the connections is `conntrack`'s. An endpoint that still serves, but that a policy or a
//! hint takes new connections away from, has not left (POL-13).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::family::Protocol;
use crate::model::frontend::{Frontend, FrontendPort, RealServer, SourceClass};

/// Where a connection began, and where it was sent.
pub type Departed = (FrontendPort, RealServer);

/// Who left which frontend, and since when.
#[derive(Debug, Default)]
pub struct Departures {
    /// What was in force the last time.
    known: OrdMap<FrontendPort, Arc<Frontend>>,
    left: BTreeMap<Departed, Instant>,
    /// Their connections could not be ended: nobody is due before.
    postponed: Option<Instant>,
}

/// How long after a failure it is tried again to end connections.
const AGAIN_AFTER: Duration = Duration::from_mins(1);

impl Departures {
    /// Takes in what is in force from now on.
    pub fn note(&mut self, frontends: &OrdMap<FrontendPort, Arc<Frontend>>, now: Instant) {
        for difference in self.known.diff(frontends) {
            let (port, old, new) = match difference {
                DiffItem::Add(port, new) => (port, None, Some(new)),
                DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
                DiffItem::Remove(port, old) => (port, Some(old), None),
            };
            // UDP flows leave with their endpoint, and nobody knows the end of one.
            if port.protocol != Protocol::Tcp {
                continue;
            }
            let (old, new) = (serving(old), serving(new));
            for back in &new {
                self.left.remove(&(*port, *back));
            }
            for gone in old.difference(&new) {
                self.left.insert((*port, *gone), now);
            }
        }
        self.known = frontends.clone();
    }

    /// Whether nobody is waited for.
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Those whose time `is_over`, by how long they have been gone.
    pub fn due(&self, now: Instant, is_over: impl Fn(Duration) -> bool) -> BTreeSet<Departed> {
        if self.postponed.is_some_and(|until| now < until) {
            return BTreeSet::new();
        }
        let gone_for = |since: &Instant| now.saturating_duration_since(*since);
        let over = self
            .left
            .iter()
            .filter(|(_, since)| is_over(gone_for(since)));
        over.map(|(departed, _)| *departed).collect()
    }

    /// Waits before anybody is due again.
    pub fn postpone(&mut self, now: Instant) {
        self.postponed = Some(now + AGAIN_AFTER);
    }

    /// Forgets those whose connections are ended, or cannot be.
    pub fn forget(&mut self, ended: &BTreeSet<Departed>) {
        self.postponed = None;
        self.left.retain(|departed, _| !ended.contains(departed));
    }
}

/// Whoever some class of sources is sent to, or may keep the connections that it has.
fn serving(frontend: Option<&Arc<Frontend>>) -> BTreeSet<RealServer> {
    let lists = frontend.into_iter().flat_map(|frontend| {
        let listed = SourceClass::ALL.map(|class| frontend.real_servers(class));
        listed.into_iter().chain([&*frontend.keeps])
    });
    lists.flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;
    use crate::model::frontend::{ForwardingMethod, FrontendAddress, Treatment, Verdict};
    use crate::model::scheduler::Scheduler;
    use crate::model::service::ServiceKey;

    const MINUTE: Duration = Duration::from_mins(1);

    fn at(protocol: Protocol) -> FrontendPort {
        FrontendPort {
            address: FrontendAddress::Address([192, 0, 2, 200].into()),
            protocol,
            port: 80,
        }
    }

    fn real_server(last: u8) -> RealServer {
        RealServer {
            address: [10, 244, 0, last].into(),
            port: 8080,
        }
    }

    fn frontends(outside: &[u8], pods: &[u8]) -> OrdMap<FrontendPort, Arc<Frontend>> {
        keeping(outside, pods, &[])
    }

    /// Frontends for outside clients and for pods with these endpoints, by TCP and by UDP; others
    /// serve without new connections.
    fn keeping(outside: &[u8], pods: &[u8], keeps: &[u8]) -> OrdMap<FrontendPort, Arc<Frontend>> {
        let list = |list: &[u8]| Treatment {
            verdict: match list {
                [] => Verdict::Drop,
                list => Verdict::Forward(list.iter().map(|last| real_server(*last)).collect()),
            },
            masquerade: false,
        };
        let frontend = Frontend {
            service: ServiceKey::new("default", "web"),
            treatments: [list(outside), list(pods), list(pods), list(outside)],
            session_affinity: None,
            scheduler: Scheduler::Rr,
            allowed_sources: None,
            keeps: keeps.iter().map(|last| real_server(*last)).collect(),
            forwarding_method: ForwardingMethod::Masquerade,
        };
        let frontend = Arc::new(frontend);
        [Protocol::Tcp, Protocol::Udp]
            .map(|protocol| (at(protocol), Arc::clone(&frontend)))
            .into_iter()
            .collect()
    }

    #[test]
    fn the_clock_starts_when_an_endpoint_serves_no_more() {
        let start = Instant::now();
        let minute = |count: u32| start + MINUTE * count;
        let due = |departures: &Departures, now: Instant| -> usize {
            departures.due(now, |age| age >= 15 * MINUTE).len()
        };
        let mut departures = Departures::default();
        departures.note(&keeping(&[1, 2], &[1, 2], &[1, 2]), minute(0));
        // A policy takes 2 off every list, and it goes on serving.
        departures.note(&keeping(&[1], &[1], &[1, 2]), minute(1));
        departures.note(&keeping(&[], &[], &[1, 2]), minute(2));
        assert!(departures.is_empty());
        departures.note(&keeping(&[1], &[1], &[1]), minute(30));
        assert_eq!(due(&departures, minute(44)), 0);
        assert_eq!(due(&departures, minute(45)), 1);
        // It serves again before its time is over, in no list yet.
        departures.note(&keeping(&[1], &[1], &[1, 2]), minute(40));
        assert!(departures.is_empty());
    }

    #[test]
    fn after_a_failure_nobody_is_due_for_a_minute() {
        let start = Instant::now();
        let mut departures = Departures::default();
        departures.note(&frontends(&[1, 2], &[1]), start);
        departures.note(&frontends(&[1], &[1]), start);
        let due = |departures: &Departures, seconds: u64| {
            departures.due(start + Duration::from_secs(seconds), |_| true)
        };
        assert_eq!(due(&departures, 10).len(), 1);
        departures.postpone(start + Duration::from_secs(10));
        assert!(!departures.is_empty());
        assert_eq!(due(&departures, 69).len(), 0);
        let ended = due(&departures, 70);
        assert_eq!(ended.len(), 1);
        departures.forget(&ended);
        assert!(departures.is_empty());
    }

    #[test]
    fn whoever_left_every_list_is_due_after_the_deadline_unless_it_came_back() {
        let start = Instant::now();
        let minute = |count: u32| start + MINUTE * count;
        let due = |departures: &Departures, now: Instant| -> Vec<u8> {
            let due = departures.due(now, |age| age >= 15 * MINUTE);
            assert!(due.iter().all(|(port, _)| *port == at(Protocol::Tcp)));
            (1..9)
                .filter(|last| due.contains(&(at(Protocol::Tcp), real_server(*last))))
                .collect()
        };
        let mut departures = Departures::default();
        departures.note(&frontends(&[1, 2], &[1, 2, 3]), minute(0));
        assert!(departures.is_empty());
        // Pods still go to 2: only 3 left everywhere.
        departures.note(&frontends(&[1], &[1, 2]), minute(1));
        departures.note(&frontends(&[1], &[1]), minute(2));
        departures.note(&frontends(&[1], &[1]), minute(9));
        assert_eq!(due(&departures, minute(15)), [0; 0]);
        assert_eq!(due(&departures, minute(16)), [3]);
        assert_eq!(due(&departures, minute(17)), [2, 3]);
        departures.note(&frontends(&[1, 3], &[1, 3]), minute(17));
        assert_eq!(due(&departures, minute(60)), [2]);
        let ended = departures.due(minute(60), |_| true);
        departures.forget(&ended);
        assert!(departures.is_empty());
        // With the frontend go all of its endpoints.
        departures.note(&OrdMap::new(), minute(61));
        assert_eq!(due(&departures, minute(76)), [1, 3]);
    }
}
