//! Which listeners the health-check node ports need. Decides; opens nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use crate::model::family::Family;
use crate::model::node_state::NodeState;
use crate::model::service::ServiceKey;

/// One listener: it counts the endpoints of one family of one Service (HC-1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Whose endpoints it counts.
    pub service: ServiceKey,
    /// Which of them.
    pub family: Family,
    /// Where it listens; `[::]` takes IPv6 alone.
    pub address: SocketAddr,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tcp {}", self.service, self.address)
    }
}

/// The listeners for a state: on all addresses where `everywhere`, which is what an empty
/// `proxy.node_port_addresses` asks for, else on each address of the node that matches (HC-2).
pub(super) fn wanted(state: &NodeState, everywhere: bool) -> BTreeSet<Listener> {
    let mut wanted = BTreeSet::new();
    for (service, check) in &state.health_checks {
        for family in check.local_endpoints.keys().copied() {
            let mut listen = |address| {
                wanted.insert(Listener {
                    service: service.clone(),
                    family,
                    address: SocketAddr::new(address, check.port),
                });
            };
            if everywhere {
                listen(family.unspecified());
                continue;
            }
            (state.node_addresses.iter().copied())
                .filter(|address| Family::of(*address) == family)
                .for_each(&mut listen);
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use super::*;
    use crate::model::node_state::HealthCheck;

    fn state(families: &[Family]) -> NodeState {
        let mut state = NodeState::default();
        let check = HealthCheck {
            port: 30_500,
            local_endpoints: families.iter().map(|family| (*family, 1)).collect(),
        };
        let service = ServiceKey::new("default", "web");
        state.health_checks.insert(service, check);
        for address in ["192.0.2.11", "198.51.100.1", "2001:db8::11"] {
            state.node_addresses.insert(address.parse().unwrap());
        }
        state
    }

    #[test]
    fn each_family_of_the_service_has_its_listeners() {
        let both = Family::BOTH.as_slice();
        for (families, everywhere, addresses) in [
            (&[Family::V4][..], true, &["0.0.0.0:30500"][..]),
            (both, true, &["0.0.0.0:30500", "[::]:30500"]),
            (
                both,
                false,
                &[
                    "192.0.2.11:30500",
                    "198.51.100.1:30500",
                    "[2001:db8::11]:30500",
                ],
            ),
            (&[Family::V6], false, &["[2001:db8::11]:30500"]),
            (&[], true, &[]),
        ] {
            let found: BTreeMap<String, Family> = wanted(&state(families), everywhere)
                .into_iter()
                .map(|listener| (listener.address.to_string(), listener.family))
                .collect();
            assert_eq!(found.keys().collect::<Vec<_>>(), addresses);
            for (address, family) in found {
                assert_eq!(family == Family::V6, address.starts_with('['), "{address}");
            }
        }
    }
}
