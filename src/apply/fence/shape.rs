//! What a table of the fence is made of: as we want it, and as the kernel has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::lease::TIMEOUT;
use super::{Fenced, rules};
use crate::apply::nftables::TABLE;
use crate::model::family::Family;

/// `NFPROTO_ARP`
pub(super) const ARP: u8 = 3;
/// `NFPROTO_NETDEV`
pub(super) const NETDEV: u8 = 5;

/// Which tables this kernel can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) egress: bool,
    pub(super) arp: bool,
    /// How long the lease lasts.
    pub(super) lease: Duration,
}

/// A set of one table: family and name.
pub(super) type SetName = (u8, &'static str);

impl Tables {
    /// Before it is known.
    pub(super) const NONE: Self = Self {
        egress: false,
        arp: false,
        lease: TIMEOUT,
    };

    /// The tables for this, with all that is in them.
    pub(super) fn of(self, fenced: &Fenced) -> Vec<Table> {
        let egress = self
            .egress
            .then(|| rules::egress(&fenced.interfaces, self.lease));
        let arp = self
            .arp
            .then(|| rules::arp(self.egress, &fenced.interfaces));
        let mut tables: Vec<Table> = egress.into_iter().chain(arp).collect();
        for set in tables.iter_mut().flat_map(|table| &mut table.sets) {
            let addresses = match set.name {
                rules::VIPS4 | rules::VIPS6 => &fenced.vips,
                rules::OWNED4 | rules::OWNED6 => &fenced.owned,
                _ => continue,
            };
            let four = set.kind.key_length == 4;
            let of_family = addresses.iter().filter(|it| it.is_ipv4() == four);
            set.elements = of_family.map(|it| Element::plain(Key::of(*it))).collect();
        }
        tables
    }

    /// Where an address stands for which nobody may speak.
    pub(super) fn sets_of_vip(self, address: IpAddr) -> impl Iterator<Item = SetName> {
        let egress = match Family::of(address) {
            Family::V4 => (NETDEV, rules::VIPS4),
            Family::V6 => (NETDEV, rules::VIPS6),
        };
        let arp = self.arp && address.is_ipv4();
        let arp = arp.then_some((ARP, rules::VIPS4));
        [self.egress.then_some(egress), arp].into_iter().flatten()
    }

    /// Where an address stands that this node owns.
    pub(super) fn sets_of_owned(self, address: IpAddr) -> impl Iterator<Item = SetName> {
        let egress = match Family::of(address) {
            Family::V4 => (NETDEV, rules::OWNED4),
            Family::V6 => (NETDEV, rules::OWNED6),
        };
        // The kernel's own requests are judged there only where no egress hook does.
        let arp = self.arp && !self.egress && address.is_ipv4();
        let arp = arp.then_some((ARP, rules::OWNED4));
        [self.egress.then_some(egress), arp].into_iter().flatten()
    }
}

/// The key of an element, of 16 bytes at most; there are very many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    bytes: [u8; 16],
    length: u8,
}

impl Key {
    /// Of these bytes; none where they are too many.
    pub(super) fn from_slice(slice: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes.get_mut(..slice.len())?.copy_from_slice(slice);
        let length = u8::try_from(slice.len()).ok()?;
        Some(Self { bytes, length })
    }

    /// An address.
    pub(super) fn of(address: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                [bytes[0], bytes[1], bytes[2], bytes[3]] = [a, b, c, d];
                Self { bytes, length: 4 }
            }
            IpAddr::V6(address) => Self {
                bytes: address.octets(),
                length: 16,
            },
        }
    }

    /// The address that it is, where it is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let slice = self.as_slice();
        let four = <[u8; 4]>::try_from(slice).map(IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(slice).map(IpAddr::from))
            .ok()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// An element of a set or verdict map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Key,
    /// The chain that a map sends to; empty in plain sets.
    pub(super) chain: String,
}

impl Element {
    /// Of a plain set.
    pub(super) fn plain(key: Key) -> Self {
        Self {
            key,
            chain: String::new(),
        }
    }
}

/// One table as we want it.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) family: u8,
    pub(super) sets: Vec<Set>,
    /// Those that others go to first.
    pub(super) chains: Vec<Chain>,
}

/// One set or verdict map.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) kind: SetKind,
    pub(super) elements: Elements,
}

/// What is in a set.
pub(super) type Elements = BTreeSet<Element>;

/// What the kernel says of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SetKind {
    /// `enum nft_set_flags`
    pub(super) flags: u32,
    /// nft's number of the datatype, for its listings.
    pub(super) key_type: u32,
    /// Whether a key is in this machine's byte order, or text; for nft's listings too.
    pub(super) host_order: bool,
    pub(super) key_length: u32,
    /// The most elements; 0 for any number.
    pub(super) size: u32,
    /// Milliseconds; 0 for ever.
    pub(super) timeout: u64,
}

/// `NFT_SET_MAP`
pub(super) const MAP: u32 = 8;
/// `NFT_SET_EVAL`: the kernel's own rules fill it.
pub(super) const EVAL: u32 = 0x20;

/// One chain.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) number: u32,
    pub(super) priority: i32,
    /// The interfaces of a chain of the netdev family.
    pub(super) devices: Vec<String>,
}

/// One rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// Ends with a digest of the expressions: so an edited rule is told.
    pub(super) comment: String,
    /// `NFTA_RULE_EXPRESSIONS`, encoded.
    pub(super) expressions: Vec<u8>,
}

/// One table by what can be read back of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// None of ours has any; 1 is dormant.
    pub(super) flags: u32,
    pub(super) sets: BTreeMap<String, (SetKind, Elements)>,
    pub(super) chains: BTreeMap<String, ChainContents>,
}

/// One chain by what can be read back of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ChainContents {
    pub(super) hook: Option<Hook>,
    /// `NF_ACCEPT` is 1.
    pub(super) policy: Option<u32>,
    /// Their comments.
    pub(super) rules: Vec<String>,
}

impl Table {
    /// A table of ours.
    pub(super) fn new(family: u8, sets: Vec<Set>, chains: Vec<Chain>) -> Self {
        Self {
            name: TABLE,
            family,
            sets,
            chains,
        }
    }

    /// What the kernel must say of it.
    pub(super) fn into_contents(self) -> Contents {
        let sets = self.sets.into_iter().map(|set| {
            let elements = (set.kind, set.elements);
            (set.name.to_owned(), elements)
        });
        let chains = self.chains.into_iter().map(|chain| {
            let contents = ChainContents {
                policy: chain.hook.as_ref().map(|_| 1),
                hook: chain.hook,
                rules: chain.rules.into_iter().map(|it| it.comment).collect(),
            };
            (chain.name, contents)
        });
        Contents {
            flags: 0,
            sets: sets.collect(),
            chains: chains.collect(),
        }
    }
}
