//! The answer in words: the verdict and its cause first, then what a tired person asks next. Every fact
//! is in the details already; nothing is decided here but the order.

mod phrases;
mod whole;

pub use phrases::{count, duration, list};

use std::net::{IpAddr, SocketAddr};

use super::Facts;
use super::question::{Question, Target};
use super::report::{AddressDetails, AddressKind, Asker, Explanation, Fate, FrontendDetails};
use crate::model::frontend::ForwardingMethod;
use crate::model::service::{ServiceKey, TrafficPolicy};
use phrases::{capitalized, sentence};

/// Endpoints, or reasons, that are named one by one.
const MOST_NAMED: usize = 3;

/// Puts the answer, and whether it works, from the details that are there.
pub fn answer(
    question: &Question,
    facts: &Facts<'_>,
    service: &ServiceKey,
    explanation: &mut Explanation,
) {
    let (lines, works) = match (&question.target, explanation.frontends.as_slice()) {
        (Target::Address { .. }, [frontend]) => single(question, facts, frontend, explanation),
        _ => whole::service(facts, service, explanation),
    };
    explanation.answer = lines;
    explanation.works = works;
}

fn single(
    question: &Question,
    facts: &Facts<'_>,
    frontend: &FrontendDetails,
    explanation: &Explanation,
) -> (Vec<String>, bool) {
    let to = match &question.target {
        Target::Service(key) => key.to_string(),
        target @ Target::Address { .. } => target.to_string(),
    };
    let subject = subject(frontend, question.from);
    let (verdict, served) = verdict(frontend, explanation);
    let mut lines = vec![format!("{subject} that connects to {to} {verdict}.")];
    let mut works = served;
    if let Some(conflict) = conflict(facts, frontend.address) {
        lines.push(conflict);
        works = false;
    }
    lines.extend(unapplied(facts, frontend.address).inspect(|_| works = false));
    lines.extend(
        explanation
            .addresses
            .iter()
            .map(|address| what(address, frontend)),
    );
    if frontend.fate != Fate::Lost {
        lines.extend(used(frontend));
    }
    if frontend.fate == Fate::Served {
        lines.push(seen(frontend));
        lines.extend(affinity(frontend, question.from));
    }
    if question.from.is_none()
        && let Some(ranges) = &frontend.allowed_sources
    {
        let ranges = list(ranges);
        lines.push(format!(
            "Only sources in {ranges} may connect (spec.loadBalancerSourceRanges): --from IP tells of one."
        ));
    }
    lines.push(kernel(facts, explanation));
    (lines, works)
}

/// Who asks, at the beginning of a sentence.
fn subject(frontend: &FrontendDetails, from: Option<IpAddr>) -> String {
    match (frontend.asker, from) {
        (Asker::Outside, Some(from)) => format!("A client at {from}"),
        (Asker::Outside, None) => "A client outside the cluster".to_owned(),
        (Asker::Pod, Some(from)) => format!("The pod {from}"),
        (Asker::Pod, None) => format!("A pod on {}", frontend.passes),
        (Asker::Node, Some(from)) => format!("Node {} ({from})", frontend.passes),
        (Asker::Node, None) => format!("Node {}", frontend.passes),
    }
}

/// What becomes of a connection, and whether it is as it should be.
pub(super) fn verdict(frontend: &FrontendDetails, explanation: &Explanation) -> (String, bool) {
    let cause = frontend.cause.as_deref().unwrap_or("nobody knows why");
    match frontend.fate {
        Fate::Refused => (format!("is refused: {cause}"), false),
        Fate::Dropped | Fate::Lost => (format!("gets no answer: {cause}"), false),
        Fate::Served => {
            let here = frontend.passes_here;
            if let Some(first) = explanation.differences.first() {
                let words = format!("{} {}", first.object, first.problem);
                return if here {
                    (
                        format!("may not be served: in this node's kernel, {words}"),
                        false,
                    )
                } else {
                    let by = endpoints_used(frontend);
                    (
                        format!("is served by {by}, but in this node's kernel, {words}"),
                        false,
                    )
                };
            }
            let lost = frontend.endpoints.iter().find_map(|endpoint| {
                let why = endpoint.unreachable.as_deref()?;
                Some(format!(
                    "{}: {why}",
                    SocketAddr::new(endpoint.address, endpoint.port)
                ))
            });
            if let Some(lost) = lost {
                return (format!("may not be served: {lost}"), false);
            }
            (format!("is served by {}", endpoints_used(frontend)), true)
        }
    }
}

fn endpoints_used(frontend: &FrontendDetails) -> String {
    if let Some(kept) = frontend
        .stuck
        .as_ref()
        .and_then(|stuck| stuck.endpoint.as_ref())
    {
        return format!("{kept}, where session affinity keeps it");
    }
    let used: Vec<SocketAddr> = (frontend.endpoints.iter())
        .filter(|endpoint| endpoint.used)
        .map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port))
        .collect();
    match used.as_slice() {
        [] => "nobody".to_owned(),
        [one] => one.to_string(),
        several if several.len() <= MOST_NAMED => several
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" or "),
        several => {
            let named: Vec<String> = several
                .iter()
                .take(MOST_NAMED)
                .map(ToString::to_string)
                .collect();
            format!(
                "{} or {} others",
                named.join(", "),
                several.len() - MOST_NAMED
            )
        }
    }
}

/// What the address is, and who answers for it.
pub(super) fn what(address: &AddressDetails, frontend: &FrontendDetails) -> String {
    let (at, service) = (address.address, &frontend.service);
    let pool = address.pool.as_ref();
    let pool = pool.map_or_else(String::new, |pool| format!(" (pool {pool})"));
    match address.kind {
        AddressKind::Vip => {
            let why = address.why.as_deref().unwrap_or("it is not served here");
            match &address.owner {
                Some(owner) => {
                    let this = if address.owned_here {
                        ", this node,"
                    } else {
                        ""
                    };
                    format!("{at} is a VIP of {service}{pool}; {owner}{this} announces it: {why}.")
                }
                None => format!("{at} is a VIP of {service}{pool}; nobody announces it: {why}."),
            }
        }
        AddressKind::ClusterIp => format!(
            "{at} is a ClusterIP of {service}: each node serves it to its own pods and processes."
        ),
        AddressKind::ExternalIp => format!(
            "{at} is an external address of {service}{pool}: edgelb announces it nowhere, and serves what gets to a node."
        ),
        AddressKind::Node => {
            let node = address.owner.as_deref().unwrap_or(&frontend.passes);
            let this = if address.owned_here {
                ", this node"
            } else {
                ""
            };
            format!(
                "{} is the node port of port {} of {service}; {at} is {node}'s{this}.",
                frontend.port, frontend.service_port
            )
        }
    }
}

/// How many endpoints are used, and why not the others.
pub(super) fn used(frontend: &FrontendDetails) -> Option<String> {
    let all = &frontend.endpoints;
    let unused: Vec<String> = all
        .iter()
        .filter(|endpoint| !endpoint.used)
        .map(|endpoint| {
            let at = SocketAddr::new(endpoint.address, endpoint.port);
            let reason = endpoint.reason.as_ref();
            let reason = reason.map_or("it is not used", |reason| reason.text.as_str());
            let left = endpoint.active.filter(|active| *active > 0);
            let left = left.map_or_else(String::new, |active| {
                format!("; it keeps {}", count_u64(active, "connection"))
            });
            format!("{at} is not, {reason}{left}")
        })
        .collect();
    if all.is_empty() {
        return None;
    }
    let used = all.len() - unused.len();
    let mut words = match (used, all.len()) {
        (1, 1) => "its only endpoint is used".to_owned(),
        (used, total) if used == total => format!("all {total} endpoints are used"),
        (used, total) => format!("{used} of {} used", count(total, "endpoint")),
    };
    let more = unused.len().saturating_sub(MOST_NAMED);
    let more = (more > 0).then(|| format!("and {more} more"));
    let told = unused.into_iter().take(MOST_NAMED).chain(more);
    for told in told {
        words.push_str("; ");
        words.push_str(&told);
    }
    Some(sentence(&words))
}

fn count_u64(number: u64, what: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), what)
}

/// Which source address the workload sees, and why.
pub(super) fn seen(frontend: &FrontendDetails) -> String {
    let node = &frontend.passes;
    let addresses: Vec<String> = frontend.seen_as.iter().map(ToString::to_string).collect();
    if frontend.masquerade {
        let seen = if addresses.is_empty() {
            format!("an address of {node}")
        } else {
            format!("{} of {node}", addresses.join(" or "))
        };
        let why = match (frontend.kind, frontend.policy) {
            (AddressKind::ClusterIp, _) => "only pods keep theirs at a ClusterIP",
            (_, TrafficPolicy::Cluster) => {
                "the traffic policy is Cluster, so that answers come back through the node"
            }
            (_, TrafficPolicy::Local) => "it is the node's own packet",
        };
        return format!("The workload sees {seen} as the source (masqueraded: {why}).");
    }
    match addresses.as_slice() {
        [] => "The workload sees the sender's own address.".to_owned(),
        [one] => format!("The workload sees the source {one}, as it was sent."),
        [own, masqueraded @ ..] => format!(
            "The workload sees the source {own}, as it was sent; the sender itself, if it is chosen, sees {}.",
            masqueraded.join(" or ")
        ),
    }
}

/// Session affinity, and where the source is kept.
fn affinity(frontend: &FrontendDetails, from: Option<IpAddr>) -> Option<String> {
    let seconds = frontend.affinity_seconds?;
    let timeout = duration(std::time::Duration::from_secs(seconds));
    let rule = format!(
        "Session affinity keeps each client with its endpoint until {timeout} after its last new connection"
    );
    let Some(from) = from else {
        return Some(format!("{rule}; --from IP tells where one is kept."));
    };
    // IPVS keeps those itself, where netfilter translates nothing: its table of connections is not read here.
    if frontend.forwarding_method != ForwardingMethod::Masquerade {
        return Some(format!(
            "{rule} (persistence of IPVS); ipvsadm -Lnc on {} shows where {from} is kept.",
            frontend.passes
        ));
    }
    if !frontend.passes_here {
        return Some(format!(
            "{rule}; {} knows where {from} is kept.",
            frontend.passes
        ));
    }
    Some(match &frontend.stuck {
        None => format!("{rule}; {from} is kept nowhere now."),
        Some(stuck) => {
            let left = stuck.expires_seconds.map_or_else(String::new, |left| {
                format!(
                    ", for another {}",
                    duration(std::time::Duration::from_secs(left))
                )
            });
            match &stuck.endpoint {
                Some(endpoint) => format!("{rule}; {from} is kept with {endpoint}{left}."),
                None => format!(
                    "{rule}; {from} was kept with an endpoint that is not used any more, and gets another."
                ),
            }
        }
    })
}

/// Another host that uses the address.
pub(super) fn conflict(facts: &Facts<'_>, address: Option<IpAddr>) -> Option<String> {
    let address = address?;
    let mac = facts.inputs.foreign.get(address)?;
    Some(format!(
        "Another host on the LAN ({mac}) answers for {address} too, and some clients get there instead: take the address from one of them."
    ))
}

/// What the last pass could not apply of it.
pub(super) fn unapplied<'a>(
    facts: &Facts<'a>,
    address: Option<IpAddr>,
) -> impl Iterator<Item = String> + use<'a> {
    let about = facts.failures.iter();
    let about = about.filter(move |failure| failure.concerns(address));
    about.map(|failure| {
        format!(
            "This node could not apply {}: {}; it tries again.",
            failure.object, failure.message
        )
    })
}

/// Whether this node's kernel is as planned.
pub(super) fn kernel(facts: &Facts<'_>, explanation: &Explanation) -> String {
    match explanation.differences.as_slice() {
        [] => format!(
            "The kernel of {}, this node, holds what is planned for it ({}).",
            facts.here(),
            explanation.datapath
        ),
        [first, others @ ..] => {
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(" {} more below.", count(others.len(), "difference"))
            };
            format!(
                "{} {}: {}.{others}",
                capitalized(&first.object),
                first.problem,
                first.remedy
            )
        }
    }
}
