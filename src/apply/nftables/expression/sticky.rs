//! Session affinity as expressions: where the endpoint of a client is looked up and kept.
//!
//! What comes out of a map and becomes part of another key has one word in front of it that nobody
//! reads, and what stood in the registers is loaded again over that word. So the kernel has the
//! number where the key needs it, and the nft program, which knows no length of what comes out of a
//! map and aborts where a key begins with that (seen with 1.0.6), lists what was there before.

use super::{
    FIRST_REGISTER, Load, Stickiness, address_words, choose, destination_nat, expression, load,
    lookup, source_address,
};
use crate::apply::nftables::encode::Request;
use crate::model::family::Family;

/// `enum nft_dynset_ops`
#[derive(Clone, Copy)]
enum Operation {
    Update = 1,
    Delete = 2,
}

/// The number of 32-bit registers.
const REGISTERS: u32 = 16;

/// Where everything stands.
struct Registers {
    /// The client's address.
    client: u32,
    /// The number of the Service port, two words right behind it.
    scope: u32,
    /// The key of the frontend, whose last word is the port.
    frontend: u32,
    /// What makes it the key of an endpoint, right behind it: an index, then a number.
    index: u32,
    /// The endpoint.
    endpoint: u32,
}

impl Registers {
    fn new(stickiness: &Stickiness, family: Option<Family>) -> Self {
        let words = family.map_or(1, address_words);
        let scope = FIRST_REGISTER + words;
        let frontend = scope + 2;
        let parts = stickiness.frontend.iter().map(|part| match part {
            Load::DestinationAddress => words,
            _ => 1,
        });
        let index = frontend + parts.sum::<u32>();
        // Over the address of a frontend of IPv6, which is not needed any more.
        let fits = index + 1 + words < FIRST_REGISTER + REGISTERS;
        Self {
            client: FIRST_REGISTER,
            scope,
            frontend,
            index,
            endpoint: if fits { index + 1 } else { frontend },
        }
    }
}

/// The rule ends here for a client that is not known, or whose endpoint is not in the list (AFF-7).
pub(super) fn stay(request: &mut Request, stickiness: &Stickiness, family: Option<Family>) {
    let at = Registers::new(stickiness, family);
    load(request, &stickiness.frontend, family, at.frontend);
    load(request, &[Load::DestinationPort], family, at.index);
    client(request, stickiness, &at, family);
    number(request, stickiness.affinity, at.client, &at);
    member(request, stickiness, &at);
    // The same endpoint again: only the timeout begins anew (AFF-4).
    remember(request, Operation::Update, stickiness, &at);
    destination_nat(request, at.endpoint, family);
}

/// The rule ends here where it is to be remembered and no more clients can be.
pub(super) fn settle(
    request: &mut Request,
    stickiness: &Stickiness,
    remembered: bool,
    family: Option<Family>,
) {
    let at = Registers::new(stickiness, family);
    load(request, &stickiness.frontend, family, at.frontend);
    if let Load::Choice {
        by,
        modulus,
        offset,
    } = stickiness.choice
    {
        let words = family.map_or(1, address_words);
        choose(request, by, (modulus, offset), words, [at.client, at.index]);
    }
    client(request, stickiness, &at, family);
    number(request, stickiness.choices, at.frontend, &at);
    member(request, stickiness, &at);
    if remembered {
        // An update of an element that is there would leave the old endpoint in it.
        remember(request, Operation::Delete, stickiness, &at);
        remember(request, Operation::Update, stickiness, &at);
    }
    destination_nat(request, at.endpoint, family);
}

/// Loads the key of a client: its address and the number of the Service port.
fn client(request: &mut Request, stickiness: &Stickiness, at: &Registers, family: Option<Family>) {
    load(request, &[Load::DestinationPort; 2], family, at.scope);
    lookup(
        request,
        stickiness.scopes,
        at.frontend,
        Some(at.scope - 1),
        false,
    );
    let words = family.map_or(1, address_words);
    source_address(request, words, at.client);
}

/// Looks up the number of an endpoint.
fn number(request: &mut Request, map: &str, key: u32, at: &Registers) {
    lookup(request, map, key, Some(at.index - 1), false);
    load(request, &[Load::DestinationPort], None, at.index - 1);
}

/// Looks up the endpoint of a number.
fn member(request: &mut Request, stickiness: &Stickiness, at: &Registers) {
    let members = stickiness.members;
    lookup(request, members, at.frontend, Some(at.endpoint), false);
}

fn remember(request: &mut Request, operation: Operation, stickiness: &Stickiness, at: &Registers) {
    expression(request, "dynset", |request| {
        request.string(1, stickiness.affinity);
        request.number(3, operation as u32);
        request.number(4, at.client);
        request.number(5, at.index - 1);
        if let Operation::Update = operation {
            let milliseconds = u64::from(stickiness.timeout) * 1000;
            request.bytes(6, &milliseconds.to_be_bytes());
        }
    });
}
