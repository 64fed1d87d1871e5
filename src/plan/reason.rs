//! Every "no" that this program can give, as one enum: it feeds the log line, the metric label,
//! `status` and `explain`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::sharing::SharingRule;
use crate::model::family::Family;
use crate::model::foreign::MacAddress;
use crate::model::frontend::{ForwardingMethod, FrontendPort};
use crate::model::service::ServiceKey;

/// What an address belongs to that no Service may take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Infrastructure {
    /// This host has it on an interface.
    ThisNode,
    /// Another Node of the cluster has it.
    Node(String),
    /// A gateway or a resolver of this host.
    GatewayOrResolver,
    /// Another host on the LAN answers for it.
    ForeignHost { mac: MacAddress },
    /// Loopback, multicast, link-local, unspecified or broadcast.
    Special,
}

impl fmt::Display for Infrastructure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ThisNode => f.write_str("this node"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::GatewayOrResolver => f.write_str("a gateway or resolver of this node"),
            Self::ForeignHost { mac } => write!(f, "a host on the LAN ({mac})"),
            Self::Special => f.write_str("no host (loopback, multicast, link-local or broadcast)"),
        }
    }
}

/// Why something is not done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Reason {
    /// The Service asks for another implementation.
    OtherClass { class: String },
    /// Its status holds an address that no pool of ours contains.
    ServedByAnother { address: IpAddr },
    /// Its status holds an entry that is no address of ours, such as a host name.
    ServedElsewhere,
    /// It is being deleted: it is given nothing new.
    BeingDeleted,
    /// No pool gives addresses to this Service.
    NoPool,
    /// The Service names a pool that does not exist.
    UnknownPool { pool: String },
    /// The Service names a pool that is not for its namespace or labels.
    PoolNotAllowed { pool: String },
    /// Every pool that would do is full.
    PoolExhausted { pools: Vec<String> },
    /// It asks for more addresses than one Service may have.
    RequestTooLong { most: usize },
    /// The requested text is no address.
    RequestMalformed { text: String },
    /// The requested address is in no pool that this Service may use.
    RequestOutsidePools { address: IpAddr },
    /// The requested address belongs to another Service.
    RequestTaken { address: IpAddr, holder: ServiceKey },
    /// Both have the sharing key, and a rule keeps them from holding one address.
    SharingRefused {
        address: IpAddr,
        holder: ServiceKey,
        rule: SharingRule,
    },
    /// Two ways of asking for an address disagree; the first one counts.
    RequestsDisagree { used: String, ignored: String },
    /// The pool has no address of this family.
    FamilyMissing { family: Family },
    /// `RequireDualStack`, and an address of this family cannot be had: it gets none at all.
    DualStackUnmet { family: Family },
    /// The pool that gave this address is gone; the Service keeps it.
    PoolGone { address: IpAddr },
    /// Its status names no address that it may hold, and nobody has said why.
    AwaitingAllocation,
    /// The allocator gave it no address, for this cause (a word) and with this message.
    NotAllocated { cause: String, message: String },
    /// The address is a node's, a gateway's, a resolver's or another host's.
    AddressOfInfrastructure {
        address: IpAddr,
        what: Infrastructure,
    },
    /// Somebody claimed the address, and it cannot be read who.
    ClaimUnreadable { address: IpAddr },
    /// An external address outside `proxy.external_ip_ranges` and the pools.
    ExternalNotAllowed { address: IpAddr },
    /// The node port is outside `proxy.node_port_range`.
    NodePortOutOfRange { port: u16 },
    /// Another Service has the same address, protocol and port.
    FrontendTaken {
        frontend: FrontendPort,
        holder: ServiceKey,
    },
    /// `loadBalancerSourceRanges` names no range of this family, whose VIP is open to all (SR-2).
    SourceRangesOpen { family: Family },
    /// No endpoint is ready anywhere: connections are refused.
    NoEndpoints { port: u16 },
    /// No endpoint is ready on this node: a Local policy drops here.
    NoLocalEndpoints { port: u16 },
    /// A forwarding method is asked for that does not exist.
    ForwardingMethodUnknown { name: String },
    /// The pool of this address does not let Services ask for this method.
    ForwardingMethodNotAllowed {
        method: ForwardingMethod,
        address: IpAddr,
    },
    /// The method cannot change ports, and the endpoints of this port listen on another one.
    ForwardingMethodPort { method: ForwardingMethod, port: u16 },
    /// This node's datapath has only masquerading.
    ForwardingMethodMissing { method: ForwardingMethod },
    /// A scheduler is asked for that IPVS does not have.
    SchedulerUnknown { name: String },
    /// Nobody may own the VIP.
    NoEligibleNode,
    /// Another node owns the VIP.
    OwnedBy { node: String },
    /// This node is not among the Nodes of the cluster.
    NodeUnknown,
    /// The node is not selected by `announce.node_selector`.
    NotSelected,
    /// The node carries the label `node.kubernetes.io/exclude-from-external-load-balancers`.
    ExcludedByLabel,
    /// The Node object is being deleted.
    NodeDeleting,
    /// `externalTrafficPolicy` Local, and no endpoint is ready on the node.
    NoLocalEndpoint,
    /// No interface of the node may announce the VIP.
    NoInterface,
    /// The node gives its VIPs up.
    Draining,
    /// The node has not programmed its forwarding yet.
    NotReady,
    /// The node does not answer.
    PeerDown,
    /// The node said that it restarts; it keeps what it owns.
    PeerRestarting,
    /// The node says that it cannot serve the VIP.
    NotServedThere,
}

/// The longest text of others in a reason, in characters.
const LONGEST_TEXT: usize = 64;

/// Text that somebody else wrote, as a reason repeats it.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().nth(LONGEST_TEXT).is_none() {
        return text.to_owned();
    }
    text.chars().take(LONGEST_TEXT - 1).chain(['…']).collect()
}

/// The beginning of a text that has at most so many bytes, up to the end of a character.
pub(super) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

impl Reason {
    /// The label of this reason in metrics and JSON: one word per kind, never data.
    pub fn label(&self) -> &'static str {
        self.names().0
    }

    /// The same word as the `reason` of a Kubernetes condition or Event has it (API conventions: camel
    /// case).
    pub fn condition_reason(&self) -> &'static str {
        self.names().1
    }

    /// The address that this reason keeps a Service from having, where it is about one.
    pub(super) fn refused(&self) -> Option<IpAddr> {
        match self {
            Self::RequestTaken { address, .. }
            | Self::SharingRefused { address, .. }
            | Self::ClaimUnreadable { address }
            | Self::AddressOfInfrastructure { address, .. } => Some(*address),
            _ => None,
        }
    }

    /// Whether it says that the Service is another implementation's.
    pub(super) fn is_not_ours(&self) -> bool {
        matches!(
            self,
            Self::OtherClass { .. } | Self::ServedByAnother { .. } | Self::ServedElsewhere
        )
    }

    fn names(&self) -> (&'static str, &'static str) {
        match self {
            Self::OtherClass { .. } => ("other_class", "OtherClass"),
            Self::ServedByAnother { .. } => ("served_by_another", "ServedByAnother"),
            Self::ServedElsewhere => ("served_elsewhere", "ServedElsewhere"),
            Self::BeingDeleted => ("being_deleted", "BeingDeleted"),
            Self::NoPool => ("no_pool", "NoPool"),
            Self::UnknownPool { .. } => ("unknown_pool", "UnknownPool"),
            Self::PoolNotAllowed { .. } => ("pool_not_allowed", "PoolNotAllowed"),
            Self::PoolExhausted { .. } => ("pool_exhausted", "PoolExhausted"),
            Self::RequestTooLong { .. } => ("request_too_long", "RequestTooLong"),
            Self::RequestMalformed { .. } => ("request_malformed", "RequestMalformed"),
            Self::RequestOutsidePools { .. } => ("request_outside_pools", "RequestOutsidePools"),
            Self::RequestTaken { .. } => ("request_taken", "RequestTaken"),
            Self::SharingRefused { .. } => ("sharing_refused", "SharingRefused"),
            Self::RequestsDisagree { .. } => ("requests_disagree", "RequestsDisagree"),
            Self::FamilyMissing { .. } => ("family_missing", "FamilyMissing"),
            Self::DualStackUnmet { .. } => ("dual_stack_unmet", "DualStackUnmet"),
            Self::PoolGone { .. } => ("pool_gone", "PoolGone"),
            Self::AwaitingAllocation => ("awaiting_allocation", "AwaitingAllocation"),
            Self::NotAllocated { .. } => ("not_allocated", "NotAllocated"),
            Self::AddressOfInfrastructure { .. } => {
                ("address_of_infrastructure", "AddressOfInfrastructure")
            }
            Self::ClaimUnreadable { .. } => ("claim_unreadable", "ClaimUnreadable"),
            Self::ExternalNotAllowed { .. } => ("external_not_allowed", "ExternalNotAllowed"),
            Self::NodePortOutOfRange { .. } => ("node_port_out_of_range", "NodePortOutOfRange"),
            Self::FrontendTaken { .. } => ("frontend_taken", "FrontendTaken"),
            Self::SourceRangesOpen { .. } => ("source_ranges_open", "SourceRangesOpen"),
            Self::NoEndpoints { .. } => ("no_endpoints", "NoEndpoints"),
            Self::NoLocalEndpoints { .. } => ("no_local_endpoints", "NoLocalEndpoints"),
            Self::ForwardingMethodUnknown { .. } => {
                ("forwarding_method_unknown", "ForwardingMethodUnknown")
            }
            Self::ForwardingMethodNotAllowed { .. } => (
                "forwarding_method_not_allowed",
                "ForwardingMethodNotAllowed",
            ),
            Self::ForwardingMethodPort { .. } => ("forwarding_method_port", "ForwardingMethodPort"),
            Self::ForwardingMethodMissing { .. } => {
                ("forwarding_method_missing", "ForwardingMethodMissing")
            }
            Self::SchedulerUnknown { .. } => ("scheduler_unknown", "SchedulerUnknown"),
            Self::NoEligibleNode => ("no_eligible_node", "NoEligibleNode"),
            Self::OwnedBy { .. } => ("owned_by", "OwnedBy"),
            Self::NodeUnknown => ("node_unknown", "NodeUnknown"),
            Self::NotSelected => ("not_selected", "NotSelected"),
            Self::ExcludedByLabel => ("excluded_by_label", "ExcludedByLabel"),
            Self::NodeDeleting => ("node_deleting", "NodeDeleting"),
            Self::NoLocalEndpoint => ("no_local_endpoint", "NoLocalEndpoint"),
            Self::NoInterface => ("no_interface", "NoInterface"),
            Self::Draining => ("draining", "Draining"),
            Self::NotReady => ("not_ready", "NotReady"),
            Self::PeerDown => ("peer_down", "PeerDown"),
            Self::PeerRestarting => ("peer_restarting", "PeerRestarting"),
            Self::NotServedThere => ("not_served_there", "NotServedThere"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherClass { class } if class.is_empty() => {
                f.write_str("it names no loadBalancerClass, and load_balancer.default is false")
            }
            Self::OtherClass { class } => write!(f, "loadBalancerClass {class} is another implementation's"),
            Self::ServedByAnother { address } => {
                write!(f, "its status holds {address}, which is in none of our pools: another implementation serves it")
            }
            Self::ServedElsewhere => f.write_str(
                "its status holds a host name or something else that is no address of ours: another implementation serves it",
            ),
            Self::BeingDeleted => f.write_str("it is being deleted, so it is given no address"),
            Self::NoPool => f.write_str("no pool is for this Service: add a [[pool]] or widen its selectors"),
            Self::UnknownPool { pool } => write!(f, "it names the pool {pool}, which does not exist"),
            Self::PoolNotAllowed { pool } => {
                write!(f, "it names the pool {pool}, which is not for its namespace or labels")
            }
            Self::PoolExhausted { pools } => {
                write!(f, "no free address in {}: extend a pool or delete a Service", pools.join(", "))
            }
            Self::RequestTooLong { most } => write!(f, "it asks for more than {most} addresses"),
            Self::RequestMalformed { text } => write!(f, "it asks for {text:?}, which is no address"),
            Self::RequestOutsidePools { address } => {
                write!(f, "it asks for {address}, which is in no pool that it may use")
            }
            Self::RequestTaken { address, holder } => write!(f, "it asks for {address}, which {holder} holds"),
            Self::SharingRefused { address, holder, rule } => {
                write!(f, "it may not share {address} with {holder}: {rule}")
            }
            Self::RequestsDisagree { used, ignored } => write!(f, "{ignored} disagrees with {used}, which counts"),
            Self::FamilyMissing { family } => write!(f, "its pool has no free {family} address"),
            Self::DualStackUnmet { family } => write!(
                f,
                "its ipFamilyPolicy is RequireDualStack, and no {family} address is to be had with the other: extend a pool or ask for PreferDualStack"
            ),
            Self::PoolGone { address } => write!(f, "{address} is in no pool any more; it is kept until released"),
            Self::AwaitingAllocation => f.write_str(
                "no allocator has given it an address yet: `edgelb status` on the leader tells why",
            ),
            Self::NotAllocated { cause, message } => {
                write!(f, "the allocator gave it no address: {message} ({cause})")
            }
            Self::ClaimUnreadable { address } => write!(
                f,
                "{address} is claimed in a ConfigMap by an entry that cannot be read: correct the entry or take it away"
            ),
            Self::AddressOfInfrastructure { address, what } => {
                write!(f, "{address} belongs to {what}: a Service must not take it")
            }
            Self::ExternalNotAllowed { address } => {
                write!(f, "{address} is neither in a pool nor in proxy.external_ip_ranges")
            }
            Self::NodePortOutOfRange { port } => {
                write!(f, "node port {port} is outside proxy.node_port_range: it is not opened")
            }
            Self::FrontendTaken { frontend, holder } => write!(f, "{frontend} is served for {holder} already"),
            Self::SourceRangesOpen { family } => write!(
                f,
                "loadBalancerSourceRanges names no {family} range, so anybody reaches its {family} VIP: name one"
            ),
            Self::NoEndpoints { port } => write!(f, "port {port} has no ready endpoint: connections are refused"),
            Self::NoLocalEndpoints { port } => {
                write!(f, "port {port} has no ready endpoint on this node: the Local policy drops here")
            }
            Self::ForwardingMethodUnknown { name } => write!(
                f,
                "edgelb.io/forwarding-method names {name:?}, which is none of masquerade, direct-routing, tunnel: it is masqueraded"
            ),
            Self::ForwardingMethodNotAllowed { method, address } => write!(
                f,
                "the pool of {address} does not allow {method}: add it to the pool's forwarding_methods; it is masqueraded"
            ),
            Self::ForwardingMethodPort { method, port } => write!(
                f,
                "port {port} goes to endpoints with another port, which {method} cannot change: use the same port; it is masqueraded"
            ),
            Self::ForwardingMethodMissing { method } => write!(
                f,
                "{method} needs IPVS, which this node does not use: it is masqueraded"
            ),
            Self::SchedulerUnknown { name } => write!(
                f,
                "edgelb.io/scheduler names {name:?}, which is no scheduler of IPVS: proxy.scheduler counts"
            ),
            Self::NoEligibleNode => f.write_str("no node may announce it"),
            Self::OwnedBy { node } => write!(f, "node {node} announces it"),
            Self::NodeUnknown => f.write_str("this node is not among the cluster's Nodes: check node.name"),
            Self::NotSelected => f.write_str("announce.node_selector does not select this node"),
            Self::ExcludedByLabel => {
                f.write_str("the node is labelled node.kubernetes.io/exclude-from-external-load-balancers")
            }
            Self::NodeDeleting => f.write_str("the Node is being deleted"),
            Self::NoLocalEndpoint => f.write_str("no endpoint is ready on the node, and its policy is Local"),
            Self::NoInterface => f.write_str("no running interface has a subnet that holds it, or `interfaces` of its pool names none that is there"),
            Self::Draining => f.write_str("the node is drained: `edgelb undrain` there ends it, or taking the label edgelb.io/drain off its Node"),
            Self::NotReady => f.write_str("the node has not programmed its forwarding yet"),
            Self::PeerDown => f.write_str("the node does not answer"),
            Self::PeerRestarting => f.write_str("the node restarts and keeps what it owns meanwhile"),
            Self::NotServedThere => f.write_str("the node says that it cannot serve it: see `edgelb services` there"),
        }
    }
}
