//! The expressions that rules of every table are made of, in the encoding of
//! `linux/netfilter/nf_tables.h`. Knows no table, set or chain.

use super::Verdict;
use crate::apply::nftables::encode::Request;

/// The first 32-bit register; keys and data of all our rules begin here.
pub(in crate::apply) const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`
pub(in crate::apply) const VERDICT_REGISTER: u32 = 0;

/// An expression of this name with its attributes.
pub(in crate::apply) fn expression(
    request: &mut Request,
    name: &str,
    data: impl FnOnce(&mut Request),
) {
    let element = request.open(1);
    request.string(1, name);
    let nest = request.open(2);
    data(request);
    request.close(nest);
    request.close(element);
}

/// Loads what `enum nft_meta_keys` names.
pub(in crate::apply) fn meta(request: &mut Request, key: u32, register: u32) {
    expression(request, "meta", |request| {
        request.number(1, register);
        request.number(2, key);
    });
}

/// Loads bytes of the packet, counted from a header (`enum nft_payload_bases`).
pub(in crate::apply) fn payload(
    request: &mut Request,
    base: u32,
    offset: u32,
    length: u32,
    register: u32,
) {
    expression(request, "payload", |request| {
        request.number(1, register);
        request.number(2, base);
        request.number(3, offset);
        request.number(4, length);
    });
}

/// Goes on where the first registers hold this value, or another one.
pub(in crate::apply) fn compare(request: &mut Request, different: bool, value: &[u8]) {
    expression(request, "cmp", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, u32::from(different));
        let data = request.open(3);
        request.bytes(1, value);
        request.close(data);
    });
}

/// Goes on where the key is in the set, or is not; of a map, loads what it holds for the key.
pub(in crate::apply) fn lookup(
    request: &mut Request,
    set: &str,
    source: u32,
    destination: Option<u32>,
    inverted: bool,
) {
    expression(request, "lookup", |request| {
        request.string(1, set);
        request.number(2, source);
        if let Some(register) = destination {
            request.number(3, register);
        }
        if inverted {
            request.number(5, 1); // NFT_LOOKUP_F_INV
        }
    });
}

/// Leaves only these bits of the first register.
pub(in crate::apply) fn mask(request: &mut Request, bits: &[u8]) {
    expression(request, "bitwise", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, FIRST_REGISTER);
        request.number(3, u32::try_from(bits.len()).unwrap_or(u32::MAX));
        for (kind, value) in [(4, bits), (5, &vec![0; bits.len()])] {
            let nest = request.open(kind);
            request.bytes(1, value);
            request.close(nest);
        }
    });
}

/// Ends with a verdict.
pub(in crate::apply) fn end(request: &mut Request, verdict: &Verdict) {
    expression(request, "immediate", |request| {
        request.number(1, VERDICT_REGISTER);
        let data = request.open(2);
        verdict.encode(request);
        request.close(data);
    });
}
