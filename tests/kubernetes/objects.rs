//! Leases, `ConfigMaps` and Events as a server keeps them: created once, replaced by whoever saw the
//! last version, refused with the words of the real server.

use std::collections::BTreeMap;

use edgelb::source::kubernetes::kind::Watched;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::events::v1::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::http::Answer;
use crate::roles::User;
use crate::script::{Request, Script};
use crate::service_status;
use crate::target::Target;
use crate::validation::{Cause, config_map, event, exact_times, lease};

/// What is kept, and what new objects get.
#[derive(Debug, Default)]
pub struct Store {
    /// The last version that was given away.
    pub version: u64,
    /// How many uids were given away.
    uids: u64,
    ports: u64,
    addresses: u64,
    /// By resource, then by namespace and name.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
}

impl Store {
    /// One that no object had before.
    pub fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.uids)
    }

    /// A node port that no Service got before, as long as the range lasts.
    pub fn new_node_port(&mut self) -> u64 {
        self.ports += 1;
        30000 + self.ports % 2768
    }

    /// A cluster address that no Service got before.
    pub fn new_cluster_address(&mut self, family: &str) -> String {
        self.addresses += 1;
        let number = self.addresses + 256;
        if family == "IPv6" {
            return format!("fd00:10:96::{number:x}");
        }
        format!("10.96.{}.{}", (number >> 8) & 0xff, number & 0xff)
    }

    /// Everything of a resource (`leases`, `configmaps`, `events`), by namespace and name.
    pub fn of(&self, resource: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.objects.get(resource).into_iter().flatten()
    }

    pub fn get(&self, resource: &str, key: &str) -> Option<&Value> {
        self.objects.get(resource)?.get(key)
    }

    pub fn put(&mut self, resource: &str, key: String, object: Value) {
        let objects = self.objects.entry(resource.to_owned()).or_default();
        objects.insert(key, object);
    }

    /// Somebody deletes it.
    pub fn delete(&mut self, resource: &str, key: &str) -> Option<Value> {
        self.objects.get_mut(resource)?.remove(key)
    }
}

/// How a kind is called, and what it must be.
struct Kind {
    name: &'static str,
    api_version: &'static str,
    /// A PUT without a version replaces whatever there is.
    unconditional: bool,
    /// A PUT creates what is not there.
    create_on_update: bool,
    read: fn(&Value) -> Result<Value, String>,
    validate: fn(&Value, &str) -> Vec<Cause>,
}

fn kind(target: &Target) -> Option<Kind> {
    let kind = match (target.group.as_str(), target.resource.as_str()) {
        ("coordination.k8s.io", "leases") => Kind {
            name: "Lease",
            api_version: "coordination.k8s.io/v1",
            unconditional: false,
            create_on_update: true,
            read: read::<Lease>,
            validate: lease,
        },
        ("", "configmaps") => Kind {
            name: "ConfigMap",
            api_version: "v1",
            unconditional: true,
            create_on_update: false,
            read: read::<ConfigMap>,
            validate: config_map,
        },
        ("events.k8s.io", "events") => Kind {
            name: "Event",
            api_version: "events.k8s.io/v1",
            unconditional: true,
            create_on_update: true,
            read: read::<Event>,
            validate: event,
        },
        _ => return None,
    };
    (target.subresource.is_empty()).then_some(kind)
}

/// Reads an object as its kind; what the kind does not have is dropped, as by the real server.
fn read<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, String> {
    exact_times(object)?;
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// Answers a request for one object, and does what it asks.
pub fn answer(script: &mut Script, user: &User, target: &Target, request: &Request) -> Answer {
    if target.resource == "selfsubjectaccessreviews" && target.verb == "create" {
        return access_review(script, user, request);
    }
    let body = serde_json::from_str::<Value>(&request.body);
    let body = match (target.verb.as_str(), body) {
        ("get" | "delete", _) => Value::Null,
        (_, Ok(body)) => body,
        (_, Err(error)) => return Answer::refusal(400, &error.to_string(), &json!({})),
    };
    if target.resource == "services" && target.group.is_empty() {
        return service_status::answer(script, target, request, &body);
    }
    let Some(kind) = kind(target) else {
        let message = "the server could not find the requested resource";
        return Answer::refusal(404, message, &json!({}));
    };
    match target.verb.as_str() {
        "get" => match script.store.get(&target.resource, &target.key()) {
            Some(object) => Answer::of(200, object),
            None => not_found(target),
        },
        "create" => create(script, &kind, target, &body),
        "update" => update(script, &kind, target, &body),
        _ => not_scripted(target),
    }
}

fn details(target: &Target, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": target.resource});
    if !target.group.is_empty() {
        details["group"] = json!(target.group);
    }
    details
}

/// 405: the real server may know it; no client here may need it.
pub fn not_scripted(target: &Target) -> Answer {
    let message = format!(
        "{} on {} is not scripted",
        target.verb,
        target.rule_resource()
    );
    Answer::refusal(405, &message, &details(target, &target.name))
}

pub fn not_found(target: &Target) -> Answer {
    let message = format!("{} \"{}\" not found", target.qualified(), target.name);
    Answer::refusal(404, &message, &details(target, &target.name))
}

/// 409: it is not what the writer took it for.
pub fn conflict(target: &Target, why: &str) -> Answer {
    let message = format!(
        "Operation cannot be fulfilled on {} \"{}\": {why}",
        target.qualified(),
        target.name
    );
    Answer::refusal(409, &message, &details(target, &target.name))
}

pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// 422: what it says may not be said.
pub fn invalid(target: &Target, kind: &str, name: &str, causes: &[Cause]) -> Answer {
    let kind = if target.group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{}", target.group)
    };
    let texts: Vec<String> = causes
        .iter()
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    let told = match texts.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let causes: Vec<Value> = causes
        .iter()
        .map(
            |cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}),
        )
        .collect();
    let mut details = details(target, name);
    details["causes"] = json!(causes);
    Answer::refusal(
        422,
        &format!("{kind} \"{name}\" is invalid: {told}"),
        &details,
    )
}

/// The object as its kind, with its place; or why not.
fn place(kind: &Kind, target: &Target, body: &Value) -> Result<Value, Answer> {
    let refused = |message: String| Answer::refusal(400, &message, &json!({}));
    for (field, wanted) in [("kind", kind.name), ("apiVersion", kind.api_version)] {
        if body.get(field).is_some_and(|it| it != wanted) {
            return Err(refused(format!(
                "the object provided is unrecognized (must be of type {})",
                kind.name
            )));
        }
    }
    let mut object = (kind.read)(body).map_err(|error| {
        refused(format!(
            "{} in version \"v1\" cannot be handled as a {}: {error}",
            kind.name, kind.name
        ))
    })?;
    let metadata = &mut object["metadata"];
    if metadata.is_null() {
        *metadata = json!({});
    }
    match metadata["namespace"].as_str().unwrap_or_default() {
        "" => metadata["namespace"] = json!(target.namespace),
        given if given == target.namespace => {}
        _ => {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(refused(message.to_owned()));
        }
    }
    object["kind"] = json!(kind.name);
    object["apiVersion"] = json!(kind.api_version);
    Ok(object)
}

fn create(script: &mut Script, kind: &Kind, target: &Target, body: &Value) -> Answer {
    let mut object = match place(kind, target, body) {
        Ok(object) => object,
        Err(refusal) => return refusal,
    };
    let metadata = &mut object["metadata"];
    if metadata["name"].is_null()
        && let Some(prefix) = metadata["generateName"].as_str()
    {
        metadata["name"] = json!(format!("{prefix}{:05x}", script.store.version));
    }
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    let version = metadata["resourceVersion"].as_str().unwrap_or_default();
    if !matches!(version, "" | "0") {
        let message = "resourceVersion should not be set on objects to be created";
        return Answer::refusal(500, message, &json!({}));
    }
    if !script.namespaces().contains(&target.namespace) {
        let message = format!("namespaces \"{}\" not found", target.namespace);
        let details = json!({"name": target.namespace, "kind": "namespaces"});
        return Answer::refusal(404, &message, &details);
    }
    let causes = (kind.validate)(&object, &target.namespace);
    if !causes.is_empty() {
        return invalid(target, kind.name, &name, &causes);
    }
    let key = format!("{}/{name}", target.namespace);
    if script.store.get(&target.resource, &key).is_some() {
        let message = format!("{} \"{name}\" already exists", target.qualified());
        return Answer::refusal(409, &message, &details(target, &name));
    }
    let version = script.next_version();
    object["metadata"]["uid"] = json!(script.store.new_uid());
    object["metadata"]["creationTimestamp"] = json!("2026-11-22T17:30:00Z");
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    script.store.put(&target.resource, key, object.clone());
    Answer::of(201, &object)
}

fn update(script: &mut Script, kind: &Kind, target: &Target, body: &Value) -> Answer {
    let mut object = match place(kind, target, body) {
        Ok(object) => object,
        Err(refusal) => return refusal,
    };
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name != target.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        );
        return Answer::refusal(400, &message, &json!({}));
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let known = script.store.get(&target.resource, &target.key()).cloned();
    let known_uid = (known.as_ref()).map_or("", |known| known["metadata"]["uid"].as_str().unwrap());
    if !uid.is_empty() && uid != known_uid {
        return conflict(
            target,
            &format!(
                "StorageError: invalid object, Code: 4, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {known_uid}"
            ),
        );
    }
    let Some(known) = known else {
        if kind.create_on_update {
            object["metadata"]["resourceVersion"] = Value::Null;
            return create(script, kind, target, &object);
        }
        return not_found(target);
    };
    match object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
    {
        "" | "0" if kind.unconditional => {}
        "" | "0" => {
            let cause = Cause::invalid(
                "metadata.resourceVersion",
                "0x0",
                "must be specified for an update",
            );
            return invalid(target, kind.name, &target.name, &[cause]);
        }
        version if known["metadata"]["resourceVersion"] == version => {}
        _ => return conflict(target, MODIFIED),
    }
    let causes = (kind.validate)(&object, &target.namespace);
    if !causes.is_empty() {
        return invalid(target, kind.name, &target.name, &causes);
    }
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        object["metadata"][field] = known["metadata"][field].clone();
    }
    if object != known {
        let version = script.next_version();
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        script
            .store
            .put(&target.resource, target.key(), object.clone());
    }
    Answer::of(200, &object)
}

/// Answers from the roles that are enforced; without them everything is allowed.
fn access_review(script: &Script, user: &User, request: &Request) -> Answer {
    let mut review: Value = serde_json::from_str(&request.body).expect("a review");
    let asked = &review["spec"]["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
    let target = Target {
        verb: text("verb"),
        group: text("group"),
        namespace: text("namespace"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
    };
    assert!(!target.verb.is_empty() && !target.resource.is_empty());
    let allowed = match &script.roles {
        None => Some("everything is allowed".to_owned()),
        Some(roles) => roles.allows(user, &target),
    };
    review["status"] = match allowed {
        Some(binding) => json!({"allowed": true, "reason": format!("RBAC: allowed by {binding}")}),
        None => json!({"allowed": false}),
    };
    Answer::of(201, &review)
}

impl Script {
    /// The namespaces that there are: those that every cluster has, and those of the Services.
    pub fn namespaces(&self) -> Vec<String> {
        let services = self.collections.get(&Watched::Services).into_iter();
        services
            .flat_map(|collection| collection.objects.keys())
            .filter_map(|key| key.split_once('/'))
            .map(|(namespace, _)| namespace)
            .chain(["default", "kube-system"])
            .map(str::to_owned)
            .collect()
    }
}
