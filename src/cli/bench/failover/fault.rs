//! The faults by name, and what they are in words.

use clap::ValueEnum;

/// What happens to the node that owns the VIP, or to what it depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The daemon is killed.
    DaemonKill,
    /// The node loses its power.
    NodeOff,
    /// The cable of the announcing interface is pulled.
    CablePull,
    /// No node hears the others' datagrams.
    MembershipCut,
    /// The API server is not reached.
    ApiAway,
    /// The daemon is stopped where it stands, and goes on later.
    Freeze,
    /// The node is drained.
    Drain,
    /// The daemon is ended and started again.
    Restart,
}

impl Fault {
    /// All of them, in the order of the report.
    pub(super) const ALL: [Self; 8] = [
        Self::DaemonKill,
        Self::NodeOff,
        Self::CablePull,
        Self::MembershipCut,
        Self::ApiAway,
        Self::Freeze,
        Self::Drain,
        Self::Restart,
    ];

    /// Those that keepalived is put through as well.
    pub(super) const OF_THE_PEER: [Self; 4] = [
        Self::DaemonKill,
        Self::NodeOff,
        Self::CablePull,
        Self::Drain,
    ];

    /// Its name in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DaemonKill => "daemon-kill",
            Self::NodeOff => "node-off",
            Self::CablePull => "cable-pull",
            Self::MembershipCut => "membership-cut",
            Self::ApiAway => "api-away",
            Self::Freeze => "freeze",
            Self::Drain => "drain",
            Self::Restart => "restart",
        }
    }

    /// Whether somebody did it on purpose, so that nothing may be lost.
    pub(super) fn planned(self) -> bool {
        matches!(self, Self::Drain | Self::Restart)
    }

    /// What is done, and undone within the same measurement.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::DaemonKill => "SIGKILL to the owner's daemon, which is started again later",
            Self::NodeOff => "all links of the owner down and its daemon killed; then back",
            Self::CablePull => {
                "the owner's cable to the clients pulled, its other network stays; then plugged in"
            }
            Self::MembershipCut => "UDP between the nodes dropped for a second, the rest passes",
            Self::ApiAway => "the API server unplugged for a second",
            Self::Freeze => "SIGSTOP to the owner's daemon, SIGCONT after another one took over",
            Self::Drain => "edgelb drain on the owner, edgelb undrain after another one took over",
            Self::Restart => "SIGTERM to the owner's daemon, started again at once",
        }
    }

    /// The same for keepalived.
    pub(super) fn description_of_the_peer(self) -> &'static str {
        match self {
            Self::DaemonKill => {
                "SIGKILL to the owner's processes; its kernel keeps the address and answers on"
            }
            Self::Drain => "SIGTERM to the owner, which gives the address up; started again later",
            _ => self.description(),
        }
    }
}
