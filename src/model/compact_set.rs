//! A sorted set for a map with very many sets of very few members: a set with one member costs that
//! member, and not a node of a tree with room for sixteen. A clone costs nothing.

use std::sync::Arc;

use imbl::OrdSet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A list is copied with each edit; a larger set is a tree.
const LONGEST_LIST: usize = 16;

/// A sorted set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactSet<T: Ord + Clone>(Members<T>);

/// Which of the two it is depends on the number alone, so that equal sets are equal here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Members<T: Ord + Clone> {
    None,
    One(T),
    /// Sorted; two to [`LONGEST_LIST`].
    Few(Arc<[T]>),
    Many(OrdSet<T>),
}

impl<T: Ord + Clone> Default for CompactSet<T> {
    fn default() -> Self {
        Self(Members::None)
    }
}

impl<T: Ord + Clone> CompactSet<T> {
    fn of_sorted(list: Vec<T>) -> Self {
        Self(match <[T; 1]>::try_from(list) {
            Ok([only]) => Members::One(only),
            Err(list) if list.is_empty() => Members::None,
            Err(list) if list.len() <= LONGEST_LIST => Members::Few(list.into()),
            Err(list) => Members::Many(list.into_iter().collect()),
        })
    }

    /// The members where they are a list.
    fn list(&self) -> &[T] {
        match &self.0 {
            Members::None | Members::Many(_) => &[],
            Members::One(only) => std::slice::from_ref(only),
            Members::Few(list) => list,
        }
    }

    fn tree(&self) -> Option<&OrdSet<T>> {
        match &self.0 {
            Members::Many(tree) => Some(tree),
            _ => None,
        }
    }

    /// Adds a member, if it is not one.
    pub fn insert(&mut self, member: T) {
        if let Members::Many(tree) = &mut self.0 {
            tree.insert(member);
        } else if let Err(place) = self.list().binary_search(&member) {
            let mut list = self.list().to_vec();
            list.insert(place, member);
            *self = Self::of_sorted(list);
        }
    }

    /// Takes a member out, if it is one.
    pub fn remove(&mut self, member: &T) {
        if let Members::Many(tree) = &mut self.0 {
            tree.remove(member);
            if tree.len() <= LONGEST_LIST {
                *self = Self::of_sorted(tree.iter().cloned().collect());
            }
        } else if let Ok(place) = self.list().binary_search(member) {
            let mut list = self.list().to_vec();
            list.remove(place);
            *self = Self::of_sorted(list);
        }
    }

    /// Whether it has no member.
    pub fn is_empty(&self) -> bool {
        matches!(self.0, Members::None)
    }

    /// The lowest member.
    pub fn get_min(&self) -> Option<&T> {
        self.iter().next()
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.list().iter().chain(self.tree().into_iter().flatten())
    }
}

impl<T: Ord + Clone> FromIterator<T> for CompactSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut list: Vec<T> = members.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self::of_sorted(list)
    }
}

impl<T: Ord + Clone + Serialize> Serialize for CompactSet<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de, T: Ord + Clone + Deserialize<'de>> Deserialize<'de> for CompactSet<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_set(edits in prop::collection::vec((any::<bool>(), 0_u8..40), 0..200)) {
            let (mut set, mut wanted) = (CompactSet::default(), BTreeSet::new());
            for (add, member) in edits {
                if add {
                    set.insert(member);
                    wanted.insert(member);
                } else {
                    set.remove(&member);
                    wanted.remove(&member);
                }
                prop_assert!(set.iter().eq(wanted.iter()));
                prop_assert_eq!(set.is_empty(), wanted.is_empty());
                prop_assert_eq!(set.get_min(), wanted.first());
                // However it came about.
                prop_assert_eq!(&set, &wanted.iter().rev().copied().collect());
            }
        }

        #[test]
        fn it_is_written_as_a_list(members in prop::collection::btree_set(any::<u8>(), 0..40)) {
            let set: CompactSet<u8> = members.iter().copied().collect();
            let text = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(&text, &serde_json::to_string(&members).unwrap());
            prop_assert_eq!(set, serde_json::from_str(&text).unwrap());
        }
    }
}
