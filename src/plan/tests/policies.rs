//! What must hold of every plan, by the letter of the statements: nobody is sent where a policy
//! forbids it, no VIP is open without its filter, and the order of events decides nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::generate::{any_change, small};
use super::{HERE, inputs};
use crate::config::Config;
use crate::model::cluster::ClusterChange;
use crate::model::endpoint::Endpoint;
use crate::model::family::{Family, Protocol};
use crate::model::frontend::{Frontend, FrontendAddress, FrontendPort, RealServer, SourceClass};
use crate::model::node_state::HeldFor;
use crate::model::service::{Service, TrafficPolicy};
use crate::plan::{Inputs, Plan, plan};

/// Every entry of the Service's slices for this address and port.
fn entries<'a>(
    inputs: &'a Inputs,
    service: &'a Service,
    protocol: Protocol,
    real_server: RealServer,
) -> Vec<&'a Endpoint> {
    let slices = inputs.cluster.slices_of(&service.key);
    let feeding = slices.filter(|slice| {
        slice.ports.iter().any(|port| {
            port.protocol == protocol && port.port == real_server.port && port.name.is_empty()
        })
    });
    let endpoints = feeding.flat_map(|slice| &slice.endpoints);
    endpoints
        .filter(|endpoint| endpoint.address == real_server.address)
        .collect()
}

/// Which policy holds at a frontend for a class (POL-4 to POL-6).
fn policy(service: &Service, at: FrontendAddress, class: SourceClass) -> TrafficPolicy {
    let internal = match at {
        FrontendAddress::Address(address) => service.cluster_ips.contains(&address),
        FrontendAddress::NodePort(_) => false,
    };
    match (internal, class) {
        (true, _) => service.internal_traffic_policy,
        (false, SourceClass::Pod | SourceClass::Node) => TrafficPolicy::Cluster,
        (false, SourceClass::Outside | SourceClass::Peer) => service.external_traffic_policy,
    }
}

fn assert_policy(
    inputs: &Inputs,
    service: &Service,
    port: FrontendPort,
    frontend: &Frontend,
) -> Result<(), TestCaseError> {
    for class in SourceClass::ALL {
        let local = policy(service, port.address, class) == TrafficPolicy::Local;
        for real_server in frontend.real_servers(class) {
            let entries = entries(inputs, service, port.protocol, *real_server);
            let usable = entries.iter().any(|endpoint| {
                let conditions = endpoint.conditions;
                (conditions.ready || (conditions.serving && conditions.terminating))
                    && (!local || endpoint.node.as_deref() == Some(HERE))
            });
            prop_assert!(
                usable,
                "{:?} at {} may not be sent to {}",
                class,
                port,
                real_server
            );
        }
        let masquerade = frontend.treatment(class).masquerade;
        let kept = [SourceClass::Outside, SourceClass::Pod].contains(&class)
            && service.external_traffic_policy == TrafficPolicy::Local
            && !matches!(port.address, FrontendAddress::Address(at) if service.cluster_ips.contains(&at));
        prop_assert!(!(masquerade && kept), "MASQ-7: {:?} at {}", class, port);
    }
    Ok(())
}

/// No VIP without its filter: what is announced or answers is held (its undeclared ports are refused),
/// and where a Service names ranges of a family, its VIPs of that family are closed to others (SR-3).
fn assert_filtered(config: &Config, inputs: &Inputs, plan: &Plan) -> Result<(), TestCaseError> {
    let announced = plan
        .state
        .announced
        .values()
        .flat_map(|interface| &interface.addresses);
    for address in announced.chain(&plan.state.answering) {
        prop_assert_eq!(plan.state.held.get(address), Some(&HeldFor::Vip));
    }
    for (port, frontend) in &plan.state.frontends {
        let FrontendAddress::Address(address) = port.address else {
            prop_assert!(frontend.allowed_sources.is_none(), "NP-10");
            continue;
        };
        prop_assert!(
            plan.state.held.contains_key(&address),
            "{} is filtered",
            address
        );
        let service = &inputs.cluster.services[&frontend.service];
        let vips = plan.addresses.allocations.addresses(&frontend.service);
        let ranges: Vec<_> = service
            .source_ranges
            .iter()
            .filter(|range| Family::of(range.addr()) == Family::of(address))
            .collect();
        let restricted = vips.contains(&address)
            && !service.cluster_ips.contains(&address)
            && !ranges.is_empty()
            && ranges.iter().all(|range| range.prefix_len() > 0);
        if restricted {
            let allowed = frontend.allowed_sources.as_deref().unwrap_or_default();
            prop_assert!(!allowed.is_empty(), "{} of {}", port, frontend.service);
            let stranger: IpAddr = match Family::of(address) {
                Family::V4 => [203, 0, 113, 77].into(),
                Family::V6 => "2001:db8:ffff::1".parse().unwrap(),
            };
            prop_assert!(!allowed.iter().any(|range| range.contains(&stranger)));
            let covered = ranges.iter().all(|range| {
                allowed
                    .iter()
                    .any(|allowed| allowed.contains(&range.addr()))
            });
            prop_assert!(covered);
        }
    }
    prop_assert!(config.pools.iter().all(|pool| !pool.ranges.is_empty()));
    Ok(())
}

/// The object that an edit is about.
fn subject(change: &ClusterChange) -> String {
    match change {
        ClusterChange::Service(service) => format!("service {}", service.key),
        ClusterChange::ServiceGone(key) => format!("service {key}"),
        ClusterChange::Slice(slice) => format!("slice {}", slice.key),
        ClusterChange::SliceGone(key) => format!("slice {key}"),
        ClusterChange::Node(node) => format!("node {}", node.name),
        ClusterChange::NodeGone(name) => format!("node {name}"),
        ClusterChange::Namespace(namespace) => format!("namespace {}", namespace.name),
        ClusterChange::NamespaceGone(name) => format!("namespace {name}"),
        ClusterChange::ServiceCidr(name, _) | ClusterChange::ServiceCidrGone(name) => {
            format!("service cidr {name}")
        }
    }
}

proptest! {
    #[test]
    fn nobody_is_sent_where_a_policy_forbids_it(changes in prop::collection::vec(any_change(), 1..40)) {
        let config = small();
        let mut inputs = inputs();
        for change in changes {
            inputs.cluster.apply(change);
        }
        let plan = plan(&config, &inputs);
        for (port, frontend) in &plan.state.frontends {
            let service = &inputs.cluster.services[&frontend.service];
            assert_policy(&inputs, service, *port, frontend)?;
        }
        assert_filtered(&config, &inputs, &plan)?;
    }

    #[test]
    fn the_order_of_events_decides_nothing(
        changes in prop::collection::vec(any_change(), 1..40)
            .prop_flat_map(|changes| (Just(changes.clone()), Just(changes).prop_shuffle())),
    ) {
        let config = small();
        let (first, second) = changes;
        // Of each object the state that the first order ends in; in the second order it comes at once.
        let mut last: BTreeMap<String, ClusterChange> = BTreeMap::new();
        let mut one = inputs();
        for change in &first {
            last.insert(subject(change), change.clone());
            one.cluster.apply(change.clone());
        }
        let mut other = inputs();
        for change in &second {
            if let Some(change) = last.remove(&subject(change)) {
                other.cluster.apply(change);
            }
        }
        prop_assert!(last.is_empty());
        prop_assert_eq!(plan(&config, &one), plan(&config, &other));
    }
}
