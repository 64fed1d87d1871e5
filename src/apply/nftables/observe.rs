//! Reads our table back from the kernel: chains with their rules' comments, sets, elements.

use std::collections::{BTreeMap, BTreeSet};

use super::element::{Collection, Data, ElementKey, Key, Value};
use super::encode::{INET, Request, message};
use super::expression::Verdict;
use super::rules::Pick;
use super::sets::{Keys, Maps, ObservedSet, Table};
use super::{Error, TABLE};
use crate::apply::netlink::{self, NetlinkSocket};
use crate::model::family::Family;
use crate::model::text::{Text, Texts};

/// Bytes of `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;
/// `NLA_TYPE_MASK`: without the marks for nests and byte order.
const KIND_MASK: u16 = 0x3fff;

/// A chain as the kernel has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ObservedChain {
    /// Hook number, priority and kind of a chain that hangs on one.
    pub(super) hook: Option<(u32, i32, String)>,
    /// `NF_ACCEPT` is 1.
    pub(super) policy: Option<u32>,
    /// The comments of its rules, in order.
    pub(super) rules: Vec<String>,
}

/// Our table as the kernel has it.
#[derive(Debug, Default)]
pub struct Observed {
    /// Flags of the table: none of ours has any; 1 is dormant.
    pub(super) flags: u32,
    pub(super) chains: BTreeMap<String, ObservedChain>,
    pub(super) sets: BTreeMap<String, ObservedSet>,
}

impl Observed {
    pub(super) fn picks(&self) -> BTreeSet<String> {
        self.chains
            .keys()
            .filter(|name| Pick::parse(name).is_some())
            .cloned()
            .collect()
    }
}

/// The flags of our table of this family (`NFPROTO_…`), or `None` where it does not exist.
pub(in crate::apply) fn table(
    socket: &mut NetlinkSocket,
    family: u8,
) -> Result<Option<u32>, Error> {
    let mut request = Request::of_family(message::GET_TABLE, 0, family);
    request.string(1, TABLE);
    match socket.request(request.as_ref()) {
        Ok(replies) => {
            let reply = replies
                .first()
                .ok_or(Error::Malformed("no table in the answer"))?;
            let flags = Attributes::of(&reply.payload)?.number(2);
            Ok(Some(flags.unwrap_or_default()))
        }
        Err(netlink::Error::Refused(error)) if error.errno == nix::errno::Errno::ENOENT as i32 => {
            Ok(None)
        }
        Err(error) => Err(Error::Observe(error)),
    }
}

/// Everything in our table but for its elements, or `None` where it does not exist.
pub(super) fn observe(socket: &mut NetlinkSocket) -> Result<Option<Observed>, Error> {
    let Some(flags) = table(socket, INET)? else {
        return Ok(None);
    };
    let mut observed = Observed {
        flags,
        ..Observed::default()
    };
    for chain in dump(socket, message::GET_CHAIN)? {
        let attributes = Attributes::of(&chain)?;
        if attributes.string(1)? == Some(TABLE) {
            let name = attributes
                .string(3)?
                .ok_or(Error::Malformed("a chain without a name"))?;
            let hook = attributes.nested(4).and_then(|hook| {
                let kind = attributes.string(7).ok()??.to_owned();
                Some((hook.number(1)?, hook.number(2)?.cast_signed(), kind))
            });
            let chain = observed.chains.entry(name.to_owned()).or_default();
            chain.hook = hook;
            chain.policy = attributes.number(5);
        }
    }
    for rule in dump(socket, message::GET_RULE)? {
        let attributes = Attributes::of(&rule)?;
        if attributes.string(1)? == Some(TABLE) {
            let chain = attributes
                .string(2)?
                .ok_or(Error::Malformed("a rule without a chain"))?;
            let comment = attributes.get(7).map(comment).unwrap_or_default();
            observed
                .chains
                .entry(chain.to_owned())
                .or_default()
                .rules
                .push(comment);
        }
    }
    for set in dump(socket, message::GET_SET)? {
        let attributes = Attributes::of(&set)?;
        if attributes.string(1)? == Some(TABLE) {
            let name = attributes
                .string(2)?
                .ok_or(Error::Malformed("a set without a name"))?;
            let set = ObservedSet {
                flags: attributes.number(3).unwrap_or_default(),
                key_type: attributes.number(4).unwrap_or_default(),
                key_length: attributes.number(5).unwrap_or_default(),
                data_type: attributes.number(6),
                size: attributes
                    .nested(9)
                    .and_then(|description| description.number(1)),
                counts: attributes
                    .nested(17)
                    .is_some_and(|expression| matches!(expression.string(1), Ok(Some("counter")))),
            };
            observed.sets.insert(name.to_owned(), set);
        }
    }
    Ok(Some(observed))
}

/// The elements of all sets that are there, but for those that the kernel fills.
pub(super) fn elements<T: Collection>(
    socket: &mut NetlinkSocket,
    observed: &Observed,
) -> Result<T, Error> {
    let mut all = T::default();
    for table in Table::ALL.into_iter().filter(|table| !table.dynamic()) {
        for family in Family::BOTH {
            if observed.sets.contains_key(table.name(family)) {
                all.join(set_elements(socket, table, family)?);
            }
        }
    }
    Ok(all)
}

fn dump(socket: &mut NetlinkSocket, kind: u16) -> Result<Vec<Vec<u8>>, Error> {
    let mut request = Request::new(kind, 0);
    request.string(1, TABLE);
    let replies = socket.dump(request.as_ref()).map_err(Error::Observe)?;
    Ok(replies.into_iter().map(|reply| reply.payload).collect())
}

/// The elements of one set.
pub(super) fn set_elements<T: Collection>(
    socket: &mut NetlinkSocket,
    table: Table,
    family: Family,
) -> Result<T, Error> {
    let mut request = Request::new(message::GET_ELEMENT, 0);
    request.string(1, TABLE);
    request.string(2, table.name(family));
    // Taken apart as it comes: a set can be larger than all else that this program holds.
    let begin = || Ok((T::default(), Texts::default()));
    let list = socket.dump_into(request.as_ref(), begin, |list, reply| {
        if let Ok((into, chains)) = list
            && let Err(error) = take_elements(table, family, &reply.payload, into, chains)
        {
            *list = Err(error);
        }
    });
    let (list, _) = list.map_err(Error::Observe)??;
    Ok(list)
}

/// The elements in one message.
pub(super) fn message_elements(
    table: Table,
    family: Family,
    payload: &[u8],
    into: &mut impl Extend<(ElementKey, Value)>,
) -> Result<(), Error> {
    take_elements(table, family, payload, into, &mut Texts::default())
}

fn take_elements(
    table: Table,
    family: Family,
    payload: &[u8],
    into: &mut impl Extend<(ElementKey, Value)>,
    chains: &mut Texts,
) -> Result<(), Error> {
    let attributes = Attributes::of(payload)?;
    for (_, element) in attributes.nested(3).iter().flat_map(Attributes::iter) {
        let element = Attributes(element);
        let key = element
            .nested(1)
            .and_then(|key| key.get(1))
            .and_then(Key::from_slice)
            .ok_or(Error::Malformed("an element without a key of ours"))?;
        let end = element
            .get(3)
            .is_some_and(|flags| flags == 1u32.to_be_bytes());
        let shape = table.shape();
        let bytes = |attribute| {
            let data = element.nested(attribute)?;
            Data::from_slice(data.get(1)?)
        };
        let value = match shape.maps {
            Maps::Nothing if shape.keys == Keys::LastPartRanges => {
                Value::Last(last_part(&element, family)?)
            }
            Maps::Nothing => Value::Nothing,
            Maps::Verdict => Value::Verdict(verdict(&element, chains)?),
            Maps::Endpoint => {
                Value::Endpoint(bytes(2).ok_or(Error::Malformed("an endpoint without data"))?)
            }
            Maps::Scope | Maps::Number => {
                Value::Number(bytes(2).ok_or(Error::Malformed("a number without data"))?)
            }
        };
        let key = ElementKey {
            table,
            family,
            key,
            end,
        };
        into.extend([(key, value)]);
    }
    Ok(())
}

/// The last address of a range: one that holds a single address has no end of its own.
fn last_part(element: &Attributes<'_>, family: Family) -> Result<Data, Error> {
    let length = match family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    [10, 1]
        .into_iter()
        .find_map(|attribute| element.nested(attribute)?.get(1))
        .and_then(|key| Data::from_slice(key.get(key.len().checked_sub(length)?..)?))
        .ok_or(Error::Malformed("a range without an end"))
}

fn verdict(element: &Attributes<'_>, chains: &mut Texts) -> Result<Verdict, Error> {
    let verdict = element
        .nested(2)
        .and_then(|data| data.nested(2))
        .ok_or(Error::Malformed("a verdict map without a verdict"))?;
    let code = verdict
        .get(1)
        .and_then(|bytes| Some(i32::from_be_bytes(bytes.try_into().ok()?)))
        .ok_or(Error::Malformed("a verdict without a code"))?;
    Ok(match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -4 => {
            let mut chain = Text::from(verdict.string(2)?.unwrap_or_default());
            chains.share(&mut chain);
            Verdict::Goto(chain)
        }
        // Anything else is nobody's that we know: it differs from all that we want.
        _ => Verdict::Return,
    })
}

/// The comment in a rule's user data, as the nft program writes it: type 0, length, text, zero.
pub(in crate::apply) fn comment(userdata: &[u8]) -> String {
    match userdata {
        [0, length, text @ ..] => {
            let text = text.get(..usize::from(*length)).unwrap_or(text);
            String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
        }
        _ => String::new(),
    }
}

/// The attributes of one message or nest.
pub(crate) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Of a whole nfnetlink payload.
    pub(crate) fn of(payload: &'a [u8]) -> Result<Self, Error> {
        payload
            .get(HEADER..)
            .map(Self)
            .ok_or(Error::Malformed("a message shorter than its header"))
    }

    /// Of a nest.
    pub(crate) fn nest(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// The value of the first attribute of this kind.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// Kind and value of each attribute; ends where one does not fit. `NlasIterator` of
    /// netlink-packet-core lends values that do not outlive an item.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (head, _) = rest.split_first_chunk::<4>()?;
            let [length_low, length_high, kind_low, kind_high] = *head;
            let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
            let kind = u16::from_ne_bytes([kind_low, kind_high]) & KIND_MASK;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    pub(crate) fn number(&self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(self.get(kind)?.try_into().ok()?))
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Self> {
        self.get(kind).map(Self)
    }

    /// A name without its terminating zero.
    pub(crate) fn string(&self, kind: u16) -> Result<Option<&'a str>, Error> {
        let Some(bytes) = self.get(kind) else {
            return Ok(None);
        };
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        std::str::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Error::Malformed("a name that is no text"))
    }
}
