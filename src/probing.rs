//! Looks for hosts on the LAN that use addresses of the pools: what is planned to be asked goes to the
//! prober, what it hears to the reconciler. Wires; decides nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::admin::snapshot::Snapshot;
use crate::apply::prober::{ProbeSettings, Prober};
use crate::model::foreign::{ForeignHosts, Wanted};
use crate::plan::probing::wanted;

/// Between two looks at what is wanted: a burst of passes is looked at as one.
const PAUSE: Duration = Duration::from_millis(100);

/// The task, and what it hears. It ends when nobody makes snapshots any more.
pub fn start(
    settings: ProbeSettings,
    snapshots: watch::Receiver<Arc<Snapshot>>,
) -> (
    impl Future<Output = anyhow::Result<()>> + Send + 'static,
    watch::Receiver<Arc<ForeignHosts>>,
) {
    let (asking, asked) = watch::channel(Arc::new(Wanted::default()));
    let (telling, foreign) = watch::channel(Arc::new(ForeignHosts::default()));
    let prober = Prober::new(settings, asked, telling);
    let heard = foreign.clone();
    let task = async move {
        tokio::select! {
            ended = prober.run() => Ok(ended?),
            () = follow(snapshots, asking, heard) => Ok(()),
        }
    };
    (task, foreign)
}

/// Keeps what is asked equal to what the newest snapshot wants.
async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    asking: watch::Sender<Arc<Wanted>>,
    mut heard: watch::Receiver<Arc<ForeignHosts>>,
) {
    loop {
        let now = wanted_by(
            &snapshots.borrow_and_update().clone(),
            &heard.borrow_and_update().clone(),
        );
        asking.send_if_modified(|asked| {
            let other = **asked != now;
            if other {
                *asked = Arc::new(now);
            }
            other
        });
        tokio::time::sleep(PAUSE).await;
        let changed = tokio::select! {
            changed = snapshots.changed() => changed,
            changed = heard.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Nothing, until it is known which addresses are held: another node would answer for a VIP that
/// seems to be free, and look like a foreign host.
fn wanted_by(snapshot: &Snapshot, foreign: &ForeignHosts) -> Wanted {
    if snapshot.pass.number == 0 || snapshot.source.from_snapshot {
        return Wanted::default();
    }
    wanted(&snapshot.config, &snapshot.inputs, &snapshot.plan, foreign)
}
