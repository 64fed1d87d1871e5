//! Files into Kubernetes objects, whatever their kinds, with their places.

use std::fmt;

use serde_json::Value;

use super::{Input, UnreadableError, printable};
use crate::source::manifest::text::{Format, documents};

/// Lists in lists in lists are nobody's export.
const DEEPEST_LIST: usize = 4;

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Object {
    file: String,
    line: u64,
    pub(super) kind: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) value: Value,
}

impl Object {
    /// The value at a path such as `spec/addresses`; null where there is none.
    pub(super) fn at(&self, path: &str) -> &Value {
        at(&self.value, path)
    }

    /// A text at a path.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.at(path).as_str()
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        write!(f, "{} ({}:{})", self.name, self.file, self.line)
    }
}

/// The value at a path below another; null where there is none.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    let step = |value: &'v Value, key: &str| value.get(key).unwrap_or(&Value::Null);
    path.split('/').fold(value, step)
}

/// The texts of a list.
pub(super) fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |item: &Value| item.as_str().map(str::to_owned);
    items.iter().filter_map(text).collect()
}

/// Reads the objects of a file.
pub(super) fn read(input: &Input) -> Result<Vec<Object>, UnreadableError> {
    let unreadable = |line: u64, message: &str| UnreadableError {
        file: input.name.clone(),
        line,
        message: message.to_owned(),
    };
    let json = input.name.rsplit('.').next() == Some("json");
    let format = if json { Format::Json } else { Format::Yaml };
    let documents =
        documents(&input.bytes, format).map_err(|error| unreadable(error.line, &error.message))?;
    let mut objects = Vec::new();
    for document in documents {
        let line = document.first_line();
        let value = document
            .value
            .map_err(|error| unreadable(error.line, &error.message))?;
        take(&input.name, line, value, 0, &mut objects)
            .map_err(|message| unreadable(line, &message))?;
    }
    Ok(objects)
}

fn take(
    file: &str,
    line: u64,
    value: Value,
    depth: usize,
    objects: &mut Vec<Object>,
) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let text = |path: &str| printable(at(&value, path).as_str().unwrap_or_default());
    let kind = text("kind");
    if kind.is_empty() {
        return Err("not a Kubernetes object: it has no kind".to_owned());
    }
    if kind.ends_with("List") && at(&value, "items").is_array() {
        if depth == DEEPEST_LIST {
            return Err("lists in lists are too deep".to_owned());
        }
        let mut value = value;
        let items = value.get_mut("items").map(Value::take).unwrap_or_default();
        if let Value::Array(items) = items {
            for item in items {
                take(file, line, item, depth + 1, objects)?;
            }
        }
        return Ok(());
    }
    objects.push(Object {
        file: printable(file),
        line,
        kind,
        namespace: text("metadata/namespace"),
        name: text("metadata/name"),
        value,
    });
    Ok(())
}
