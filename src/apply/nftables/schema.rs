//! The table as a whole: the messages that make it, and whether the kernel's is this version's.

use std::collections::BTreeMap;

use super::encode::{CREATE, Request, message};
use super::layout::Layout;
use super::observe::ObservedChain;
use super::requests::{chain_request, rule_request, set_request};
use super::rules::{Hook, Pick, Rule};
use super::sets::{ObservedSet, Table};
use super::{Observed, TABLE, expression, rules};
use crate::model::family::Family;
use crate::model::observation::Difference;

/// The whole table with its sets and chains, in the place of whatever stands there.
pub(super) fn requests(layout: Layout) -> Vec<Request> {
    let table = |kind, flags| {
        let mut request = Request::new(kind, flags);
        request.string(1, TABLE);
        request
    };
    // Create, delete, create: the way to replace a table that may or may not exist, atomically.
    let mut requests = vec![
        table(message::NEW_TABLE, CREATE),
        table(message::DELETE_TABLE, 0),
        table(message::NEW_TABLE, CREATE),
    ];
    let mut identifier = 0;
    for set in Table::ALL {
        for family in Family::BOTH {
            identifier += 1;
            requests.push(set_request(set, family, identifier));
        }
    }
    let chains = rules::chains(layout);
    requests.extend(
        chains
            .iter()
            .map(|chain| chain_request(chain.name, Some(chain))),
    );
    for chain in &chains {
        requests.extend(
            chain
                .rules
                .iter()
                .map(|rule| rule_request(chain.name, rule)),
        );
    }
    requests
}

/// Whether the table, its chains and its sets are the ones that this version makes.
pub(super) fn fits(observed: &Observed, layout: Layout) -> bool {
    misfits(observed, layout).is_empty()
}

/// What of the table is not as this version makes it, in the words of nft. Empty exactly where
/// [`fits`] says that it is.
pub(super) fn misfits(observed: &Observed, layout: Layout) -> Vec<Difference> {
    let mut misfits = Vec::new();
    if observed.flags != 0 {
        let table = format!("table inet {TABLE}");
        misfits.push(Difference::of_ours(table, "is not in force (dormant)"));
    }
    let chains = rules::chains(layout);
    for chain in &chains {
        let name = format!("chain inet {TABLE} {}", chain.name);
        let expected = as_observed(chain.hook, &chain.rules);
        match observed.chains.get(chain.name) {
            None => misfits.push(Difference::of_ours(name, "is missing")),
            Some(found) if *found == expected => {}
            Some(found) => misfits.push(Difference::of_ours(name, unlike(&expected, found))),
        }
    }
    for (name, found) in &observed.chains {
        let fixed = chains.iter().any(|chain| chain.name == name);
        let problem = match Pick::parse(name) {
            _ if fixed => continue,
            None => "is there and not planned".to_owned(),
            Some(pick) => match as_observed(None, &pick.rules()) {
                expected if expected == *found => continue,
                expected => unlike(&expected, found),
            },
        };
        misfits.push(Difference::of_ours(
            format!("chain inet {TABLE} {name}"),
            problem,
        ));
    }
    for (name, expected) in sets() {
        let problem = match observed.sets.get(&name) {
            None => "is missing",
            Some(found) if *found != expected => "is of another kind",
            Some(_) => continue,
        };
        misfits.push(Difference::of_ours(
            format!("set inet {TABLE} {name}"),
            problem,
        ));
    }
    let known = sets();
    let strange = observed
        .sets
        .keys()
        .filter(|name| !known.contains_key(*name));
    misfits.extend(strange.map(|name| {
        Difference::of_ours(
            format!("set inet {TABLE} {name}"),
            "is there and not planned",
        )
    }));
    misfits
}

/// How a chain differs from the expected one.
fn unlike(expected: &ObservedChain, found: &ObservedChain) -> String {
    // Without the digest that tells its expressions.
    let words = |comment: &str| {
        let words = comment.rsplit_once(" [").map(|(words, _)| words.to_owned());
        words.unwrap_or_else(|| comment.to_owned())
    };
    let lacks = |rules: &[String], others: &[String]| {
        let mut rules = rules.iter();
        rules
            .find(|rule| !others.contains(rule))
            .map(|it| words(it))
    };
    if (&expected.hook, expected.policy) != (&found.hook, found.policy) {
        "hangs on another hook, or has another policy".to_owned()
    } else if let Some(rule) = lacks(&expected.rules, &found.rules) {
        format!("lacks the rule \"{rule}\"")
    } else if let Some(rule) = lacks(&found.rules, &expected.rules) {
        if rule.is_empty() {
            "has a rule that is not ours".to_owned()
        } else {
            format!("has the rule \"{rule}\", which is not ours")
        }
    } else {
        "has its rules in another order or number".to_owned()
    }
}

/// The sets of this version.
fn sets() -> BTreeMap<String, ObservedSet> {
    let both = Table::ALL.into_iter().flat_map(|set| {
        Family::BOTH.map(|family| (set.name(family).to_owned(), set.as_observed(family)))
    });
    both.collect()
}

/// What the kernel says of a chain with this hook and these rules.
pub(super) fn as_observed(hook: Option<Hook>, rules: &[Rule]) -> ObservedChain {
    ObservedChain {
        hook: hook.map(|hook| (hook.number, hook.priority, hook.kind.to_owned())),
        policy: hook.map(|_| 1),
        rules: rules.iter().map(comment).collect(),
    }
}

/// The comment of a rule ends with a digest of its expressions: a rule that another version, or
/// somebody else, put there is told by it.
pub(super) fn comment(rule: &Rule) -> String {
    let mut encoded = Request::new(message::NEW_RULE, 0);
    expression::encode(&mut encoded, &rule.steps);
    with_digest(rule.comment, encoded.as_ref())
}

/// A comment that ends with a digest (FNV-1a) of what it is about.
pub(in crate::apply) fn with_digest(comment: &str, encoded: &[u8]) -> String {
    let digest = encoded.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{comment} [{digest:08x}]")
}
