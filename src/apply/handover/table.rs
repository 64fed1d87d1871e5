//! What a table of the handover is made of: as we want it, and as the kernel has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::rules::{self, Chain};
use super::{Arrival, HandedOver, HandoverSupport, REMEMBERED};
use crate::apply::nftables::TABLE;
use crate::model::family::Family;

/// The map of what is passed on to whom.
pub(super) const HANDOVER: &str = "handover";
/// The set of those of its keys for which packets were passed on lately: the packets see to it.
pub(super) const PASSED: &str = "passed";

/// `NFT_SET_MAP`, `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`
const MAP: u32 = 8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
/// Only keys of the map come into the set; dead ones count until they are collected.
const MOST_PASSED: u32 = 65_535;

/// nft's numbers of datatypes; a concatenation has six bits for each.
mod datatype {
    pub(super) const IPV4_ADDRESS: u32 = 7;
    pub(super) const IPV6_ADDRESS: u32 = 8;
    pub(super) const INTERFACE: u32 = 20;
    pub(super) const BITS: u32 = 6;
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`
pub(super) fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Bytes of an address.
pub(super) fn address_length(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// Keys, and what a map holds for each; nothing in plain sets.
pub(super) type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

/// What the kernel says of a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SetKind {
    /// `enum nft_set_flags`
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    /// Of a map: its datatype and its length in bytes.
    pub(super) data: Option<(u32, u32)>,
    /// Elements at most; 0 for no bound.
    pub(super) size: u32,
    /// Of elements, in milliseconds; 0 for none.
    pub(super) timeout: u64,
}

/// One table as we want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) family: Family,
    /// Elements by set; none of those that packets add.
    pub(super) elements: BTreeMap<&'static str, Elements>,
}

/// Both tables as we want them; one that has nothing to pass on is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables([Option<Table>; 2]);

/// A set by what can be read back of it.
pub(super) type SetContents = (SetKind, Elements);

/// A table by what can be read back of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Ours have none; 1 is dormant.
    pub(super) flags: u32,
    pub(super) sets: BTreeMap<String, SetContents>,
    pub(super) chains: BTreeMap<String, ChainContents>,
}

/// A chain by what can be read back of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ChainContents {
    /// Number and priority.
    pub(super) hook: Option<(u32, i32)>,
    /// `NF_ACCEPT` is 1.
    pub(super) policy: Option<u32>,
    /// The comments of its rules; each ends with a digest of what it is about.
    pub(super) rules: Vec<String>,
}

impl Tables {
    /// The tables for this.
    pub(super) fn of(wanted: &HandedOver, support: HandoverSupport) -> Self {
        Self(Family::BOTH.map(|family| {
            let table = Table::of(family, wanted);
            Some(table).filter(|table| support.has(family) && !table.is_empty())
        }))
    }

    pub(super) fn get(&self, family: Family) -> Option<&Table> {
        let [v4, v6] = &self.0;
        match family {
            Family::V4 => v4.as_ref(),
            Family::V6 => v6.as_ref(),
        }
    }
}

impl Table {
    /// The table of a family for this.
    pub(super) fn of(family: Family, wanted: &HandedOver) -> Self {
        let mut to = Elements::new();
        for (arrival, other) in &wanted.to {
            if Family::of(arrival.vip) == family && Family::of(*other) == family {
                to.insert(arrival.key(), octets(*other));
            }
        }
        Self {
            name: TABLE,
            family,
            elements: [(HANDOVER, to), (PASSED, Elements::new())].into(),
        }
    }

    fn is_empty(&self) -> bool {
        self.elements.get(HANDOVER).is_none_or(BTreeMap::is_empty)
    }

    pub(super) fn chains(&self) -> Vec<Chain> {
        rules::chains(self.family)
    }

    /// What the kernel must say of it.
    pub(super) fn contents(&self) -> Contents {
        let sets = self.elements.iter().map(|(name, elements)| {
            let contents = (kind(name, self.family), elements.clone());
            ((*name).to_owned(), contents)
        });
        let chains = self.chains().into_iter().map(|chain| {
            let contents = ChainContents {
                hook: chain.hook,
                policy: chain.hook.map(|_| 1),
                rules: chain.rules.into_iter().map(|rule| rule.comment).collect(),
            };
            (chain.name.to_owned(), contents)
        });
        Contents {
            flags: 0,
            sets: sets.collect(),
            chains: chains.collect(),
        }
    }
}

impl Contents {
    /// What is passed on, as far as it can be read.
    pub(super) fn entries(&self, family: Family) -> BTreeMap<Arrival, IpAddr> {
        let Some((found, elements)) = self.sets.get(HANDOVER) else {
            return BTreeMap::new();
        };
        if *found != kind(HANDOVER, family) {
            return BTreeMap::new();
        }
        let entries = elements
            .iter()
            .filter_map(|(key, data)| Some((Arrival::from_key(key, family)?, address(data)?)));
        entries.collect()
    }
}

/// What our set of this name is.
pub(super) fn kind(set: &str, family: Family) -> SetKind {
    let address = match family {
        Family::V4 => datatype::IPV4_ADDRESS,
        Family::V6 => datatype::IPV6_ADDRESS,
    };
    let keys = SetKind {
        key_type: address << datatype::BITS | datatype::INTERFACE,
        key_length: address_length(family) + 4,
        ..SetKind::default()
    };
    if set == PASSED {
        return SetKind {
            flags: EVAL | TIMEOUT,
            size: MOST_PASSED,
            timeout: u64::try_from(REMEMBERED.as_millis()).unwrap_or(u64::MAX),
            ..keys
        };
    }
    SetKind {
        flags: MAP,
        data: Some((address, address_length(family))),
        ..keys
    }
}

impl Arrival {
    /// The VIP, then the interface in this machine's byte order, as rules load them.
    fn key(self) -> Vec<u8> {
        let mut key = octets(self.vip);
        key.extend_from_slice(&self.interface.to_ne_bytes());
        key
    }

    pub(super) fn from_key(key: &[u8], family: Family) -> Option<Self> {
        let length = usize::try_from(address_length(family)).ok()?;
        let (vip, interface) = key.split_at_checked(length)?;
        Some(Self {
            vip: address(vip)?,
            interface: u32::from_ne_bytes(interface.try_into().ok()?),
        })
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}
