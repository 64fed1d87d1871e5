//! What the chains of the table depend on; everything else is in its sets.

use crate::apply::forwarder::Forwarder;
use crate::model::family::Family;

/// The parameters of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Who forwards all that it can.
    pub datapath: Forwarder,
    /// Families in which only what belongs to frontends or pods is forwarded.
    restricted: [bool; 2],
}

impl Layout {
    /// With this datapath, whatever else the node forwards.
    pub fn new(datapath: Forwarder) -> Self {
        Self {
            datapath,
            restricted: [false; 2],
        }
    }

    /// Lets the node forward only what belongs to frontends or pods, in these families: for a node
    /// that forwarded nothing before.
    #[must_use]
    pub fn restrict_forwarding(self, families: &[Family]) -> Self {
        Self {
            restricted: Family::BOTH.map(|family| families.contains(&family)),
            ..self
        }
    }

    /// The families in which forwarding is restricted.
    pub(super) fn restricted(self) -> impl Iterator<Item = Family> {
        let both = Family::BOTH.into_iter().zip(self.restricted);
        both.filter(|(_, restricted)| *restricted)
            .map(|(family, _)| family)
    }
}
