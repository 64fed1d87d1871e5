//! The alerts and the dashboard in config: promtool takes every query, and each asks for metrics and labels
//! that the README lists, which is what a running daemon serves.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;

use super::metrics::{documented, filter};

/// What Prometheus itself adds, and what histograms have.
const ADDED: [&str; 3] = ["instance", "job", "le"];
/// Metrics that Prometheus makes.
const MADE: [&str; 1] = ["up"];

fn config(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(file)
}

/// The queries of the dashboard: of its panels, and those that fill its variables.
fn dashboard() -> (Vec<String>, Vec<String>) {
    let text = std::fs::read_to_string(config("grafana/edgelb.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        targets
    });
    let shown = targets.map(|target| target["expr"].as_str().unwrap().to_owned());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let asked = variables.filter_map(|variable| {
        let query = variable["query"]["query"].as_str()?;
        let inner = query.strip_prefix("label_values(")?.strip_suffix(')')?;
        let (metric, label) = inner.rsplit_once(", ").unwrap();
        Some(format!("count by ({label}) ({metric})"))
    });
    (shown.collect(), asked.collect())
}

/// As Prometheus gets it.
fn filled(query: &str) -> String {
    let mut filled = query.replace("$__rate_interval", "5m");
    for variable in ["instance", "namespace", "service"] {
        filled = filled.replace(&format!("${variable}"), ".*");
    }
    assert!(!filled.contains('$'), "{query}");
    filled
}

fn alerts() -> Vec<String> {
    let text = std::fs::read_to_string(config("prometheus/alerts.yaml")).unwrap();
    let queries = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    queries.map(str::to_owned).collect()
}

/// The words of a query that are no part of a text in quotes.
fn words(query: &str) -> Vec<&str> {
    let outside = query.split('"').step_by(2);
    let words = outside.flat_map(|part| part.split(|it: char| !it.is_alphanumeric() && it != '_'));
    words.filter(|word| !word.is_empty()).collect()
}

/// The labels that a query names: in selectors before `=` or `!`, and in the lists of groupings.
fn labels(query: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for selector in query.split('{').skip(1) {
        let inside = selector.split('}').next().unwrap();
        for matcher in inside.split("\",") {
            labels.extend(matcher.split(['=', '!']).next().map(str::to_owned));
        }
    }
    for grouping in ["by (", "without (", "on (", "ignoring ("] {
        for list in query.split(grouping).skip(1) {
            let inside = list.split(')').next().unwrap();
            labels.extend(inside.split(", ").map(str::to_owned));
        }
    }
    labels
}

#[test]
fn alerts_are_tested_and_every_query_asks_for_what_is_served() {
    let alerts = alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    let file = |name: &str| config(name).to_str().unwrap().to_owned();
    filter(
        "promtool",
        &["test", "rules", &file("prometheus/alerts.test.yaml")],
        "",
    );
    filter(
        "promtool",
        &["check", "rules", &file("prometheus/alerts.yaml")],
        "",
    );

    let (shown, asked) = dashboard();
    assert!(shown.len() > 10 && asked.len() == 3, "{shown:?} {asked:?}");
    let queries: Vec<String> = shown
        .iter()
        .chain(&asked)
        .map(|query| filled(query))
        .collect();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = Value::from(query.as_str());
        writeln!(rules, "  - record: query:{number}\n    expr: {query}").unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dashboard.yaml");
    std::fs::write(&path, rules).unwrap();
    filter("promtool", &["check", "rules", path.to_str().unwrap()], "");

    let documented = documented();
    for query in alerts.iter().chain(&queries) {
        let metrics: Vec<&str> = (words(query).into_iter())
            .filter(|word| word.starts_with("edgelb_") || MADE.contains(word))
            .collect();
        assert!(!metrics.is_empty(), "{query}");
        let mut known: BTreeSet<&str> = ADDED.into();
        for metric in metrics {
            let family = metric.strip_suffix("_bucket").unwrap_or(metric);
            match documented.get(family) {
                Some((_, labels)) => known.extend(labels.split(',')),
                None => assert!(MADE.contains(&metric), "{metric} in {query}"),
            }
        }
        for label in labels(query) {
            assert!(known.contains(label.as_str()), "{label} in {query}");
        }
    }
}
