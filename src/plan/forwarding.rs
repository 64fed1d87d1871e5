//! What one Service is forwarded from and to: its frontends with a treatment for each source class.
//! Knows nothing of IPVS or nftables; both program what this file says.

use std::net::IpAddr;
use std::sync::Arc;

use super::Inputs;
use super::address::{AddressBook, external_allowed};
use super::endpoints::{Endpoints, select};
use super::reason::Reason;
use crate::config::{Config, ProxyScope};
use crate::model::allocation::Allocations;
use crate::model::family::Family;
use crate::model::frontend::{
    Frontend, FrontendAddress, FrontendPort, RealServer, Treatment, Treatments, Verdict,
};
use crate::model::node_state::HeldFor;
use crate::model::scheduler::Scheduler;
use crate::model::service::{IpMode, Service, ServicePort, ServiceType, TrafficPolicy};

/// The annotation that chooses the scheduler of one Service.
const SCHEDULER_ANNOTATION: &str = "edgelb.io/scheduler";

/// What one Service contributes to the state of this node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServicePlan {
    /// Its frontends, sorted; another Service may still win a port of them.
    pub frontends: Vec<(FrontendPort, Arc<Frontend>)>,
    /// The addresses that it needs here.
    pub held: Vec<(IpAddr, HeldFor)>,
    /// Its endpoints on this node.
    pub hairpin: Vec<IpAddr>,
    /// Endpoints that a Cluster policy may use, over all ports.
    pub endpoints: usize,
    /// What was left out, and why.
    pub reasons: Vec<Reason>,
}

/// What all Services of a pass have in common.
pub struct Forwarding<'a> {
    pub config: &'a Config,
    pub inputs: &'a Inputs,
    pub book: &'a AddressBook,
    pub allocations: &'a Allocations,
    /// The families in which pods can be told apart by their address (MASQ-4).
    pub pods_known: &'a [Family],
}

/// How a frontend is reached; decides which policy applies (POL-9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposure {
    Internal,
    External,
}

impl Forwarding<'_> {
    /// Plans one Service.
    pub fn service(&self, service: &Service) -> ServicePlan {
        let mut plan = ServicePlan::default();
        if !service.is_forwarded() {
            return plan;
        }
        let addresses = self.addresses(service, &mut plan.reasons);
        let node_port_families = node_port_families(service);
        let scheduler = self.scheduler(service);
        for port in &service.ports {
            self.port(
                service,
                port,
                &addresses,
                &node_port_families,
                scheduler,
                &mut plan,
            );
        }
        plan.held = addresses
            .into_iter()
            .map(|(address, held, _)| (address, held))
            .collect();
        plan.frontends.sort_by_key(|(port, _)| *port);
        plan.frontends.dedup_by_key(|(port, _)| *port);
        plan.hairpin.sort_unstable();
        plan.hairpin.dedup();
        // Kept as long as the Service: no room to spare.
        plan.frontends.shrink_to_fit();
        plan.hairpin.shrink_to_fit();
        plan.reasons.shrink_to_fit();
        plan
    }

    fn scheduler(&self, service: &Service) -> Scheduler {
        service
            .annotations
            .get(SCHEDULER_ANNOTATION)
            .and_then(|name| name.trim().parse().ok())
            .unwrap_or(self.config.proxy.scheduler)
    }

    /// The addresses of a Service that this node serves, each once, the most internal use first.
    fn addresses(
        &self,
        service: &Service,
        reasons: &mut Vec<Reason>,
    ) -> Vec<(IpAddr, HeldFor, Exposure)> {
        let mut addresses: Vec<(IpAddr, HeldFor, Exposure)> = Vec::new();
        let mut add = |address: IpAddr, held, exposure, reasons: &mut Vec<Reason>| {
            if let Some(refusal) = self.book.refusal_here(address) {
                reasons.push(refusal);
            } else if !addresses.iter().any(|(known, ..)| *known == address) {
                addresses.push((address, held, exposure));
            }
        };
        if self.config.proxy.scope == ProxyScope::All {
            for address in &service.cluster_ips {
                add(*address, HeldFor::ClusterIp, Exposure::Internal, reasons);
            }
        }
        let vips = self.allocations.addresses(&service.key);
        let foreign = service
            .ingress
            .iter()
            // SP-11: what arrives already rewritten is not ours.
            .filter(|ingress| ingress.mode == IpMode::Vip && !vips.contains(&ingress.address))
            .map(|ingress| ingress.address);
        if service.source_ranges.is_empty() {
            for address in vips {
                add(*address, HeldFor::Vip, Exposure::External, reasons);
            }
            for address in foreign {
                if let Some(refusal) = self.external_refusal(service, address) {
                    reasons.push(refusal);
                } else {
                    add(address, HeldFor::External, Exposure::External, reasons);
                }
            }
        } else if !vips.is_empty() || !service.ingress.is_empty() {
            reasons.push(Reason::SourceRangesUnsupported);
        }
        for address in &service.external_ips {
            if let Some(refusal) = self.external_refusal(service, *address) {
                reasons.push(refusal);
            } else {
                add(*address, HeldFor::External, Exposure::External, reasons);
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

    fn port(
        &self,
        service: &Service,
        port: &ServicePort,
        addresses: &[(IpAddr, HeldFor, Exposure)],
        node_port_families: &[Family],
        scheduler: Scheduler,
        plan: &mut ServicePlan,
    ) {
        let node_port = port.node_port.filter(|number| {
            let open = self.config.proxy.node_port_range.contains(*number);
            if !open {
                plan.reasons
                    .push(Reason::NodePortOutOfRange { port: *number });
            }
            open
        });
        let mut seen_endpoints = 0;
        let mut served = false;
        let mut local_policy_unmet = false;
        for family in Family::BOTH {
            let own: Vec<_> = addresses
                .iter()
                .filter(|(address, ..)| Family::of(*address) == family)
                .collect();
            let node_port = node_port.filter(|_| node_port_families.contains(&family));
            if own.is_empty() && node_port.is_none() {
                continue;
            }
            served = true;
            let endpoints = select(
                &self.inputs.cluster,
                &service.key,
                port,
                family,
                &self.inputs.node,
            );
            seen_endpoints += endpoints.cluster.len();
            plan.hairpin.extend(
                endpoints
                    .on_this_node
                    .iter()
                    .map(|real_server| real_server.address),
            );
            let mut add = |address: FrontendAddress, number: u16, exposure: Exposure| {
                let treatments = self.treatments(service, exposure, &endpoints, family);
                local_policy_unmet |= treatments
                    .iter()
                    .any(|treatment| treatment.verdict == Verdict::Drop);
                let frontend = Frontend {
                    service: service.key.clone(),
                    treatments,
                    session_affinity: service.session_affinity,
                    scheduler,
                };
                plan.frontends.push((
                    FrontendPort {
                        address,
                        protocol: port.protocol,
                        port: number,
                    },
                    Arc::new(frontend),
                ));
            };
            for (address, _, exposure) in own {
                add(FrontendAddress::Address(*address), port.port, *exposure);
            }
            if let Some(number) = node_port {
                add(
                    FrontendAddress::NodePort(family),
                    number,
                    Exposure::External,
                );
            }
        }
        plan.endpoints += seen_endpoints;
        if local_policy_unmet {
            plan.reasons
                .push(Reason::NoLocalEndpoints { port: port.port });
        } else if served && seen_endpoints == 0 {
            plan.reasons.push(Reason::NoEndpoints { port: port.port });
        }
    }

    /// The truth table of §5, §6 and §8 of the service proxy's specification.
    fn treatments(
        &self,
        service: &Service,
        exposure: Exposure,
        endpoints: &Endpoints,
        family: Family,
    ) -> Treatments {
        let proxy = &self.config.proxy;
        let pods_known = self.pods_known.contains(&family);
        let cluster = || verdict(&endpoints.cluster, endpoints.any());
        let local = || verdict(&endpoints.local, endpoints.any());
        let treat = |verdict: Verdict, masquerade: bool| Treatment {
            verdict,
            masquerade,
        };
        match exposure {
            Exposure::Internal => {
                // POL-4: one list for every source.
                let list = || match service.internal_traffic_policy {
                    TrafficPolicy::Cluster => cluster(),
                    TrafficPolicy::Local => local(),
                };
                // MASQ-2 to MASQ-4: pods keep their address, everybody else gets the node's.
                let others = proxy.masquerade_all || pods_known;
                // A range that pods can be told by is needed before outsiders can be refused.
                let outside = if proxy.cluster_ip_from_outside || !pods_known {
                    list()
                } else {
                    Verdict::Refuse
                };
                [
                    treat(outside, others),
                    treat(list(), proxy.masquerade_all),
                    treat(list(), others),
                    treat(Verdict::Refuse, others),
                ]
            }
            // SP-7: a ClusterIP Service with externalIPs has the policy too, and nothing else gets here.
            Exposure::External if service.external_traffic_policy == TrafficPolicy::Local => [
                // POL-6, MASQ-7
                treat(local(), false),
                treat(cluster(), false),
                treat(cluster(), true),
                treat(local(), false),
            ],
            // POL-5, MASQ-6
            Exposure::External => std::array::from_fn(|_| treat(cluster(), true)),
        }
    }
}

/// NOEP-1, NOEP-2: nothing anywhere is refused, nothing here but something elsewhere is dropped.
fn verdict(list: &Arc<[RealServer]>, anywhere: bool) -> Verdict {
    if !list.is_empty() {
        Verdict::Forward(Arc::clone(list))
    } else if anywhere {
        Verdict::Drop
    } else {
        Verdict::Refuse
    }
}

/// The families in which a Service's node ports are open: those it declares, or else both.
fn node_port_families(service: &Service) -> Vec<Family> {
    let mut families = service.families.clone();
    families.extend(
        service
            .cluster_ips
            .iter()
            .map(|address| Family::of(*address)),
    );
    if families.is_empty() || service.kind == ServiceType::ExternalName {
        return Family::BOTH.to_vec();
    }
    families
}
