//! The fence as the owner task sees it, and with it what is passed on: what this node owns may be spoken for, as long as the task says
//! so. Edits are ordered from the thread of the fence, and the lease is renewed here, by a frame that
//! waits for nobody. Whatever fails is told once, tried again, and stops nothing: strict ARP stands
//! behind it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use imbl::OrdSet;
use tokio::sync::watch;

use super::counters::GuardCounters;
use super::fencing::{Order, Progress, carry_out, describe};
use crate::apply::fence::{Fence, FenceSupport, Fenced, Lease, Renewal};
use crate::apply::handover::{HandedOver, Handover};
use crate::model::host::Host;
use crate::tasks::on_thread;

/// How long an edit may take before this node is one that takes nothing more.
const SLOW: Duration = Duration::from_secs(1);
/// How long after a failed renewal the fence is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Holds the fence.
#[derive(Debug)]
pub struct Guard {
    support: FenceSupport,
    lease: Lease,
    orders: watch::Sender<Order>,
    progress: watch::Receiver<Progress>,
    /// Since when an order is not carried out.
    ordered: Option<Instant>,
    /// Until when no look is ordered because one was.
    looked: Option<Instant>,
    /// What was logged of why renewals do not work now.
    problem: Option<String>,
    counters: GuardCounters,
}

impl Guard {
    /// Starts the thread of the fence; what is given back ends with it, after the guard. Before the first
    /// call of [`Guard::allow`] all is as an earlier run left it.
    pub fn start(
        mut fence: Fence,
        handover: Handover,
        counters: GuardCounters,
    ) -> anyhow::Result<(
        Self,
        impl Future<Output = anyhow::Result<()>> + Send + 'static,
    )> {
        let support = fence.support();
        if support != FenceSupport::Active {
            tracing::warn!(
                "the kernel cannot hold back what this node must not announce, strict ARP alone does"
            );
        }
        let lease = fence.lease();
        let (orders, ordered) = watch::channel(Order::default());
        let inherited = fence.inherited().unwrap_or_else(|error| {
            // What there is will be compared at the first order.
            let error = describe(error);
            tracing::debug!(error, "what an earlier run was let speak for is not known");
            OrdSet::new()
        });
        let (done, progress) = watch::channel(Progress {
            owned: inherited,
            ..Progress::default()
        });
        let counted = counters.clone();
        let ended = on_thread("fence", move || async move {
            carry_out(fence, handover, ordered, done, counted).await;
            Ok(())
        })
        .context("cannot start a thread")?;
        let guard = Self {
            support,
            lease,
            orders,
            progress,
            ordered: None,
            looked: None,
            problem: None,
            counters,
        };
        Ok((guard, ended))
    }

    /// Whether the kernel silences this node when its lease is over.
    pub fn silences(&self) -> bool {
        self.support == FenceSupport::Active
    }

    /// Orders that these VIPs be spoken for and the others that may be announced on these interfaces be
    /// held back, and before that, that packets be passed on so.
    pub fn allow(
        &mut self,
        interfaces: &BTreeMap<u32, String>,
        vips: &OrdSet<IpAddr>,
        owned: &OrdSet<IpAddr>,
        host: &Host,
        handed: Option<Arc<HandedOver>>,
    ) {
        let fenced = Fenced::new(interfaces.clone(), vips, owned.clone(), host);
        let changed = self.orders.send_if_modified(|order| {
            let same_ways = match (&order.handed, &handed) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (_, now) => now.is_none(),
            };
            let other = order.fenced.as_ref() != Some(&fenced) || !same_ways;
            if other {
                order.number += 1;
                order.fenced = Some(fenced);
                order.handed = handed.or(order.handed.take());
            }
            other
        });
        if changed {
            self.ordered.get_or_insert(Instant::now());
        }
    }

    /// What of this may be spoken for now: the rest waits for the kernel.
    pub fn allowed(&self, owned: &OrdSet<IpAddr>) -> OrdSet<IpAddr> {
        let progress = self.progress.borrow();
        if progress.owned.ptr_eq(owned) {
            return owned.clone();
        }
        let allowed = |vip: &&IpAddr| progress.owned.contains(*vip);
        owned.iter().filter(allowed).copied().collect()
    }

    /// Whether an order waits for so long that this node should not take VIPs.
    pub fn is_slow(&self) -> bool {
        self.ordered.is_some_and(|since| since.elapsed() > SLOW)
    }

    /// When [`Guard::is_slow`] may become true.
    pub fn slow_at(&self) -> Option<Instant> {
        let at = self.ordered.map(|since| since + SLOW);
        at.filter(|at| *at > Instant::now())
    }

    /// Waits until more orders are carried out, or tables were made anew, which have no lease; for ever where the thread ended, of which the daemon
    /// hears otherwise.
    pub async fn changed(&mut self) {
        if self.progress.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let progress = self.progress.borrow_and_update();
        if progress.number == self.orders.borrow().number {
            self.ordered = None;
        } else if self.ordered.is_some() {
            // It goes on: what was ordered last waits from now on.
            self.ordered = Some(Instant::now());
        }
    }

    /// Renews the permission for as long as a lease lasts. Only who is sure of what it owns may call it.
    pub fn renew(&mut self) {
        let problem = match self.lease.renew() {
            Ok(Renewal::Taken | Renewal::NotNeeded) => None,
            Ok(Renewal::Passed) => {
                // Before the first order there need not be any table.
                if self.progress.borrow().number > 0 {
                    self.look();
                }
                None
            }
            Err(error) => {
                self.counters.renewal_failed();
                self.look();
                Some(describe(error))
            }
        };
        if let Some(error) = (problem.as_ref()).filter(|_| problem != self.problem) {
            tracing::warn!(error, "the lease of the fence is not renewed");
        }
        self.problem = problem;
    }

    /// Somebody may have changed the tables.
    pub fn distrust(&mut self) {
        self.orders.send_modify(|order| order.looks += 1);
    }

    /// Looking costs a whole listing: not at every turn.
    fn look(&mut self) {
        let now = Instant::now();
        if self.looked.is_none_or(|until| until <= now) {
            self.looked = Some(now + LOOK_AGAIN);
            self.distrust();
        }
    }
}
