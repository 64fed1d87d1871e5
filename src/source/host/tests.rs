//! Links, addresses, gateways and resolvers as the kernel and a file tell them, whole and broken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use proptest::prelude::*;

use super::message::{INET, INET6, address, gateways, interface};
use super::resolver::parse;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn link(kind: u16, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(attributes.concat());
    bytes
}

#[test]
fn a_link_runs_when_it_is_up_and_has_carrier() {
    let attributes = [attribute(3, b"eth0\0"), attribute(1, &[2, 0, 0, 0, 0, 1])];
    for (flags, running) in [
        (0x1_0043, true),
        (0x1_0042, false),
        (0x1003, false),
        (0x1_0003, false),
    ] {
        let interface = interface(&link(1, flags, &attributes)).unwrap();
        assert_eq!(interface.running, running, "{flags:#x}");
        assert_eq!((interface.index, interface.name.as_str()), (7, "eth0"));
        assert_eq!(interface.mac, Some([2, 0, 0, 0, 0, 1]));
        assert!(!interface.loopback);
    }
    // A tunnel's address is no Ethernet address, though it can have six bytes.
    assert_eq!(interface(&link(778, 1, &attributes)).unwrap().mac, None);
    assert!(interface(&link(772, 0x9, &attributes)).unwrap().loopback);
    assert_eq!(interface(&link(1, 1, &[])), None);
}

#[test]
fn tentative_and_duplicate_addresses_are_left_out() {
    let read = |header_flags: u8, flags: Option<u32>| {
        let mut bytes = vec![INET6, 64, header_flags, 0, 7, 0, 0, 0];
        bytes.extend(attribute(1, &[0xfd; 16]));
        if let Some(flags) = flags {
            bytes.extend(attribute(8, &flags.to_ne_bytes()));
        }
        address(&bytes, INET6).is_some()
    };
    assert!(read(0x80, None));
    assert!(!read(0x40, None));
    assert!(!read(0x08, Some(0x08)));
    assert!(!read(0x40, Some(0x440)));
    assert!(read(0x80, Some(0x280)));
}

#[test]
fn a_point_to_point_link_has_its_own_address_not_the_other_s() {
    let mut bytes = vec![INET, 32, 0x80, 0, 7, 0, 0, 0];
    bytes.extend(attribute(1, &[10, 0, 0, 2]));
    bytes.extend(attribute(2, &[10, 0, 0, 1]));
    let expected = (7, "10.0.0.1/32".parse().unwrap());
    assert_eq!(address(&bytes, INET), Some(expected));
    assert_eq!(address(&bytes, INET6), None);
}

#[test]
fn every_gateway_of_a_main_route_is_found() {
    let route = |table: u8, attributes: &[Vec<u8>]| {
        let mut bytes = vec![INET, 0, 0, 0, table, 3, 0, 1, 0, 0, 0, 0];
        bytes.extend(attributes.concat());
        gateways(&bytes, INET)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let gateway = attribute(5, &[10, 0, 0, 254]);
    assert_eq!(route(254, std::slice::from_ref(&gateway)), ["10.0.0.254"]);
    assert!(route(255, &[gateway]).is_empty());
    let hop = |address: [u8; 4]| {
        let mut bytes = vec![16, 0, 0, 0, 2, 0, 0, 0];
        bytes.extend(attribute(5, &address));
        bytes
    };
    let hops = [hop([10, 0, 0, 1]), hop([10, 0, 0, 2])].concat();
    assert_eq!(route(254, &[attribute(9, &hops)]), ["10.0.0.1", "10.0.0.2"]);
    let via = [&[10, 0][..], &[0xfd; 16]].concat();
    assert_eq!(
        route(254, &[attribute(18, &via)]),
        ["fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd"]
    );
}

#[test]
fn name_servers_are_read_as_resolv_conf_5_says() {
    let text = "# nameserver 9.9.9.9\nsearch example.net\nnameserver 192.0.2.53\n\
        nameserver\t2001:db8::53  \nnameserver fe80::1%eth0\nnameserver 127.0.0.53\n\
        nameserver ::1\nnameserver\nnameserver nonsense\nnameserver 0.0.0.0\n";
    let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.0.2.53", "2001:db8::53", "fe80::1"]);
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_panic(payload in prop::collection::vec(any::<u8>(), 0..100)) {
        interface(&payload);
        let mut payload = payload;
        for family in [INET, INET6] {
            if let Some(first) = payload.first_mut() {
                *first = family;
            }
            address(&payload, family);
            if let Some(table) = payload.get_mut(4) {
                *table = 254;
            }
            gateways(&payload, family);
        }
    }

    #[test]
    fn no_hops_make_the_reader_panic(hops in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut bytes = vec![INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        bytes.extend(attribute(9, &hops));
        gateways(&bytes, INET);
    }
}
