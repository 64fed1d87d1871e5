//! What a Service asks of address management: its annotations in order of precedence, canonical.

use std::net::IpAddr;

use super::reason::{Reason, shortened};
use crate::model::service::Service;

/// `edgelb.io/ips` first, then what other implementations call it (contract, "Service annotations").
const ADDRESS_ANNOTATIONS: [&str; 6] = [
    "edgelb.io/ips",
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
    "kube-vip.io/loadbalancerIPs",
    "lbipam.cilium.io/ips",
    "io.cilium/lb-ipam-ips",
];

/// More would not fit into a condition's message; nobody needs more.
const MOST_ADDRESSES: usize = 8;

const POOL_ANNOTATIONS: [&str; 3] = [
    "edgelb.io/pool",
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
];

/// The name that stands for `spec.loadBalancerIP` in reasons.
const SPEC_FIELD: &str = "spec.loadBalancerIP";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// These addresses and no others, at most eight; empty: any.
    pub addresses: Vec<IpAddr>,
    /// From this pool and no other.
    pub pool: Option<String>,
    /// What was understood but did not count.
    pub notes: Vec<Reason>,
}

/// Reads the request of a Service. Text that is no address refuses the whole request, because to
/// give another address than the one asked for would be worse than none.
pub fn request(service: &Service) -> Result<Request, Reason> {
    let annotation = |name: &&'static str| {
        service
            .annotations
            .get(*name)
            .map(|text| (*name, text.as_str()))
    };
    let mut ways = ADDRESS_ANNOTATIONS
        .iter()
        .filter_map(annotation)
        .chain(
            service
                .load_balancer_ip
                .as_deref()
                .map(|text| (SPEC_FIELD, text)),
        )
        .filter(|(_, text)| !text.trim().is_empty());
    let mut request = Request::default();
    if let Some((used, text)) = ways.next() {
        request.addresses = parse(text)?;
        for (ignored, other) in ways {
            if parse(other).as_ref() != Ok(&request.addresses) {
                request.notes.push(Reason::RequestsDisagree {
                    used: used.to_owned(),
                    ignored: ignored.to_owned(),
                });
            }
        }
    }
    request.pool = POOL_ANNOTATIONS
        .iter()
        .filter_map(annotation)
        .map(|(_, text)| text.trim().to_owned())
        .find(|text| !text.is_empty());
    Ok(request)
}

fn parse(text: &str) -> Result<Vec<IpAddr>, Reason> {
    let mut addresses = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let address: IpAddr = part.parse().map_err(|_| Reason::RequestMalformed {
            text: shortened(part),
        })?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        if addresses.len() > MOST_ADDRESSES {
            return Err(Reason::RequestTooLong {
                most: MOST_ADDRESSES,
            });
        }
    }
    Ok(addresses)
}
