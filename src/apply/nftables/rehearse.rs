//! Edits of the table that are noted instead of made, in the words of the nft program. What is to be
//! edited is decided elsewhere; nothing here is sent.

use std::collections::{BTreeMap, BTreeSet};

use super::describe::{content_words, range_words, rule_words, set_words};
use super::edits::{Edit, Edits};
use super::element::{Elements, List, Value};
use super::expression::Verdict;
use super::observe::{Observed, ObservedChain};
use super::rules::{Hook, Pick, Rule};
use super::sets::Table;
use super::{Nftables, TABLE, rules};
use crate::apply::nftables::layout::Layout;
use crate::apply::nftables::schema::{as_observed, comment};
use crate::apply::reach::{Operation, Step};
use crate::model::family::Family;

fn step(operation: Operation, object: &str, command: String) -> Step {
    Step {
        operation,
        object: object.to_owned(),
        command,
    }
}

/// What has to be edited so that the table, its chains and its sets are the ones that this version
/// makes; nothing where they are.
pub(super) fn differences(observed: Option<&Observed>, layout: Layout) -> Vec<Step> {
    let mut steps = Vec::new();
    let nothing = Observed::default();
    let there = observed.unwrap_or(&nothing);
    if observed.is_none() || there.flags != 0 {
        let operation = match observed {
            None => Operation::Add,
            // Dormant.
            Some(_) => Operation::Change,
        };
        steps.push(step(
            operation,
            "table",
            format!("nft add table inet {TABLE}"),
        ));
    }
    sets(there, &mut steps);
    let chains = rules::chains(layout);
    for chain in &chains {
        let expected = as_observed(chain.hook, &chain.rules);
        of_chain(
            chain.name,
            (chain.hook, &chain.rules),
            there.chains.get(chain.name),
            &expected,
            &mut steps,
        );
    }
    for (name, found) in &there.chains {
        if chains.iter().any(|chain| chain.name == name) {
            continue;
        }
        match Pick::parse(name) {
            Some(pick) => {
                let rules = pick.rules();
                let expected = as_observed(None, &rules);
                of_chain(name, (None, &rules), Some(found), &expected, &mut steps);
            }
            None => steps.push(removed_chain(name)),
        }
    }
    steps
}

fn sets(there: &Observed, steps: &mut Vec<Step>) {
    let mut foreign: BTreeSet<&str> = there.sets.keys().map(String::as_str).collect();
    for table in Table::ALL {
        for family in Family::BOTH {
            let name = table.name(family);
            foreign.remove(name);
            let operation = match there.sets.get(name) {
                Some(found) if *found == table.as_observed(family) => continue,
                Some(_) => Operation::Change,
                None => Operation::Add,
            };
            steps.push(step(operation, "set", set_words(table, family)));
        }
    }
    for name in foreign {
        let command = format!("nft delete set inet {TABLE} {name}");
        steps.push(step(Operation::Remove, "set", command));
    }
}

fn of_chain(
    name: &str,
    (hook, rules): (Option<Hook>, &[Rule]),
    found: Option<&ObservedChain>,
    expected: &ObservedChain,
    steps: &mut Vec<Step>,
) {
    if found == Some(expected) {
        return;
    }
    let before = steps.len();
    let same_hook =
        found.is_some_and(|found| found.hook == expected.hook && found.policy == expected.policy);
    if !same_hook {
        let operation = if found.is_some() {
            Operation::Change
        } else {
            Operation::Add
        };
        steps.push(step(operation, "chain", chain_words(name, hook)));
    }
    let mut there: BTreeMap<&str, usize> = BTreeMap::new();
    for comment in found.into_iter().flat_map(|found| &found.rules) {
        *there.entry(comment).or_default() += 1;
    }
    for rule in rules {
        let comment = comment(rule);
        match there.get_mut(comment.as_str()) {
            Some(number) if *number > 0 => *number -= 1,
            _ => steps.push(rule_step(name, rule)),
        }
    }
    for (comment, number) in there {
        for _ in 0..number {
            let command = format!("nft delete rule inet {TABLE} {name} comment \"{comment}\"");
            steps.push(step(Operation::Remove, "rule", command));
        }
    }
    if steps.len() == before {
        let command = format!("nft flush chain inet {TABLE} {name} # its rules in their order");
        steps.push(step(Operation::Change, "chain", command));
    }
}

fn chain_words(name: &str, hook: Option<Hook>) -> String {
    let hook = hook.map(|hook| format!(" '{{ {} }}'", super::describe::hook_words(hook)));
    format!(
        "nft add chain inet {TABLE} {name}{}",
        hook.unwrap_or_default()
    )
}

fn rule_step(chain: &str, rule: &Rule) -> Step {
    // Quoted for a shell, which would take the comment's quotes for its own.
    let words = rule_words(rule, &comment(rule)).replace('\'', "'\\''");
    let command = format!("nft add rule inet {TABLE} {chain} '{words}'");
    step(Operation::Add, "rule", command)
}

fn removed_chain(name: &str) -> Step {
    let command = format!("nft delete chain inet {TABLE} {name}");
    step(Operation::Remove, "chain", command)
}

fn element(operation: Operation, table: Table, family: Family, words: &str) -> Step {
    let verb = match operation {
        Operation::Remove => "delete",
        Operation::Add | Operation::Change => "add",
    };
    let name = table.name(family);
    let command = format!("nft {verb} element inet {TABLE} {name} '{{ {words} }}'");
    step(operation, "element", command)
}

impl Nftables {
    /// Notes what ranges come and go.
    pub(super) fn note_ranges(&self, present: &List, wanted: &List) {
        if self.reach.changes() {
            return;
        }
        let ranges = |list: &List| -> Elements {
            let ranges = list.iter().filter(|(key, _)| key.table.interval());
            ranges.cloned().collect()
        };
        let (present, wanted) = (ranges(present), ranges(wanted));
        for table in Table::ALL.into_iter().filter(|table| table.interval()) {
            for family in Family::BOTH {
                let words = |list| -> BTreeSet<String> {
                    range_words(list, table, family).into_iter().collect()
                };
                let (old, new) = (words(&present), words(&wanted));
                for gone in old.difference(&new) {
                    self.reach
                        .note_step(|| element(Operation::Remove, table, family, gone));
                }
                for come in new.difference(&old) {
                    self.reach
                        .note_step(|| element(Operation::Add, table, family, come));
                }
            }
        }
    }

    /// Notes the edits of one transaction.
    pub(super) fn note(&self, edits: &Edits) {
        if self.reach.changes() {
            return;
        }
        for edit in &edits.single {
            self.note_edit(edit);
        }
    }

    fn note_edit(&self, edit: &Edit) {
        let key = &edit.key;
        if let Some(Value::Verdict(Verdict::Goto(chain))) = &edit.new
            && !self.picks.contains(&**chain)
            && let Some(pick) = Pick::parse(chain)
        {
            self.reach
                .note_step(|| step(Operation::Add, "chain", chain_words(chain, None)));
            for rule in pick.rules() {
                self.reach.note_step(|| rule_step(chain, &rule));
            }
        }
        for (operation, value) in [(Operation::Remove, &edit.old), (Operation::Add, &edit.new)] {
            if let Some(value) = value {
                self.reach.note_step(|| {
                    let words = content_words(key, value);
                    element(operation, key.table, key.family, &words)
                });
            }
        }
    }

    /// Notes that chains go.
    pub(super) fn note_removed(&self, names: &[String]) {
        for name in names {
            self.reach.note_step(|| removed_chain(name));
        }
    }
}
