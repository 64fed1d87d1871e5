//! Set and map elements, and what a host needs of them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::Verdict;
use super::frontend::of_frontend;
use super::layout::Layout;
use super::sets::Table;
use crate::model::family::Family;
use crate::model::interface_pattern::InterfacePattern;
use crate::model::node_state::NodeState;
use crate::model::text::Text;

/// Bytes of a key, at most the longest one: an IPv6 frontend and a source address.
pub type Key = Bytes<40>;
/// Bytes of data, at most an endpoint's: IPv6 address and port. There are very many of them.
pub type Data = Bytes<20>;

/// Bytes of a key or of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const LONGEST: usize> {
    bytes: [u8; LONGEST],
    length: u8,
}

impl<const LONGEST: usize> Bytes<LONGEST> {
    pub(super) fn empty() -> Self {
        Self {
            bytes: [0; LONGEST],
            length: 0,
        }
    }

    /// From what the kernel sent; `None` where it is longer than any key of ours.
    pub(super) fn from_slice(slice: &[u8]) -> Option<Self> {
        let mut bytes = Self::empty();
        bytes.bytes.get_mut(..slice.len())?.copy_from_slice(slice);
        bytes.length = u8::try_from(slice.len()).ok()?;
        Some(bytes)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }

    /// Appends one part, in whole words.
    pub(super) fn push(mut self, part: &[u8]) -> Self {
        let start = usize::from(self.length);
        if let Some(slot) = self.bytes.get_mut(start..start + part.len()) {
            slot.copy_from_slice(part);
            self.length = u8::try_from((start + part.len()).next_multiple_of(4)).unwrap_or(u8::MAX);
        }
        self
    }

    pub(super) fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }

    pub(super) fn port(self, port: u16) -> Self {
        self.push(&port.to_be_bytes())
    }
}

/// A set of ours, in one family, and a key in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ElementKey {
    pub table: Table,
    pub family: Family,
    pub key: Key,
    /// The end of a range: the first address that is not in it. A range may begin at the same one.
    pub end: bool,
}

/// What stands behind a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value {
    Nothing,
    Verdict(Verdict),
    Endpoint(Data),
    /// The number of a Service port or of an endpoint.
    Number(Data),
    /// The last address of a range that the last part of the key begins.
    Last(Data),
}

/// Elements by key.
pub(super) type Elements = BTreeMap<ElementKey, Value>;

/// All elements of a large table, in any order, in one piece of memory.
pub(super) type List = Vec<(ElementKey, Value)>;

/// What elements can be taken in by, one after the other.
pub(super) trait Collection: Default + Extend<(ElementKey, Value)> {
    /// Takes in what another one took in.
    fn join(&mut self, other: Self);
}

impl Collection for Elements {
    fn join(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

impl Collection for List {
    fn join(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

/// Tells whether two lists have the same elements, in whatever order, without keeping them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    count: usize,
    sum: u64,
    parity: u64,
}

impl Extend<(ElementKey, Value)> for Digest {
    fn extend<I: IntoIterator<Item = (ElementKey, Value)>>(&mut self, elements: I) {
        for element in elements {
            let mut hasher = DefaultHasher::new();
            element.hash(&mut hasher);
            let hash = hasher.finish();
            self.join(Self {
                count: 1,
                sum: hash,
                parity: hash,
            });
        }
    }
}

impl Collection for Digest {
    fn join(&mut self, other: Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.parity ^= other.parity;
    }
}

/// Tells what a digest tells, and to which chains the elements lead.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) digest: Digest,
    pub(super) chains: BTreeSet<Text>,
}

impl Extend<(ElementKey, Value)> for Summary {
    fn extend<I: IntoIterator<Item = (ElementKey, Value)>>(&mut self, elements: I) {
        let chains = &mut self.chains;
        self.digest
            .extend(elements.into_iter().inspect(|(_, value)| {
                if let Value::Verdict(Verdict::Goto(chain)) = value
                    && !chains.contains(chain)
                {
                    chains.insert(chain.clone());
                }
            }));
    }
}

/// Single-address sets of a node.
pub(super) fn of_address(table: Table, address: IpAddr) -> ElementKey {
    ElementKey {
        table,
        family: Family::of(address),
        key: Key::empty().address(address),
        end: false,
    }
}

/// What restricts the frontend that a range of [`Table::Allowed`] belongs to.
pub(super) fn restriction_of(allowed: &ElementKey) -> ElementKey {
    let key = allowed.key.as_slice();
    let address = match allowed.family {
        Family::V4 => 4,
        Family::V6 => 16,
    };
    let frontend = key.get(..key.len().saturating_sub(address));
    ElementKey {
        table: Table::Restricted,
        key: frontend
            .and_then(Key::from_slice)
            .unwrap_or_else(Key::empty),
        ..*allowed
    }
}

/// A hairpin endpoint: as source and as destination.
pub(super) fn of_hairpin(address: IpAddr) -> ElementKey {
    ElementKey {
        key: Key::empty().address(address).address(address),
        ..of_address(Table::Hairpin, address)
    }
}

/// Ranges of addresses, as [`put_ranges`] does.
pub(super) fn of_ranges<'a>(
    table: Table,
    ranges: impl Iterator<Item = &'a IpNet>,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    let key = |address| Key::empty().address(address);
    let (four, six): (Vec<&IpNet>, Vec<&IpNet>) = ranges.partition(|range| range.addr().is_ipv4());
    for (family, ranges) in Family::BOTH.into_iter().zip([four, six]) {
        let spans = ranges
            .into_iter()
            .map(|range| (key(range.network()), after(range.broadcast()).map(key)));
        put_ranges(table, family, spans.collect(), elements);
    }
}

/// Names of interfaces: a range holds all that begin alike. Patterns that are none are left out,
/// which only means that they tell nobody to be a pod.
pub(super) fn of_interfaces<'a>(
    patterns: impl Iterator<Item = &'a InterfacePattern>,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    let spans: Vec<(Key, Option<Key>)> = patterns
        .filter_map(|pattern| {
            let (prefix, whole) = pattern.prefix()?;
            let mut first = [0; 16];
            first
                .get_mut(..prefix.len())?
                .copy_from_slice(prefix.as_bytes());
            if prefix.is_empty() {
                // Not the empty name: a packet of this node's own came in by no interface.
                first = 1_u128.to_be_bytes();
            }
            let step = if whole {
                1
            } else {
                // One more in the last byte of the prefix; none behind what begins with nothing.
                1_u128
                    .checked_shl(8 * (16 - u32::try_from(prefix.len()).ok()?))
                    .unwrap_or(0)
            };
            let end = u128::from_be_bytes(first).checked_add(step);
            let end = end.filter(|_| step > 0);
            let key = |bytes: [u8; 16]| Key::empty().push(&bytes);
            Some((key(first), end.map(|end| key(end.to_be_bytes()))))
        })
        .collect();
    for family in Family::BOTH {
        put_ranges(Table::PodInterfaces, family, spans.clone(), elements);
    }
}

/// Ranges by first key and the one behind the last, merged so that none overlaps another or begins
/// where one ends: the kernel refuses both (SR-8), because the end of a range is an element too, the
/// first key that is not in it.
fn put_ranges(
    table: Table,
    family: Family,
    mut spans: Vec<(Key, Option<Key>)>,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    spans.sort_unstable();
    let mut merged: Vec<(Key, Option<Key>)> = Vec::new();
    for (start, end) in spans {
        match merged.last_mut() {
            // No end at all is the greatest.
            Some((_, last)) if last.is_none_or(|last| start <= last) => {
                *last = last.zip(end).map(|(last, end)| last.max(end));
            }
            _ => merged.push((start, end)),
        }
    }
    for (start, end) in merged {
        for (key, end) in [(Some(start), false), (end, true)] {
            elements.extend(key.map(|key| {
                let key = ElementKey {
                    table,
                    family,
                    key,
                    end,
                };
                (key, Value::Nothing)
            }));
        }
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| std::net::Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(address) => address
            .to_bits()
            .checked_add(1)
            .map(|bits| std::net::Ipv6Addr::from_bits(bits).into()),
    }
}

/// Everything of a node's state that is not a frontend's.
pub(super) fn of_node(state: &NodeState, elements: &mut impl Extend<(ElementKey, Value)>) {
    elements.extend(
        state
            .held
            .keys()
            .map(|address| (of_address(Table::Held, *address), Value::Nothing)),
    );
    elements.extend(
        state
            .answering
            .iter()
            .map(|address| (of_address(Table::Answering, *address), Value::Nothing)),
    );
    elements.extend(
        state
            .node_addresses
            .iter()
            .map(|address| (of_address(Table::NodeAddresses, *address), Value::Nothing)),
    );
    elements.extend(
        state
            .hairpin
            .iter()
            .map(|address| (of_hairpin(*address), Value::Nothing)),
    );
    of_ranges(Table::PodRanges, state.pod_ranges.iter(), elements);
    of_ranges(Table::ServiceRanges, state.service_ranges.iter(), elements);
    of_interfaces(state.pod_interfaces.iter(), elements);
}

/// The whole content of every set.
pub(super) fn of_state<T>(state: &NodeState, layout: Layout) -> T
where
    T: Default + Extend<(ElementKey, Value)>,
{
    let mut elements = T::default();
    for (port, frontend) in &state.frontends {
        of_frontend(*port, frontend, layout.datapath, &mut elements);
    }
    of_node(state, &mut elements);
    elements
}
