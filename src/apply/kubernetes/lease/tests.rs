//! The task against one Lease that is written as the API server writes it: by version.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::api_server::scripted::{Asked, Reply, Scripted};

const LIMIT: Duration = Duration::from_secs(20);
const LEASE_PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/edgelb";

/// The methods that are answered otherwise, and how.
type Fault = (&'static [&'static str], fn() -> Reply);

/// The one Lease, and what goes wrong with it.
#[derive(Default)]
struct Store {
    lease: Option<Value>,
    version: u64,
    fault: Option<Fault>,
}

impl Store {
    fn put(&mut self, mut lease: Value) -> Reply {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.lease = Some(lease.clone());
        Reply::object(&lease)
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        if let Some((methods, reply)) = self.fault
            && methods.contains(&asked.method.as_str())
        {
            return reply();
        }
        let known = asked.method == "POST" || asked.target == LEASE_PATH;
        assert!(known, "{asked:?}");
        match (asked.method.as_str(), &self.lease) {
            ("GET", Some(lease)) => Reply::object(lease),
            ("POST", None) => self.put(asked.body.clone()),
            ("POST", Some(_)) => Reply::refusal(409, "already exists"),
            ("PUT", Some(lease)) => {
                let version = |lease: &Value| lease["metadata"]["resourceVersion"].clone();
                if version(lease) == version(&asked.body) {
                    self.put(asked.body.clone())
                } else {
                    Reply::refusal(409, "the object has been modified")
                }
            }
            _ => Reply::refusal(404, "not found"),
        }
    }

    fn spec(&self) -> LeaseSpec {
        serde_json::from_value(self.lease.as_ref().expect("a Lease")["spec"].clone()).unwrap()
    }
}

struct Rig {
    scripted: Scripted,
    store: Arc<Mutex<Store>>,
}

struct Running {
    leadership: watch::Receiver<Leadership>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Rig {
    async fn start(store: Store) -> Self {
        let store = Arc::new(Mutex::new(store));
        let shared = Arc::clone(&store);
        let scripted = Scripted::start(move |asked| shared.lock().unwrap().answer(asked)).await;
        Self { scripted, store }
    }

    fn with<T>(&self, edit: impl FnOnce(&mut Store) -> T) -> T {
        edit(&mut self.store.lock().unwrap())
    }

    fn run(&self, node: &str) -> Running {
        let settings = LeaseSettings {
            duration: Duration::from_secs(2),
            renew_deadline: Duration::from_millis(1500),
            retry: Duration::from_millis(40),
            refused_retry: Duration::from_millis(80),
            ..LeaseSettings::new("kube-system", "edgelb", node)
        };
        let (sender, leadership) = watch::channel(Leadership::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(run(settings, self.scripted.server(), sender, stopped));
        Running {
            leadership,
            stop,
            task,
        }
    }

    /// Another holder's record.
    fn held_by_another() -> Value {
        json!({
            "metadata": {"name": "edgelb", "namespace": "kube-system", "uid": "u", "labels": {"a": "b"}},
            "spec": {
                "holderIdentity": "other_1", "leaseDurationSeconds": 1, "leaseTransitions": 4,
                "renewTime": "2026-07-01T08:00:00.000000Z", "acquireTime": "2026-07-01T08:00:00.000000Z",
            },
        })
    }
}

impl Running {
    async fn until(&mut self, holds: impl Fn(&Leadership) -> bool) -> Leadership {
        let told = timeout(LIMIT, self.leadership.wait_for(|told| holds(told))).await;
        told.expect("in time").expect("runs").clone()
    }

    async fn until_leading(&mut self) -> Instant {
        let told = self.until(|told| told.leads_at(Instant::now())).await;
        match told {
            Leadership::Leading { until } => until,
            other => panic!("{other:?}"),
        }
    }

    async fn stop(self) -> Leadership {
        self.stop.send(true).unwrap();
        timeout(LIMIT, self.task)
            .await
            .expect("in time")
            .expect("no panic");
        self.leadership.borrow().clone()
    }
}

#[tokio::test]
async fn a_lease_is_created_renewed_and_given_back() {
    let rig = Rig::start(Store::default()).await;
    let mut edge = rig.run("edge-a");
    let first = edge.until_leading().await;
    let created = rig.with(|store| store.spec());
    let holder = created.holder_identity.clone().unwrap();
    assert!(holder.starts_with("edge-a_"), "{holder}");
    let later = |told: &Leadership| matches!(told, Leadership::Leading { until } if *until > first);
    edge.until(later).await;
    let renewed = rig.with(|store| store.spec());
    assert_eq!(renewed.acquire_time, created.acquire_time);
    assert!(renewed.renew_time.unwrap().0 > created.renew_time.unwrap().0);
    assert_eq!(renewed.lease_transitions, Some(0));
    assert_eq!(edge.stop().await, Leadership::Unknown);
    let given_back = rig.with(|store| store.spec());
    assert_eq!(given_back.holder_identity.as_deref(), Some(""));
    assert_eq!(given_back.lease_duration_seconds, Some(1));
}

#[tokio::test]
async fn a_dead_holder_is_followed_as_long_as_it_promised() {
    let rig = Rig::start(Store::default()).await;
    rig.with(|store| store.put(Rig::held_by_another()));
    let mut edge = rig.run("edge-a");
    let other = Leadership::Following {
        holder: "other_1".to_owned(),
    };
    edge.until(|told| *told == other).await;
    // It lives: once more after a half of its time, whatever its clock says.
    tokio::time::sleep(Duration::from_millis(500)).await;
    rig.with(|store| {
        let mut lease = Rig::held_by_another();
        lease["spec"]["renewTime"] = "2020-01-01T00:00:00.000000Z".into();
        store.put(lease)
    });
    let renewed = Instant::now();
    edge.until_leading().await;
    assert!(
        renewed.elapsed() >= Duration::from_secs(1),
        "{:?}",
        renewed.elapsed()
    );
    let lease = rig.with(|store| store.lease.clone()).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 5);
    assert_eq!(lease["metadata"]["labels"]["a"], "b", "others' fields stay");
}

#[tokio::test]
async fn one_of_three_leads_and_the_next_takes_over_when_it_stops() {
    let rig = Rig::start(Store::default()).await;
    let mut edges = vec![rig.run("edge-a"), rig.run("edge-b"), rig.run("edge-c")];
    while edges.len() > 1 {
        for edge in &mut edges {
            let settled = |told: &Leadership| match told {
                Leadership::Leading { .. } => true,
                Leadership::Following { holder } => !holder.is_empty(),
                _ => false,
            };
            edge.until(settled).await;
        }
        let now = Instant::now();
        let leading: Vec<usize> = (0..edges.len())
            .filter(|at| edges[*at].leadership.borrow().leads_at(now))
            .collect();
        assert!(leading.len() <= 1, "{leading:?}");
        if let Some(leader) = leading.first() {
            edges.remove(*leader).stop().await;
            for edge in &mut edges {
                // Whatever was told before the change.
                edge.leadership.mark_unchanged();
                timeout(LIMIT, edge.leadership.changed())
                    .await
                    .unwrap()
                    .unwrap();
            }
        } else {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    edges[0].until_leading().await;
}

#[tokio::test]
async fn edits_and_deletion_by_others_do_not_end_a_leadership() {
    let rig = Rig::start(Store::default()).await;
    let mut edge = rig.run("edge-a");
    edge.until_leading().await;
    let version = rig.with(|store| {
        let mut lease = store.lease.clone().unwrap();
        lease["metadata"]["labels"] = json!({"by": "somebody"});
        store.put(lease);
        store.version
    });
    let renewed = |told: &Leadership| {
        let leads = told.leads_at(Instant::now());
        assert!(leads, "{told:?}");
        rig.with(|store| store.version) > version
    };
    edge.until(renewed).await;
    let labels = rig.with(|store| store.lease.clone().unwrap()["metadata"]["labels"].clone());
    assert_eq!(labels, json!({"by": "somebody"}));
    rig.with(|store| store.lease = None);
    edge.until(|told| {
        assert!(told.leads_at(Instant::now()), "{told:?}");
        rig.with(|store| store.lease.is_some())
    })
    .await;
}

#[tokio::test]
async fn a_lost_race_is_no_leadership() {
    let rig = Rig::start(Store {
        fault: Some((&["PUT", "POST"], || Reply::refusal(409, "modified"))),
        ..Store::default()
    })
    .await;
    let mut edge = rig.run("edge-a");
    let nobody = Leadership::Following {
        holder: String::new(),
    };
    edge.until(|told| *told == nobody).await;
    rig.with(|store| store.fault = None);
    edge.until_leading().await;
}

#[tokio::test]
async fn a_missing_verb_makes_a_reader_until_it_is_given() {
    let forbidden = || Reply::refusal(403, "edge-a cannot create resource \"leases\"");
    let rig = Rig::start(Store {
        fault: Some((&["POST"], forbidden)),
        ..Store::default()
    })
    .await;
    let mut edge = rig.run("edge-a");
    let told = edge
        .until(|told| matches!(told, Leadership::Refused { .. }))
        .await;
    assert_eq!(
        told,
        Leadership::Refused {
            verb: Verb::Create,
            resource: RESOURCE,
            message: "edge-a cannot create resource \"leases\"".to_owned(),
        }
    );
    rig.with(|store| store.fault = None);
    edge.until_leading().await;
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_is() {
    let busy = || Reply {
        retry_after: Some(1),
        ..Reply::refusal(429, "too many requests")
    };
    let rig = Rig::start(Store {
        fault: Some((&["GET"], busy)),
        ..Store::default()
    })
    .await;
    let begun = Instant::now();
    let mut edge = rig.run("edge-a");
    edge.until(|told| matches!(told, Leadership::Unreachable { .. }))
        .await;
    rig.with(|store| store.fault = None);
    edge.until_leading().await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let reads = (rig.scripted.asked().iter())
        .filter(|asked| asked.method == "GET")
        .count();
    assert_eq!(reads, 2, "not asked meanwhile");
}

#[tokio::test]
async fn a_leader_that_is_not_heard_ends_in_time_and_may_come_back() {
    let rig = Rig::start(Store::default()).await;
    let mut edge = rig.run("edge-a");
    edge.until_leading().await;
    rig.with(|store| store.fault = Some((&["GET", "PUT"], Reply::silent)));
    let last = match edge.leadership.borrow().clone() {
        Leadership::Leading { until } => until,
        other => panic!("{other:?}"),
    };
    edge.until(|told| matches!(told, Leadership::Unreachable { .. }))
        .await;
    // One renewal may have been under way.
    let late = Instant::now().saturating_duration_since(last);
    assert!(late < Duration::from_millis(2500), "{late:?}");
    rig.with(|store| store.fault = None);
    edge.until_leading().await;
    assert_eq!(rig.with(|store| store.spec().lease_transitions), Some(0));
}

#[tokio::test]
async fn stopped_within_a_renewal_it_still_gives_the_lease_back() {
    let rig = Rig::start(Store::default()).await;
    let mut edge = rig.run("edge-a");
    edge.until_leading().await;
    // The version changes unseen, as by a renewal whose answer was not waited for.
    rig.with(|store| {
        store.fault = Some((&["PUT"], Reply::silent));
        let lease = store.lease.clone().unwrap();
        store.put(lease);
    });
    let puts = |rig: &Rig| rig.scripted.asked().len();
    let before = puts(&rig);
    timeout(LIMIT, async {
        while puts(&rig) == before {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("a renewal");
    rig.with(|store| store.fault = None);
    edge.stop().await;
    assert_eq!(
        rig.with(|store| store.spec()).holder_identity.as_deref(),
        Some("")
    );
}
