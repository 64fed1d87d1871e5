//! What keeps an interface from announcing, of several kinds at a time: told once for each change, in
//! the log and in the announcer's view.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::apply::announcer::InterfaceProblem;

/// The shared problems of all interfaces, by index.
pub(in crate::apply::announcer) type Problems = Arc<watch::Sender<BTreeMap<u32, InterfaceProblem>>>;

/// What does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The sockets are not open.
    Socket,
    /// A group could not be joined.
    Groups,
    /// Frames could not be sent.
    Sending,
}

/// The troubles of one interface.
#[derive(Debug)]
pub(super) struct Troubles {
    index: u32,
    problems: Problems,
    now: BTreeMap<Kind, String>,
}

impl Troubles {
    pub(super) const fn new(index: u32, problems: Problems) -> Self {
        Self {
            index,
            problems,
            now: BTreeMap::new(),
        }
    }

    /// This does not work now.
    pub(super) fn report(&mut self, kind: Kind, interface: &str, error: &str) {
        if self.now.get(&kind).is_some_and(|known| known == error) {
            return;
        }
        warn!(interface, error, "cannot announce on interface");
        self.now.insert(kind, error.to_owned());
        self.publish(interface);
    }

    /// This works again, if it did not.
    pub(super) fn solve(&mut self, kind: Kind) {
        if let Some(error) = self.now.remove(&kind) {
            self.solved(&error);
        }
    }

    /// Everything works, or is not needed any more.
    pub(super) fn solve_all(&mut self) {
        while let Some((_, error)) = self.now.pop_first() {
            self.solved(&error);
        }
    }

    fn solved(&self, error: &str) {
        let interface = (self.problems.borrow().get(&self.index))
            .map(|problem| problem.interface.clone())
            .unwrap_or_default();
        info!(
            interface,
            error, "interface has recovered or is not needed any more"
        );
        self.publish(&interface);
    }

    fn publish(&self, interface: &str) {
        let error = self.now.values().cloned().collect::<Vec<_>>().join("; ");
        self.problems.send_modify(|problems| {
            if error.is_empty() {
                problems.remove(&self.index);
            } else {
                let problem = InterfaceProblem {
                    interface: interface.to_owned(),
                    error,
                };
                problems.insert(self.index, problem);
            }
        });
    }
}
