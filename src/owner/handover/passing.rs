//! Holds the tables of the handover, on the thread that may wait for the kernel. Whatever fails here is told
//! once, tried again, and stops nothing: then a planned move breaks connections, as one that nobody
//! planned does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::COUNT_EVERY;
use crate::apply::handover::{HandedOver, Handover, HandoverError};

/// How long after a failure the tables are looked at again.
const REPAIR_AGAIN: Duration = Duration::from_secs(1);

/// The tables, and whether they are as they should be.
#[derive(Debug)]
pub(in crate::owner) struct Passing {
    tables: Handover,
    /// When they are to be looked at, because they could not be changed.
    again: Option<Instant>,
    /// What was logged of what does not work now.
    problem: Option<String>,
    /// When a packet was passed on last, by VIP.
    passed: Arc<BTreeMap<IpAddr, Instant>>,
    /// When that is looked at; never where nothing is to be passed on.
    count_at: Option<Instant>,
}

impl Passing {
    /// What an earlier run left stays so at first.
    pub(in crate::owner) fn new(tables: Handover) -> Self {
        Self {
            tables,
            again: None,
            problem: None,
            passed: Arc::default(),
            count_at: None,
        }
    }

    /// When [`Passing::pass`] is to be called without a new order.
    pub(in crate::owner) fn again(&self) -> Option<Instant> {
        [self.again, self.count_at].into_iter().flatten().min()
    }

    /// When a packet was passed on last, by VIP, as of the last minute.
    pub(in crate::owner) fn passed(&self) -> Arc<BTreeMap<IpAddr, Instant>> {
        Arc::clone(&self.passed)
    }

    /// Makes the tables say so; where somebody may have changed them, or they could not be changed,
    /// compares them with what there is.
    pub(in crate::owner) fn pass(&mut self, wanted: &Arc<HandedOver>, look: bool) {
        let due = self.again.is_some_and(|again| again <= Instant::now());
        let mut result = self.tables.set(wanted);
        if result.is_ok() && (look || due) {
            result = self.repair();
        }
        if result.is_ok() {
            result = self.count(wanted);
        }
        self.note(result);
    }

    fn count(&mut self, wanted: &HandedOver) -> Result<(), HandoverError> {
        let now = Instant::now();
        if wanted.to.is_empty() {
            self.count_at = None;
            return Ok(());
        }
        let at = *self.count_at.get_or_insert(now + COUNT_EVERY);
        if at > now {
            return Ok(());
        }
        self.count_at = Some(now + COUNT_EVERY);
        let lately = self.tables.passed()?;
        let mut passed = BTreeMap::clone(&self.passed);
        // What was counted before counts although somebody replaced the tables.
        passed.retain(|vip, _| wanted.to.keys().any(|arrival| arrival.vip == *vip));
        for (vip, ago) in lately {
            let at = now.checked_sub(ago).unwrap_or(now);
            let last = passed.entry(vip).or_insert(at);
            *last = at.max(*last);
        }
        self.passed = Arc::new(passed);
        Ok(())
    }

    fn repair(&mut self) -> Result<(), HandoverError> {
        if self.tables.repair()? {
            tracing::info!("the handover was not as it should be, it is repaired");
        }
        Ok(())
    }

    fn note(&mut self, result: Result<(), HandoverError>) {
        let Err(error) = result else {
            self.again = None;
            self.problem = None;
            return;
        };
        // Looking costs a whole listing: not at every turn.
        self.again = Some(Instant::now() + REPAIR_AGAIN);
        let problem = format!("{:#}", anyhow::Error::from(error));
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(error = problem, "the handover is not as it should be");
            self.problem = Some(problem);
        }
    }
}
