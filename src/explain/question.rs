//! What is asked: a Service, or an address and port, and from where. Reads text; knows no plan.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::model::family::{Family, Protocol};
use crate::model::service::ServiceKey;

/// The longest part of a question that an error repeats, in characters.
const LONGEST_REPEATED: usize = 80;

/// What is to be explained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everything about one Service.
    Service(ServiceKey),
    /// What happens to a packet that is sent there.
    Address {
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => key.fmt(f),
            Self::Address {
                address,
                port,
                protocol,
            } => {
                let at = SocketAddr::new(*address, *port);
                write!(f, "{at}/{}", protocol.lowercase())
            }
        }
    }
}

/// A whole question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// What about.
    pub target: Target,
    /// Who sends; absent: nobody in particular.
    pub from: Option<IpAddr>,
}

/// Why a text is no question.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuestionError {
    /// An address alone.
    #[error("{0} lacks a port: write {1}")]
    NoPort(IpAddr, SocketAddr),
    /// Port 0 is none.
    #[error("port 0 is no port: write a number from 1 to 65535")]
    PortZero,
    /// A port that no packet can name.
    #[error("{0} is too large for a port: write a number from 1 to 65535")]
    PortTooLarge(String),
    /// Something after the slash that is no protocol.
    #[error("{0:?} is no protocol: write /tcp, /udp or /sctp")]
    Protocol(String),
    /// A name without its namespace.
    #[error("{0:?} lacks a namespace: write NAMESPACE/NAME, such as default/{0}")]
    NoNamespace(String),
    /// Anything else.
    #[error(
        "{0:?} is neither a Service nor an address and port: write NAMESPACE/NAME, 192.0.2.200:80, [2001:db8::1]:80, or either with /udp or /sctp"
    )]
    Unintelligible(String),
    /// The source is no address.
    #[error("--from {0:?} is no IP address: write one such as 203.0.113.9")]
    From(String),
    /// The source cannot send there.
    #[error("--from {from} is {}, and {to} is {}: name a source of the same family", Family::of(*from), Family::of(*to))]
    Families { from: IpAddr, to: IpAddr },
}

impl Question {
    /// Reads a question.
    pub fn parse(target: &str, from: Option<&str>) -> Result<Self, QuestionError> {
        let target = parse_target(target.trim())?;
        let from = from.map(|text| {
            let address: Result<IpAddr, _> = text.trim().parse();
            address.map_err(|_| QuestionError::From(repeated(text)))
        });
        let from = from.transpose()?.map(|address| address.to_canonical());
        if let (Some(from), Target::Address { address, .. }) = (from, &target)
            && Family::of(from) != Family::of(*address)
        {
            return Err(QuestionError::Families { from, to: *address });
        }
        Ok(Self { target, from })
    }
}

fn parse_target(text: &str) -> Result<Target, QuestionError> {
    let (at, rest) = match text.rsplit_once('/') {
        Some((at, rest)) => (at, Some(rest)),
        None => (text, None),
    };
    if let Ok(at) = at.parse::<SocketAddr>() {
        if at.port() == 0 {
            return Err(QuestionError::PortZero);
        }
        let protocol = match rest.map(str::to_ascii_lowercase) {
            None => Protocol::Tcp,
            Some(name) => name
                .parse()
                .map_err(|_| QuestionError::Protocol(repeated(&name)))?,
        };
        return Ok(Target::Address {
            address: at.ip().to_canonical(),
            port: at.port(),
            protocol,
        });
    }
    if let Some(port) = too_large(at) {
        return Err(QuestionError::PortTooLarge(repeated(port)));
    }
    let bare = at.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Err(QuestionError::NoPort(address, SocketAddr::new(address, 80)));
    }
    match rest {
        Some(name) if is_name(at) && is_name(name) => {
            Ok(Target::Service(ServiceKey::new(at, name)))
        }
        None if is_name(at) => Err(QuestionError::NoNamespace(repeated(at))),
        _ => Err(QuestionError::Unintelligible(repeated(text))),
    }
}

/// The number behind an address and a colon, where it is none that a port can have.
fn too_large(at: &str) -> Option<&str> {
    let (address, port) = at.rsplit_once(':')?;
    let bracketed = address
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let is_address = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => address.parse::<Ipv4Addr>().is_ok(),
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_address && digits && port.parse::<u16>().is_err()).then_some(port)
}

/// Whether it can be the name of an object (RFC 1123, and dots).
fn is_name(text: &str) -> bool {
    let fits = |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
    (1..=253).contains(&text.len()) && text.chars().all(fits)
}

fn repeated(text: &str) -> String {
    text.chars().take(LONGEST_REPEATED).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn questions_are_read() {
        for (text, target) in [
            ("default/web", "default/web"),
            (" default/web ", "default/web"),
            ("192.0.2.200:80", "192.0.2.200:80/tcp"),
            ("192.0.2.200:53/udp", "192.0.2.200:53/udp"),
            ("192.0.2.200:53/SCTP", "192.0.2.200:53/sctp"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80/tcp"),
            ("[2001:db8::1]:80/udp", "[2001:db8::1]:80/udp"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80/tcp"),
        ] {
            let question = Question::parse(text, None).unwrap();
            assert_eq!(question.target.to_string(), target, "{text}");
        }
    }

    #[test]
    fn what_is_no_question_is_told_how_to_write_one() {
        for (text, from, told) in [
            (
                "192.0.2.200",
                None,
                "192.0.2.200 lacks a port: write 192.0.2.200:80",
            ),
            (
                "[2001:db8::1]",
                None,
                "2001:db8::1 lacks a port: write [2001:db8::1]:80",
            ),
            (
                "2001:db8::1",
                None,
                "2001:db8::1 lacks a port: write [2001:db8::1]:80",
            ),
            (
                "192.0.2.200/tcp",
                None,
                "192.0.2.200 lacks a port: write 192.0.2.200:80",
            ),
            (
                "192.0.2.200:0",
                None,
                "port 0 is no port: write a number from 1 to 65535",
            ),
            (
                "192.0.2.200:99999",
                None,
                "99999 is too large for a port: write a number from 1 to 65535",
            ),
            (
                "[2001:db8::1]:65536/udp",
                None,
                "65536 is too large for a port: write a number from 1 to 65535",
            ),
            (
                "192.0.2.200:80/icmp",
                None,
                "\"icmp\" is no protocol: write /tcp, /udp or /sctp",
            ),
            (
                "web",
                None,
                "\"web\" lacks a namespace: write NAMESPACE/NAME, such as default/web",
            ),
            (
                "192.0.2.1:80",
                Some("nobody"),
                "--from \"nobody\" is no IP address: write one such as 203.0.113.9",
            ),
            (
                "192.0.2.1:80",
                Some("2001:db8::1"),
                "--from 2001:db8::1 is IPv6, and 192.0.2.1 is IPv4: name a source of the same family",
            ),
        ] {
            let error = Question::parse(text, from).unwrap_err();
            assert_eq!(error.to_string(), told, "{text}");
        }
        for text in ["", "/", "a/b/c", "default/", "a b/c", "default/\u{1b}[2J"] {
            let error = Question::parse(text, None).unwrap_err();
            assert!(
                matches!(error, QuestionError::Unintelligible(_)),
                "{text}: {error}"
            );
        }
    }
}
