//! The thread that changes the fence and the handover. A transaction on `nf_tables` waits for those of everybody else in
//! the namespace, for seconds where somebody loads a large ruleset: nothing that has to go on may stand
//! behind one. Only the newest order counts; it decides nothing about owners and never renews the lease.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use imbl::OrdSet;
use tokio::sync::watch;

use super::counters::{GuardCounters, Held};
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
    /// The newest order that is carried out, or that failed: strict ARP stands behind the fence.
    pub(super) number: u64,
    /// What that order lets this node speak for.
    pub(super) owned: OrdSet<IpAddr>,
    /// Counts the times that tables were made anew, which have no lease yet.
    pub(super) repairs: u64,
}

/// Carries out orders until nobody gives any more.
pub(super) async fn carry_out(
    mut fence: Fence,
    handover: Handover,
    mut orders: watch::Receiver<Order>,
    progress: watch::Sender<Progress>,
    counters: GuardCounters,
) {
    let mut looks = 0;
    let mut again: Option<Instant> = None;
    let mut problem = None;
    let mut passing = Passing::new(handover, counters.clone());
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
        let repaired = result.as_ref().is_ok_and(|repaired| *repaired);
        let held = match &result {
            Ok(false) => Held::Found,
            Ok(true) => Held::Repaired,
            Err(_) => Held::Failed,
        };
        let active = fence.support() == FenceSupport::Active;
        counters.fence(held, active && result.is_ok() && fence.is_whole());
        if repaired {
            tracing::info!("the fence was not as it should be, it is repaired");
        }
        let news = result.err().map(describe);
        if let Some(error) = news.as_ref().filter(|news| problem.as_ref() != Some(*news)) {
            tracing::warn!(error, "the fence is not as it should be");
        }
        problem = news;
        progress.send_if_modified(|told| {
            let news = told.number != order.number || repaired;
            told.number = order.number;
            told.owned = fenced.owned;
            told.repairs += u64::from(repaired);
            news
        });
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
