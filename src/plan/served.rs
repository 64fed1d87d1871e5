//! On which addresses a Service is served here, and who may open connections to its VIPs.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::external_allowed;
use super::forwarding::Forwarding;
use super::reason::Reason;
use crate::config::ProxyScope;
use crate::model::family::Family;
use crate::model::node_state::HeldFor;
use crate::model::service::{IpMode, Service};

/// How a frontend is reached; decides which policy applies (POL-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exposure {
    Internal,
    External,
}

/// An address that a Service is served on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Served {
    pub(super) address: IpAddr,
    pub(super) held: HeldFor,
    pub(super) exposure: Exposure,
    /// `loadBalancerSourceRanges` holds here (SR-1).
    pub(super) restricted: bool,
}

impl Forwarding<'_> {
    /// Who may open connections to the Service's VIPs of one family; absent: anybody (SR-2).
    pub(super) fn allowed_sources(
        &self,
        service: &Service,
        family: Family,
        addresses: &[Served],
    ) -> Option<Arc<[IpNet]>> {
        let ranges = service.source_ranges.iter().map(IpNet::trunc);
        let ranges: Vec<IpNet> = ranges
            .filter(|range| Family::of(range.addr()) == family)
            .collect();
        if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
            return None;
        }
        // SR-4: a process of this node may have taken the VIP for its source.
        let own = self.node_addresses.get(&family).filter(|address| {
            let mut ranges = ranges.iter();
            ranges.any(|range| range.contains(*address))
        });
        let vips = addresses
            .iter()
            .filter(|served| own.is_some() && served.restricted)
            .map(|served| served.address)
            .filter(|address| Family::of(*address) == family)
            .map(IpNet::from);
        let mut allowed = IpNet::aggregate(&ranges.iter().copied().chain(vips).collect());
        allowed.sort_unstable();
        Some(allowed.into())
    }

    /// The addresses of a Service that this node serves, each once, the most internal use first.
    pub(super) fn addresses(&self, service: &Service, reasons: &mut Vec<Reason>) -> Vec<Served> {
        let mut addresses: Vec<Served> = Vec::new();
        let mut add = |served: Served, reasons: &mut Vec<Reason>| {
            if let Some(refusal) = self.book.refusal_here(served.address) {
                reasons.push(refusal);
            } else if !addresses
                .iter()
                .any(|known| known.address == served.address)
            {
                addresses.push(served);
            }
        };
        if self.config.proxy.scope == ProxyScope::All {
            for address in &service.cluster_ips {
                let served = Served {
                    address: *address,
                    held: HeldFor::ClusterIp,
                    exposure: Exposure::Internal,
                    restricted: false,
                };
                add(served, reasons);
            }
        }
        let external = |address, held, restricted| Served {
            address,
            held,
            exposure: Exposure::External,
            restricted,
        };
        let vips = self.allocations.addresses(&service.key);
        for address in vips {
            add(external(*address, HeldFor::Vip, true), reasons);
        }
        let foreign = service
            .ingress
            .iter()
            // SP-11: what arrives already rewritten is not ours.
            .filter(|ingress| ingress.mode == IpMode::Vip && !vips.contains(&ingress.address))
            .map(|ingress| (ingress.address, true));
        let externals = service.external_ips.iter().map(|address| (*address, false));
        // SEL-9: a family without a ClusterIP is no family of the Service. In manifests nobody fills
        // ClusterIPs in: then every family is.
        let families: Vec<Family> = service
            .cluster_ips
            .iter()
            .map(|ip| Family::of(*ip))
            .collect();
        let has_family =
            |address: IpAddr| families.is_empty() || families.contains(&Family::of(address));
        let others = foreign.chain(externals);
        for (address, restricted) in others.filter(|(address, _)| has_family(*address)) {
            if let Some(refusal) = self.external_refusal(service, address) {
                reasons.push(refusal);
            } else {
                add(external(address, HeldFor::External, restricted), reasons);
            }
        }
        addresses
    }

    fn external_refusal(&self, service: &Service, address: IpAddr) -> Option<Reason> {
        if let Some(refusal) = self.book.refusal(address) {
            return Some(refusal);
        }
        if !external_allowed(self.config, address) {
            return Some(Reason::ExternalNotAllowed { address });
        }
        let holders = self.allocations.holders_of(address);
        holders
            .first()
            .filter(|_| !holders.contains(&service.key))
            .map(|holder| Reason::RequestTaken {
                address,
                holder: holder.clone(),
            })
    }
}
