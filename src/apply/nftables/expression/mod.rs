//! The expressions of our rules, in the encoding of `linux/netfilter/nf_tables.h`. A rule is a row of
//! them; registers are numbered in words of 32 bits (`NFT_REG32_00` and up).

pub(in crate::apply) mod primitive;
mod sticky;

use primitive::{
    FIRST_REGISTER, VERDICT_REGISTER, compare, end, expression, lookup, mask, meta, payload,
};

use super::encode::Request;
use crate::model::family::Family;
use crate::model::text::Text;

/// The same on every node and after every start, so that hashes choose the same endpoint.
const HASH_SEED: u32 = 0x6564_6765;

/// What a packet or connection is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Source address of the packet.
    SourceAddress,
    /// Destination address of the packet.
    DestinationAddress,
    /// Transport protocol.
    Protocol,
    /// Destination port of the packet.
    DestinationPort,
    /// Destination address of the connection's first packet.
    OriginalDestination,
    /// Destination port of the connection's first packet.
    OriginalPort,
    /// Name of the interface that the packet came in by; empty for this node's own packets.
    InputInterface,
    /// Name of the interface that the packet leaves by.
    OutputInterface,
    /// A number below `modulus`, plus `offset`.
    Choice {
        by: Choice,
        modulus: u32,
        offset: u32,
    },
}

/// What a choice among endpoints depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Choice {
    Random,
    /// The source address, so that a client always gets the same.
    Source,
    /// Source address and port.
    Flow,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Only packets of this family go on. Comes first in rules that load addresses.
    Family(Family),
    /// Only packets of this transport protocol go on.
    Protocol(u8),
    /// Only packets that open a connection go on; the negation lets all others go on.
    NewConnection(bool),
    /// Only packets that are related to a connection (ICMP errors) go on.
    Related,
    /// Only packets go on that neither belong to a connection nor open one.
    Invalid,
    /// Only packets of connections that exist, or related to one, go on.
    Established,
    /// Only packets in the direction of replies go on.
    Reply,
    /// Only packets go on that came in by a bridge and leave by one.
    BetweenBridges,
    /// Only packets go on that came in by no interface: this node's own, on their way out.
    NoInputInterface,
    /// Only packets whose ICMP type is this go on.
    IcmpType(u8),
    /// Only packets whose source address is one of this node's go on.
    LocalSource,
    /// Goes on where the loaded key is (or is not) in the set.
    In {
        key: Vec<Load>,
        set: &'static str,
        inverted: bool,
    },
    /// Looks the key up in a verdict map; goes on where it is not there.
    VerdictMap { key: Vec<Load>, map: &'static str },
    /// Translates the destination to what the map holds for the key.
    DestinationNat { key: Vec<Load>, map: &'static str },
    /// Translates the destination to the endpoint that the client had, if it is still a member.
    Stay(Stickiness),
    /// Translates the destination to an endpoint of choice, and remembers it.
    Settle(Stickiness),
    /// Translates the destination to an endpoint of choice.
    Pass(Stickiness),
    /// Replaces the source by the outgoing interface's address.
    Masquerade,
    /// Ends with a verdict.
    Verdict(Verdict),
    /// Refuses TCP with a reset, which no rate limit of the kernel holds back.
    RejectWithReset,
    /// Refuses with port unreachable.
    RejectUnreachable,
}

/// Where it stands to which endpoint a client keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stickiness {
    /// The key of the frontend.
    pub(super) frontend: Vec<Load>,
    /// The index of a choice.
    pub(super) choice: Load,
    /// Frontend → Service port.
    pub(super) scopes: &'static str,
    /// Frontend and index → number of an endpoint.
    pub(super) choices: &'static str,
    /// Frontend and number → endpoint.
    pub(super) members: &'static str,
    /// Client and Service port → number of an endpoint.
    pub(super) affinity: &'static str,
    /// Seconds.
    pub(super) timeout: u32,
}

/// The end of a rule, or what a verdict map holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::apply) enum Verdict {
    Accept,
    Drop,
    Return,
    /// Text, because very many elements go to a few chains.
    Goto(Text),
}

impl Verdict {
    /// The verdict data attribute, into an open `NFTA_*_DATA` nest.
    pub(in crate::apply) fn encode(&self, request: &mut Request) {
        let nest = request.open(2);
        match self {
            Self::Drop => request.number(1, 0),
            Self::Accept => request.number(1, 1),
            Self::Return => request.number(1, (-5i32).cast_unsigned()),
            Self::Goto(chain) => {
                request.number(1, (-4i32).cast_unsigned());
                request.string(2, chain);
            }
        }
        request.close(nest);
    }
}

/// Appends `NFTA_RULE_EXPRESSIONS` with these steps.
pub(super) fn encode(request: &mut Request, steps: &[Step]) {
    let list = request.open(4);
    let mut family = None;
    for step in steps {
        if let Step::Family(rule_family) = step {
            family = Some(*rule_family);
        }
        encode_step(request, step, family);
    }
    request.close(list);
}

fn encode_step(request: &mut Request, step: &Step, family: Option<Family>) {
    match step {
        Step::Family(family) => {
            meta(request, 15, FIRST_REGISTER);
            compare(request, false, &[nfproto(*family)]);
        }
        Step::Protocol(protocol) => {
            meta(request, 16, FIRST_REGISTER);
            compare(request, false, &[*protocol]);
        }
        Step::NewConnection(wanted) => state(request, 8, !wanted),
        Step::Related => state(request, 4, false),
        Step::Invalid => state(request, 1, false),
        Step::Established => state(request, 2 | 4, false),
        Step::Reply => {
            expression(request, "ct", |request| {
                request.number(1, FIRST_REGISTER);
                request.number(2, 1); // NFT_CT_DIRECTION
            });
            compare(request, false, &[1]); // IP_CT_DIR_REPLY
        }
        Step::BetweenBridges => {
            // NFT_META_IIFKIND, NFT_META_OIFKIND
            for key in [26, 27] {
                meta(request, key, FIRST_REGISTER);
                compare(request, false, b"bridge\0\0\0\0\0\0\0\0\0\0");
            }
        }
        Step::NoInputInterface => {
            meta(request, 4, FIRST_REGISTER);
            compare(request, false, &0u32.to_ne_bytes());
        }
        Step::IcmpType(kind) => {
            payload(request, 2, 0, 1, FIRST_REGISTER);
            compare(request, false, &[*kind]);
        }
        Step::LocalSource => {
            expression(request, "fib", |request| {
                request.number(1, FIRST_REGISTER);
                request.number(2, 3); // NFT_FIB_RESULT_ADDRTYPE
                request.number(3, 1); // NFTA_FIB_F_SADDR
            });
            compare(request, false, &2u32.to_ne_bytes()); // RTN_LOCAL
        }
        Step::In { key, set, inverted } => {
            load(request, key, family, FIRST_REGISTER);
            lookup(request, set, FIRST_REGISTER, None, *inverted);
        }
        Step::VerdictMap { key, map } => {
            load(request, key, family, FIRST_REGISTER);
            lookup(request, map, FIRST_REGISTER, Some(VERDICT_REGISTER), false);
        }
        Step::DestinationNat { key, map } => {
            load(request, key, family, FIRST_REGISTER);
            lookup(request, map, FIRST_REGISTER, Some(FIRST_REGISTER), false);
            destination_nat(request, FIRST_REGISTER, family);
        }
        Step::Stay(stickiness) => sticky::stay(request, stickiness, family),
        Step::Settle(stickiness) => sticky::settle(request, stickiness, true, family),
        Step::Pass(stickiness) => sticky::settle(request, stickiness, false, family),
        Step::Masquerade => expression(request, "masq", |request| {
            request.number(1, 1 << 4); // NF_NAT_RANGE_PROTO_RANDOM_FULLY
        }),
        Step::Verdict(verdict) => end(request, verdict),
        Step::RejectWithReset => expression(request, "reject", |request| {
            request.number(1, 1); // NFT_REJECT_TCP_RST
            request.bytes(2, &[0]);
        }),
        Step::RejectUnreachable => expression(request, "reject", |request| {
            request.number(1, 2); // NFT_REJECT_ICMPX_UNREACH
            request.bytes(2, &[1]); // NFT_REJECT_ICMPX_PORT_UNREACH
        }),
    }
}

/// Loads the parts of a key into neighbouring registers, each in whole words, from `register` on.
/// The first register behind them.
fn load(request: &mut Request, key: &[Load], family: Option<Family>, mut register: u32) -> u32 {
    let address = family.map_or(1, address_words);
    for part in key {
        match part {
            Load::SourceAddress => source_address(request, address, register),
            Load::DestinationAddress => {
                let offset = if address == 1 { 16 } else { 24 };
                payload(request, 1, offset, address * 4, register);
            }
            Load::Protocol => meta(request, 16, register),
            Load::DestinationPort => payload(request, 2, 2, 2, register),
            // NFT_CT_DST_IP, NFT_CT_DST_IP6
            Load::OriginalDestination => {
                original(request, if address == 1 { 20 } else { 22 }, register);
            }
            // NFT_CT_PROTO_DST
            Load::OriginalPort => original(request, 12, register),
            Load::InputInterface => meta(request, 6, register),
            Load::OutputInterface => meta(request, 7, register),
            Load::Choice {
                by,
                modulus,
                offset,
            } => choose(request, *by, (*modulus, *offset), address, [register; 2]),
        }
        register += match part {
            Load::SourceAddress | Load::DestinationAddress | Load::OriginalDestination => address,
            Load::InputInterface | Load::OutputInterface => 4,
            _ => 1,
        };
    }
    register
}

fn source_address(request: &mut Request, words: u32, register: u32) {
    let offset = if words == 1 { 12 } else { 8 };
    payload(request, 1, offset, words * 4, register);
}

/// Makes a number from what it loads into the first of these registers and those behind it; the
/// number comes into the second one.
fn choose(
    request: &mut Request,
    by: Choice,
    (modulus, offset): (u32, u32),
    address: u32,
    [from, register]: [u32; 2],
) {
    let words = match by {
        Choice::Random => {
            return expression(request, "numgen", |request| {
                request.number(1, register);
                request.number(2, modulus);
                request.number(3, 1); // NFT_NG_RANDOM
                request.number(4, offset);
            });
        }
        Choice::Source => address,
        Choice::Flow => {
            payload(request, 2, 0, 2, from + address);
            address + 1
        }
    };
    source_address(request, address, from);
    expression(request, "hash", |request| {
        request.number(1, from);
        request.number(2, register);
        request.number(3, words * 4);
        request.number(4, modulus);
        request.number(5, HASH_SEED);
        request.number(6, offset);
        request.number(7, 0); // NFT_HASH_JENKINS
    });
}

/// To the endpoint in these registers.
fn destination_nat(request: &mut Request, register: u32, family: Option<Family>) {
    let words = family.map_or(1, address_words);
    expression(request, "nat", |request| {
        request.number(1, 1); // NFT_NAT_DNAT
        request.number(2, u32::from(family.map_or(0, nfproto)));
        request.number(3, register);
        request.number(5, register + words);
    });
}

fn original(request: &mut Request, key: u32, register: u32) {
    expression(request, "ct", |request| {
        request.number(1, register);
        request.number(2, key);
        request.bytes(3, &[0]); // IP_CT_DIR_ORIGINAL
    });
}

/// Goes on where one of `bits` is set in the connection's state (`none`: where none is).
fn state(request: &mut Request, bits: u32, none: bool) {
    expression(request, "ct", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, 0); // NFT_CT_STATE
    });
    mask(request, &bits.to_ne_bytes());
    compare(request, !none, &0u32.to_ne_bytes());
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn address_words(family: Family) -> u32 {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}
