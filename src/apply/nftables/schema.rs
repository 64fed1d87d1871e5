//! The table as a whole: the messages that make it, and whether the kernel's is this version's.

use std::collections::BTreeSet;

use super::encode::{CREATE, Request, message};
use super::requests::{chain_request, rule_request, set_request};
use super::rules::{Pick, Rule};
use super::sets::Table;
use super::{Observed, TABLE, expression, rules};
use crate::model::family::Family;

/// The whole table with its sets and chains, in the place of whatever stands there.
pub(super) fn requests(translation: bool) -> Vec<Request> {
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
    for set in Table::ALL
        .into_iter()
        .filter(|set| translation || !set.shape().translation)
    {
        for family in Family::BOTH {
            identifier += 1;
            requests.push(set_request(set, family, identifier));
        }
    }
    let chains = rules::chains(translation);
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

/// Whether chains and sets are the ones that this version makes.
pub(super) fn fits(observed: &Observed, translation: bool) -> bool {
    let chains = rules::chains(translation);
    let sets: BTreeSet<&str> = Table::ALL
        .into_iter()
        .filter(|set| translation || !set.shape().translation)
        .flat_map(|set| Family::BOTH.map(|family| set.name(family)))
        .collect();
    let rules_fit = chains.iter().all(|chain| {
        let expected: Vec<String> = chain.rules.iter().map(comment).collect();
        observed.chains.get(chain.name) == Some(&expected)
    });
    let picks_fit = observed
        .chains
        .iter()
        .filter(|(name, _)| parse_pick(name).is_some())
        .all(|(name, rules)| {
            parse_pick(name).is_some_and(|pick| *rules == [comment(&pick.rule())])
        });
    let nothing_else = observed
        .chains
        .keys()
        .all(|name| parse_pick(name).is_some() || chains.iter().any(|chain| chain.name == name));
    rules_fit && picks_fit && nothing_else && observed.sets.iter().map(String::as_str).eq(sets)
}

/// The comment of a rule ends with a digest of its expressions: a rule that another version, or
/// somebody else, put there is told by it.
pub(super) fn comment(rule: &Rule) -> String {
    let mut encoded = Request::new(message::NEW_RULE, 0);
    expression::encode(&mut encoded, &rule.steps);
    let digest = encoded.as_ref().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{} [{digest:08x}]", rule.comment)
}

/// The inverse of [`Pick::name`].
pub(super) fn parse_pick(name: &str) -> Option<Pick> {
    let (node_port, rest) = match name.strip_prefix("pick_node_port") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("pick")?),
    };
    let (family, rest) = match rest.strip_prefix("4_") {
        Some(rest) => (Family::V4, rest),
        None => (Family::V6, rest.strip_prefix("6_")?),
    };
    let (outside, rest) = match rest.strip_prefix("outside_") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let count = rest
        .parse()
        .ok()
        .filter(|count| (1..rules::OUTSIDE_INDEX).contains(count))?;
    Some(Pick {
        family,
        node_port,
        outside,
        count,
    })
}
