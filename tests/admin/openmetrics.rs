//! A strict reader of `OpenMetrics` text 1.0.0 and of the text format 0.0.4, as far as edgelb writes them.
//! It panics at the first line that a scraper could refuse.

use std::collections::{BTreeMap, BTreeSet};

/// The samples by their name with sorted labels, such as `edgelb_vip_owned{vip="192.0.2.1"}`.
pub fn parse(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("ends with # EOF");
    let mut samples = BTreeMap::new();
    let mut families: BTreeSet<String> = BTreeSet::new();
    let mut family = (String::new(), String::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect(line);
            assert!(!help.is_empty(), "{line}");
            assert!(
                families.insert(name.to_owned()),
                "interleaved or twice: {line}"
            );
            family = (name.to_owned(), String::new());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert_eq!(name, family.0, "{line}");
            assert!(
                ["counter", "gauge", "histogram", "info"].contains(&kind),
                "{line}"
            );
            kind.clone_into(&mut family.1);
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            let (name, unit) = unit.split_once(' ').expect(line);
            assert_eq!(name, family.0, "{line}");
            assert!(name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            assert!(!line.starts_with('#') && !line.is_empty(), "{line:?}");
            let (series, value) = sample(line);
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family.0).expect(line);
            let allowed: &[&str] = match family.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("{other:?} has no samples: {line}"),
            };
            assert!(allowed.contains(&suffix), "{line}");
            if family.1 != "gauge" {
                assert!(value >= 0.0, "{line}");
            }
            assert!(samples.insert(series, value).is_none(), "twice: {line}");
        }
    }
    samples
}

/// The same of the text format 0.0.4: `# EOF` and units are comments there, and nobody writes them.
pub fn parse_text(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut samples = BTreeMap::new();
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            help.split_once(' ').expect(line).0.clone_into(&mut family);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect(line);
            assert_eq!(name, family, "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            let before = families.insert(name.to_owned(), kind.to_owned());
            assert_eq!(before, None, "twice: {line}");
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (series, value) = sample(line);
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(&family).expect(line);
            match families[&family].as_str() {
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                kind => {
                    assert_eq!(suffix, "", "{line}");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                }
            }
            assert!(samples.insert(series, value).is_none(), "twice: {line}");
        }
    }
    samples
}

fn sample(line: &str) -> (String, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let name = &line[..end];
    let word = |text: &str| {
        !text.is_empty()
            && !text.starts_with(|first: char| first.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    assert!(word(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = &line[end..];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"").expect(line);
            assert!(word(key), "{line}");
            let mut escaped = false;
            let close = after
                .find(|c| {
                    let close = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    close
                })
                .expect(line);
            assert!(labels.insert(key, &after[..close]).is_none(), "{line}");
            rest = &after[close + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.strip_prefix(' ').expect(line).parse().expect(line);
    let labels: Vec<String> = (labels.iter())
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let series = if labels.is_empty() {
        name.to_owned()
    } else {
        format!("{name}{{{}}}", labels.join(","))
    };
    (series, value)
}
