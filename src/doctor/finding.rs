//! What doctor says: a finding a line, and the order of the lines. Pure; looks at nothing.
//!
//! The order is what makes a list an answer: worse before better, and of equals the one that explains
//! the others first. A cause at the asked Service stands nearest, then what the whole node stands on,
//! then what is in the way on the node, then the other nodes and the cluster; what only follows from
//! something else comes last.

use serde::Serialize;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Section {
    /// Whether the daemon runs, answers, and could do what it was told.
    Daemon,
    /// Whether a Service can be reached, and why not.
    Service,
    /// Whether the API server answers, and what this node may do there.
    ApiAccess,
    /// Whether the kernel has what `proxy.datapath` needs, and its settings are as they should be.
    Kernel,
    /// Whether something of the node is used up: memory of the kernel, descriptors, disk.
    Limits,
    /// Whether chains of others drop what goes to Services.
    Firewall,
    /// Whether the interfaces and routes of this node can carry the pools.
    Network,
    /// Whether processes listen where Services are.
    NodePorts,
    /// Who else translates Services, or announces their addresses.
    Conflicts,
    /// Whether the other nodes are heard, and nobody else uses the VIPs.
    Membership,
}

impl Section {
    /// As it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Daemon => "daemon",
            Self::Service => "service",
            Self::ApiAccess => "api-access",
            Self::Kernel => "kernel",
            Self::Limits => "limits",
            Self::Firewall => "firewall",
            Self::Network => "network",
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

/// How much a finding explains, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The asked Service itself is at fault.
    Asked,
    /// Nothing works without it: the daemon, its privileges, its files, the kernel.
    Ground,
    /// In the way on this node.
    Node,
    /// Elsewhere in the cluster.
    Cluster,
    /// It follows from something else, which may be told too.
    Symptom,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub section: Section,
    pub level: Level,
    /// NAMESPACE/NAME, where it is about one Service.
    pub service: Option<String>,
    /// One line.
    pub message: String,
    /// What was seen, one line, where the message does not say it already.
    pub evidence: Option<String>,
    /// What to do about it, one line; never `None` with a problem.
    pub remedy: Option<String>,
    #[serde(skip)]
    pub(super) depth: Depth,
}

impl Finding {
    /// With neither evidence nor remedy, as deep as its section commonly is.
    pub fn new(section: Section, level: Level, message: impl Into<String>) -> Self {
        let depth = match section {
            Section::Daemon | Section::Kernel | Section::Limits => Depth::Ground,
            Section::Firewall | Section::Network | Section::NodePorts | Section::Conflicts => {
                Depth::Node
            }
            Section::ApiAccess | Section::Membership | Section::Service => Depth::Cluster,
        };
        Self {
            section,
            level,
            service: None,
            message: message.into(),
            evidence: None,
            remedy: None,
            depth,
        }
    }

    /// With what was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence = Some(evidence.into());
        self
    }

    /// With what to do.
    #[must_use]
    pub fn mend(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// About one Service, NAMESPACE/NAME.
    #[must_use]
    pub fn of(mut self, service: impl Into<String>) -> Self {
        self.service = Some(service.into());
        self
    }

    /// At another depth than its section commonly is.
    #[must_use]
    pub fn at(mut self, depth: Depth) -> Self {
        self.depth = depth;
        self
    }
}

/// Sorts as the head of this file says; what is equal keeps its order.
pub fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_stands_before_what_follows_from_it() {
        let of =
            |level, depth, message: &str| Finding::new(Section::Service, level, message).at(depth);
        let mut findings = vec![
            of(Level::Fine, Depth::Ground, "7"),
            of(Level::Problem, Depth::Symptom, "4"),
            of(Level::Info, Depth::Asked, "6"),
            of(Level::Problem, Depth::Node, "3"),
            of(Level::Warning, Depth::Asked, "5"),
            of(Level::Problem, Depth::Ground, "2"),
            of(Level::Problem, Depth::Asked, "1"),
        ];
        sort(&mut findings);
        let order: String = findings.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(order, "1234567");
    }
}
