//! The thread that changes the fence and the handover. A transaction on `nf_tables` waits for those of
//! everybody else in the namespace, for seconds where somebody loads a large ruleset: nothing that has to
//! go on may stand behind one. Only the newest order counts; it decides nothing about owners and never
//! renews the lease.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use tokio::sync::watch;

use super::handover::passing::Passing;
use crate::apply::fence::{Fence, FenceError, FenceSupport, Fenced};
use crate::apply::handover::{HandedOver, Handover};

/// How long after a failure the fence is looked at again.
const REPAIR_AGAIN: Duration = Duration::from_secs(1);

/// What the fence and the handover are to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    /// Counts the orders.
    pub(super) number: u64,
    /// Absent before it is known: then what an earlier run held back stays so.
    pub(super) fenced: Option<Fenced>,
    /// What is to be passed on, before anything may be spoken for; absent before it is known, as above.
    pub(super) handed: Option<Arc<HandedOver>>,
    /// Counts the reasons to look at what the kernel has.
    pub(super) looks: u64,
}

/// What became of the orders.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// The newest order that is carried out. One that failed is not, but where the fence holds nothing
    /// back anyway: there strict ARP stands alone.
    pub(super) number: u64,
    /// What this node may speak for by that order; after one that failed only what that one allows too:
    /// the kernel may hold any part of it.
    pub(super) owned: OrdSet<IpAddr>,
    /// Counts the times that tables were made anew, which have no lease yet.
    pub(super) repairs: u64,
    /// When a packet was passed on to another node last, by VIP; that it changes is no news.
    pub(super) passed: Arc<BTreeMap<IpAddr, Instant>>,
}

impl Progress {
    /// Notes what became of an order that lets this node speak for these VIPs: carried out, and whether
    /// tables had to be made anew for it, or failed. Whether that is news.
    fn note(
        &mut self,
        number: u64,
        owned: OrdSet<IpAddr>,
        outcome: Result<bool, ()>,
        support: FenceSupport,
    ) -> bool {
        if outcome.is_err() && support == FenceSupport::Active {
            self.owned = std::mem::take(&mut self.owned).intersection(owned);
            return false;
        }
        let repaired = outcome.unwrap_or(false);
        let news = self.number != number || repaired;
        self.number = number;
        self.owned = owned;
        self.repairs += u64::from(repaired);
        news
    }
}

/// Carries out orders until nobody gives any more.
pub(super) async fn carry_out(
    mut fence: Fence,
    handover: Handover,
    mut orders: watch::Receiver<Order>,
    progress: watch::Sender<Progress>,
) {
    let mut looks = 0;
    let mut again: Option<Instant> = None;
    let mut problem = None;
    let mut passing = Passing::new(handover);
    loop {
        tokio::select! {
            changed = orders.changed() => if changed.is_err() {
                return;
            },
            () = sleep_until(again) => {}
            () = sleep_until(passing.again()) => {}
        }
        let order = orders.borrow_and_update().clone();
        // The first packets of a VIP that moves here may belong to the node that had it before.
        if let Some(handed) = &order.handed {
            passing.pass(handed, order.looks != looks);
            progress.send_if_modified(|told| {
                told.passed = passing.passed();
                false
            });
        }
        let Some(fenced) = order.fenced else {
            continue;
        };
        let now = Instant::now();
        let look =
            order.looks != looks || (problem.is_some() && again.is_some_and(|again| again <= now));
        looks = order.looks;
        let result = hold(&mut fence, &fenced, look);
        again = match &result {
            Ok(_) if fence.is_whole() => None,
            Ok(_) | Err(_) => Some(Instant::now() + REPAIR_AGAIN),
        };
        let outcome = result.as_ref().map(|repaired| *repaired).map_err(|_| ());
        if outcome == Ok(true) {
            tracing::info!("the fence was not as it should be, it is repaired");
        }
        let news = result.err().map(describe);
        if let Some(error) = news.as_ref().filter(|news| problem.as_ref() != Some(*news)) {
            tracing::warn!(error, "the fence is not as it should be");
        }
        problem = news;
        let support = fence.support();
        progress.send_if_modified(|told| told.note(order.number, fenced.owned, outcome, support));
    }
}

/// Whether tables had to be made anew.
fn hold(fence: &mut Fence, fenced: &Fenced, look: bool) -> Result<bool, FenceError> {
    fence.set(fenced)?;
    if look { fence.repair() } else { Ok(false) }
}

/// An error with its causes.
pub(super) fn describe(error: FenceError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn vips(last: &[u8]) -> OrdSet<IpAddr> {
        (last.iter())
            .map(|last| IpAddr::from([192, 0, 2, *last]))
            .collect()
    }

    #[test]
    fn an_order_that_failed_allows_nothing_that_was_not_allowed() {
        use FenceSupport::{Active, NoEgressHook, NoTables};
        let failed = Err(());
        for (support, outcome, number, owned, news) in [
            (Active, Ok(false), 8, &[2, 3][..], true),
            (Active, Ok(true), 8, &[2, 3], true),
            // What is taken does not come, and what is given up may have gone.
            (Active, failed, 7, &[2], false),
            // Nothing in the kernel holds anything back.
            (NoEgressHook, failed, 8, &[2, 3], true),
            (NoTables, failed, 8, &[2, 3], true),
        ] {
            let mut progress = Progress {
                number: 7,
                owned: vips(&[1, 2]),
                ..Progress::default()
            };
            let told = progress.note(8, vips(&[2, 3]), outcome, support);
            assert_eq!(told, news, "{support:?} {outcome:?}");
            assert_eq!(progress.number, number, "{support:?} {outcome:?}");
            assert_eq!(progress.owned, vips(owned), "{support:?} {outcome:?}");
            assert_eq!(progress.repairs, u64::from(outcome == Ok(true)));
            // Tried again, it is carried out.
            progress.note(8, vips(&[2, 3]), Ok(false), support);
            assert_eq!((progress.number, progress.owned), (8, vips(&[2, 3])));
        }
    }

    #[test]
    fn what_is_so_already_is_no_news() {
        let mut progress = Progress {
            number: 7,
            ..Progress::default()
        };
        for (outcome, news) in [(Ok(false), false), (Ok(true), true), (Err(()), false)] {
            let told = progress.note(7, vips(&[1]), outcome, FenceSupport::Active);
            assert_eq!(told, news, "{outcome:?}");
            assert_eq!(progress.owned, vips(&[1]));
        }
    }
}
