//! Set and map elements, and what a frontend or a host needs of them. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use ipnet::IpNet;

use super::expression::Verdict;
use super::rules::{
    MASQUERADE_ALL, MASQUERADE_NODE, MASQUERADE_UNLESS_POD, OUTSIDE_INDEX, Pick, REFUSE,
};
use super::sets::Table;
use crate::model::family::Family;
use crate::model::frontend::{
    Frontend, FrontendAddress, FrontendPort, RealServer, SourceClass, Verdict as Decision,
};
use crate::model::node_state::NodeState;

/// Bytes of a key, at most the longest one: two IPv6 addresses.
pub type Key = Bytes<32>;
/// Bytes of data, at most an endpoint's: IPv6 address and port. There are very many of them.
pub type Data = Bytes<20>;

/// Bytes of a key or of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes<const LONGEST: usize> {
    bytes: [u8; LONGEST],
    length: u8,
}

impl<const LONGEST: usize> Bytes<LONGEST> {
    fn empty() -> Self {
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
    fn push(mut self, part: &[u8]) -> Self {
        let start = usize::from(self.length);
        if let Some(slot) = self.bytes.get_mut(start..start + part.len()) {
            slot.copy_from_slice(part);
            self.length = u8::try_from((start + part.len()).next_multiple_of(4)).unwrap_or(u8::MAX);
        }
        self
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.push(&address.octets()),
            IpAddr::V6(address) => self.push(&address.octets()),
        }
    }

    fn port(self, port: u16) -> Self {
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

impl Collection for List {
    fn join(&mut self, mut other: Self) {
        self.append(&mut other);
    }
}

/// Tells whether two lists have the same elements, in whatever order, without keeping them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Digest {
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

/// Everything that one frontend needs. `translation` says whether nftables does the forwarding.
pub(super) fn of_frontend(
    port: FrontendPort,
    frontend: &Frontend,
    translation: bool,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    let family = port.address.family();
    let protocol = [port.protocol.number()];
    let (base, node_port) = match port.address {
        FrontendAddress::Address(address) => (Key::empty().address(address).push(&protocol), false),
        FrontendAddress::NodePort(_) => (Key::empty().push(&protocol), true),
    };
    let base = base.port(port.port);
    let table = |vip: Table, node: Table| if node_port { node } else { vip };
    let mut put = |table: Table, key: Key, value: Value| {
        let end = false;
        let key = ElementKey {
            table,
            family,
            key,
            end,
        };
        elements.extend([(key, value)]);
    };

    let inside = frontend.real_servers(SourceClass::Pod);
    let outside = frontend.real_servers(SourceClass::Outside);
    if translation {
        let mut list = |real_servers: &[RealServer], outside: bool, table_of_choice: Table| {
            let count = real_servers.len().min(OUTSIDE_INDEX as usize - 1);
            let first = if outside { OUTSIDE_INDEX } else { 0 };
            for (index, real_server) in (first..).zip(real_servers.iter().take(count)) {
                let data = Data::empty()
                    .address(real_server.address)
                    .port(real_server.port);
                let key = base.push(&index.to_ne_bytes());
                put(
                    table(Table::Endpoints, Table::NodePortEndpoints),
                    key,
                    Value::Endpoint(data),
                );
            }
            if let Some(count) = u32::try_from(count).ok().filter(|count| *count > 0) {
                let pick = Pick {
                    family,
                    node_port,
                    outside,
                    count,
                };
                put(
                    table_of_choice,
                    base,
                    Value::Verdict(Verdict::Goto(pick.name().into())),
                );
            }
        };
        list(inside, false, table(Table::Frontends, Table::NodePorts));
        // Where outside clients get nothing at all, the guard ends it before any translation.
        if outside != inside && !outside.is_empty() {
            list(
                outside,
                true,
                table(Table::Outside, Table::NodePortsOutside),
            );
        }
    }
    let closing = |class: SourceClass| match frontend.treatment(class).verdict {
        Decision::Forward(_) => None,
        Decision::Refuse => Some(Verdict::Goto(REFUSE.into())),
        Decision::Drop => Some(Verdict::Drop),
    };
    let (inside_closed, outside_closed) =
        (closing(SourceClass::Pod), closing(SourceClass::Outside));
    if let Some(verdict) = &inside_closed {
        put(
            table(Table::Closed, Table::NodePortsClosed),
            base,
            Value::Verdict(verdict.clone()),
        );
    }
    if let Some(verdict) = outside_closed.filter(|verdict| inside_closed.as_ref() != Some(verdict))
    {
        put(
            table(Table::OutsideClosed, Table::NodePortsOutsideClosed),
            base,
            Value::Verdict(verdict),
        );
    }
    if let Some(chain) = masquerade_chain(frontend) {
        let verdict = Value::Verdict(Verdict::Goto(chain.into()));
        put(
            table(Table::Masquerade, Table::NodePortMasquerade),
            base,
            verdict,
        );
    }
}

/// The narrowest chain that replaces the source of every class that needs it.
fn masquerade_chain(frontend: &Frontend) -> Option<&'static str> {
    let masquerade = |class| frontend.treatment(class).masquerade;
    match (
        masquerade(SourceClass::Outside),
        masquerade(SourceClass::Pod),
        masquerade(SourceClass::Node),
    ) {
        (false, false, false) => None,
        (false, false, true) => Some(MASQUERADE_NODE),
        (true, false, _) => Some(MASQUERADE_UNLESS_POD),
        (_, true, _) => Some(MASQUERADE_ALL),
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

/// A hairpin endpoint: as source and as destination.
pub(super) fn of_hairpin(address: IpAddr) -> ElementKey {
    ElementKey {
        key: Key::empty().address(address).address(address),
        ..of_address(Table::Hairpin, address)
    }
}

/// Ranges, merged so that none overlaps another or begins where one ends: the kernel refuses both
/// (SR-8), because the end of a range is an element too, the first address that is not in it.
pub(super) fn of_ranges<'a>(
    table: Table,
    ranges: impl Iterator<Item = &'a IpNet>,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    let mut spans: Vec<(IpAddr, Option<IpAddr>)> = ranges
        .map(|range| (range.network(), after(range.broadcast())))
        .collect();
    spans.sort_unstable();
    let mut merged: Vec<(IpAddr, Option<IpAddr>)> = Vec::new();
    for (start, end) in spans {
        match merged.last_mut() {
            Some((first, last))
                if Family::of(*first) == Family::of(start)
                    && last.is_none_or(|last| start <= last) =>
            {
                // No end at all is the greatest.
                *last = last.zip(end).map(|(last, end)| last.max(end));
            }
            _ => merged.push((start, end)),
        }
    }
    for (start, end) in merged {
        elements.extend([(of_address(table, start), Value::Nothing)]);
        if let Some(end) = end {
            let key = ElementKey {
                end: true,
                ..of_address(table, end)
            };
            elements.extend([(key, Value::Nothing)]);
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
}

/// The whole content of every set.
pub(super) fn of_state<T>(state: &NodeState, translation: bool) -> T
where
    T: Default + Extend<(ElementKey, Value)>,
{
    let mut elements = T::default();
    for (port, frontend) in &state.frontends {
        of_frontend(*port, frontend, translation, &mut elements);
    }
    of_node(state, &mut elements);
    elements
}
