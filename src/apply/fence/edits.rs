//! What changes in the sets of the fence, in the order that is safe where one transaction cannot
//! carry all: first what falls silent, last what may speak.

use std::collections::BTreeMap;
use std::net::IpAddr;

use imbl::OrdSet;
use imbl::ordset::DiffItem;

use super::Fenced;
use super::requests::address_requests;
use super::shape::{Key, SetName, Tables};
use crate::apply::nftables::encode::{Request, message};

/// Keys by set.
type Keys = BTreeMap<SetName, Vec<Key>>;

/// The changes of addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Edits {
    lost: Keys,
    fenced: Keys,
    owned: Keys,
    freed: Keys,
}

/// The difference between two states, at the price of what differs.
pub(super) fn between(old: &Fenced, new: &Fenced, tables: Tables) -> Edits {
    let mut edits = Edits::default();
    changes(&old.owned, &new.owned, |address, added| {
        let keys = if added {
            &mut edits.owned
        } else {
            &mut edits.lost
        };
        put(keys, tables.sets_of_owned(address), address);
    });
    changes(&old.vips, &new.vips, |address, added| {
        let keys = if added {
            &mut edits.fenced
        } else {
            &mut edits.freed
        };
        put(keys, tables.sets_of_vip(address), address);
    });
    edits
}

fn changes(old: &OrdSet<IpAddr>, new: &OrdSet<IpAddr>, mut found: impl FnMut(IpAddr, bool)) {
    for difference in old.diff(new) {
        match difference {
            DiffItem::Add(address) => found(*address, true),
            DiffItem::Remove(address) => found(*address, false),
        }
    }
}

fn put(keys: &mut Keys, sets: impl Iterator<Item = SetName>, address: IpAddr) {
    for set in sets {
        keys.entry(set).or_default().push(Key::of(address));
    }
}

impl Edits {
    pub(super) fn element_requests(&self) -> Vec<Request> {
        let steps = [
            (message::DELETE_ELEMENT, &self.lost),
            (message::NEW_ELEMENT, &self.fenced),
            (message::NEW_ELEMENT, &self.owned),
            (message::DELETE_ELEMENT, &self.freed),
        ];
        let all = steps
            .into_iter()
            .flat_map(|(kind, keys)| keys.iter().map(move |(set, keys)| (*set, kind, keys)));
        all.flat_map(|(set, kind, keys)| address_requests(set, kind, keys))
            .collect()
    }
}
