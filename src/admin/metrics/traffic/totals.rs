//! Adds up what the kernel counted, over counters that begin again. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::admin::snapshot::Snapshot;
use crate::apply::traffic::{Bytes, CountedBy, Counts, Reading, Silent};
use crate::model::family::Family;
use crate::model::frontend::{FrontendAddress, FrontendPort};
use crate::model::service::ServiceKey;

/// The number of a Service port; TCP and UDP of one number are one.
pub(super) type Port = u16;

/// What is shown: totals since the daemon started, with what the kernel held then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::admin::metrics) struct Totals {
    pub(super) services: BTreeMap<ServiceKey, BTreeMap<Port, Total>>,
    pub(super) packets: BTreeMap<Silent, u64>,
    /// Readings that failed.
    pub(super) failures: u64,
}

/// The last reading of each counter that is still about something.
#[derive(Debug, Default)]
pub(super) struct Last {
    frontends: HashMap<(FrontendPort, CountedBy), Counts>,
    packets: BTreeMap<(Silent, String), u64>,
}

/// Of one Service port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) connections: u64,
    /// Absent where nothing counted any.
    pub(super) bytes: Option<Bytes>,
}

impl Totals {
    /// Takes in a reading that was made for about what the snapshot shows.
    pub(super) fn take(&mut self, reading: &Reading, last: &mut Last, snapshot: &Snapshot) {
        let whole: BTreeSet<FrontendPort> = (reading.frontends.iter())
            .filter(|(_, by, _)| *by == CountedBy::Nftables)
            .map(|(port, ..)| *port)
            .collect();
        for (port, by, counts) in &reading.frontends {
            // Virtual servers of others are no frontends.
            let Some((service, number, frontend)) = owner(*port, snapshot) else {
                continue;
            };
            let before = last.frontends.insert((*port, *by), *counts);
            let news = since(before.unwrap_or_default(), *counts);
            let ports = self.services.entry(service).or_default();
            let total = ports.entry(number).or_default();
            // The table counts those too that IPVS forwards.
            if *by == CountedBy::Nftables || !whole.contains(&frontend) {
                total.connections = total.connections.saturating_add(news.connections);
            }
            if let Some(bytes) = news.bytes {
                let all = total.bytes.get_or_insert_default();
                all.from_clients = all.from_clients.saturating_add(bytes.from_clients);
                all.to_clients = all.to_clients.saturating_add(bytes.to_clients);
            }
        }
        (last.frontends).retain(|(port, _), _| owner(*port, snapshot).is_some());
        self.follow(snapshot);
        self.take_packets(reading, last);
    }

    /// Each port that is served has a total, and what is about no Service port any more has none.
    fn follow(&mut self, snapshot: &Snapshot) {
        for (port, frontend) in &snapshot.plan.state.frontends {
            if let Some(number) = number(*port, &frontend.service, snapshot) {
                let ports = self.services.entry(frontend.service.clone()).or_default();
                ports.entry(number).or_default();
            }
        }
        let services = &snapshot.inputs.cluster.services;
        self.services.retain(|key, ports| {
            let service = services.get(key);
            ports.retain(|number, _| {
                let mut ports = service.iter().flat_map(|service| &service.ports);
                ports.any(|port| port.port == *number)
            });
            !ports.is_empty()
        });
    }

    fn take_packets(&mut self, reading: &Reading, last: &mut Last) {
        let mut now = BTreeMap::new();
        for (what, chain, packets) in &reading.packets {
            let key = (*what, chain.clone());
            let before = last.packets.get(&key).copied().unwrap_or_default();
            let total = self.packets.entry(*what).or_default();
            *total = total.saturating_add(rise(before, *packets));
            now.insert(key, *packets);
        }
        // A rule that is not there begins again when it comes back.
        last.packets = now;
    }
}

/// What came since the reading before; all of it where the counter began again. Where it began again and
/// is beyond that reading already, what came in between is not known.
fn since(before: Counts, now: Counts) -> Counts {
    let (old, new) = (before.bytes.unwrap_or_default(), now.bytes);
    let bytes = new.unwrap_or_default();
    let again = now.connections < before.connections
        || bytes.from_clients < old.from_clients
        || bytes.to_clients < old.to_clients;
    if again {
        return now;
    }
    Counts {
        connections: now.connections - before.connections,
        bytes: new.map(|new| Bytes {
            from_clients: new.from_clients - old.from_clients,
            to_clients: new.to_clients - old.to_clients,
        }),
    }
}

fn rise(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

/// Whose frontend counts at this address and port, by which Service port, and which frontend it is: a
/// node port counts at each address of the node.
fn owner(port: FrontendPort, snapshot: &Snapshot) -> Option<(ServiceKey, Port, FrontendPort)> {
    let state = &snapshot.plan.state;
    let (port, frontend) = match (state.frontends.get(&port), port.address) {
        (Some(frontend), _) => (port, frontend),
        (None, FrontendAddress::Address(address)) if state.node_addresses.contains(&address) => {
            let port = FrontendPort {
                address: FrontendAddress::NodePort(Family::of(address)),
                ..port
            };
            (port, state.frontends.get(&port)?)
        }
        _ => return None,
    };
    let number = number(port, &frontend.service, snapshot)?;
    Some((frontend.service.clone(), number, port))
}

/// The Service port that a frontend is of.
fn number(port: FrontendPort, service: &ServiceKey, snapshot: &Snapshot) -> Option<Port> {
    let service = snapshot.inputs.cluster.services.get(service)?;
    let mut ports = service.ports.iter();
    let found = ports.find(|it| {
        let number = match port.address {
            FrontendAddress::Address(_) => Some(it.port),
            FrontendAddress::NodePort(_) => it.node_port,
        };
        it.protocol == port.protocol && number == Some(port.port)
    });
    found.map(|it| it.port)
}
