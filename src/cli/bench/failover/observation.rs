//! What the clients see while something happens: one that sends requests all the time, and one that
//! asks all the time who has the VIP.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::cli::interrupt::Interrupt;
use crate::lab::client::Protocol;
use crate::lab::prober::{Prober, ProberOptions};
use crate::lab::wire::Eye;
use crate::lab::{Lab, MacAddress};

use super::report::Run;

/// The port of the VIP.
pub(super) const PORT: u16 = 80;
/// The host of the LAN that asks who has the VIP; the first one sends the requests.
const ASKING_CLIENT: usize = 1;
/// Clients that a lab needs.
pub(super) const CLIENTS: usize = 2;
/// Answers in a row by which the connection counts as steady.
const STEADY: u64 = 20;
/// Who answered within this time answers now.
const NOW: Duration = Duration::from_millis(60);
/// How long anything may take that must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The asking client, and the stations that it is about.
pub(super) struct Watcher {
    eye: Eye,
    addresses: Vec<IpAddr>,
    /// Of the nodes, by index.
    nodes: Vec<MacAddress>,
}

/// The clients at work on one run.
pub(super) struct Observation<'a> {
    watcher: &'a Watcher,
    probers: Vec<Prober>,
}

impl Watcher {
    /// Starts to ask for these addresses, the first of which is the one that requests go to.
    pub(super) fn start(lab: &Lab, addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let host = lab
            .clients()
            .get(ASKING_CLIENT)
            .context("the LAN has no second client")?;
        let nodes = lab
            .nodes()
            .iter()
            .map(|node| node.namespace.mac_address("eth0"))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            eye: Eye::open(host, addresses)?,
            addresses: addresses.to_vec(),
            nodes,
        })
    }

    /// The index of the node that answers for every address now, if it alone does.
    pub(super) fn owner(&self) -> anyhow::Result<Option<usize>> {
        self.eye.check()?;
        let mut owners = BTreeSet::new();
        for address in &self.addresses {
            let answering = self.eye.answering(*address, NOW);
            let (Some(mac), 1) = (answering.first(), answering.len()) else {
                return Ok(None);
            };
            match self.nodes.iter().position(|node| node == mac) {
                Some(node) => owners.insert(node),
                None => bail!("{mac}, which is no node's, answers for {address}"),
            };
        }
        Ok(owners.first().copied().filter(|_| owners.len() == 1))
    }

    /// Waits until one node alone answers, and gives its index.
    pub(super) fn wait_owner(&self, interrupt: &Interrupt) -> anyhow::Result<usize> {
        interrupt.wait_for(
            "not exactly one node answered for the VIP",
            PATIENCE,
            || self.owner(),
        )
    }

    /// Waits until another node alone answers.
    pub(super) fn wait_other(&self, than: usize, interrupt: &Interrupt) -> anyhow::Result<usize> {
        interrupt.wait_for("no other node took the VIP over", PATIENCE, || {
            Ok(self.owner()?.filter(|owner| *owner != than))
        })
    }

    /// Starts requests to the first address, and waits until they are answered.
    pub(super) fn observe(
        &self,
        lab: &Lab,
        protocols: &[Protocol],
        interrupt: &Interrupt,
    ) -> anyhow::Result<Observation<'_>> {
        let address = *self.addresses.first().context("there is no VIP")?;
        let client = &lab.client()?.namespace;
        let to = SocketAddr::new(address, PORT);
        let start = || {
            protocols
                .iter()
                .map(|protocol| Prober::start(client, to, *protocol, ProberOptions::default()))
                .collect::<Result<Vec<_>, _>>()
        };
        let observation = Observation {
            watcher: self,
            probers: start()?,
        };
        observation.steady(interrupt)?;
        for prober in &observation.probers {
            prober.reset();
        }
        self.eye.reset();
        Ok(observation)
    }
}

impl Observation<'_> {
    /// Waits for answers in a row.
    pub(super) fn steady(&self, interrupt: &Interrupt) -> anyhow::Result<()> {
        for prober in &self.probers {
            let before = prober.report().answered;
            interrupt.wait_for("requests were not answered steadily", PATIENCE, || {
                Ok((prober.report().answered >= before + STEADY).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits for what was sent, and gives what the clients saw.
    pub(super) fn end(self) -> anyhow::Result<Run> {
        let now = Instant::now();
        let sightings = self.watcher.eye.sightings();
        let nodes: BTreeSet<_> = self.watcher.nodes.iter().copied().collect();
        let of = |measure: &dyn Fn(IpAddr) -> Duration| {
            let all = self.watcher.addresses.iter().map(|it| measure(*it));
            all.max().unwrap_or_default()
        };
        let mut run = Run {
            blackout: Duration::ZERO,
            unresolved: of(&|address| sightings.longest_silence(address, &nodes, now)),
            contention: of(&|address| sightings.longest_contention(address, &nodes)),
            lost: 0,
            requests: 0,
        };
        for prober in self.probers {
            let report = prober.finish()?;
            let failed: u64 = report.failed.values().sum();
            run.blackout = run.blackout.max(report.longest_gap);
            run.lost += failed;
            run.requests += failed + report.answered;
        }
        Ok(run)
    }
}
