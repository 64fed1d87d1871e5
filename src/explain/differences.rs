//! Where this node's kernel is not as planned, and what makes it right.

use std::net::{IpAddr, SocketAddr};

use super::Facts;
use super::report::DifferenceDetails;
use super::words::duration;
use crate::model::observation::{Difference, Observation, Path};

/// Everything that was found.
pub fn all(facts: &Facts<'_>, observation: &Observation) -> Vec<DifferenceDetails> {
    let of_frontends = observation.frontends.values();
    let of_frontends = of_frontends.flat_map(|frontend| &frontend.differences);
    let found = observation.differences.iter().chain(of_frontends);
    let mut all: Vec<DifferenceDetails> = Vec::new();
    for difference in found {
        let told = details(facts, difference);
        if !all.contains(&told) {
            all.push(told);
        }
    }
    all
}

fn details(facts: &Facts<'_>, difference: &Difference) -> DifferenceDetails {
    let mut failures = facts.failures.iter();
    let failed = failures.find(|failure| failure.concerns(address_in(&difference.object)));
    let remedy = if difference.foreign {
        "edgelb leaves it alone: it is for you to decide".to_owned()
    } else if let Some(failure) = failed {
        format!(
            "edgelb tries to repair it and cannot: {}: {}",
            failure.object, failure.message
        )
    } else {
        let resync = duration(facts.config.proxy.resync_interval);
        format!(
            "the next resync repairs it, within {resync}; if it comes back, somebody else keeps changing it: edgelb doctor looks for who"
        )
    };
    DifferenceDetails {
        object: difference.object.clone(),
        problem: difference.problem.clone(),
        remedy,
    }
}

/// The address that an object of the kernel is named by: the first in its words.
fn address_in(object: &str) -> Option<IpAddr> {
    object.split_whitespace().find_map(|word| {
        let address = word.parse::<IpAddr>().ok();
        address.or_else(|| word.parse::<SocketAddr>().ok().map(|at| at.ip()))
    })
}

/// Why this node cannot send to an endpoint, where that was found.
pub fn unreachable(observation: &Observation, endpoint: IpAddr) -> Option<String> {
    match observation.paths.get(&endpoint) {
        Some(Path::NoRoute) => Some("this node has no route to it".to_owned()),
        Some(Path::Interface { .. }) | None => None,
    }
}
