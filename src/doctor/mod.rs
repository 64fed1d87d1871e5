//! What keeps this node from working, and how to mend it: sections of findings, a line each. Looks
//! and asks; changes nothing.
//!
//! A section is a file with one function that gives its findings; `examine` is the list of them.

mod api_access;
mod conflicts;
mod fence;
mod firewall;
mod handover;
mod kernel;
mod membership;
mod node_ports;
mod passing;
mod running;
mod settings;
mod sockets;

use std::path::Path;

use serde::Serialize;

use crate::apply::nftables::others;
use crate::config::Config;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Whether the API server answers, and what this node may do there.
    ApiAccess,
    /// Whether the kernel has what `proxy.datapath` needs, and its settings are as they should be.
    Kernel,
    /// Whether chains of others drop what goes to Services.
    Firewall,
    /// Whether processes listen where Services are.
    NodePorts,
    /// Who else translates Services.
    Conflicts,
    /// Whether the other nodes are heard, and nobody else uses the VIPs.
    Membership,
}

impl Section {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiAccess => "api-access",
            Self::Kernel => "kernel",
            Self::Firewall => "firewall",
            Self::NodePorts => "node-ports",
            Self::Conflicts => "conflicts",
            Self::Membership => "membership",
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// Worth knowing, and nothing to mend.
    Info,
    /// Works, but not as it should.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub section: Section,
    pub level: Level,
    /// One line.
    pub message: String,
    /// What to do about it, one line; never `None` with a problem.
    pub remedy: Option<String>,
}

/// Looks at everything there is to look at with this configuration.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = api_access::examine(config).await;
    let running = running::running(config);
    let others = others::others();
    findings.extend(kernel::examine(config));
    findings.extend(settings::examine(config, running.is_ok()));
    findings.extend(fence::examine(config, running.is_ok()));
    findings.extend(handover::examine(config));
    let (running, others) = (running.as_ref(), others.as_ref().ok());
    findings.extend(firewall::examine(config, running.ok(), others));
    findings.extend(membership::examine(config, running.ok()));
    findings.extend(node_ports::examine(config, running));
    findings.extend(conflicts::examine(config, others));
    findings
}

/// Whether IPVS is there now; the file shows it in each network namespace.
fn has_ipvs() -> bool {
    Path::new("/proc/self/net/ip_vs").exists()
}
