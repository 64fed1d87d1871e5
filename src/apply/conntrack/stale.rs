//! Which entries of the connection tracking table lead where no packet may go any more. Pure.
//!
//! A UDP flow has no end that anybody sees: its entry keeps sending packets to an endpoint that is
//! gone, or past a Service that had no endpoint when the flow began (CT-3, CT-4). TCP ends by itself
//! and is left alone (CT-7), but for endpoints on nodes that are gone: these will never answer (D-5).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::message::Flow;
use crate::apply::departures::Departed;
use crate::apply::forwarder::Forwarder;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{
    ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, SourceClass,
};
use crate::model::node_state::NodeState;

/// What the table was last made to fit.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    frontends: OrdMap<FrontendPort, Arc<Frontend>>,
    node_addresses: OrdSet<IpAddr>,
    /// Dead endpoints, and how many frontends list each; the entries of those in no list are gone.
    dead: BTreeMap<IpAddr, usize>,
}

/// What is to be looked for in the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Concern {
    /// UDP frontends that changed, are new or gone.
    ports: BTreeSet<FrontendPort>,
    /// Addresses that were this node's, where node ports changed.
    former_addresses: BTreeSet<IpAddr>,
    /// Endpoints whose entries go, whatever their protocol.
    dead: BTreeSet<IpAddr>,
}

impl Settled {
    /// What it is after the table was made to fit a state.
    pub fn after(&self, state: &NodeState) -> Self {
        Self {
            frontends: state.frontends.clone(),
            node_addresses: state.node_addresses.clone(),
            dead: self.dead_in(state),
        }
    }

    /// The same of a state, at the price of what changed; all frontends are gone through only when
    /// somebody dies.
    fn dead_in(&self, state: &NodeState) -> BTreeMap<IpAddr, usize> {
        if state.dead.is_empty() {
            return BTreeMap::new();
        }
        let (mut known, mut new) = (BTreeMap::new(), BTreeMap::new());
        for dead in &state.dead {
            match self.dead.get(dead) {
                Some(lists) => known.insert(*dead, *lists),
                None => new.insert(*dead, 0),
            };
        }
        for difference in self.frontends.diff(&state.frontends) {
            let (old, new) = match difference {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            count(&mut known, old, |lists| lists.saturating_sub(1));
            count(&mut known, new, |lists| lists.saturating_add(1));
        }
        if !new.is_empty() {
            for frontend in state.frontends.values() {
                count(&mut new, Some(frontend), |lists| lists.saturating_add(1));
            }
        }
        known.append(&mut new);
        known
    }
}

/// Changes the number of those of these endpoints whom the frontend lists for some class.
fn count(
    numbers: &mut BTreeMap<IpAddr, usize>,
    frontend: Option<&Arc<Frontend>>,
    change: impl Fn(usize) -> usize,
) {
    let Some(frontend) = frontend.filter(|_| !numbers.is_empty()) else {
        return;
    };
    let lists = SourceClass::ALL.map(|class| frontend.real_servers(class));
    let listed = lists.into_iter().flatten().map(|listed| listed.address);
    // Once each: in whichever classes, with whichever ports.
    for address in listed.collect::<BTreeSet<_>>() {
        if let Some(number) = numbers.get_mut(&address) {
            *number = change(*number);
        }
    }
}

impl Concern {
    /// What changed since the table was made to fit.
    pub fn between(settled: &Settled, state: &NodeState) -> Self {
        let mut concern = Self::default();
        for difference in settled.frontends.diff(&state.frontends) {
            match difference {
                DiffItem::Add(port, _) | DiffItem::Remove(port, _) => concern.add(*port),
                DiffItem::Update { old, new } => {
                    if old.1.keeps != new.1.keeps
                        || old.1.forwarding_method != new.1.forwarding_method
                    {
                        concern.add(*new.0);
                    }
                }
            }
        }
        if settled.node_addresses != state.node_addresses {
            for port in settled.frontends.keys().chain(state.frontends.keys()) {
                if matches!(port.address, FrontendAddress::NodePort(_)) {
                    concern.add(*port);
                }
            }
        }
        concern.former_addresses = settled
            .node_addresses
            .iter()
            .filter(|address| !state.node_addresses.contains(*address))
            .copied()
            .collect();
        let dead = settled.dead_in(state).into_iter();
        concern.dead = dead
            .filter(|(address, lists)| *lists == 0 && settled.dead.get(address) != Some(&0))
            .map(|(address, _)| address)
            .collect();
        concern
    }

    /// The same, and every UDP frontend there is: for a state of the kernel that nobody watched.
    pub fn everything(settled: &Settled, state: &NodeState) -> Self {
        let mut concern = Self::between(settled, state);
        for port in state.frontends.keys() {
            concern.add(*port);
        }
        concern
    }

    fn add(&mut self, port: FrontendPort) {
        if port.protocol == Protocol::Udp {
            self.ports.insert(port);
        }
    }

    /// Whether the table need not be looked at.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.dead.is_empty()
    }

    /// The families to look through, and whether UDP is enough in them.
    pub fn families(&self) -> impl Iterator<Item = (Family, bool)> + '_ {
        Family::BOTH.into_iter().filter_map(|family| {
            let dead = self.dead.iter().any(|dead| Family::of(*dead) == family);
            let mut ports = self.ports.iter();
            let udp = ports.any(|port| port.address.family() == family);
            (dead || udp).then_some((family, !dead))
        })
    }

    /// Whether an entry is to go, where `datapath` forwards all that it can.
    pub fn is_stale(&self, flow: &Flow, state: &NodeState, datapath: Forwarder) -> bool {
        let translated = flow.original_destination != flow.reply_source;
        // What nothing translated was no Service's.
        if translated && self.dead.contains(&flow.reply_source.0) {
            return true;
        }
        if flow.protocol != Protocol::Udp.number() {
            return false;
        }
        let (address, port) = flow.original_destination;
        let at = |address| FrontendPort {
            address,
            protocol: Protocol::Udp,
            port,
        };
        let exact = at(FrontendAddress::Address(address));
        let node_port = at(FrontendAddress::NodePort(Family::of(address)));
        // CT-5, better: the same port of another machine is another matter.
        let own = state.node_addresses.contains(&address);
        let former = self.former_addresses.contains(&address);
        let concerned =
            self.ports.contains(&exact) || ((own || former) && self.ports.contains(&node_port));
        if !concerned {
            return false;
        }
        let frontend = state
            .frontends
            .get(&exact)
            .or_else(|| state.frontends.get(&node_port).filter(|_| own));
        match frontend {
            // Nothing was translated and nothing will be: not ours any more, and right as it is.
            None => translated,
            // IPVS did, in an earlier run: without it packets go nowhere.
            Some(_) if translated && !flow.destination_nat && datapath == Forwarder::Nftables => {
                true
            }
            // Packets that are not rewritten leave no trace of where they went.
            Some(frontend)
                if !translated && frontend.forwarding_method != ForwardingMethod::Masquerade =>
            {
                false
            }
            Some(frontend) => {
                let (address, port) = flow.reply_source;
                !frontend.keeps.contains(&RealServer { address, port })
            }
        }
    }
}

/// Whether an entry is of a connection from one of these frontends to an endpoint that left it.
pub fn is_departed(
    flow: &Flow,
    departed: &BTreeSet<Departed>,
    node_addresses: &OrdSet<IpAddr>,
) -> bool {
    let (address, port) = flow.original_destination;
    let real_server = RealServer {
        address: flow.reply_source.0,
        port: flow.reply_source.1,
    };
    let at = |address| FrontendPort {
        address,
        protocol: Protocol::Tcp,
        port,
    };
    let left = |at| departed.contains(&(at, real_server));
    flow.protocol == Protocol::Tcp.number()
        && (left(at(FrontendAddress::Address(address)))
            || (node_addresses.contains(&address)
                && left(at(FrontendAddress::NodePort(Family::of(address))))))
}
