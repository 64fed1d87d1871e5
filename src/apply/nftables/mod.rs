//! `nf_tables` by nfnetlink: the table `inet edgelb`, which is ours whole.
//!
//! Chains are fixed; what changes with Services are set and map elements, changed one by one, all
//! that belongs together in one transaction. Must not touch any other table.

mod element;
mod encode;
mod expression;
mod observe;
mod rules;
mod sets;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use imbl::ordmap::DiffItem as MapDiff;
use imbl::ordset::DiffItem as SetDiff;
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::apply::netlink::{self, NetlinkSocket, TransactionError};
use crate::model::family::Family;
use crate::model::node_state::NodeState;
use element::{ElementKey, Elements, Value};
use encode::{CREATE, CREATE_NEW, LONGEST_NEST, Request, message};
use expression::Verdict;
use rules::{Chain, Pick, Rule};
use sets::{Maps, Part, Table};

pub use observe::Observed;

/// The name of our table.
pub const TABLE: &str = "edgelb";

/// Bytes of one element in a message, at most, with its attributes' heads.
const ELEMENT_BYTES: usize = 160;
/// Room in a transaction for chains and for the heads of messages.
const RESERVED_BYTES: usize = 16 << 10;

/// Why the table could not be observed or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no nf_tables, or this process lacks `CAP_NET_ADMIN`.
    #[error("nf_tables is not available: load the module nf_tables and run with CAP_NET_ADMIN")]
    NotAvailable(#[source] netlink::Error),
    /// A dump failed.
    #[error("cannot read the table inet edgelb")]
    Observe(#[source] netlink::Error),
    /// A transaction was refused and rolled back whole.
    #[error("the kernel refused a transaction on the table inet edgelb")]
    Apply(#[source] TransactionError),
    /// The kernel sent something that is no nf_tables message.
    #[error("a malformed nf_tables message came from the kernel: {0}")]
    Malformed(&'static str),
}

/// What one call changed, for metrics and logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    pub added: usize,
    pub removed: usize,
    /// The table or its chains were made anew.
    pub rebuilt: bool,
}

/// Our table in the kernel of this network namespace.
pub struct Nftables {
    socket: NetlinkSocket,
    /// Whether nftables does the forwarding, and not IPVS.
    translation: bool,
    /// Chains that choose an endpoint and are there.
    picks: BTreeSet<String>,
}

/// One edit of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Edit {
    key: ElementKey,
    old: Option<Value>,
    new: Option<Value>,
}

impl Nftables {
    /// Opens a socket; changes nothing yet.
    pub fn open(translation: bool) -> Result<Self, Error> {
        let socket = NetlinkSocket::open(NETLINK_NETFILTER).map_err(Error::NotAvailable)?;
        Ok(Self {
            socket,
            translation,
            picks: BTreeSet::new(),
        })
    }

    /// Sends, messages and bytes so far.
    pub fn counters(&self) -> netlink::Counters {
        self.socket.counters()
    }

    /// The netlink port of this socket: notifications that carry it are about our own changes.
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Sends the difference between two states.
    pub fn apply(&mut self, old: &NodeState, new: &NodeState) -> Result<Changes, Error> {
        let edits = self.edits(old, new);
        self.send(edits)
    }

    /// Compares the kernel with the state and repairs whatever differs; makes the table where it is
    /// missing. Leaves what is right untouched.
    pub fn repair(&mut self, state: &NodeState) -> Result<Changes, Error> {
        let observed = observe::observe(&mut self.socket)?;
        let wanted = element::of_state(state, self.translation);
        let fits = observed
            .as_ref()
            .is_some_and(|observed| self.schema_fits(observed));
        let (mut requests, present) = match observed {
            Some(observed) if fits => {
                self.picks = observed.picks();
                (Vec::new(), observed.elements)
            }
            Some(_) | None => {
                self.picks.clear();
                (self.schema(), Elements::new())
            }
        };
        let mut edits = Vec::new();
        for (key, value) in &wanted {
            let there = present.get(key);
            if there != Some(value) {
                edits.push(Edit {
                    key: *key,
                    old: there.cloned(),
                    new: Some(value.clone()),
                });
            }
        }
        for (key, value) in &present {
            if !wanted.contains_key(key) {
                edits.push(Edit {
                    key: *key,
                    old: Some(value.clone()),
                    new: None,
                });
            }
        }
        let rebuilt = !requests.is_empty();
        let mut changes = Changes {
            rebuilt,
            ..Changes::default()
        };
        let room = self.room();
        let mut batches = batches(edits, room).into_iter();
        // The first edits travel with the table, so that it is never there and empty.
        if rebuilt {
            let first = batches.next().unwrap_or_default();
            changes.count(&first);
            requests.extend(self.requests(&first));
            self.transaction(&requests)?;
        }
        for batch in batches {
            changes.count(&batch);
            let requests = self.requests(&batch);
            self.transaction(&requests)?;
        }
        Ok(changes)
    }

    /// Removes the table, if it is there.
    pub fn remove(&mut self) -> Result<bool, Error> {
        if !observe::table_exists(&mut self.socket)? {
            return Ok(false);
        }
        let mut request = Request::new(message::DELETE_TABLE, 0);
        request.string(1, TABLE);
        self.transaction(&[request])?;
        self.picks.clear();
        Ok(true)
    }

    fn room(&self) -> usize {
        self.socket.send_limit().saturating_sub(RESERVED_BYTES) / 2
    }

    fn send(&mut self, edits: Vec<Edit>) -> Result<Changes, Error> {
        let mut changes = Changes::default();
        for batch in batches(edits, self.room()) {
            changes.count(&batch);
            let requests = self.requests(&batch);
            self.transaction(&requests)?;
        }
        Ok(changes)
    }

    fn transaction(&mut self, requests: &[Request]) -> Result<(), Error> {
        let result =
            self.socket
                .transaction(Request::begin().as_ref(), requests, Request::end().as_ref());
        if result.is_err() {
            // Whether chains of this transaction are there is unknown; the repair finds out.
            self.picks.clear();
        }
        result.map_err(Error::Apply)
    }

    /// The edits between two states, at the price of what differs.
    fn edits(&self, old: &NodeState, new: &NodeState) -> Vec<Edit> {
        let mut edits = Vec::new();
        for difference in old.frontends.diff(&new.frontends) {
            let (mut before, mut after) = (Elements::new(), Elements::new());
            match difference {
                MapDiff::Add(port, frontend) => {
                    element::of_frontend(*port, frontend, self.translation, &mut after);
                }
                MapDiff::Update { old, new } => {
                    element::of_frontend(*old.0, old.1, self.translation, &mut before);
                    element::of_frontend(*new.0, new.1, self.translation, &mut after);
                }
                MapDiff::Remove(port, frontend) => {
                    element::of_frontend(*port, frontend, self.translation, &mut before);
                }
            }
            compare(&before, &after, &mut edits);
        }
        let add = |key| Edit {
            key,
            old: None,
            new: Some(Value::Nothing),
        };
        let remove = |key| Edit {
            key,
            old: Some(Value::Nothing),
            new: None,
        };
        for difference in old.held.diff(&new.held) {
            match difference {
                MapDiff::Add(address, _) => {
                    edits.push(add(element::of_address(Table::Held, *address)))
                }
                MapDiff::Remove(address, _) => {
                    edits.push(remove(element::of_address(Table::Held, *address)))
                }
                MapDiff::Update { .. } => {}
            }
        }
        let addresses = [
            (Table::Answering, &old.answering, &new.answering),
            (
                Table::NodeAddresses,
                &old.node_addresses,
                &new.node_addresses,
            ),
        ];
        for (table, old, new) in addresses {
            for difference in old.diff(new) {
                match difference {
                    SetDiff::Add(address) => edits.push(add(element::of_address(table, *address))),
                    SetDiff::Remove(address) => {
                        edits.push(remove(element::of_address(table, *address)))
                    }
                }
            }
        }
        for difference in old.hairpin.diff(&new.hairpin) {
            match difference {
                SetDiff::Add(address) => edits.push(add(element::of_hairpin(*address))),
                SetDiff::Remove(address) => edits.push(remove(element::of_hairpin(*address))),
            }
        }
        let ranges = [
            (Table::PodRanges, &old.pod_ranges, &new.pod_ranges),
            (
                Table::ServiceRanges,
                &old.service_ranges,
                &new.service_ranges,
            ),
        ];
        for (table, old, new) in ranges {
            if old != new {
                let (mut before, mut after) = (Elements::new(), Elements::new());
                element::of_ranges(table, old.iter(), &mut before);
                element::of_ranges(table, new.iter(), &mut after);
                compare(&before, &after, &mut edits);
            }
        }
        edits
    }

    /// The messages of one transaction: chains that are new, then removals, then additions.
    fn requests(&mut self, edits: &[Edit]) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut removed: BTreeMap<(Table, Family), Vec<(&ElementKey, &Value)>> = BTreeMap::new();
        let mut added = removed.clone();
        for edit in edits {
            let set = (edit.key.table, edit.key.family);
            if let Some(old) = &edit.old {
                removed.entry(set).or_default().push((&edit.key, old));
            }
            if let Some(new) = &edit.new {
                if let Value::Verdict(Verdict::Goto(chain)) = new {
                    self.add_pick(chain, &mut requests);
                }
                added.entry(set).or_default().push((&edit.key, new));
            }
        }
        for (kind, flags, sets) in [
            (message::DELETE_ELEMENT, 0, removed),
            (message::NEW_ELEMENT, CREATE, added),
        ] {
            for ((table, family), elements) in sets {
                elements_requests(kind, flags, table.name(family), &elements, &mut requests);
            }
        }
        requests
    }

    /// Adds the chain that chooses an endpoint, where it is one and is not there yet.
    fn add_pick(&mut self, name: &str, requests: &mut Vec<Request>) {
        if self.picks.contains(name) {
            return;
        }
        if let Some(pick) = parse_pick(name) {
            requests.push(chain_request(name, None));
            requests.push(rule_request(name, &pick.rule()));
            self.picks.insert(name.to_owned());
        }
    }

    /// The whole table with its sets and chains, in the place of whatever stands there.
    fn schema(&self) -> Vec<Request> {
        let table = |kind, flags| {
            let mut request = Request::new(kind, flags);
            request.string(1, TABLE);
            request
        };
        // Create, delete, create: the way to replace a table that may or may not exist, atomically.
        let mut requests = vec![
            table(message::NEW_TABLE, CREATE),
            table(message::DELETE_TABLE, 0),
            table(message::NEW_TABLE, CREATE),
        ];
        let mut identifier = 0;
        for set in Table::ALL
            .into_iter()
            .filter(|set| self.translation || !set.shape().translation)
        {
            for family in Family::BOTH {
                identifier += 1;
                requests.push(set_request(set, family, identifier));
            }
        }
        let chains = rules::chains(self.translation);
        requests.extend(
            chains
                .iter()
                .map(|chain| chain_request(chain.name, Some(chain))),
        );
        for chain in &chains {
            requests.extend(
                chain
                    .rules
                    .iter()
                    .map(|rule| rule_request(chain.name, rule)),
            );
        }
        requests
    }

    /// Whether chains and sets are the ones that this version makes.
    fn schema_fits(&self, observed: &Observed) -> bool {
        let chains = rules::chains(self.translation);
        let sets: BTreeSet<&str> = Table::ALL
            .into_iter()
            .filter(|set| self.translation || !set.shape().translation)
            .flat_map(|set| Family::BOTH.map(|family| set.name(family)))
            .collect();
        let rules_fit = chains.iter().all(|chain| {
            let expected: Vec<String> = chain.rules.iter().map(comment).collect();
            observed.chains.get(chain.name) == Some(&expected)
        });
        let picks_fit = observed
            .chains
            .iter()
            .filter(|(name, _)| parse_pick(name).is_some())
            .all(|(name, rules)| {
                parse_pick(name).is_some_and(|pick| *rules == [comment(&pick.rule())])
            });
        let nothing_else = observed.chains.keys().all(|name| {
            parse_pick(name).is_some() || chains.iter().any(|chain| chain.name == name)
        });
        rules_fit && picks_fit && nothing_else && observed.sets.iter().map(String::as_str).eq(sets)
    }
}

impl Changes {
    fn count(&mut self, edits: &[Edit]) {
        self.added += edits.iter().filter(|edit| edit.new.is_some()).count();
        self.removed += edits
            .iter()
            .filter(|edit| edit.old.is_some() && edit.new.is_none())
            .count();
    }
}

/// The edits from one set of elements to another.
fn compare(before: &Elements, after: &Elements, edits: &mut Vec<Edit>) {
    for (key, old) in before {
        let new = after.get(key);
        if new != Some(old) {
            edits.push(Edit {
                key: *key,
                old: Some(old.clone()),
                new: new.cloned(),
            });
        }
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        edits.push(Edit {
            key: *key,
            old: None,
            new: Some(new.clone()),
        });
    }
}

/// Cuts edits into transactions that one send can carry.
fn batches(edits: Vec<Edit>, room: usize) -> Vec<Vec<Edit>> {
    let most = (room / (2 * ELEMENT_BYTES)).max(1);
    if edits.len() <= most {
        return if edits.is_empty() {
            Vec::new()
        } else {
            vec![edits]
        };
    }
    let mut batches = Vec::new();
    let mut rest = edits.into_iter().peekable();
    while rest.peek().is_some() {
        batches.push(rest.by_ref().take(most).collect());
    }
    batches
}

fn elements_requests(
    kind: u16,
    flags: u16,
    set: &str,
    elements: &[(&ElementKey, &Value)],
    requests: &mut Vec<Request>,
) {
    for chunk in elements.chunks(LONGEST_NEST / ELEMENT_BYTES) {
        let mut request = Request::new(kind, flags);
        request.string(1, TABLE);
        request.string(2, set);
        let list = request.open(3);
        for (key, value) in chunk {
            let element = request.open(1);
            let nest = request.open(1);
            request.bytes(1, key.key.as_slice());
            request.close(nest);
            match value {
                Value::Nothing => {}
                Value::RangeEnd => request.number(3, 1), // NFT_SET_ELEM_INTERVAL_END
                Value::Verdict(verdict) => {
                    let data = request.open(2);
                    verdict.encode(&mut request);
                    request.close(data);
                }
                Value::Endpoint(bytes) => {
                    let data = request.open(2);
                    request.bytes(1, bytes.as_slice());
                    request.close(data);
                }
            }
            request.close(element);
        }
        request.close(list);
        requests.push(request);
    }
}

fn set_request(set: Table, family: Family, identifier: u32) -> Request {
    let shape = set.shape();
    let (key_type, key_length) = sets::data_type(shape.key, family);
    let mut request = Request::new(message::NEW_SET, CREATE_NEW);
    request.string(1, TABLE);
    request.string(2, set.name(family));
    let flags =
        if shape.interval { 4 } else { 0 } | if shape.maps == Maps::Nothing { 0 } else { 8 };
    request.number(3, flags);
    request.number(4, key_type);
    request.number(5, key_length);
    match shape.maps {
        Maps::Nothing => {}
        Maps::Verdict => {
            request.number(6, 0xffff_ff00); // NFT_DATA_VERDICT
            request.number(7, 0);
        }
        Maps::Endpoint => {
            let (data_type, data_length) = sets::data_type(&[Part::Address, Part::Port], family);
            request.number(6, data_type);
            request.number(7, data_length);
        }
    }
    request.number(10, identifier);
    request
}

fn chain_request(name: &str, chain: Option<&Chain>) -> Request {
    let mut request = Request::new(message::NEW_CHAIN, CREATE);
    request.string(1, TABLE);
    request.string(3, name);
    if let Some(hook) = chain.and_then(|chain| chain.hook) {
        let nest = request.open(4);
        request.number(1, hook.number);
        request.number(2, hook.priority.cast_unsigned());
        request.close(nest);
        request.number(5, 1); // policy accept
        request.string(7, hook.kind);
    }
    request
}

fn rule_request(chain: &str, rule: &Rule) -> Request {
    // Without NLM_F_APPEND a new rule goes to the front.
    let mut request = Request::new(
        message::NEW_RULE,
        CREATE | netlink_packet_core::NLM_F_APPEND,
    );
    request.string(1, TABLE);
    request.string(2, chain);
    expression::encode(&mut request, &rule.steps);
    let comment = comment(rule);
    let mut userdata = Vec::with_capacity(comment.len() + 3);
    userdata.push(0); // NFTNL_UDATA_RULE_COMMENT, as the nft program reads it
    userdata.push(u8::try_from(comment.len() + 1).unwrap_or(u8::MAX));
    userdata.extend_from_slice(comment.as_bytes());
    userdata.push(0);
    request.bytes(7, &userdata);
    request
}

/// The comment of a rule ends with a digest of its expressions: a rule that another version, or
/// somebody else, put there is told by it.
fn comment(rule: &Rule) -> String {
    let mut encoded = Request::new(message::NEW_RULE, 0);
    expression::encode(&mut encoded, &rule.steps);
    let digest = encoded.as_ref().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    format!("{} [{digest:08x}]", rule.comment)
}

/// The inverse of [`Pick::name`].
fn parse_pick(name: &str) -> Option<Pick> {
    let (node_port, rest) = match name.strip_prefix("pick_node_port") {
        Some(rest) => (true, rest),
        None => (false, name.strip_prefix("pick")?),
    };
    let (family, rest) = match rest.strip_prefix("4_") {
        Some(rest) => (Family::V4, rest),
        None => (Family::V6, rest.strip_prefix("6_")?),
    };
    let (outside, rest) = match rest.strip_prefix("outside_") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let count = rest
        .parse()
        .ok()
        .filter(|count| (1..rules::OUTSIDE_INDEX).contains(count))?;
    Some(Pick {
        family,
        node_port,
        outside,
        count,
    })
}
