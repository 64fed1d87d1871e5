//! The messages that make tables of the handover, change what is in them, and remove them.

use std::collections::BTreeMap;

use super::rules::Chain;
use super::table::{Elements, Table, Tables, kind, number};
use crate::apply::nftables::TABLE;
use crate::apply::nftables::encode::{CREATE, CREATE_NEW, LONGEST_NEST, Request, message};
use crate::apply::nftables::requests::{data, userdata};
use crate::model::family::Family;

/// More than one element of ours takes.
const ELEMENT_BYTES: usize = 80;

/// From the one to the other, at the price of what differs.
pub(super) fn between(old: &Tables, new: &Tables) -> Vec<Request> {
    let mut requests = Vec::new();
    for family in Family::BOTH {
        match (old.get(family), new.get(family)) {
            (None, None) => {}
            (None, Some(table)) => requests.extend(whole(table)),
            (Some(_), None) => requests.push(removal(family)),
            (Some(old), Some(new)) => requests.extend(changes(old, new)),
        }
    }
    requests
}

/// Removes our table of this family, which must be there.
pub(super) fn removal(family: Family) -> Request {
    of_table(TABLE, family, message::DELETE_TABLE, 0)
}

/// A message about a table itself.
pub(super) fn of_table(name: &str, family: Family, kind: u16, flags: u16) -> Request {
    let mut request = Request::of_family(kind, flags, number(family));
    request.string(1, name);
    request
}

/// A table with all that is in it, in the place of whatever stands there.
pub(super) fn whole(table: &Table) -> Vec<Request> {
    let of_table = |kind, flags| of_table(table.name, table.family, kind, flags);
    // Create, delete, create: the way to replace a table that may or may not exist, atomically.
    let mut requests = vec![
        of_table(message::NEW_TABLE, CREATE),
        of_table(message::DELETE_TABLE, 0),
        of_table(message::NEW_TABLE, CREATE),
    ];
    for (set, identifier) in table.elements.keys().zip(1..) {
        requests.push(set_request(table, set, identifier));
    }
    let chains = table.chains();
    requests.extend(chains.iter().map(|chain| chain_request(table, chain)));
    requests.extend(chains.iter().flat_map(|chain| rule_requests(table, chain)));
    for (set, elements) in &table.elements {
        let all: Vec<_> = elements.iter().collect();
        requests.extend(element_requests(table, set, message::NEW_ELEMENT, &all));
    }
    requests
}

/// Removals first: what a key leads to cannot be changed in its place.
fn changes(old: &Table, new: &Table) -> Vec<Request> {
    let none = Elements::new();
    let missing = |from: &BTreeMap<&'static str, Elements>, other: &Table, kind: u16| {
        let mut requests = Vec::new();
        for (set, elements) in from {
            let others = other.elements.get(set).unwrap_or(&none);
            let missing: Vec<_> = (elements.iter())
                .filter(|(key, data)| others.get(*key) != Some(*data))
                .collect();
            requests.extend(element_requests(other, set, kind, &missing));
        }
        requests
    };
    let mut requests = missing(&old.elements, new, message::DELETE_ELEMENT);
    requests.extend(missing(&new.elements, old, message::NEW_ELEMENT));
    requests
}

fn element_requests(
    table: &Table,
    set: &str,
    kind: u16,
    elements: &[(&Vec<u8>, &Vec<u8>)],
) -> Vec<Request> {
    let flags = if kind == message::NEW_ELEMENT {
        CREATE
    } else {
        0
    };
    let requests = elements.chunks(LONGEST_NEST / ELEMENT_BYTES).map(|chunk| {
        let mut request = Request::of_family(kind, flags, number(table.family));
        request.string(1, table.name);
        request.string(2, set);
        let list = request.open(3);
        for (key, value) in chunk {
            let element = request.open(1);
            data(&mut request, 1, key);
            if !value.is_empty() {
                data(&mut request, 2, value);
            }
            request.close(element);
        }
        request.close(list);
        request
    });
    requests.collect()
}

fn set_request(table: &Table, set: &str, identifier: u32) -> Request {
    let kind = kind(set, table.family);
    let mut request = Request::of_family(message::NEW_SET, CREATE_NEW, number(table.family));
    request.string(1, table.name);
    request.string(2, set);
    request.number(3, kind.flags);
    request.number(4, kind.key_type);
    request.number(5, kind.key_length);
    if let Some((data_type, length)) = kind.data {
        request.number(6, data_type);
        request.number(7, length);
    }
    if kind.size > 0 {
        let description = request.open(9);
        request.number(1, kind.size);
        request.close(description);
    }
    request.number(10, identifier);
    if kind.timeout > 0 {
        request.bytes(11, &kind.timeout.to_be_bytes()); // NFTA_SET_TIMEOUT
    }
    request
}

fn chain_request(table: &Table, chain: &Chain) -> Request {
    let mut request = Request::of_family(message::NEW_CHAIN, CREATE, number(table.family));
    request.string(1, table.name);
    request.string(3, chain.name);
    if let Some((hook, priority)) = chain.hook {
        let nest = request.open(4);
        request.number(1, hook);
        request.number(2, priority.cast_unsigned());
        request.close(nest);
        request.number(5, 1); // policy accept
        request.string(7, "filter");
    }
    request
}

fn rule_requests(table: &Table, chain: &Chain) -> Vec<Request> {
    let requests = chain.rules.iter().map(|rule| {
        // Without NLM_F_APPEND a new rule goes to the front.
        let flags = CREATE | netlink_packet_core::NLM_F_APPEND;
        let mut request = Request::of_family(message::NEW_RULE, flags, number(table.family));
        request.string(1, table.name);
        request.string(2, chain.name);
        request.append(&rule.expressions);
        request.bytes(7, &userdata(&rule.comment));
        request
    });
    requests.collect()
}
