//! Frames that the switch drops on the way, by rules of nftables in its bridge.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::membership::MEMBERSHIP_PORT;
use crate::lab::topology::management_port;
use crate::lab::{Lab, LabError, Namespace, tool};

/// The frames by which nodes tell members of themselves on the LAN: an `EtherType` for local
/// experiments (IEEE 802, clause 9.2.3).
const MEMBERSHIP_FRAMES: &str = "0x88b5";

/// What is cut or lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Membership by UDP, as a firewall between the nodes would stop it.
    MembershipDatagrams,
    /// Membership in every form: by UDP and by frames on the LAN.
    Membership,
    /// Everything.
    All,
}

/// A fault of the network; dropping it mends it.
#[derive(Debug)]
pub struct Cut {
    switch: Namespace,
    /// The table whose rules it is made of; none once it is mended.
    table: Option<String>,
}

impl Traffic {
    /// The matches of one rule each.
    fn matches(self) -> Vec<String> {
        let datagrams =
            ["ip", "ip6"].map(|family| format!("ether type {family} udp dport {MEMBERSHIP_PORT}"));
        let frames = format!("ether type {MEMBERSHIP_FRAMES}");
        match self {
            Self::MembershipDatagrams => datagrams.to_vec(),
            Self::Membership => datagrams.into_iter().chain([frames]).collect(),
            Self::All => vec![String::new()],
        }
    }
}

impl Cut {
    pub(super) fn between_all(
        lab: &Lab,
        nodes: &[usize],
        traffic: Traffic,
    ) -> Result<Self, LabError> {
        let mut ports = Vec::new();
        for node in nodes {
            let name = lab.node(*node)?.name.as_str();
            ports.extend([name.to_owned(), management_port(name)]);
        }
        let ports = set(&ports);
        let between = format!("meta iifname {ports} meta oifname {ports}");
        Self::new(lab, &rules(&between, traffic, "drop"))
    }

    pub(super) fn between_halves(
        lab: &Lab,
        one: &[&str],
        other: &[&str],
    ) -> Result<Self, LabError> {
        let half = |names: &[&str]| {
            let ports: Vec<_> = names
                .iter()
                .flat_map(|name| [(*name).to_owned(), management_port(name)])
                .collect();
            set(&ports)
        };
        let (one, other) = (half(one), half(other));
        let mut both = Vec::new();
        for (from, to) in [(&one, &other), (&other, &one)] {
            let between = format!("meta iifname {from} meta oifname {to}");
            both.extend(rules(&between, Traffic::All, "drop"));
        }
        Self::new(lab, &both)
    }

    pub(super) fn at_random(lab: &Lab, percent: u8, traffic: Traffic) -> Result<Self, LabError> {
        let lot = format!("numgen random mod 100 < {percent} drop");
        Self::new(lab, &rules("", traffic, &lot))
    }

    fn new(lab: &Lab, rules: &[String]) -> Result<Self, LabError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let table = format!("fault_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut script = format!(
            "add table bridge {table}; \
             add chain bridge {table} passing {{ type filter hook forward priority 0; }};"
        );
        for rule in rules {
            // Writing to a String cannot fail.
            let _ = write!(script, " add rule bridge {table} passing {rule};");
        }
        // One transaction: all of it begins at the same moment.
        tool(lab.switch(), "nft", &[&script])?;
        Ok(Self {
            switch: lab.switch().clone(),
            table: Some(table),
        })
    }

    /// Everything passes again.
    pub fn mend(mut self) -> Result<(), LabError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LabError> {
        match self.table.take() {
            Some(table) => {
                tool(&self.switch, "nft", &["delete", "table", "bridge", &table]).map(|_| ())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "cannot mend the lab's network");
        }
    }
}

fn rules(between: &str, traffic: Traffic, verdict: &str) -> Vec<String> {
    traffic
        .matches()
        .iter()
        .map(|matches| format!("{between} {matches} {verdict}"))
        .collect()
}

fn set(ports: &[String]) -> String {
    format!("{{ {} }}", ports.join(", "))
}
