//! The messages that make sets, chains and rules and that edit elements.

use std::collections::{BTreeMap, BTreeSet};

use super::TABLE;
use super::edits::{ELEMENT_BYTES, Edits};
use super::element::{ElementKey, Value};
use super::encode::{CREATE, CREATE_NEW, LONGEST_NEST, Request, message};
use super::expression::{self, Verdict};
use super::rules::{Chain, Pick, Rule};
use super::schema::comment;
use super::sets::{ObservedSet, Table};
use crate::model::family::Family;

/// The messages of one transaction: chains that are new, then removals, then additions.
pub(super) fn of_edits(edits: &Edits, picks: &mut BTreeSet<String>) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut removed: BTreeMap<(Table, Family), Vec<(&ElementKey, &Value)>> = BTreeMap::new();
    let mut added = removed.clone();
    for ((table, family), elements) in &edits.ranges {
        // Without elements: all of them.
        let mut flush = Request::new(message::DELETE_ELEMENT, 0);
        flush.string(1, TABLE);
        flush.string(2, table.name(*family));
        requests.push(flush);
        added.insert((*table, *family), elements.iter().collect());
    }
    for edit in &edits.single {
        let set = (edit.key.table, edit.key.family);
        if let Some(old) = &edit.old {
            removed.entry(set).or_default().push((&edit.key, old));
        }
        if let Some(new) = &edit.new {
            if let Value::Verdict(Verdict::Goto(chain)) = new {
                add_pick(chain, picks, &mut requests);
            }
            added.entry(set).or_default().push((&edit.key, new));
        }
    }
    for (kind, flags, sets) in [
        (message::DELETE_ELEMENT, 0, removed),
        (message::NEW_ELEMENT, CREATE, added),
    ] {
        for ((table, family), elements) in sets {
            elements_requests(kind, flags, table.name(family), &elements, &mut requests);
        }
    }
    requests
}

/// Adds the chain that chooses an endpoint, where it is one and is not there yet.
fn add_pick(name: &str, picks: &mut BTreeSet<String>, requests: &mut Vec<Request>) {
    if picks.contains(name) {
        return;
    }
    if let Some(pick) = Pick::parse(name) {
        requests.push(chain_request(name, None));
        // After a transaction that failed in no known way it may be there: it is filled once.
        let mut empty = Request::new(message::DELETE_RULE, 0);
        empty.string(1, TABLE);
        empty.string(2, name);
        requests.push(empty);
        requests.extend(pick.rules().iter().map(|rule| rule_request(name, rule)));
        picks.insert(name.to_owned());
    }
}

fn elements_requests(
    kind: u16,
    flags: u16,
    set: &str,
    elements: &[(&ElementKey, &Value)],
    requests: &mut Vec<Request>,
) {
    for chunk in elements.chunks(LONGEST_NEST / ELEMENT_BYTES) {
        let mut request = Request::new(kind, flags);
        request.string(1, TABLE);
        request.string(2, set);
        let list = request.open(3);
        for (key, value) in chunk {
            let element = request.open(1);
            data(&mut request, 1, key.key.as_slice());
            if key.end {
                request.number(3, 1); // NFT_SET_ELEM_INTERVAL_END
            }
            match value {
                Value::Nothing => {}
                Value::Verdict(verdict) => {
                    let data = request.open(2);
                    verdict.encode(&mut request);
                    request.close(data);
                }
                Value::Endpoint(bytes) | Value::Number(bytes) => {
                    data(&mut request, 2, bytes.as_slice());
                }
                Value::Last(address) => {
                    // The key again, but for the part that is a range.
                    let (key, address) = (key.key.as_slice(), address.as_slice());
                    let same = key.len().saturating_sub(address.len());
                    let end = [key.get(..same).unwrap_or_default(), address].concat();
                    data(&mut request, 10, &end); // NFTA_SET_ELEM_KEY_END
                }
            }
            request.close(element);
        }
        request.close(list);
        requests.push(request);
    }
}

/// A key or value: `NFTA_DATA_VALUE` in a nest of this kind.
pub(in crate::apply) fn data(request: &mut Request, kind: u16, bytes: &[u8]) {
    let nest = request.open(kind);
    request.bytes(1, bytes);
    request.close(nest);
}

/// Makes a set of one family; the identifier is the transaction's own.
pub(super) fn set_request(set: Table, family: Family, identifier: u32) -> Request {
    let mut request = Request::new(message::NEW_SET, CREATE_NEW);
    request.string(1, TABLE);
    request.string(2, set.name(family));
    let ObservedSet {
        flags,
        key_type,
        key_length,
        data_type,
        size,
        counts,
    } = set.as_observed(family);
    request.number(3, flags);
    request.number(4, key_type);
    request.number(5, key_length);
    if let Some(data_type) = data_type {
        request.number(6, data_type);
        request.number(7, set.data_length(family));
    }
    let fields = set.fields(family);
    if size.is_some() || !fields.is_empty() {
        let description = request.open(9);
        if let Some(size) = size {
            request.number(1, size);
        }
        if !fields.is_empty() {
            let list = request.open(2); // NFTA_SET_DESC_CONCAT
            for length in fields {
                let field = request.open(1);
                request.number(1, length);
                request.close(field);
            }
            request.close(list);
        }
        request.close(description);
    }
    request.number(10, identifier);
    if counts {
        let counter = request.open(17); // NFTA_SET_EXPR
        request.string(1, "counter");
        let zero = request.open(2);
        request.close(zero);
        request.close(counter);
    }
    request
}

/// Makes a chain; one that hangs on no hook where there is no shape.
pub(super) fn chain_request(name: &str, chain: Option<&Chain>) -> Request {
    let mut request = Request::new(message::NEW_CHAIN, CREATE);
    request.string(1, TABLE);
    request.string(3, name);
    if let Some(hook) = chain.and_then(|chain| chain.hook) {
        let nest = request.open(4);
        request.number(1, hook.number);
        request.number(2, hook.priority.cast_unsigned());
        request.close(nest);
        request.number(5, 1); // policy accept
        request.string(7, hook.kind);
    }
    request
}

/// Removes a chain that nothing goes to, with its rules.
pub(super) fn remove_chain_request(name: &str) -> Request {
    let mut request = Request::new(message::DELETE_CHAIN, 0);
    request.string(1, TABLE);
    request.string(3, name);
    request
}

/// Appends a rule.
pub(super) fn rule_request(chain: &str, rule: &Rule) -> Request {
    // Without NLM_F_APPEND a new rule goes to the front.
    let mut request = Request::new(
        message::NEW_RULE,
        CREATE | netlink_packet_core::NLM_F_APPEND,
    );
    request.string(1, TABLE);
    request.string(2, chain);
    expression::encode(&mut request, &rule.steps);
    request.bytes(7, &userdata(&comment(rule)));
    request
}

/// A rule's comment as the nft program reads it.
pub(in crate::apply) fn userdata(comment: &str) -> Vec<u8> {
    let mut userdata = Vec::with_capacity(comment.len() + 3);
    userdata.push(0); // NFTNL_UDATA_RULE_COMMENT
    userdata.push(u8::try_from(comment.len() + 1).unwrap_or(u8::MAX));
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    userdata
}
