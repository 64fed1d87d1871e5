//! The last acts: the owner of a VIP dies and another node takes over, the dead one comes back and
//! takes nothing, and the new owner is drained; a client tells what it saw of all that.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, ensure};

use crate::lab::client::Protocol;
use crate::lab::daemon::Daemon;
use crate::lab::fault::PowerFailure;
use crate::lab::manifests::{ManifestDirectory, ServiceManifest};
use crate::lab::prober::Prober;
use crate::lab::{Lab, Workload};

use super::report::{DrainReport, TakeoverReport};
use super::scene::{PORT, milliseconds, must_all_succeed, only_owner};
use super::story::{REQUESTS, Story};
use super::view;

/// Answers in a row by which the connection counts as steady.
const STEADY: u64 = 40;

/// A node without power.
struct Dead {
    index: usize,
    name: String,
    failure: PowerFailure,
}

impl Story<'_> {
    /// The first Service's VIP loses its owner, by accident and then on purpose.
    pub(super) fn lose_owners(
        &mut self,
        manifests: &ManifestDirectory,
        services: &[ServiceManifest],
    ) -> anyhow::Result<()> {
        if self.lab()?.nodes().len() < 2 {
            return self.say("Take-over", "not shown: it needs two nodes");
        }
        let shown = self
            .report
            .services
            .first()
            .context("no Service was shown")?;
        let (vip, owner) = (shown.vip, shown.owner.clone());
        self.keep_a_workload(&owner, manifests, services)?;
        let (dead, owner) = self.take_over(vip, &owner, manifests, services)?;
        self.come_back(dead, vip, &owner, manifests, services)?;
        self.drain(vip, &owner)
    }

    /// Where all workloads are on the node that will die, one more starts elsewhere.
    fn keep_a_workload(
        &mut self,
        owner: &str,
        manifests: &ManifestDirectory,
        services: &[ServiceManifest],
    ) -> anyhow::Result<()> {
        let lab = self.lab.as_mut().context("the LAN is not built")?;
        let dying = position(lab, owner)?;
        if lab.workloads().iter().all(|it| it.node == dying) {
            let other = (dying + 1) % lab.nodes().len();
            let added = lab.add_workload(other)?.name.clone();
            write_endpoints(lab, manifests, services, None)?;
            let line = format!("{added} added, so that something is left when {owner} dies");
            self.say("Workload", &line)?;
        }
        Ok(())
    }

    /// The owner loses its power; another node notices and takes the VIP over.
    fn take_over(
        &mut self,
        vip: Ipv4Addr,
        from: &str,
        manifests: &ManifestDirectory,
        services: &[ServiceManifest],
    ) -> anyhow::Result<(Dead, String)> {
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let prober = self.probe(vip)?;
        let index = position(lab, from)?;
        let start = Instant::now();
        let daemon = self.daemons.get_mut(index);
        let failure = lab.power_off(index, daemon)?;
        let to = self.other_owner(vip, from)?;
        let takeover = start.elapsed();
        self.steady(&prober, vip)?;
        let blackout = prober.stop()?.longest_gap;
        // What a cluster does when it misses a node, only sooner.
        write_endpoints(self.lab()?, manifests, services, Some(index))?;
        self.wait_whole(vip)?;
        let client = &self.lab()?.client()?.namespace;
        let requests = self.send(client, vip, PORT, REQUESTS)?;

        let (blackout_ms, takeover_ms) = (milliseconds(blackout), milliseconds(takeover));
        self.say(
            "Take-over",
            &format!(
                "{from} lost its power (all links down, SIGKILL); {to} answers for {vip} now, \
                 after at most {takeover_ms} ms"
            ),
        )?;
        self.say(
            "",
            &format!(
                "client-1, with a new connection each {} ms, had none for {blackout_ms} ms",
                self.arguments.pace().interval.as_millis()
            ),
        )?;
        self.say(
            "",
            &format!(
                "without the workloads of {from}, which died with it: {}",
                requests.summary()
            ),
        )?;
        self.report.takeover = Some(TakeoverReport {
            from: from.to_owned(),
            to: to.clone(),
            blackout_ms,
            takeover_ms,
            requests: requests.clone(),
        });
        must_all_succeed("requests after the take-over", &requests)?;
        let name = from.to_owned();
        Ok((
            Dead {
                index,
                name,
                failure,
            },
            to,
        ))
    }

    /// A node that returns takes nothing from a healthy owner.
    fn come_back(
        &mut self,
        dead: Dead,
        vip: Ipv4Addr,
        owner: &str,
        manifests: &ManifestDirectory,
        services: &[ServiceManifest],
    ) -> anyhow::Result<()> {
        dead.failure.restore()?;
        let lab = self.lab.as_ref().context("the LAN is not built")?;
        let mut daemon = Daemon::start(lab, dead.index, &self.options()?)?;
        let what = format!("edgelb on {} was not ready", dead.name);
        self.interrupt
            .wait_for(&what, self.arguments.patience(), || {
                Ok(daemon.hears_ready()?.then_some(()))
            })?;
        *self
            .daemons
            .get_mut(dead.index)
            .context("the node had no daemon")? = daemon;
        write_endpoints(self.lab()?, manifests, services, None)?;
        self.wait_whole(vip)?;
        let what = format!("{owner} did not see {} again", dead.name);
        self.interrupt
            .wait_for(&what, self.arguments.patience(), || {
                let owner = position(self.lab()?, owner)?;
                let daemon = self.daemons.get(owner).context("the owner has no daemon")?;
                Ok(view::is_candidate(daemon, &dead.name)?.then_some(()))
            })?;
        let lab = self.lab()?;
        let only = self.interrupt.wait_for(
            &format!("not exactly one node answered ARP for {vip}"),
            self.arguments.patience(),
            || only_owner(lab.nodes(), lab.client()?, vip),
        )?;
        ensure!(
            only.0.name == owner,
            "{} took {vip} from {owner}, which is healthy",
            only.0.name
        );
        self.say(
            "Return",
            &format!("{} is back; {owner} keeps {vip}", dead.name),
        )
    }

    /// The owner gives the VIP up on purpose, and nobody notices.
    fn drain(&mut self, vip: Ipv4Addr, from: &str) -> anyhow::Result<()> {
        let prober = self.probe(vip)?;
        let index = position(self.lab()?, from)?;
        let daemon = self.daemons.get(index).context("the owner has no daemon")?;
        let output = daemon.ask(&["drain"])?;
        ensure!(
            output.status.success(),
            "edgelb drain on {from}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let to = self.other_owner(vip, from)?;
        self.steady(&prober, vip)?;
        let seen = prober.finish()?;
        let failed: u64 = seen.failed.values().sum();
        let report = DrainReport {
            from: from.to_owned(),
            to: to.clone(),
            blackout_ms: milliseconds(seen.longest_gap),
            requests: failed + seen.answered,
            succeeded: seen.answered,
            failed: seen
                .failed
                .iter()
                .map(|(reason, count)| ((*reason).to_owned(), *count))
                .collect(),
        };
        self.say(
            "Drain",
            &format!(
                "edgelb drain on {from}; {to} answers for {vip} now; {failed} of {} new \
                 connections failed",
                report.requests
            ),
        )?;
        let requests = report.requests;
        self.report.drain = Some(report);
        ensure!(
            failed == 0,
            "{failed} of {requests} requests failed while {from} was drained"
        );
        Ok(())
    }

    /// A client at work, answered steadily and with nothing seen yet.
    fn probe(&self, vip: Ipv4Addr) -> anyhow::Result<Prober> {
        let prober = Prober::start(
            &self.lab()?.client()?.namespace,
            SocketAddr::from((vip, PORT)),
            Protocol::Tcp,
            self.arguments.pace(),
        )?;
        self.steady(&prober, vip)?;
        prober.reset();
        Ok(prober)
    }

    fn other_owner(&self, vip: Ipv4Addr, than: &str) -> anyhow::Result<String> {
        let lab = self.lab()?;
        self.interrupt.wait_for(
            &format!("no other node took {vip} over"),
            self.arguments.patience(),
            || {
                Ok(only_owner(lab.nodes(), lab.client()?, vip)?
                    .map(|(node, _)| node.name.clone())
                    .filter(|name| name != than))
            },
        )
    }

    /// Waits until new connections are answered whichever workload they go to.
    fn wait_whole(&self, vip: Ipv4Addr) -> anyhow::Result<()> {
        let prober = self.probe(vip)?;
        let what = format!("new connections to {vip} failed");
        self.interrupt
            .wait_for(&what, self.arguments.patience(), || {
                let report = prober.report();
                if !report.failed.is_empty() {
                    prober.reset();
                }
                Ok((report.failed.is_empty() && report.answered >= STEADY).then_some(()))
            })
    }

    /// Waits for answers in a row.
    fn steady(&self, prober: &Prober, vip: Ipv4Addr) -> anyhow::Result<()> {
        let before = prober.report().answered;
        self.interrupt.wait_for(
            &format!("new connections to {vip} were not answered steadily"),
            self.arguments.patience(),
            || Ok((prober.report().answered >= before + STEADY).then_some(())),
        )
    }
}

/// The index of the node of that name.
fn position(lab: &Lab, name: &str) -> anyhow::Result<usize> {
    lab.nodes()
        .iter()
        .position(|node| node.name == name)
        .with_context(|| format!("the LAN has no node {name}"))
}

/// All workloads behind each Service, but those of the node that is gone.
fn write_endpoints(
    lab: &Lab,
    manifests: &ManifestDirectory,
    services: &[ServiceManifest],
    gone: Option<usize>,
) -> anyhow::Result<()> {
    let workloads: Vec<&Workload> = lab
        .workloads()
        .iter()
        .filter(|workload| Some(workload.node) != gone)
        .collect();
    for service in services {
        manifests.write_endpoints(service, &workloads, lab.nodes())?;
    }
    Ok(())
}
