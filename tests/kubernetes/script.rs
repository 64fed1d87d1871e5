//! What the scripted server knows: collections with their history, and the faults that are still to
//! come. Serves the recorded bytes as they are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use edgelb::source::kubernetes::kind::Watched;
use serde_json::{Value, json};

use crate::http::Answer;
use crate::objects::Store;
use crate::roles::{Roles, User, forbidden};
use crate::target::Target;
use crate::write_faults::{Cuts, WriteFaults};

/// What the next request for a collection meets instead of an answer.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// The connection is closed without an answer.
    Closed,
    /// No answer comes.
    Unanswered,
    /// A watch that breaks after so many lines, within a line or at its end.
    Broken { lines: usize, half: bool },
    /// A watch that says nothing.
    Silent,
    /// A watch that the server ends at once, in order.
    Ended,
    /// A watch that answers with an ERROR event of this code.
    Error(u16),
    /// A watch with a line that is no JSON.
    Garbage,
}

/// How the server treats `sendInitialEvents`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// As a server does that has it.
    Served,
    /// Refused with 422.
    Refused,
    /// Not known: answered as if it were not there.
    Unknown,
}

/// One collection.
#[derive(Debug, Default)]
pub struct Collection {
    /// By namespace and name; the bytes as they are served.
    pub objects: BTreeMap<String, String>,
    /// Version and line of each event.
    pub log: Vec<(u64, String)>,
    pub version: u64,
    /// Watches from before this version are refused.
    pub oldest: u64,
    /// Recorded events that have not happened yet.
    pub script: VecDeque<String>,
    /// Objects that lists and watches do not show, as those of a server that lags behind.
    pub hidden: BTreeSet<String>,
}

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub token: String,
    pub content_type: String,
    pub body: String,
}

impl Request {
    pub fn watched(&self) -> Option<Watched> {
        Watched::ALL
            .into_iter()
            .find(|kind| kind.path() == self.path)
    }

    pub fn is_watch(&self) -> bool {
        self.query.contains_key("watch")
    }

    pub fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// Everything that the server knows.
#[derive(Debug)]
pub struct Script {
    pub collections: BTreeMap<Watched, Collection>,
    pub faults: BTreeMap<Watched, VecDeque<Fault>>,
    pub requests: Vec<Request>,
    pub streaming: Streaming,
    /// A token that is let in; the others are those of `users`.
    pub token: String,
    /// Who is let in, by token.
    pub users: BTreeMap<String, User>,
    /// What everybody may do; `None`: everything.
    pub roles: Option<Roles>,
    /// What was asked for and no role allows.
    pub forbidden: Vec<(User, Target)>,
    /// Everything that is not watched.
    pub store: Store,
    pub write_faults: WriteFaults,
    pub cuts: Cuts,
    /// How long the server takes for a write, as one with a disk does.
    pub write_latency: Duration,
    pub bookmarks: Duration,
    /// Nobody is answered.
    pub down: bool,
}

pub fn recorded(name: &str) -> String {
    let path: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests/fixtures/kubernetes-1.36/streams",
        name,
    ]
    .iter()
    .collect();
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file(kind: Watched) -> String {
    kind.to_string()
}

/// The objects of a recorded list, and its version.
pub fn recorded_list(kind: Watched, which: &str) -> (BTreeMap<String, String>, u64) {
    let list: Value =
        serde_json::from_str(&recorded(&format!("{}.{which}.json", file(kind)))).expect("a list");
    let objects = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| (key(item), item.to_string()))
        .collect();
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("version");
    (objects, version.parse().expect("a number"))
}

pub fn key(object: &Value) -> String {
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    format!("{namespace}/{}", metadata["name"].as_str().expect("name"))
}

fn version(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.expect("version").parse().expect("a number")
}

/// Namespaces were not recorded: these are made up, in the shape in which a server of this version
/// has them. Every one that recorded objects are in is there.
fn namespaces() -> Collection {
    let names = ["default", "infra", "kube-system", "shop"];
    let objects = names.map(|name| {
        let object = namespace(name, &[]);
        (key(&object), object.to_string())
    });
    Collection {
        objects: objects.into(),
        version: 228,
        oldest: 228,
        ..Collection::default()
    }
}

/// `ServiceCIDRs` were not recorded: this one is made up, in the shape in which a server of this
/// version has the one that it makes from its own flags.
fn service_cidrs() -> Collection {
    let object = service_cidr("kubernetes", &["10.96.0.0/16", "fd00:10:96::/112"]);
    Collection {
        objects: [(key(&object), object.to_string())].into(),
        version: 228,
        oldest: 228,
        ..Collection::default()
    }
}

/// A `ServiceCIDR` with these ranges.
pub fn service_cidr(name: &str, ranges: &[&str]) -> Value {
    json!({
        "metadata": {
            "name": name,
            "uid": format!("7d1f0c4e-0000-4000-8000-{:012x}", name.len()),
            "resourceVersion": "31",
            "creationTimestamp": "2026-11-22T17:29:00Z",
            "finalizers": ["networking.k8s.io/service-cidr-finalizer"],
        },
        "spec": {"cidrs": ranges},
        "status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": "Kubernetes Service CIDR is ready",
            "lastTransitionTime": "2026-11-22T17:29:00Z",
        }]},
    })
}

/// A Namespace with these labels beside the one that every Namespace has.
pub fn namespace(name: &str, labels: &[(&str, &str)]) -> Value {
    let mut object = json!({
        "metadata": {
            "name": name,
            "uid": format!("6d1f0c4e-0000-4000-8000-{:012x}", name.len()),
            "resourceVersion": "30",
            "creationTimestamp": "2026-11-22T17:29:00Z",
            "labels": {"kubernetes.io/metadata.name": name},
            "managedFields": [{
                "manager": "kube-apiserver", "operation": "Update", "apiVersion": "v1",
                "time": "2026-11-22T17:29:00Z", "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:kubernetes.io/metadata.name": {}}}},
            }],
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    });
    for (label, value) in labels {
        object["metadata"]["labels"][label] = json!(value);
    }
    object
}

impl Script {
    /// The recorded initial lists, with the recorded streams still to come.
    pub fn recorded() -> Self {
        let collections = Watched::ALWAYS.map(|kind| {
            let (objects, version) = recorded_list(kind, "initial");
            let lines = recorded(&format!("{}.watch.jsonl", file(kind)));
            let collection = Collection {
                objects,
                log: Vec::new(),
                version,
                oldest: version,
                script: lines.lines().map(str::to_owned).collect(),
                hidden: BTreeSet::new(),
            };
            (kind, collection)
        });
        let collections = collections.into_iter().chain([
            (Watched::Namespaces, namespaces()),
            (Watched::ServiceCidrs, service_cidrs()),
        ]);
        Self {
            collections: collections.collect(),
            faults: BTreeMap::new(),
            requests: Vec::new(),
            streaming: Streaming::Served,
            token: "first".to_owned(),
            users: BTreeMap::new(),
            roles: None,
            forbidden: Vec::new(),
            store: Store::default(),
            write_faults: WriteFaults::default(),
            cuts: Cuts::default(),
            write_latency: Duration::ZERO,
            bookmarks: Duration::from_millis(50),
            down: false,
        }
    }

    pub fn collection(&mut self, kind: Watched) -> &mut Collection {
        self.collections.get_mut(&kind).expect("all are there")
    }

    pub fn fault(&mut self, kind: Watched, fault: Fault) {
        self.faults.entry(kind).or_default().push_back(fault);
    }

    /// The next version of the one counter that all objects share.
    pub fn next_version(&mut self) -> u64 {
        let versions = self.collections.values().map(|it| it.version);
        let next = versions.max().unwrap_or(0).max(self.store.version) + 1;
        self.store.version = next;
        next
    }

    /// Lets a token in as a user of these groups.
    pub fn let_in(&mut self, token: &str, name: &str, groups: &[&str]) {
        let user = User {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        };
        self.users.insert(token.to_owned(), user);
    }

    /// From now on the roles of `config/kubernetes/rbac.yaml` count, and nothing else is allowed.
    pub fn enforce_roles(&mut self) {
        self.roles = Some(Roles::of_file());
    }

    /// Whose token it is; `None`: nobody's.
    pub fn user(&self, token: &str) -> Option<User> {
        let anonymous = (token == self.token).then(User::default);
        self.users.get(token).cloned().or(anonymous)
    }

    /// The refusal of what no role allows; it is kept.
    pub fn check_roles(&mut self, user: &User, target: &Target) -> Option<Answer> {
        let roles = self.roles.as_ref()?;
        // Everybody may ask what they may do, as `system:basic-user` has it.
        if target.resource == "selfsubjectaccessreviews" || roles.allows(user, target).is_some() {
            return None;
        }
        self.forbidden.push((user.clone(), target.clone()));
        Some(forbidden(user, target))
    }

    /// Lists and watches of a kind that were asked for.
    pub fn asked(&self, kind: Watched) -> impl Iterator<Item = &Request> {
        self.requests
            .iter()
            .filter(move |request| request.watched() == Some(kind) && request.method == "GET")
    }
}

impl Collection {
    /// What lists show.
    pub fn shown(&self) -> impl Iterator<Item = &String> {
        let shown = self
            .objects
            .iter()
            .filter(|(key, _)| !self.hidden.contains(*key));
        shown.map(|(_, object)| object)
    }

    /// Lets so many recorded events happen; `usize::MAX` for all.
    pub fn play(&mut self, events: usize) {
        for _ in 0..events {
            let Some(line) = self.script.pop_front() else {
                return;
            };
            self.happen(line);
        }
    }

    fn happen(&mut self, line: String) {
        let event: Value = serde_json::from_str(&line).expect("an event");
        let object = &event["object"];
        if event["type"] == "DELETED" {
            self.objects.remove(&key(object));
        } else {
            self.objects.insert(key(object), object.to_string());
        }
        self.version = version(object);
        self.log.push((self.version, line));
    }

    /// An event of our own making, one version later.
    pub fn change(&mut self, kind: &str, object: Value) {
        self.change_at(self.version + 1, kind, object);
    }

    /// An event of our own making with a version of the counter that all objects share.
    pub fn change_at(&mut self, version: u64, kind: &str, mut object: Value) {
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.happen(json!({"type": kind, "object": object}).to_string());
    }

    /// Jumps to the final list, and nobody can know how.
    pub fn jump_to_final(&mut self, kind: Watched) {
        let (objects, version) = recorded_list(kind, "final");
        self.objects = objects;
        self.version = version;
        self.forget();
        self.script.clear();
    }

    /// Forgets the history: watches from before are refused.
    pub fn forget(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.log.clear();
    }
}
