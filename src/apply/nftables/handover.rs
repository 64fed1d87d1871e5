//! What waits in the table until IPVS has changed, and what becomes of it when IPVS refuses. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::edits::{Edit, Edits, compare};
use super::element::{self, ElementKey, Elements, Key};
use super::frontend::{key_of_frontend, of_frontend};
use super::layout::Layout;
use super::sets::Table;
use crate::apply::forwarder::{Forwarder, Refused};
use crate::model::family::Family;
use crate::model::frontend::{FrontendAddress, FrontendPort};
use crate::model::node_state::NodeState;

/// Whether an edit lets somebody through who was kept away. IPVS changes later than the table, and
/// has one list for whoever asks: until it has changed, what is opened leads to endpoints that were
/// meant for others. `restricted` tells whether an element of [`Table::Restricted`] is wanted.
pub(super) fn opens(edit: &Edit, restricted: impl Fn(&ElementKey) -> bool) -> bool {
    let removed = edit.new.is_none();
    removed
        && match edit.key.table {
            Table::Restricted
            | Table::Closed
            | Table::OutsideClosed
            | Table::NodePortsClosed
            | Table::NodePortsOutsideClosed
            // By which it is known that a packet is for a node port.
            | Table::NodeAddresses => true,
            // With the restriction, or else those who may ask would wait for it. Where it stays, the
            // ranges change at once: the kernel takes none that overlaps another.
            Table::Allowed => !restricted(&element::restriction_of(&edit.key)),
            _ => false,
        }
}

/// Of the edits that waited for IPVS those that can be made, and whether others cannot. A frontend
/// that IPVS refused opens nothing; if nftables forwarded for it, it goes on, to what the frontend has
/// now.
pub(super) fn released(
    later: Vec<Edit>,
    state: &NodeState,
    refused: &Refused,
    layout: Layout,
) -> (Vec<Edit>, bool) {
    if refused.everything {
        return (Vec::new(), !later.is_empty());
    }
    let ports = frontends(refused);
    let addresses: BTreeSet<ElementKey> = refused
        .servers
        .iter()
        .map(|server| element::of_address(Table::NodeAddresses, server.address))
        .collect();
    let mut released = Vec::new();
    let mut held: BTreeMap<FrontendPort, Vec<Edit>> = BTreeMap::new();
    let mut holds = false;
    for edit in later {
        match ports.get(&(edit.key.family, frontend_of(&edit.key))) {
            Some(port) => held.entry(*port).or_default().push(edit),
            None if addresses.contains(&edit.key) => holds = true,
            None => released.push(edit),
        }
    }
    for (port, edits) in held {
        holds = true;
        if edits.iter().any(|edit| edit.key.table.translates()) {
            released.extend(forwarded_here(port, &edits, state, layout));
        }
    }
    (released, holds)
}

/// What takes a frontend from what the table has, with edits that are not made, to all that nftables
/// needs to forward for it.
fn forwarded_here(
    port: FrontendPort,
    not_made: &[Edit],
    state: &NodeState,
    layout: Layout,
) -> Vec<Edit> {
    let (mut present, mut wanted) = (Elements::new(), Elements::new());
    if let Some(frontend) = state.frontends.get(&port) {
        of_frontend(port, frontend, layout.datapath, &mut present);
        of_frontend(port, frontend, Forwarder::Nftables, &mut wanted);
    }
    for edit in not_made {
        match &edit.old {
            Some(old) => {
                present.insert(edit.key, old.clone());
                if !edit.key.table.translates() {
                    wanted.insert(edit.key, old.clone());
                }
            }
            None => {
                present.remove(&edit.key);
            }
        }
    }
    let mut edits = Edits::default();
    compare(&present, &wanted, &mut edits);
    edits.single
}

/// The frontends of these virtual servers, by the beginning of their elements' keys: each may be an
/// address's or that of a node port.
fn frontends(refused: &Refused) -> BTreeMap<(Family, Key), FrontendPort> {
    let both = refused.servers.iter().flat_map(|server| {
        let family = Family::of(server.address);
        let port = |address| FrontendPort {
            address,
            protocol: server.protocol,
            port: server.port,
        };
        [
            port(FrontendAddress::Address(server.address)),
            port(FrontendAddress::NodePort(family)),
        ]
        .map(|port| ((family, key_of_frontend(Key::empty(), port)), port))
    });
    both.collect()
}

/// The beginning of a key that tells its frontend; the whole of one that tells none.
fn frontend_of(key: &ElementKey) -> Key {
    let bytes = key.key.as_slice();
    let length = key.table.frontend_length(key.family);
    bytes
        .get(..length)
        .and_then(Key::from_slice)
        .unwrap_or(key.key)
}
