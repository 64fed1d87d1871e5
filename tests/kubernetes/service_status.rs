//! One Service, and the status subresource of it: strategic merge patches as far as a load balancer
//! writes them. What is outside of the status is not changed through it.

use std::net::IpAddr;

use edgelb::source::kubernetes::kind::Watched;
use k8s_openapi::api::core::v1::ServiceStatus;
use serde_json::{Map, Value, json};

use crate::http::Answer;
use crate::objects::{MODIFIED, conflict, invalid, not_found, not_scripted};
use crate::script::{Request, Script};
use crate::target::Target;
use crate::validation::Cause;

const STRATEGIC: &str = "application/strategic-merge-patch+json";

pub fn answer(script: &mut Script, target: &Target, request: &Request, body: &Value) -> Answer {
    let services = script.collection(Watched::Services);
    let Some(text) = services.objects.get(&target.key()) else {
        return not_found(target);
    };
    let mut service: Value = serde_json::from_str(text).expect("an object");
    // Items of recorded lists do not say what they are; an object alone does.
    service["kind"] = json!("Service");
    service["apiVersion"] = json!("v1");
    match (target.verb.as_str(), target.subresource.as_str()) {
        ("get", "") => Answer::of(200, &service),
        ("patch", "status") if request.content_type == STRATEGIC => {
            patch(script, target, &service, body)
        }
        ("patch", "status") => {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: {STRATEGIC}"
            );
            Answer::refusal(415, &message, &json!({}))
        }
        _ => not_scripted(target),
    }
}

fn patch(script: &mut Script, target: &Target, known: &Value, body: &Value) -> Answer {
    let metadata = &body["metadata"];
    if let Some(version) = metadata["resourceVersion"].as_str()
        && known["metadata"]["resourceVersion"] != version
    {
        return conflict(target, MODIFIED);
    }
    if let Some(uid) = metadata["uid"].as_str()
        && known["metadata"]["uid"] != uid
    {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            known["metadata"]["uid"].as_str().unwrap_or_default()
        );
        return conflict(target, &why);
    }
    let mut service = known.clone();
    let merged = merge_status(&known["status"], &body["status"]);
    let status = match merged.and_then(|status| read(&status)) {
        Ok(status) => status,
        Err(error) => return Answer::refusal(400, &error, &json!({})),
    };
    service["status"] = status;
    default_modes(&mut service);
    let causes = refused(&service);
    if !causes.is_empty() {
        return invalid(target, "Service", &target.name, &causes);
    }
    if service != *known {
        let version = script.next_version();
        service["metadata"]["resourceVersion"] = json!(version.to_string());
        let services = script.collection(Watched::Services);
        services.change_at(version, "MODIFIED", service.clone());
    }
    Answer::of(200, &service)
}

/// Merges by the rules of the type: what stands under `ingress` replaces it whole, conditions are
/// told apart by their type.
fn merge_status(known: &Value, patch: &Value) -> Result<Value, String> {
    let mut status = known.as_object().cloned().unwrap_or_default();
    let fields = match patch {
        Value::Null => return Ok(Value::Object(status)),
        Value::Object(fields) => fields,
        other => return Err(format!("status is no object: {other}")),
    };
    for (field, value) in fields {
        match field.as_str() {
            "conditions" => {
                let merged = merge_conditions(&known["conditions"], value)?;
                status.insert(field.clone(), json!(merged));
            }
            "loadBalancer" => {
                let merged = merge_fields(&known["loadBalancer"], value)?;
                status.insert(field.clone(), Value::Object(merged));
            }
            directive if directive.starts_with('$') => {
                return Err(format!("the directive {directive} is not scripted"));
            }
            // Unknown fields are dropped when the status is read as its type.
            _ => {}
        }
    }
    Ok(Value::Object(status))
}

/// Each field replaced whole; `null` takes it away.
fn merge_fields(known: &Value, patch: &Value) -> Result<Map<String, Value>, String> {
    let Some(fields) = patch.as_object() else {
        return if patch.is_null() {
            Ok(Map::new())
        } else {
            Err(format!("not an object: {patch}"))
        };
    };
    let mut merged = known.as_object().cloned().unwrap_or_default();
    for (field, value) in fields {
        if field.starts_with('$') {
            return Err(format!("the directive {field} is not scripted"));
        }
        if value.is_null() {
            merged.remove(field);
        } else {
            merged.insert(field.clone(), value.clone());
        }
    }
    Ok(merged)
}

fn merge_conditions(known: &Value, patch: &Value) -> Result<Vec<Value>, String> {
    let mut conditions = known.as_array().cloned().unwrap_or_default();
    let Some(patches) = patch.as_array() else {
        return if patch.is_null() {
            Ok(Vec::new())
        } else {
            Err(format!("conditions are no list: {patch}"))
        };
    };
    for patch in patches {
        let Some(kind) = patch["type"].as_str() else {
            let error = format!("map: {patch} does not contain declared merge key: type");
            return Err(error);
        };
        let place = conditions.iter().position(|it| it["type"] == kind);
        match (patch["$patch"].as_str(), place) {
            (Some("delete"), Some(place)) => {
                conditions.remove(place);
            }
            (Some("delete"), None) => {}
            (Some(other), _) => return Err(format!("$patch: {other} is not scripted")),
            (None, Some(place)) => {
                conditions[place] = Value::Object(merge_fields(&conditions[place], patch)?);
            }
            (None, None) => conditions.push(patch.clone()),
        }
    }
    Ok(conditions)
}

/// The status as its type; without empty lists, as the server serves it.
fn read(status: &Value) -> Result<Value, String> {
    let mut status = status.clone();
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|_, value| !empty(value));
    }
    if let Some(fields) = status["loadBalancer"].as_object_mut() {
        fields.retain(|_, value| !empty(value));
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let time = condition["lastTransitionTime"].as_str().unwrap_or_default();
        if time.is_empty() {
            return Err(format!("a condition without a time: {condition}"));
        }
    }
    let typed: ServiceStatus = serde_json::from_value(status).map_err(|error| error.to_string())?;
    let mut status = serde_json::to_value(typed).map_err(|error| error.to_string())?;
    if status["loadBalancer"].is_null() {
        status["loadBalancer"] = json!({});
    }
    Ok(status)
}

/// An address without a mode gets the usual one.
fn default_modes(service: &mut Value) {
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array_mut();
    for entry in ingress.into_iter().flatten() {
        if entry["ip"].is_string() && entry["ipMode"].is_null() {
            entry["ipMode"] = json!("VIP");
        }
        // Indexing for a look leaves no trace.
        let fields = entry.as_object_mut().expect("an object");
        fields.retain(|_, value| !value.is_null());
    }
    if service["status"]["loadBalancer"]["ingress"].is_null()
        && let Some(fields) = service["status"]["loadBalancer"].as_object_mut()
    {
        fields.remove("ingress");
    }
}

fn refused(service: &Value) -> Vec<Cause> {
    const INGRESS: &str = "status.loadBalancer.ingress";
    let ingress = &service["status"]["loadBalancer"]["ingress"];
    let entries = ingress.as_array().cloned().unwrap_or_default();
    if !entries.is_empty() && service["spec"]["type"] != "LoadBalancer" {
        let why = "may only be used when `spec.type` is \"LoadBalancer\"";
        return vec![Cause::forbidden(INGRESS, why)];
    }
    let mut causes = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let field = |name: &str| format!("{INGRESS}[{index}].{name}");
        let ip = entry["ip"].as_str().unwrap_or_default();
        let mode = entry["ipMode"].as_str();
        if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
            let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            causes.push(Cause::invalid(&field("ip"), ip, why));
        }
        match mode {
            Some(_) if ip.is_empty() => {
                let why = "may not be specified when `ip` is not set";
                causes.push(Cause::forbidden(&field("ipMode"), why));
            }
            Some(mode) if !["VIP", "Proxy"].contains(&mode) => {
                let supported = "\"Proxy\", \"VIP\"";
                causes.push(Cause::not_supported(&field("ipMode"), mode, supported));
            }
            _ => {}
        }
    }
    causes
}
