//! What goes wrong with a write: refusals, connections that end before or after the server applied
//! it, answers that never come, and clients that die in the middle of what they do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::target::Target;

/// What the next request of a verb on a resource meets instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteFault {
    /// This status, with `Retry-After` in seconds; not applied.
    Status(u16, Option<u64>),
    /// The connection is closed, and nothing was applied.
    ClosedBefore,
    /// The connection is closed, and it was applied: the client cannot know.
    ClosedAfter,
    /// No answer comes.
    Unanswered { applied: bool },
    /// Applied, and answered, this much later.
    Delayed(Duration),
}

/// The faults that are still to come, by verb and resource.
#[derive(Debug, Default)]
pub struct WriteFaults {
    coming: BTreeMap<(String, String), VecDeque<WriteFault>>,
    /// Objects whose every write meets this, by namespace and name.
    always: BTreeMap<String, WriteFault>,
}

impl WriteFaults {
    /// Adds one to the queue of a verb (`get`, `create`, `update`, `patch`) and a resource as rules
    /// name it (`leases`, `configmaps`, `services/status`, `events`).
    pub fn add(&mut self, verb: &str, resource: &str, fault: WriteFault) {
        let key = (verb.to_owned(), resource.to_owned());
        self.coming.entry(key).or_default().push_back(fault);
    }

    /// Every write to an object meets this, until it is taken away.
    pub fn always(&mut self, object: &str, fault: Option<WriteFault>) {
        match fault {
            Some(fault) => self.always.insert(object.to_owned(), fault),
            None => self.always.remove(object),
        };
    }

    pub fn next(&mut self, target: &Target) -> Option<WriteFault> {
        let always = self.always.get(&target.key());
        if let Some(always) = always.filter(|_| target.is_write()) {
            return Some(*always);
        }
        let key = (target.verb.clone(), target.rule_resource());
        self.coming.get_mut(&key)?.pop_front()
    }

    /// Every fault was met.
    pub fn are_over(&self) -> bool {
        self.coming.values().all(VecDeque::is_empty)
    }
}

/// When a client is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    BeforeItIsApplied,
    AfterItWasApplied,
}

/// A client that dies with one of its writes.
#[derive(Debug, Clone)]
struct Cut {
    /// Only writes to these count; empty: all.
    resources: BTreeSet<String>,
    /// How many of them are left, with the last.
    left: usize,
    moment: Moment,
}

/// Which clients die, and which are dead.
#[derive(Debug, Default)]
pub struct Cuts {
    coming: BTreeMap<String, Cut>,
    dead: BTreeSet<String>,
}

impl Cuts {
    /// Cuts a client off for good with its `nth` write from now on, counted from 1, of those to
    /// these resources (`configmaps`, `services/status`; none named: all).
    pub fn cut_at(&mut self, token: &str, resources: &[&str], nth: usize, moment: Moment) {
        assert!(nth > 0, "counted from 1");
        let cut = Cut {
            resources: resources.iter().map(|it| (*it).to_owned()).collect(),
            left: nth,
            moment,
        };
        self.coming.insert(token.to_owned(), cut);
    }

    /// Cuts a client off now.
    pub fn cut_off(&mut self, token: &str) {
        self.dead.insert(token.to_owned());
    }

    pub fn is_cut_off(&self, token: &str) -> bool {
        self.dead.contains(token)
    }

    /// A client whose network is back: it may ask again, and no longer dies.
    pub fn revive(&mut self, token: &str) {
        self.dead.remove(token);
        self.coming.remove(token);
    }

    /// A request comes; it may be the last.
    pub fn meet(&mut self, token: &str, target: &Target) -> Option<Moment> {
        let cut = self.coming.get_mut(token)?;
        let resource = target.rule_resource();
        if !target.is_write() || !(cut.resources.is_empty() || cut.resources.contains(&resource)) {
            return None;
        }
        cut.left -= 1;
        if cut.left > 0 {
            return None;
        }
        let moment = cut.moment;
        self.coming.remove(token);
        self.dead.insert(token.to_owned());
        Some(moment)
    }
}
