//! What a kernel setting below `/proc/sys` is to be, depending on what is found there.

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    pub rule: Rule,
    /// Whether it is no failure that the setting is not there or cannot be written here: its module is
    /// not loaded yet, or another network namespace has the say.
    pub optional: bool,
}

/// Which value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// This one.
    Exactly(String),
    /// This number, where a smaller one is found.
    AtLeast(u64),
    /// `value` where `found` is found, and only where the setting `because` is changed by us.
    Instead {
        found: String,
        value: String,
        /// A path below `/proc/sys` that has a rule of its own.
        because: String,
    },
}

impl Sysctl {
    /// A setting that must be there with this value.
    pub fn exactly(value: &str) -> Self {
        Self {
            rule: Rule::Exactly(value.to_owned()),
            optional: false,
        }
    }

    /// The same where it is there.
    pub fn optionally(rule: Rule) -> Self {
        Self {
            rule,
            optional: true,
        }
    }
}
