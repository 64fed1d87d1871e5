//! The captured conversations of `tests/fixtures/ipvsadm`, and the changes that were asked for.

use std::net::Ipv4Addr;
use std::path::Path;

use super::super::super::types::*;
use crate::apply::netlink::message::{Kind, Message};

/// One captured conversation: datagrams sent and received, in order.
pub(super) struct Capture {
    pub(super) sent: Vec<Vec<u8>>,
    pub(super) received: Vec<Vec<u8>>,
}

pub(super) fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ipvsadm")
}

pub(super) fn capture(name: &str) -> Capture {
    let text = std::fs::read_to_string(fixtures().join(format!("{name}.txt"))).unwrap();
    let datagrams = |direction: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(direction));
        lines.map(bytes_of_hexadecimal).collect()
    };
    Capture {
        sent: datagrams("> "),
        received: datagrams("< "),
    }
}

pub(super) fn bytes_of_hexadecimal(text: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    text.as_bytes().chunks(2).map(digits).collect()
}

pub(super) fn messages(datagrams: &[Vec<u8>]) -> Vec<Message<'_>> {
    let mut messages = Vec::new();
    for datagram in datagrams {
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let (message, after) = Message::split(rest).unwrap();
            messages.push(message);
            rest = after;
        }
    }
    messages
}

pub(super) fn data(datagrams: &[Vec<u8>], command: u8) -> Vec<&[u8]> {
    let all = messages(datagrams).into_iter();
    let of_command = all.filter(|message| {
        message.kind() == Ok(Kind::Data) && message.payload.first() == Some(&command)
    });
    of_command.map(|message| message.payload).collect()
}

pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn tcp(address: &str, port: u16) -> VirtualServerKey {
    let address = address.parse().unwrap();
    VirtualServerKey::Address {
        protocol: Protocol::Tcp,
        address,
        port,
    }
}

pub(super) fn udp(address: &str) -> VirtualServerKey {
    let address = address.parse().unwrap();
    VirtualServerKey::Address {
        protocol: Protocol::Udp,
        address,
        port: 53,
    }
}

pub(super) fn mark(mark: u32, family: Family) -> VirtualServerKey {
    VirtualServerKey::FirewallMark { mark, family }
}

pub(super) fn key(address: &str, port: u16) -> RealServerKey {
    RealServerKey {
        address: address.parse().unwrap(),
        port,
    }
}

pub(super) fn scheduled(scheduler: &str) -> VirtualServer {
    VirtualServer::new(scheduler)
}

pub(super) fn persistent(scheduler: &str, timeout: u32, granularity: Granularity) -> VirtualServer {
    let persistence = Some(Persistence {
        timeout,
        granularity,
    });
    VirtualServer {
        persistence,
        ..VirtualServer::new(scheduler)
    }
}

pub(super) fn hashed(scheduler: &str) -> VirtualServer {
    let scheduler_flags = SCHEDULER_FLAG_FALLBACK | SCHEDULER_FLAG_PORT;
    VirtualServer {
        scheduler_flags,
        ..VirtualServer::new(scheduler)
    }
}

pub(super) fn masquerade(weight: u32) -> RealServer {
    RealServer::new(ForwardingMethod::Masquerade, weight)
}

pub(super) fn direct(weight: u32) -> RealServer {
    RealServer::new(ForwardingMethod::DirectRouting, weight)
}

pub(super) fn tunnel(kind: TunnelKind, port: u16, flags: u16, weight: u32) -> RealServer {
    RealServer::new(
        ForwardingMethod::Tunnel(Tunnel { kind, port, flags }),
        weight,
    )
}

/// The changes of `commands.txt`, by their name there.
pub(super) fn changes() -> Vec<(&'static str, Change)> {
    use Change::*;
    let mask = Granularity::Ipv4(Ipv4Addr::new(255, 255, 255, 0));
    let web = tcp("192.0.2.10", 80);
    let web6 = tcp("2001:db8::10", 443);
    let maglev = tcp("192.0.2.13", 80);
    let sctp = VirtualServerKey::Address {
        protocol: Protocol::Sctp,
        address: "192.0.2.10".parse().unwrap(),
        port: 3868,
    };
    let thresholds = RealServer {
        upper_threshold: 100,
        lower_threshold: 50,
        ..masquerade(0)
    };
    let one_packet = VirtualServer {
        one_packet: true,
        ..scheduled("rr")
    };
    let host = Granularity::host(Family::Ipv4);
    let host6 = Granularity::host(Family::Ipv6);
    let (mark4, mark6) = (mark(7, Family::Ipv4), mark(8, Family::Ipv6));
    let first = key("10.1.0.1", 8080);
    vec![
        ("tcp4", NewVirtualServer(web, scheduled("rr"))),
        (
            "udp4-persistent",
            NewVirtualServer(udp("192.0.2.10"), persistent("wlc", 600, mask)),
        ),
        (
            "udp4-one-packet",
            NewVirtualServer(udp("192.0.2.11"), one_packet),
        ),
        ("sctp4", NewVirtualServer(sctp, scheduled("lc"))),
        ("tcp6", NewVirtualServer(web6, scheduled("wrr"))),
        (
            "tcp6-persistent",
            NewVirtualServer(
                tcp("2001:db8::11", 443),
                persistent("rr", 300, Granularity::Ipv6(64)),
            ),
        ),
        ("fwmark4", NewVirtualServer(mark4, scheduled("rr"))),
        (
            "fwmark6",
            NewVirtualServer(mark6, persistent("wlc", 50, host6)),
        ),
        (
            "source-hash-flags",
            NewVirtualServer(tcp("192.0.2.12", 80), hashed("sh")),
        ),
        ("maglev-flags", NewVirtualServer(maglev, hashed("mh"))),
        ("real-masquerade", NewRealServer(web, first, masquerade(3))),
        (
            "real-thresholds",
            NewRealServer(web, key("10.1.0.2", 8080), thresholds),
        ),
        (
            "real-direct",
            NewRealServer(mark4, key("10.1.0.3", 0), direct(1)),
        ),
        (
            "real-tunnel",
            NewRealServer(
                maglev,
                key("10.1.0.4", 80),
                tunnel(TunnelKind::Ipip, 0, 0, 2),
            ),
        ),
        (
            "real-gue",
            NewRealServer(
                maglev,
                key("10.1.0.5", 80),
                tunnel(TunnelKind::Gue, 6080, TUNNEL_REMOTE_CHECKSUM, 2),
            ),
        ),
        (
            "real-gre",
            NewRealServer(
                maglev,
                key("10.1.0.6", 80),
                tunnel(TunnelKind::Gre, 0, TUNNEL_CHECKSUM, 2),
            ),
        ),
        (
            "real6-masquerade",
            NewRealServer(web6, key("2001:db8:1::1", 8443), masquerade(5)),
        ),
        (
            "real-mixed-family",
            NewRealServer(
                maglev,
                key("2001:db8:1::2", 80),
                tunnel(TunnelKind::Ipip, 0, 0, 1),
            ),
        ),
        (
            "real-fwmark6",
            NewRealServer(mark6, key("2001:db8:1::3", 0), direct(1)),
        ),
        (
            "real-of-node",
            NewRealServer(web, key("127.0.0.1", 8080), masquerade(1)),
        ),
        (
            "edit-virtual",
            SetVirtualServer(web, persistent("wrr", 120, host)),
        ),
        ("edit-real", SetRealServer(web, first, masquerade(0))),
        ("zero-one", ZeroStatistics(Some(web))),
        ("zero-all", ZeroStatistics(None)),
        ("delete-real", DeleteRealServer(web, first)),
        ("delete-virtual", DeleteVirtualServer(web)),
        ("delete-virtual6", DeleteVirtualServer(web6)),
        ("delete-fwmark", DeleteVirtualServer(mark4)),
        ("delete-fwmark6", DeleteVirtualServer(mark6)),
        ("delete-missing", DeleteVirtualServer(tcp("192.0.2.99", 80))),
    ]
}
