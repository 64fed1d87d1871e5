//! The chains that choose an endpoint: one for each kind of choice and number of endpoints, whatever
//! the number of frontends.

use super::{FRONTEND, NODE_PORT, Rule, rule};
use crate::apply::nftables::expression::{Choice, Load, Step, Stickiness};
use crate::apply::nftables::sets::Table;
use crate::model::family::Family;

/// A chain that chooses among `count` endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct Pick {
    pub(in super::super) family: Family,
    pub(in super::super) node_port: bool,
    /// Chooses from the list for outside clients.
    pub(in super::super) outside: bool,
    /// Clients stay with their endpoint until so many seconds after their last new connection.
    pub(in super::super) sticky: Option<u32>,
    pub(in super::super) choice: Choice,
    pub(in super::super) count: u32,
}

/// Where the list for outside clients begins in the endpoint maps.
pub(in super::super) const OUTSIDE_INDEX: u32 = 1 << 16;

impl Pick {
    pub(in super::super) fn name(self) -> String {
        let sticky = self.sticky.map(|seconds| format!("sticky{seconds}_"));
        format!(
            "pick{}{}_{}{}{}{}",
            if self.node_port { "_node_port" } else { "" },
            match self.family {
                Family::V4 => 4,
                Family::V6 => 6,
            },
            if self.outside { "outside_" } else { "" },
            sticky.unwrap_or_default(),
            match self.choice {
                Choice::Random => "",
                Choice::Source => "source_",
                Choice::Flow => "flow_",
            },
            self.count
        )
    }

    /// The inverse of [`Pick::name`].
    pub(in super::super) fn parse(name: &str) -> Option<Self> {
        let word = |text: &mut &str, word: &str| {
            let rest = text.strip_prefix(word);
            *text = rest.unwrap_or(text);
            rest.is_some()
        };
        let mut rest = name.strip_prefix("pick")?;
        let node_port = word(&mut rest, "_node_port");
        let family = if word(&mut rest, "4_") {
            Family::V4
        } else {
            rest = rest.strip_prefix("6_")?;
            Family::V6
        };
        let outside = word(&mut rest, "outside_");
        let mut sticky = None;
        if word(&mut rest, "sticky") {
            let (seconds, behind) = rest.split_once('_')?;
            sticky = Some(seconds.parse().ok()?);
            rest = behind;
        }
        let choice = if word(&mut rest, "source_") {
            Choice::Source
        } else if word(&mut rest, "flow_") {
            Choice::Flow
        } else {
            Choice::Random
        };
        let count = rest.parse().ok();
        Some(Self {
            family,
            node_port,
            outside,
            sticky,
            choice,
            count: count.filter(|count| (1..OUTSIDE_INDEX).contains(count))?,
        })
    }

    pub(in super::super) fn rules(self) -> Vec<Rule> {
        let offset = if self.outside { OUTSIDE_INDEX } else { 0 };
        let choice = Load::Choice {
            by: self.choice,
            modulus: self.count,
            offset,
        };
        let frontend = if self.node_port {
            NODE_PORT.to_vec()
        } else {
            FRONTEND.to_vec()
        };
        let name = |table: Table| table.name(self.family);
        let rule = |comment, step| rule(comment, Some(self.family), vec![step]);
        let Some(timeout) = self.sticky else {
            let mut key = frontend;
            key.push(choice);
            let map = name(self.choices());
            return vec![rule(
                "choose an endpoint",
                Step::DestinationNat { key, map },
            )];
        };
        let stickiness = Stickiness {
            frontend,
            choice,
            scopes: name(self.scopes()),
            choices: name(self.choices()),
            members: name(self.members()),
            affinity: name(Table::Affinity),
            timeout,
        };
        vec![
            rule(
                "the endpoint that this client had",
                Step::Stay(stickiness.clone()),
            ),
            rule(
                "choose an endpoint for this client",
                Step::Settle(stickiness.clone()),
            ),
            // Where no more clients can be remembered: nobody is refused for that.
            rule("choose an endpoint", Step::Pass(stickiness)),
        ]
    }

    fn scopes(self) -> Table {
        if self.node_port {
            Table::NodePortScopes
        } else {
            Table::Scopes
        }
    }

    /// The map that it chooses from.
    pub(in super::super) fn choices(self) -> Table {
        match (self.node_port, self.sticky.is_some()) {
            (false, false) => Table::Endpoints,
            (false, true) => Table::Choices,
            (true, false) => Table::NodePortEndpoints,
            (true, true) => Table::NodePortChoices,
        }
    }

    /// The list that it chooses from, by number.
    pub(in super::super) fn members(self) -> Table {
        match (self.node_port, self.outside) {
            (false, false) => Table::Members,
            (false, true) => Table::OutsideMembers,
            (true, false) => Table::NodePortMembers,
            (true, true) => Table::NodePortOutsideMembers,
        }
    }
}
