//! The table as a whole: the messages that make it, and whether the kernel's is this version's.

use super::encode::{CREATE, Request, message};
use super::layout::Layout;
use super::observe::ObservedChain;
use super::rehearse::differences;
use super::requests::{chain_request, rule_request, set_request};
use super::rules::{Hook, Rule};
use super::sets::Table;
use super::{Observed, TABLE, expression, rules};
use crate::model::family::Family;

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
    differences(Some(observed), layout).is_empty()
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
