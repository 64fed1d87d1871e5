//! What a question turned out to be about, and what of the kernel is to be read for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Facts;
use super::question::Question;
use crate::model::frontend::{FrontendAddress, FrontendPort, SourceClass};
use crate::model::service::ServiceKey;

/// What it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// Frontends of one Service, at least one unless the whole Service was asked for.
    Frontends { service: ServiceKey, at: Vec<At> },
    /// The health-check node port of a Service, at a node's address.
    HealthCheck {
        service: ServiceKey,
        address: IpAddr,
    },
    /// Nothing that is served: why, and what it is nearest to.
    Nothing(Vec<String>),
}

/// One frontend, and the address by which it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub port: FrontendPort,
    /// Of a node port the node's address; absent: all of this node's.
    pub address: Option<IpAddr>,
}

impl At {
    /// The address that packets are sent to, where it is one.
    pub fn destination(self) -> Option<IpAddr> {
        match self.port.address {
            FrontendAddress::Address(address) => Some(address),
            FrontendAddress::NodePort(_) => self.address,
        }
    }
}

impl Located {
    /// The frontends whose state in the kernel is to be read. Of a node port at another node's address
    /// this node has nothing at that address, but at its own.
    pub fn frontends(&self, facts: &Facts<'_>) -> Vec<(FrontendPort, Option<IpAddr>)> {
        let Self::Frontends { at, .. } = self else {
            return Vec::new();
        };
        let own = |address: &IpAddr| facts.plan.state.node_addresses.contains(address);
        at.iter()
            .map(|at| (at.port, at.address.filter(own)))
            .collect()
    }

    /// Where the node is to be asked how it would send there: the endpoints, and whoever asks.
    pub fn paths(&self, question: &Question, facts: &Facts<'_>) -> BTreeSet<IpAddr> {
        let Self::Frontends { at, .. } = self else {
            return BTreeSet::new();
        };
        let frontends = at
            .iter()
            .filter_map(|at| facts.plan.state.frontends.get(&at.port));
        let lists = frontends.flat_map(|frontend| {
            SourceClass::ALL
                .into_iter()
                .flat_map(|class| frontend.real_servers(class))
        });
        lists
            .map(|real_server| real_server.address)
            .chain(question.from)
            .collect()
    }
}
