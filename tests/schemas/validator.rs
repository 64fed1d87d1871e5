//! Checks a JSON value against the part of JSON Schema that the schemas in this folder use. A keyword
//! that it does not know is a problem of the schema, so that nothing is left unchecked unnoticed.

use serde_json::Value;

/// Every place where the value is not as the schema says; empty when it is valid.
pub fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    check(schema, schema, value, "$", &mut problems);
    problems
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, problems: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        problems.push(format!("{path}: its schema is no object"));
        return;
    };
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => {}
            "$ref" => match rule
                .as_str()
                .and_then(|text| text.strip_prefix('#'))
                .and_then(|pointer| root.pointer(pointer))
            {
                Some(target) => check(root, target, value, path, problems),
                None => problems.push(format!("{path}: {rule} leads nowhere")),
            },
            "type" => {
                let one = std::slice::from_ref(rule);
                let types = rule.as_array().map_or(one, Vec::as_slice);
                if !types
                    .iter()
                    .filter_map(Value::as_str)
                    .any(|name| has_type(value, name))
                {
                    problems.push(format!("{path}: {value} is not of type {rule}"));
                }
            }
            "enum" => {
                if !rule.as_array().is_some_and(|values| values.contains(value)) {
                    problems.push(format!("{path}: {value} is not one of {rule}"));
                }
            }
            "minimum" => {
                if let (Some(number), Some(minimum)) = (value.as_f64(), rule.as_f64())
                    && number < minimum
                {
                    problems.push(format!("{path}: {number} is less than {minimum}"));
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{path}[{index}]"), problems);
                }
            }
            "required" => {
                if let Some(object) = value.as_object() {
                    let missing = rule
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(Value::as_str)
                        .filter(|key| !object.contains_key(*key));
                    problems.extend(missing.map(|key| format!("{path}.{key} is missing")));
                }
            }
            "properties" => {
                for (key, schema) in rule.as_object().into_iter().flatten() {
                    if let Some(inner) = value.get(key) {
                        check(root, schema, inner, &format!("{path}.{key}"), problems);
                    }
                }
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if known.is_some_and(|known| known.contains_key(key)) {
                        continue;
                    }
                    if rule == &Value::Bool(false) {
                        problems.push(format!("{path}.{key} is not in the schema"));
                    } else if rule.is_object() {
                        check(root, rule, inner, &format!("{path}.{key}"), problems);
                    }
                }
            }
            unknown => problems.push(format!(
                "{path}: the schema's keyword {unknown:?} is not understood"
            )),
        }
    }
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
