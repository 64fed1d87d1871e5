//! Interface patterns against the interfaces that are there: warnings only, since links come and go.

use super::super::defaults::EXCLUDED_INTERFACES;
use super::super::problem::{Located, Refusal, nearest, quoted};
use super::Check;
use crate::model::interface_pattern::InterfacePattern;

/// How many interfaces a message lists; a node may have hundreds.
const LISTED: usize = 10;

impl Check<'_> {
    pub(super) fn matching_interfaces(&mut self, patterns: &[Located<InterfacePattern>]) {
        let Some(present) = &self.environment.interfaces else {
            return;
        };
        let idle = |pattern: &&Located<InterfacePattern>| {
            !present.iter().any(|name| pattern.value.matches(name))
        };
        for pattern in patterns.iter().filter(idle).collect::<Vec<_>>() {
            let mut listed: Vec<&str> = present.iter().take(LISTED).map(String::as_str).collect();
            if present.len() > LISTED {
                listed.push("…");
            }
            let message = format!(
                "{} matches no interface of this node ({})",
                quoted(pattern.value.as_str()),
                listed.join(", ")
            );
            let meant =
                nearest(pattern.value.as_str(), present.iter().map(String::as_str)).map(quoted);
            self.warn(&pattern.at, &Refusal::new(message).write_maybe(meant));
        }
    }

    /// The built-in patterns are for every kind of node: that one of them matches nothing says nothing.
    pub(super) fn excluded_interfaces(&mut self, patterns: &[Located<InterfacePattern>]) {
        let own: Vec<_> = patterns
            .iter()
            .filter(|pattern| !EXCLUDED_INTERFACES.contains(&pattern.value.as_str()))
            .cloned()
            .collect();
        self.matching_interfaces(&own);
    }
}
