//! What one Service is forwarded from and to: its frontends with a treatment for each source class.
//! Knows nothing of IPVS or nftables; both program what this file says.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::Inputs;
use super::address::AddressBook;
use super::endpoints::{self, Endpoints, Topology, select};
use super::reason::Reason;
use super::served::{Exposure, Served};
use crate::config::Config;
use crate::model::allocation::Allocations;
use crate::model::family::Family;
use crate::model::frontend::{
    Affinity, ForwardingMethod, Frontend, FrontendAddress, FrontendPort, RealServer, Treatment,
    Treatments, Verdict,
};
use crate::model::node_state::{HealthCheck, HeldFor};
use crate::model::scheduler::Scheduler;
use crate::model::service::{Service, ServiceKey, ServicePort, ServiceType, TrafficPolicy};

/// The annotation that chooses the scheduler of one Service.
const SCHEDULER_ANNOTATION: &str = "edgelb.io/scheduler";

/// The annotation that asks for another way to forward than masquerading.
pub const METHOD_ANNOTATION: &str = "edgelb.io/forwarding-method";

/// What one Service contributes to the state of this node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServicePlan {
    /// Its frontends, sorted; another Service may still win a port of them.
    pub frontends: Vec<(FrontendPort, Arc<Frontend>)>,
    /// The addresses that it needs here.
    pub held: Vec<(IpAddr, HeldFor)>,
    /// Its endpoints on this node.
    pub hairpin: Vec<IpAddr>,
    /// Its endpoints on nodes that are gone or silent.
    pub dead: Vec<IpAddr>,
    /// What health checkers are told of it, where they ask (SP-9).
    pub health_check: Option<HealthCheck>,
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
    /// The families in which pods can be told apart (MASQ-4).
    pub pods_known: &'a [Family],
    /// This node's own address in each family (SR-9).
    pub node_addresses: &'a BTreeMap<Family, IpAddr>,
    /// Where this node is.
    pub topology: Topology<'a>,
}

/// What all ports of a Service have in common.
struct OfService<'a> {
    service: &'a Service,
    addresses: Vec<Served>,
    node_port_families: Vec<Family>,
    scheduler: Scheduler,
    /// What its annotation asks for, where this node can do it.
    method: ForwardingMethod,
    /// In the order of [`Family::BOTH`].
    allowed: [Option<Arc<[IpNet]>>; 2],
}

impl Forwarding<'_> {
    /// Plans one Service.
    pub fn service(&self, service: &Service) -> ServicePlan {
        let mut plan = ServicePlan::default();
        if !service.is_forwarded() {
            return plan;
        }
        let addresses = self.addresses(service, &mut plan.reasons);
        let of_service = OfService {
            service,
            node_port_families: node_port_families(service),
            scheduler: self.scheduler(service, &mut plan.reasons),
            method: self.forwarding_method(service, &mut plan.reasons),
            allowed: Family::BOTH.map(|family| self.allowed_sources(service, family, &addresses)),
            addresses,
        };
        if !service.source_ranges.is_empty() {
            let open = Family::BOTH.into_iter().filter(|family| {
                let mut ranges = service.source_ranges.iter();
                let mut served = of_service.addresses.iter();
                !ranges.any(|range| Family::of(range.addr()) == *family)
                    && served.any(|at| at.restricted && Family::of(at.address) == *family)
            });
            let open = open.map(|family| Reason::SourceRangesOpen { family });
            plan.reasons.extend(open);
        }
        for port in &service.ports {
            self.port(&of_service, port, &mut plan);
        }
        plan.health_check = self.health_check(&of_service);
        let held = of_service.addresses.iter();
        plan.held = held.map(|served| (served.address, served.held)).collect();
        plan.frontends.sort_by_key(|(port, _)| *port);
        plan.frontends.dedup_by_key(|(port, _)| *port);
        for addresses in [&mut plan.hairpin, &mut plan.dead] {
            addresses.sort_unstable();
            addresses.dedup();
            // Kept as long as the Service: no room to spare.
            addresses.shrink_to_fit();
        }
        plan.frontends.shrink_to_fit();
        plan.reasons.shrink_to_fit();
        plan
    }

    fn scheduler(&self, service: &Service, reasons: &mut Vec<Reason>) -> Scheduler {
        let Some(name) = service.annotations.get(SCHEDULER_ANNOTATION) else {
            return self.config.proxy.scheduler;
        };
        name.trim().parse().unwrap_or_else(|_| {
            let name = name.clone();
            reasons.push(Reason::SchedulerUnknown { name });
            self.config.proxy.scheduler
        })
    }

    /// What a Service asks for, where this node can do it at all.
    fn forwarding_method(&self, service: &Service, reasons: &mut Vec<Reason>) -> ForwardingMethod {
        let Some(name) = service.annotations.get(METHOD_ANNOTATION) else {
            return ForwardingMethod::Masquerade;
        };
        match name.trim().parse() {
            Ok(ForwardingMethod::Masquerade) => ForwardingMethod::Masquerade,
            Ok(method) if self.inputs.masquerades_only => {
                reasons.push(Reason::ForwardingMethodMissing { method });
                ForwardingMethod::Masquerade
            }
            Ok(method) => method,
            Err(_) => {
                let name = name.clone();
                reasons.push(Reason::ForwardingMethodUnknown { name });
                ForwardingMethod::Masquerade
            }
        }
    }

    /// How one port of one VIP is forwarded: as asked for where the pool's operator allows it and no
    /// port has to be changed.
    fn method_at(
        &self,
        of_service: &OfService<'_>,
        served: &Served,
        port: &ServicePort,
        endpoints: &Endpoints,
        refused: &mut Vec<Reason>,
    ) -> ForwardingMethod {
        let method = of_service.method;
        // What is said to the whole LAN can be answered by others; ClusterIPs and externalIPs are not.
        if method == ForwardingMethod::Masquerade || served.held != HeldFor::Vip {
            return ForwardingMethod::Masquerade;
        }
        let address = served.address;
        let mut pools = self.config.pools.iter();
        let allowed = pools
            .find(|pool| pool.contains(address))
            .is_some_and(|pool| pool.forwarding_methods.contains(&method));
        let real_servers = || endpoints.cluster.iter().chain(endpoints.local.iter());
        let reason = if !allowed {
            Reason::ForwardingMethodNotAllowed { method, address }
        } else if real_servers().any(|real_server| real_server.port != port.port) {
            let port = port.port;
            Reason::ForwardingMethodPort { method, port }
        } else {
            return method;
        };
        if !refused.contains(&reason) {
            refused.push(reason);
        }
        ForwardingMethod::Masquerade
    }

    /// HC-1, HC-5, SP-9.
    fn health_check(&self, of_service: &OfService<'_>) -> Option<HealthCheck> {
        let service = of_service.service;
        let port = service.health_check_node_port.filter(|port| {
            *port > 0
                && service.kind == ServiceType::LoadBalancer
                && service.external_traffic_policy == TrafficPolicy::Local
        })?;
        let (cluster, node) = (&self.inputs.cluster, &self.inputs.node);
        let families = of_service.node_port_families.iter();
        let count = |family| endpoints::ready_addresses(cluster, &service.key, node, family);
        let local_endpoints = families.map(|family| (*family, count(*family))).collect();
        Some(HealthCheck {
            port,
            local_endpoints,
        })
    }

    fn port(&self, of_service: &OfService<'_>, port: &ServicePort, plan: &mut ServicePlan) {
        let service = of_service.service;
        let node_port = port.node_port.filter(|number| {
            let open = self.config.proxy.node_port_range.contains(*number);
            if !open {
                plan.reasons
                    .push(Reason::NodePortOutOfRange { port: *number });
            }
            open
        });
        let session_affinity = service.session_affinity.map(|timeout| Affinity {
            scope: scope(&service.key, port),
            timeout,
        });
        let mut seen_endpoints = 0;
        let mut served = false;
        let mut local_policy_unmet = false;
        let mut refused = Vec::new();
        for (family, allowed) in Family::BOTH.into_iter().zip(&of_service.allowed) {
            let own: Vec<_> = of_service
                .addresses
                .iter()
                .filter(|served| Family::of(served.address) == family)
                .collect();
            let node_port = node_port.filter(|_| of_service.node_port_families.contains(&family));
            if own.is_empty() && node_port.is_none() {
                continue;
            }
            served = true;
            let endpoints = select(
                &self.inputs.cluster,
                &service.key,
                port,
                family,
                &self.topology,
            );
            seen_endpoints += endpoints.cluster.len();
            let addresses = |list: &[RealServer]| -> Vec<IpAddr> {
                list.iter().map(|real_server| real_server.address).collect()
            };
            plan.hairpin.extend(addresses(&endpoints.on_this_node));
            plan.dead.extend(addresses(&endpoints.dead));
            let mut add = |at: FrontendAddress, number: u16, exposure, restricted: bool, method| {
                let mut treatments = self.treatments(service, exposure, &endpoints, family);
                if method != ForwardingMethod::Masquerade {
                    // The endpoint answers the client itself.
                    for treatment in &mut treatments {
                        treatment.masquerade = false;
                    }
                }
                local_policy_unmet |= treatments
                    .iter()
                    .any(|treatment| treatment.verdict == Verdict::Drop);
                let frontend = Frontend {
                    service: service.key.clone(),
                    treatments,
                    session_affinity,
                    scheduler: of_service.scheduler,
                    allowed_sources: allowed.clone().filter(|_| restricted),
                    keeps: Arc::clone(&endpoints.serving),
                    forwarding_method: method,
                };
                let key = FrontendPort {
                    address: at,
                    protocol: port.protocol,
                    port: number,
                };
                plan.frontends.push((key, Arc::new(frontend)));
            };
            for served in own {
                let at = FrontendAddress::Address(served.address);
                let method = self.method_at(of_service, served, port, &endpoints, &mut refused);
                add(at, port.port, served.exposure, served.restricted, method);
            }
            if let Some(number) = node_port {
                // NP-10: source ranges do not hold here.
                let at = FrontendAddress::NodePort(family);
                let method = ForwardingMethod::Masquerade;
                add(at, number, Exposure::External, false, method);
            }
        }
        plan.reasons.append(&mut refused);
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

/// What tells a Service port apart (AFF-2): FNV-1a over its identity (SP-1). The same on every node
/// and in every run.
fn scope(service: &ServiceKey, port: &ServicePort) -> u64 {
    let ServiceKey { namespace, name } = service;
    let identity = format!(
        "{namespace}/{name}/{}/{}",
        port.name,
        port.protocol.lowercase()
    );
    identity.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
