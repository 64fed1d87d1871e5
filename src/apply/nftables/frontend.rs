//! The elements that one frontend needs, whichever part of the kernel forwards for it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::element::{Data, ElementKey, Key, Value};
use super::expression::{Choice, Verdict};
use super::rules::{
    MASQUERADE_ALL, MASQUERADE_NODE, MASQUERADE_UNLESS_POD, OUTSIDE_INDEX, Pick, REFUSE,
};
use super::sets::Table;
use crate::apply::forwarder::{Forwarder, forwarder};
use crate::model::family::Family;
use crate::model::frontend::{
    Affinity, Frontend, FrontendAddress, FrontendPort, RealServer, SourceClass, Verdict as Decision,
};
use crate::model::scheduler::Scheduler;

/// Puts elements of one frontend.
struct Put<'a, E> {
    port: FrontendPort,
    frontend: &'a Frontend,
    node_port: bool,
    /// The key of the frontend.
    base: Key,
    elements: &'a mut E,
}

/// Everything that one frontend needs where `datapath` forwards all that it can.
pub(super) fn of_frontend(
    port: FrontendPort,
    frontend: &Frontend,
    datapath: Forwarder,
    elements: &mut impl Extend<(ElementKey, Value)>,
) {
    let node_port = matches!(port.address, FrontendAddress::NodePort(_));
    let mut put = Put {
        port,
        frontend,
        node_port,
        base: key_of_frontend(Key::empty(), port),
        elements,
    };
    // Pods and this node have one list; peers cannot be told from outside clients.
    let by_nftables = |class| forwarder(frontend, class, datapath) == Forwarder::Nftables;
    let outside_too = by_nftables(SourceClass::Outside);
    if by_nftables(SourceClass::Pod) {
        let by_frontend = if outside_too {
            (Table::Frontends, Table::NodePorts)
        } else {
            (Table::Inside, Table::NodePortsInside)
        };
        put.list(SourceClass::Pod, by_frontend);
    }
    let lists = [SourceClass::Outside, SourceClass::Pod].map(|class| frontend.real_servers(class));
    // Where outside clients get nothing at all, the guard ends it before any translation.
    if outside_too && lists[0] != lists[1] {
        put.list(
            SourceClass::Outside,
            (Table::Outside, Table::NodePortsOutside),
        );
    }
    if let Some(affinity) = frontend.session_affinity.filter(|_| outside_too) {
        let scope = Data::empty()
            .push(&[0; 4])
            .push(&affinity.scope.to_be_bytes());
        let by_frontend = (Table::Scopes, Table::NodePortScopes);
        put.one(by_frontend, Value::Number(scope));
    }
    if outside_too || by_nftables(SourceClass::Pod) {
        let by_frontend = (Table::Connections, Table::NodePortConnections);
        put.one(by_frontend, Value::Nothing);
    }
    put.allowed_sources();
    put.closed();
    if let Some(chain) = masquerade_chain(frontend) {
        let by_frontend = (Table::Masquerade, Table::NodePortMasquerade);
        put.one(by_frontend, Value::Verdict(Verdict::Goto(chain.into())));
    }
}

/// Appends address, protocol and port; for node ports protocol and port.
pub(super) fn key_of_frontend(key: Key, port: FrontendPort) -> Key {
    let key = match port.address {
        FrontendAddress::Address(address) => key.address(address),
        FrontendAddress::NodePort(_) => key,
    };
    key.push(&[port.protocol.number()]).port(port.port)
}

impl<E: Extend<(ElementKey, Value)>> Put<'_, E> {
    fn put(&mut self, table: Table, key: Key, value: Value) {
        let key = ElementKey {
            table,
            family: self.port.address.family(),
            key,
            end: false,
        };
        self.elements.extend([(key, value)]);
    }

    /// What stands under the frontend itself, in the first set or, for node ports, the second one.
    fn one(&mut self, (by_address, by_node_port): (Table, Table), value: Value) {
        let table = if self.node_port {
            by_node_port
        } else {
            by_address
        };
        self.put(table, self.base, value);
    }

    /// The endpoints of a class and the chain that chooses among them.
    fn list(&mut self, class: SourceClass, by_frontend: (Table, Table)) {
        let outside = class == SourceClass::Outside;
        let real_servers = self.frontend.real_servers(class);
        let count = real_servers.len().min(OUTSIDE_INDEX as usize - 1);
        let Some(number) = u32::try_from(count).ok().filter(|count| *count > 0) else {
            return;
        };
        let affinity = self.frontend.session_affinity;
        let pick = Pick {
            family: self.port.address.family(),
            node_port: self.node_port,
            outside,
            sticky: affinity.map(|affinity| {
                let seconds = affinity.timeout.as_secs().max(1);
                u32::try_from(seconds).unwrap_or(u32::MAX)
            }),
            choice: choice(self.frontend.scheduler),
            count: number,
        };
        let first = if outside { OUTSIDE_INDEX } else { 0 };
        let mut numbers = BTreeSet::new();
        for (index, real_server) in (first..).zip(real_servers.iter().take(count)) {
            let endpoint = Data::empty()
                .address(real_server.address)
                .port(real_server.port);
            let index = self.base.push(&index.to_ne_bytes());
            if pick.sticky.is_none() {
                self.put(pick.choices(), index, Value::Endpoint(endpoint));
                continue;
            }
            let number = number_of(&endpoint).to_ne_bytes();
            let choice = Data::empty().port(self.port.port).push(&number);
            self.put(pick.choices(), index, Value::Number(choice));
            // Of two that have one number the first takes the share of both.
            if numbers.insert(number) {
                let member = self.base.push(&number);
                self.put(pick.members(), member, Value::Endpoint(endpoint));
            }
        }
        let chain = Verdict::Goto(pick.name().into());
        self.one(by_frontend, Value::Verdict(chain));
    }

    /// NP-10: node ports are open to everybody, whatever the Service allows on its VIPs.
    fn allowed_sources(&mut self) {
        let Some(ranges) = self.frontend.allowed_sources.as_deref() else {
            return;
        };
        if self.node_port {
            return;
        }
        self.put(Table::Restricted, self.base, Value::Nothing);
        for range in ranges {
            let last = Data::empty().address(range.broadcast());
            let key = self.base.address(range.network());
            self.put(Table::Allowed, key, Value::Last(last));
        }
    }

    fn closed(&mut self) {
        let closing = |class| match self.frontend.treatment(class).verdict {
            Decision::Forward(_) => None,
            Decision::Refuse => Some(Verdict::Goto(REFUSE.into())),
            Decision::Drop => Some(Verdict::Drop),
        };
        let (inside, outside) = (closing(SourceClass::Pod), closing(SourceClass::Outside));
        let outside = outside.filter(|verdict| inside.as_ref() != Some(verdict));
        if let Some(verdict) = inside {
            let by_frontend = (Table::Closed, Table::NodePortsClosed);
            self.one(by_frontend, Value::Verdict(verdict));
        }
        if let Some(verdict) = outside {
            let by_frontend = (Table::OutsideClosed, Table::NodePortsOutsideClosed);
            self.one(by_frontend, Value::Verdict(verdict));
        }
    }
}

/// What an endpoint is remembered by, the same whatever else is in its list: FNV-1a of its bytes.
fn number_of(endpoint: &Data) -> u32 {
    let bytes = endpoint.as_slice().iter();
    bytes.fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// The key under which a client is remembered for a frontend, and its endpoints by what each is
/// remembered by, as the map holds it.
pub(super) fn affinity_of(
    frontend: &Frontend,
    affinity: Affinity,
    client: IpAddr,
) -> (ElementKey, BTreeMap<[u8; 4], RealServer>) {
    let key = ElementKey {
        table: Table::Affinity,
        family: Family::of(client),
        key: Key::empty()
            .address(client)
            .push(&affinity.scope.to_be_bytes()),
        end: false,
    };
    let mut numbers = BTreeMap::new();
    let lists = SourceClass::ALL.map(|class| frontend.real_servers(class));
    for real_server in lists.into_iter().flatten() {
        let endpoint = Data::empty()
            .address(real_server.address)
            .port(real_server.port);
        let number = number_of(&endpoint).to_ne_bytes();
        numbers.entry(number).or_insert(*real_server);
    }
    (key, numbers)
}

/// What comes nearest to a scheduler of IPVS. nftables knows nothing of connections and weights:
/// most of them become a random choice, whose shares are the same.
fn choice(scheduler: Scheduler) -> Choice {
    match scheduler {
        Scheduler::Sh => Choice::Source,
        Scheduler::Mh => Choice::Flow,
        Scheduler::Rr
        | Scheduler::Wrr
        | Scheduler::Lc
        | Scheduler::Wlc
        | Scheduler::Lblc
        | Scheduler::Lblcr
        | Scheduler::Dh
        | Scheduler::Sed
        | Scheduler::Nq
        | Scheduler::Fo
        | Scheduler::Ovf
        | Scheduler::Twos => Choice::Random,
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
