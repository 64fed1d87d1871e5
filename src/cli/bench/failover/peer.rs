//! keepalived in the same kind of LAN, put through those faults that it has an answer to.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::cli::interrupt::Interrupt;
use crate::lab::client::Protocol;
use crate::lab::keepalived::{Keepalived, KeepalivedOptions};
use crate::lab::server::{Listen, Server};
use crate::lab::{Lab, LabOptions};

use super::fault::Fault;
use super::lan::{NODES, hold};
use super::observation::{CLIENTS, PORT, Watcher};
use super::report::Run;

/// From one advertisement to the next: ten times as fast as by default.
pub(super) const ADVERTISEMENT: Duration = Duration::from_millis(100);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// How long one that was started again may take until it hears the others, which is three
/// advertisements and somewhat more.
const TO_SETTLE: Duration = Duration::from_millis(600);

/// The LAN, with everything running in it.
pub(super) struct PeerLan<'a> {
    interrupt: &'a Interrupt,
    routers: Vec<Keepalived>,
    _servers: Vec<Server>,
    watcher: Watcher,
    options: KeepalivedOptions,
    lab: Lab,
}

impl<'a> PeerLan<'a> {
    pub(super) fn build(program: PathBuf, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        let lab = Lab::build(LabOptions {
            nodes: NODES,
            workloads: 0,
            clients: CLIENTS,
            management: true,
            ..LabOptions::default()
        })?;
        let options = KeepalivedOptions {
            program,
            vip: VIP,
            advertisement: ADVERTISEMENT,
        };
        // Whoever has the VIP serves it, without a load balancer in between.
        let servers = lab
            .nodes()
            .iter()
            .map(|node| Server::start(&node.namespace, &node.name, &[Listen::tcp(PORT)]))
            .collect::<Result<_, _>>()?;
        let routers = (0..NODES)
            .map(|node| Keepalived::start(&lab, node, &options))
            .collect::<Result<_, _>>()?;
        let watcher = Watcher::start(&lab, &[VIP.into()])?;
        Ok(Self {
            interrupt,
            routers,
            _servers: servers,
            watcher,
            options,
            lab,
        })
    }

    /// The last lines of each log.
    pub(super) fn log_tails(&self) -> String {
        let mut text = String::new();
        for router in &self.routers {
            for line in router.log_tail().lines() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "  {}: {line}", router.node());
            }
        }
        text
    }

    /// Does it to the owner, undoes it, and gives what the clients saw of both.
    pub(super) fn measure(&mut self, fault: Fault) -> anyhow::Result<Run> {
        let interrupt = self.interrupt;
        hold(interrupt, TO_SETTLE)?;
        let owner = self.watcher.wait_owner(interrupt)?;
        let name = self.lab.node(owner)?.name.clone();
        let observation = self
            .watcher
            .observe(&self.lab, &[Protocol::Tcp], interrupt)?;
        let moved = || -> anyhow::Result<()> {
            self.watcher.wait_other(owner, interrupt)?;
            observation.steady(interrupt)
        };
        let router = self
            .routers
            .get_mut(owner)
            .context("the owner has no router")?;
        match fault {
            Fault::DaemonKill => {
                router.kill()?;
                // Its kernel goes on answering beside the new owner's: nobody can wait for one alone.
                hold(interrupt, TO_SETTLE)?;
                router.remove_vip()?;
                moved()?;
                *router = Keepalived::start(&self.lab, owner, &self.options)?;
            }
            Fault::NodeOff => {
                let failure = self.lab.power_off(owner, None)?;
                router.kill()?;
                moved()?;
                router.remove_vip()?;
                failure.restore()?;
                *router = Keepalived::start(&self.lab, owner, &self.options)?;
            }
            Fault::CablePull => {
                self.lab.unplug(&name)?;
                moved()?;
                self.lab.plug(&name)?;
            }
            _ => {
                router.terminate()?;
                moved()?;
                *router = Keepalived::start(&self.lab, owner, &self.options)?;
            }
        }
        hold(interrupt, TO_SETTLE)?;
        observation.steady(interrupt)?;
        observation.end()
    }
}
