//! A span of transport ports, such as the `NodePort` range.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// First and last port, both included; never 0, never reversed. Written `30000-32767`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is not a [`PortRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    #[error("\"{0}\" is not a range of ports (first-last)")]
    Shape(String),
    #[error("{0} is a single port where a range first-last is wanted")]
    Single(u16),
    #[error("port {0} is outside 1-65535")]
    OutOfRange(String),
    #[error("the range is reversed: {0} is above {1}")]
    Reversed(u16, u16),
}

impl PortRange {
    /// Both ends included.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if first == 0 || last == 0 {
            return Err(PortRangeError::OutOfRange("0".to_owned()));
        }
        if first > last {
            return Err(PortRangeError::Reversed(first, last));
        }
        Ok(Self { first, last })
    }

    /// The range Kubernetes gives `NodePorts` from (kube-apiserver `--service-node-port-range`).
    pub const NODE_PORTS: Self = Self {
        first: 30_000,
        last: 32_767,
    };

    pub const fn first(self) -> u16 {
        self.first
    }

    pub const fn last(self) -> u16 {
        self.last
    }

    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || PortRangeError::Shape(text.to_owned());
        let port = |digits: &str| {
            let digits = digits.trim();
            let number = digits.strip_prefix('-').unwrap_or(digits);
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(shape());
            }
            match digits.parse::<u16>() {
                Ok(port) if port != 0 => Ok(port),
                _ => Err(PortRangeError::OutOfRange(digits.to_owned())),
            }
        };
        let Some((first, last)) = text.split_once('-') else {
            return Err(PortRangeError::Single(port(text)?));
        };
        Self::new(port(first)?, port(last)?)
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parses_and_refuses() {
        let range: PortRange = "30000-32767".parse().unwrap();
        assert_eq!(range, PortRange::NODE_PORTS);
        assert!(range.contains(30_000) && range.contains(32_767));
        assert!(!range.contains(29_999) && !range.contains(32_768));
        for (text, error) in [
            ("0-10", PortRangeError::OutOfRange("0".to_owned())),
            ("1-65536", PortRangeError::OutOfRange("65536".to_owned())),
            (
                "1-99999999999999999999",
                PortRangeError::OutOfRange("99999999999999999999".to_owned()),
            ),
            ("10-1", PortRangeError::Reversed(10, 1)),
            ("80", PortRangeError::Single(80)),
            ("a-b", PortRangeError::Shape("a-b".to_owned())),
            ("", PortRangeError::Shape(String::new())),
            ("1-", PortRangeError::Shape("1-".to_owned())),
        ] {
            assert_eq!(text.parse::<PortRange>(), Err(error), "{text}");
        }
    }
}
