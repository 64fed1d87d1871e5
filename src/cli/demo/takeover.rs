//! The last act: the owner of a VIP dies and another node takes over, measured by a client.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::Context;

use crate::lab::client::Protocol;
use crate::lab::manifests::ManifestDirectory;
use crate::lab::prober::{Prober, ProberOptions};

use super::report::TakeoverReport;
use super::scene::{PORT, milliseconds, must_all_succeed, only_owner};
use super::story::{PATIENCE, REQUESTS, Story};

/// Answers in a row by which the connection counts as steady.
const STEADY: u64 = 40;

impl Story<'_> {
    /// The owner's daemon is killed and its Node removed; another node takes the VIP over.
    pub(super) fn take_over(&mut self, manifests: &ManifestDirectory) -> anyhow::Result<()> {
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        if lab.nodes().len() < 2 {
            return self.say("Take-over", "not shown: it needs two nodes");
        }
        let shown = self
            .report
            .services
            .first()
            .context("no Service was shown")?;
        let (vip, from) = (shown.vip, shown.owner.clone());
        let client = lab.client()?;
        let prober = Prober::start(
            &client.namespace,
            SocketAddr::from((vip, PORT)),
            Protocol::Tcp,
            ProberOptions::default(),
        )?;
        self.steady(&prober, vip)?;
        prober.reset();
        let start = Instant::now();
        let daemon = self
            .daemons
            .iter_mut()
            .find(|daemon| daemon.node() == from)
            .context("the owner has no daemon")?;
        daemon.kill()?;
        manifests.remove_node(&from)?;
        let to =
            self.interrupt
                .wait_for(&format!("no other node took {vip} over"), PATIENCE, || {
                    Ok(only_owner(lab.nodes(), client, vip)?
                        .map(|(node, _)| node.name.clone())
                        .filter(|name| *name != from))
                })?;
        let takeover = start.elapsed();
        self.steady(&prober, vip)?;
        let blackout = prober.stop()?.longest_gap;
        let requests = self.send(&client.namespace, vip, PORT, REQUESTS)?;

        let (blackout_ms, takeover_ms) = (milliseconds(blackout), milliseconds(takeover));
        self.say("Take-over", &format!("edgelb on {from} was killed (SIGKILL) and its Node removed; {to} answers for {vip} now"))?;
        self.say(
            "",
            &format!(
                "after at most {takeover_ms} ms; the kernel of {from} went on forwarding meanwhile"
            ),
        )?;
        self.say(
            "",
            &format!(
                "longest time without a new connection: {blackout_ms} ms; then {}",
                requests.summary()
            ),
        )?;
        self.report.takeover = Some(TakeoverReport {
            from,
            to,
            blackout_ms,
            takeover_ms,
            requests: requests.clone(),
        });
        must_all_succeed("requests after the take-over", &requests)
    }

    /// Waits for answers in a row.
    fn steady(&self, prober: &Prober, vip: Ipv4Addr) -> anyhow::Result<()> {
        let before = prober.report().answered;
        self.interrupt.wait_for(
            &format!("new connections to {vip} were not answered steadily"),
            PATIENCE,
            || Ok((prober.report().answered >= before + STEADY).then_some(())),
        )
    }
}
