//! Claims against `ConfigMaps` that are written by version.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::shard::Unreadable;
use super::*;
use crate::api_server::scripted::{Asked, Reply, Scripted};
use crate::model::service::ServiceKey;

const COLLECTION: &str = "/api/v1/namespaces/edge/configmaps";

/// What is answered instead, and whether what was asked is done all the same.
type Fault = fn(&Asked) -> Option<(Reply, bool)>;

/// The `ConfigMaps` by name, and which requests fail.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
    fault: Option<Fault>,
}

impl Store {
    fn put(&mut self, name: &str, mut object: Value) -> Reply {
        self.version += 1;
        object["metadata"]["name"] = name.into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object["metadata"]["managedFields"] = json!([{"manager": "somebody"}]);
        self.objects.insert(name.to_owned(), object.clone());
        Reply::object(&object)
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        match self.fault.and_then(|fault| fault(asked)) {
            None => self.serve(asked),
            Some((reply, done)) => {
                if done {
                    self.serve(asked);
                }
                reply
            }
        }
    }

    fn serve(&mut self, asked: &Asked) -> Reply {
        let name = asked.target.strip_prefix(COLLECTION).expect("ConfigMaps");
        let name = name.trim_start_matches('/').to_owned();
        let name = match asked.method.as_str() {
            "POST" => asked.body["metadata"]["name"].as_str().unwrap().to_owned(),
            _ => name,
        };
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        match (asked.method.as_str(), self.objects.get(&name)) {
            ("GET", Some(object)) => Reply::object(object),
            ("POST", None) => self.put(&name, asked.body.clone()),
            ("PUT", Some(object)) if version(object) == version(&asked.body) => {
                self.put(&name, asked.body.clone())
            }
            ("POST" | "PUT", Some(_)) => Reply::refusal(409, "modified"),
            _ => Reply::refusal(404, "not found"),
        }
    }
}

struct Rig {
    scripted: Scripted,
    server: Arc<Server>,
    store: Arc<Mutex<Store>>,
}

impl Rig {
    async fn start() -> Self {
        let store = Arc::new(Mutex::new(Store::default()));
        let shared = Arc::clone(&store);
        let scripted = Scripted::start(move |asked| shared.lock().unwrap().answer(asked)).await;
        let server = scripted.server();
        Self {
            scripted,
            server,
            store,
        }
    }

    fn with<T>(&self, edit: impl FnOnce(&mut Store) -> T) -> T {
        edit(&mut self.store.lock().unwrap())
    }

    async fn load(&self) -> Claims {
        let place = Place {
            namespace: "edge".to_owned(),
            lease: "edgelb".to_owned(),
        };
        Claims::load(place, &self.server).await.expect("claims")
    }

    /// What was asked since, as `PUT a`.
    fn asked_since(&self, from: usize) -> Vec<String> {
        let asked = self.scripted.asked().split_off(from);
        let mut asked: Vec<String> = (asked.iter())
            .map(|asked| {
                let name = asked.body["metadata"]["name"].as_str();
                let name = name.unwrap_or(&asked.target);
                format!("{} {}", asked.method, name.rsplit('-').next().unwrap())
            })
            .collect();
        asked.sort();
        asked
    }

    fn count(&self) -> usize {
        self.scripted.asked().len()
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name)
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn give(allocations: &mut Allocations, name: &str, last: &[u8]) {
    let addresses = last.iter().map(|last| ip(*last)).collect();
    allocations.set(&key(name), addresses, "edge-a");
}

fn fails(code: u16, done: bool) -> (Reply, bool) {
    (Reply::refusal(code, "no"), done)
}

#[tokio::test]
async fn only_what_changes_is_written() {
    let rig = Rig::start().await;
    let mut claims = rig.load().await;
    assert_eq!(rig.count(), 16);
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1, 2]);
    give(&mut wanted, "mail", &[17]);
    let committed = claims.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(committed, Committed { written: 2 });
    assert_eq!(rig.asked_since(16), ["POST 1", "POST 2"]);
    assert_eq!(claims.allocations(), &wanted);
    assert_eq!(rig.load().await.allocations(), &wanted);
    let before = rig.count();
    let nothing = claims.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(nothing, Committed { written: 0 });
    assert_eq!(rig.count(), before, "no request");
    wanted.release(&key("mail"), "edge-a");
    claims.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(rig.asked_since(before), ["PUT 1"]);
    let object = rig.with(|store| store.objects["edgelb-addresses-1"].clone());
    assert_eq!(object["data"].as_object().unwrap().len(), 1);
    assert_eq!(
        object["metadata"]["labels"]["app.kubernetes.io/managed-by"],
        "edgelb"
    );
    let sent = rig.scripted.asked().pop().unwrap().body;
    assert!(sent["metadata"]["managedFields"].is_null());
}

#[tokio::test]
async fn of_two_that_give_one_address_one_learns_of_the_other() {
    let rig = Rig::start().await;
    let mut first = rig.load().await;
    let mut second = rig.load().await;
    let mut wanted = first.allocations().clone();
    give(&mut wanted, "web", &[1]);
    first.commit(&rig.server, &wanted).await.unwrap();
    let mut other = second.allocations().clone();
    give(&mut other, "mail", &[1, 5]);
    let error = second.commit(&rig.server, &other).await.unwrap_err();
    let CommitError::Conflict { config_maps } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(config_maps, &["edgelb-addresses-1"]);
    assert_eq!(second.allocations().holders_of(ip(1)), [key("web")]);
    assert_eq!(
        second.allocations().addresses(&key("mail")),
        [ip(5)],
        "what succeeded is known"
    );
    assert!(!second.is_stale());
    // With the next plan both have what they may have.
    let mut wanted = second.allocations().clone();
    give(&mut wanted, "mail", &[17, 5]);
    second.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(rig.load().await.allocations(), &wanted);
}

#[tokio::test]
async fn a_write_whose_end_is_unknown_is_looked_at_before_the_next() {
    let rig = Rig::start().await;
    let mut claims = rig.load().await;
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    give(&mut wanted, "mail", &[2]);
    give(&mut wanted, "shop", &[3]);
    // One is done although it is said to have failed, one is not, one is refused.
    rig.with(|store| {
        store.fault = Some(|asked| {
            match asked.body["metadata"]["name"]
                .as_str()?
                .rsplit('-')
                .next()?
            {
                "1" => Some(fails(500, true)),
                "2" => Some(fails(504, false)),
                "3" => Some(fails(403, false)),
                _ => None,
            }
        });
    });
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    assert!(error.call().is_some(), "{error:?}");
    assert_eq!(
        claims.allocations().held(),
        0,
        "nothing is known to be held"
    );
    assert!(claims.is_stale());
    rig.with(|store| store.fault = None);
    let before = rig.count();
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    let CommitError::Conflict { config_maps } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(config_maps, &["edgelb-addresses-1"]);
    let asked = rig.asked_since(before);
    assert_eq!(asked, ["GET 1", "GET 2"], "what was refused did not change");
    assert_eq!(claims.allocations().holders_of(ip(1)), [key("web")]);
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "mail", &[2]);
    give(&mut wanted, "shop", &[3]);
    claims.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(rig.load().await.allocations(), &wanted);
}

#[tokio::test]
async fn a_commit_that_is_dropped_half_way_is_looked_at_before_the_next() {
    let rig = Rig::start().await;
    let mut claims = rig.load().await;
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    rig.with(|store| store.fault = Some(|_| Some((Reply::silent(), true))));
    let arrived = async {
        while rig.with(|store| store.objects.is_empty()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = claims.commit(&rig.server, &wanted) => panic!("{done:?}"),
        () = arrived => {}
    }
    assert!(claims.is_stale());
    rig.with(|store| store.fault = None);
    let looked = claims.commit(&rig.server, &wanted).await;
    assert!(
        matches!(looked, Err(CommitError::Conflict { .. })),
        "{looked:?}"
    );
    assert_eq!(claims.allocations().holders_of(ip(1)), [key("web")]);
}

#[tokio::test]
async fn one_that_was_taken_away_is_empty() {
    let rig = Rig::start().await;
    let mut claims = rig.load().await;
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    claims.commit(&rig.server, &wanted).await.unwrap();
    rig.with(|store| store.objects.clear());
    give(&mut wanted, "mail", &[17]);
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { .. }), "{error:?}");
    assert_eq!(claims.allocations().held(), 0);
    claims.commit(&rig.server, &wanted).await.unwrap();
    assert_eq!(rig.load().await.allocations(), &wanted);
}

#[tokio::test]
async fn a_namespace_that_is_not_there_is_told() {
    let rig = Rig::start().await;
    let mut claims = rig.load().await;
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    rig.with(|store| {
        store.fault = Some(|asked| match asked.method.as_str() {
            "POST" => Some((Reply::refusal(404, "namespaces \"edge\" not found"), false)),
            _ => None,
        });
    });
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    let said = error.call().expect("a refusal").to_string();
    assert!(said.contains("namespaces \"edge\" not found"), "{said}");
    assert!(!claims.is_stale());
}

#[tokio::test]
async fn entries_that_cannot_be_read_outlive_every_write() {
    let rig = Rig::start().await;
    rig.with(|store| {
        let data = json!({"192.0.2.17": "mine", "README": "hands off"});
        store.put("edgelb-addresses-1", json!({"metadata": {}, "data": data}))
    });
    let mut claims = rig.load().await;
    let unreadable: Vec<&str> = claims.unreadable().map(|claim| claim.key).collect();
    assert_eq!(unreadable, ["192.0.2.17", "README"]);
    assert_eq!(claims.reserved().collect::<Vec<_>>(), [ip(17)]);
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    claims.commit(&rig.server, &wanted).await.unwrap();
    let object = rig.with(|store| store.objects["edgelb-addresses-1"].clone());
    assert_eq!(object["data"]["192.0.2.17"], "mine");
    assert_eq!(object["data"]["README"], "hands off");
    assert!(object["data"]["192.0.2.1"].is_string());
    let before = rig.count();
    give(&mut wanted, "mail", &[17]);
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    let CommitError::Unreadable {
        address, reason, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*address, ip(17));
    assert!(matches!(reason, Unreadable::Value(_)), "{reason:?}");
    assert_eq!(rig.count(), before);
}

#[tokio::test]
async fn one_that_is_full_does_not_stop_the_others() {
    let rig = Rig::start().await;
    rig.with(|store| {
        let data = json!({"README": "x".repeat(LARGEST - 40)});
        store.put("edgelb-addresses-1", json!({"metadata": {}, "data": data}))
    });
    let mut claims = rig.load().await;
    let mut wanted = claims.allocations().clone();
    give(&mut wanted, "web", &[1]);
    give(&mut wanted, "mail", &[2]);
    let error = claims.commit(&rig.server, &wanted).await.unwrap_err();
    assert!(error.to_string().contains("edgelb-addresses-1"), "{error}");
    assert!(matches!(error, CommitError::TooLarge { .. }), "{error:?}");
    assert_eq!(claims.allocations().holders_of(ip(2)), [key("mail")]);
    assert!(claims.allocations().holders_of(ip(1)).is_empty());
}

#[tokio::test]
async fn what_cannot_be_read_is_not_taken_for_empty() {
    let rig = Rig::start().await;
    rig.with(|store| {
        store.fault = Some(|asked| asked.target.ends_with("-c").then(|| fails(403, false)));
    });
    let place = Place {
        namespace: "edge".to_owned(),
        lease: "edgelb".to_owned(),
    };
    let error = Claims::load(place, &rig.server).await.unwrap_err();
    assert_eq!(error.config_map, "edgelb-addresses-c");
    assert!(matches!(error.source, CallError::Forbidden { .. }));
}
