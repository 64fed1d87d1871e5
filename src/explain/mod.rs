//! Explains what happens to a packet, and why: from the plan with what it was made from, and from what
//! the kernel was found to hold. Pure: decides nothing, reads nothing, and asks the planner's own
//! functions wherever a rule is to be told.
//!
//! ```text
//! Question ─► locate ─► what is to be read ─► (apply::inspect) ─► Observation
//!                └────────────── explain ◄───────────────────────────┘ ─► Explanation
//! ```

mod differences;
mod endpoints;
mod frontends;
mod health_check;
mod locate;
mod located;
mod nearest;
mod owner;
mod passage;
pub mod question;
pub mod report;
#[cfg(test)]
mod tests;
mod words;

pub use locate::locate;
pub use located::Located;

use std::net::IpAddr;
use std::time::Duration;

use crate::config::Config;
use crate::model::observation::Observation;
use crate::model::service::{Service, ServiceKey};
use crate::plan::{Inputs, Plan};
use question::Question;
use report::{Cause, Explanation, ServiceDetails};

/// All that is known without the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub config: &'a Config,
    pub inputs: &'a Inputs,
    pub plan: &'a Plan,
    /// `ipvs` or `nftables`
    pub datapath: &'a str,
    /// Whether the kernel forwards by the plan, but for what `failures` name.
    pub ready: bool,
    /// What the last pass could not apply.
    pub failures: &'a [Unapplied],
    pub source: Source<'a>,
}

/// What could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapplied {
    /// In the words of `nft`, `ip` or `ipvsadm`.
    pub object: String,
    pub message: String,
    /// Whether it keeps more than single items from being as planned.
    pub whole: bool,
}

impl Unapplied {
    /// Whether it is about this address, or about more than single items.
    fn concerns(&self, address: Option<IpAddr>) -> bool {
        self.whole || address.is_some_and(|address| self.names(&address.to_string()))
    }

    /// Whether the object is named with this address or number in it, alone or with a port or prefix.
    fn names(&self, wanted: &str) -> bool {
        let of_address =
            |character: char| character.is_ascii_hexdigit() || character == '.' || character == ':';
        let mut words = self.object.split(|character| !of_address(character));
        words.any(|word| {
            // An IPv4 address with its port is one word.
            word == wanted
                || word
                    .rsplit_once(':')
                    .is_some_and(|(at, port)| at == wanted || (!at.contains(':') && port == wanted))
        })
    }
}

/// What the source of Services tells of itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// Whether changes are heard at once.
    pub connected: bool,
    /// For how long they are not.
    pub blind: Option<Duration>,
    /// Objects that are not read, each with where it is and why.
    pub ignored: &'a [String],
    /// What is wrong with others, each with where it is.
    pub problems: &'a [String],
}

impl Facts<'_> {
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.inputs.cluster.services.get(key).map(AsRef::as_ref)
    }

    /// The name of this node.
    fn here(&self) -> &str {
        &self.inputs.node
    }

    /// The pool that holds an address.
    fn pool_of(&self, address: IpAddr) -> Option<&str> {
        let mut pools = self.config.pools.iter();
        pools
            .find(|pool| pool.contains(address))
            .map(|pool| pool.name.as_str())
    }

    /// The node that has this address of its own, as far as this one knows.
    fn node_with(&self, address: IpAddr) -> Option<&str> {
        if self.inputs.host.addresses().any(|own| own == address) {
            return Some(self.here());
        }
        let mut nodes = self.inputs.cluster.nodes.values();
        nodes
            .find(|node| node.addresses.contains(&address))
            .map(|node| node.name.as_str())
    }
}

/// The answer. `located` is from the same facts, and `observation` is of what it wants to be read.
pub fn explain(
    question: &Question,
    facts: &Facts<'_>,
    located: &Located,
    observation: &Observation,
) -> Explanation {
    let mut explanation = Explanation {
        target: question.target.to_string(),
        from: question.from,
        node: facts.here().to_owned(),
        datapath: facts.datapath.to_owned(),
        found: true,
        works: true,
        answer: Vec::new(),
        notes: Vec::new(),
        service: None,
        addresses: Vec::new(),
        frontends: Vec::new(),
        health_check: None,
        differences: Vec::new(),
        more_frontends: 0,
        more_differences: 0,
    };
    match located {
        Located::Nothing(lines) => {
            explanation.found = false;
            explanation.works = false;
            explanation.answer.clone_from(lines);
        }
        Located::HealthCheck { service, address } => {
            health_check::explain(facts, service, *address, &mut explanation);
        }
        Located::Frontends { service, at } => {
            explanation.service = facts.service(service).map(|it| details(facts, it));
            for at in at {
                let details = frontends::details(facts, service, at, question.from, observation);
                explanation.frontends.extend(details);
            }
            explanation.addresses = frontends::addresses(facts, at);
            explanation.differences = differences::all(facts, observation);
            words::answer(question, facts, service, &mut explanation);
        }
    }
    notes(facts, located, observation, &mut explanation);
    explanation.cut();
    explanation
}

fn details(facts: &Facts<'_>, service: &Service) -> ServiceDetails {
    ServiceDetails {
        name: service.key.to_string(),
        kind: service.kind,
        external_traffic_policy: service.external_traffic_policy,
        internal_traffic_policy: service.internal_traffic_policy,
        session_affinity_seconds: service.session_affinity.map(|timeout| timeout.as_secs()),
        source_ranges: service.source_ranges.clone(),
        reasons: (facts.plan.reasons(&service.key).iter())
            .map(|reason| Cause {
                label: reason.label().to_owned(),
                text: reason.to_string(),
            })
            .collect(),
    }
}

fn notes(
    facts: &Facts<'_>,
    located: &Located,
    observation: &Observation,
    explanation: &mut Explanation,
) {
    let notes = &mut explanation.notes;
    if !facts.source.connected {
        let since = facts.source.blind.map_or_else(String::new, |blind| {
            format!(" for {}", words::duration(blind))
        });
        notes.push(format!(
            "the source of Services has not been heard{since}: endpoints may have changed (edgelb status)"
        ));
    }
    if !facts.ready {
        notes.push(
            "this node's kernel does not hold the whole plan yet: edgelb status tells why"
                .to_owned(),
        );
    }
    if let Located::Frontends { service, .. } = located {
        let name = service.to_string();
        let about = facts.source.problems.iter();
        notes.extend(about.filter(|problem| problem.contains(&name)).cloned());
    }
    notes.extend((observation.unread.iter()).map(|unread| format!("could not be read: {unread}")));
}
