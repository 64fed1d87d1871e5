//! How far the parts of `apply` reach: into the kernel, or no further than to say what they would do
//! there. Whatever is decided is decided by the same code either way; only the last step differs.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::netlink::Access;

/// What an edit does to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Add,
    Change,
    Remove,
}

impl Operation {
    /// As a diff marks it.
    pub const fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }
}

/// One edit of the kernel that was not made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Step {
    pub operation: Operation,
    /// `virtual_server`, `real_server`, `timeouts`, `table`, `set`, `chain`, `rule`, `element`, `route`,
    /// `link`, `sysctl` or `flow`.
    pub object: String,
    /// The edit in the words of `ipvsadm`, `nft`, `ip`, `sysctl` or `conntrack`.
    pub command: String,
}

/// The edits that were not made, in the order in which they would be.
#[derive(Debug, Clone, Default)]
pub struct Steps(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    steps: Vec<Step>,
    /// A repair takes two looks at some things, and would find them changed the second time.
    known: HashSet<Step>,
}

impl Steps {
    /// What was noted so far, and begins anew.
    pub fn take(&self) -> Vec<Step> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *noted).steps
    }

    fn note(&self, step: Step) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.known.insert(step.clone()) {
            noted.steps.push(step);
        }
    }
}

/// How far a part of `apply` reaches.
#[derive(Debug, Clone, Default)]
pub enum Reach {
    /// It reads and changes the kernel.
    #[default]
    Kernel,
    /// It reads the kernel and notes what it would change.
    Look(Steps),
    /// It knows of no kernel, takes everything as empty and notes what it would make.
    Nowhere(Steps),
}

impl Reach {
    /// What its sockets may do.
    pub fn access(&self) -> Access {
        match self {
            Self::Kernel => Access::Full,
            Self::Look(_) => Access::ReadOnly,
            Self::Nowhere(_) => Access::Nothing,
        }
    }

    /// Whether the kernel is changed.
    pub fn changes(&self) -> bool {
        matches!(self, Self::Kernel)
    }

    /// Whether the kernel is read.
    pub fn looks(&self) -> bool {
        !matches!(self, Self::Nowhere(_))
    }

    /// Notes an edit where it is not made; only then it is put in words.
    pub fn note(&self, operation: Operation, object: &str, command: impl FnOnce() -> String) {
        self.note_step(|| Step {
            operation,
            object: object.to_owned(),
            command: command(),
        });
    }

    /// The same for a whole step.
    pub fn note_step(&self, step: impl FnOnce() -> Step) {
        match self {
            Self::Kernel => {}
            Self::Look(steps) | Self::Nowhere(steps) => steps.note(step()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_not_noted_and_what_is_noted_is_noted_once() {
        let steps = Steps::default();
        for reach in [
            Reach::Kernel,
            Reach::Look(steps.clone()),
            Reach::Nowhere(steps.clone()),
        ] {
            reach.note(Operation::Add, "route", || "ip route add".to_owned());
        }
        let noted = steps.take();
        assert_eq!(noted.len(), 1);
        assert_eq!(noted.first().map(|step| step.operation.sign()), Some('+'));
        assert!(steps.take().is_empty());
        assert!(Reach::Kernel.changes() && Reach::Kernel.looks());
        assert!(!Reach::Nowhere(steps).looks());
    }
}
