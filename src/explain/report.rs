//! The answer as an object: what `-o json` prints and what the command line renders.
//! `tests/schemas/explain.json` describes it; fields are only ever added.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::family::Protocol;
use crate::model::frontend::ForwardingMethod;
use crate::model::observation::Way;
use crate::model::service::{ServiceType, TrafficPolicy};

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked, in canonical form.
    pub target: String,
    /// Who was said to send.
    pub from: Option<IpAddr>,
    /// The node that answers.
    pub node: String,
    /// `ipvs` or `nftables`
    pub datapath: String,
    /// Whether this node knows what was asked for.
    pub found: bool,
    /// Whether it works: a packet gets to an endpoint, and the kernel holds what is planned.
    pub works: bool,
    /// In words: the verdict with its cause first.
    pub answer: Vec<String>,
    /// What else is to be known, such as endpoints that are old because the source is away.
    pub notes: Vec<String>,
    /// The Service that it is about.
    pub service: Option<ServiceDetails>,
    /// Its addresses that it is about.
    pub addresses: Vec<AddressDetails>,
    /// Where packets arrive, and what becomes of them.
    pub frontends: Vec<FrontendDetails>,
    /// What the health-check node port tells.
    pub health_check: Option<HealthCheckDetails>,
    /// Where this node's kernel is not as planned.
    pub differences: Vec<DifferenceDetails>,
    /// Frontends and differences that are not among these, which are no more than [`MOST_LISTED`] each.
    #[serde(default)]
    pub more_frontends: usize,
    #[serde(default)]
    pub more_differences: usize,
}

/// The most that a list of an answer holds: nobody reads more, and an answer is not to be megabytes.
pub const MOST_LISTED: usize = 200;

impl Explanation {
    /// Cuts long lists, and counts what is left out; endpoints that are used stay before others.
    pub fn cut(&mut self) {
        self.more_frontends = cut(&mut self.frontends);
        self.more_differences = cut(&mut self.differences);
        for frontend in &mut self.frontends {
            if frontend.endpoints.len() > MOST_LISTED {
                frontend.endpoints.sort_by_key(|endpoint| !endpoint.used);
            }
            frontend.more_endpoints = cut(&mut frontend.endpoints);
        }
    }
}

fn cut<T>(list: &mut Vec<T>) -> usize {
    let more = list.len().saturating_sub(MOST_LISTED);
    list.truncate(MOST_LISTED);
    more
}

/// A Service as far as it decides what happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceDetails {
    /// NAMESPACE/NAME
    pub name: String,
    /// `spec.type`
    #[serde(rename = "type")]
    pub kind: ServiceType,
    pub external_traffic_policy: TrafficPolicy,
    pub internal_traffic_policy: TrafficPolicy,
    /// The timeout of `sessionAffinity: ClientIP`; absent: none.
    pub session_affinity_seconds: Option<u64>,
    /// `spec.loadBalancerSourceRanges`
    pub source_ranges: Vec<IpNet>,
    /// Why it is not served as it asks.
    pub reasons: Vec<Cause>,
}

/// One "no": its kind in one word, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub label: String,
    pub text: String,
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressKind {
    /// From a pool, announced by its owner.
    Vip,
    /// One of `externalIPs`, or a status address of somebody else.
    ExternalIp,
    /// Inside of the cluster.
    ClusterIp,
    /// A node's own, where node ports are open.
    Node,
}

/// An address and who answers for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddressDetails {
    pub address: IpAddr,
    pub kind: AddressKind,
    /// The pool that it is from.
    pub pool: Option<String>,
    /// The node that announces it; of a node's own address that node.
    pub owner: Option<String>,
    /// Whether that is the node that answers.
    pub owned_here: bool,
    /// Why that node, and why not this one.
    pub why: Option<String>,
    /// The nodes that may announce it, the best first.
    pub ranking: Vec<String>,
    /// The nodes that may not.
    pub excluded: Vec<Excluded>,
    /// The interfaces of this node on which it is announced.
    pub interfaces: Vec<String>,
}

/// A node that may not announce an address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Excluded {
    pub node: String,
    #[serde(flatten)]
    pub cause: Cause,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asker {
    /// Neither a pod nor the node that the packet passes.
    Outside,
    /// A pod.
    Pod,
    /// The node that the packet passes, itself.
    Node,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It gets to an endpoint.
    Served,
    /// Whoever sent it is told at once.
    Refused,
    /// It is dropped in silence.
    Dropped,
    /// No node takes it.
    Lost,
}

/// One frontend, and what becomes of a packet there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontendDetails {
    /// As `edgelb services` and the log name it.
    pub name: String,
    /// Of which kind the address is.
    pub kind: AddressKind,
    /// The address; absent for a node port on every address of the node.
    pub address: Option<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
    /// The Service port behind it: its number, which a node port has too.
    pub service_port: u16,
    /// Its node port, where it has one.
    pub node_port: Option<u16>,
    /// NAMESPACE/NAME
    pub service: String,
    /// The node whose kernel decides.
    pub passes: String,
    /// Whether that is the node that answers.
    pub passes_here: bool,
    pub asker: Asker,
    pub fate: Fate,
    /// Why it is not served.
    pub cause: Option<String>,
    /// The traffic policy that holds here.
    pub policy: TrafficPolicy,
    /// The sources that may open connections; absent: any.
    pub allowed_sources: Option<Vec<IpNet>>,
    /// What sends packets of this asker to an endpoint in this node's kernel.
    pub way: Option<Way>,
    pub scheduler: String,
    pub forwarding_method: ForwardingMethod,
    /// Whether the source address is replaced.
    pub masquerade: bool,
    /// The sources that workloads may see; none where the sender is not named and keeps its own, or where
    /// another node puts an address of its own there.
    pub seen_as: Vec<IpAddr>,
    /// The timeout of session affinity; absent: none.
    pub affinity_seconds: Option<u64>,
    /// Where the named source is kept now.
    pub stuck: Option<StuckDetails>,
    /// What each kind of asker gets here.
    pub treatments: Vec<TreatmentDetails>,
    /// The endpoints of the port, used or not.
    pub endpoints: Vec<EndpointDetails>,
    /// Those that are not among these.
    #[serde(default)]
    pub more_endpoints: usize,
}

/// What one kind of asker gets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreatmentDetails {
    pub asker: Asker,
    pub fate: Fate,
    /// How many endpoints it may get to.
    pub endpoints: usize,
    pub masquerade: bool,
}

/// The endpoint that a client is kept with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StuckDetails {
    /// ADDRESS:PORT; absent where that endpoint is none any more, so that another is chosen.
    pub endpoint: Option<String>,
    /// After how long without a new connection it is forgotten.
    pub expires_seconds: Option<u64>,
}

/// One endpoint.
// As its slice has them, each for itself.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointDetails {
    pub address: IpAddr,
    pub port: u16,
    /// Where it runs, as far as its slice says.
    pub node: Option<String>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    /// Whether this asker's new connections may get there.
    pub used: bool,
    /// Why not.
    pub reason: Option<Cause>,
    /// In IPVS; absent where nftables chooses, which gives all the same share.
    pub weight: Option<u32>,
    /// Established connections from this frontend, in this node's kernel.
    pub active: Option<u64>,
    /// Those in any other state.
    pub inactive: Option<u64>,
    /// Why this node cannot send there.
    pub unreachable: Option<String>,
}

/// What a health-check node port says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthCheckDetails {
    pub service: String,
    pub port: u16,
    /// Ready endpoints of the Service on this node, over both families.
    pub local_endpoints: usize,
    /// The HTTP status that it answers with: 200 or 503.
    pub status: u16,
}

/// One thing that is not as planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DifferenceDetails {
    /// In the words of `nft`, `ipvsadm` or `ip`.
    pub object: String,
    pub problem: String,
    /// What makes it right.
    pub remedy: String,
}
