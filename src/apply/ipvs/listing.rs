//! `/proc/net/ip_vs`: all virtual servers with all their real servers in one reading.
//!
//! One cheap look at everything, for people and as a second opinion. It lacks statistics and the
//! family of a firewall mark, and it is not complete: where other network namespaces have virtual
//! servers too, Linux 6.12 leaves some out at each page of the file (of 1,000 four were missing
//! beside 5 foreign ones, 66 beside 105), because it counts the foreign ones only when it goes
//! on, not when it takes up again. So nothing may be concluded from what is missing here;
//! [`super::Ipvs::inventory`] is complete. Must not guess: a line not understood is an error.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::{Connections, Protocol, RealServerKey};

/// Of this thread's network namespace, which need not be the process'.
const PATH: &str = "/proc/thread-self/net/ip_vs";
/// More than the kernel gives at once (a page).
const PIECE_BYTES: usize = 64 << 10;

/// A virtual server's identity as far as the file tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ListedKey {
    Address {
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    },
    FirewallMark(u32),
}

/// How a listed real server is reached; the file does not tell tunnels apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ListedForwarding {
    Masquerade,
    Local,
    Tunnel,
    DirectRouting,
    Bypass,
}

/// A virtual server of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVirtualServer {
    pub key: ListedKey,
    pub scheduler: String,
    pub one_packet: bool,
    pub persistent: bool,
    /// In the file's order.
    pub real_servers: Vec<ListedRealServer>,
}

/// A real server of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedRealServer {
    pub key: RealServerKey,
    pub forwarding: ListedForwarding,
    pub weight: u32,
    /// `persistent` is not told and 0.
    pub connections: Connections,
}

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    #[error("cannot read {PATH}; is the module ip_vs loaded?")]
    Read(#[from] io::Error),
    #[error("line {line} of ip_vs is not understood: {text:?}")]
    Malformed { line: usize, text: String },
}

/// Reads the listing of this thread's network namespace.
pub fn read() -> Result<Vec<ListedVirtualServer>, ListingError> {
    // In large pieces: each new start costs entries, where other namespaces have some too, and the
    // standard library's own reading begins with a small one.
    let mut file = File::open(PATH)?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        bytes.extend_from_slice(piece.get(..length).unwrap_or_default());
    }
    parse(&String::from_utf8_lossy(&bytes))
}

/// Parses the text of the file.
pub fn parse(text: &str) -> Result<Vec<ListedVirtualServer>, ListingError> {
    let mut servers: Vec<ListedVirtualServer> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let malformed = || ListingError::Malformed {
            line: index + 1,
            text: line.chars().take(120).collect(),
        };
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            // The three lines of heading.
            ["IP", "Virtual", "Server", ..] | ["Prot", ..] | ["->", "RemoteAddress:Port", ..] => {}
            ["->", words @ ..] => {
                let server = real_server(words).ok_or_else(malformed)?;
                servers
                    .last_mut()
                    .ok_or_else(malformed)?
                    .real_servers
                    .push(server);
            }
            [protocol, key, scheduler, options @ ..] => {
                let key = listed_key(protocol, key).ok_or_else(malformed)?;
                let (one_packet, options) = match options {
                    ["ops", rest @ ..] => (true, rest),
                    rest => (false, rest),
                };
                let persistent = match options {
                    [] => false,
                    ["persistent", _timeout_in_jiffies, _netmask] => true,
                    _ => return Err(malformed()),
                };
                servers.push(ListedVirtualServer {
                    key,
                    scheduler: (*scheduler).to_owned(),
                    one_packet,
                    persistent,
                    real_servers: Vec::new(),
                });
            }
            _ => return Err(malformed()),
        }
    }
    Ok(servers)
}

fn listed_key(protocol: &str, key: &str) -> Option<ListedKey> {
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "FWM" => return hexadecimal(key, 8).map(ListedKey::FirewallMark),
        _ => return None,
    };
    let (address, port) = address_and_port(key)?;
    Some(ListedKey::Address {
        protocol,
        address,
        port,
    })
}

fn real_server(words: &[&str]) -> Option<ListedRealServer> {
    let &[place, forwarding, weight, active, inactive] = words else {
        return None;
    };
    let (address, port) = address_and_port(place)?;
    let forwarding = match forwarding {
        "Masq" => ListedForwarding::Masquerade,
        "Local" => ListedForwarding::Local,
        "Tunnel" => ListedForwarding::Tunnel,
        "Route" => ListedForwarding::DirectRouting,
        "Bypass" => ListedForwarding::Bypass,
        _ => return None,
    };
    Some(ListedRealServer {
        key: RealServerKey { address, port },
        forwarding,
        weight: weight.parse().ok()?,
        connections: Connections {
            active: active.parse().ok()?,
            inactive: inactive.parse().ok()?,
            persistent: 0,
        },
    })
}

/// `C000020A:0050` or `[2001:0db8:…]:01BB`.
fn address_and_port(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    let port = u16::try_from(hexadecimal(port, 4)?).ok()?;
    let address = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?.into(),
        None => Ipv4Addr::from(hexadecimal(address, 8)?).into(),
    };
    Some((address, port))
}

/// Exactly `digits` hexadecimal digits.
fn hexadecimal(text: &str, digits: usize) -> Option<u32> {
    let whole = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if whole {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )]

    use proptest::prelude::*;

    use super::*;

    const CAPTURED: &str = include_str!("../../../tests/fixtures/ipvsadm/proc_net_ip_vs.txt");

    fn find(servers: &[ListedVirtualServer], key: ListedKey) -> &ListedVirtualServer {
        servers.iter().find(|server| server.key == key).unwrap()
    }

    fn address(protocol: Protocol, address: &str, port: u16) -> ListedKey {
        ListedKey::Address {
            protocol,
            address: address.parse().unwrap(),
            port,
        }
    }

    #[test]
    fn all_of_the_captured_file_is_read() {
        let servers = parse(CAPTURED).unwrap();
        assert_eq!(servers.len(), 10);
        let counts: usize = servers.iter().map(|server| server.real_servers.len()).sum();
        assert_eq!(counts, 10);
        let web = find(&servers, address(Protocol::Tcp, "192.0.2.10", 80));
        assert_eq!(
            (web.scheduler.as_str(), web.persistent, web.one_packet),
            ("wrr", true, false)
        );
        let keys: Vec<_> = web
            .real_servers
            .iter()
            .map(|server| server.key.to_string())
            .collect();
        assert_eq!(keys, ["127.0.0.1:8080", "10.1.0.2:8080", "10.1.0.1:8080"]);
        let web6 = find(&servers, address(Protocol::Tcp, "2001:db8::10", 443));
        let expected = ListedRealServer {
            key: RealServerKey {
                address: "2001:db8:1::1".parse().unwrap(),
                port: 8443,
            },
            forwarding: ListedForwarding::Masquerade,
            weight: 5,
            connections: Connections::default(),
        };
        assert_eq!(web6.real_servers, [expected]);
        assert!(find(&servers, address(Protocol::Udp, "192.0.2.11", 53)).one_packet);
        assert_eq!(find(&servers, ListedKey::FirewallMark(8)).scheduler, "wlc");
        let maglev = find(&servers, address(Protocol::Tcp, "192.0.2.13", 80));
        assert!(maglev.real_servers[0].key.address.is_ipv6());
        assert!(servers.iter().any(|server| matches!(
            server.key,
            ListedKey::Address {
                protocol: Protocol::Sctp,
                port: 3868,
                ..
            }
        )));
    }

    #[test]
    fn connections_are_read() {
        let text =
            "TCP  C000020A:0050 rr  \n  -> 0A010001:1F90      Masq    7      12         34  \n";
        let server = parse(text).unwrap()[0].real_servers[0];
        let connections = Connections {
            active: 12,
            inactive: 34,
            persistent: 0,
        };
        assert_eq!((server.weight, server.connections), (7, connections));
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error_with_its_number() {
        for line in [
            "TCP  C000020A:0050",
            "TCP  C000020A rr",
            "TCP  C00020A:0050 rr",
            "TCP  +000020A:0050 rr",
            "TCP  C000020A:10050 rr",
            "TCP  [2001:db8::1:01BB rr",
            "ICMP  C000020A:0050 rr",
            "FWM  7 rr",
            "TCP  C000020A:0050 rr persistent",
            "TCP  C000020A:0050 rr later",
            "  -> 0A010001:1F90      Masq    1      0",
            "  -> 0A010001:1F90      Teleport    1      0      0",
            "  -> 0A010001:1F90      Masq    -1      0      0",
            "nonsense",
            "",
        ] {
            let text = format!("TCP  C000020A:0050 rr  \n{line}\n");
            match parse(&text) {
                Err(ListingError::Malformed { line: 2, text }) => assert_eq!(text, line),
                other => panic!("{line:?}: {other:?}"),
            }
        }
        let orphan = "  -> 0A010001:1F90      Masq    1      0          0         ";
        assert!(parse(orphan).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn no_changed_character_makes_the_parser_panic(
            index in any::<prop::sample::Index>(), character in any::<char>()
        ) {
            let mut characters: Vec<char> = CAPTURED.chars().collect();
            let index = index.index(characters.len());
            characters[index] = character;
            let _ = parse(&characters.into_iter().collect::<String>());
        }
    }
}
