//! Session affinity as expressions: where the endpoint of a client is looked up and kept.
//!
//! Of the 16 registers IPv6 needs up to 15. The endpoint always stands in the first ones; what it is
//! compared with or remembered under is loaded behind it.

use super::{
    FIRST_REGISTER, Load, Stickiness, address_words, destination_nat, expression, load, lookup,
    source_address,
};
use crate::apply::nftables::encode::Request;
use crate::model::family::Family;

/// `enum nft_dynset_ops`
#[derive(Clone, Copy)]
enum Operation {
    Update = 1,
    Delete = 2,
}

/// The rule ends here for a client that is not known, or whose endpoint is not in the list (AFF-7).
pub(super) fn stay(request: &mut Request, stickiness: &Stickiness, family: Option<Family>) {
    client(request, stickiness, family, FIRST_REGISTER);
    lookup(
        request,
        stickiness.affinity,
        FIRST_REGISTER,
        Some(FIRST_REGISTER),
        false,
    );
    load(
        request,
        &stickiness.frontend,
        family,
        behind_endpoint(family),
    );
    lookup(request, stickiness.members, FIRST_REGISTER, None, false);
    client(request, stickiness, family, behind_endpoint(family));
    // The same endpoint again: only the timeout begins anew (AFF-4).
    remember(request, Operation::Update, stickiness, family);
    destination_nat(request, family);
}

/// The rule ends here where no more clients can be remembered.
pub(super) fn settle(
    request: &mut Request,
    stickiness: &Stickiness,
    choice: Load,
    endpoints: &str,
    family: Option<Family>,
) {
    let behind = load(request, &stickiness.frontend, family, FIRST_REGISTER);
    load(request, &[choice], family, behind);
    lookup(
        request,
        endpoints,
        FIRST_REGISTER,
        Some(FIRST_REGISTER),
        false,
    );
    client(request, stickiness, family, behind_endpoint(family));
    // An update of an element that is there would leave the old endpoint in it.
    remember(request, Operation::Delete, stickiness, family);
    remember(request, Operation::Update, stickiness, family);
    destination_nat(request, family);
}

fn behind_endpoint(family: Option<Family>) -> u32 {
    FIRST_REGISTER + family.map_or(1, address_words) + 1
}

/// Loads the key of a client: its address and the number of the Service port.
fn client(request: &mut Request, stickiness: &Stickiness, family: Option<Family>, register: u32) {
    let words = family.map_or(1, address_words);
    source_address(request, words, register);
    let scope = register + words;
    load(request, &stickiness.frontend, family, scope);
    lookup(request, stickiness.scopes, scope, Some(scope), false);
}

fn remember(
    request: &mut Request,
    operation: Operation,
    stickiness: &Stickiness,
    family: Option<Family>,
) {
    expression(request, "dynset", |request| {
        request.string(1, stickiness.affinity);
        request.number(3, operation as u32);
        request.number(4, behind_endpoint(family));
        request.number(5, FIRST_REGISTER);
        if let Operation::Update = operation {
            let milliseconds = u64::from(stickiness.timeout) * 1000;
            request.bytes(6, &milliseconds.to_be_bytes());
        }
    });
}
