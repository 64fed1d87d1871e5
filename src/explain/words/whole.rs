//! The answer about a whole Service: what of it is served, and what is not.

use std::collections::BTreeMap;

use super::super::Facts;
use super::super::nearest::in_pool;
use super::super::report::{AddressKind, Explanation, Fate, FrontendDetails};
use super::{conflict, kernel, list, seen, unapplied, used, verdict, what};
use crate::model::family::Family;
use crate::model::service::{ServiceKey, ServiceType};
use crate::plan::pending::principal;
use crate::plan::reason::Reason;

/// The lines, and whether all of the Service works.
pub fn service(
    facts: &Facts<'_>,
    key: &ServiceKey,
    explanation: &Explanation,
) -> (Vec<String>, bool) {
    let frontends = &explanation.frontends;
    let mut troubles = pending(facts, key);
    let mut served: Vec<&FrontendDetails> = Vec::new();
    let mut closed: BTreeMap<String, Vec<&FrontendDetails>> = BTreeMap::new();
    let mut quiet: BTreeMap<String, Vec<&FrontendDetails>> = BTreeMap::new();
    for frontend in frontends {
        let (words, good) = verdict(frontend, explanation);
        // By its policy a node without an endpoint drops at its own addresses what others serve.
        let by_policy = frontend.fate == Fate::Dropped && frontend.kind != AddressKind::Vip;
        if frontend.fate == Fate::Served && (good || !explanation.differences.is_empty()) {
            served.push(frontend);
        } else if by_policy {
            quiet.entry(words).or_default().push(frontend);
        } else {
            closed.entry(words).or_default().push(frontend);
        }
    }
    for (words, frontends) in &closed {
        troubles.push(format!("a connection to {} {words}", places(frontends)));
    }
    if let Some(first) = explanation.differences.first() {
        troubles.push(format!(
            "in this node's kernel, {} {}",
            first.object, first.problem
        ));
    }
    let addresses = explanation.addresses.iter();
    troubles.extend(addresses.filter_map(|address| conflict(facts, Some(address.address))));
    let mut works = troubles.is_empty();

    let mut lines = Vec::new();
    let mut troubles = troubles.into_iter();
    let first = troubles
        .next()
        .map(|first| first.trim_end_matches('.').to_owned());
    lines.push(match (&first, served.is_empty()) {
        (None, false) => format!("{key} is served at {}.", places(&served)),
        (None, true) => {
            works = false;
            format!("{key} is not served on this node: {}.", nothing(facts, key))
        }
        (Some(first), false) => {
            format!("{key} is not served as it asks: {first}.")
        }
        (Some(first), true) => format!("{key} is not served: {first}."),
    });
    lines.extend(troubles.map(|trouble| super::sentence(trouble.trim_end_matches('.'))));
    if first.is_some() && !served.is_empty() && explanation.differences.is_empty() {
        lines.push(format!("What else it has is served: {}.", places(&served)));
    }
    for (words, frontends) in &quiet {
        lines.push(format!("A connection to {} {words}.", places(frontends)));
    }
    let mut unapplied_lines: Vec<String> = Vec::new();
    for address in explanation
        .addresses
        .iter()
        .map(|it| Some(it.address))
        .chain([None])
    {
        let told = unapplied(facts, address).filter(|it| !unapplied_lines.contains(it));
        let told: Vec<String> = told.collect();
        unapplied_lines.extend(told);
    }
    works &= unapplied_lines.is_empty();
    lines.append(&mut unapplied_lines);
    for address in explanation
        .addresses
        .iter()
        .filter(|it| it.kind == AddressKind::Vip)
    {
        let mut of_it = frontends.iter();
        let frontend = of_it.find(|frontend| frontend.address == Some(address.address));
        lines.extend(frontend.map(|frontend| what(address, frontend)));
    }
    // What clients use first says it for the others.
    if let Some(frontend) = frontends.first() {
        lines.extend(used(frontend));
    }
    if let Some(frontend) = served.first() {
        lines.push(seen(frontend));
    }
    if let Some(details) = &explanation.service {
        let told = lines.concat();
        let more = details.reasons.iter();
        let more = more.filter(|reason| !told.contains(&reason.text) && !repeats(&reason.label));
        lines.extend(more.map(|reason| super::sentence(&reason.text)));
    }
    lines.push(kernel(facts, explanation));
    (lines, works)
}

/// Whether the frontends say it already.
fn repeats(label: &str) -> bool {
    ["no_endpoints", "no_local_endpoints"].contains(&label)
}

/// Why it has no VIP, where it asks for one.
fn pending(facts: &Facts<'_>, key: &ServiceKey) -> Vec<String> {
    let wants = facts
        .service(key)
        .is_some_and(|service| service.kind == ServiceType::LoadBalancer);
    if !wants || !facts.plan.addresses.allocations.addresses(key).is_empty() {
        return Vec::new();
    }
    let reasons = facts.plan.reasons(key);
    let Some(reason) = principal(&reasons) else {
        return vec!["it has no VIP yet".to_owned()];
    };
    let mut words = format!("it has no VIP, because {reason}");
    if let Reason::PoolExhausted { pools } = reason {
        for pool in pools {
            for family in Family::BOTH {
                let full = in_pool(pool, family, facts);
                if !full.contains(" of 0 ") {
                    words.push_str(". ");
                    words.push_str(full.trim_end_matches('.'));
                }
            }
        }
    }
    vec![words]
}

/// Why it has no frontend at all.
fn nothing(facts: &Facts<'_>, key: &ServiceKey) -> String {
    let reasons = facts.plan.reasons(key);
    let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
    if reasons.is_empty() {
        "it has no address here".to_owned()
    } else {
        reasons.join("; ")
    }
}

/// Addresses with their ports, each address once.
fn places(frontends: &[&FrontendDetails]) -> String {
    let mut places: Vec<(String, Vec<String>)> = Vec::new();
    for frontend in frontends {
        let at = match frontend.address {
            Some(address) => address.to_string(),
            None => format!("node port ({})", family(frontend)),
        };
        let port = format!("{}/{}", frontend.port, frontend.protocol.lowercase());
        match places.iter_mut().find(|(known, _)| *known == at) {
            Some((_, ports)) => ports.push(port),
            None => places.push((at, vec![port])),
        }
    }
    let places: Vec<String> = places
        .into_iter()
        .map(|(at, ports)| match at.strip_prefix("node port") {
            Some(family) => format!("node port {}{family}", list(&ports)),
            None => format!("{at} port {}", list(&ports)),
        })
        .collect();
    list(&places)
}

fn family(frontend: &FrontendDetails) -> &'static str {
    if frontend.name.contains(Family::V6.as_str()) {
        Family::V6.as_str()
    } else {
        Family::V4.as_str()
    }
}
