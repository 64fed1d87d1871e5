//! Which messages a change of the fence becomes, in which order, and what each kernel is given to hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::edits::between;
use super::rules;
use super::shape::{ARP, NETDEV, Tables};
use super::{Fenced, TIMEOUT, requests};
use crate::apply::nftables::encode::message;

const BOTH: Tables = Tables {
    egress: true,
    arp: true,
    ..Tables::NONE
};
const ARP_ALONE: Tables = Tables {
    egress: false,
    arp: true,
    ..Tables::NONE
};

fn fenced(vips: &[&str], owned: &[&str]) -> Fenced {
    let parse = |texts: &[&str]| {
        let addresses = texts.iter().map(|it| it.parse::<IpAddr>().unwrap());
        addresses.collect()
    };
    Fenced {
        interfaces: BTreeMap::from([(7, "eth0".to_owned())]),
        vips: parse(vips),
        owned: parse(owned),
    }
}

/// Message type and family of each request.
fn kinds(old: &Fenced, new: &Fenced, tables: Tables) -> Vec<(u16, u8)> {
    let requests = between(old, new, tables).element_requests();
    let kind = |request: &[u8]| (u16::from(request[4]), request[16]);
    requests.iter().map(|it| kind(it.as_ref())).collect()
}

#[test]
fn what_falls_silent_comes_first_and_what_may_speak_last() {
    let old = fenced(&["192.0.2.1", "192.0.2.2"], &["192.0.2.1"]);
    let new = fenced(&["192.0.2.1", "192.0.2.3"], &["192.0.2.3"]);
    let (remove, add) = (message::DELETE_ELEMENT, message::NEW_ELEMENT);
    let expected = [
        (remove, NETDEV), // 192.0.2.1 is not owned any more
        (add, ARP),       // 192.0.2.3 is fenced
        (add, NETDEV),
        (add, NETDEV), // and owned
        (remove, ARP), // 192.0.2.2 is no VIP any more
        (remove, NETDEV),
    ];
    assert_eq!(kinds(&old, &new, BOTH), expected);
    assert_eq!(kinds(&old, &old.clone(), BOTH), []);
}

#[test]
fn each_family_stands_where_it_is_judged() {
    let none = fenced(&[], &[]);
    let six = fenced(&["2001:db8::1"], &["2001:db8::1"]);
    let add = message::NEW_ELEMENT;
    assert_eq!(kinds(&none, &six, BOTH), [(add, NETDEV); 2]);
    // Without the egress hook nothing can be said about IPv6, and all about IPv4 in one table.
    assert_eq!(kinds(&none, &six, ARP_ALONE), []);
    let four = fenced(&["192.0.2.1"], &["192.0.2.1"]);
    assert_eq!(kinds(&none, &four, ARP_ALONE), [(add, ARP); 2]);
    assert_eq!(kinds(&none, &four, Tables::NONE), []);
}

#[test]
fn the_tables_hold_what_the_kernel_can() {
    let all = fenced(&["192.0.2.1", "2001:db8::1"], &["192.0.2.1"]);
    let tables = BOTH.of(&all);
    assert_eq!(
        tables.iter().map(|it| it.family).collect::<Vec<_>>(),
        [NETDEV, ARP]
    );
    let chains = |index: usize| tables[index].clone().into_contents().chains;
    assert_eq!(
        chains(0)["egress_7"].hook.as_ref().unwrap().devices,
        ["eth0"]
    );
    assert_eq!(chains(0)["renew"].hook.as_ref().unwrap().devices, ["lo"]);
    assert_eq!(chains(1).keys().collect::<Vec<_>>(), ["input"]);
    let arp = ARP_ALONE.of(&all);
    let contents = arp[0].clone().into_contents();
    assert_eq!(
        contents.chains.keys().collect::<Vec<_>>(),
        ["input", "output"]
    );
    assert_eq!(contents.sets["owned4"].1.len(), 1);
    assert_eq!(contents.sets["interfaces"].1.len(), 1);
    assert!(Tables::NONE.of(&all).is_empty());
}

#[test]
fn chains_follow_interfaces_by_index_and_name() {
    let table = |interfaces: &[(u32, &str)]| {
        let named = interfaces
            .iter()
            .map(|(index, name)| (*index, (*name).to_owned()));
        rules::egress(&named.collect(), TIMEOUT)
    };
    let observed = table(&[(7, "eth0"), (8, "eth1")])
        .clone()
        .into_contents()
        .chains;
    let changes = |interfaces: &[(u32, &str)]| {
        let requests = requests::of_chains(&observed, &table(interfaces));
        let kinds = requests.iter().map(|it| u16::from(it.as_ref()[4]));
        kinds.collect::<Vec<u16>>()
    };
    let (remove, add, rule) = (message::DELETE_CHAIN, message::NEW_CHAIN, message::NEW_RULE);
    assert_eq!(changes(&[(7, "eth0"), (8, "eth1")]), [0_u16; 0]);
    assert_eq!(changes(&[(7, "eth0")]), [remove]);
    assert_eq!(changes(&[(7, "eth0"), (8, "uplink")]), [remove, add, rule]);
    assert_eq!(changes(&[(7, "eth0"), (9, "eth1")]), [remove, add, rule]);
}

#[test]
fn a_key_is_as_long_as_its_address() {
    for (address, length) in [("192.0.2.1", 4), ("2001:db8::1", 16)] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(super::shape::Key::of(address).as_slice().len(), length);
    }
}
