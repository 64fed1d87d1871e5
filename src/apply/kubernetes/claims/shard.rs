//! How claims are written: who holds which address as the data of 16 `ConfigMaps`, and back. An address
//! belongs to one of them by its last four bits, so that it is decided by one compare-and-swap. Pure.
//!
//! An entry that cannot be read is somebody's claim all the same: it is kept as it is, and its address
//! is nobody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::allocation::{Allocation, Allocations};
use crate::model::service::ServiceKey;

/// How many there are.
pub const SHARDS: usize = 16;

/// One Service that holds an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Which, as `namespace/name`.
    #[serde(serialize_with = "write_key", deserialize_with = "read_key")]
    pub service: ServiceKey,
    /// The number of the edit that gave it.
    pub counter: u64,
    /// The place of the address among the Service's, from 0.
    pub position: usize,
    /// The node that gave it.
    pub node: String,
}

fn write_key<S: Serializer>(key: &ServiceKey, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(key)
}

fn read_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ServiceKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(ServiceKey::new(namespace, name))
        }
        _ => Err(serde::de::Error::custom(format_args!(
            "{text:?} is not namespace/name"
        ))),
    }
}

/// Why an entry is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// The key is no address as it is written here.
    Key,
    /// The address belongs to another `ConfigMap`.
    Elsewhere,
    /// The value is not a list of holders.
    Value(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => f.write_str("its key is no address, such as 192.0.2.10 or 2001-db8--10"),
            Self::Elsewhere => f.write_str("its address belongs to another ConfigMap"),
            Self::Value(error) => write!(f, "its value is no list of holders: {error}"),
        }
    }
}

/// An entry that is kept as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    value: String,
    /// Why.
    pub reason: Unreadable,
    /// Whose address nobody else gets.
    pub address: Option<IpAddr>,
}

/// What one `ConfigMap` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shard {
    /// Never an empty list.
    entries: OrdMap<IpAddr, Arc<[Holder]>>,
    /// By key.
    kept: BTreeMap<String, Kept>,
}

/// Which of the `ConfigMaps` an address belongs to: its last four bits.
pub fn shard_of(address: IpAddr) -> usize {
    let last = match address {
        IpAddr::V4(address) => address.octets().last().copied(),
        IpAddr::V6(address) => address.octets().last().copied(),
    };
    usize::from(last.unwrap_or_default() & 0xf)
}

/// An address as a key of a `ConfigMap`, which has no colons.
pub fn key_of(address: IpAddr) -> String {
    address.to_string().replace(':', "-")
}

/// The address that a key stands for, written as here or not.
fn address_of(key: &str) -> Option<IpAddr> {
    key.replace('-', ":").parse().ok()
}

impl Shard {
    /// Reads the data of one of them.
    pub fn read(index: usize, data: BTreeMap<String, String>) -> Self {
        let mut shard = Self::default();
        for (key, value) in data {
            match read_entry(index, &key, &value) {
                Ok((address, holders)) => shard.set(address, holders),
                Err((reason, address)) => {
                    let kept = Kept {
                        value,
                        reason,
                        address,
                    };
                    shard.kept.insert(key, kept);
                }
            }
        }
        shard
    }

    /// Writes its data.
    pub fn write(&self) -> Result<BTreeMap<String, String>, serde_json::Error> {
        let mut data: BTreeMap<String, String> = (self.kept.iter())
            .map(|(key, kept)| (key.clone(), kept.value.clone()))
            .collect();
        for (address, holders) in &self.entries {
            data.insert(key_of(*address), serde_json::to_string(&**holders)?);
        }
        Ok(data)
    }

    /// Who holds an address, the earliest first.
    pub fn holders_of(&self, address: IpAddr) -> &[Holder] {
        self.entries.get(&address).map_or(&[], AsRef::as_ref)
    }

    /// Says who holds an address.
    pub fn set(&mut self, address: IpAddr, holders: Vec<Holder>) {
        if holders.is_empty() {
            self.entries.remove(&address);
        } else {
            self.entries.insert(address, holders.into());
        }
    }

    /// The entries that are kept as they are, by key.
    pub fn kept(&self) -> &BTreeMap<String, Kept> {
        &self.kept
    }

    /// What is kept of this address.
    pub fn kept_of(&self, address: IpAddr) -> Option<&Kept> {
        (self.kept.values()).find(|kept| kept.address == Some(address))
    }
}

type EntryResult = Result<(IpAddr, Vec<Holder>), (Unreadable, Option<IpAddr>)>;

fn read_entry(index: usize, key: &str, value: &str) -> EntryResult {
    let address = address_of(key).ok_or((Unreadable::Key, None))?;
    if shard_of(address) != index {
        // The other ConfigMap decides about it.
        return Err((Unreadable::Elsewhere, None));
    }
    if key_of(address) != key {
        return Err((Unreadable::Key, Some(address)));
    }
    let holders: Vec<Holder> = serde_json::from_str(value)
        .map_err(|error| (Unreadable::Value(error.to_string()), Some(address)))?;
    Ok((address, holders))
}

/// The records that all of them together say. One of several addresses is put together again by
/// position; where a write reached only some of them, every address that is still held is in it, the
/// later edit's first.
pub fn assemble<'a>(shards: impl IntoIterator<Item = &'a Shard>) -> Allocations {
    let mut held: BTreeMap<&ServiceKey, Vec<(IpAddr, &Holder)>> = BTreeMap::new();
    for shard in shards {
        for (address, holders) in &shard.entries {
            for holder in holders.iter() {
                held.entry(&holder.service)
                    .or_default()
                    .push((*address, holder));
            }
        }
    }
    let records = held.into_iter().filter_map(|(service, mut places)| {
        places.sort_by_key(|(address, holder)| {
            (holder.position, std::cmp::Reverse(holder.counter), *address)
        });
        let latest = places
            .iter()
            .map(|(_, holder)| *holder)
            .min_by_key(|holder| (std::cmp::Reverse(holder.counter), &holder.node))?;
        let mut known = BTreeSet::new();
        Some(Allocation {
            service: service.clone(),
            addresses: (places.iter())
                .map(|(address, _)| *address)
                .filter(|address| known.insert(*address))
                .collect(),
            counter: latest.counter,
            node: latest.node.clone(),
        })
    });
    Allocations::from(records.collect::<Vec<_>>())
}

/// The entries that change between two tables: every address of a record that is not what it was,
/// and who holds it now.
pub fn edits(before: &Allocations, wanted: &Allocations) -> BTreeMap<IpAddr, Vec<Holder>> {
    let touched: BTreeSet<IpAddr> = wanted
        .changed_since(before)
        .flat_map(|(old, new)| old.into_iter().chain(new))
        .flat_map(|record| record.addresses.iter().copied())
        .collect();
    touched
        .into_iter()
        .map(|address| (address, holders(wanted, address)))
        .collect()
}

fn holders(allocations: &Allocations, address: IpAddr) -> Vec<Holder> {
    let holder = |service: &ServiceKey| {
        let record = allocations.record(service)?;
        let position = (record.addresses.iter()).position(|held| *held == address)?;
        Some(Holder {
            service: service.clone(),
            counter: record.counter,
            position,
            node: record.node.clone(),
        })
    };
    let services = allocations.holders_of(address).iter();
    services.filter_map(holder).collect()
}

#[cfg(test)]
#[path = "shard_tests.rs"]
mod tests;
