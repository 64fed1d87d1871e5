//! What each reason of the plan means for somebody who cannot reach a Service, and the command that
//! mends it. Pure.

use crate::doctor::finding::{Depth, Level};
use crate::plan::reason::Reason;

/// How bad a reason is for the Service that has it, how much it explains, and what to do.
pub(super) struct Meaning {
    pub(super) level: Level,
    pub(super) depth: Depth,
    pub(super) remedy: String,
}

/// The meaning of a reason of the Service `namespace`/`name`.
pub(super) fn meaning(reason: &Reason, namespace: &str, name: &str) -> Meaning {
    let of = |level, depth, remedy: String| Meaning {
        level,
        depth,
        remedy,
    };
    let problem = |remedy: String| of(Level::Problem, Depth::Asked, remedy);
    let warning = |remedy: String| of(Level::Warning, Depth::Asked, remedy);
    let service = format!("kubectl -n {namespace} edit service {name}");
    let annotate =
        |what: &str| format!("kubectl -n {namespace} annotate --overwrite service {name} {what}");
    let pools =
        "edgelb pools; widen a [[pool]] in edgelb.toml on every node, then systemctl reload edgelb";
    match reason {
        Reason::OtherClass { class } if class.is_empty() => problem(
            "set load_balancer.default = true, or create the Service anew with loadBalancerClass: \
             edgelb.io/edgelb (the field cannot be changed)"
                .to_owned(),
        ),
        Reason::OtherClass { .. } => problem(
            "create the Service anew with loadBalancerClass: edgelb.io/edgelb (the field cannot be \
             changed), or set load_balancer.class to that class"
                .to_owned(),
        ),
        Reason::ServedByAnother { .. } | Reason::ServedElsewhere => problem(format!(
            "if that implementation is gone, empty its status: kubectl -n {namespace} patch service {name} \
             --subresource=status --type=merge -p '{{\"status\":{{\"loadBalancer\":{{\"ingress\":[]}}}}}}'"
        )),
        Reason::BeingDeleted => problem(format!(
            "kubectl -n {namespace} get service {name} -o yaml: see who holds metadata.finalizers"
        )),
        Reason::NoPool | Reason::FamilyMissing { .. } | Reason::PoolExhausted { .. } => {
            problem(pools.to_owned())
        }
        Reason::UnknownPool { .. } | Reason::PoolNotAllowed { .. } => {
            problem(format!("{} (edgelb pools lists them)", annotate("edgelb.io/pool=NAME")))
        }
        Reason::RequestTooLong { .. }
        | Reason::RequestMalformed { .. }
        | Reason::RequestOutsidePools { .. }
        | Reason::RequestTaken { .. }
        | Reason::AddressOfInfrastructure { .. } => problem(format!(
            "{} (edgelb pools and edgelb vips show what is free)",
            annotate("edgelb.io/ips=ADDRESS")
        )),
        Reason::SharingRefused { .. } => {
            problem(annotate("edgelb.io/sharing-key=KEY (the same on both, with different ports)"))
        }
        Reason::RequestsDisagree { .. } => warning(annotate("OTHER-")),
        Reason::DualStackUnmet { .. } => {
            problem(format!("{service}: ipFamilyPolicy: PreferDualStack; or {pools}"))
        }
        Reason::PoolGone { .. } => warning(pools.to_owned()),
        Reason::AwaitingAllocation => of(
            Level::Problem,
            Depth::Symptom,
            "edgelb status says who leads; edgelb doctor there, for its rights at the API server".to_owned(),
        ),
        Reason::NotAllocated { .. } => problem(format!("{pools}; or {service}")),
        Reason::ClaimUnreadable { .. } => problem(
            "kubectl -n kube-system get configmaps | grep edgelb-addresses, and correct the entry".to_owned(),
        ),
        Reason::ExternalNotAllowed { .. } => warning(
            "add the range to proxy.external_ip_ranges on every node, then systemctl reload edgelb".to_owned(),
        ),
        Reason::NodePortOutOfRange { .. } => problem(format!(
            "{service}: another nodePort; or widen proxy.node_port_range on every node"
        )),
        Reason::FrontendTaken { holder, .. } => problem(format!(
            "{service}: another port or address; or change {holder}, which has it"
        )),
        Reason::SourceRangesOpen { family } => warning(format!(
            "{service}: add an {family} range to loadBalancerSourceRanges"
        )),
        Reason::NoEndpoints { .. } => of(
            Level::Problem,
            Depth::Symptom,
            format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"),
        ),
        // That other nodes have some is what a Local policy is for.
        Reason::NoLocalEndpoints { .. } => of(
            Level::Info,
            Depth::Symptom,
            format!("{service}: externalTrafficPolicy: Cluster, or a pod on this node"),
        ),
        Reason::ForwardingMethodUnknown { .. }
        | Reason::ForwardingMethodNotAllowed { .. }
        | Reason::ForwardingMethodPort { .. } => warning(format!(
            "{}, or forwarding_methods of its pool",
            annotate("edgelb.io/forwarding-method=masquerade")
        )),
        Reason::ForwardingMethodMissing { .. } => warning(format!(
            "proxy.datapath = \"ipvs\" on a kernel with ip_vs (modprobe ip_vs), or {}",
            annotate("edgelb.io/forwarding-method-")
        )),
        Reason::SchedulerUnknown { .. } => warning(annotate("edgelb.io/scheduler=rr")),
        other => of(Level::Warning, Depth::Symptom, of_a_node(other).to_owned()),
    }
}

/// What lets a node announce again that may not.
pub(in crate::doctor) fn of_a_node(reason: &Reason) -> &'static str {
    match reason {
        Reason::NodeUnknown => "set node.name to the name that kubectl get nodes shows",
        Reason::NotSelected => "label the node as announce.node_selector wants, or widen that",
        Reason::ExcludedByLabel => {
            "kubectl label node NODE node.kubernetes.io/exclude-from-external-load-balancers-"
        }
        Reason::NodeDeleting => "nothing, if the node is meant to go",
        Reason::NoLocalEndpoint => {
            "externalTrafficPolicy: Cluster, or a pod on a node that may announce"
        }
        Reason::NoInterface => {
            "where `interfaces` of its [[pool]] is set, name one there that the node has (ip -br link); else ip \
             address add ADDRESS/LENGTH dev INTERFACE from the VIP's subnet on the node"
        }
        Reason::Draining => {
            "edgelb undrain on that node, and kubectl label node NODE edgelb.io/drain- where it has that label"
        }
        Reason::NotReady | Reason::NotServedThere => "edgelb status and edgelb doctor on that node",
        Reason::PeerDown => "systemctl status edgelb on that node, and UDP 9751 to it",
        Reason::PeerRestarting => "wait for membership.restart_grace",
        _ => "edgelb vips says which nodes may announce it, and why others may not",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::family::Family;

    #[test]
    fn what_keeps_a_service_from_an_address_is_a_problem_with_a_command() {
        for reason in [
            Reason::NoPool,
            Reason::PoolExhausted {
                pools: vec!["lan".to_owned()],
            },
            Reason::OtherClass {
                class: "metallb".to_owned(),
            },
            Reason::FamilyMissing { family: Family::V6 },
            Reason::AwaitingAllocation,
        ] {
            let found = meaning(&reason, "shop", "web");
            assert_eq!(found.level, Level::Problem, "{reason:?}");
            assert!(!found.remedy.is_empty());
        }
        let local = meaning(&Reason::NoLocalEndpoints { port: 80 }, "shop", "web");
        assert_eq!(local.level, Level::Info);
    }
}
