//! Reads a Service although the conditions in its status are not what the types promise: the server
//! keeps a `lastTransitionTime` of null, and one controller's mistake must not make a Service
//! unreadable for all others. Knows no types.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads an object from JSON. Where that fails, it is read without the conditions in its status that
/// are of another type than `own`; an error is then the one that is left.
pub fn read<T: DeserializeOwned>(text: &[u8], own: &str) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text).or_else(|error| {
        let document: Value = serde_json::from_slice(text)?;
        match without_other_conditions(&document, own) {
            Some(document) => serde_json::from_value(document),
            None => Err(error),
        }
    })
}

/// The document without the conditions in its status that are of another type than `own`, and with a
/// time in that one. `None` where that would be the same document.
pub fn without_other_conditions(document: &Value, own: &str) -> Option<Value> {
    let before = document.pointer(CONDITIONS)?;
    let mut after = before.as_array()?.clone();
    after.retain(|condition| condition.get("type").and_then(Value::as_str) == Some(own));
    for time in after
        .iter_mut()
        .filter_map(|one| one.get_mut("lastTransitionTime"))
    {
        if time.is_null() {
            *time = Value::from("1970-01-01T00:00:00Z");
        }
    }
    let after = Value::Array(after);
    if *before == after {
        return None;
    }
    let mut document = document.clone();
    *document.pointer_mut(CONDITIONS)? = after;
    Some(document)
}

const CONDITIONS: &str = "/status/conditions";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    const OWN: &str = "edgelb.io/AddressAllocated";

    fn condition(kind: &str, time: &Value) -> Value {
        json!({"type": kind, "status": "True", "reason": "Done", "message": "", "lastTransitionTime": time})
    }

    /// The types of the conditions that are read, or nothing where the Service cannot be read.
    fn types(document: &Value) -> Option<Vec<String>> {
        let text = serde_json::to_vec(document).unwrap();
        let service: Service = read(&text, OWN).ok()?;
        let conditions = service.status.unwrap_or_default().conditions;
        let conditions = conditions.unwrap_or_default().into_iter();
        Some(conditions.map(|condition| condition.type_).collect())
    }

    #[test]
    fn others_conditions_do_not_keep_a_service_from_being_read() {
        let time = json!("2026-01-01T00:00:00Z");
        let other = |time: &Value| condition("other.example/Ready", time);
        let own = |time: &Value| condition(OWN, time);
        let null = Value::Null;
        for (conditions, read) in [
            (
                json!([other(&time), own(&time)]),
                Some(vec!["other.example/Ready", OWN]),
            ),
            (json!([other(&null), own(&time)]), Some(vec![OWN])),
            (json!([other(&time), own(&null)]), Some(vec![OWN])),
            (json!([other(&null)]), Some(vec![])),
            (json!(["nonsense", {"type": 7}]), Some(vec![])),
            (json!(null), Some(vec![])),
            (json!([own(&json!("yesterday"))]), None),
            (json!("nonsense"), None),
        ] {
            let document =
                json!({"metadata": {"name": "web"}, "status": {"conditions": conditions}});
            let read = read.map(|types| types.iter().map(ToString::to_string).collect());
            assert_eq!(types(&document), read, "{document}");
        }
        let wrong = json!({"spec": {"ports": 7}, "status": {"conditions": [other(&null)]}});
        let error = super::read::<Service>(wrong.to_string().as_bytes(), OWN).unwrap_err();
        assert!(error.to_string().contains("sequence"), "{error}");
        assert!(super::read::<Service>(b"{", OWN).is_err());
    }
}
