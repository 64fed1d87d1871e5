//! Rules between the ranges of pools, pods and `ClusterIPs`.

use ipnet::IpNet;

use super::super::problem::{Located, Refusal};
use super::Check;
use super::pools::PoolRange;
use crate::model::address_range::AddressRange;

impl Check<'_> {
    /// An address is a VIP, a pod's or a `ClusterIP`, and never two of these.
    pub(super) fn networks(
        &mut self,
        pools: &[PoolRange],
        cluster: &[Located<IpNet>],
        service: &[Located<IpNet>],
    ) {
        for network in service {
            if let Some(pods) = cluster
                .iter()
                .find(|pods| overlap(pods.value, network.value))
            {
                let message = format!(
                    "{} overlaps {} of {}",
                    network.value, pods.value, pods.at.key
                );
                self.error(&network.at, &Refusal::new(message));
            }
        }
        for network in cluster.iter().chain(service) {
            let span = AddressRange::from(network.value);
            if let Some(pool) = pools.iter().find(|pool| pool.range.value.overlaps(&span)) {
                let message = format!(
                    "{} overlaps {} of {}",
                    network.value, pool.range.value, pool.pool
                );
                self.error(&network.at, &Refusal::new(message));
            }
        }
    }
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    AddressRange::from(one).overlaps(&AddressRange::from(other))
}
