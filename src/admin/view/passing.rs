//! What a firewall on this node has to let through, beyond what the configuration says.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::admin::snapshot::Snapshot;

/// Addresses that packets of Services have on this node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Passing {
    /// The ranges of `ClusterIPs`, as configured or as the cluster has them.
    pub service_ranges: Vec<IpNet>,
    /// Addresses outside of them that this node takes packets for, as few networks as they come to.
    pub held: Vec<IpNet>,
    /// Endpoints that have an address of this node itself: pods on its own network.
    pub own_endpoints: Vec<IpAddr>,
}

impl Passing {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let state = &snapshot.plan.state;
        let ranges: Vec<IpNet> = state.service_ranges.iter().copied().collect();
        let held = (state.held.keys().copied())
            .filter(|address| !ranges.iter().any(|range| range.contains(address)));
        let own: BTreeSet<IpAddr> = snapshot.inputs.host.addresses().collect();
        Self {
            held: IpNet::aggregate(&held.map(IpNet::from).collect()),
            own_endpoints: (state.hairpin.iter().copied())
                .filter(|address| own.contains(address))
                .collect(),
            service_ranges: ranges,
        }
    }
}
