//! The messages that make tables, chains and elements of the fence.

use std::collections::BTreeMap;

use super::shape::{Chain, ChainContents, EVAL, Key, MAP, Set, SetName, Table};
use crate::apply::nftables::TABLE;
use crate::apply::nftables::encode::{CREATE, CREATE_NEW, LONGEST_NEST, Request, message};
use crate::apply::nftables::expression::Verdict;
use crate::apply::nftables::requests::{data, userdata};

/// More than one element of ours takes.
const ELEMENT_BYTES: usize = 64;
/// `NFT_DATA_VERDICT`
const VERDICT: u32 = 0xffff_ff00;

/// A message about a table itself.
pub(super) fn table_request(name: &str, family: u8, kind: u16, flags: u16) -> Request {
    let mut request = Request::of_family(kind, flags, family);
    request.string(1, name);
    request
}

/// A table with all its sets and chains, in the place of whatever stands there.
pub(super) fn whole(table: &Table) -> Vec<Request> {
    let (name, family) = (table.name, table.family);
    // Create, delete, create: the way to replace a table that may or may not exist, atomically.
    let mut requests = vec![
        table_request(name, family, message::NEW_TABLE, CREATE),
        table_request(name, family, message::DELETE_TABLE, 0),
        table_request(name, family, message::NEW_TABLE, CREATE),
    ];
    for (set, identifier) in table.sets.iter().zip(1..) {
        requests.push(set_request(table, set, identifier));
    }
    for chain in &table.chains {
        requests.push(chain_request(table, chain));
    }
    for chain in &table.chains {
        requests.extend(rule_requests(table, chain));
    }
    for set in &table.sets {
        let elements: Vec<(Key, &str)> = set
            .elements
            .iter()
            .map(|element| (element.key, element.chain.as_str()))
            .collect();
        let set = (family, set.name);
        requests.extend(element_requests(name, set, message::NEW_ELEMENT, &elements));
    }
    requests
}

/// Makes the chains on interfaces what the table wants, from what the kernel has.
pub(super) fn of_chains(observed: &BTreeMap<String, ChainContents>, table: &Table) -> Vec<Request> {
    let wanted = table.clone().into_contents().chains;
    let hook = |chain: Option<&ChainContents>| chain.and_then(|chain| chain.hook.clone());
    let differ = |name: &str| hook(observed.get(name)) != hook(wanted.get(name));
    let mut requests = Vec::new();
    for (name, chain) in observed {
        if chain.hook.is_some() && differ(name) {
            let mut request = Request::of_family(message::DELETE_CHAIN, 0, table.family);
            request.string(1, table.name);
            request.string(3, name);
            requests.push(request);
        }
    }
    for chain in &table.chains {
        if chain.hook.is_some() && differ(&chain.name) {
            requests.push(chain_request(table, chain));
            requests.extend(rule_requests(table, chain));
        }
    }
    requests
}

/// Adds or removes addresses of a set.
pub(super) fn address_requests(set: SetName, kind: u16, keys: &[Key]) -> Vec<Request> {
    let elements: Vec<(Key, &str)> = keys.iter().map(|key| (*key, "")).collect();
    element_requests(TABLE, set, kind, &elements)
}

fn element_requests(
    table: &str,
    (family, set): SetName,
    kind: u16,
    elements: &[(Key, &str)],
) -> Vec<Request> {
    let flags = if kind == message::NEW_ELEMENT {
        CREATE
    } else {
        0
    };
    let requests = elements.chunks(LONGEST_NEST / ELEMENT_BYTES).map(|chunk| {
        let mut request = Request::of_family(kind, flags, family);
        request.string(1, table);
        request.string(2, set);
        let list = request.open(3);
        for (key, chain) in chunk {
            let element = request.open(1);
            data(&mut request, 1, key.as_slice());
            if !chain.is_empty() {
                let nest = request.open(2);
                Verdict::Goto((*chain).into()).encode(&mut request);
                request.close(nest);
            }
            request.close(element);
        }
        request.close(list);
        request
    });
    requests.collect()
}

fn set_request(table: &Table, set: &Set, identifier: u32) -> Request {
    let mut request = Request::of_family(message::NEW_SET, CREATE_NEW, table.family);
    let kind = set.kind;
    request.string(1, table.name);
    request.string(2, set.name);
    request.number(3, kind.flags);
    request.number(4, kind.key_type);
    request.number(5, kind.key_length);
    if kind.flags & MAP != 0 {
        request.number(6, VERDICT);
        request.number(7, 0);
    }
    if kind.size > 0 {
        let description = request.open(9);
        request.number(1, kind.size);
        request.close(description);
    }
    request.number(10, identifier);
    if kind.flags & EVAL != 0 {
        request.bytes(11, &kind.timeout.to_be_bytes()); // NFTA_SET_TIMEOUT
    }
    if kind.host_order {
        // NFTNL_UDATA_SET_KEYBYTEORDER, four bytes: without it the nft program shows nonsense.
        let order = 1_u32.to_ne_bytes();
        request.bytes(13, &[&[0, 4], &order[..]].concat()); // NFTA_SET_USERDATA
    }
    request
}

fn chain_request(table: &Table, chain: &Chain) -> Request {
    let mut request = Request::of_family(message::NEW_CHAIN, CREATE, table.family);
    request.string(1, table.name);
    request.string(3, &chain.name);
    if let Some(hook) = &chain.hook {
        let nest = request.open(4);
        request.number(1, hook.number);
        request.number(2, hook.priority.cast_unsigned());
        for device in &hook.devices {
            request.string(3, device); // NFTA_HOOK_DEV
        }
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
        let mut request = Request::of_family(message::NEW_RULE, flags, table.family);
        request.string(1, table.name);
        request.string(2, &chain.name);
        request.append(&rule.expressions);
        request.bytes(7, &userdata(&rule.comment));
        request
    });
    requests.collect()
}
