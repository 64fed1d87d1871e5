//! What is in the sets that rules of others ask, anonymous ones too, as far as it is asked for.

use std::collections::BTreeMap;

use super::super::Error;
use super::super::encode::{Request, message};
use super::super::observe::Attributes;
use super::evaluate::{Holds, between, equal};
use super::rule::{Verdict, verdict};
use crate::apply::netlink::NetlinkSocket;

/// More than these are not kept: whoever is not among them is perhaps in the set.
const MOST_ELEMENTS: usize = 20_000;

/// Elements from a first to a last one, with a verdict in maps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Element {
    first: Vec<u8>,
    last: Vec<u8>,
    verdict: Option<Verdict>,
}

/// What those get that no element names: nothing in a set that is no map of verdicts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest(Option<Verdict>);

/// A set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Set {
    elements: Vec<Element>,
    /// What all the others get.
    rest: Option<Rest>,
    key_length: usize,
    /// Some were left out.
    more: bool,
    /// Parts of a key that are compared one by one, in octets.
    parts: Vec<usize>,
}

/// By family, table and name.
pub(super) type AllSets = BTreeMap<(u8, String, String), Set>;

/// Those of one table.
pub(super) struct Sets<'s> {
    pub(super) all: &'s AllSets,
    pub(super) family: u8,
    pub(super) table: &'s str,
}

impl Sets<'_> {
    fn get(&self, name: &str) -> Option<&Set> {
        self.all
            .get(&(self.family, self.table.to_owned(), name.to_owned()))
    }

    pub(super) fn key_length(&self, name: &str) -> usize {
        self.get(name).map_or(0, |set| set.key_length)
    }

    /// Whether a key is in it.
    pub(super) fn holds(&self, name: &str, key: &[(Option<u8>, bool)]) -> Holds {
        let Some(set) = self.get(name) else {
            return Holds::Perhaps;
        };
        let mut perhaps = set.more;
        for element in &set.elements {
            match set.is(element, key) {
                Holds::Yes => return Holds::Yes,
                Holds::Perhaps => perhaps = true,
                Holds::No => {}
            }
        }
        match (set.rest.is_some(), perhaps) {
            (true, _) => Holds::Yes,
            (false, true) => Holds::Perhaps,
            (false, false) => Holds::No,
        }
    }

    /// What a map says of a key: one that is sure, or all that may be.
    pub(super) fn verdicts(&self, name: &str, key: &[(Option<u8>, bool)]) -> Vec<(Verdict, Holds)> {
        let Some(set) = self.get(name) else {
            return Vec::new();
        };
        let mut found: Vec<(Verdict, Holds)> = Vec::new();
        for element in &set.elements {
            let Some(verdict) = &element.verdict else {
                continue;
            };
            match set.is(element, key) {
                Holds::Yes => return vec![(verdict.clone(), Holds::Yes)],
                Holds::Perhaps if !found.iter().any(|(it, _)| it == verdict) => {
                    found.push((verdict.clone(), Holds::Perhaps));
                }
                _ => {}
            }
        }
        if let Some(Rest(Some(verdict))) = &set.rest {
            let holds = if found.is_empty() && !set.more {
                Holds::Yes
            } else {
                Holds::Perhaps
            };
            found.push((verdict.clone(), holds));
        }
        found
    }
}

impl Set {
    fn is(&self, element: &Element, key: &[(Option<u8>, bool)]) -> Holds {
        if key.is_empty() {
            return Holds::Perhaps;
        }
        if element.first == element.last {
            return equal(key, &element.first);
        }
        let mut at = 0;
        let mut holds = Holds::Yes;
        for part in &self.parts {
            let bounds = (
                element.first.get(at..at + part),
                element.last.get(at..at + part),
            );
            let (Some(key), (Some(first), Some(last))) = (key.get(at..at + part), bounds) else {
                return Holds::Perhaps;
            };
            match between(key, first, last) {
                Holds::No => return Holds::No,
                Holds::Perhaps => holds = Holds::Perhaps,
                Holds::Yes => {}
            }
            at += part;
        }
        holds
    }
}

/// Reads a set. `NFTA_SET_FLAGS` 3 (interval 4), `NFTA_SET_KEY_LEN` 5, `NFTA_SET_DESC` 9 with
/// `NFTA_SET_DESC_CONCAT` 2.
pub(super) fn read(
    socket: &mut NetlinkSocket,
    family: u8,
    table: &str,
    name: &str,
) -> Result<Set, Error> {
    let mut request = Request::of_family(message::GET_SET, 0, family);
    request.string(1, table);
    request.string(2, name);
    let replies = socket.request(request.as_ref()).map_err(Error::Observe)?;
    let Some(reply) = replies.first() else {
        return Ok(Set::default());
    };
    let attributes = Attributes::of(&reply.payload)?;
    let key_length = usize::try_from(attributes.number(5).unwrap_or_default()).unwrap_or(0);
    let concatenated: Vec<usize> = attributes
        .nested(9)
        .and_then(|it| it.nested(2))
        .iter()
        .flat_map(Attributes::iter)
        .filter_map(|(_, field)| {
            let length = Attributes::nest(field).number(1)?;
            // Each begins at a whole word.
            usize::try_from(length)
                .ok()
                .map(|it| it.next_multiple_of(4))
        })
        .collect();
    let mut set = Set {
        key_length,
        parts: if concatenated.is_empty() {
            vec![key_length]
        } else {
            concatenated
        },
        ..Set::default()
    };
    let intervals = attributes.number(3).unwrap_or_default() & 4 != 0 && set.parts.len() < 2;
    let mut request = Request::of_family(message::GET_ELEMENT, 0, family);
    request.string(1, table);
    request.string(2, name);
    let begin = || Ok((set.clone(), Vec::new()));
    let read = socket.dump_into(request.as_ref(), begin, |read, reply| {
        if let Ok((set, ends)) = read
            && let Err(error) = take(&reply.payload, set, ends)
        {
            *read = Err(error);
        }
    });
    let (read, ends) = read.map_err(Error::Observe)??;
    set = read;
    if intervals {
        set.close(ends);
    }
    Ok(set)
}

/// `NFTA_SET_ELEM_KEY` 1, `NFTA_SET_ELEM_DATA` 2, `NFTA_SET_ELEM_FLAGS` 3 (end of an interval 1, all
/// others 2), `NFTA_SET_ELEM_KEY_END` 10
fn take(payload: &[u8], set: &mut Set, ends: &mut Vec<Vec<u8>>) -> Result<(), Error> {
    let attributes = Attributes::of(payload)?;
    for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
        let element = Attributes::nest(element);
        let flags = element.number(3).unwrap_or_default();
        let verdict = match element.nested(2).and_then(|it| it.nested(2)) {
            Some(data) => verdict(&data)?,
            None => None,
        };
        let bytes = |kind| Some(element.nested(kind)?.get(1)?.to_vec());
        match bytes(1) {
            _ if flags & 2 != 0 => set.rest = Some(Rest(verdict)),
            Some(end) if flags & 1 != 0 => ends.push(end),
            Some(first) if set.elements.len() < MOST_ELEMENTS => set.elements.push(Element {
                last: bytes(10).unwrap_or_else(|| first.clone()),
                first,
                verdict,
            }),
            Some(_) => set.more = true,
            None => {}
        }
    }
    Ok(())
}

impl Set {
    /// Elements of an interval set come as the first one, and as the first one that is not meant any more.
    fn close(&mut self, mut ends: Vec<Vec<u8>>) {
        ends.sort_unstable();
        for element in &mut self.elements {
            let next = ends.partition_point(|end| *end <= element.first);
            element.last = match ends.get(next) {
                Some(end) => before(end),
                None => vec![u8::MAX; element.first.len()],
            };
        }
    }
}

/// The key before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    key
}
