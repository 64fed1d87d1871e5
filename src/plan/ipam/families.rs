//! Which address families a Service wants, and in which order: `ipFamilies`, else its `ClusterIP`s,
//! bounded by `ipFamilyPolicy`.

use std::net::IpAddr;

use crate::model::family::Family;
use crate::model::pool::Pool;
use crate::model::service::{FamilyPolicy, Service};
use crate::plan::request::request;

/// The families that a Service wants, in its order of preference. A single one that nobody named is
/// the one that it holds.
pub(super) fn wanted(service: &Service, held: &[IpAddr], pools: &[&Pool]) -> Vec<Family> {
    let mut families = service.families.clone();
    if families.is_empty() {
        for address in &service.cluster_ips {
            if !families.contains(&Family::of(*address)) {
                families.push(Family::of(*address));
            }
        }
    }
    if families.is_empty() {
        let ipv4 = pools.iter().any(|pool| {
            pool.ranges
                .iter()
                .any(|range| Family::of(range.first()) == Family::V4)
        });
        families.push(if ipv4 || pools.is_empty() {
            Family::V4
        } else {
            Family::V6
        });
    }
    let both = match service.family_policy {
        // What the API server filled in is all that the cluster can serve.
        Some(FamilyPolicy::PreferDualStack) => service.families.is_empty(),
        Some(FamilyPolicy::RequireDualStack) => true,
        Some(FamilyPolicy::SingleStack) => {
            if let Some(held) = held.first().filter(|_| service.families.is_empty()) {
                families = vec![Family::of(*held)];
            }
            families.truncate(1);
            false
        }
        None => false,
    };
    if both {
        let other = Family::BOTH
            .into_iter()
            .find(|family| !families.contains(family));
        families.extend(other);
    }
    families
}

/// Of these addresses, those for which the Service has a use: one that names no families has for
/// any, and so has one that asks for the address.
pub(super) fn useful(service: &Service, addresses: &[IpAddr]) -> Vec<IpAddr> {
    let asked = request(service).unwrap_or_default().addresses;
    let single = service.family_policy == Some(FamilyPolicy::SingleStack);
    let named: Vec<Family> = match service.families.first() {
        Some(first) if single => vec![*first],
        None if single => addresses
            .first()
            .map(|first| Family::of(*first))
            .into_iter()
            .collect(),
        Some(_) if service.family_policy != Some(FamilyPolicy::RequireDualStack) => {
            service.families.clone()
        }
        _ => Family::BOTH.to_vec(),
    };
    addresses
        .iter()
        .copied()
        .filter(|address| named.contains(&Family::of(*address)) || asked.contains(address))
        .collect()
}
