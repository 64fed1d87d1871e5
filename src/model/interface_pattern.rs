//! Interface names with `*` and `?`, as operators write them.
//!
//! Knows nothing of the interfaces that a host has.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest interface name in bytes: `IFNAMSIZ` (16) without the final NUL.
const LONGEST_NAME: usize = 15;

/// A name in which `*` stands for any run of characters and `?` for exactly one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfacePattern(String);

/// Why no interface name could ever match a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfacePatternError {
    #[error("an interface pattern must not be empty")]
    Empty,
    #[error("\"{0}\" is longer than the 15 bytes that an interface name may have")]
    TooLong(String),
    #[error("\"{0}\" holds {1:?}, which no interface name may hold")]
    Character(String, char),
}

impl InterfacePattern {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What all names begin with that fit, and whether that is the whole name; `None` where more
    /// than the beginning counts.
    pub fn prefix(&self) -> Option<(&str, bool)> {
        let begins = self.0.trim_end_matches('*');
        let whole = begins.len() == self.0.len();
        (!begins.contains(['*', '?'])).then_some((begins, whole))
    }

    /// Whether the whole of `name` fits.
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        let (mut at_pattern, mut at_name) = (0, 0);
        // Where to go on when a later character does not fit: the last `*`, one character longer.
        let mut retry: Option<(usize, usize)> = None;
        while let Some(character) = name.get(at_name) {
            match pattern.get(at_pattern) {
                Some('*') => {
                    retry = Some((at_pattern, at_name));
                    at_pattern += 1;
                }
                Some(wanted) if *wanted == '?' || wanted == character => {
                    at_pattern += 1;
                    at_name += 1;
                }
                _ => {
                    let Some((star, taken)) = retry else {
                        return false;
                    };
                    retry = Some((star, taken + 1));
                    at_pattern = star + 1;
                    at_name = taken + 1;
                }
            }
        }
        pattern.iter().skip(at_pattern).all(|rest| *rest == '*')
    }
}

impl FromStr for InterfacePattern {
    type Err = InterfacePatternError;

    /// Refuses what `dev_valid_name()` of the kernel refuses in any name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InterfacePatternError::Empty);
        }
        let forbidden = |character: char| {
            character == '/'
                || character == ':'
                || character.is_whitespace()
                || character.is_control()
        };
        if let Some(character) = text.chars().find(|character| forbidden(*character)) {
            return Err(InterfacePatternError::Character(text.to_owned(), character));
        }
        let shortest_match: usize = text
            .chars()
            .filter(|character| *character != '*')
            .map(char::len_utf8)
            .sum();
        if shortest_match > LONGEST_NAME {
            return Err(InterfacePatternError::TooLong(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for InterfacePattern {
    type Error = InterfacePatternError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<InterfacePattern> for String {
    fn from(pattern: InterfacePattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn star_and_question_mark_match_whole_names() {
        for (pattern, name, fits) in [
            ("lo", "lo", true),
            ("lo", "lo0", false),
            ("veth*", "veth", true),
            ("veth*", "veth12ab", true),
            ("veth*", "xveth", false),
            ("eth?", "eth0", true),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*", "anything", true),
            ("*.10?", "bond0.100", true),
            ("*.10?", "bond0.10", false),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("**a", "bba", true),
        ] {
            assert_eq!(
                pattern.parse::<InterfacePattern>().unwrap().matches(name),
                fits,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn a_beginning_is_told_where_it_says_all() {
        for (pattern, prefix) in [
            ("cni0", Some(("cni0", true))),
            ("veth*", Some(("veth", false))),
            ("*", Some(("", false))),
            ("veth**", Some(("veth", false))),
            ("eth?", None),
            ("*.100", None),
            ("a*b*", None),
        ] {
            let parsed = pattern.parse::<InterfacePattern>().unwrap();
            assert_eq!(parsed.prefix(), prefix, "{pattern}");
        }
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern: InterfacePattern = "*a".repeat(15).parse().unwrap();
        assert!(!pattern.matches(&"a".repeat(14)));
        assert!(pattern.matches(&"a".repeat(5000)));
    }

    #[test]
    fn refuses_what_no_interface_can_be_called() {
        assert_eq!(
            "".parse::<InterfacePattern>(),
            Err(InterfacePatternError::Empty)
        );
        assert!(matches!(
            "eth 0".parse::<InterfacePattern>(),
            Err(InterfacePatternError::Character(_, ' '))
        ));
        assert!(matches!(
            "a/b".parse::<InterfacePattern>(),
            Err(InterfacePatternError::Character(_, '/'))
        ));
        assert!(matches!(
            "abcdefghijklmnop".parse::<InterfacePattern>(),
            Err(InterfacePatternError::TooLong(_))
        ));
        assert!("abcdefghijklmno*".parse::<InterfacePattern>().is_ok());
    }
}
