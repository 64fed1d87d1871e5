//! The fence as the owner task sees it: what this node owns may be spoken for, as long as the task says
//! so. Whatever fails here is told once, tried again, and stops nothing: strict ARP stands behind it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use imbl::OrdSet;

use crate::apply::fence::{Fence, FenceError, FenceSupport, Fenced, Renewal};
use crate::model::host::Host;

/// How long after a failure the fence is looked at again.
const REPAIR_AGAIN: Duration = Duration::from_secs(1);

/// Holds the fence.
#[derive(Debug)]
pub struct Guard {
    fence: Fence,
    /// When it is to be looked at: somebody may have changed it, or it could not be put in force.
    repair: Option<Instant>,
    /// What was logged of what does not work now.
    problem: Option<String>,
}

impl Guard {
    /// Nothing is held back by this run before the first call.
    pub fn new(fence: Fence) -> Self {
        if fence.support() != FenceSupport::Active {
            tracing::warn!(
                "the kernel cannot hold back what this node must not announce, strict ARP alone does"
            );
        }
        Self {
            fence,
            repair: None,
            problem: None,
        }
    }

    /// Lets these VIPs be spoken for and holds back the others that may be announced on these interfaces.
    pub fn allow(
        &mut self,
        interfaces: &BTreeMap<u32, String>,
        vips: &OrdSet<IpAddr>,
        owned: &OrdSet<IpAddr>,
        host: &Host,
    ) {
        let fenced = Fenced::new(interfaces.clone(), vips, owned.clone(), host);
        let result = self.fence.set(&fenced);
        self.note(result.map(|()| Renewal::NotNeeded));
    }

    /// Renews the permission for as long as a lease lasts. Only who is sure of what it owns may call it.
    pub fn renew(&mut self) {
        let result = self.fence.renew();
        self.note(result);
    }

    /// Somebody may have changed the tables.
    pub fn distrust(&mut self) {
        self.repair = Some(Instant::now());
    }

    /// Compares the tables with what they should be, where there is a reason to.
    pub fn repair(&mut self) {
        if self.repair.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.repair = None;
        let result = self.fence.repair().map(|repaired| {
            if repaired {
                tracing::info!("the fence was not as it should be, it is repaired");
            }
            Renewal::NotNeeded
        });
        if result.is_ok() {
            self.problem = None;
        }
        self.note(result);
    }

    fn note(&mut self, result: Result<Renewal, FenceError>) {
        match result {
            Ok(Renewal::Passed) => self.repair = Some(Instant::now()),
            Ok(Renewal::Taken | Renewal::NotNeeded) => {}
            Err(error) => {
                // Looking costs a whole listing: not at every turn.
                self.repair.get_or_insert(Instant::now() + REPAIR_AGAIN);
                let problem = format!("{:#}", anyhow::Error::from(error));
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(error = problem, "the fence is not as it should be");
                    self.problem = Some(problem);
                }
            }
        }
    }
}
