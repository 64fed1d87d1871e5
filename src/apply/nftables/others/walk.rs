//! Goes with a packet through the chains of others on a hook, and tells which of them take it away: surely,
//! or perhaps where a rule asks something that is not known. Pure.

use std::collections::BTreeSet;

use super::evaluate::{Holds, Outcome, evaluate};
use super::packet::Packet;
use super::rule::{Translation, Verdict};
use super::sets::Sets;
use super::{Base, ChainName, Hook, Others};

/// The kernel allows no more (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;
/// Rules asked for one packet; beyond that nothing is said.
const MOST_RULES: usize = 20_000;

/// What takes a packet away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// The chain on the hook.
    pub base: ChainName,
    pub priority: i32,
    pub by: By,
    /// Whether it is sure; else a rule before it may let the packet through, or it asks for something that
    /// is not known.
    pub sure: bool,
    pub how: How,
}

/// What becomes of a packet instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    Dropped,
    /// It is kept from connection tracking.
    Untracked,
    /// Its connection goes to somebody else.
    Redirected,
    /// Its connection seems to come from this node.
    Masqueraded,
}

/// Whose doing it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// The policy of the chain.
    Policy,
    /// A rule that asks nothing about the destination: what no rule before it lets through.
    Rest,
    /// A rule that asks for the destination, by its chain and handle, or one that leads to such.
    Rule(ChainName, u64),
}

/// Where a packet is.
#[derive(Debug, Clone)]
pub struct Passage<'p> {
    pub hook: Hook,
    /// Only chains with a priority above this one, and below that one.
    pub above: i32,
    pub below: i32,
    pub packet: &'p Packet,
}

/// How a chain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// The packet goes on behind it.
    On,
    Accepted,
    Taken,
}

struct Walk<'w> {
    others: &'w Others,
    packet: &'w Packet,
    base: &'w Base,
    /// A rule may have let it through.
    let_through: bool,
    rules: usize,
    found: BTreeSet<Taken>,
}

impl Others {
    /// Who takes a packet away there.
    pub fn taken(&self, passage: &Passage<'_>) -> BTreeSet<Taken> {
        let mut found = BTreeSet::new();
        let family = passage.packet.family;
        for base in &self.bases {
            let asked = base.hook == passage.hook
                && base.name.sees(family, passage.packet.arp.is_some())
                && (passage.above + 1..passage.below).contains(&base.priority)
                && base.is_on(passage.packet);
            if !asked {
                continue;
            }
            let mut walk = Walk {
                others: self,
                packet: passage.packet,
                base,
                let_through: false,
                rules: 0,
                found: BTreeSet::new(),
            };
            let flow = walk.chain(&base.name, true, None, 0);
            if walk.rules >= MOST_RULES {
                continue;
            }
            if flow == Flow::On && base.drops {
                walk.take(By::Policy, !walk.let_through, How::Dropped);
            }
            let ends = walk
                .found
                .iter()
                .any(|it| it.sure && it.how == How::Dropped);
            found.extend(walk.found);
            if ends {
                break;
            }
        }
        found
    }
}

impl Walk<'_> {
    fn take(&mut self, by: By, sure: bool, how: How) {
        self.found.insert(Taken {
            base: self.base.name.clone(),
            priority: self.base.priority,
            by,
            sure,
            how,
        });
    }

    /// `sure`: the packet comes here for certain; `named`: by a rule that asks for the destination.
    fn chain(
        &mut self,
        name: &ChainName,
        mut sure: bool,
        named: Option<&(ChainName, u64)>,
        depth: usize,
    ) -> Flow {
        let rules = self.others.rules.get(name);
        let sets = Sets {
            all: &self.others.sets,
            family: name.number(),
            table: &name.table,
        };
        for rule in rules.into_iter().flatten() {
            self.rules += 1;
            if self.rules >= MOST_RULES || depth > DEEPEST {
                return Flow::On;
            }
            let outcome = evaluate(rule, self.packet, &sets);
            if outcome.holds == Holds::No {
                continue;
            }
            let own = (name.clone(), rule.handle);
            let named = named.or(outcome.named.then_some(&own));
            let certain = sure && outcome.holds == Holds::Yes;
            if outcome.untracks && (certain || named.is_some()) {
                let by = by(named);
                self.take(by, certain && !self.let_through, How::Untracked);
            }
            if let Some(how) = outcome.translates.and_then(|it| self.translated(it)) {
                if certain || named.is_some() {
                    let by = By::Rule(name.clone(), rule.handle);
                    self.take(by, certain && !self.let_through, how);
                }
                // What is translated is asked no more in this chain.
                if certain {
                    return Flow::Accepted;
                }
                self.let_through = true;
            }
            if outcome.limits && sure && named.is_none() {
                let drops = |(verdict, _): &(Verdict, Holds)| *verdict == Verdict::Drop;
                if outcome.verdicts.iter().any(drops) {
                    self.take(By::Rule(name.clone(), rule.handle), false, How::Dropped);
                }
            }
            match self.verdicts(name, &outcome, certain, named, depth) {
                Step::Next => {}
                Step::Unsure => sure = false,
                Step::Return => return Flow::On,
                Step::End(flow) => return flow,
            }
        }
        Flow::On
    }

    /// What a translation does to the packet; only the first one of a connection is asked for it.
    fn translated(&self, translation: Translation) -> Option<How> {
        let first = self.packet.tracked && !self.packet.answer;
        match translation {
            Translation::Destination => {
                (first && !self.packet.translated).then_some(How::Redirected)
            }
            Translation::Source => first.then_some(How::Masqueraded),
        }
    }

    fn verdicts(
        &mut self,
        name: &ChainName,
        outcome: &Outcome,
        certain: bool,
        named: Option<&(ChainName, u64)>,
        depth: usize,
    ) -> Step {
        let mut next = Step::Next;
        for (verdict, holds) in &outcome.verdicts {
            let certain = certain && *holds == Holds::Yes;
            match verdict {
                Verdict::Accept if certain => return Step::End(Flow::Accepted),
                Verdict::Accept => self.let_through = true,
                Verdict::Drop if certain => {
                    self.take(by(named), !self.let_through, How::Dropped);
                    return Step::End(Flow::Taken);
                }
                // What asks nothing of the destination may be meant for others altogether.
                Verdict::Drop if named.is_some() => self.take(by(named), false, How::Dropped),
                Verdict::Drop => {}
                Verdict::Return if certain => return Step::Return,
                Verdict::Return => next = Step::Unsure,
                Verdict::Jump(to) | Verdict::Goto(to) => {
                    let to = ChainName {
                        chain: to.clone(),
                        ..name.clone()
                    };
                    let flow = self.chain(&to, certain, named, depth + 1);
                    let goes = matches!(verdict, Verdict::Goto(_));
                    match (flow, certain) {
                        (Flow::On, true) if goes => return Step::Return,
                        (Flow::On, false) if goes => next = Step::Unsure,
                        (Flow::On, _) | (_, false) => {}
                        (flow, true) => return Step::End(flow),
                    }
                }
            }
        }
        next
    }
}

/// What comes after a rule.
enum Step {
    Next,
    /// The next rule, perhaps.
    Unsure,
    Return,
    End(Flow),
}

fn by(named: Option<&(ChainName, u64)>) -> By {
    match named {
        Some((chain, handle)) => By::Rule(chain.clone(), *handle),
        None => By::Rest,
    }
}
