//! The chains and rules of a table of the handover: fixed but for the family.
//!
//! ```text
//! prerouting -150    after conntrack (-200), before anything of `inet edgelb`
//!   connections known here      accept: all that a packet of theirs pays
//!   TCP without SYN             → pass
//!   ICMP of no connection here  → pass: the errors of routers, path MTU discovery among them
//! pass                          to the other node by the map of VIP and interface, and no further here
//! ```
//!
//! What may go over only few more hops (TTL, hop limit) is not passed on, and what is passed on may go over
//! only so few: so the next node never passes it on again, whatever each of them believes of the other,
//! and whichever of its interfaces it came from. What is unknown there too is refused there.
//!
//! No more than [`RATE`] a second are: anybody can send what belongs to no connection, and each such packet is
//! another node's work too. What is more than that is refused here, as everything would be without this.
//!
//! A packet in the middle of a connection is `new` to conntrack, which would take it up
//! (`nf_conntrack_tcp_loose`), or `invalid`: a FIN, a RST, and all of them without that setting. As it is
//! dropped, nothing of it stays in conntrack. A pure SYN begins a connection here; nobody passes it on.

use super::table::{HANDOVER, PASSED, address_length};
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::expression::Verdict;
use crate::apply::nftables::expression::primitive::{
    FIRST_REGISTER, compare, end, expression, lookup, mask, meta, payload,
};
use crate::apply::nftables::schema::with_digest;
use crate::model::family::Family;

/// The chain that passes on.
const PASS: &str = "pass";

/// `NF_INET_PRE_ROUTING`, `NF_IP_PRI_MANGLE`
const PREROUTING: u32 = 0;
const AFTER_CONNTRACK: i32 = -150;

/// `NF_CT_STATE_BIT`: `NF_CT_STATE_INVALID_BIT`, `IP_CT_NEW`
const INVALID: u32 = 1;
const NEW: u32 = 8;

/// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFT_META_IIF`, `NFT_META_L4PROTO`
const INPUT_INTERFACE: u32 = 4;
const PROTOCOL: u32 = 16;

/// Hops for what is passed on, `dup`'s own among them: enough from any node to any pod. Clients are further
/// away from the limit: systems send with 64, 128 or 255 (RFC 1700 and later practice), and the longest
/// ways take some 30.
const HOPS: u8 = 16;
/// Packets a second of a family that are passed on, and those that may come at once after a pause.
const RATE: u64 = 50_000;
const BURST: u32 = 10_000;
/// Where the hop count and its neighbour begin, each in a word of 16 bits: TTL and protocol (RFC 791), next
/// header and hop limit (RFC 8200); the place of the header checksum.
const TTL_AND_PROTOCOL: u32 = 8;
const NEXT_HEADER_AND_HOP_LIMIT: u32 = 6;
const HEADER_CHECKSUM: u32 = 10;

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Where TCP has its flags, and which of them is SYN (RFC 9293).
const TCP_FLAGS: u32 = 13;
const SYN: u8 = 2;
/// What is set in the types of all that are no errors (RFC 4443).
const INFORMATIONAL: u8 = 0x80;

/// One chain.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// Number and priority.
    pub(super) hook: Option<(u32, i32)>,
    pub(super) rules: Vec<Rule>,
}

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Ends with a digest of the expressions: so an edited rule is told.
    pub(super) comment: String,
    /// `NFTA_RULE_EXPRESSIONS`, encoded.
    pub(super) expressions: Vec<u8>,
}

/// All chains, those that others go to first.
pub(super) fn chains(family: Family) -> Vec<Chain> {
    let known = rule("connections known here", |request| {
        state(request, INVALID | NEW, false);
        end(request, &Verdict::Accept);
    });
    let tcp = rule("tcp of other nodes' connections", |request| {
        protocol(request, TCP);
        payload(request, TRANSPORT_HEADER, TCP_FLAGS, 1, FIRST_REGISTER);
        mask(request, &[SYN]);
        compare(request, false, &[0]);
        end(request, &Verdict::Goto(PASS.into()));
    });
    let errors = rule("errors of other nodes' connections", |request| {
        match family {
            Family::V4 => protocol(request, ICMP),
            Family::V6 => {
                protocol(request, ICMPV6);
                payload(request, TRANSPORT_HEADER, 0, 1, FIRST_REGISTER);
                mask(request, &[INFORMATIONAL]);
                compare(request, false, &[0]);
            }
        }
        state(request, INVALID, true);
        end(request, &Verdict::Goto(PASS.into()));
    });
    vec![
        Chain {
            name: PASS,
            hook: None,
            rules: vec![pass(family)],
        },
        Chain {
            name: "prerouting",
            hook: Some((PREROUTING, AFTER_CONNTRACK)),
            rules: vec![known, tcp, errors],
        },
    ]
}

/// `ip ttl > 16 limit rate 50000/second update @passed { ip daddr . iif } ip ttl set 16 dup to ip daddr . iif map @handover device iif`: routed to that node by its
/// neighbour entry, its addresses as they are, past conntrack.
fn pass(family: Family) -> Rule {
    let (offset, length) = match family {
        Family::V4 => (16, address_length(family)),
        Family::V6 => (24, address_length(family)),
    };
    let behind = FIRST_REGISTER + length / 4;
    let to = behind + 1;
    rule("to the node that may know it", |request| {
        more_hops_than(request, family, HOPS);
        payload(request, NETWORK_HEADER, offset, length, FIRST_REGISTER);
        meta(request, INPUT_INTERFACE, behind);
        lookup(request, HANDOVER, FIRST_REGISTER, Some(to), false);
        limit(request);
        expression(request, "dynset", |request| {
            request.string(1, PASSED);
            request.number(3, 1); // NFT_DYNSET_OP_UPDATE
            request.number(4, FIRST_REGISTER);
        });
        set_hops(request, family, HOPS);
        meta(request, INPUT_INTERFACE, behind);
        expression(request, "dup", |request| {
            request.number(1, to);
            request.number(2, behind);
        });
        expression(request, "counter", |_| {});
        end(request, &Verdict::Drop);
    })
}

/// Goes on with packets that may go over more hops than that.
fn more_hops_than(request: &mut Request, family: Family, hops: u8) {
    let offset = match family {
        Family::V4 => TTL_AND_PROTOCOL,
        Family::V6 => NEXT_HEADER_AND_HOP_LIMIT + 1,
    };
    payload(request, NETWORK_HEADER, offset, 1, FIRST_REGISTER);
    expression(request, "cmp", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, 4); // NFT_CMP_GT
        let data = request.open(3);
        request.bytes(1, &[hops]);
        request.close(data);
    });
}

/// Goes on with so many packets a second.
fn limit(request: &mut Request) {
    expression(request, "limit", |request| {
        request.bytes(1, &RATE.to_be_bytes());
        request.bytes(2, &1_u64.to_be_bytes()); // seconds
        request.number(3, BURST);
        request.number(4, 0); // NFT_LIMIT_PKTS
        request.number(5, 0);
    });
}

/// Writes how many hops the packet may go over.
fn set_hops(request: &mut Request, family: Family, hops: u8) {
    // In a word of 16 bits, of which the checksum is made.
    let (offset, kept, written) = match family {
        Family::V4 => (TTL_AND_PROTOCOL, [0, 0xff], [hops, 0]),
        Family::V6 => (NEXT_HEADER_AND_HOP_LIMIT, [0xff, 0], [0, hops]),
    };
    payload(request, NETWORK_HEADER, offset, 2, FIRST_REGISTER);
    expression(request, "bitwise", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, FIRST_REGISTER);
        request.number(3, 2);
        for (kind, value) in [(4, kept), (5, written)] {
            let nest = request.open(kind);
            request.bytes(1, &value);
            request.close(nest);
        }
    });
    expression(request, "payload", |request| {
        request.number(2, NETWORK_HEADER);
        request.number(3, offset);
        request.number(4, 2);
        request.number(5, FIRST_REGISTER);
        if family == Family::V4 {
            request.number(6, 1); // NFT_PAYLOAD_CSUM_INET
            request.number(7, HEADER_CHECKSUM);
        }
    });
}

/// Goes on where one of `bits` is set in the connection's state, or where none is.
fn state(request: &mut Request, bits: u32, set: bool) {
    expression(request, "ct", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, 0); // NFT_CT_STATE
    });
    mask(request, &bits.to_ne_bytes());
    compare(request, set, &0_u32.to_ne_bytes());
}

fn protocol(request: &mut Request, number: u8) {
    meta(request, PROTOCOL, FIRST_REGISTER);
    compare(request, false, &[number]);
}

fn rule(comment: &str, steps: impl FnOnce(&mut Request)) -> Rule {
    let mut request = Request::new(message::NEW_RULE, 0);
    let list = request.open(4);
    steps(&mut request);
    request.close(list);
    Rule {
        comment: with_digest(comment, request.attributes()),
        expressions: request.attributes().to_vec(),
    }
}
