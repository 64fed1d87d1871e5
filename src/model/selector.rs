//! Label selectors in kubectl's syntax: `app=web,tier!=db`, `key in (a,b)`, `key`, `!key`.
//!
//! Follows <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>; the numeric
//! comparisons `>` and `<` of node affinity are not part of that syntax and are refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Requirements that must all hold; at least one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    Equals(String),
    /// Holds for an object without the label too, as in Kubernetes.
    NotEquals(String),
    In(BTreeSet<String>),
    /// Holds for an object without the label too, as in Kubernetes.
    NotIn(BTreeSet<String>),
    Exists,
    DoesNotExist,
}

/// Why a text is not a [`LabelSelector`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelSelectorError {
    #[error("a label selector must not be empty")]
    Empty,
    #[error("\"{0}\" has an empty requirement between two commas")]
    EmptyRequirement(String),
    #[error("\"{0}\" is not a label key")]
    Key(String),
    #[error("\"{0}\" is not a label value")]
    Value(String),
    #[error(
        "\"{0}\" is not a requirement (key=value, key!=value, key in (a,b), key notin (a,b), key or !key)"
    )]
    Requirement(String),
    #[error("\"{0}\" compares numbers, which label selectors cannot")]
    Comparison(String),
    #[error("the values of \"{0}\" need a list in parentheses")]
    Values(String),
    #[error("\"{0}\" has unbalanced parentheses")]
    Parentheses(String),
}

impl LabelSelector {
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }
}

/// Whether any selector of a list matches; an empty list matches everything.
pub fn any_matches(selectors: &[LabelSelector], labels: &BTreeMap<String, String>) -> bool {
    selectors.is_empty() || selectors.iter().any(|selector| selector.matches(labels))
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Equals(wanted) => value == Some(wanted),
            Operator::NotEquals(unwanted) => value != Some(unwanted),
            Operator::In(wanted) => value.is_some_and(|value| wanted.contains(value)),
            Operator::NotIn(unwanted) => value.is_none_or(|value| !unwanted.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// A label key: a name of up to 63 characters with an optional DNS subdomain before a slash.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name(name),
        None => is_name(text),
    }
}

/// RFC 1123 subdomain as Kubernetes has it: lower-case labels, up to 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// RFC 1123 label as Kubernetes has it: lower-case letters, digits and inner hyphens, up to 63.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_name(text: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

impl FromStr for LabelSelector {
    type Err = LabelSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().is_empty() {
            return Err(LabelSelectorError::Empty);
        }
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text)? {
            if part.trim().is_empty() {
                return Err(LabelSelectorError::EmptyRequirement(text.to_owned()));
            }
            requirements.push(parse_requirement(part.trim())?);
        }
        Ok(Self { requirements })
    }
}

/// The parts between commas, but not between those of a value list.
fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, LabelSelectorError> {
    let unbalanced = || LabelSelectorError::Parentheses(text.to_owned());
    let mut inside = false;
    for character in text.chars() {
        match character {
            '(' if inside => return Err(unbalanced()),
            '(' => inside = true,
            ')' if !inside => return Err(unbalanced()),
            ')' => inside = false,
            _ => {}
        }
    }
    if inside {
        return Err(unbalanced());
    }
    let separator = |character: char| {
        match character {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        character == ',' && !inside
    };
    Ok(text.split(separator).collect())
}

fn parse_requirement(text: &str) -> Result<Requirement, LabelSelectorError> {
    let key = |key: &str| {
        let key = key.trim();
        if is_qualified_name(key) {
            Ok(key.to_owned())
        } else {
            Err(LabelSelectorError::Key(key.to_owned()))
        }
    };
    if text.contains(['<', '>']) {
        return Err(LabelSelectorError::Comparison(text.to_owned()));
    }
    if let Some((left, values)) = text.split_once('(') {
        let mut words = left.split_whitespace();
        let (Some(name), Some(word), None) = (words.next(), words.next(), words.next()) else {
            return Err(LabelSelectorError::Requirement(text.to_owned()));
        };
        let Some(values) = values.strip_suffix(')') else {
            return Err(LabelSelectorError::Requirement(text.to_owned()));
        };
        let values = values
            .split(',')
            .map(parse_value)
            .collect::<Result<BTreeSet<_>, _>>()?;
        let operator = match word {
            "in" => Operator::In(values),
            "notin" => Operator::NotIn(values),
            _ => return Err(LabelSelectorError::Requirement(text.to_owned())),
        };
        return Ok(Requirement {
            key: key(name)?,
            operator,
        });
    }
    if let Some((left, value)) = text.split_once("!=") {
        return Ok(Requirement {
            key: key(left)?,
            operator: Operator::NotEquals(parse_value(value)?),
        });
    }
    if let Some((left, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement {
            key: key(left)?,
            operator: Operator::Equals(parse_value(value)?),
        });
    }
    if let Some(absent) = text.strip_prefix('!') {
        return Ok(Requirement {
            key: key(absent)?,
            operator: Operator::DoesNotExist,
        });
    }
    if matches!(text.split_whitespace().nth(1), Some("in" | "notin")) {
        return Err(LabelSelectorError::Values(text.to_owned()));
    }
    Ok(Requirement {
        key: key(text)?,
        operator: Operator::Exists,
    })
}

fn parse_value(text: &str) -> Result<String, LabelSelectorError> {
    let value = text.trim();
    if is_value(value) {
        Ok(value.to_owned())
    } else {
        Err(LabelSelectorError::Value(value.to_owned()))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &BTreeSet<String>| {
            values
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        for (index, Requirement { key, operator }) in self.requirements.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            match operator {
                Operator::Equals(value) => write!(formatter, "{key}={value}")?,
                Operator::NotEquals(value) => write!(formatter, "{key}!={value}")?,
                Operator::In(values) => write!(formatter, "{key} in ({})", list(values))?,
                Operator::NotIn(values) => write!(formatter, "{key} notin ({})", list(values))?,
                Operator::Exists => formatter.write_str(key)?,
                Operator::DoesNotExist => write!(formatter, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for LabelSelector {
    type Error = LabelSelectorError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LabelSelector> for String {
    fn from(selector: LabelSelector) -> Self {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn matches_as_kubernetes_does() {
        for (selector, object, selected) in [
            ("app=web", "app=web", true),
            ("app==web", "app=web", true),
            ("app=web", "app=db", false),
            ("app=web,tier!=db", "app=web", true),
            ("app=web,tier!=db", "app=web tier=db", false),
            ("app in (web, db)", "app=db", true),
            ("app in (web,db)", "app=cache", false),
            ("app in (web,db)", "", false),
            ("app notin (web,db),zone", "zone=a", true),
            ("app notin (web,db)", "app=web", false),
            ("zone", "zone=", true),
            ("zone", "", false),
            ("!zone", "", true),
            ("! zone", "zone=a", false),
            ("zone=", "zone=", true),
            (
                "kubernetes.io/hostname = edge-1",
                "kubernetes.io/hostname=edge-1",
                true,
            ),
        ] {
            let parsed: LabelSelector = selector.parse().unwrap();
            assert_eq!(
                parsed.matches(&labels(object)),
                selected,
                "{selector} on {object}"
            );
            assert_eq!(parsed.to_string().parse::<LabelSelector>().unwrap(), parsed);
        }
    }

    #[test]
    fn an_empty_list_matches_everything() {
        assert!(any_matches(&[], &labels("")));
        let selectors = ["a=1".parse().unwrap(), "b=2".parse().unwrap()];
        assert!(any_matches(&selectors, &labels("b=2")));
        assert!(!any_matches(&selectors, &labels("c=3")));
    }

    #[test]
    fn refuses_with_the_reason() {
        let owned = ToOwned::to_owned;
        for (text, error) in [
            (" ", LabelSelectorError::Empty),
            ("a,,b", LabelSelectorError::EmptyRequirement(owned("a,,b"))),
            ("a=b,", LabelSelectorError::EmptyRequirement(owned("a=b,"))),
            ("=b", LabelSelectorError::Key(String::new())),
            ("a b", LabelSelectorError::Key(owned("a b"))),
            ("a=b c", LabelSelectorError::Value(owned("b c"))),
            ("a=b=c", LabelSelectorError::Value(owned("b=c"))),
            ("a in b", LabelSelectorError::Values(owned("a in b"))),
            ("a in (b", LabelSelectorError::Parentheses(owned("a in (b"))),
            ("a in b)", LabelSelectorError::Parentheses(owned("a in b)"))),
            (
                "a of (b)",
                LabelSelectorError::Requirement(owned("a of (b)")),
            ),
            (
                "a in (b) c",
                LabelSelectorError::Requirement(owned("a in (b) c")),
            ),
            ("cores>4", LabelSelectorError::Comparison(owned("cores>4"))),
        ] {
            assert_eq!(text.parse::<LabelSelector>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_what_parses_displays_back(text in "[a-z!=(),<> /.-]{0,24}") {
            if let Ok(selector) = text.parse::<LabelSelector>() {
                prop_assert_eq!(selector.to_string().parse::<LabelSelector>().unwrap(), selector);
            }
        }
    }
}
