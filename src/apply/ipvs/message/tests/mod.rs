//! Against what ipvsadm says to a kernel and hears from it (`tests/fixtures/ipvsadm`), and against
//! bytes that nobody would send.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod captured;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::super::types::*;
use super::*;
use crate::apply::netlink::message::{Kind, Message, RequestError, append};
use captured::*;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// The number that the capture's kernel gave the family.
const FAMILY: u16 = 0x22;

/// As the transport would send it, but with the sequence number 0 of the fixtures.
fn sent(request: &[u8], flags: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, request, 0, flags).unwrap();
    bytes
}

#[test]
fn every_change_has_the_bytes_of_ipvsadm() {
    for (name, change) in changes() {
        let ours = sent(
            &Encoder::new(FAMILY).change(&change),
            NLM_F_REQUEST | NLM_F_ACK,
        );
        let theirs = capture(name).sent;
        assert_eq!(theirs.len(), 1, "{name}");
        assert_eq!(hexadecimal(&ours), hexadecimal(&theirs[0]), "{name}");
    }
}

#[test]
fn every_captured_command_is_compared() {
    let commands = std::fs::read_to_string(fixtures().join("commands.txt")).unwrap();
    let names = commands.lines().filter(|line| !line.starts_with('#'));
    let captured: BTreeSet<_> = names.map(|line| line.split_once(':').unwrap().0).collect();
    let requests = [
        "info",
        "list",
        "list-one",
        "list-statistics",
        "timeouts-set",
        "timeouts-get",
    ];
    let compared: BTreeSet<_> = changes()
        .into_iter()
        .map(|(name, _)| name)
        .chain(requests)
        .collect();
    assert_eq!(captured, compared);
}

#[test]
fn requests_have_the_bytes_of_ipvsadm() {
    let encoder = Encoder::new(FAMILY);
    // ipvsadm asks for an acknowledgement of dumps too, which the kernel never gives.
    let (once, all) = (
        NLM_F_REQUEST | NLM_F_ACK,
        NLM_F_REQUEST | NLM_F_ACK | NLM_F_DUMP,
    );
    let maglev = tcp("192.0.2.13", 80);
    let new = Timeouts {
        tcp: 900,
        tcp_fin: 120,
        udp: 300,
    };
    let cases = [
        ("info", 0, sent(&get_family("IPVS"), once)),
        ("info", 2, sent(&encoder.get_capabilities(), once)),
        ("list", 0, sent(&encoder.get_virtual_servers(), all)),
        (
            "list",
            1,
            sent(&encoder.get_real_servers(&tcp("192.0.2.10", 80)), all),
        ),
        (
            "list-one",
            0,
            sent(&encoder.get_virtual_server(&maglev), once),
        ),
        ("list-one", 1, sent(&encoder.get_real_servers(&maglev), all)),
        ("timeouts-set", 0, sent(&encoder.set_timeouts(new), once)),
        ("timeouts-get", 0, sent(&encoder.get_timeouts(), once)),
    ];
    for (name, index, ours) in cases {
        assert_eq!(
            hexadecimal(&ours),
            hexadecimal(&capture(name).sent[index]),
            "{name} {index}"
        );
    }
}

#[test]
fn small_replies_are_read() {
    let info = capture("info");
    assert_eq!(family(data(&info.received, 1)[0]), Ok(FAMILY));
    let expected = Capabilities {
        version: (1, 2, 1),
        connection_table_size: 4096,
    };
    assert_eq!(capabilities(data(&info.received, 14)[0]), Ok(expected));
    let expected = Timeouts {
        tcp: 900,
        tcp_fin: 120,
        udp: 300,
    };
    assert_eq!(
        timeouts(data(&capture("timeouts-get").received, 12)[0]),
        Ok(expected)
    );
}

#[test]
fn a_refusal_of_the_kernel_is_read() {
    let missing = capture("delete-missing");
    let kind = messages(&missing.received)[0].kind();
    assert_eq!(
        kind,
        Ok(Kind::Acknowledgement(Err(RequestError::from_errno(3))))
    );
}

/// What the kernel reports of a virtual server is what was asked for, its own flag masked.
#[test]
fn a_dump_of_virtual_servers_gives_what_was_made() {
    let list = capture("list");
    let replies = data(&list.received, command::NEW_SERVICE);
    let observed: Vec<_> = replies
        .iter()
        .map(|bytes| virtual_server(bytes).unwrap())
        .collect();
    let mut made = Vec::new();
    for (_, change) in changes() {
        match change {
            Change::NewVirtualServer(key, server) => made.push((key, server)),
            Change::SetVirtualServer(key, server) => {
                made.retain(|(other, _)| *other != key);
                made.push((key, server));
            }
            _ => {}
        }
    }
    assert_eq!(observed.len(), made.len());
    for server in observed {
        let expected = made.iter().find(|(key, _)| *key == server.key).unwrap();
        assert_eq!(server.virtual_server, expected.1, "{}", server.key);
        assert_eq!(server.statistics, Statistics::default());
    }
}

#[test]
fn a_dump_of_real_servers_gives_what_was_made() {
    let maglev = tcp("192.0.2.13", 80);
    let list = capture("list-one");
    let replies = data(&list.received, command::NEW_DEST);
    let mut observed: Vec<_> = replies
        .iter()
        .map(|bytes| real_server(bytes, Family::Ipv4).unwrap())
        .map(|observed| (observed.key, observed.real_server))
        .collect();
    observed.sort_by_key(|(key, _)| *key);
    let mut made: Vec<_> = changes()
        .into_iter()
        .filter_map(|(_, change)| match change {
            Change::NewRealServer(of, key, server) if of == maglev => Some((key, server)),
            _ => None,
        })
        .collect();
    made.sort_by_key(|(key, _)| *key);
    assert_eq!(observed, made);
}

#[test]
fn counters_of_both_widths_are_read() {
    let list = capture("list-one");
    let mut wide = data(&list.received, command::NEW_DEST)[0].to_vec();
    let at = |kind: u8, length: u8| [length, 0, kind, 0];
    let find =
        |bytes: &[u8], what: [u8; 4]| bytes.windows(4).position(|window| window == what).unwrap();
    // The 64-bit nest comes last: its first counter is of connections.
    let start = find(&wide, at(12, 0x7c));
    wide[start + 8..start + 16].copy_from_slice(&(1_u64 << 40).to_ne_bytes());
    assert_eq!(
        real_server(&wide, Family::Ipv4)
            .unwrap()
            .statistics
            .connections,
        1 << 40
    );
    // Without it, the mixed one is read.
    wide[start + 2] = 99;
    let start = find(&wide, at(10, 0x5c));
    wide[start + 8..start + 12].copy_from_slice(&77_u32.to_ne_bytes());
    assert_eq!(
        real_server(&wide, Family::Ipv4)
            .unwrap()
            .statistics
            .connections,
        77
    );
}

#[test]
fn what_is_cut_short_or_unknown_is_an_error() {
    let list = capture("list-one");
    let server = data(&list.received, command::NEW_SERVICE)[0];
    for length in 0..server.len() {
        assert!(virtual_server(&server[..length]).is_err(), "{length}");
    }
    let real = data(&list.received, command::NEW_DEST)[0];
    for length in 0..real.len() {
        assert!(
            real_server(&real[..length], Family::Ipv4).is_err(),
            "{length}"
        );
    }
    let mut foreign = server.to_vec();
    foreign[12] = 77;
    let unknown = MalformedReply::Unknown {
        attribute: "address family",
        value: 77,
    };
    assert_eq!(virtual_server(&foreign), Err(unknown));
}

/// A request for a new virtual server and the kernel's report of one differ in the statistics.
fn with_statistics(request: &[u8]) -> Vec<u8> {
    let list = capture("list-one");
    let report = data(&list.received, command::NEW_SERVICE)[0];
    let start = report
        .windows(4)
        .position(|window| window == [0x5c, 0, 10, 0])
        .unwrap();
    let mut payload = request[16..].to_vec();
    payload.extend_from_slice(&report[start..]);
    let length = u16::try_from(payload.len() - 4).unwrap();
    payload[4..6].copy_from_slice(&length.to_ne_bytes());
    payload
}

fn any_key() -> impl Strategy<Value = VirtualServerKey> {
    let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let family = prop::sample::select(vec![Family::Ipv4, Family::Ipv6]);
    prop_oneof![
        (protocol, any::<IpAddr>(), any::<u16>()).prop_map(|(protocol, address, port)| {
            VirtualServerKey::Address {
                protocol,
                address,
                port,
            }
        }),
        (1_u32.., family)
            .prop_map(|(mark, family)| VirtualServerKey::FirewallMark { mark, family }),
    ]
}

proptest! {
    #[test]
    fn a_virtual_server_survives_the_round_trip(
        key in any_key(), scheduler in "[a-z]{1,15}", scheduler_flags in 0_u32..8,
        one_packet in any::<bool>(), timeout in any::<Option<u32>>(), mask in any::<u32>(),
    ) {
        let granularity = match key.family() {
            Family::Ipv4 => Granularity::Ipv4(mask.into()),
            Family::Ipv6 => Granularity::Ipv6(mask.to_ne_bytes()[0]),
        };
        let persistence = timeout.map(|timeout| Persistence { timeout, granularity });
        let server =
            VirtualServer { scheduler, scheduler_flags: scheduler_flags << 3, one_packet, persistence };
        let request = Encoder::new(FAMILY).change(&Change::NewVirtualServer(key, server.clone()));
        let observed = virtual_server(&with_statistics(&request)).unwrap();
        prop_assert_eq!((observed.key, observed.virtual_server), (key, server));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        decode_all(&bytes);
    }

    #[test]
    fn no_changed_reply_makes_a_decoder_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)
    ) {
        let list = capture("list-one");
        for message in messages(&list.received) {
            let mut bytes = message.payload.to_vec();
            for (index, value) in &edits {
                let index = index.index(bytes.len());
                bytes[index] = *value;
            }
            decode_all(&bytes);
        }
    }

    #[test]
    fn every_encoded_request_is_a_whole_message(
        key in any_key(), scheduler in any::<String>(), weight in any::<u32>(),
    ) {
        let real = RealServerKey { address: Ipv4Addr::LOCALHOST.into(), port: 1 };
        let encoder = Encoder::new(FAMILY);
        for change in [
            Change::NewVirtualServer(key, VirtualServer::new(&scheduler)),
            Change::SetRealServer(key, real, masquerade(weight)),
        ] {
            let bytes = sent(&encoder.change(&change), 0);
            let (message, rest) = Message::split(&bytes).unwrap();
            prop_assert_eq!(rest.len(), 0);
            prop_assert_eq!(message.payload.len() % 4, 0);
        }
    }
}

fn decode_all(bytes: &[u8]) {
    let _ = family(bytes);
    let _ = capabilities(bytes);
    let _ = timeouts(bytes);
    let _ = virtual_server(bytes);
    let _ = real_server(bytes, Family::Ipv4);
}
