//! The configuration that is being put together, and how it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use ipnet::IpNet;
use serde_json::Value;

use super::Note;
use super::objects::{at, texts};
use crate::model::address_range::AddressRange;
use crate::model::interface_pattern::InterfacePattern;
use crate::model::pool::{DEFAULT_PRIORITY, Pool};
use crate::model::selector::LabelSelector;

/// What will be written.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The class to answer to, where it is another one than edgelb's own.
    pub(super) class: Option<String>,
    /// Services without a class are left to others.
    pub(super) only_class: bool,
    pub(super) node_selector: Vec<LabelSelector>,
    pub(super) pools: Vec<Pool>,
    pub(super) notes: BTreeSet<Note>,
}

impl Draft {
    /// The file, without comments.
    pub(super) fn write(&self) -> String {
        let mut text = String::new();
        if self.class.is_some() || self.only_class {
            text.push_str("\n[load_balancer]\n");
            if let Some(class) = &self.class {
                line(&mut text, "class", &quoted(class));
            }
            if self.only_class {
                line(&mut text, "default", "false");
            }
        }
        if !self.node_selector.is_empty() {
            text.push_str("\n[announce]\n");
            line(&mut text, "node_selector", &list(&self.node_selector));
        }
        for pool in &self.pools {
            text.push_str("\n[[pool]]\n");
            write_pool(&mut text, pool);
        }
        text
    }
}

/// Only what is not the default.
fn write_pool(text: &mut String, pool: &Pool) {
    line(text, "name", &quoted(&pool.name));
    line(text, "addresses", &list(&pool.ranges));
    if !pool.auto_assign {
        line(text, "auto_assign", "false");
    }
    if pool.priority != DEFAULT_PRIORITY {
        line(text, "priority", &pool.priority.to_string());
    }
    if pool.avoid_buggy_ips {
        line(text, "avoid_buggy_ips", "true");
    }
    let lists = [
        ("namespaces", list(&pool.namespaces)),
        ("namespace_selector", list(&pool.namespace_selector)),
        ("service_selector", list(&pool.service_selector)),
        ("interfaces", list(&pool.interfaces)),
        ("prefer", list(&pool.prefer)),
    ];
    for (key, value) in lists.iter().filter(|(_, value)| value != "[]") {
        line(text, key, value);
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{key} = {value}");
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", items.join(", "))
}

/// A range as both origins write it: with spaces, with host bits, or a single address.
pub(super) fn range(text: &str) -> Result<AddressRange, String> {
    let text = text.trim();
    if let Ok(network) = text.parse::<IpNet>() {
        return Ok(AddressRange::from(network.trunc()));
    }
    let single = text.parse().ok();
    let range = single.map_or_else(
        || {
            text.parse::<AddressRange>()
                .map_err(|error| error.to_string())
        },
        |address| AddressRange::new(address, address).map_err(|error| error.to_string()),
    );
    range.map_err(|error| format!("{text:?} is left out: {error}"))
}

/// Interface names; what is none is named.
pub(super) fn interfaces(names: &[String]) -> Result<Vec<InterfacePattern>, String> {
    let pattern = |name: &String| {
        name.parse::<InterfacePattern>()
            .map_err(|error| error.to_string())
    };
    names.iter().map(pattern).collect()
}

/// A selector as Kubernetes objects hold it; none where it matches everything.
pub(super) fn selector(value: &Value) -> Result<Option<LabelSelector>, String> {
    let mut parts = Vec::new();
    let labels: BTreeMap<String, Value> =
        serde_json::from_value(at(value, "matchLabels").clone()).unwrap_or_default();
    for (key, value) in labels {
        let value = value
            .as_str()
            .ok_or_else(|| format!("the value of the label {key} is not text"))?;
        parts.push(format!("{key}={value}"));
    }
    let expressions = at(value, "matchExpressions").as_array();
    for expression in expressions.map(Vec::as_slice).unwrap_or_default() {
        let key = at(expression, "key").as_str().unwrap_or_default();
        let values = texts(at(expression, "values")).join(",");
        parts.push(
            match at(expression, "operator").as_str().unwrap_or_default() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "Exists" => key.to_owned(),
                "DoesNotExist" => format!("!{key}"),
                other => return Err(format!("there is no operator {other:?}")),
            },
        );
    }
    if parts.is_empty() {
        return Ok(None);
    }
    let selector = parts.join(",").parse::<LabelSelector>();
    selector.map(Some).map_err(|error| error.to_string())
}

/// Alternatives; empty where one of them matches everything.
pub(super) fn selectors(value: &Value) -> Result<Vec<LabelSelector>, String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let each: Result<Vec<_>, _> = items.iter().map(selector).collect();
    Ok(each?
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .unwrap_or_default())
}
