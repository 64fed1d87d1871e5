//! The sets, chains and rules of both tables. What is not ARP, a neighbor message or tagged leaves by
//! a single lookup of its ethertype.
//!
//! ```text
//! netdev edgelb                                         egress of…
//!   renew        lo                ethertype 88b6 → lease = now + timeout, drop
//!   egress_N     interface N       ethertype → arp_sender | nd_message | tagged
//!     arp_sender                   sender's address: no VIP, or owned and leased; else drop
//!     nd_message                   ICMPv6 type → nd_target (advertisement) | nd_source (solicitations)
//!     tagged                       priority tags (VLAN 0) hide nothing: the same, four bytes on
//! arp edgelb
//!   input                          requests for a VIP: drop
//!   output                         only without an egress hook: the kernel's own ARP from a VIP
//! ```
//!
//! Everything is read from the link header on: for frames of packet sockets the kernel believes the
//! protocol that the sender states, and where the other headers begin depends on it. Frames of another
//! VLAN are none of this LAN; their own interface has its own chain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::lease::ETHERTYPE;
use super::shape::{ARP, Chain, EVAL, Element, Hook, Key, MAP, NETDEV, Rule, Set, SetKind, Table};
use crate::apply::nftables::encode::{Request, message};
use crate::apply::nftables::expression::Verdict;
use crate::apply::nftables::expression::primitive::{
    FIRST_REGISTER, VERDICT_REGISTER, compare, end, expression, lookup, mask, meta, payload,
};
use crate::apply::nftables::schema::with_digest;

pub(super) const VIPS4: &str = "vips4";
pub(super) const VIPS6: &str = "vips6";
pub(super) const OWNED4: &str = "owned4";
pub(super) const OWNED6: &str = "owned6";
const LEASE: &str = "lease";
const INTERFACES: &str = "interfaces";
/// The chain on lo.
const RENEW: &str = "renew";

/// nft's numbers of datatypes.
mod datatype {
    pub(super) const IPV4_ADDRESS: u32 = 7;
    pub(super) const IPV6_ADDRESS: u32 = 8;
    pub(super) const ETHERTYPE: u32 = 10;
    pub(super) const MARK: u32 = 19;
    pub(super) const INTERFACE_NAME: u32 = 41;
    pub(super) const ICMPV6_TYPE: u32 = 29;
}

/// `NFT_SET_TIMEOUT`
const WITH_TIMEOUT: u32 = 0x10;
/// Dead elements count until they are collected; there is never more than one alive.
const LEASES: u32 = 64;
/// `NF_NETDEV_EGRESS`
const EGRESS: u32 = 1;
/// `NF_ARP_IN`, `NF_ARP_OUT`
const ARP_INPUT: u32 = 0;
const ARP_OUTPUT: u32 = 1;
/// `NFT_META_OIFNAME`
const OUTPUT_INTERFACE: u32 = 7;
/// `IFNAMSIZ`
const NAME_BYTES: u32 = 16;
/// `NFT_PAYLOAD_LL_HEADER`, `NFT_PAYLOAD_NETWORK_HEADER`
const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;

/// Ethertypes.
const OF_ARP: u16 = 0x0806;
const OF_IPV6: u16 = 0x86dd;
const OF_TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Bytes of one VLAN tag, and those of its identifier.
const TAG: u32 = 4;
const VLAN_IDENTIFIER: [u8; 2] = [0x0f, 0xff];

/// Offsets in an untagged frame (RFC 826, 8200, 4861).
const TYPE_OF_FRAME: u32 = 12;
const TAG_CONTROL: u32 = 14;
const ARP_SENDER: u32 = 28;
const NEXT_HEADER: u32 = 20;
const IPV6_SOURCE: u32 = 22;
const ICMPV6_KIND: u32 = 54;
const ICMPV6_TARGET: u32 = 62;
const ICMPV6: u8 = 58;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The chain of an announcing interface.
pub(super) fn chain_of(index: u32) -> String {
    format!("egress_{index}")
}

/// `netdev edgelb` for these interfaces, its sets of addresses empty.
pub(super) fn egress(interfaces: &BTreeMap<u32, String>, timeout: Duration) -> Table {
    let mut sets = vec![
        addresses(VIPS4, 4),
        addresses(OWNED4, 4),
        addresses(VIPS6, 16),
        addresses(OWNED6, 16),
        lease(timeout),
    ];
    let mut chains = Vec::new();
    for (prefix, tag, frames, messages) in [
        ("tagged_", TAG, "tagged_frames", "tagged_messages"),
        ("", 0, "frames", "messages"),
    ] {
        let of = |name: &str| format!("{prefix}{name}");
        let [sender, source] = [of("arp_sender"), of("nd_source")];
        let [message, target] = [of("nd_message"), of("nd_target")];
        sets.push(verdicts(
            messages,
            datatype::ICMPV6_TYPE,
            &[
                (&[ROUTER_SOLICITATION], &source),
                (&[NEIGHBOR_SOLICITATION], &source),
                (&[NEIGHBOR_ADVERTISEMENT], &target),
            ],
        ));
        let (arp, ipv6) = (OF_ARP.to_be_bytes(), OF_IPV6.to_be_bytes());
        let tags = OF_TAGS.map(u16::to_be_bytes);
        let mut kinds: Vec<(&[u8], &str)> = vec![(&arp, &sender), (&ipv6, &message)];
        if tag == 0 {
            kinds.extend(tags.iter().map(|kind| (kind.as_slice(), "tagged")));
        }
        sets.push(verdicts(frames, datatype::ETHERTYPE, &kinds));
        chains.push(judged(sender, ARP_SENDER + tag, 4, VIPS4, OWNED4));
        chains.push(judged(target, ICMPV6_TARGET + tag, 16, VIPS6, OWNED6));
        chains.push(judged(source, IPV6_SOURCE + tag, 16, VIPS6, OWNED6));
        let by_kind = rule("icmpv6 by type", |request| {
            link(request, NEXT_HEADER + tag, 1);
            compare(request, false, &[ICMPV6]);
            link(request, ICMPV6_KIND + tag, 1);
            lookup(
                request,
                messages,
                FIRST_REGISTER,
                Some(VERDICT_REGISTER),
                false,
            );
        });
        chains.push(plain(message, vec![by_kind]));
    }
    let without_vlan = rule("priority tags", |request| {
        link(request, TAG_CONTROL, 2);
        mask(request, &VLAN_IDENTIFIER);
        compare(request, false, &[0, 0]);
        link(request, TYPE_OF_FRAME + TAG, 2);
        lookup(
            request,
            "tagged_frames",
            FIRST_REGISTER,
            Some(VERDICT_REGISTER),
            false,
        );
    });
    chains.push(plain("tagged".to_owned(), vec![without_vlan]));
    let renewal = rule("the daemon lives", |request| {
        link(request, TYPE_OF_FRAME, 2);
        compare(request, false, &ETHERTYPE.to_be_bytes());
        the_only_key(request);
        expression(request, "dynset", |request| {
            request.string(1, LEASE);
            request.number(3, 1); // NFT_DYNSET_OP_UPDATE
            request.number(4, FIRST_REGISTER);
        });
        end(request, &Verdict::Drop);
    });
    chains.push(base(RENEW.to_owned(), EGRESS, &["lo"], vec![renewal]));
    for (index, name) in interfaces {
        let frames = rule("frames by type", |request| {
            link(request, TYPE_OF_FRAME, 2);
            lookup(
                request,
                "frames",
                FIRST_REGISTER,
                Some(VERDICT_REGISTER),
                false,
            );
        });
        chains.push(base(chain_of(*index), EGRESS, &[name], vec![frames]));
    }
    Table::new(NETDEV, sets, chains)
}

/// `arp edgelb`, its sets of addresses empty. Where `egress` judges what leaves, only what comes in
/// is judged here.
pub(super) fn arp(egress: bool, interfaces: &BTreeMap<u32, String>) -> Table {
    let mut sets = vec![addresses(VIPS4, 4)];
    let requests = rule("the kernel never answers for a vip", |request| {
        payload(request, NETWORK_HEADER, 6, 2, FIRST_REGISTER);
        compare(request, false, &[0, 1]); // ares_op$REQUEST
        payload(request, NETWORK_HEADER, 24, 4, FIRST_REGISTER);
        lookup(request, VIPS4, FIRST_REGISTER, None, false);
        end(request, &Verdict::Drop);
    });
    let mut chains = vec![base("input".to_owned(), ARP_INPUT, &[], vec![requests])];
    if !egress {
        let names = interfaces.values().filter_map(|name| {
            let mut key = name.as_bytes().to_vec();
            key.resize(NAME_BYTES as usize, 0);
            Key::from_slice(&key).map(Element::plain)
        });
        sets.push(addresses(OWNED4, 4));
        sets.push(Set {
            elements: names.collect(),
            ..plain_set(INTERFACES, datatype::INTERFACE_NAME, NAME_BYTES)
        });
        let leaks = rule(
            "the kernel asks in the name of no vip of others",
            |request| {
                meta(request, OUTPUT_INTERFACE, FIRST_REGISTER);
                lookup(request, INTERFACES, FIRST_REGISTER, None, false);
                payload(request, NETWORK_HEADER, 14, 4, FIRST_REGISTER);
                lookup(request, VIPS4, FIRST_REGISTER, None, false);
                lookup(request, OWNED4, FIRST_REGISTER, None, true);
                end(request, &Verdict::Drop);
            },
        );
        chains.push(base("output".to_owned(), ARP_OUTPUT, &[], vec![leaks]));
    }
    Table::new(ARP, sets, chains)
}

/// Lets pass what is no VIP, and what is owned while the lease lives.
fn judged(name: String, offset: u32, length: u32, vips: &str, owned: &str) -> Chain {
    let others = rule("no vip", |request| {
        link(request, offset, length);
        lookup(request, vips, FIRST_REGISTER, None, true);
        end(request, &Verdict::Accept);
    });
    let own = rule("owned, and the daemon lives", |request| {
        link(request, offset, length);
        lookup(request, owned, FIRST_REGISTER, None, false);
        the_only_key(request);
        lookup(request, LEASE, FIRST_REGISTER, None, false);
        end(request, &Verdict::Accept);
    });
    let rest = rule("not this node's", |request| {
        expression(request, "counter", |_| {});
        end(request, &Verdict::Drop);
    });
    plain(name, vec![others, own, rest])
}

/// A number below one: the key of the one lease. The nft program shows no rule that looks up a
/// constant, and an interface would tie the lease to its own coming and going.
fn the_only_key(request: &mut Request) {
    expression(request, "numgen", |request| {
        request.number(1, FIRST_REGISTER);
        request.number(2, 1);
        request.number(3, 0); // NFT_NG_INCREMENTAL
        request.number(4, 0);
    });
}

fn link(request: &mut Request, offset: u32, length: u32) {
    payload(request, LINK_HEADER, offset, length, FIRST_REGISTER);
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

fn plain(name: String, rules: Vec<Rule>) -> Chain {
    Chain {
        name,
        hook: None,
        rules,
    }
}

fn base(name: String, number: u32, devices: &[&str], rules: Vec<Rule>) -> Chain {
    let hook = Hook {
        number,
        priority: 0,
        devices: devices.iter().map(ToString::to_string).collect(),
    };
    Chain {
        name,
        hook: Some(hook),
        rules,
    }
}

fn plain_set(name: &'static str, key_type: u32, key_length: u32) -> Set {
    Set {
        name,
        kind: SetKind {
            flags: 0,
            key_type,
            host_order: [datatype::MARK, datatype::INTERFACE_NAME].contains(&key_type),
            key_length,
            size: 0,
            timeout: 0,
        },
        elements: BTreeSet::new(),
    }
}

fn addresses(name: &'static str, length: u32) -> Set {
    let kind = match length {
        4 => datatype::IPV4_ADDRESS,
        _ => datatype::IPV6_ADDRESS,
    };
    plain_set(name, kind, length)
}

fn verdicts(name: &'static str, key_type: u32, elements: &[(&[u8], &str)]) -> Set {
    let length = elements.first().map_or(0, |(key, _)| key.len());
    let mut set = plain_set(name, key_type, u32::try_from(length).unwrap_or(u32::MAX));
    set.kind.flags = MAP;
    set.elements = elements
        .iter()
        .filter_map(|(key, chain)| {
            let chain = (*chain).to_owned();
            Key::from_slice(key).map(|key| Element { key, chain })
        })
        .collect();
    set
}

fn lease(timeout: Duration) -> Set {
    let mut set = plain_set(LEASE, datatype::MARK, 4);
    set.kind = SetKind {
        flags: EVAL | WITH_TIMEOUT,
        size: LEASES,
        timeout: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
        ..set.kind
    };
    set
}
