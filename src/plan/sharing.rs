//! Whether two Services may hold one address: `MetalLB`'s rules, so that a cluster can move without
//! edits, with sharing across namespaces left to the pool. Looks at two Services and nothing else.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::config::Config;
use crate::model::service::{Service, ServiceKey, ServiceType, TrafficPolicy};

/// `edgelb.io/sharing-key` first, then what other implementations call it.
const SHARING_ANNOTATIONS: [&str; 4] = [
    "edgelb.io/sharing-key",
    "metallb.io/allow-shared-ip",
    "metallb.universe.tf/allow-shared-ip",
    "lbipam.cilium.io/sharing-key",
];

/// The rule that keeps two Services from holding one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharingRule {
    /// Both carry the same sharing key.
    Key,
    /// Both are of one namespace, unless the pool has `share_across_namespaces`.
    Namespace,
    /// No port of one, with its protocol, is a port of the other: TCP and UDP on one port may be.
    Ports,
    /// Both have the Cluster policy, or both have the Local one and the same selector.
    Policy,
}

impl fmt::Display for SharingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "both must have the same sharing key",
            Self::Namespace => {
                "both must be of one namespace, or the pool must have share_across_namespaces"
            }
            Self::Ports => "no two of their ports may have the same protocol and number",
            Self::Policy => {
                "the externalTrafficPolicy of both must be Cluster, or Local with the same selector"
            }
        })
    }
}

/// The sharing key of a Service that could hold an address; empty text is none.
pub fn sharing_key(service: &Service) -> Option<&str> {
    if service.kind != ServiceType::LoadBalancer {
        return None;
    }
    SHARING_ANNOTATIONS
        .iter()
        .filter_map(|name| service.annotations.get(*name))
        .map(|text| text.trim())
        .find(|text| !text.is_empty())
}

/// The first rule that keeps these two Services from both holding `address`, or `None` where they
/// may. The answer is the same the other way round.
pub fn refusal(
    config: &Config,
    address: IpAddr,
    one: &Service,
    other: &Service,
) -> Option<SharingRule> {
    let key = sharing_key(one);
    if key.is_none() || key != sharing_key(other) {
        return Some(SharingRule::Key);
    }
    // Those that hold an address whose pool is gone keep it, and nobody new can get it.
    let pool = config.pools.iter().find(|pool| pool.contains(address));
    if one.key.namespace != other.key.namespace
        && pool.is_some_and(|pool| !pool.share_across_namespaces)
    {
        return Some(SharingRule::Namespace);
    }
    let meets = one.ports.iter().any(|port| {
        other
            .ports
            .iter()
            .any(|theirs| (theirs.protocol, theirs.port) == (port.protocol, port.port))
    });
    if meets {
        return Some(SharingRule::Ports);
    }
    (backends(one) != backends(other)).then_some(SharingRule::Policy)
}

/// Why `service` may not hold an address that `holder` holds, told to its owner by this rule.
pub(super) fn told(
    address: IpAddr,
    service: &Service,
    holder: &ServiceKey,
    rule: SharingRule,
) -> Reason {
    let holder = holder.clone();
    if sharing_key(service).is_some() {
        Reason::SharingRefused {
            address,
            holder,
            rule,
        }
    } else {
        Reason::RequestTaken { address, holder }
    }
}

/// What a Local policy ties to the nodes of its endpoints; a Cluster policy ties nothing.
fn backends(service: &Service) -> Option<&str> {
    match service.external_traffic_policy {
        TrafficPolicy::Local => Some(&service.selector),
        TrafficPolicy::Cluster => None,
    }
}
