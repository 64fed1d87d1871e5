//! The fence as the owner task sees it, and with it what is passed on: what this node owns may be spoken
//! for, as long as the task says so. Edits are ordered from the thread of the fence, and the lease is renewed here, by a frame that
//! waits for nobody. Whatever fails is told once, tried again, and stops nothing: strict ARP stands
//! behind it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use imbl::OrdSet;
use imbl::ordset::DiffItem;
use tokio::sync::watch;

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
    waiting: Waiting,
    /// Since when an order is not carried out.
    ordered: Option<Instant>,
    /// Until when no look is ordered because one was.
    looked: Option<Instant>,
    /// What was logged of why renewals do not work now.
    problem: Option<String>,
}

/// Which VIPs wait for an order: the kernel may carry out one in between that gives them up.
#[derive(Debug, Default)]
struct Waiting {
    /// What may be spoken for by the last order.
    ordered: OrdSet<IpAddr>,
    /// By VIP the order since which it may be, unless that is carried out.
    taken: BTreeMap<IpAddr, u64>,
}

impl Waiting {
    /// There is a new order.
    fn order(&mut self, number: u64, owned: &OrdSet<IpAddr>, carried_out: u64) {
        self.taken.retain(|_, taken| *taken > carried_out);
        for change in self.ordered.diff(owned) {
            match change {
                DiffItem::Add(vip) => {
                    self.taken.insert(*vip, number);
                }
                DiffItem::Remove(vip) => {
                    self.taken.remove(vip);
                }
            }
        }
        self.ordered = owned.clone();
    }

    /// What of this may be spoken for with what is carried out.
    fn allowed(&self, owned: &OrdSet<IpAddr>, progress: &Progress) -> OrdSet<IpAddr> {
        if self.taken.is_empty() && progress.owned.ptr_eq(owned) {
            return owned.clone();
        }
        let allowed = |vip: &&IpAddr| {
            let taken = self.taken.get(*vip);
            progress.owned.contains(*vip) && taken.is_none_or(|taken| *taken <= progress.number)
        };
        owned.iter().filter(allowed).copied().collect()
    }
}

impl Guard {
    /// Starts the thread of the fence; what is given back ends with it, after the guard. Before the first
    /// call of [`Guard::allow`] all is as an earlier run left it.
    pub fn start(
        mut fence: Fence,
        handover: Handover,
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
        let waiting = Waiting {
            ordered: inherited.clone(),
            ..Waiting::default()
        };
        let (done, progress) = watch::channel(Progress {
            owned: inherited,
            ..Progress::default()
        });
        let ended = on_thread("fence", move || async move {
            carry_out(fence, handover, ordered, done).await;
            Ok(())
        })
        .context("cannot start a thread")?;
        let guard = Self {
            support,
            lease,
            orders,
            progress,
            waiting,
            ordered: None,
            looked: None,
            problem: None,
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
            let carried_out = self.progress.borrow().number;
            let number = self.orders.borrow().number;
            self.waiting.order(number, owned, carried_out);
        }
    }

    /// When a packet was passed on to another node last, by VIP, as of the last minute.
    pub fn passed(&self) -> Arc<BTreeMap<IpAddr, Instant>> {
        Arc::clone(&self.progress.borrow().passed)
    }

    /// What of this may be spoken for now: the rest waits for the kernel.
    pub fn allowed(&self, owned: &OrdSet<IpAddr>) -> OrdSet<IpAddr> {
        self.waiting.allowed(owned, &self.progress.borrow())
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

    /// Waits until more orders are carried out, or tables were made anew, which have no lease; for ever
    /// where the thread ended, of which the daemon hears otherwise.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn vips(last: &[u8]) -> OrdSet<IpAddr> {
        (last.iter())
            .map(|last| IpAddr::from([192, 0, 2, *last]))
            .collect()
    }

    /// An order by what may be spoken for, or what of one is carried out by its number.
    enum Event {
        Order(&'static [u8]),
        Done(u64),
    }

    #[test]
    fn what_was_given_up_waits_for_the_order_that_takes_it_again() {
        use Event::{Done, Order};
        for (case, inherited, events, allowed) in [
            ("taken", &[][..], &[Order(&[1])][..], &[][..]),
            ("taken and done", &[], &[Order(&[1]), Done(1)], &[1]),
            ("inherited", &[1], &[Order(&[1, 2])], &[1]),
            (
                "kept over orders",
                &[],
                &[Order(&[1]), Done(1), Order(&[1, 2]), Order(&[1])],
                &[1],
            ),
            (
                "given up and taken again",
                &[],
                &[Order(&[1, 2]), Done(1), Order(&[2]), Order(&[1, 2])],
                &[2],
            ),
            (
                "given up alone is done",
                &[],
                &[Order(&[1]), Done(1), Order(&[]), Order(&[1]), Done(2)],
                &[],
            ),
            (
                "all is done",
                &[],
                &[Order(&[1]), Done(1), Order(&[]), Order(&[1]), Done(3)],
                &[1],
            ),
            (
                "again and again",
                &[1],
                &[
                    Order(&[]),
                    Order(&[1]),
                    Order(&[]),
                    Order(&[1]),
                    Done(2),
                    Order(&[1, 2]),
                ],
                &[],
            ),
            (
                "an inherited one too",
                &[1],
                &[Order(&[]), Order(&[1])],
                &[],
            ),
        ] {
            let mut waiting = Waiting {
                ordered: vips(inherited),
                ..Waiting::default()
            };
            let mut progress = Progress {
                owned: vips(inherited),
                ..Progress::default()
            };
            let mut orders = Vec::new();
            for event in events {
                match event {
                    Order(owned) => {
                        orders.push(vips(owned));
                        let number = orders.len() as u64;
                        waiting.order(number, &vips(owned), progress.number);
                    }
                    Done(number) => {
                        let done = usize::try_from(*number).unwrap_or_default() - 1;
                        progress.owned = orders.get(done).cloned().unwrap_or_default();
                        progress.number = *number;
                    }
                }
            }
            let owned = orders.last().cloned().unwrap_or_default();
            let found = waiting.allowed(&owned, &progress);
            assert_eq!(found, vips(allowed), "{case}");
        }
    }
}
