//! What the real server does not let pass, field by field: enough of it to catch what a client of
//! this program can get wrong.

use serde_json::Value;

/// Why one field is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub reason: &'static str,
    pub field: String,
    pub message: String,
}

impl Cause {
    pub fn invalid(field: &str, value: &str, why: &str) -> Self {
        let value = if value.starts_with("0x") {
            value.to_owned()
        } else {
            format!("{value:?}")
        };
        Self {
            reason: "FieldValueInvalid",
            field: field.to_owned(),
            message: format!("Invalid value: {value}: {why}"),
        }
    }

    pub fn required(field: &str) -> Self {
        Self {
            reason: "FieldValueRequired",
            field: field.to_owned(),
            message: "Required value".to_owned(),
        }
    }

    pub fn forbidden(field: &str, why: &str) -> Self {
        Self {
            reason: "FieldValueForbidden",
            field: field.to_owned(),
            message: format!("Forbidden: {why}"),
        }
    }

    pub fn not_supported(field: &str, value: &str, supported: &str) -> Self {
        Self {
            reason: "FieldValueNotSupported",
            field: field.to_owned(),
            message: format!("Unsupported value: {value:?}: supported values: {supported}"),
        }
    }
}

/// The server reads times with microseconds only where they have six digits, neither less nor more.
pub fn exact_times(object: &Value) -> Result<(), String> {
    for (place, field) in [
        (&object["spec"], "acquireTime"),
        (&object["spec"], "renewTime"),
        (object, "eventTime"),
        (&object["series"], "lastObservedTime"),
    ] {
        let Some(time) = place[field].as_str() else {
            continue;
        };
        let digits = time.rsplit_once('.').map_or("", |(_, digits)| digits);
        let digits = digits.chars().take_while(char::is_ascii_digit).count();
        if digits != 6 {
            return Err(format!(
                "parsing time {time:?} as \"2006-01-02T15:04:05.000000Z07:00\": {digits} digits"
            ));
        }
    }
    Ok(())
}

/// A name of the form of a DNS subdomain.
fn named(object: &Value) -> Vec<Cause> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return vec![Cause::required("metadata.name")];
    }
    let allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || "-.".contains(it);
    let label = |it: &str| !(it.is_empty() || it.starts_with('-') || it.ends_with('-'));
    if name.len() > 253 || !name.chars().all(allowed) || !name.split('.').all(label) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
        return vec![Cause::invalid("metadata.name", name, why)];
    }
    Vec::new()
}

pub fn lease(object: &Value, _: &str) -> Vec<Cause> {
    let mut causes = named(object);
    let spec = &object["spec"];
    for (field, least, why) in [
        ("leaseDurationSeconds", 1, "must be greater than 0"),
        ("leaseTransitions", 0, "must be greater than or equal to 0"),
    ] {
        if let Some(number) = spec[field].as_i64().filter(|number| *number < least) {
            causes.push(Cause::invalid(
                &format!("spec.{field}"),
                &number.to_string(),
                why,
            ));
        }
    }
    causes
}

pub fn config_map(object: &Value, _: &str) -> Vec<Cause> {
    let mut causes = named(object);
    let mut size = 0;
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        size += value.as_str().map_or(0, str::len);
        let allowed = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
        if key.is_empty()
            || key.len() > 253
            || key == "."
            || key.starts_with("..")
            || !key.chars().all(allowed)
        {
            let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(Cause::invalid(&format!("data[{key}]"), key, why));
        }
    }
    if size > 1 << 20 {
        causes.push(Cause {
            reason: "FieldValueTooLong",
            field: String::new(),
            message: "Too long: may not be more than 1048576 bytes".to_owned(),
        });
    }
    causes
}

pub fn event(object: &Value, namespace: &str) -> Vec<Cause> {
    let mut causes = named(object);
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    if text("eventTime").is_empty() {
        causes.push(Cause::required("eventTime"));
    }
    for field in [
        "reportingController",
        "reportingInstance",
        "action",
        "reason",
    ] {
        let value = text(field);
        if value.is_empty() {
            causes.push(Cause::required(field));
        }
        if value.len() > 128 {
            causes.push(Cause::invalid(field, "", "can have at most 128 characters"));
        }
    }
    if text("note").len() > 1024 {
        causes.push(Cause::invalid(
            "message",
            "",
            "can have at most 1024 characters",
        ));
    }
    let controller = text("reportingController");
    let name = controller.rsplit_once('/').map_or(controller, |(_, it)| it);
    let allowed = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    if name.len() > 63 || !name.chars().all(allowed) {
        let why = "a qualified name must consist of alphanumeric characters, '-', '_' or '.'";
        causes.push(Cause::invalid("reportingController", controller, why));
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        let why = format!("has invalid value: {}", text("type"));
        causes.push(Cause::invalid("type", "", &why));
    }
    let regarding = object["regarding"]["namespace"]
        .as_str()
        .unwrap_or_default();
    let agrees = match regarding {
        // What has no namespace is told of in one of these.
        "" => ["default", "kube-system"].contains(&namespace),
        regarding => regarding == namespace,
    };
    if !agrees {
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            regarding,
            "does not match event.namespace",
        ));
    }
    if let Some(series) = object["series"].as_object()
        && series.get("count").and_then(Value::as_i64).unwrap_or(0) < 2
    {
        causes.push(Cause::invalid("series.count", "", "should be at least 2"));
    }
    for field in [
        "deprecatedFirstTimestamp",
        "deprecatedLastTimestamp",
        "deprecatedCount",
        "deprecatedSource",
    ] {
        if !object[field].is_null() {
            causes.push(Cause::invalid(field, "", "needs to be unset"));
        }
    }
    causes
}
